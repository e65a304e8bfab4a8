"""Classic g_a and g_s, to be compared with those of `transforms` under the same gains, entropy model and bitstream.

Knows shapes and strides; quantization and entropy coding are elsewhere. Of the depths of a ModelConfig nothing is
used: every arch has its own. The 3x3 kernels have the cost of the 1x1 stacks that they replace, about 6 kMAC/px.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nncodec.config import ModelConfig
from nncodec.nets.blocks import QualityTable, scale_by
from nncodec.nets.transforms import PIXEL_SCALE

SLOPE = 0.1
"""Of leaky ReLUs below zero."""
HEADS_MAX = 4
"""Most heads of an attention layer; they divide its channels."""


def _share(width: int, by: int) -> int:
    return math.ceil(width / by)


def _started(net: nn.Module) -> None:
    """Start every convolution such that its outputs are as large as its inputs (He et al. 2015)."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.kaiming_normal_(module.weight, SLOPE)
            nn.init.zeros_(module.bias)  # type: ignore[arg-type]


class BatchNorm(nn.Module):
    """Batch normalization (Ioffe and Szegedy 2015). Its state is float32 alone, as weights files want it."""

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, self.training)


def _normed(conv: nn.Module, channels: int, *after: nn.Module) -> nn.Sequential:
    return nn.Sequential(conv, BatchNorm(channels), nn.LeakyReLU(SLOPE), *after)


def _halving(inputs: int, outputs: int) -> nn.Module:
    return nn.Conv2d(inputs, outputs, 3, stride=2, padding=1)


def _doubling(inputs: int, outputs: int) -> nn.Module:
    return nn.ConvTranspose2d(inputs, outputs, 3, stride=2, padding=1, output_padding=1)


class BaselineAnalysis(nn.Module):
    """g_a of four 3x3 convolutions of stride 2, with batch norm and leaky ReLU between them.

    x [B, 3, H, W] f32 in [0, 1] and quality [B] -> y [B, N, H/16, W/16] in natural units.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        c2, c4, c8 = _share(config.encoder_width8, 2), config.encoder_width8, config.encoder_width16
        self.stages = nn.Sequential(self.stage(3, c2), self.stage(c2, c4), self.stage(c4, c8))
        self.log_gain = QualityTable(config.knots, c8)
        self.head = self.last(c8, config.y_channels)
        _started(self)

    def stage(self, inputs: int, outputs: int) -> nn.Module:
        """Halves height and width."""
        return _normed(_halving(inputs, outputs), outputs)

    def last(self, inputs: int, outputs: int) -> nn.Module:
        """The stage that makes y."""
        return _halving(inputs, outputs)

    def forward(self, x: Tensor, quality: Tensor) -> Tensor:
        h = self.stages((x - 0.5) * PIXEL_SCALE)
        return self.head(scale_by(h, self.log_gain(quality))).float()


class PoolingAnalysis(BaselineAnalysis):
    """`BaselineAnalysis` with convolutions of stride 1 and max pooling after each."""

    def stage(self, inputs: int, outputs: int) -> nn.Module:
        return _normed(nn.Conv2d(inputs, outputs, 3, padding=1), outputs, nn.MaxPool2d(2))

    def last(self, inputs: int, outputs: int) -> nn.Module:
        return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1), nn.MaxPool2d(2))


class BaselineSynthesis(nn.Module):
    """g_s of four transposed 3x3 convolutions of stride 2, with batch norm and leaky ReLU between them.

    y_hat [B, N, H/16, W/16] in natural units and quality [B] -> x_hat [B, 3, H, W], unclamped.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        c8, c4, c2 = config.decoder_width16, config.decoder_width8, _share(config.decoder_width8, 2)
        self.stem = _normed(_doubling(config.y_channels, c8), c8)
        self.log_gain = QualityTable(config.knots, c8)
        self.stages = nn.Sequential(_normed(_doubling(c8, c4), c4), _normed(_doubling(c4, c2), c2))
        self.head = _doubling(c2, 3)
        _started(self)

    def forward(self, y_hat: Tensor, quality: Tensor) -> Tensor:
        h = self.stages(scale_by(self.stem(y_hat), self.log_gain(quality)))
        return self.head(h).float() * (1 / PIXEL_SCALE) + 0.5


class ResidualBlock(nn.Module):
    """x plus two 3x3 convolutions of it, the second of which starts at zero: [B, C, H, W] -> the same.

    No batch norm: the block trains without it, and pixels come out closer (EDSR, Lim et al. 2017). Of the channels
    between the convolutions training drops a share `dropout.p`, which `train --dropout` sets.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.dropout = nn.Dropout2d(0.0)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(self.dropout(F.leaky_relu(self.first(x), SLOPE)))


class Attention(nn.Module):
    """x plus what every position sees in all others: [B, C, h, w] -> the same; starts as the identity.

    The positions are those of one window of pixels, so beyond 1024 pixels a side the result depends on windows.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.heads = math.gcd(channels, HEADS_MAX)
        self.ask = nn.Conv2d(channels, 3 * channels, 1)
        self.project = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        normed = F.layer_norm(x.permute(0, 2, 3, 1), (c,)).permute(0, 3, 1, 2)
        # [B, 3, heads, c / heads, h w], positions before channels as the kernel wants them
        q, k, v = self.ask(normed).reshape(b, 3, self.heads, c // self.heads, h * w).mT.unbind(1)
        seen = F.scaled_dot_product_attention(q, k, v)
        return x + self.project(seen.mT.reshape(b, c, h, w))


class Upsample(nn.Module):
    """A convolution to four times the channels and a pixel shuffle: [B, C, h, w] -> [B, C', 2h, 2w].

    Its four phases start equal, so that it starts as nearest-neighbor upsampling, free of checkerboards (ICNR,
    Aitken et al. 2017). A transposed convolution reaches neighboring pixels with unequal numbers of taps; upsampling
    first and convolving then needs the same multiplications for a 3x3 kernel and four times the memory traffic.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, 4 * outputs, kernel, padding=kernel // 2)

    @torch.no_grad()
    def start(self) -> None:
        """Give the four phases of each channel the first one's weights."""
        weight = self.conv.weight
        weight.copy_(weight[::4].repeat_interleave(4, dim=0))

    def forward(self, x: Tensor) -> Tensor:
        return F.pixel_shuffle(self.conv(x), 2)


def _enhanced_start(net: nn.Module) -> None:
    """`_started`, but residual branches start as nothing and pixel shuffles without a checkerboard."""
    _started(net)
    for module in net.modules():
        if isinstance(module, ResidualBlock):
            nn.init.zeros_(module.second.weight)
        elif isinstance(module, Attention):
            nn.init.zeros_(module.project.weight)
        elif isinstance(module, Upsample):
            module.start()


class EnhancedAnalysis(nn.Module):
    """g_a of strided convolutions and residual blocks, with self-attention at stride 16.

    x [B, 3, H, W] f32 in [0, 1] and quality [B] -> y [B, N, H/16, W/16] in natural units.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        c8, c16 = config.encoder_width8, config.encoder_width16
        c2, c4 = _share(c8, 4), _share(c8, 2)
        self.stages = nn.Sequential(
            _halving(3, c2), nn.LeakyReLU(SLOPE),
            _halving(c2, c4), nn.LeakyReLU(SLOPE), ResidualBlock(c4),
            _halving(c4, c8), nn.LeakyReLU(SLOPE), ResidualBlock(c8),
        )  # fmt: skip
        self.log_gain = QualityTable(config.knots, c8)
        self.bottleneck = nn.Sequential(
            _halving(c8, c16), nn.LeakyReLU(SLOPE), ResidualBlock(c16), Attention(c16)
        )  # fmt: skip
        self.head = nn.Conv2d(c16, config.y_channels, 1)
        _enhanced_start(self)

    def forward(self, x: Tensor, quality: Tensor) -> Tensor:
        h = self.stages((x - 0.5) * PIXEL_SCALE)
        return self.head(self.bottleneck(scale_by(h, self.log_gain(quality)))).float()


class EnhancedSynthesis(nn.Module):
    """g_s of self-attention at stride 16, residual blocks and pixel shuffles.

    y_hat [B, N, H/16, W/16] in natural units and quality [B] -> x_hat [B, 3, H, W], unclamped.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        c16, c8 = config.decoder_width16, config.decoder_width8
        c4, c2 = _share(c8, 2), _share(c8, 4)
        self.stem = nn.Conv2d(config.y_channels, c16, 1)
        self.log_gain = QualityTable(config.knots, c16)
        self.stages = nn.Sequential(
            Attention(c16), ResidualBlock(c16),
            Upsample(c16, c8), nn.LeakyReLU(SLOPE), ResidualBlock(c8),
            Upsample(c8, c4), nn.LeakyReLU(SLOPE), ResidualBlock(c4),
            Upsample(c4, c2), nn.LeakyReLU(SLOPE),
        )  # fmt: skip
        self.head = Upsample(c2, 3, kernel=3)
        _enhanced_start(self)

    def forward(self, y_hat: Tensor, quality: Tensor) -> Tensor:
        h = self.stages(scale_by(self.stem(y_hat), self.log_gain(quality)))
        return self.head(h).float() * (1 / PIXEL_SCALE) + 0.5
