"""g_a, g_s and h_a: pixels to latents y, latents y to pixels, latents y to hyper-latents z.

Knows shapes and strides; quantisation and entropy coding are elsewhere.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nncodec.config import ModelConfig
from nncodec.nets.blocks import (
    Blocks,
    DepthConvBlock,
    QualityTable,
    add_by_quality,
    channel_order,
    channel_scale,
    dct_basis,
    scale_by,
    trimmed,
)
from nncodec.tiling import UNCUT, Sides

PIXEL_SCALE = 8.0
"""The networks see (x - 0.5) * PIXEL_SCALE."""


def _zero(conv: nn.Conv2d) -> nn.Conv2d:
    nn.init.zeros_(conv.weight)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    return conv


class AnalysisTransform(nn.Module):
    """g_a: x [B, 3, H, W] f32 in [0, 1] and quality [B] -> y [B, N, H/16, W/16] in natural units.

    A linear path that starts as a 16x16 DCT runs beside the network (AuxT, Li et al. 2025).
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        c8, c16, n = config.encoder_width8, config.encoder_width16, config.y_channels
        self.linear = nn.Conv2d(768, n, 1, bias=False)
        self.stem = nn.Conv2d(192, c8, 1)
        self.blocks8 = Blocks(c8, config.encoder_depth8, config.block_knots)
        self.log_gain8 = QualityTable(config.knots, c8)
        self.down = nn.Conv2d(4 * c8, c16, 1)
        self.blocks16 = Blocks(c16, config.encoder_depth16, config.block_knots)
        self.head = _zero(nn.Conv2d(c16, n, 1))
        basis, std = dct_basis()
        order = channel_order(n)
        rows = basis[order] * (255.0 / PIXEL_SCALE) / channel_scale(std[order])[:, None]
        with torch.no_grad():
            self.linear.weight.copy_(torch.from_numpy(rows)[:, :, None, None])

    def forward(self, x: Tensor, quality: Tensor) -> Tensor:
        x = (x - 0.5) * PIXEL_SCALE
        linear = self.linear(F.pixel_unshuffle(x, 16))
        h = self.blocks8(self.stem(F.pixel_unshuffle(x, 8)), quality)
        h = self.down(F.pixel_unshuffle(scale_by(h, self.log_gain8(quality)), 2))
        h = self.head(self.blocks16(h, quality))
        return linear.float() + h.float()


class SynthesisTransform(nn.Module):
    """g_s: y_hat [B, N, H/16, W/16] in natural units and quality [B] -> x_hat [B, 3, H, W], unclamped.

    On the sides where y_hat is `cut` out of a larger picture, x_hat leaves out `config.synthesis_halo` pixels, which
    depend on what is missing.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        c8, c16, n = config.decoder_width8, config.decoder_width16, config.y_channels
        self.halo = config.synthesis_halo
        self.linear = nn.Conv2d(n, 768, 1, bias=False)
        self.stem = nn.Conv2d(n, c16, 1)
        self.log_gain16 = QualityTable(config.knots, c16)
        self.blocks16 = Blocks(c16, config.decoder_depth16, config.block_knots)
        self.up = nn.Conv2d(c16, 4 * c8, 1)
        # The linear path's pixels: hiding the seams of its blocks needs them, and to find them again
        # from y_hat the network would first have to learn the inverse transform.
        self.from_pixels = _zero(nn.Conv2d(192, c8, 1))
        self.pixels_by_quality = QualityTable(config.block_knots, 2 * c8) if config.block_knots else None
        self.blocks8 = Blocks(c8, config.decoder_depth8, config.block_knots)
        self.log_gain8 = QualityTable(config.knots, c8)
        self.head = _zero(nn.Conv2d(c8, 192, 1))
        basis, std = dct_basis()
        order = channel_order(n)
        columns = (basis[order] * (PIXEL_SCALE / 255.0) * channel_scale(std[order])[:, None]).T
        with torch.no_grad():
            self.linear.weight.copy_(torch.from_numpy(columns.copy())[:, :, None, None])

    def forward(self, y_hat: Tensor, quality: Tensor, cut: Sides = UNCUT) -> Tensor:
        linear = F.pixel_shuffle(self.linear(trimmed(y_hat, cut, len(self.blocks16))), 16)
        h = self.blocks16(scale_by(self.stem(y_hat), self.log_gain16(quality)), quality, cut)
        table = self.pixels_by_quality(quality) if self.pixels_by_quality is not None else None
        h = add_by_quality(F.pixel_shuffle(self.up(h), 2), self.from_pixels, F.pixel_unshuffle(linear, 8), table)
        h = self.blocks8(h, quality, cut)
        h = F.pixel_shuffle(self.head(scale_by(h, self.log_gain8(quality))), 8)
        linear = trimmed(linear, cut, 8 * len(self.blocks8))
        x_hat = (linear.float() + h.float()) * (1 / PIXEL_SCALE) + 0.5
        return trimmed(x_hat, cut, self.halo - 16 * len(self.blocks16) - 8 * len(self.blocks8))


class HyperAnalysis(nn.Module):
    """h_a: y [B, N, H/16, W/16] and quality [B] -> z [B, Cz, H/64, W/64] in quantisation steps."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        c, n = config.hyper_width, config.y_channels
        self.stem = nn.Conv2d(2 * n, c, 1)
        self.log_gain = QualityTable(config.knots, c)
        self.block16 = DepthConvBlock(c)
        self.down32 = nn.Conv2d(4 * c, c, 1)
        self.block32 = DepthConvBlock(c)
        self.down64 = nn.Conv2d(4 * c, config.z_channels, 1)

    def forward(self, y: Tensor, quality: Tensor) -> Tensor:
        # log |y| is the local energy the scales want, y itself what the means want.
        h = scale_by(self.stem(torch.cat((y, torch.log1p(y.abs())), dim=1)), self.log_gain(quality))
        h = self.block16(F.leaky_relu(h, 0.1))
        h = self.block32(self.down32(F.pixel_unshuffle(h, 2)))
        return self.down64(F.pixel_unshuffle(h, 2)).float()
