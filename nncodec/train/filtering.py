"""What a file's filter makes of a crop, for training: g_s need not learn what `nncodec.postfilter` does anyway."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from nncodec import postfilter
from nncodec.postfilter import CLIPPED, RADIUS, shifted

SHRINKAGE = 0.9
"""What is left of the taps of least error: those of files cost bits, and are fitted to more pixels."""
ROWS = slice(0, None, 2)
"""Taps are fitted to every other row."""


def filtered(x_hat: Tensor, x: Tensor, lmbda: Tensor) -> Tensor:
    """x_hat [B, C, H, W] behind filters of its own, fitted to x; lmbda [B].

    Limited to 0..1 before, as a decoder does. Gradients pass through the filters; taps are constants to them, which at
    the least error makes no difference (envelope theorem).
    """
    return torch.stack([_crop(*each) for each in zip(x_hat, x, lmbda.tolist(), strict=True)])


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _crop(x_hat: Tensor, x: Tensor, lmbda: float) -> Tensor:
    seen = postfilter.padded(x_hat.float())
    with torch.no_grad():
        systems = postfilter.equations(seen, x, ROWS, postfilter.clip_at(lmbda))
        taps = SHRINKAGE * np.stack([postfilter.solved(a, b) for a, b in systems])
    out: Tensor = _Filter.apply(seen, taps, lmbda)  # type: ignore[no-untyped-call]
    return out


class _Filter(torch.autograd.Function):
    """`postfilter.filtered` with its gradient; autograd's own would fill a picture of zeros for every neighbor."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, taps: NDArray[np.float64], lmbda: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.taps, ctx.limit = taps, postfilter.clip_at(lmbda)
        return postfilter.filtered(x, taps, lmbda)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (x,) = ctx.saved_tensors
        kernel, _, clipped = (part.to(x.device) for part in postfilter.kernels(ctx.taps))
        result = F.conv2d(grad[None], kernel.transpose(0, 1).flip(2, 3), padding=2 * RADIUS)[0]
        middle, into = shifted(x, 0, 0), shifted(result, 0, 0)
        for k, (down, right) in enumerate(CLIPPED):
            weighed = grad * clipped[:, k, None, None]
            for y, z in ((down, right), (-down, -right)):
                part = weighed * ((shifted(x, y, z) - middle).abs_() < ctx.limit)
                shifted(result, y, z).add_(part)
                into.sub_(part)
        return result, None, None
