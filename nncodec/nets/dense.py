"""g_a and g_s of arch 'dense': fully connected transforms of small grey pictures of one size.

A picture of side x side pixels is one plane of 64x64 whose rest, the edge padding, they neither see nor code: its
latents y are [N, 4, 4], and no z. A linear path that starts as a DCT of the whole picture runs beside each network.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from nncodec.config import Y_STRIDE, Z_STRIDE, ModelConfig
from nncodec.errors import InputError
from nncodec.nets.blocks import QualityTable, channel_scale
from nncodec.nets.transforms import PIXEL_SCALE

POSITIONS = (Z_STRIDE // Y_STRIDE) ** 2
"""Latent positions of y in a plane of 64x64."""


def dct_basis(config: ModelConfig) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Orthonormal DCT of a grey picture, lowest frequencies first: as many as y has values.

    Returns (basis [16 N, side^2], std [N]): a channel of y holds 16 frequencies that follow each other, `std` is their
    root mean square (255 scale) by ``log std = 6.1 - 0.6 log(rho) - 0.06 rho``, 900 for the mean: a fit to
    Fashion-MNIST, and no more than where training starts.
    """
    n = np.arange(config.side)
    dct = np.sqrt(2 / config.side) * np.cos(np.pi * (2 * n[None] + 1) * n[:, None] / (2 * config.side))
    dct[0] /= np.sqrt(2)
    rho = np.hypot(n[:, None], n[None]).reshape(-1)
    order = np.argsort(rho, kind="stable")[: POSITIONS * config.y_channels]
    basis = np.einsum("ui,vj->uvij", dct, dct).reshape(rho.size, rho.size)[order]
    rho = np.maximum(rho[order], 1.0)
    std = np.exp(6.1 - 0.6 * np.log(rho) - 0.06 * rho)
    std[0] = 900.0
    return basis, np.sqrt(np.square(std).reshape(config.y_channels, POSITIONS).mean(1))


class _Block(nn.Module):
    """Residual pair of fully connected layers, [B, C] -> [B, C]; starts as the identity."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.expand = nn.Linear(width, width)
        self.project = nn.Linear(width, width)
        nn.init.zeros_(self.project.weight)
        nn.init.zeros_(self.project.bias)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.project(F.leaky_relu(self.expand(x), 0.1))


class _Dense(nn.Module):
    """[B, ins] and quality [B] -> [B, outs]: linear path plus network."""

    def __init__(self, ins: int, outs: int, width: int, depth: int, knots: int) -> None:
        super().__init__()
        self.linear = nn.Linear(ins, outs, bias=False)
        self.stem = nn.Linear(ins, width)
        self.log_gain = QualityTable(knots, width)
        self.bias = QualityTable(knots, width)
        self.blocks = nn.Sequential(*(_Block(width) for _ in range(depth)))
        self.head = nn.Linear(width, outs)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, x: Tensor, quality: Tensor) -> Tensor:
        h = self.stem(x) * self.log_gain(quality).exp() + self.bias(quality)
        return self.linear(x) + self.head(F.leaky_relu(self.blocks(h), 0.1))


class DenseAnalysis(nn.Module):
    """g_a: x [B, 3, 64, 64] f32 in [0, 1] and quality [B] -> y [B, N, 4, 4]. Color is ignored."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.side, self.channels = config.side, config.y_channels
        values, pixels = POSITIONS * config.y_channels, config.side**2
        self.net = _Dense(pixels, values, config.encoder_width16, config.encoder_depth16, config.knots)
        basis, std = dct_basis(config)
        rows = basis * (255.0 / PIXEL_SCALE) / channel_scale(std).repeat(POSITIONS)[:, None]
        with torch.no_grad():
            self.net.linear.weight.copy_(torch.from_numpy(rows))

    def forward(self, x: Tensor, quality: Tensor) -> Tensor:
        if x.shape[2:] != (Z_STRIDE, Z_STRIDE):
            raise InputError(f"these weights code pictures of {self.side}x{self.side} pixels; take others")
        grey = x[:, :, : self.side, : self.side].mean(1)
        y = self.net((grey.flatten(1) - 0.5) * PIXEL_SCALE, quality).float()
        return y.view(len(x), self.channels, *(Z_STRIDE // Y_STRIDE,) * 2)


class DenseSynthesis(nn.Module):
    """g_s: y_hat [B, N, 4, 4] and quality [B] -> x_hat [B, 3, 64, 64], unclamped: equal channels, edge repeated."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.side = config.side
        values, pixels = POSITIONS * config.y_channels, config.side**2
        self.net = _Dense(values, pixels, config.decoder_width16, config.decoder_depth16, config.knots)
        basis, std = dct_basis(config)
        columns = (basis * (PIXEL_SCALE / 255.0) * channel_scale(std).repeat(POSITIONS)[:, None]).T
        with torch.no_grad():
            self.net.linear.weight.copy_(torch.from_numpy(columns.copy()))

    def forward(self, y_hat: Tensor, quality: Tensor) -> Tensor:
        grey = self.net(y_hat.flatten(1), quality).float() * (1 / PIXEL_SCALE) + 0.5
        rest = Z_STRIDE - self.side
        plane = F.pad(grey.view(-1, 1, self.side, self.side), (0, rest, 0, rest), mode="replicate")
        return plane.expand(-1, 3, -1, -1)


class NoHyper(nn.Module):
    """h_a of arch 'dense': y [B, N, h, w] -> z [B, Cz, h/4, w/4] of zeros, which are never coded."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.channels = config.z_channels

    def forward(self, y: Tensor, quality: Tensor) -> Tensor:
        stride = Z_STRIDE // Y_STRIDE
        return y.new_zeros(len(y), self.channels, y.shape[2] // stride, y.shape[3] // stride)
