"""Hyper-latents z <-> what of them is coded: the difference to a guess from the neighbors that a decoder knows.

A guess is a weighted sum of four neighbors of the same channel, rounded: integers, the same on every machine.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from nncodec.config import Z_MAX
from nncodec.errors import CorruptError

FRACTION_BITS = 6
"""Of the weights."""
PLACES = ((0, -1), (-1, -1), (-1, 0), (-1, 1))
"""Neighbors, (down, right) of a position; those outside count as 0."""

Integers = NDArray[np.int32]
Array = TypeVar("Array")


def neighbors(wide: Array) -> list[Array]:
    """Those of each position, one view [..., h, w] for each of PLACES, as numpy arrays and torch tensors alike.

    `wide` is z with a row of zeros above and a column on each side, [..., h + 1, w + 2].
    """
    height, width = wide.shape[-2] - 1, wide.shape[-1] - 2  # type: ignore[attr-defined]
    return [
        wide[..., 1 + down : 1 + down + height, 1 + right : 1 + right + width]  # type: ignore[index]
        for down, right in PLACES
    ]


def coded(z_hat: Integers, weights: Integers) -> Integers:
    """int32 [Cz, h, w] less the guesses; `weights` [Cz, 4] in 1 / 2^FRACTION_BITS, of PLACES."""
    total = np.full(z_hat.shape, 1 << (FRACTION_BITS - 1), np.int32)
    for near, weight in zip(neighbors(np.pad(z_hat, ((0, 0), (1, 0), (1, 1)))), weights.T, strict=True):
        total += weight[:, None, None] * near
    return z_hat - (total >> FRACTION_BITS)


def restored(difference: Integers, weights: Integers) -> Integers:
    """Inverse of `coded`. Raises CorruptError where a magnitude is over Z_MAX."""
    _, height, width = difference.shape
    wide = np.zeros((len(difference), height + 1, width + 2), np.int32)
    down, right = np.array(PLACES).T + 1
    for row in range(height):
        for column in range(width):
            near = wide[:, row + down, column + right]
            guess = ((near * weights).sum(1) + (1 << (FRACTION_BITS - 1))) >> FRACTION_BITS
            value = difference[:, row, column] + guess
            if np.abs(value).max(initial=0) > Z_MAX:
                raise CorruptError(f"z_hat reaches {np.abs(value).max()}, over {Z_MAX}; the stream is invalid")
            wide[:, row + 1, column + 1] = value
    return wide[:, 1:, 1:-1].copy()
