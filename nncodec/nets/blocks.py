"""Building blocks: residual depthwise block, tables by quality, the DCT basis.

Knows torch only; how blocks make a codec is told in `transforms`, `means` and `scales`.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from nncodec.config import GROUPS, QUALITIES
from nncodec.tiling import UNCUT, Sides


class QualityTable(nn.Module):
    """A vector for each quality: linear between `knots` equidistant learned rows.

    `forward` takes qualities [B] in 1..100 (float) and returns [B, channels].
    """

    def __init__(self, knots: int, channels: int) -> None:
        super().__init__()
        self.rows = nn.Parameter(torch.zeros(knots, channels))

    def forward(self, quality: Tensor) -> Tensor:
        knots = self.rows.shape[0]
        t = (quality - 1) * ((knots - 1) / (QUALITIES - 1))
        low = t.floor().clamp(0, knots - 2)
        fraction = (t - low).unsqueeze(1)
        index = low.long()
        return self.rows[index] * (1 - fraction) + self.rows[index + 1] * fraction


def scale_by(x: Tensor, log_gain: Tensor) -> Tensor:
    """x [B, C, H, W] times exp(log_gain [B, C])."""
    return x * log_gain.exp()[:, :, None, None].to(x.dtype)


def add_by_quality(x: Tensor, conv: nn.Conv2d, h: Tensor, table: Tensor | None) -> Tensor:
    """x plus what a 1x1 convolution makes of h, with an offset and a gain for each channel, [B, C, H, W].

    `table` [B, 2 C] (or [1, 2 C], for all) holds the offsets and the logarithms of the gains.
    """
    if table is None:
        return x + conv(h)
    offset, log_gain = table[:, :, None, None].chunk(2, dim=1)
    gain = log_gain.exp()
    if len(table) == 1:  # into the weights, where they cost nothing
        assert conv.bias is not None
        weight, bias = conv.weight * gain.transpose(0, 1), conv.bias * gain.flatten() + offset.flatten()
        return x + F.conv2d(h, weight, bias)
    return torch.addcmul(x + offset.to(x.dtype), conv(h), gain.to(x.dtype))


def trimmed(x: Tensor, cut: Sides, by: int) -> Tensor:
    """x [B, C, H, W] without `by` rows and columns on the sides that are `cut`."""
    if by == 0 or cut == UNCUT:
        return x
    top, left, bottom, right = (by * side for side in cut)
    return x[:, :, top : x.shape[2] - bottom, left : x.shape[3] - right]


class DepthConvBlock(nn.Module):
    """Residual block: 1x1, leaky ReLU, depthwise 3x3, 1x1; then a gated 1x1 pair.

    Shape [B, C, H, W] -> the same. The last 1x1 of each branch starts at zero, so the block starts
    as the identity. With `knots` each branch has an offset and a gain for each quality [B]. On the sides where x is
    `cut` out of something larger, the outermost row or column, which depends on what is missing, is left out.
    After DCVC-RT (Jia et al., CVPR 2025), 5 C^2 + 9 C MAC a position.
    """

    def __init__(self, channels: int, knots: int = 0) -> None:
        super().__init__()
        self.expand = nn.Conv2d(channels, channels, 1)
        self.depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.project = nn.Conv2d(channels, channels, 1)
        self.gate = nn.Conv2d(channels, 2 * channels, 1)
        self.mix = nn.Conv2d(channels, channels, 1)
        self.by_quality = QualityTable(knots, 4 * channels) if knots else None
        for last in (self.project, self.mix):
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, quality: Tensor | None = None, cut: Sides = UNCUT) -> Tensor:
        first = second = None
        if self.by_quality is not None:
            assert quality is not None
            first, second = self.by_quality(quality).chunk(2, dim=1)
        around = self.depthwise(F.leaky_relu(self.expand(x), 0.1))
        x = add_by_quality(trimmed(x, cut, 1), self.project, trimmed(around, cut, 1), first)
        u, v = self.gate(x).chunk(2, dim=1)
        return add_by_quality(x, self.mix, u * torch.sigmoid(v), second)


class Blocks(nn.ModuleList):
    """Blocks of one width in sequence: x [B, C, H, W] and quality [B] -> the same shape, each less 1 on `cut` sides."""

    def __init__(self, channels: int, depth: int, knots: int) -> None:
        super().__init__(DepthConvBlock(channels, knots) for _ in range(depth))

    def forward(self, x: Tensor, quality: Tensor, cut: Sides = UNCUT) -> Tensor:
        for block in self:
            x = block(x, quality, cut)
        return x


def dct_basis() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Orthonormal 16x16 DCT in an orthonormal luma-chroma space, highest energy first.

    Returns (basis [768, 768], std [768]). A row of `basis` maps the pixels of a 16x16 RGB block in
    the order of ``pixel_unshuffle(x, 16)`` (color, row, column) to one coefficient; `std` is that
    coefficient's standard deviation on photographs (255 scale), from a fit
    ``log std = a + b log(rho) + c rho`` over the frequency radius rho.
    """
    basis = dct_planes().reshape(768, 768)
    n = np.arange(16)
    rho = np.hypot(n[:, None], n[None])
    rho[0, 0] = 1.0
    std = np.empty((3, 16, 16))
    fit = ((1520.0, 5.511, -0.611, -0.1126), (733.0, 4.492, -0.937, -0.1005), (282.0, 3.776, -0.717, -0.1287))
    for plane, (dc, a, b, c) in enumerate(fit):
        std[plane] = np.exp(a + b * np.log(rho) + c * rho)
        std[plane, 0, 0] = dc
    flat = std.reshape(768)
    order = np.argsort(-flat, kind="stable")
    return basis[order], flat[order]


def dct_planes() -> NDArray[np.float64]:
    """The rows of `dct_basis` by plane (luma, two of chroma), vertical and horizontal frequency: [3, 16, 16, 768]."""
    n = np.arange(16)
    dct = np.sqrt(2 / 16) * np.cos(np.pi * (2 * n[None] + 1) * n[:, None] / 32)
    dct[0] /= np.sqrt(2)
    color = np.array([[1.0, 1.0, 1.0], [1.0, 0.0, -1.0], [1.0, -2.0, 1.0]])
    color /= np.linalg.norm(color, axis=1, keepdims=True)
    planes: NDArray[np.float64] = np.einsum("pc,ui,vj->puvcij", color, dct, dct).reshape(3, 16, 16, 768)
    return planes


def channel_order(channels: int) -> NDArray[np.int64]:
    """Energy rank of each y channel: ranks are dealt out to the channel groups in turn."""
    return np.arange(channels).reshape(channels // GROUPS, GROUPS).T.reshape(-1)


def channel_scale(std: NDArray[np.float64]) -> NDArray[np.float64]:
    """Natural unit of each channel of y, in 255-scale coefficient units.

    Halves the dynamic range (in log) between the DC and the highest frequency, so that the networks
    see numbers near one.
    """
    return np.sqrt(std * 10.0)


def step_for_lmbda(lmbda: float) -> float:
    """Uniform quantiser step, in 255-scale coefficient units, that theory gives for `lmbda`.

    From d(bits)/d(MSE) at high rate with 3 samples a pixel: step^2 = 18 / (lmbda ln 2).
    """
    return math.sqrt(18.0 / (lmbda * math.log(2.0)))
