"""Residuals <-> bytes: constriction's range coder over grouped integer tables, with escapes.

The only user of constriction. Knows scale indices, not where they come from.
"""

from __future__ import annotations

from typing import Any

import constriction
import numpy as np
from numpy.typing import NDArray

from nncodec.errors import CorruptError
from nncodec.freqs import ROWS, TOTAL, Tables

PREFIX_BITS = 4
RESIDUAL_MAX = (1 << 15) - 1
"""Residuals lie in -RESIDUAL_MAX..RESIDUAL_MAX."""

_Integers = NDArray[np.int32]


def _model(row: NDArray[np.int64]) -> Any:
    # Weights freq - 1 make constriction's fixed-point cumulative exactly our integers: its scale
    # factor (2^24 - n) / sum(freq - 1) is exactly 1, so nothing is ever rounded.
    return constriction.stream.model.Categorical((row - 1).astype(np.float64), perfect=False)


class CodingTables:
    """Entropy models of every scale index, built once for a set of tables."""

    def __init__(self, tables: Tables) -> None:
        self.reach = tables.reach
        self.models = [None, *(_model(tables.row(index)) for index in range(1, ROWS))]
        self.prefix = _model(np.full(1 << PREFIX_BITS, TOTAL >> PREFIX_BITS, np.int64))
        self.bit = _model(np.full(2, TOTAL >> 1, np.int64))


def _groups(index: NDArray[np.uint8]) -> tuple[NDArray[np.int64], list[tuple[int, int, int]]]:
    """Coding order of flat scale indices: by index, then by position; index 0 is left out.

    Returns the order and, for each index present, (index, start, stop) within it.
    """
    order = np.argsort(index, kind="stable")
    counts = np.bincount(index, minlength=ROWS)
    ends = np.cumsum(counts)
    groups = [(s, int(ends[s] - counts[s]), int(ends[s])) for s in range(1, ROWS) if counts[s]]
    return order, groups


class ResidualEncoder:
    """Collects arrays of residuals; `bytes` closes the stream."""

    def __init__(self, tables: CodingTables) -> None:
        self._tables = tables
        self._coder = constriction.stream.queue.RangeEncoder()

    def put(self, residuals: _Integers, index: NDArray[np.uint8]) -> None:
        """Code residuals under scale indices of the same shape; where the index is 0 they must be 0."""
        order, groups = _groups(index.reshape(-1))
        values = residuals.reshape(-1)[order].astype(np.int32)
        escaped: list[_Integers] = []
        for s, start, stop in groups:
            reach = int(self._tables.reach[s])
            part = values[start:stop]
            beyond = np.abs(part) > reach
            self._coder.encode(np.where(beyond, 2 * reach + 1, part + reach).astype(np.int32), self._tables.models[s])
            if beyond.any():
                out = part[beyond]
                escaped.append(np.stack([np.abs(out) - reach, (out < 0).astype(np.int32)]))
        if escaped:
            self._put_escapes(*np.concatenate(escaped, axis=1))

    def _put_escapes(self, excess: _Integers, negative: _Integers) -> None:
        """Elias gamma of excess >= 1, bit planes from the highest below the leading one, then signs."""
        prefix = np.frexp(excess.astype(np.float64))[1].astype(np.int32) - 1
        self._coder.encode(prefix, self._tables.prefix)
        for bit in range(int(prefix.max()) - 1, -1, -1):
            self._coder.encode((excess[prefix > bit] >> bit) & 1, self._tables.bit)
        self._coder.encode(negative.astype(np.int32), self._tables.bit)

    def bytes(self) -> bytes:
        """The stream: 32-bit words, little-endian."""
        words: NDArray[np.uint32] = self._coder.get_compressed()
        return words.astype("<u4").tobytes()


class ResidualDecoder:
    """Mirror of ResidualEncoder over one stream."""

    def __init__(self, tables: CodingTables, data: bytes) -> None:
        if len(data) % 4:
            raise CorruptError(f"range coder stream of {len(data)} bytes is not whole 32-bit words")
        self._tables = tables
        self._coder = constriction.stream.queue.RangeDecoder(np.frombuffer(data, "<u4").astype(np.uint32))

    def get(self, index: NDArray[np.uint8]) -> _Integers:
        """Residuals of the shape of `index`, zero where it is 0. Raises CorruptError."""
        order, groups = _groups(index.reshape(-1))
        values = np.zeros(index.size, np.int32)
        escapes: list[tuple[int, NDArray[np.int64]]] = []
        for s, start, stop in groups:
            reach = int(self._tables.reach[s])
            symbols = self._decode(self._tables.models[s], stop - start)
            where = order[start:stop]
            values[where] = symbols - reach
            beyond = symbols > 2 * reach
            if beyond.any():
                escapes.append((reach, where[beyond]))
        if escapes:
            self._get_escapes(values, escapes)
        return values.reshape(index.shape)

    def _get_escapes(self, values: _Integers, escapes: list[tuple[int, NDArray[np.int64]]]) -> None:
        where = np.concatenate([w for _, w in escapes])
        reach = np.concatenate([np.full(len(w), r, np.int32) for r, w in escapes])
        prefix = self._decode(self._tables.prefix, len(where))
        excess = np.ones(len(where), np.int32)
        for bit in range(int(prefix.max()) - 1, -1, -1):
            more = prefix > bit
            excess[more] = excess[more] * 2 + self._decode(self._tables.bit, int(more.sum()))
        negative = self._decode(self._tables.bit, len(where))
        magnitude = reach + excess
        if magnitude.max() > RESIDUAL_MAX:
            raise CorruptError(f"residual of magnitude {magnitude.max()} is over {RESIDUAL_MAX}; the stream is invalid")
        values[where] = np.where(negative == 1, -magnitude, magnitude)

    def _decode(self, model: Any, count: int) -> _Integers:
        try:
            symbols: _Integers = self._coder.decode(model, count)
        except AssertionError as error:  # constriction's word for an impossible stream
            raise CorruptError(f"range coder: {error}") from None
        return symbols

    def finish(self) -> None:
        """Raises CorruptError when bytes are left over."""
        if not self._coder.maybe_exhausted():
            raise CorruptError("range coder stream is longer than its symbols; the file is invalid")
