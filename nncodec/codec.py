"""compress and decompress: Picture <-> .aec bytes. The only composer of the layers below."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import lru_cache
from functools import partial as partial_
from numbers import Real
from operator import index
from pathlib import Path
from threading import Lock
from typing import IO

import numpy as np
import torch
from PIL import Image

from nncodec import container, decoding, denoising, encoding, picture, rows, weights
from nncodec.config import QUALITIES, TUNES
from nncodec.container import Color, Entry, Header, Section, SectionType
from nncodec.decoding import WINDOW, Payloads, Progress, decode_symbols, tiles
from nncodec.effort import DEFAULT, LEVELS
from nncodec.errors import InputError, PictureWarning
from nncodec.partial import Salvage
from nncodec.picture import Levels, Outline, Picture
from nncodec.rows import Rows
from nncodec.tiling import Rect
from nncodec.weights import Model

__all__ = [
    "as_picture",
    "compress",
    "decode_symbols",
    "decompress",
    "decompress_to",
    "denoise",
    "load_model",
    "tiles",
]

Image_ = Image.Image | Picture | Levels | str | Path
Crop = tuple[int, int, int, int]
"""x, y, width, height in pixels."""


_loading = Lock()  # threads that ask for one model at once wait for one load


def usable_device(name: str) -> torch.device:
    """The device of that name ('cpu', 'cuda:1', ...). Raises InputError for what cannot compute here."""
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()  # 'meta' gives tensors, but no numbers
    except (RuntimeError, AssertionError, ImportError) as error:  # no such name, not in this build, no driver
        reason = str(error).splitlines()[0]
        raise InputError(f"device {name!r} cannot be used: {reason:.100}; 'cpu' always can") from None
    return device


@lru_cache(maxsize=4)
def _load(path: Path, device: str) -> Model:
    return weights.load(weights.describe(path), usable_device(device))


def load_model(
    name: str | Path | None = None, device: str | None = None, model_id: bytes | None = None, tune: str | None = None
) -> Model:
    """Installed weights by name, path or id, loaded once a process. Default device: CUDA if present.

    Without a name or an id, the default weights for what is tuned for. Raises ModelError, or InputError for a device
    that cannot be used.
    """
    chosen = device or ("cuda" if torch.cuda.is_available() else "cpu")
    with _loading:
        return _load(weights.find(name, model_id, tune).path, chosen)


def as_picture(image: Image_) -> Picture:
    """A Picture of whatever the caller has: file, Pillow image, u8 or u16 array [H, W] or [H, W, 3 or 4]."""
    if isinstance(image, Picture):
        return image
    if isinstance(image, (str, Path)):
        return picture.read(image)
    if isinstance(image, Image.Image):
        return picture.from_pil(image)
    if isinstance(image, np.ndarray) and image.dtype in (np.uint8, np.uint16) and image.size:
        if image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3):
            return Picture(image)
        if image.ndim == 3 and image.shape[2] == 4:
            return Picture(image[..., :3], image[..., 3])
    what = f"array {image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
    raise InputError(f"{what} is not a picture; give a path, a Pillow image or u8 or u16 [H, W, 3]")


@contextmanager
def _rows_of(image: Image_ | Rows, max_pixels: int) -> Iterator[Rows]:
    """Rows of a picture; a file that is large is not read whole. Warns the caller's caller of what cannot be kept.

    Raises InputError for more than `max_pixels`.
    """
    with ExitStack() as stack:
        if isinstance(image, (str, Path)):
            source = stack.enter_context(rows.opened(image, max_pixels))
        elif isinstance(image, (np.ndarray, Image.Image)) or not hasattr(image, "rows"):
            source = as_picture(image)  # type: ignore[arg-type]
        else:
            source = image
        if source is not image:  # who read the picture himself has its remarks
            for remark in source.remarks:
                warnings.warn(f"{image if isinstance(image, (str, Path)) else 'picture'}: {remark}", PictureWarning, 4)
        picture.check_size(source.outline.width, source.outline.height, max_pixels)
        yield source


def compress(
    image: Image_ | Rows,
    quality: int = 50,
    model: str | Path | Model | None = None,
    *,
    effort: int = DEFAULT,
    tune: str | None = None,
    error_factor: float = 1.0,
    strip: Iterable[str] = (),
    max_pixels: int = container.PIXELS_MAX,
    device: str | None = None,
    tile_log2: int = 10,
    progress: Progress | None = None,
) -> bytes:
    """Encode a picture into the bytes of an .aec file.

    Parameters
    ----------
    image
        Path, Pillow image, Picture, u8 or u16 array [H, W], [H, W, 3] or [H, W, 4], or `rows.Rows`.
        Large PNG and PNM files are read in bands.
    quality
        1 (smallest) to 100.
    model
        Name or path of weights, or a loaded Model; default the shipped 'fast', or 'fast-ssim' to tune for MS-SSIM.
    effort
        0 rounds, 1 (default) weighs bits against error, hides signs and fits filters, 2 and 3 refine
        (tuned for MS-SSIM they are 1); see `nncodec.effort`.
    tune
        What errors are counted by at efforts above 0: 'psnr' or 'ms-ssim'; default what the model was trained for.
    error_factor
        Multiplies what an error is worth beside bits, at efforts above 0: steps finer than those of quality.
    strip
        What is not kept: 'icc', 'exif', 'xmp' or 'all'. An orientation that turns the picture stays.
    max_pixels
        Larger pictures are refused: a decoder would refuse them, too.
    device
        'cpu', 'cuda', ...; default CUDA if there is one.
    tile_log2
        Tiles are ``1 << tile_log2`` pixels a side.
    progress
        Called with (tiles done, tiles in all).

    What reading a picture has to give up is said by a PictureWarning.

    Raises
    ------
    InputError, ModelError
    """
    if isinstance(quality, bool) or not isinstance(quality, int) or not 1 <= quality <= QUALITIES:
        raise InputError(f"quality is {quality!r}; it must be a whole number from 1 to {QUALITIES}")
    if effort not in LEVELS:
        raise InputError(f"effort is {effort!r}; the levels are {', '.join(map(str, LEVELS))}")
    if tune not in (None, *TUNES):
        raise InputError(f"tune is {tune!r}; it must be one of {', '.join(TUNES)}")
    if not isinstance(error_factor, Real) or not 0 < error_factor < math.inf:
        raise InputError(f"error_factor is {error_factor!r}; it must be a positive number")
    least, most = container.TILE_LOG2_MIN, container.TILE_LOG2_MAX
    if not isinstance(tile_log2, int) or not least <= tile_log2 <= most:
        raise InputError(f"tile_log2 is {tile_log2!r}; it must be a whole number from {least} to {most}")
    left_out = picture.to_strip(strip)
    with _rows_of(image, max_pixels) as source:
        of = picture.stripped(source.outline, left_out)
        loaded = model if isinstance(model, Model) else load_model(model, device, tune=tune)
        encoding.check(loaded, of)
        color = Color.GREY if of.is_grey else Color.RGB
        hidden = encoding.hides(loaded, effort)
        filtered = encoding.filters(loaded, effort, of)
        header = Header(of.width, of.height, quality, loaded.id, color, of.bit_depth, tile_log2, hidden, filtered)
        blocks = ((SectionType.ICC, of.icc), (SectionType.EXIF, of.exif), (SectionType.XMP, of.xmp))
        sections = [Section(kind, container.deflate(block)) for kind, block in blocks if block]
        container.check_room(header, of.has_alpha, len(sections))
        sections += encoding.sections(loaded, header, source, effort, tune or loaded.tune, error_factor, progress)
        return container.pack(header, sections)


def denoise(
    image: Image_ | Rows,
    model: str | Path | Model = weights.DENOISE,
    *,
    max_pixels: int = container.PIXELS_MAX,
    device: str | None = None,
    progress: Progress | None = None,
) -> Picture:
    """The picture without its noise: white Gaussian noise of up to the deviation the weights were trained with.

    image, max_pixels, device
        As for `compress`.
    model
        Name or path of weights that were trained with noise, or a loaded Model.
    progress
        Called with (windows done, windows in all).

    What reading a picture has to give up is said by a PictureWarning.

    Raises
    ------
    InputError, ModelError
    """
    with _rows_of(image, max_pixels) as source:
        loaded = model if isinstance(model, Model) else load_model(model, device)
        return rows.gathered(source.outline, denoising.bands(loaded, source, progress))


def decompress(
    data: bytes,
    *,
    crop: Crop | None = None,
    preview: int | None = None,
    model: Model | None = None,
    device: str | None = None,
    window: int = WINDOW,
    max_pixels: int = container.PIXELS_MAX,
    progress: Progress | None = None,
    partial: bool = False,
) -> Picture:
    """Decode the bytes of an .aec file.

    Parameters
    ----------
    data
        The whole file. Every CRC is checked before the entropy coder sees a byte; with `crop` only those of
        the tiles that are used.
    crop
        (x, y, width, height): only this part, from the tiles it needs; the same pixels as in the whole.
    preview
        2, 4, 8, 16 or 32: a picture so many times smaller, at a fraction of the time.
    model
        Overrides the installed weights that the file names.
    window
        Pixels a side that are synthesized at once, a multiple of 16. Bounds memory; does not change the result
        beyond float rounding.
    max_pixels
        Larger pictures are refused.
    partial
        A damaged section is no error: a tile's area is filled from what surrounds it, its alpha is opaque,
        metadata are left out, and `Picture.damage` says so. Header and section table must be intact, and one tile.

    Raises
    ------
    FormatError, ModelError; InputError for a crop that is not inside the picture
    """
    job = _Job(data, crop, preview, model, device, window, max_pixels, progress, partial)
    return job.mended(rows.gathered(job.outline, job.bands()))


def decompress_to(
    file: IO[bytes],
    suffix: str,
    data: bytes,
    *,
    crop: Crop | None = None,
    preview: int | None = None,
    model: Model | None = None,
    device: str | None = None,
    window: int = WINDOW,
    max_pixels: int = container.PIXELS_MAX,
    progress: Progress | None = None,
) -> Outline:
    """`decompress` into an open image file of the format that `suffix` ('.png') names; returns what was written.

    PNG and PNM are written as the rows are decoded, so that memory grows with the picture's width, not its
    height. `file` need not be seekable. Formats without EXIF get the pixels turned as its orientation says.
    """
    picture.file_kind(suffix)
    job = _Job(data, crop, preview, model, device, window, max_pixels, progress)
    return rows.save(file, suffix, job.outline, job.bands())


class _Job:
    """One decompression: everything is checked on construction, the networks run in `bands`."""

    def __init__(
        self,
        data: bytes,
        crop: Crop | None,
        preview: int | None,
        model: Model | None,
        device: str | None,
        window: int,
        max_pixels: int,
        progress: Progress | None,
        partial: bool = False,
    ) -> None:
        self.header, self._entries = container.parse_header(data, max_pixels, whole=False)
        self._salvage = Salvage(partial)
        self._salvage.read("end of file", partial_(container.check_end, data, self._entries))
        self._data, self._preview, self._window, self._progress = data, preview, window, progress
        header = self.header
        if crop is not None and preview is not None:
            raise InputError("crop and preview exclude each other; crop the preview")
        self._crop = None if crop is None else _inside(crop, header)
        if model is not None and model.id != header.model_id:
            raise InputError(f"the file needs model {header.model_id.hex()}, not {model.name} ({model.id.hex()})")
        self._checked: dict[int, bool] = {}
        for i, entry in enumerate(self._entries):
            if crop is None or entry.type not in (SectionType.TILE, SectionType.ALPHA):
                self._read(i)
        self._tiles = [i for i, entry in enumerate(self._entries) if entry.type is SectionType.TILE]
        self._alpha = any(entry.type is SectionType.ALPHA for entry in self._entries)
        self.outline = self._outline()
        self._model = load_model(device=device, model_id=header.model_id) if model is None else model
        decoding.check(self._model, header)

    def _outline(self) -> Outline:
        header, size = self.header, (self.header.width, self.header.height)
        if self._crop is not None:
            size = self._crop.width, self._crop.height
        elif self._preview is not None:
            decoding.check_preview(self._preview)
            size = -(-header.width // self._preview), -(-header.height // self._preview)
        block = {e.type: self._block(i, e) for i, e in enumerate(self._entries) if e.type < SectionType.TILE}
        kinds = (SectionType.ICC, SectionType.EXIF, SectionType.XMP)
        grey = header.color is Color.GREY
        return Outline(*size, grey, self._alpha, header.bit_depth, *(block.get(kind) for kind in kinds))

    def _block(self, index: int, entry: Entry) -> bytes | None:
        name, body = entry.type.name.lower(), self._read(index)
        return None if body is None else self._salvage.read(name, partial_(container.inflate, body, name))

    def _read(self, index: int) -> bytes | None:
        """Payload of a section, its CRC checked; None if it is damaged and damage accepted, which is said once."""
        if self._checked.get(index) is False:
            return None
        area = None
        if self._entries[index].type is SectionType.TILE:
            area = decoding.shown(self.header, int(container.section_name(self._entries, index).split()[1]))
        name = container.section_name(self._entries, index)
        body = self._salvage.read(name, partial_(container.payload, self._data, self._entries, index), area)
        self._checked[index] = body is not None
        return body

    def mended(self, decoded: Picture) -> Picture:
        """The decoded picture with its holes filled and what is missing said. Raises CorruptError."""
        whole = Rect(0, 0, self.header.height, self.header.width)
        self._salvage.fill(decoded.color, self._crop or whole, len(self._tiles), self._preview or 1)
        return replace(decoded, damage=tuple(self._salvage.damage))

    def bands(self) -> Iterator[Picture]:
        payloads: Payloads = self._payloads
        if self._preview is not None:
            yield decoding.preview(
                self._model,
                self.header,
                payloads,
                self._preview,
                alpha=self._alpha,
                progress=self._progress,
                salvage=self._salvage,
            )
            return
        yield from decoding.bands(
            self._model, self.header, payloads, alpha=self._alpha, crop=self._crop, window=self._window,
            progress=self._progress, salvage=self._salvage,
        )  # fmt: skip

    def _payloads(self, number: int) -> tuple[bytes | None, bytes | None]:
        index = self._tiles[number]
        return self._read(index), self._read(index + 1) if self._alpha else None


def _inside(crop: Crop, header: Header) -> Rect:
    try:
        x, y, width, height = map(index, crop)
    except (TypeError, ValueError):
        raise InputError(f"crop is {crop!r}; give four whole numbers: x, y, width, height") from None
    if x < 0 or y < 0 or width < 1 or height < 1 or x + width > header.width or y + height > header.height:
        raise InputError(
            f"crop {width}x{height} at {x},{y} is not inside the picture of {header.width}x{header.height}; "
            "give x,y,width,height"
        )
    return Rect(y, x, y + height, x + width)
