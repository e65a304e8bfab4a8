"""CodecNet: every network of one model, and the training-time pass through all of them.

Knows tensors; files, integers and tables are in `weights`, `intnet` and `entropy`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from nncodec import quadtree
from nncodec.config import (
    BASELINE,
    CODEC,
    DENSE,
    ENHANCED,
    GROUPS,
    PASSES,
    POOLING,
    QUALITIES,
    SCALE_INDEX_MAX,
    SCALE_MAX,
    SCALE_MIN,
    VARIATIONAL,
    Z_MAX,
    ModelConfig,
)
from nncodec.errors import InputError
from nncodec.freqs import FIRST
from nncodec.nets.blocks import QualityTable, channel_order, channel_scale, dct_basis, step_for_lmbda, trimmed
from nncodec.nets.classic import (
    BaselineAnalysis,
    BaselineSynthesis,
    EnhancedAnalysis,
    EnhancedSynthesis,
    PoolingAnalysis,
)
from nncodec.nets.dense import START_STD, DenseAnalysis, DenseSynthesis, NoHyper, principal_components
from nncodec.nets.means import MeanNet
from nncodec.nets.scales import INDEX_UNIT, ScaleNet, gaussian_bits, magnitude
from nncodec.nets.transforms import AnalysisTransform, HyperAnalysis, SynthesisTransform
from nncodec.tiling import Sides

TRANSFORMS: dict[str, tuple[type[nn.Module], type[nn.Module]]] = {
    CODEC: (AnalysisTransform, SynthesisTransform),
    BASELINE: (BaselineAnalysis, BaselineSynthesis),
    POOLING: (PoolingAnalysis, BaselineSynthesis),
    ENHANCED: (EnhancedAnalysis, EnhancedSynthesis),
    VARIATIONAL: (BaselineAnalysis, BaselineSynthesis),
    DENSE: (DenseAnalysis, DenseSynthesis),
}
"""g_a and g_s of each arch of `config.ARCHS`; made from a ModelConfig, called with (x or y_hat, quality)."""

OTHER_SPREAD = 40.0
"""Guess at the standard deviation, on the 255 scale, that a natural unit of y stands for without a DCT path."""


class Latents(NamedTuple):
    """Decoded latents [B, N, H/16, W/16] in natural units and estimated bits [B] of y and z."""

    y_hat: Tensor
    y_bits: Tensor
    z_bits: Tensor


class TrainOutput(NamedTuple):
    """Reconstruction [B, 3, H, W] and estimated bits [B] of y and z."""

    x_hat: Tensor
    y_bits: Tensor
    z_bits: Tensor


Chooser = Callable[[Tensor, Tensor], Tensor]
"""Residuals in steps and rows of tables (uint8, see `freqs`), of one shape, to integers (as float)."""

Pricer = Callable[[Tensor, Tensor], Tensor]
"""Values in steps, integers or not, and rows of tables (uint8), of one shape, to bits; with a gradient to values."""


class Coding(NamedTuple):
    """What a pass knows of how files code residuals: without `choose` they are rounded, without `price` Gaussian."""

    choose: Chooser | None = None
    price: Pricer | None = None


PLAIN = Coding()


def ste_round(x: Tensor) -> Tensor:
    """round(x) with the gradient of x."""
    return x + (x.round() - x).detach()


def quadtree_pass(x: Tensor, pass_index: int) -> Tensor:
    """What one pass codes of x [B, N, H, W], as [B, N, H/2, W/2]."""
    groups = [quadtree.group_slice(x, pass_index, group) for group in range(GROUPS)]
    return torch.cat(groups, dim=1)


def placed(net: CodecNet, device: str | torch.device) -> CodecNet:
    """`net` on `device`, weights in channels-last order, which is what its inputs are in."""
    net.to(device)
    net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return net


class CodecNet(nn.Module):
    """g_a, h_a, the mean net, the scale net's float twin, g_s and the gains."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        analysis, synthesis = TRANSFORMS[config.arch]
        self.g_a = analysis(config)
        self.h_a = NoHyper(config) if config.arch == DENSE else HyperAnalysis(config)
        self.mean_net = MeanNet(config)
        self.scale_net = ScaleNet(config)
        self.g_s = synthesis(config)
        self.log_gain = QualityTable(config.knots, config.y_channels)
        self._start_from_theory()

    def _start_from_theory(self) -> None:
        """Gains and scales such that the untrained model is a transform codec at every quality.

        Without the DCT path, which alone knows its channels, all start as one of spread OTHER_SPREAD.
        """
        channels = self.config.y_channels
        if self.config.arch == CODEC:
            std = dct_basis()[1][channel_order(channels)]
            self._start_gains(std, channel_scale(std))
        elif self.config.arch == DENSE:
            std = np.full(channels, START_STD)
            self._start_gains(std, channel_scale(std))
            self.scale_net.z_index.requires_grad_(False)  # z is never coded
        else:
            std = np.full(channels, OTHER_SPREAD)
            self._start_gains(std, std)

    def start_from(self, pictures: NDArray[np.uint8]) -> None:
        """Make the linear paths of arch 'dense' principal components of pictures u8 [n, side, side]."""
        components = principal_components(pictures, self.config.y_channels)
        self.g_a.start(components)  # type: ignore[operator]
        self.g_s.start(components)  # type: ignore[operator]
        self._start_gains(components.std, channel_scale(components.std))

    @torch.no_grad()
    def _start_gains(self, std: NDArray[np.float64], scale: NDArray[np.float64]) -> None:
        """Gains and scales for channels of these standard deviations and natural units (255 scale)."""
        per_index = math.log(SCALE_MAX / SCALE_MIN) / SCALE_INDEX_MAX
        finer = 3**-0.5 if self.config.side else 1.0  # a grey pixel is one sample, where theory has three
        for knot in range(self.config.knots):
            quality = 1 + knot * (QUALITIES - 1) / (self.config.knots - 1)
            step = finer * step_for_lmbda(self.config.lmbda(quality))
            self.log_gain.rows[knot] = torch.from_numpy(scale / step).log()
            index = torch.from_numpy(std / step / SCALE_MIN).log() / per_index
            self.scale_net.index_bias.rows[knot] = index.clamp(0, SCALE_INDEX_MAX) / INDEX_UNIT
        z_index = 0.0 if self.config.arch == DENSE else math.log(1.0 / SCALE_MIN) / per_index / INDEX_UNIT
        self.scale_net.z_index.rows.fill_(z_index)

    @property
    def linear_path(self) -> Tensor:
        """Weight [768, N, 1, 1] of the linear path of g_s. Raises InputError where there is none."""
        if self.config.arch != CODEC:
            raise InputError(
                f"weights of arch {self.config.arch} have no linear path, which previews, --tune, vectors of pictures "
                "and, of photographs, efforts above 1 are made with; leave these out, or take other weights"
            )
        weight: Tensor = self.g_s.linear.weight  # type: ignore[union-attr, assignment]
        return weight

    def x_inside(self, y_hat: Tensor, quality: Tensor, cut: Sides) -> Tensor:
        """g_s of a window of a picture, without the halo `config.synthesis_halo` on the sides that are `cut`."""
        if self.config.arch == CODEC:  # which leaves it out on the way
            return self.g_s(y_hat, quality, cut)
        return trimmed(self.g_s(y_hat, quality), cut, self.config.synthesis_halo)

    def gain(self, quality: Tensor) -> Tensor:
        """Quantisation steps per natural unit, [B, N, 1, 1], for quality [B]."""
        return torch.exp(self.log_gain(quality).float())[:, :, None, None]

    def z_index(self, quality: Tensor) -> Tensor:
        """Unrounded scale index of z, [B, Cz, 1, 1]."""
        return INDEX_UNIT * self.scale_net.z_index(quality)[:, :, None, None]

    def _bits(
        self, value: Tensor, rounded: Tensor, index: Tensor, row: Tensor | None = None, price: Pricer | None = None
    ) -> Tensor:
        """Bits [B] of `rounded` under scale indices `index`, or under rows; see `latents` for the gradients."""
        if self.training:
            noisy = value + torch.empty_like(value).uniform_(-0.5, 0.5)
            soft = gaussian_bits(noisy, index.detach())
            if row is not None and price is not None:  # in row 0 a Gaussian has to say what it would cost
                soft = torch.where(row == 0, soft, price(noisy, row))
            hard = gaussian_bits(rounded.detach(), index)
            return (hard + soft - soft.detach()).sum((1, 2, 3))
        bits = gaussian_bits(rounded, index.round()) if row is None or price is None else price(rounded, row)
        return torch.where(index < 0.5, 0.0, bits).sum((1, 2, 3))

    def forward(
        self,
        x: Tensor,
        quality: Tensor,
        autocast: bool = False,
        factorized: bool = False,
        coding: Coding = PLAIN,
    ) -> TrainOutput:
        """`latents`, or with `factorized` `factorized_latents`, then g_s.

        A 'variational' model in training mode as `_variational` has it.
        """
        if self.training and self.config.arch == VARIATIONAL:
            return self._variational(x, quality, autocast)
        latents = self.factorized_latents(x, quality) if factorized else self.latents(x, quality, autocast, coding)
        return TrainOutput(self._synthesis(latents.y_hat, quality, autocast), latents.y_bits, latents.z_bits)

    def _variational(self, x: Tensor, quality: Tensor, autocast: bool) -> TrainOutput:
        """As a variational autoencoder (Kingma and Welling 2014) of posterior N(y, sigma^2) and prior N(0, 1).

        Sigma is that of the error of a quantizer with the gain's step. g_a and gains learn from the divergence of
        the two, in bits, and from what g_s makes of a sample; the entropy model, beside them, from its own bits
        of y. The bits returned are the latter's.
        """
        y = self._analysis(x, quality, autocast)
        gain = self.gain(quality)
        variance = 1 / (12 * gain.square())
        divergence = (y.square() + variance - variance.log() - 1).sum((1, 2, 3)) / (2 * math.log(2))
        x_hat = self._synthesis(y + variance.sqrt() * torch.randn_like(y), quality, autocast)
        coded = self._coded(y.detach(), gain.detach(), quality, autocast)
        return TrainOutput(x_hat, coded.y_bits + (divergence - divergence.detach()), coded.z_bits)

    def _analysis(self, x: Tensor, quality: Tensor, autocast: bool) -> Tensor:
        with torch.autocast(x.device.type, dtype=torch.bfloat16, enabled=autocast):
            return self.g_a(x, quality)

    def _synthesis(self, y_hat: Tensor, quality: Tensor, autocast: bool) -> Tensor:
        with torch.autocast(y_hat.device.type, dtype=torch.bfloat16, enabled=autocast):
            return self.g_s(y_hat, quality)

    def factorized_latents(self, x: Tensor, quality: Tensor) -> Latents:
        """`latents` in training, as if all heads of the mean and scale nets were still at the zero they start from.

        Neither net is run, so that a step of arch 'dense' takes a third of the time; z is left out.
        """
        y, gain = self.g_a(x, quality), self.gain(quality)
        residual = y * gain
        index = INDEX_UNIT * self.scale_net.index_bias(quality)[:, :, None, None]
        r_hat = ste_round(residual)
        bits = self._bits(residual, r_hat, index.expand_as(y))
        return Latents(r_hat / gain, bits, torch.zeros_like(bits))

    def latents(self, x: Tensor, quality: Tensor, autocast: bool = False, coding: Coding = PLAIN) -> Latents:
        """x [B, 3, H, W] f32 in [0, 1], H and W multiples of 64; quality [B] f32 in 1..100.

        In training mode the bits are those of the rounded values. The scales learn from exactly
        these; latents and means learn from the bits of values with additive uniform noise, which,
        unlike rounding, has a gradient. Synthesis and context see rounded values through a
        straight-through gradient. With `coding.choose` synthesis and context see what it picks instead, in training
        mode through the same gradient and with bits as before; with `coding.price` that says the bits of noisy values
        that latents and means learn from, where a Gaussian does otherwise (z is always a Gaussian's). In evaluation
        mode everything is rounded as the codec does it, skipped symbols included, or as `choose` says, and bits are
        those that `price` says. With `autocast` the convolutions of the float networks run in bfloat16; quantisation,
        scales and likelihoods never.
        """
        return self._coded(self._analysis(x, quality, autocast), self.gain(quality), quality, autocast, coding)

    def _coded(self, y: Tensor, gain: Tensor, quality: Tensor, autocast: bool, coding: Coding = PLAIN) -> Latents:
        """`latents` of y [B, N, H/16, W/16] with `gain` steps a natural unit."""
        kind = y.device.type
        with torch.autocast(kind, dtype=torch.bfloat16, enabled=autocast):
            z = self.h_a(y, quality)
        z_hat = ste_round(z.clamp(-Z_MAX, Z_MAX))
        guess = self.scale_net.z_guess(z_hat)
        z_bits = self._bits(z - guess, z_hat - guess.round(), self.z_index(quality))
        with torch.autocast(kind, dtype=torch.bfloat16, enabled=autocast):
            # Without z the features are the same for every picture.
            one = z_hat[:1] if self.config.side else z_hat
            mean_features = self.mean_net.features(one).expand(len(z_hat), -1, -1, -1)
        scale_features = self.scale_net.features(z_hat, quality)
        context = torch.zeros_like(y)
        magnitudes = torch.zeros_like(y)
        y_bits = torch.zeros_like(z_bits)
        for k in range(PASSES):
            with torch.autocast(kind, dtype=torch.bfloat16, enabled=autocast):
                means = self.mean_net.means(mean_features, context, quality, k)
            residual = (quadtree_pass(y, k) - means) * gain
            index = self.scale_net.index(scale_features, magnitudes, quality, k)
            row = index.detach().round().clamp(0, SCALE_INDEX_MAX)
            row = (torch.where(row > 0, row + FIRST, row) if k == 0 else row).to(torch.uint8)
            if coding.choose is not None:
                chosen = coding.choose(residual.detach(), row)
                r_hat = residual + (chosen - residual).detach() if self.training else chosen
            elif self.training:
                r_hat = ste_round(residual)
            else:
                r_hat = torch.where(index < 0.5, 0.0, residual.round())
            integers = residual.round() if self.training else r_hat
            y_bits = y_bits + self._bits(residual, integers, index, row, coding.price)
            decoded = torch.zeros_like(y)
            quadtree.put(decoded, k, means + r_hat / gain)
            context = context + decoded
            seen = torch.zeros_like(y)
            quadtree.put(seen, k, magnitude(r_hat.detach()))
            magnitudes = magnitudes + seen
        return Latents(context, y_bits, z_bits)
