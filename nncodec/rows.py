"""Pictures read and written a band of rows at a time, so that memory does not grow with their height.

Knows which formats allow it: PNG and binary PNM both ways; of other formats Pillow holds the whole
picture, at four bytes a pixel, and only what the codec makes of it is cut in bands.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import IO, Protocol

import numpy as np

from nncodec import picture, png
from nncodec.container import PIXELS_MAX
from nncodec.metadata import blocks
from nncodec.picture import Outline, Picture

LARGE = 1 << 24
"""Pixels from which on a file is read in bands."""
_STEP = 1 << 22
"""Pixels decoded at once."""
_PNM = re.compile(rb"P([56])(?:\s|#[^\n]*\n)+(\d+)(?:\s|#[^\n]*\n)+(\d+)(?:\s|#[^\n]*\n)+(255|65535)\s")


class Rows(Protocol):
    """A picture whose rows can be had in bands, from the top: no band may begin above the one before it."""

    @property
    def outline(self) -> Outline: ...

    @property
    def remarks(self) -> tuple[str, ...]: ...

    def rows(self, top: int, bottom: int) -> Picture: ...


class _Rolling:
    """Rows of a file. `produce(top, count)` makes the next rows; what no later band needs is dropped."""

    def __init__(
        self,
        outline: Outline,
        remarks: tuple[str, ...],
        source: str | Path | bytes,
        produce: Callable[[int, int], Picture],
    ) -> None:
        self.outline, self.remarks = outline, remarks
        self._source, self._produce = source, produce
        self._step = max(_STEP // outline.width, 1)
        self._parts: list[Picture] = []
        self._top = self._bottom = 0

    def rows(self, top: int, bottom: int) -> Picture:
        while self._bottom < bottom:
            count = min(self._step, self.outline.height - self._bottom)
            with picture.reading(self._source):
                self._parts.append(self._produce(self._bottom, count))
            self._bottom += count
        while self._top + self._parts[0].height <= top:
            self._top += self._parts.pop(0).height
        inside = slice(top - self._top, bottom - self._top)
        color = np.concatenate([part.color for part in self._parts])[inside]
        alpha = [part.alpha for part in self._parts if part.alpha is not None]
        return Picture(color, np.concatenate(alpha)[inside] if alpha else None)


@contextmanager
def opened(source: str | Path | bytes, max_pixels: int = PIXELS_MAX) -> Iterator[Rows]:
    """Rows of an image file or of its bytes; small pictures are read whole.

    Raises InputError naming the file, here or from `rows`.
    """
    with ExitStack() as stack:
        with picture.reading(source):
            found = _png(source, stack, max_pixels) or _pnm(source, stack, max_pixels) or _pillow(source, max_pixels)
        yield found


def _pillow(source: str | Path | bytes, max_pixels: int) -> Rows:
    with picture.opened(source, max_pixels) as image:
        deep, remarks = picture.load(image, source)
        if deep is not None or image.width * image.height < LARGE:
            return picture.whole(image, deep, remarks)
        icc, exif, xmp = blocks(image)

        def produce(top: int, count: int) -> Picture:
            return picture.from_pil(image.crop((0, top, image.width, top + count)))

        first = produce(0, 1)
        outline = replace(first.outline, height=image.height, icc=icc and first.icc, exif=exif, xmp=xmp)
        return _Rolling(outline, remarks + first.remarks, source, produce)


def _file(source: str | Path | bytes) -> IO[bytes]:
    return io.BytesIO(source) if isinstance(source, bytes) else Path(source).open("rb")


def _png(source: str | Path | bytes, stack: ExitStack, max_pixels: int) -> Rows | None:
    file = stack.enter_context(_file(source))
    of = png.layout(file)
    if of is None or of.width * of.height < LARGE:
        return None
    picture.check_size(of.width, of.height, max_pixels)
    first = picture.read(png.shell(file, of))
    outline = replace(first.outline, width=of.width, height=of.height)
    bands = png.Bands(file, of)
    above = bytes(of.width * of.pixel)

    def produce(_: int, count: int) -> Picture:
        nonlocal above
        band = picture.read(bands.take(count, above)).rows(1, count + 1)
        above = png.big_endian(band.rows(count - 1, count).planes()).tobytes()
        return band

    return _Rolling(outline, (), source, produce)


def _pnm(source: str | Path | bytes, stack: ExitStack, max_pixels: int) -> Rows | None:
    file = stack.enter_context(_file(source))
    match = _PNM.match(file.read(1024))
    if match is None:
        return None
    kind, width, height, peak = map(int, match.groups())
    if width * height < LARGE:
        return None
    picture.check_size(width, height, max_pixels)
    dtype = np.dtype(">u2" if peak > 255 else np.uint8)
    shape = (width,) if kind == 5 else (width, 3)
    stride = dtype.itemsize * int(np.prod(shape))

    def produce(top: int, count: int) -> Picture:
        file.seek(match.end() + top * stride)
        data = file.read(count * stride)
        if len(data) < count * stride:
            raise ValueError(f"ends at row {top + len(data) // stride} of {height}; it is truncated")
        color = np.frombuffer(data, dtype).reshape(count, *shape)
        return Picture(color.astype(np.uint16) if peak > 255 else color)

    return _Rolling(Outline(width, height, kind == 5, False, 8 * dtype.itemsize), (), source, produce)


def save(file: IO[bytes], suffix: str, of: Outline, bands: Iterable[Picture]) -> Outline:
    """Write bands of rows, from the top, as an image file of the format that `suffix` names. Returns what was written.

    PNG and PNM are written as the bands come, other formats at the end, and so are pictures that must be turned
    because their format has no EXIF. Raises InputError.
    """
    kind = picture.file_kind(suffix)
    if picture.must_turn(kind, of.exif):
        whole = picture.upright(gathered(of, bands))
        of, bands = whole.outline, [whole]
    if kind == "PNG":
        writer = picture.png_writer(file, of)
        for band in bands:
            writer.write(band.planes())
        writer.close()
    elif kind == "PPM" and not of.has_alpha:
        file.write(picture.pnm_head(of))
        for band in bands:
            file.write(png.big_endian(band.color).tobytes())
    else:
        file.write(picture.encode_file(gathered(of, bands), suffix))
    return of


def gathered(of: Outline, bands: Iterable[Picture]) -> Picture:
    """The bands in one picture."""
    dtype = np.dtype(f"u{of.bit_depth // 8}")
    color = np.empty((of.height, of.width) + (() if of.is_grey else (3,)), dtype)
    alpha = np.empty((of.height, of.width), dtype) if of.has_alpha else None
    top = 0
    for band in bands:
        color[top : top + band.height] = band.color
        if alpha is not None and band.alpha is not None:
            alpha[top : top + band.height] = band.alpha
        top += band.height
    return Picture(color, alpha, of.icc, of.exif, of.xmp)
