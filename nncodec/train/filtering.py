"""What a file's filter makes of crops, for training: g_s need not learn what `nncodec.postfilter` does anyway."""

from __future__ import annotations

import torch
from torch import Tensor

from nncodec import postfilter

SAMPLES = 1 << 15
"""Taps are fitted to about so many pixels: of a crop of 256x256, to every other row."""


@torch.compiler.disable  # type: ignore[untyped-decorator]
def filtered(x_hat: Tensor, x: Tensor, lmbda: Tensor) -> Tensor:
    """x_hat [B, C, H, W] behind filters of its own, fitted to x (`postfilter.adapted`); lmbda [B]."""
    return postfilter.adapted(x_hat.float(), x, lmbda, SAMPLES)
