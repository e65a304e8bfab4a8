"""MeanNet: h_s and the context model that predicts the mean of every y, in four passes.

An ordinary float network. Its output is only ever added after decoding, so no rounding difference
between machines can reach the range coder.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nncodec import quadtree
from nncodec.config import GROUPS, PASSES, ModelConfig
from nncodec.nets.blocks import DepthConvBlock, QualityTable


class GroupedHead(nn.Module):
    """1x1 convolution that evaluates each channel group only where a pass codes it.

    [B, C, H, W] -> [B, N, H/2, W/2].
    """

    def __init__(self, width: int, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(channels, width, 1, 1))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, h: Tensor, pass_index: int) -> Tensor:
        size = self.weight.shape[0] // GROUPS
        outputs = []
        for group in range(GROUPS):
            row, column = quadtree.position(pass_index, group)
            rows = slice(group * size, (group + 1) * size)
            outputs.append(F.conv2d(h[:, :, row::2, column::2], self.weight[rows], self.bias[rows]))
        return torch.cat(outputs, dim=1)


class MeanNet(nn.Module):
    """h_s and context: `features` once, then `means` for each pass."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        c, width, n = config.hyper_width, config.mean_width, config.y_channels
        self.up64 = nn.Conv2d(config.z_channels, 4 * c, 1)
        self.block32 = DepthConvBlock(c)
        self.up32 = nn.Conv2d(c, 4 * c, 1)
        self.block16 = DepthConvBlock(c)
        self.first = nn.Conv2d(c, width, 1)
        self.adaptors = nn.ModuleList(nn.Conv2d(c + n, width, 1) for _ in range(PASSES - 1))
        self.quality_bias = nn.ModuleList(QualityTable(config.knots, width) for _ in range(PASSES))
        self.trunk = DepthConvBlock(width)
        self.heads = nn.ModuleList(GroupedHead(width, n) for _ in range(PASSES))

    def features(self, z_hat: Tensor) -> Tensor:
        """z_hat [B, Cz, H/64, W/64] -> features [B, C, H/16, W/16]."""
        h = self.block32(F.pixel_shuffle(self.up64(z_hat), 2))
        return self.block16(F.pixel_shuffle(self.up32(h), 2))

    def means(self, features: Tensor, context: Tensor, quality: Tensor, pass_index: int) -> Tensor:
        """Means [B, N, H/32, W/32] of one pass, in natural units.

        `context` is y_hat [B, N, H/16, W/16] with zeros where nothing is decoded yet.
        """
        if pass_index == 0:
            h = self.first(features)
        else:
            h = self.adaptors[pass_index - 1](torch.cat((features, context.to(features.dtype)), dim=1))
        h = h + self.quality_bias[pass_index](quality)[:, :, None, None].to(h.dtype)
        h = self.trunk(F.leaky_relu(h, 0.1))
        return self.heads[pass_index](h, pass_index).float()
