"""ScaleNet: the float twin, for training, of the integer network that picks scale indices.

Its inputs are z_hat, the quality and log2(1 + min(|r_hat|, 15)); `nncodec.intnet` runs the exported
integers. Activations are clipped to [0, ACTIVATION_MAX) because the integers are. With `quantized`
they are rounded as well: then, with parameters on the integer grid (`nncodec.train.export`), this
network in float64 and the integers agree to the last bit.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nncodec import around
from nncodec.config import (
    MAGNITUDE_MAX,
    PASSES,
    SCALE_INDEX_MAX,
    SCALE_MAX,
    SCALE_MIN,
    ModelConfig,
)
from nncodec.nets.blocks import QualityTable
from nncodec.nets.means import GroupedHead

ACTIVATION_MAX = 16.0
"""Upper clip of every hidden activation."""
Z_UNIT = 1 / 16
"""z_hat enters the network in these units."""
INDEX_UNIT = 8.0
"""Heads and index tables work in units of this many indices, so that all weights are of one size."""


ACTIVATION_GRID = 256.0
"""Activations of the integer network are multiples of 1 / ACTIVATION_GRID."""


def activation(h: Tensor, quantized: bool = False) -> Tensor:
    if quantized:
        h = (h * ACTIVATION_GRID + 0.5).floor() / ACTIVATION_GRID
    return h.clamp(0.0, ACTIVATION_MAX - 1 / ACTIVATION_GRID)


def magnitude(r_hat: Tensor) -> Tensor:
    """log2(1 + min(|r_hat|, 15)), the companded magnitude of decoded residuals."""
    return torch.log2(1.0 + r_hat.abs().clamp(max=MAGNITUDE_MAX))


class PassNet(nn.Module):
    """One pass: features [B, S, h, w] and magnitudes [B, N, h, w] -> head output [B, N, h/2, w/2]."""

    def __init__(self, config: ModelConfig, with_context: bool) -> None:
        super().__init__()
        s, n = config.scale_width, config.y_channels
        self.from_features = nn.Conv2d(s, s, 1)
        self.quality_bias = QualityTable(config.knots, s)
        self.depthwise: nn.Conv2d | None = None
        if with_context:
            self.depthwise = nn.Conv2d(n, n, 3, padding=1, groups=n)
            self.from_context = nn.Conv2d(n, s, 1, bias=False)
            nn.init.constant_(self.depthwise.weight, 1 / 9)
            nn.init.zeros_(self.depthwise.bias)  # type: ignore[arg-type]
        self.hidden = nn.Conv2d(s, s, 1)
        self.head = GroupedHead(s, n)

    def forward(
        self, features: Tensor, magnitudes: Tensor, quality: Tensor, pass_index: int, quantized: bool
    ) -> Tensor:
        h = self.from_features(features) + self.quality_bias(quality)[:, :, None, None]
        if self.depthwise is not None:
            h = h + self.from_context(activation(self.depthwise(magnitudes), quantized))
        h = activation(self.hidden(activation(h, quantized)), quantized)
        return self.head(h, pass_index)


class ScaleNet(nn.Module):
    """`features` once from z_hat, then `index` for each pass."""

    def __init__(self, config: ModelConfig, quantized: bool = False) -> None:
        super().__init__()
        self.quantized = quantized
        s, cz = config.scale_width, config.z_channels
        self.z_in = nn.Conv2d(cz, s, 1)
        self.z_quality = QualityTable(config.knots, s)
        self.z_spread = nn.Conv2d(s, s, 3, padding=1)
        self.z_out = nn.Conv2d(s, 16 * s, 1)
        self.passes = nn.ModuleList(PassNet(config, with_context=k > 0) for k in range(PASSES))
        self.index_bias = QualityTable(config.knots, config.y_channels)
        self.z_index = QualityTable(config.knots, config.z_channels)
        self.z_around = nn.Parameter(torch.zeros(config.z_channels, 1, len(around.PLACES)))

    def z_guess(self, z_hat: Tensor) -> Tensor:
        """What z_hat [B, Cz, h, w] is expected to be, from its neighbors, not rounded (`nncodec.around`)."""
        near = around.neighbors(F.pad(z_hat, (1, 1, 1, 0)))
        return (torch.stack(near, -1) * self.z_around[:, :, None]).sum(-1)

    def features(self, z_hat: Tensor, quality: Tensor) -> Tensor:
        """z_hat [B, Cz, h/4, w/4] -> [B, S, h, w]."""
        h = self.z_in(z_hat * Z_UNIT) + self.z_quality(quality)[:, :, None, None]
        h = activation(self.z_spread(activation(h, self.quantized)), self.quantized)
        return activation(F.pixel_shuffle(self.z_out(h), 4), self.quantized)

    def index(self, features: Tensor, magnitudes: Tensor, quality: Tensor, pass_index: int) -> Tensor:
        """Unrounded, unclamped scale index [B, N, h/2, w/2] of one pass."""
        h = self.passes[pass_index](features, magnitudes, quality, pass_index, self.quantized)
        return INDEX_UNIT * (h + self.index_bias(quality)[:, :, None, None])


class _LowerBound(torch.autograd.Function):
    """max(x, bound) whose gradient still lets x rise from below the bound (Balle et al. 2018)."""

    @staticmethod
    def forward(ctx, x: Tensor, bound: float) -> Tensor:  # type: ignore[no-untyped-def]
        ctx.save_for_backward(x < bound)
        return x.clamp(min=bound)

    @staticmethod
    def backward(ctx, grad: Tensor):  # type: ignore[no-untyped-def]
        (below,) = ctx.saved_tensors
        return torch.where(below & (grad > 0), torch.zeros_like(grad), grad), None


def lower_bound(x: Tensor, bound: float) -> Tensor:
    return _LowerBound.apply(x, bound)  # type: ignore[no-untyped-call]


def sigma(index: Tensor) -> Tensor:
    """Standard deviation in steps of an unrounded scale index."""
    log_ratio = math.log(SCALE_MAX / SCALE_MIN) / SCALE_INDEX_MAX
    bounded = lower_bound(index, 0.0).clamp(max=float(SCALE_INDEX_MAX))
    return SCALE_MIN * torch.exp(bounded * log_ratio)


def gaussian_bits(residual: Tensor, index: Tensor) -> Tensor:
    """-log2 of the probability of `residual` +- 1/2 under N(0, sigma(index)), floored at 1e-9."""
    inverse = 1.0 / sigma(index)
    magnitudes = residual.abs()
    upper = torch.special.ndtr((0.5 - magnitudes) * inverse)
    lower = torch.special.ndtr((-0.5 - magnitudes) * inverse)
    return -torch.log2(lower_bound(upper - lower, 1e-9))
