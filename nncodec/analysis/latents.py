"""Latents of pictures and of .aec files, tile by tile. Pixels are never decoded: g_s does not run.

Knows the codec's parts; what becomes of the latents is `describe`'s.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from nncodec import container, decoding, encoding, rows, tiling
from nncodec.batch.jobs import AEC
from nncodec.config import Y_STRIDE
from nncodec.container import PIXELS_MAX, Header, SectionType
from nncodec.encoding import Chooser
from nncodec.errors import InputError, NncodecError
from nncodec.rows import Rows
from nncodec.tiling import Rect
from nncodec.weights import Model

TILE = 1024
"""Pixels a side of the tiles that pictures are cut into, as `codec.compress` does."""


class Part(NamedTuple):
    """Latents y_hat f32 [N, h, w] of one tile, those alone that lie in the picture, and where: rows and columns."""

    y_hat: Tensor
    top: int
    left: int


class Latents(NamedTuple):
    """Size in pixels of a picture, and its latents in file order."""

    width: int
    height: int
    parts: Iterator[Part]


@contextmanager
def opened(model: Model, source: Path | bytes, quality: int, max_pixels: int = PIXELS_MAX) -> Iterator[Latents]:
    """Latents of a file: decoded from an .aec file, else those that a picture would get at `quality`.

    Raises InputError, FormatError naming the file.
    """
    name = "input" if isinstance(source, bytes) else str(source)
    if is_aec(source):
        try:
            yield of_aec(model, source if isinstance(source, bytes) else _bytes(source), max_pixels)
        except NncodecError as error:
            raise error if str(error).startswith(name) else type(error)(f"{name}: {error}") from None
        return
    with rows.opened(source, max_pixels) as image:
        yield of_picture(model, image, quality)


def is_aec(source: Path | bytes) -> bool:
    """By the suffix of a path, or the first bytes."""
    if isinstance(source, bytes):
        return source.startswith(container.MAGIC)
    return source.suffix.lower() == AEC


def of_picture(model: Model, image: Rows, quality: int) -> Latents:
    """y_hat as effort 0 chooses it; nothing is coded. The picture is read one row of tiles at a time."""
    of = image.outline
    encoding.check(model, of)
    whole = tiling.padded(of.height), tiling.padded(of.width)
    above = tiling.padded(model.config.analysis_halo)
    chosen = Chooser(model, quality, grey=of.is_grey)

    def parts() -> Iterator[Part]:
        start, band = 0, image.rows(0, 1)
        for tile in tiling.grid(*whole, TILE):
            if tile.left == 0:
                # A multiple of Z_STRIDE above the tiles: the band's own plane then ends where the picture's does.
                start = max(tile.top - above, 0)
                band = image.rows(start, min(tile.bottom + above, of.height))
            inside = Rect(tile.top - start, tile.left, tile.bottom - start, tile.right)
            y = encoding.analyze(model, band.color, inside, quality)
            yield part_of(of.height, of.width, tile, chosen.reconstruct(y, chosen.hyper(y))[0])

    return Latents(of.width, of.height, parts())


def of_aec(model: Model, data: bytes, max_pixels: int = PIXELS_MAX) -> Latents:
    """y_hat that an .aec file holds. Raises FormatError; InputError if it needs another model."""
    header, entries = container.parse_header(data, max_pixels)
    check_model(model, header)
    decoding.check(model, header)

    def parts() -> Iterator[Part]:
        streams = (i for i, entry in enumerate(entries) if entry.type is SectionType.TILE)
        for number, i in enumerate(streams):
            symbols = decoding.decode_tile(model, header, number, container.payload(data, entries, i))
            y_hat = decoding.reconstruct(model, symbols, header.quality)[0]
            yield part_of(header.height, header.width, decoding.tile_at(header, number), y_hat)

    return Latents(header.width, header.height, parts())


def check_model(model: Model, header: Header) -> None:
    """Raises InputError unless the file with this header is of `model`."""
    if header.model_id != model.id:
        raise InputError(
            f"was made with model {header.model_id.hex()}, not with {model.name} ({model.id.hex()}), and vectors of "
            "different models cannot be compared; give the picture itself, or all files of one model and -m"
        )


def part_of(height: int, width: int, tile: Rect, y_hat: Tensor) -> Part:
    """The part of a tile's latents y_hat [N, h, w] whose blocks lie in a picture of that size, on the CPU."""
    top, left = tile.top // Y_STRIDE, tile.left // Y_STRIDE
    rows_left, columns_left = -(-height // Y_STRIDE) - top, -(-width // Y_STRIDE) - left
    with torch.inference_mode():
        return Part(y_hat[:, :rows_left, :columns_left].cpu(), top, left)


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
