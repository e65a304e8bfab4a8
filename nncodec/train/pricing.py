"""What residuals cost by the tables of a weights file, for training: integers chosen by it, bits with a gradient."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nncodec import freqs
from nncodec.config import scale_of_index
from nncodec.effort import prices, rounded
from nncodec.freqs import Tables

SMOOTHING = 0.4
"""Deviation of the window that bits are averaged over, in those of the row: slopes of counts are noisy."""
SHORTEST = 0.4
"""Windows of a smaller deviation, in steps, average nothing."""


class Pricing:
    """Prices of one set of tables. Residuals are in steps; rows as in `freqs`, of the same shape."""

    def __init__(self, tables: Tables, device: torch.device) -> None:
        exact = prices(tables)
        self._exact = exact.to(device)
        self._smooth = torch.from_numpy(_smoothed(exact.numpy())).to(device)

    def chosen(self, residual: Tensor, row: Tensor) -> Tensor:
        """Integers (as float) as the default effort chooses them; rows uint8."""
        return rounded(residual, row, self._exact)

    def bits(self, residual: Tensor, row: Tensor) -> Tensor:
        """Bits of any residuals, linear between integers; zero in row 0, which is not coded.

        Where a gradient is asked for they are those of averaged rows.
        """
        price = self._smooth if residual.requires_grad else self._exact
        magnitude = residual.abs()
        low = magnitude.detach().floor().clamp(max=price.shape[1] - 2.0)
        at, table = row.long() * price.shape[1] + low.long(), price.reshape(-1)
        return torch.lerp(table[at], table[at + 1], magnitude - low)


def _smoothed(price: NDArray[np.float32]) -> NDArray[np.float32]:
    """`price` [ROWS, magnitudes], each row averaged over a Gaussian window."""
    out = price.copy()
    for row in freqs.CODED:
        deviation = SMOOTHING * scale_of_index(row % freqs.FIRST)
        if deviation > SHORTEST:
            reach = int(4 * deviation) + 1
            window = np.exp(-0.5 * (np.arange(-reach, reach + 1) / deviation) ** 2)
            around = np.pad(price[row], (reach, 0), mode="reflect")  # magnitudes: symmetric about 0
            around = np.pad(around, (0, reach), mode="edge")
            out[row] = np.convolve(around, window / window.sum(), mode="valid")
    return out
