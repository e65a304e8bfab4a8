"""Encoder-side search: spend encoding time to save bytes.

Level 0 rounds to the nearest integer. Level 1, the default, weighs for every residual the two nearest
integers' bits, as the tables price them, against their squared error, and then hides signs at the least cost of
both (`nncodec.hiding`); each tile gets a filter (`nncodec.postfilter`). Levels 2 and 3 also look at what the decoder
makes of them, and choose again (`nncodec.refine`), unless errors are counted by MS-SSIM, where that gains nothing.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nncodec import freqs, hiding
from nncodec.config import MS_SSIM, PSNR
from nncodec.freqs import REACH_MAX, Tables
from nncodec.rangecoder import RESIDUAL_MAX

REFINING_STEPS = {0: 0, 1: 0, 2: 2, 3: 5}
"""Steps of refinement of each level."""
DESCENT_STEPS = {0: 0, 1: 0, 2: 8, 3: 40}
"""The same for small pictures, which are refined by Adam."""
LEVELS = tuple(REFINING_STEPS)
DEFAULT = 1
ERROR_WEIGHT = 16.0
"""Bits that a squared error of one step^2 is worth; flat around its best on the validation set."""
ERROR_WEIGHTS = {PSNR: ERROR_WEIGHT, MS_SSIM: 11.0}
"""What it is worth to weights by what they are tuned for."""


def prices(tables: Tables) -> Tensor:
    """Bits f32 [ROWS, REACH_MAX + 2] of a residual of each magnitude under each row.

    Row 0 is zero: index 0 is not coded.
    """
    magnitude = np.arange(REACH_MAX + 2)
    out = np.zeros((freqs.ROWS, REACH_MAX + 2), np.float32)
    for index in freqs.CODED:
        reach = int(tables.reach[index])
        coded = 24.0 - np.log2(tables.half[index, np.minimum(magnitude, reach + 1)].astype(np.float64))
        excess = np.maximum(magnitude - reach, 1)
        out[index] = coded + np.where(magnitude > reach, freqs.escape_bits(excess), 0.0)
    return torch.from_numpy(out)


def rounded(residual: Tensor, index: Tensor, price: Tensor, weight: float | Tensor = ERROR_WEIGHT) -> Tensor:
    """Integers next to `residual` (in steps) of least ``bits + weight * error^2``; same shape, float.

    Zero where the index is 0. `weight` broadcasts over them. `index` holds scale indices (integer type), `price`
    is `prices` on the same device.
    """
    magnitude = residual.abs()
    low = magnitude.floor()
    fraction = magnitude - low
    flat = index.long() * price.shape[1]
    near = low.long().clamp(max=price.shape[1] - 2)
    table = price.reshape(-1)
    gain = table[flat + near + 1] - table[flat + near] + weight * (1.0 - 2.0 * fraction)
    chosen = torch.where(gain < 0, low + 1.0, low).masked_fill_(index == 0, 0.0)
    return torch.copysign(chosen, residual)


def hidden(
    chosen: NDArray[np.int32],
    residual: NDArray[np.float32],
    index: NDArray[np.uint8],
    price: NDArray[np.float32],
    weight: float | NDArray[np.float32] = ERROR_WEIGHT,
) -> NDArray[np.int32]:
    """`chosen` for `residual` in one pass of a tile, changed so that parities say the signs of carriers.

    All but `price` are of one shape, or broadcast to it; `price` and `weight` as for `rounded`.
    """
    flat = index.reshape(-1)
    plan = hiding.plan(np.bincount(flat, minlength=freqs.ROWS))
    if plan is None:
        return chosen
    cover = hiding.coding_order(flat)[::-1][: plan.elements]
    carriers = slice(plan.carriers)
    exact = residual.reshape(-1)[cover]
    magnitude, negative = np.abs(chosen.reshape(-1)[cover]), exact < 0
    worth = weight if isinstance(weight, float) else np.broadcast_to(weight, index.shape).reshape(-1)[cover]
    table, row = price.reshape(-1), flat[cover].astype(np.int64) * price.shape[1]
    while True:
        here = table[row + np.minimum(magnitude, price.shape[1] - 1)]
        short = np.abs(exact) - magnitude
        more = table[row + np.minimum(magnitude + 1, price.shape[1] - 1)] - here + worth * (1.0 - 2.0 * short)
        less = table[row + np.clip(magnitude - 1, 0, price.shape[1] - 1)] - here + worth * (1.0 + 2.0 * short)
        # Carriers stay what they are, zero or not: which signs there are to hide follows from it.
        more[carriers][magnitude[carriers] == 0] = np.inf
        less[carriers][magnitude[carriers] == 1] = np.inf
        more[magnitude == RESIDUAL_MAX] = np.inf
        less[magnitude == 0] = np.inf
        cost = np.maximum(np.minimum(more, less), 0.0)
        nonzero = magnitude[carriers] > 0
        changed = plan.embed(magnitude, cost, negative[carriers])
        magnitude = np.where(changed, magnitude + np.where(less < more, -1, 1), magnitude)
        if np.array_equal(magnitude[carriers] > 0, nonzero):
            break  # else there was nothing else to change: once more, with other signs to hide
    negative[carriers] = plan.signs(magnitude)
    out = chosen.copy()
    out.reshape(-1)[cover] = np.where(negative, -magnitude, magnitude)
    return out
