"""EntropyModel: latents <-> bytes of one tile.

One generator of coding passes drives both directions, so that encoder and decoder cannot disagree.
Everything here is integers; means and pixels are elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from nncodec import around, freqs, hiding, postfilter, quadtree
from nncodec.config import GROUPS, MAGNITUDE_MAX, PASSES, SCALE_INDEX_MAX, Z_BYTES
from nncodec.errors import CorruptError, ModelMismatchError
from nncodec.freqs import Tables
from nncodec.intnet import IntScaleNet, magnitude_table
from nncodec.postfilter import Taps
from nncodec.rangecoder import CodingTables, ResidualDecoder, ResidualEncoder

Indices = NDArray[np.uint8]
Integers = NDArray[np.int32]


LINEAR_MAX = 256
"""Weights of the linear path of g_s are below this."""


TAP_ROWS = 4
"""Taps of a filter are coded under every fourth row of tables; row 0 stands for a kind of which all are zero."""
TAP_ROW_MIDDLE = 8
"""The number of a kind's row, less this, is coded under row TAP_ROW_MIDDLE * TAP_ROWS."""


class Symbols(NamedTuple):
    """What a tile's stream says: z_hat int32 [Cz, h/4, w/4], residuals r_hat int32 [N, h, w] and a filter's taps."""

    z_hat: Integers
    r_hat: Integers
    taps: Taps


@dataclass(frozen=True)
class EntropyModel:
    """The integer scale net and the tables it points into.

    `chroma` bool [N] names the channels that a grey picture does not code; see `chroma_channels`.
    """

    scale_net: IntScaleNet
    tables: Tables
    coding: CodingTables
    chroma: NDArray[np.bool_] | None = None

    def z_index(self, quality: int, height: int, width: int) -> Indices:
        """Scale indices uint8 [Cz, height, width] of what is coded of z."""
        rows = self.scale_net.z_index[quality - 1].numpy()
        return np.broadcast_to(rows[:, None, None], (len(rows), height, width))

    def z_coded(self, z_hat: Integers) -> Integers:
        """What is coded of z_hat [Cz, h, w], under `z_index`."""
        return around.coded(z_hat, self.scale_net.z_around)

    def passes(self, z_hat: Integers, quality: int, grey: bool = False) -> Generator[Indices, Integers, None]:
        """Yield the scale indices [N, h/2, w/2] of each pass, as rows of tables; take its residuals by `send`.

        In a `grey` picture the indices of chroma channels are 0.
        """
        features = self.scale_net.features(torch.from_numpy(z_hat), quality)
        table = magnitude_table()
        magnitudes = torch.zeros(self.scale_net.channels, *features.shape[1:])
        for k in range(PASSES):
            index = self.scale_net.index(features, magnitudes, quality, k).numpy()
            if grey and self.chroma is not None:
                index[self.chroma] = 0
            if k == 0:
                index[index > 0] += freqs.FIRST
            residuals = yield index
            if k < PASSES - 1:
                seen = table[torch.from_numpy(np.minimum(np.abs(residuals), MAGNITUDE_MAX))]
                quadtree.put(magnitudes, k, seen)

    def encode(
        self,
        z_hat: Integers,
        quality: int,
        choose: Callable[[int, Indices], Integers],
        grey: bool = False,
        hidden: bool = False,
        fit: Callable[[], list[Taps]] | None = None,
    ) -> list[tuple[bytes, Symbols]]:
        """Code tiles of one size, z_hat int32 [B, Cz, h/4, w/4], each into a stream of its own.

        They go through the passes together: `choose(k, index)` gives the residuals int32 [B, N, h/2, w/2] of
        pass k, zero where index (uint8, same shape) is 0; with `hidden` signs, such as `effort.hidden` makes.
        With `fit`, called after the last pass for the taps of each tile, these follow the residuals.
        """
        coders = [ResidualEncoder(self.coding) for _ in z_hat]
        tiles = [self.passes(tile, quality, grey) for tile in z_hat]
        for coder, tile_z in zip(coders, z_hat, strict=True):
            coder.put(self.z_coded(tile_z), self.z_index(quality, *tile_z.shape[1:]))
        index = [next(tile) for tile in tiles]
        height, width = (4 * side for side in z_hat.shape[2:])
        r_hat = np.zeros((len(tiles), self.scale_net.channels, height, width), np.int32)
        for k in range(PASSES):
            residuals = choose(k, np.stack(index))
            for b, coder in enumerate(coders):
                coder.put(residuals[b], index[b], hidden)
                quadtree.put(r_hat[b], k, residuals[b])
                if k < PASSES - 1:
                    index[b] = tiles[b].send(residuals[b])
        taps = fit() if fit else [postfilter.none(_planes(grey))] * len(tiles)
        if fit:
            for coder, values in zip(coders, taps, strict=True):
                self._put_taps(coder, values)
        floor = _floor(z_hat.shape[2:])
        return [
            (coder.bytes().ljust(floor, b"\0"), Symbols(*tile))
            for coder, *tile in zip(coders, z_hat, r_hat, taps, strict=True)
        ]

    def decode(
        self,
        data: bytes,
        quality: int,
        height: int,
        width: int,
        passes: int = PASSES,
        grey: bool = False,
        hidden: bool = False,
        filtered: bool = False,
    ) -> Symbols:
        """Inverse of `encode` for a tile of y of height x width positions. Raises CorruptError.

        With fewer `passes` what the others code stays zero, and the rest of `data` is not looked at. Taps are there
        if `filtered`.
        """
        floor = _floor((height // 4, width // 4))
        if len(data) < floor:
            raise CorruptError(f"stream of {len(data)} bytes where at least {floor} are needed; the stream is invalid")
        if len(data) == floor:  # words that fill a stream up say nothing: beyond its end zeros are read anyway
            data = data[: -(-len(data.rstrip(b"\0")) // 4) * 4]
        coder = ResidualDecoder(self.coding, data)
        z_hat = around.restored(coder.get(self.z_index(quality, height // 4, width // 4)), self.scale_net.z_around)
        r_hat = np.zeros((self.scale_net.channels, height, width), np.int32)
        indices = self.passes(z_hat, quality, grey)
        index = next(indices)
        for k in range(passes):
            residuals = coder.get(index, hidden)
            quadtree.put(r_hat, k, residuals)
            if k + 1 < passes:
                index = indices.send(residuals)
        taps = postfilter.none(_planes(grey))
        if passes == PASSES:
            taps = self._get_taps(coder, len(taps)) if filtered else taps
            coder.finish()
        return Symbols(z_hat, r_hat, taps)

    def tap_bits(self, taps: Taps) -> float:
        """Bits of taps in a stream, rows and all."""
        number, index = self._tap_rows(taps)
        return freqs.bits(self.tables, number, _TAP_ROW_INDEX) + freqs.bits(self.tables, taps, index)

    def _tap_rows(self, taps: Taps) -> tuple[Integers, Indices]:
        """The cheapest row of tables for each kind, as it is coded, and the rows of all taps."""
        kind = postfilter.kinds(len(taps))
        number = np.zeros(postfilter.KINDS, np.int32)
        for k in range(postfilter.KINDS):
            values = taps[:, kind == k]
            if values.any():
                rows = range(TAP_ROWS, SCALE_INDEX_MAX + 1, TAP_ROWS)
                costs = [freqs.bits(self.tables, values, np.full(values.shape, row, np.uint8)) for row in rows]
                number[k] = 1 + int(np.argmin(costs))
        return number - TAP_ROW_MIDDLE, _tap_index(number, len(taps))

    def _put_taps(self, coder: ResidualEncoder, taps: Taps) -> None:
        number, index = self._tap_rows(taps)
        coder.put(number, _TAP_ROW_INDEX)
        coder.put(taps, index)

    def _get_taps(self, coder: ResidualDecoder, planes: int) -> Taps:
        number = coder.get(_TAP_ROW_INDEX) + TAP_ROW_MIDDLE
        if number.min() < 0 or number.max() > SCALE_INDEX_MAX // TAP_ROWS:
            raise CorruptError(f"taps of the filter are coded under row {TAP_ROWS} * {number}; the stream is invalid")
        return coder.get(_tap_index(number, planes))

    def nothing(self, height: int, width: int, grey: bool = False) -> Symbols:
        """What stands for a tile of y of height x width positions that cannot be decoded: zeros."""
        z_channels, channels = self.scale_net.z_index.shape[1], self.scale_net.channels
        return Symbols(
            np.zeros((z_channels, height // 4, width // 4), np.int32),
            np.zeros((channels, height, width), np.int32),
            postfilter.none(_planes(grey)),
        )

    def estimate(
        self, symbols: Symbols, quality: int, grey: bool = False, hidden: bool = False, filtered: bool = False
    ) -> float:
        """Bits that the tables say the symbols cost, without running the range coder."""
        total = self.tap_bits(symbols.taps) if filtered else 0.0
        z_index = self.z_index(quality, *symbols.z_hat.shape[1:])
        total += freqs.bits(self.tables, self.z_coded(symbols.z_hat), z_index)
        for residuals, index in self.walk(symbols, quality, grey):
            total += freqs.bits(self.tables, residuals, index)
            if hidden:
                total -= np.count_nonzero(residuals.reshape(-1)[hiding.carriers(index.reshape(-1))])
        return total

    def walk(self, symbols: Symbols, quality: int, grey: bool = False) -> Iterator[tuple[Integers, Indices]]:
        """Residuals and scale indices [N, h/2, w/2] of each pass over known symbols."""
        passes = self.passes(symbols.z_hat, quality, grey)
        index = next(passes)
        for k in range(PASSES):
            residuals = take(symbols.r_hat, k)
            yield residuals, index
            if k < PASSES - 1:
                index = passes.send(residuals)


_TAP_ROW_INDEX = np.full(postfilter.KINDS, TAP_ROW_MIDDLE * TAP_ROWS, np.uint8)


def _tap_index(number: Integers, planes: int) -> Indices:
    """Rows of tables uint8 [planes, taps] of taps whose kinds have rows of these numbers."""
    rows = (TAP_ROWS * number).astype(np.uint8)[postfilter.kinds(planes)]
    return np.broadcast_to(rows, (planes, len(rows)))


def _planes(grey: bool) -> int:
    """Color planes of a picture."""
    return 1 if grey else 3


def _floor(shape: tuple[int, ...]) -> int:
    """Least length in bytes of a stream with z of `shape` positions."""
    return Z_BYTES * math.prod(shape)


def take(x: Integers, pass_index: int) -> Integers:
    """What one pass codes of x [N, H, W], as [N, H/2, W/2]."""
    groups = [quadtree.group_slice(x, pass_index, group) for group in range(GROUPS)]
    return np.concatenate(groups)


def chroma_channels(linear: NDArray[np.floating[Any]]) -> NDArray[np.bool_]:
    """Channels of y whose part in the linear path of g_s [768, N] is to at least 90 % color, not grey: bool [N].

    In integers, as it decides what is coded: of sums that float rounding could turn nothing may depend.
    Raises ModelMismatchError for weights of 256 and more, whose sums leave int64, and for what is no number.
    """
    if not (np.abs(linear) < LINEAR_MAX).all():
        raise ModelMismatchError(f"g_s.linear.weight is not below {LINEAR_MAX} everywhere")
    w = np.rint(linear.astype(np.float64) * 65536).astype(np.int64).reshape(3, 256, -1)
    grey, total = np.square(w.sum(0)).sum(0), np.square(w).sum((0, 1))
    return np.asarray(10 * grey < 3 * total)
