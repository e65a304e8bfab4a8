"""Residuals <-> bytes: constriction's range coder over grouped integer tables, with escapes and hidden signs.

The only user of constriction. Knows rows of tables ("index" here, 0 for what is not coded), not where they come from.
"""

from __future__ import annotations

from typing import Any

import constriction
import numpy as np
from numpy.typing import NDArray

from nncodec import hiding
from nncodec.errors import CorruptError
from nncodec.freqs import CODED, ROWS, TOTAL, Tables

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
        self.models = {row: _model(tables.row(row)) for row in CODED}
        self.magnitudes = {row: _model(tables.magnitudes(row)) for row in CODED}
        self.prefix = _model(np.full(1 << PREFIX_BITS, TOTAL >> PREFIX_BITS, np.int64))
        self.bit = _model(np.full(2, TOTAL >> 1, np.int64))


def _parts(counts: NDArray[np.int64], plan: hiding.Plan | None) -> list[tuple[int, slice, slice]]:
    """For each scale index present where, in coding order, its residuals lie: those with signs, and carriers."""
    ends = np.cumsum(counts).tolist()
    first = ends[-1] - (plan.carriers if plan else 0)
    parts = []
    for s in CODED:
        split = min(max(first, ends[s - 1]), ends[s])
        if counts[s]:
            parts.append((s, slice(ends[s - 1], split), slice(split, ends[s])))
    return parts


class ResidualEncoder:
    """Collects arrays of residuals; `bytes` closes the stream."""

    def __init__(self, tables: CodingTables) -> None:
        self._tables = tables
        self._coder = constriction.stream.queue.RangeEncoder()

    def put(self, residuals: _Integers, index: NDArray[np.uint8], hidden: bool = False) -> None:
        """Code residuals under scale indices of the same shape; where the index is 0 they must be 0.

        With `hidden` signs of carriers are left out; raises ValueError where parities do not say them.
        """
        flat = index.reshape(-1)
        values = residuals.reshape(-1)[hiding.coding_order(flat)].astype(np.int32)
        counts = np.bincount(flat, minlength=ROWS)
        plan = hiding.plan(counts) if hidden else None
        if plan:
            _check_signs(values[::-1], plan)
        excess, negative = [], []
        for s, signed, carriers in _parts(counts, plan):
            reach = int(self._tables.reach[s])
            part, magnitude = values[signed], np.abs(values[carriers])
            beyond, over = np.abs(part) > reach, magnitude > reach
            self._encode(np.where(beyond, 2 * reach + 1, part + reach), self._tables.models[s])
            self._encode(np.minimum(magnitude, reach + 1), self._tables.magnitudes[s])
            excess += [np.abs(part[beyond]) - reach, magnitude[over] - reach]
            negative.append(part[beyond] < 0)
        if sum(map(len, excess)):
            self._put_escapes(np.concatenate(excess), np.concatenate(negative))

    def _encode(self, symbols: NDArray[Any], model: Any) -> None:
        if len(symbols):
            self._coder.encode(symbols.astype(np.int32), model)

    def _put_escapes(self, excess: _Integers, negative: NDArray[np.bool_]) -> None:
        """Elias gamma of excess >= 1, bit planes from the highest below the leading one, then signs."""
        prefix = np.frexp(excess.astype(np.float64))[1].astype(np.int32) - 1
        self._encode(prefix, self._tables.prefix)
        for bit in range(int(prefix.max()) - 1, -1, -1):
            self._encode((excess[prefix > bit] >> bit) & 1, self._tables.bit)
        self._encode(negative, self._tables.bit)

    def bytes(self) -> bytes:
        """The stream: 32-bit words, little-endian."""
        words: NDArray[np.uint32] = self._coder.get_compressed()
        return words.astype("<u4").tobytes()


def _check_signs(cover: _Integers, plan: hiding.Plan) -> None:
    carriers = cover[: plan.carriers]
    if ((carriers < 0) != plan.signs(np.abs(cover[: plan.elements]))).any():
        raise ValueError("parities of residuals do not say the signs of carriers; choose them with effort.hidden")


class ResidualDecoder:
    """Mirror of ResidualEncoder over one stream."""

    def __init__(self, tables: CodingTables, data: bytes) -> None:
        if len(data) % 4:
            raise CorruptError(f"range coder stream of {len(data)} bytes is not whole 32-bit words")
        self._tables = tables
        self._coder = constriction.stream.queue.RangeDecoder(np.frombuffer(data, "<u4").astype(np.uint32))

    def get(self, index: NDArray[np.uint8], hidden: bool = False) -> _Integers:
        """Residuals of the shape of `index`, zero where it is 0; signs of carriers as `hidden`. Raises CorruptError."""
        flat = index.reshape(-1)
        counts = np.bincount(flat, minlength=ROWS)
        plan = hiding.plan(counts) if hidden else None
        values = np.zeros(flat.size, np.int32)
        escapes: list[tuple[int, NDArray[np.int64]]] = []
        for s, signed, carriers in _parts(counts, plan):
            reach = int(self._tables.reach[s])
            values[signed] = self._decode(self._tables.models[s], signed.stop - signed.start) - reach
            values[carriers] = self._decode(self._tables.magnitudes[s], carriers.stop - carriers.start)
            where = np.flatnonzero(values[signed.start : carriers.stop] > reach)
            if len(where):
                escapes.append((reach, signed.start + where))
        if escapes:
            self._get_escapes(values, escapes, flat.size - (plan.carriers if plan else 0))
        if plan:
            cover = values[::-1]
            negative = plan.signs(np.abs(cover[: plan.elements]))
            cover[: plan.carriers] = np.where(negative, -cover[: plan.carriers], cover[: plan.carriers])
        residuals = np.empty_like(values)
        residuals[hiding.coding_order(flat)] = values
        return residuals.reshape(index.shape)

    def _get_escapes(self, values: _Integers, escapes: list[tuple[int, NDArray[np.int64]]], first_carrier: int) -> None:
        """Replace escape symbols in `values`, in coding order."""
        where = np.concatenate([w for _, w in escapes])
        reach = np.concatenate([np.full(len(w), r, np.int32) for r, w in escapes])
        prefix = self._decode(self._tables.prefix, len(where))
        excess = np.ones(len(where), np.int32)
        for bit in range(int(prefix.max()) - 1, -1, -1):
            more = prefix > bit
            excess[more] = excess[more] * 2 + self._decode(self._tables.bit, int(more.sum()))
        signed = where < first_carrier
        negative = np.zeros(len(where), bool)
        negative[signed] = self._decode(self._tables.bit, int(signed.sum())) == 1
        magnitude = reach + excess
        if magnitude.max() > RESIDUAL_MAX:
            raise CorruptError(f"residual of magnitude {magnitude.max()} is over {RESIDUAL_MAX}; the stream is invalid")
        values[where] = np.where(negative, -magnitude, magnitude)

    def _decode(self, model: Any, count: int) -> _Integers:
        if not count:
            return np.zeros(0, np.int32)
        try:
            symbols: _Integers = self._coder.decode(model, count)
        except AssertionError as error:  # constriction's word for an impossible stream
            raise CorruptError(f"range coder: {error}") from None
        return symbols

    def finish(self) -> None:
        """Raises CorruptError when bytes are left over."""
        if not self._coder.maybe_exhausted():
            raise CorruptError("range coder stream is longer than its symbols; the file is invalid")
