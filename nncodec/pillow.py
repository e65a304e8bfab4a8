"""Pillow reads and writes .aec: ``import nncodec.pillow`` is all it takes.

>>> import nncodec.pillow
>>> Image.open("photo.aec").resize((200, 150)).save("small.aec", quality=40)

Opening reads header and metadata only; the network runs when pixels are asked for. What is wrong with a
file is an OSError, as Pillow's users expect, with the error of `nncodec.errors` as its cause.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import IO, Any

from PIL import Image, ImageFile, UnidentifiedImageError

from nncodec import container
from nncodec.config import QUALITIES
from nncodec.container import Color, Entry, SectionType
from nncodec.errors import FormatError, InputError, NncodecError
from nncodec.metadata import EXIF_PREFIX

FORMAT = "AEC"
MIME = "image/x-aec"
SUFFIX = ".aec"
_INFO = {SectionType.ICC: "icc_profile", SectionType.EXIF: "exif", SectionType.XMP: "xmp"}
_UNLIMITED = container.SIDE_MAX**2
"""Pillow's own limit has been applied when a file is loaded."""
_METADATA_STOP = 4 * container.METADATA_MAX
"""Where metadata must end for `open` to read it."""


def _accept(prefix: bytes) -> bool:
    return prefix.startswith(container.MAGIC)


class AecImageFile(ImageFile.ImageFile):
    """An .aec file of mode L, LA, RGB, RGBA or I;16; of other 16-bit pictures Pillow gets the upper 8 bits, rounded.

    `info` has 'bit_depth', 'quality', 'model_id' (hex) and, where the file has them, 'icc_profile', 'exif' and 'xmp'.
    With ``ImageFile.LOAD_TRUNCATED_IMAGES`` a damaged file loads as far as it is intact.
    """

    format = FORMAT
    format_description = "nncodec image"
    _pending = False

    def _open(self) -> None:
        try:
            head = self._read_table()
            header, entries = container.parse_header(head, _UNLIMITED, whole=False)
        except FormatError as error:
            raise UnidentifiedImageError(f"cannot identify image file {self.filename!r}: {error}") from error
        has_alpha = any(entry.type is SectionType.ALPHA for entry in entries)
        self._mode = ("L" if header.color is Color.GREY else "RGB") + ("A" if has_alpha else "")
        if header.bit_depth == 16 and self._mode == "L":
            self._mode = "I;16"
        self._size = header.width, header.height
        self.info["bit_depth"] = header.bit_depth
        self.info["quality"] = header.quality
        self.info["model_id"] = header.model_id.hex()
        self._read_metadata(head, entries)
        self._pending = True

    def _read_table(self) -> bytes:
        assert self.fp is not None
        head = self.fp.read(container.HEADER_SIZE)
        if len(head) == container.HEADER_SIZE:
            head += self.fp.read(container.table_end(head) - len(head))
        return head

    def _read_metadata(self, data: bytes, entries: list[Entry]) -> None:
        """ICC, EXIF and XMP into `info`; a damaged one is left to `load` and `verify` to tell."""
        assert self.fp is not None
        blocks = [i for i, entry in enumerate(entries[: len(SectionType)]) if entry.type in _INFO]
        stop = max((entries[i].offset + entries[i].length for i in blocks), default=0)
        if blocks and stop <= _METADATA_STOP:
            data += self.fp.read(stop - len(data))
        for i in blocks:
            kind = entries[i].type
            with suppress(FormatError):
                block = container.inflate(container.payload(data, entries, i), kind.name.lower())
                self.info[_INFO[kind]] = EXIF_PREFIX + block if kind is SectionType.EXIF else block

    def load(self) -> Any:
        """Decode on first use. Raises OSError if the file is damaged or its weights are not installed."""
        if self._pending:
            from nncodec import codec

            data = self._read_all()
            try:
                picture = codec.decompress(data, max_pixels=_UNLIMITED, partial=ImageFile.LOAD_TRUNCATED_IMAGES)
            except NncodecError as error:
                raise OSError(f"{self._name()}{error}") from error
            image = replace(picture, icc=None, exif=None, xmp=None).to_pil()
            self.im = image.im
            self.readonly = 0
            self._pending = False
            if self._exclusive_fp and self.fp:
                self.fp.close()
            self.fp = None
        return super().load()

    def verify(self) -> None:
        """Check every CRC, without decoding. Raises OSError; as with every format, open the file anew then."""
        if self._pending:
            data = self._read_all()
            try:
                container.parse(data, _UNLIMITED)
            except FormatError as error:
                raise OSError(f"{self._name()}{error}") from error
        super().verify()

    def _read_all(self) -> bytes:
        if self.fp is None:
            raise OSError(f"{self._name()}the file was closed before its pixels were read")
        self.fp.seek(0)
        return self.fp.read()

    def _name(self) -> str:
        name = self.filename.decode(errors="replace") if isinstance(self.filename, bytes) else self.filename
        return f"{name}: " if name else ""


def _save(image: Image.Image, fp: IO[bytes], filename: str | bytes) -> None:
    """``image.save(fp, quality=50, effort=1, model=None, device=None, exif=, icc_profile=, xmp=)``.

    quality, effort, model and device are those of `nncodec.compress`; exif is bytes or `Image.Exif`, xmp
    bytes or str. Metadata not given is that of ``image.info``; empty or None leaves one out. Everything is
    encoded before the first byte is written. Raises ValueError for an option out of range, else OSError.
    """
    from nncodec import codec, effort, picture

    options = image.encoderinfo
    quality, level = options.get("quality", 50), options.get("effort", effort.DEFAULT)
    if isinstance(quality, bool) or not isinstance(quality, int) or not 1 <= quality <= QUALITIES:
        raise ValueError(f"quality is {quality!r}; it must be a whole number from 1 to {QUALITIES}")
    if level not in effort.LEVELS:
        raise ValueError(f"effort is {level!r}; the levels are {', '.join(map(str, effort.LEVELS))}")
    try:
        source = picture.from_pil(image)
        source = replace(
            source,
            icc=_block(options, "icc_profile", source.icc),
            exif=_block(options, "exif", source.exif),
            xmp=_block(options, "xmp", source.xmp),
        )
        data = codec.compress(source, quality, options.get("model"), effort=level, device=options.get("device"))
    except InputError as error:
        raise OSError(f"cannot write mode {image.mode} as {FORMAT}: {error}") from error
    except NncodecError as error:
        raise OSError(f"cannot write {FORMAT}: {error}") from error
    fp.write(data)


def _block(options: dict[str, Any], key: str, default: bytes | None) -> bytes | None:
    """Metadata as callers of Pillow give it. Raises ValueError."""
    value = options.get(key, default)
    if isinstance(value, Image.Exif):
        value = value.tobytes()
    if key == "exif" and isinstance(value, bytes):
        value = value.removeprefix(EXIF_PREFIX)
    if isinstance(value, str):
        value = value.encode()
    if not isinstance(value, bytes | bytearray | None):
        raise ValueError(f"{key} is of type {type(value).__name__}; give bytes")
    return bytes(value) if value else None


def register() -> None:
    """Make .aec known to Pillow. Importing this module has done it; once more does no harm."""
    Image.register_open(FORMAT, AecImageFile, _accept)
    Image.register_save(FORMAT, _save)
    Image.register_extension(FORMAT, SUFFIX)
    Image.register_mime(FORMAT, MIME)


register()
