"""Streams of tiles -> pixels: symbols, latents, then windows of pixels, band by band.

Knows the networks and what of a file a window needs; nothing of files. Windows lie on a grid of their own
that depends on the picture alone, so that a crop is computed from the same windows as the whole.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import groupby
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from nncodec import picture, postfilter, quadtree, tiling
from nncodec.config import PASSES, Y_STRIDE
from nncodec.container import Color, Header
from nncodec.entropy import Symbols, take
from nncodec.errors import CorruptError, InputError
from nncodec.nets.transforms import PIXEL_SCALE
from nncodec.partial import Salvage
from nncodec.picture import Levels, Picture
from nncodec.postfilter import RADIUS, Taps
from nncodec.tiling import Rect
from nncodec.weights import Model

WINDOW = 1024
"""Pixels a side of what g_s sees at once, without halo. Bounds memory, not the result."""

Progress = Callable[[int, int], None]
"""Called with (tiles done, tiles in all)."""
Payloads = Callable[[int], tuple[bytes | None, bytes | None]]
"""Stream and alpha plane of a tile by its number; called once for each tile that is needed.

A stream is None where damage to it has been accepted: the tile is then decoded as if it were all zeros.
"""


def device_of(model: Model) -> torch.device:
    return next(model.net.parameters()).device


def quality_of(model: Model, quality: int) -> Tensor:
    return torch.full((1,), float(quality), device=device_of(model))


@contextmanager
def inference() -> Iterator[None]:
    """No autograd, and no TF32: pixels must agree between devices to one level."""
    with torch.inference_mode(), _full_precision:
        yield


class _FullPrecision:
    """torch's process-wide precision at its highest while any thread is inside; then as it was."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._restore = ExitStack()

    def __enter__(self) -> None:
        with self._lock:
            self._inside += 1
            if self._inside == 1:
                self._restore.callback(torch.set_float32_matmul_precision, torch.get_float32_matmul_precision())
                self._restore.enter_context(torch.backends.cudnn.flags(enabled=True, allow_tf32=False))
                torch.set_float32_matmul_precision("highest")

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                self._restore.close()


_full_precision = _FullPrecision()


def check(model: Model, header: Header) -> None:
    """Raises CorruptError unless `model` codes a picture such as the header says."""
    if refusal := model.config.refusal(header.width, header.height, header.color is Color.GREY):
        raise CorruptError(f"header: {refusal}; the file is invalid")


def plane(header: Header) -> Rect:
    """The picture extended to multiples of 64."""
    return Rect(0, 0, tiling.padded(header.height), tiling.padded(header.width))


def tiles(header: Header) -> list[Rect]:
    """Tiles of the padded plane, in file order."""
    whole = plane(header)
    return list(tiling.grid(whole.height, whole.width, 1 << header.tile_log2))


def synthesis_halo(model: Model, header: Header) -> int:
    """Pixels around a window, a multiple of Y_STRIDE, that its decoded pixels depend on."""
    return model.config.synthesis_halo + Y_STRIDE * header.filtered


def tile_at(header: Header, number: int) -> Rect:
    whole = plane(header)
    return tiling.cell(number, whole.height, whole.width, 1 << header.tile_log2)


def reconstruct(model: Model, symbols: Symbols, quality: int) -> Tensor:
    """y_hat f32 [1, N, h, w]: residuals plus means, pass by pass."""
    device = device_of(model)
    with inference():
        q = quality_of(model, quality)
        gain = model.net.gain(q)
        features = model.net.mean_net.features(torch.from_numpy(symbols.z_hat)[None].float().to(device))
        y_hat = torch.zeros(1, *symbols.r_hat.shape, device=device)
        for k in range(PASSES):
            means = model.net.mean_net.means(features, y_hat, q, k)
            r = torch.from_numpy(take(symbols.r_hat, k))[None].to(device)
            quadtree.put(y_hat, k, means + r / gain)
        return y_hat


def decode_tile(model: Model, header: Header, number: int, stream: bytes, passes: int = PASSES) -> Symbols:
    """Symbols of one tile. Exact: the same on every machine. Raises CorruptError naming the tile."""
    tile = tile_at(header, number)
    try:
        size = tile.height // Y_STRIDE, tile.width // Y_STRIDE
        grey = header.color is Color.GREY
        return model.entropy.decode(stream, header.quality, *size, passes, grey, header.hidden, header.filtered)
    except CorruptError as error:
        raise CorruptError(f"tile {number}: {error}") from None


def decode_symbols(model: Model, header: Header, streams: list[bytes]) -> Iterator[tuple[Rect, Symbols]]:
    """Symbols of every tile, in file order. Raises CorruptError."""
    for number, (tile, stream) in enumerate(zip(tiles(header), streams, strict=True)):
        yield tile, decode_tile(model, header, number, stream)


class _Tile(NamedTuple):
    """Latents [1, N, h/16, w/16] of one tile, its filter and its alpha."""

    y_hat: Tensor
    taps: Taps
    alpha: Levels | None


class _Tiles:
    """Decoded tiles: each is decoded when a window first needs it and dropped after the last one that does."""

    def __init__(
        self,
        model: Model,
        header: Header,
        payloads: Payloads,
        windows: list[Rect],
        progress: Progress | None,
        salvage: Salvage,
    ):
        self._model, self._header, self._payloads, self._progress = model, header, payloads, progress
        self._salvage = salvage
        self._width = plane(header).width
        self._left = Counter(number for outer in windows for number in self._numbers(outer))
        self._total = len(self._left)
        self._held: dict[int, _Tile] = {}
        self._done = 0

    def _numbers(self, rect: Rect) -> list[int]:
        return tiling.cells(rect, self._width, 1 << self._header.tile_log2)

    def latents(self, outer: Rect) -> Tensor:
        """y_hat [1, N, h/16, w/16] of a window with its halo."""
        shape = (1, self._model.config.y_channels, outer.height // Y_STRIDE, outer.width // Y_STRIDE)
        out = torch.empty(shape, device=device_of(self._model), memory_format=torch.channels_last)
        for number in self._numbers(outer):
            tile = tile_at(self._header, number)
            part = tiling.common(tile, outer)
            rows, columns = tiling.inside(part, outer, Y_STRIDE)
            from_rows, from_columns = tiling.inside(part, tile, Y_STRIDE)
            out[:, :, rows, columns] = self._tile(number).y_hat[:, :, from_rows, from_columns]
        return out

    def filters(self, core: Rect) -> list[tuple[Rect, Taps]]:
        """Parts of a window that was asked for and not yet dropped with the filter of each, if it changes anything."""
        numbers = self._numbers(core)
        parts = [(tiling.common(tile_at(self._header, number), core), self._held[number].taps) for number in numbers]
        return [(part, taps) for part, taps in parts if taps.any()]

    def alpha(self, rect: Rect) -> Levels:
        """Alpha [h, w] of a part of the picture inside a window that was asked for and not yet dropped."""
        out = np.empty((rect.height, rect.width), f"u{self._header.bit_depth // 8}")
        for number in self._numbers(rect):
            tile = tile_at(self._header, number)
            part = tiling.common(tile, rect)
            alpha = self._held[number].alpha
            where = tiling.inside(part, rect)
            out[where] = np.iinfo(out.dtype).max if alpha is None else alpha[tiling.inside(part, tile)]
        return out

    def drop(self, outer: Rect) -> None:
        """The window is done: forget what no later one needs."""
        for number in self._numbers(outer):
            self._left[number] -= 1
            if not self._left[number]:
                del self._held[number]

    def _tile(self, number: int) -> _Tile:
        if number not in self._held:
            stream, body = self._payloads(number)
            symbols = salvaged(self._salvage, self._model, self._header, number, stream)
            y_hat = reconstruct(self._model, symbols, self._header.quality)
            alpha = self._salvage.read(f"alpha {number}", lambda: alpha_of(self._header, number, body))
            self._held[number] = _Tile(y_hat, symbols.taps, alpha)
            self._done += 1
            if self._progress:
                self._progress(self._done, self._total)
        return self._held[number]


def shown(header: Header, number: int) -> Rect:
    """That part of a tile that lies in the picture."""
    return in_picture(header, tile_at(header, number))


def in_picture(header: Header, tile: Rect) -> Rect:
    """That part of an area of the plane that lies in the picture."""
    return tiling.common(tile, Rect(0, 0, header.height, header.width))


def salvaged(
    salvage: Salvage, model: Model, header: Header, number: int, stream: bytes | None, passes: int = PASSES
) -> Symbols:
    """`decode_tile`, or zeros for a tile that `salvage` misses."""
    tile = tile_at(header, number)
    size = tile.height // Y_STRIDE, tile.width // Y_STRIDE
    nothing = model.entropy.nothing(*size, header.color is Color.GREY)
    if stream is None:
        return nothing
    decode = partial(decode_tile, model, header, number, stream, passes)
    return salvage.read(f"tile {number}", decode, shown(header, number)) or nothing


def alpha_of(header: Header, number: int, body: bytes | None) -> Levels | None:
    """Alpha of that part of a tile that lies in the picture. Raises CorruptError naming the tile."""
    if body is None:
        return None
    tile = shown(header, number)
    try:
        return picture.decode_alpha(body, tile.width, tile.height, header.bit_depth)
    except CorruptError as error:
        raise CorruptError(f"tile {number}: {error}") from None


def bands(
    model: Model,
    header: Header,
    payloads: Payloads,
    *,
    alpha: bool = False,
    crop: Rect | None = None,
    window: int = WINDOW,
    progress: Progress | None = None,
    salvage: Salvage | None = None,
) -> Iterator[Picture]:
    """The picture, or its part `crop`, in bands of rows from the top, without seams.

    Only tiles that `crop` needs are decoded, and no more of them are held than about one row of tiles.
    `window` is a multiple of Y_STRIDE.
    """
    if window < Y_STRIDE or window % Y_STRIDE:
        raise InputError(f"window is {window}; it must be a positive multiple of {Y_STRIDE}")
    whole, halo = plane(header), synthesis_halo(model, header)
    wanted = crop or Rect(0, 0, header.height, header.width)
    cores = [w for w in tiling.windows(whole.height, whole.width, window, halo) if tiling.meets(w, wanted)]
    outers = {core: tiling.with_halo(core, halo, whole.height, whole.width) for core in cores}
    held = _Tiles(model, header, payloads, list(outers.values()), progress, salvage or Salvage(False))
    for _, group in groupby(cores, key=lambda core: core.top):
        row = list(group)
        band = tiling.common(Rect(row[0].top, wanted.left, row[0].bottom, wanted.right), wanted)
        color = np.empty((band.height, band.width, 3)[: 2 + (header.color is Color.RGB)], f"u{header.bit_depth // 8}")
        transparency = np.empty(color.shape[:2], color.dtype) if alpha else None
        for core in row:
            part = tiling.common(core, band)
            where = tiling.inside(part, band)
            y_hat = held.latents(outers[core])
            levels = synthesize(model, y_hat, header, core, outers[core], held.filters(core))
            color[where] = levels[tiling.inside(part, core)]
            if transparency is not None:
                transparency[where] = held.alpha(part)
            held.drop(outers[core])
        yield Picture(color, transparency)


def synthesize(
    model: Model, y_hat: Tensor, header: Header, core: Rect, outer: Rect, filters: Sequence[tuple[Rect, Taps]] = ()
) -> Levels:
    """Levels [h, w, 3] (or [h, w] grey) of a window, from the latents of the window with its halo.

    `filters` are those of parts of it.
    """
    with inference():
        inner, x_hat = decoded(model, y_hat, header, outer)
        x = x_hat[(slice(None), *tiling.inside(core, inner))]
        lmbda = model.config.lmbda(header.quality)
        if filters:
            around = postfilter.padded(x_hat)  # a copy: filters see one another's area unfiltered
            for part, taps in filters:
                seen = with_margin(around, part, inner)
                x[(slice(None), *tiling.inside(part, core))] = postfilter.filtered(seen, taps, lmbda)
        return _levels(x, header)


def decoded(model: Model, y_hat: Tensor, header: Header, outer: Rect) -> tuple[Rect, Tensor]:
    """What latents y_hat [1, N, H/16, W/16] of a window `outer` decide alone: where, and color planes f32 [C, h, w].

    These are not limited to 0..1.
    """
    cut = tiling.cut(outer, plane(header))
    x_hat = model.net.x_inside(y_hat, quality_of(model, header.quality), cut)[0]
    inner = tiling.without_halo(outer, cut, model.config.synthesis_halo)
    return inner, x_hat.mean(0, keepdim=True) if header.color is Color.GREY else x_hat


def with_margin(padded: Tensor, part: Rect, outer: Rect) -> Tensor:
    """What a filter sees of `part` [C, h + 2 RADIUS, w + 2 RADIUS]; `padded` is `postfilter.padded` of `outer`.

    Where `part` comes closer than RADIUS to an edge of `outer`, that must be the plane's.
    """
    rows, columns = tiling.inside(part, outer)
    around = slice(rows.start, rows.stop + 2 * RADIUS), slice(columns.start, columns.stop + 2 * RADIUS)
    return padded[(slice(None), *around)]


def _levels(x: Tensor, header: Header) -> Levels:
    """Levels [h, w, 3] or [h, w] of color planes f32 [C, h, w] in 0..1."""
    x = x[0] if header.color is Color.GREY else x.permute(1, 2, 0)
    peak = (1 << header.bit_depth) - 1
    x = (x * peak).round().clamp(0, peak)
    if header.bit_depth == 8:
        return x.to(torch.uint8).cpu().numpy()
    return x.to(torch.int32).cpu().numpy().astype(np.uint16)


PREVIEWS = (2, 4, 8, 16, 32)
"""How many times smaller a preview can be, in each direction."""


def check_preview(factor: int) -> None:
    """Raises InputError unless `factor` is one of PREVIEWS."""
    if factor not in PREVIEWS:
        raise InputError(f"preview is {factor}; it must be one of {', '.join(map(str, PREVIEWS))}")


def preview(
    model: Model,
    header: Header,
    payloads: Payloads,
    factor: int,
    *,
    alpha: bool = False,
    progress: Progress | None = None,
    salvage: Salvage | None = None,
) -> Picture:
    """A picture `factor` times smaller, of ceil(width / factor) x ceil(height / factor) pixels.

    Pixels are block means of the linear path alone, so g_s, the costliest network, does not run. At 32 only
    the first of the four coding passes is decoded, one latent of each channel in a 32x32 block; the others
    are what the mean net expects.
    """
    whole, keep = plane(header), salvage or Salvage(False)
    color = np.empty((whole.height // factor, whole.width // factor, 3)[: 2 + (header.color is Color.RGB)],
                     f"u{header.bit_depth // 8}")  # fmt: skip
    transparency = np.empty(color.shape[:2], color.dtype) if alpha else None
    for number, tile in enumerate(tiles(header)):
        stream, body = payloads(number)
        passes = 1 if factor > Y_STRIDE else PASSES
        y_hat = reconstruct(model, salvaged(keep, model, header, number, stream, passes), header.quality)
        with inference():
            x = _block_means(model, y_hat, max(Y_STRIDE // factor, 1))
            x = F.avg_pool2d(x, factor // Y_STRIDE) if factor > Y_STRIDE else x
            x = x[0].mean(0, keepdim=True) if header.color is Color.GREY else x[0]
            color[tiling.inside(tile, whole, factor)] = _levels(x, header)
        if transparency is not None:
            levels = keep.read(f"alpha {number}", partial(alpha_of, header, number, body))
            opaque = np.iinfo(transparency.dtype).max
            where = tiling.inside(tile, whole, factor)
            transparency[where] = opaque if levels is None else _shrunk(levels, tile, factor)
        if progress:
            progress(number + 1, header.tiles)
    height, width = -(-header.height // factor), -(-header.width // factor)
    return Picture(color, transparency).rows(0, height).columns(0, width)


def _block_means(model: Model, y_hat: Tensor, cells: int) -> Tensor:
    """Means of the linear path over `cells` x `cells` parts of each 16x16 block: [1, 3, cells h, cells w] in 0..1."""
    weight = model.net.linear_path  # [768, N, 1, 1], rows in the order of pixel_shuffle
    part = Y_STRIDE // cells
    means = weight.view(3, cells, part, cells, part, -1).mean((2, 4)).reshape(3 * cells**2, -1, 1, 1)
    return F.pixel_shuffle(F.conv2d(y_hat, means), cells) / PIXEL_SCALE + 0.5


def _shrunk(alpha: Levels, tile: Rect, factor: int) -> Levels:
    """Block means of a tile's alpha, whose last row and column repeat up to the tile's edge."""
    beyond = ((0, tile.height - alpha.shape[0]), (0, tile.width - alpha.shape[1]))
    full = np.pad(alpha, beyond, mode="edge").astype(np.float32)
    means = full.reshape(tile.height // factor, factor, tile.width // factor, factor).mean((1, 3))
    levels: Levels = means.round().astype(alpha.dtype)
    return levels
