"""Integer frequency tables: two zero-mean, symmetric rows of residuals for each scale index.

Knows how a row is fitted, quantised and checked; the coder itself is in `rangecoder`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nncodec.config import SCALE_INDEX_MAX, scale_of_index
from nncodec.errors import ModelMismatchError

TOTAL = 1 << 24
"""Sum of the frequencies of a row."""
REACH_MAX = 255
"""Largest residual magnitude any row codes without escape."""
FIRST = SCALE_INDEX_MAX + 1
"""In the first pass scale index s > 0 means row FIRST + s: what no magnitudes are known for has longer tails."""
ROWS = 2 * FIRST
CODED = tuple(row for row in range(ROWS) if row % FIRST)
"""Rows of scale index 0 are never used."""


@dataclass(frozen=True)
class Tables:
    """Frequencies for residuals, by row.

    reach
        int32 [ROWS]: row s codes residuals -reach[s]..reach[s].
    half
        int32 [ROWS, REACH_MAX + 2]: ``half[s, m]`` is the frequency of residual +m and of -m,
        for m <= reach[s]; ``half[s, reach[s] + 1]`` is that of the escape; zero beyond.
    """

    reach: NDArray[np.int32]
    half: NDArray[np.int32]

    @classmethod
    def stored(cls, reach: NDArray[np.int32], half: NDArray[np.int32]) -> Tables:
        """As weights files hold them: with ROWS rows, or FIRST of them, which then serve the first pass as well."""
        if reach.shape == half.shape[:1] == (FIRST,):
            reach, half = np.tile(reach, 2), np.tile(half, (2, 1))
        return cls(reach, half)

    def row(self, index: int) -> NDArray[np.int64]:
        """Frequencies of symbols 0..2 reach (residual + reach) and of the escape; sum TOTAL."""
        reach = int(self.reach[index])
        positive = self.half[index, : reach + 1].astype(np.int64)
        escape = self.half[index, reach + 1 : reach + 2].astype(np.int64)
        return np.concatenate([positive[:0:-1], positive, escape])

    def magnitudes(self, index: int) -> NDArray[np.int64]:
        """Frequencies of magnitudes 0..reach, whatever the sign, and of the escape; sum TOTAL."""
        reach = int(self.reach[index])
        row = self.half[index, : reach + 2].astype(np.int64)
        row[1:-1] *= 2
        return row


def reach_of_index(index: int) -> int:
    """Alphabet half-width of a row: about 5.5 standard deviations."""
    return min(math.ceil(5.5 * scale_of_index(index % FIRST)) + 1, REACH_MAX)


def gaussian_row(index: int) -> NDArray[np.float64]:
    """Probability of magnitudes 0..reach (both signs together) and of the escape; sums to 1."""
    reach, sigma = reach_of_index(index), scale_of_index(index % FIRST)
    edges = (np.arange(reach + 1) + 0.5) / (sigma * math.sqrt(2))
    cumulative = np.array([math.erf(e) for e in edges])
    magnitudes = np.diff(np.concatenate([[0.0], cumulative]))
    return np.append(magnitudes, 1.0 - cumulative[-1])


def quantize_row(magnitudes: NDArray[np.float64]) -> NDArray[np.int32]:
    """Probabilities of magnitudes 0..reach and escape -> half row, every entry >= 1, exact total."""
    p = np.maximum(magnitudes, 0) / magnitudes.sum()
    half: NDArray[np.int64] = np.maximum(np.round(p * TOTAL / 2).astype(np.int64), 1)
    half[-1] = max(round(float(p[-1]) * TOTAL), 1)
    half[0] = TOTAL - 2 * int(half[1:-1].sum()) - int(half[-1])
    if half[0] < 1:  # a very flat row: take the excess from the most frequent magnitude
        largest = 1 + int(np.argmax(half[1:-1]))
        need = (1 - int(half[0]) + 1) // 2
        half[largest] -= need
        half[0] += 2 * need
    return half.astype(np.int32)


def fit(histograms: NDArray[np.int64], prior: float = 200.0) -> Tables:
    """Tables from counts [ROWS, REACH_MAX + 2] of |residual| by row (last column: beyond).

    `prior` pseudo-counts follow the Gaussian that the index stands for, so that an index never seen
    is still coded sensibly.
    """
    reach = np.zeros(ROWS, np.int32)
    half = np.zeros((ROWS, REACH_MAX + 2), np.int32)
    for index in CODED:
        r = reach_of_index(index)
        counts = np.concatenate([histograms[index, : r + 1], [histograms[index, r + 1 :].sum()]])
        smooth = _log_smooth(counts.astype(np.float64)) + prior * gaussian_row(index) + 1e-6
        row = quantize_row(smooth)
        reach[index] = r
        half[index, : r + 2] = row
    tables = Tables(reach, half)
    validate(tables)
    return tables


def _log_smooth(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Average the sparse tail of a histogram over a window that widens with magnitude."""
    out = counts.copy()
    for m in range(8, len(counts) - 1):
        width = m // 8
        out[m] = counts[m - width : min(m + width, len(counts) - 2) + 1].mean()
    return out


def validate(tables: Tables) -> None:
    """Raises ModelMismatchError unless every used row is exact and free of zeros."""
    if tables.reach.shape != (ROWS,) or tables.half.shape != (ROWS, REACH_MAX + 2):
        raise ModelMismatchError(f"tables have shapes {tables.reach.shape} and {tables.half.shape}")
    if tables.reach.dtype != np.int32 or tables.half.dtype != np.int32:
        raise ModelMismatchError(f"tables are {tables.reach.dtype} and {tables.half.dtype}, not int32")
    for index in CODED:
        reach = int(tables.reach[index])
        if not 1 <= reach <= REACH_MAX:
            raise ModelMismatchError(f"table {index}: reach {reach} is not in 1..{REACH_MAX}")
        row = tables.row(index)
        if row.min() < 1 or int(row.sum()) != TOTAL:
            raise ModelMismatchError(f"table {index}: least frequency {row.min()}, sum {row.sum()}, not {TOTAL}")


def escape_bits(excess: NDArray[np.int64]) -> NDArray[np.float64]:
    """Bits behind the escape symbol of a magnitude that is `excess` >= 1 over the reach: prefix, digits, sign."""
    return 5.0 + np.floor(np.log2(excess.astype(np.float64)))


def bits(tables: Tables, residuals: NDArray[np.int32], index: NDArray[np.uint8]) -> float:
    """Information content, in bits, of residuals under their rows, escapes included."""
    magnitude = np.abs(residuals.astype(np.int64))
    reach = tables.reach[index].astype(np.int64)
    escaped = magnitude > reach
    frequency = tables.half[index, np.where(escaped, reach + 1, magnitude)]
    coded = index > 0
    total = float(np.sum(24.0 - np.log2(frequency[coded].astype(np.float64))))
    excess = (magnitude - reach)[escaped & coded]
    return total + float(np.sum(escape_bits(excess)))
