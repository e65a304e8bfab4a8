"""What training minimizes: bits a pixel plus lambda times a distortion, one value a crop.

`lmbda` is always the weight of the mean squared error on the 255 scale; the other distortions are scaled
so that the same lambda asks for about the same rate. 'mix' is MS-SSIM and MIX_MSE of the squared error, 'ssim'
the same with SSIM, which pictures of 11 pixels a side have.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from nncodec import metrics
from nncodec.errors import InputError
from nncodec.nets.scales import lower_bound
from nncodec.objective import MIX_MSE, MS_SSIM_FACTOR

Distortion = Callable[[Tensor, Tensor, Tensor], Tensor]
"""x_hat, x [B, 3, H, W] in [0, 1] and lambda [B] -> weighted distortion [B]."""


def squared_error(x_hat: Tensor, x: Tensor) -> Tensor:
    """Mean squared error [B] on the 255 scale."""
    return (x_hat.float() - x).square().mean((1, 2, 3)) * 255.0**2


def _mse(x_hat: Tensor, x: Tensor, lmbda: Tensor) -> Tensor:
    return lmbda * squared_error(x_hat, x)


def _l1(x_hat: Tensor, x: Tensor, lmbda: Tensor) -> Tensor:
    """Absolute error, weighted to have the slope of the squared one at the error that theory gives for lambda.

    sigma^2 = step^2 / 12 with step^2 = 18 / (lambda ln 2); for Gaussian errors E|e| = sigma sqrt(2 / pi).
    """
    sigma = torch.sqrt(1.5 / (lmbda * math.log(2.0)))
    absolute = (x_hat.float() - x).abs().mean((1, 2, 3)) * 255.0
    return lmbda * 2.0 * sigma * math.sqrt(math.pi / 2) * absolute


def _ms_ssim(x_hat: Tensor, x: Tensor, lmbda: Tensor) -> Tensor:
    from pytorch_msssim import ms_ssim

    similarity: Tensor = ms_ssim(x_hat.float(), x, data_range=1.0, size_average=False)
    return lmbda * MS_SSIM_FACTOR * (1.0 - similarity)


def _mix(x_hat: Tensor, x: Tensor, lmbda: Tensor) -> Tensor:
    return _ms_ssim(x_hat, x, lmbda) + MIX_MSE * _mse(x_hat, x, lmbda)


def _ssim(x_hat: Tensor, x: Tensor, lmbda: Tensor) -> Tensor:
    # Clamped as decoded pixels are: black that must not be left from below is most of what SSIM asks of flat areas.
    x_hat = 1.0 - lower_bound(1.0 - lower_bound(x_hat.float(), 0.0), 0.0)
    similarity = metrics.similarities(x_hat * 255.0, x * 255.0)
    return lmbda * MS_SSIM_FACTOR * (1.0 - similarity) + MIX_MSE * _mse(x_hat, x, lmbda)


def distortion(name: str) -> Distortion:
    """The distortion of that name. Raises InputError when its package is missing."""
    if name in ("ms-ssim", "mix"):
        try:
            import pytorch_msssim  # noqa: F401
        except ImportError:
            raise InputError(f"loss {name} needs the package pytorch-msssim: pip install nncodec[train]") from None
    return {"mse": _mse, "l1": _l1, "ms-ssim": _ms_ssim, "mix": _mix, "ssim": _ssim}[name]
