"""Picture: what an image file carries, and how it is read and written.

Knows Pillow; nothing of latents or bitstreams. Pixels and EXIF are kept as the file has them, so that
an orientation tag is neither lost nor applied twice.
"""

from __future__ import annotations

import io
import struct
import threading
import warnings
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, PngImagePlugin, UnidentifiedImageError

from nncodec import alphapng, atomic, png, wide
from nncodec.container import METADATA_MAX, PIXELS_MAX
from nncodec.errors import CorruptError, InputError
from nncodec.metadata import EXIF_PREFIX, blocks, orientation, orientation_only
from nncodec.png import PngWriter
from nncodec.tiling import Rect

Levels = NDArray[Any]

BLOCKS = ("icc", "exif", "xmp")
"""What a picture may carry besides its pixels."""
SUFFIXES = frozenset({".avif", ".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})
"""Of the files that training and benchmarks take for pictures in a folder."""

_EXIF_KINDS = frozenset({"AEC", "AVIF", "HEIF", "JPEG", "JXL", "MPO", "PNG", "TIFF", "WEBP"})
"""Pillow's names of the formats that keep an orientation; in others pixels are turned."""
_CODESTREAMS = frozenset({".j2c", ".j2k", ".jpc"})
_ICO_SIDE = 256


@dataclass(frozen=True)
class Outline:
    """Everything of a picture but its pixels."""

    width: int
    height: int
    is_grey: bool
    has_alpha: bool
    bit_depth: int
    icc: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None

    @property
    def channels(self) -> int:
        """Samples a pixel, alpha included."""
        return (1 if self.is_grey else 3) + self.has_alpha


class Damage(NamedTuple):
    """A section that could not be decoded: its name ('tile 3', 'icc'), why, and what area a tile covers."""

    section: str
    reason: str
    area: Rect | None


@dataclass(frozen=True, eq=False)
class Picture:
    """Decoded pixels and what came with them.

    color
        [H, W, 3] RGB or [H, W] grey; u8, or u16 for 16 bits a sample.
    alpha
        [H, W] of the same type, or None.
    icc, exif, xmp
        The file's own bytes or None; EXIF without the ``Exif\\0\\0`` that JPEG puts before it.
    remarks
        What reading had to give up, in words.
    damage
        Of a damaged file decoded with ``partial=True``: what is missing. A tile's area is filled smoothly.
    """

    color: Levels
    alpha: Levels | None = None
    icc: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None
    remarks: tuple[str, ...] = ()
    damage: tuple[Damage, ...] = ()

    @property
    def height(self) -> int:
        return int(self.color.shape[0])

    @property
    def width(self) -> int:
        return int(self.color.shape[1])

    @property
    def is_grey(self) -> bool:
        return self.color.ndim == 2

    @property
    def has_alpha(self) -> bool:
        return self.alpha is not None

    @property
    def bit_depth(self) -> int:
        """Bits a sample: 8 or 16."""
        return 8 * self.color.dtype.itemsize

    @property
    def peak(self) -> int:
        """Largest level: 255 or 65535."""
        return (1 << self.bit_depth) - 1

    @property
    def outline(self) -> Outline:
        return Outline(self.width, self.height, self.is_grey, self.has_alpha, self.bit_depth,
                       self.icc, self.exif, self.xmp)  # fmt: skip

    def rows(self, top: int, bottom: int) -> Picture:
        """Rows top..bottom (exclusive), without the blocks."""
        return Picture(self.color[top:bottom], None if self.alpha is None else self.alpha[top:bottom])

    def columns(self, left: int, right: int) -> Picture:
        """Columns left..right (exclusive), without the blocks."""
        return Picture(self.color[:, left:right], None if self.alpha is None else self.alpha[:, left:right])

    def planes(self) -> Levels:
        """Color and alpha in one array [H, W, 1 to 4]."""
        color = self.color[..., None] if self.is_grey else self.color
        return color if self.alpha is None else np.concatenate([color, self.alpha[..., None]], axis=2)

    def to_8_bits(self) -> Picture:
        """The same with 8 bits a sample, rounded."""
        if self.bit_depth == 8:
            return self
        color, alpha = (None if p is None else ((p + np.uint32(128)) // 257).astype(np.uint8)
                        for p in (self.color, self.alpha))  # fmt: skip
        assert color is not None
        return replace(self, color=color, alpha=alpha)

    def damage_report(self) -> list[str]:
        """`damage` in words, a line each."""
        lines = []
        for section, reason, area in self.damage:
            where = ""
            if area is not None:
                where = f" (x {area.left}..{area.right - 1}, y {area.top}..{area.bottom - 1}: filled smoothly)"
            lines.append((reason if section in reason else f"{section}: {reason}") + where)
        return lines

    def to_pil(self) -> Image.Image:
        """Pillow image of mode L, LA, RGB, RGBA or I;16, with ICC, EXIF and XMP in its ``info``.

        Pillow has no other modes of 16 bits: such pictures are rounded to 8. To keep everything use `save`.
        """
        if self.is_grey and self.alpha is None:
            image = Image.fromarray(np.ascontiguousarray(self.color))
        else:
            planes = self.to_8_bits().planes()
            image = Image.fromarray(np.ascontiguousarray(planes))
        for key, value in (("icc_profile", self.icc), ("exif", self.exif), ("xmp", self.xmp)):
            if value:
                image.info[key] = EXIF_PREFIX + value if key == "exif" else value
        return image

    def save(self, path: str | Path) -> None:
        """Write an image file of the format that the path's suffix names, whole or not at all.

        Raises InputError.
        """
        atomic.write(Path(path), encode_file(self, Path(path).suffix))


Carrier = TypeVar("Carrier", Outline, Picture)


def to_strip(names: Iterable[str]) -> frozenset[str]:
    """Which of BLOCKS `names` ('all' included) mean. Raises InputError for others."""
    found = frozenset([names] if isinstance(names, str) else names)
    if unknown := found - {*BLOCKS, "all"}:
        raise InputError(f"strip {', '.join(sorted(unknown))}: only {', '.join(BLOCKS)} or all can be left out")
    return frozenset(BLOCKS) if "all" in found else found


def stripped(of: Carrier, names: frozenset[str]) -> Carrier:
    """The picture or outline without these of BLOCKS.

    An orientation stays, in an EXIF block of nothing else: without it the picture would lie on its side.
    """
    return replace(
        of,
        icc=None if "icc" in names else of.icc,
        exif=orientation_only(of.exif) if "exif" in names else of.exif,
        xmp=None if "xmp" in names else of.xmp,
    )


def from_pil(image: Image.Image) -> Picture:
    """Picture of a Pillow image. The rule for each mode:

    L and 1 become grey; RGB stays; P becomes RGB; LA, PA, RGBA and any transparent color keep their
    alpha; I;16 and I become 16-bit grey; CMYK becomes sRGB through its profile, by Pillow's formula if it
    has none; LAB becomes sRGB; YCbCr and HSV become RGB. Profiles of CMYK and LAB pictures go with them.
    Raises InputError for empty pictures, for floating-point ones and for samples beyond 16 bits.
    """
    if image.width == 0 or image.height == 0:
        raise InputError(f"picture is {image.width}x{image.height}; it has no pixels")
    if image.mode == "F":
        raise InputError("picture has floating-point samples; convert it to 8 or 16 bits first")
    _load(image)
    icc, exif, xmp = blocks(image)
    remarks: tuple[str, ...] = ()
    if image.mode == "CMYK":
        image, remarks = _from_cmyk(image, icc)
        icc = None
    elif image.mode == "LAB":
        icc = None
    color, alpha = _planes(image)
    return Picture(color, alpha, icc, exif, xmp, remarks)


def _planes(image: Image.Image) -> tuple[Levels, Levels | None]:
    key = image.info.get("transparency")
    if image.mode == "I" or image.mode.startswith("I;16"):
        samples = np.asarray(image)
        low, high = (int(samples.min()), int(samples.max())) if image.mode == "I" else (0, 0)
        if low < 0 or high > 65535:
            raise InputError(f"samples run from {low} to {high}; only 0 to 65535 can be kept")
        deep = samples.astype(np.uint16)
        return deep, _keyed(deep, key)
    if image.mode in ("L", "1"):
        grey = np.asarray(image.convert("L"))
        return grey, _keyed(grey, key)
    if image.mode == "La":
        image = image.convert("LA")
    if image.mode == "LA":
        planes = np.asarray(image)
        return np.ascontiguousarray(planes[..., 0]), np.ascontiguousarray(planes[..., 1])
    if image.mode in ("RGBA", "RGBa", "PA") or key is not None:
        planes = np.asarray(image.convert("RGBA"))
        return np.ascontiguousarray(planes[..., :3]), np.ascontiguousarray(planes[..., 3])
    return np.asarray(image.convert("RGB")), None


def _keyed(color: Levels, key: Any) -> Levels | None:
    """Alpha of a picture in which one color is transparent; None without such a color."""
    if not isinstance(key, (int, tuple)):
        return None
    hit = color == key if isinstance(key, int) else (color == np.array(key)).all(axis=2)
    peak = np.iinfo(color.dtype).max
    alpha: Levels = np.where(hit, 0, peak).astype(color.dtype)
    return alpha


def _from_cmyk(image: Image.Image, icc: bytes | None) -> tuple[Image.Image, tuple[str, ...]]:
    if icc:
        try:
            profile = ImageCms.ImageCmsProfile(io.BytesIO(icc))
            converted = ImageCms.profileToProfile(
                image,
                profile,
                ImageCms.createProfile("sRGB"),
                renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
                outputMode="RGB",
                flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
            )
        except (ImageCms.PyCMSError, OSError, TypeError, ValueError):
            pass
        else:
            assert converted is not None
            return converted, ()
    return image.convert("RGB"), ("CMYK without a usable profile was converted to RGB by Pillow's formula",)


_guard = threading.Lock()
_readers = 0
_LIMITS = ((Image, "MAX_IMAGE_PIXELS", None), (PngImagePlugin, "MAX_TEXT_CHUNK", METADATA_MAX))
_outside = ExitStack()  # puts back how Pillow was before the first of them


@contextmanager
def _unlimited() -> Iterator[None]:
    """Pillow's own limits and its warnings are off, in all threads, until the last that reads is done.

    `read` has a limit of its own on pixels, which the user can set; PNG with profiles over a megabyte, as
    `PngWriter` makes them, Pillow refuses. It warns of metadata it cannot parse where the pixels are what counts.
    Other warnings, `PictureWarning` among them, are not touched.
    """
    global _readers
    with _guard:
        if not _readers:
            _outside.enter_context(warnings.catch_warnings())
            warnings.filterwarnings("ignore", category=UserWarning, module="PIL|pillow")
            for of, limit, ours in _LIMITS:
                _outside.callback(setattr, of, limit, getattr(of, limit))
                setattr(of, limit, ours)
        _readers += 1
    try:
        yield
    finally:
        with _guard:
            _readers -= 1
            if not _readers:
                _outside.close()


_BROKEN = (
    OSError, ValueError, SyntaxError, EOFError, struct.error, RuntimeError, TypeError, LookupError, ArithmeticError,
)  # fmt: skip
"""What Pillow raises of files that are none of its formats or broken."""


@contextmanager
def reading(source: str | Path | bytes) -> Iterator[None]:
    """Turns whatever Pillow raises into InputError that names the file; Pillow's limits are off inside."""
    name = "input" if isinstance(source, bytes) else str(source)
    try:
        with _unlimited():
            yield
    except FileNotFoundError:
        raise InputError(f"{name}: no such file") from None
    except UnidentifiedImageError:
        raise InputError(f"{name}: not a picture that Pillow can read") from None
    except InputError as error:
        raise InputError(f"{name}: {error}") from None
    except _BROKEN as error:
        raise InputError(f"{name}: cannot be read: {error}") from None


def read(source: str | Path | bytes, max_pixels: int = PIXELS_MAX) -> Picture:
    """Picture of a file or of a file's bytes; the first frame of an animation.

    Raises InputError naming the file, also for pictures of more than `max_pixels`.
    """
    with reading(source), opened(source, max_pixels) as image:
        return whole(image, *load(image, source))


def check_size(width: int, height: int, max_pixels: int) -> None:
    """Raises InputError for more than `max_pixels`."""
    if width * height > max_pixels:
        raise InputError(
            f"picture of {width}x{height} is over the limit of {max_pixels} pixels; raise it with --max-pixels"
        )


@contextmanager
def opened(source: str | Path | bytes, max_pixels: int) -> Iterator[Image.Image]:
    """Pillow image, its pixels not loaded yet. Raises InputError over `max_pixels`, else Pillow's errors."""
    with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
        check_size(*image.size, max_pixels)
        yield image


def load(image: Image.Image, source: str | Path | bytes) -> tuple[wide.Samples | None, tuple[str, ...]]:
    """Load the pixels of an opened image. Returns its 16-bit samples, if it has some that Pillow drops, and remarks."""
    if image.format == "PNG":
        with io.BytesIO(source) if isinstance(source, bytes) else Path(source).open("rb") as file:
            png.verify(file)
    frames = getattr(image, "n_frames", 1)
    deep = wide.samples(image, source)
    _load(image)
    return deep, (f"holds {frames} frames; only the first is kept",) if frames > 1 else ()


def _load(image: Image.Image) -> None:
    """Load the pixels, with the blocks that follow them; a transparent color goes to the scale of the samples."""
    key = wide.transparent(image)
    image.load()
    if key is not None:
        image.info["transparency"] = key


def whole(image: Image.Image, deep: wide.Samples | None, remarks: tuple[str, ...]) -> Picture:
    """Picture of what `load` gave."""
    if deep is None:
        picture = from_pil(image)
        return replace(picture, remarks=remarks + picture.remarks)
    if deep.shape[2] == 3:
        return Picture(deep, _keyed(deep, image.info.get("transparency")), *blocks(image), remarks)
    color = deep[..., 0] if deep.shape[2] == 2 else deep[..., :3]
    return Picture(np.ascontiguousarray(color), np.ascontiguousarray(deep[..., -1]), *blocks(image), remarks)


def encode_alpha(alpha: Levels) -> bytes:
    """Alpha plane [H, W] as a lossless PNG of 8 or 16-bit grey."""
    out = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(alpha)).save(out, "PNG", optimize=True)
    return out.getvalue()


def decode_alpha(body: bytes, width: int, height: int, bits: int = 8) -> Levels:
    """Inverse of `encode_alpha`. Raises CorruptError unless it is exactly such a PNG of that size."""
    mode = "L" if bits == 8 else "I;16"
    try:
        with alphapng.opened(body) as image:
            if image.size != (width, height) or image.mode != mode:
                raise CorruptError(f"alpha: {image.mode} {image.width}x{image.height}, not {mode} {width}x{height}")
            alpha: Levels = np.array(image, np.uint8 if bits == 8 else np.uint16)
            return alpha
    except (OSError, ValueError, SyntaxError) as error:
        raise CorruptError(f"alpha: not a readable PNG ({error})") from None


def encode_file(picture: Picture, suffix: str) -> bytes:
    """Bytes of an image file of the format that `suffix` names.

    PNG and PNM keep 16 bits a sample; other formats get 8, but for 16-bit grey where Pillow can write it.
    Formats without EXIF get the pixels turned as its orientation says. Raises InputError.
    """
    out = io.BytesIO()
    kind = file_kind(suffix)
    if must_turn(kind, picture.exif):
        picture = upright(picture)
    if kind == "PNG":
        writer = png_writer(out, picture.outline)
        writer.write(picture.planes())
        writer.close()
        return out.getvalue()
    if kind == "PPM" and picture.alpha is None:
        return pnm_head(picture.outline) + png.big_endian(picture.color).tobytes()
    image = picture.to_pil()
    if image.mode == "I;16" and kind not in ("TIFF", "JPEG2000"):
        image = picture.to_8_bits().to_pil()
    options: dict[str, Any] = {}
    if picture.icc:
        options["icc_profile"] = picture.icc
    if picture.exif:
        options["exif"] = EXIF_PREFIX + picture.exif
    if picture.xmp:
        options["xmp"] = picture.xmp
    if kind == "JPEG" and picture.alpha is not None:
        raise InputError(f"{suffix}: JPEG cannot hold the picture's alpha; write .png or .webp")
    if kind == "ICO":
        if max(image.size) > _ICO_SIDE:
            raise InputError(f"{suffix}: ICO cannot hold {image.width}x{image.height}, only {_ICO_SIDE} pixels a side; "
                             f"write .png")  # fmt: skip
        options["sizes"] = [image.size]
    if kind in ("JPEG", "WEBP", "AVIF"):
        options["quality"] = 95
    if suffix.lower() in _CODESTREAMS:
        options["no_jp2"] = True
    try:
        image.save(out, kind, **options)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{suffix}: {kind} cannot hold this picture: {error}") from None
    return out.getvalue()


def pnm_head(of: Outline) -> bytes:
    """What a PNM file (P5 or P6) has before its samples."""
    return f"P{5 if of.is_grey else 6}\n{of.width} {of.height}\n{(1 << of.bit_depth) - 1}\n".encode()


def must_turn(kind: str, exif: bytes | None) -> bool:
    """Whether a picture lies on its side in a format (Pillow's name) unless its pixels are turned."""
    return kind not in _EXIF_KINDS and orientation(exif) > 1


def upright(picture: Picture) -> Picture:
    """The picture turned as its EXIF says, without that EXIF."""
    way = orientation(picture.exif)

    def turned(plane: Levels) -> Levels:
        plane = plane.swapaxes(0, 1) if way > 4 else plane
        return plane[:: -1 if way in (3, 4, 7, 8) else 1, :: -1 if way in (2, 3, 6, 7) else 1]

    alpha = None if picture.alpha is None else turned(picture.alpha)
    return replace(picture, color=turned(picture.color), alpha=alpha, exif=None)


def png_writer(file: IO[bytes], of: Outline) -> PngWriter:
    return PngWriter(file, of.width, of.height, of.channels, of.bit_depth, icc=of.icc, exif=of.exif, xmp=of.xmp)


def file_kind(suffix: str) -> str:
    """Pillow's name of the format that a file's suffix stands for. Raises InputError if none can be written."""
    kind = Image.registered_extensions().get(suffix.lower())
    if kind is None or kind not in Image.SAVE:
        raise InputError(f"{suffix or 'no suffix'}: not an image format that can be written; use .png")
    return kind
