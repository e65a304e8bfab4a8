"""What an encoder that spends effort minimizes beside bits: squared error, or one minus MS-SSIM.

Knows pixels and the linear path of g_s; who asks is `encoding` and `refine`. Errors are counted in squared
errors on the 255 scale, summed over all samples, whatever the objective: ``lambda / 3`` bits are worth one.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from nncodec.config import Y_STRIDE
from nncodec.metrics import C2, LEVEL_WEIGHTS, WINDOW, blurred
from nncodec.nets.model import CodecNet
from nncodec.nets.transforms import PIXEL_SCALE

MS_SSIM_FACTOR = 1280.0
"""What 1 - MS-SSIM weighs against the mean squared error at one lambda: the ratio of CompressAI's published
pairs (1,222 to 1,333)."""
MIX_MSE = 0.1
"""Share of the squared error that is counted beside MS-SSIM, which is blind to errors that are flat."""

Inner = tuple[slice, slice]


class Objective(Protocol):
    """One tile's distortion as a quadratic form of its errors."""

    curvature: Tensor
    """Error per squared natural unit of a latent of the tile: f32 [1, N, h, w] or [1, N, 1, 1]."""

    def error(self, difference: Tensor) -> Tensor:
        """Of decoded pixels minus those of the frame, 255 scale: [1, 1 or 3, H, W] -> []."""
        ...


class SquaredError:
    """PSNR's: every error counts alike."""

    def __init__(self, net: CodecNet, seen: Inner) -> None:
        self.curvature = columns(net).square().sum((1, 2, 3))[None, :, None, None]
        self._seen = seen

    def error(self, difference: Tensor) -> Tensor:
        return difference[(..., *self._seen)].square().sum()


class MsSsim:
    """MS-SSIM's contrast and structure terms, to second order around the original, and a little squared error.

    At each level ``1 - cs = var(e) / (var(x) + var(x + e) + C2)`` over the window (Wang et al. 2003), so an
    error counts by what of it varies inside the window, and the less the more the picture varies there.

    x
        f32 [1, 3, H, W] in [0, 1], the tile and its surroundings; `seen` is where the tile's pixels lie in it,
        `inner` where its latents lie among those of x.
    """

    def __init__(self, net: CodecNet, x: Tensor, inner: Inner, seen: Inner) -> None:
        counted = torch.zeros_like(x[:, :1])
        counted[(..., *seen)] = 1.0
        planes = 255.0 * x
        energies, per_channel = _energies(net)
        self._weights: list[Tensor] = []
        self._mse = MIX_MSE * counted
        curvature = MIX_MSE * per_channel[None, :, None, None]
        for level, exponent in enumerate(LEVEL_WEIGHTS):
            if level:
                planes, counted = F.avg_pool2d(planes, 2), F.avg_pool2d(counted, 2)
            share = MS_SSIM_FACTOR * exponent * 4**level  # a mean over fewer samples: each weighs more
            weight = counted * share / (2.0 * _variance(planes) + C2)
            self._weights.append(weight)
            local = F.avg_pool2d(weight.mean(1, keepdim=True), Y_STRIDE >> level)[(..., *inner)]
            curvature = curvature + energies[level][None, :, None, None] * local
        self.curvature = curvature

    def error(self, difference: Tensor) -> Tensor:
        total = (self._mse * difference.square()).sum()
        for level, weight in enumerate(self._weights):
            if level:
                difference = F.avg_pool2d(difference, 2)
            total = total + (weight[:, : difference.shape[1]] * _variance(difference)).sum()
        return total


def columns(net: CodecNet) -> Tensor:
    """What one natural unit of each latent adds to its block, 255 scale: f32 [N, 3, 16, 16]."""
    weight = net.linear_path.float()[:, :, 0, 0].T[:, :, None, None]
    return F.pixel_shuffle(weight, Y_STRIDE) * (255.0 / PIXEL_SCALE)


@lru_cache(maxsize=4)
def _energies(net: CodecNet) -> tuple[list[Tensor], Tensor]:
    """What each column varies by at each level, summed over all windows that see it, and its squared norm: [N] each."""
    basis = columns(net)
    norms, levels = basis.square().sum((1, 2, 3)), []
    for level in range(len(LEVEL_WEIGHTS)):
        if level:
            basis = F.avg_pool2d(basis, 2)
        padded = F.pad(basis, (WINDOW - 1,) * 4).flatten(0, 1)[None]  # one batch entry: convolutions are faster
        levels.append(_variance(padded).sum((0, 2, 3)).view(-1, 3).sum(1))
    return levels, norms


def _variance(planes: Tensor) -> Tensor:
    """Over the window around each sample of [B, C, H, W], edges repeated: the same shape."""
    padded = F.pad(planes, (WINDOW // 2,) * 4, mode="replicate")
    return (blurred(padded.square()) - blurred(padded).square()).clamp(min=0.0)
