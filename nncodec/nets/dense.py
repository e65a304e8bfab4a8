"""g_a and g_s of arch 'dense': fully connected transforms of small grey pictures of one size.

A picture of side x side pixels is one plane of 64x64 whose rest, the edge padding, they neither see nor code: its
latents y are [N, 4, 4], and no z. A linear path, which training starts as principal components, runs beside
each network.
"""

from __future__ import annotations

from typing import NamedTuple

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
START_STD = 150.0
"""Standard deviation of a value of y before any picture was seen, in 255-scale coefficient units."""


class Components(NamedTuple):
    """Principal components of pictures of P pixels, 255 scale: mean [P], orthonormal basis [16 N, P], std [N].

    A channel of y holds 16 components that follow each other; `std` is their root mean square.
    """

    mean: NDArray[np.float64]
    basis: NDArray[np.float64]
    std: NDArray[np.float64]


def principal_components(pictures: NDArray[np.uint8], channels: int) -> Components:
    """Of pictures u8 [n, side, side], those of most variance first."""
    x = pictures.reshape(len(pictures), -1).astype(np.float32)
    mean = x.mean(0, dtype=np.float64)
    x -= mean.astype(np.float32)
    variances, vectors = np.linalg.eigh((x.T @ x).astype(np.float64) / len(x))
    kept = POSITIONS * channels
    std = np.sqrt(variances[::-1][:kept].clip(min=0.0).reshape(channels, POSITIONS).mean(1))
    return Components(mean, vectors.T[::-1][:kept].copy(), np.maximum(std, 1.0))


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

    @torch.no_grad()
    def start(self, of: Components) -> None:
        """Make the linear path that of principal components."""
        rows = of.basis / channel_scale(of.std).repeat(POSITIONS)[:, None]
        self.net.linear.weight.copy_(torch.from_numpy(rows * (255.0 / PIXEL_SCALE)))
        self.net.head.bias.copy_(torch.from_numpy(rows @ (127.5 - of.mean)))

    def forward(self, x: Tensor, quality: Tensor) -> Tensor:
        if x.shape[2:] != (Z_STRIDE, Z_STRIDE):
            raise InputError(f"these weights code pictures of {self.side}x{self.side} pixels; take others")
        grey = x[:, :, : self.side, : self.side].mean(1)
        y = self.net((grey.flatten(1) - 0.5) * PIXEL_SCALE, quality).float()
        return y.view(len(x), self.channels, *(Z_STRIDE // Y_STRIDE,) * 2)


class DenseSynthesis(nn.Module):
    """g_s: y_hat [B, N, 4, 4] and quality [B] -> x_hat [B, 3, 64, 64], unclamped: equal channels, 0 in the rest.

    In training mode the picture alone: [B, 1, side, side].
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.side = config.side
        values, pixels = POSITIONS * config.y_channels, config.side**2
        self.net = _Dense(values, pixels, config.decoder_width16, config.decoder_depth16, config.knots)

    @torch.no_grad()
    def start(self, of: Components) -> None:
        """Make the linear path that of principal components."""
        rows = of.basis * channel_scale(of.std).repeat(POSITIONS)[:, None] * (PIXEL_SCALE / 255.0)
        self.net.linear.weight.copy_(torch.from_numpy(rows.T.copy()))
        self.net.head.bias.copy_(torch.from_numpy((of.mean - 127.5) * (PIXEL_SCALE / 255.0)))

    def forward(self, y_hat: Tensor, quality: Tensor) -> Tensor:
        grey = self.net(y_hat.flatten(1), quality).float() * (1 / PIXEL_SCALE) + 0.5
        picture, rest = grey.view(-1, 1, self.side, self.side), Z_STRIDE - self.side
        if self.training:
            return picture
        plane = F.pad(picture, (0, rest, 0, rest))
        return plane.expand(-1, 3, -1, -1)


class NoHyper(nn.Module):
    """h_a of arch 'dense': y [B, N, h, w] -> z [B, Cz, h/4, w/4] of zeros, which are never coded."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.channels = config.z_channels

    def forward(self, y: Tensor, quality: Tensor) -> Tensor:
        stride = Z_STRIDE // Y_STRIDE
        return y.new_zeros(len(y), self.channels, y.shape[2] // stride, y.shape[3] // stride)
