"""IntScaleNet: the integer network that picks scale indices, exact on every machine.

Knows integer tensors only. It always runs on the CPU: activations and weights are integers held in
float64 (matrix products) or float32 (depthwise taps), and `bounds` proves from the weights that every
partial sum stays below 2^53 or 2^24, so that order, blocking, FMA, thread count and instruction set
cannot change a bit. No convolution primitive is used (Winograd and FFT leave the integers).
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor

from nncodec import around, quadtree
from nncodec.config import (
    GROUPS,
    MAGNITUDE_MAX,
    PASSES,
    QUALITIES,
    SCALE_INDEX_MAX,
    Z_MAX,
    ModelConfig,
)
from nncodec.errors import ModelMismatchError

ACTIVATION_BITS = 8
"""Fraction bits of activations."""
WEIGHT_BITS = 12
"""Fraction bits of matrix weights; biases have ACTIVATION_BITS + WEIGHT_BITS."""
DEPTHWISE_BITS = 10
"""Fraction bits of depthwise weights; their biases have ACTIVATION_BITS + DEPTHWISE_BITS."""
INDEX_BITS = 3
"""A head's output is multiplied by 2^INDEX_BITS to give an index."""
ACTIVATION_LIMIT = (1 << 12) - 1
"""Activations are clipped to 0..ACTIVATION_LIMIT."""
Z_AROUND_MAX = 1 << 20
"""Largest magnitude in z_around: with Z_MAX and four neighbors sums stay in 32 bits."""
Z_SHIFT = 4
"""z_hat enters as z_hat * 2^Z_SHIFT in activation units."""
MAGNITUDES = (0, 256, 406, 512, 594, 662, 719, 768, 812, 850, 886, 918, 947, 975, 1000, 1024)
"""round(256 log2(1 + m)) for m = min(|r_hat|, 15): how decoded residuals enter."""


@dataclass(frozen=True)
class PassTensors:
    """Integer tensors of one pass; S features, N channels.

    mix [S, S] in pass 0, else [S, S + N] over (features, context); mix_bias [QUALITIES, S];
    depthwise [N, 9] taps in row order and depthwise_bias [N], absent in pass 0;
    hidden [S, S], hidden_bias [S]; head [N, S], head_bias [N].
    """

    mix: Tensor
    mix_bias: Tensor
    hidden: Tensor
    hidden_bias: Tensor
    head: Tensor
    head_bias: Tensor
    depthwise: Tensor | None = None
    depthwise_bias: Tensor | None = None


@dataclass(frozen=True)
class ScaleTensors:
    """Integer tensors (int32) of the whole network.

    z_in [S, Cz], z_in_bias [QUALITIES, S]; z_spread [9, S, S] taps in row order, z_spread_bias [S];
    z_out [16 S, S], z_out_bias [16 S]; index_bias [QUALITIES, N], shared by all heads;
    z_index [QUALITIES, Cz], scale indices of what is coded of z; z_around [Cz, 4], weights of its neighbors (`around`).
    """

    z_in: Tensor
    z_in_bias: Tensor
    z_spread: Tensor
    z_spread_bias: Tensor
    z_out: Tensor
    z_out_bias: Tensor
    index_bias: Tensor
    z_index: Tensor
    z_around: Tensor
    passes: tuple[PassTensors, ...]

    def to_dict(self) -> dict[str, Tensor]:
        """Flat names, as stored in a weights file."""
        flat = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "passes"}
        for k, tensors in enumerate(self.passes):
            for f in fields(tensors):
                value = getattr(tensors, f.name)
                if value is not None:
                    flat[f"pass{k}.{f.name}"] = value
        return flat

    @classmethod
    def from_dict(cls, flat: dict[str, Tensor], config: ModelConfig) -> ScaleTensors:
        """Inverse of `to_dict`; every shape is checked. Raises ModelMismatchError.

        Without z_around, which older files lack, z is coded as it is.
        """
        shapes = expected_shapes(config)
        flat = {"z_around": torch.zeros(shapes["z_around"], dtype=torch.int32)} | flat
        for name, shape in shapes.items():
            if name not in flat or tuple(flat[name].shape) != shape or flat[name].dtype != torch.int32:
                found = (tuple(flat[name].shape), flat[name].dtype) if name in flat else "nothing"
                raise ModelMismatchError(f"scale tensor {name}: {found} where int32 {shape} is needed")
        passes = []
        for k in range(PASSES):
            prefix = f"pass{k}."
            passes.append(PassTensors(**{n[len(prefix) :]: t for n, t in flat.items() if n.startswith(prefix)}))
        whole = {n: t for n, t in flat.items() if not n.startswith("pass")}
        return cls(**whole, passes=tuple(passes))


def expected_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor of `ScaleTensors.to_dict`."""
    s, n, cz = config.scale_width, config.y_channels, config.z_channels
    shapes: dict[str, tuple[int, ...]] = {
        "z_in": (s, cz),
        "z_in_bias": (QUALITIES, s),
        "z_spread": (9, s, s),
        "z_spread_bias": (s,),
        "z_out": (16 * s, s),
        "z_out_bias": (16 * s,),
        "index_bias": (QUALITIES, n),
        "z_index": (QUALITIES, cz),
        "z_around": (cz, len(around.PLACES)),
    }
    for k in range(PASSES):
        shapes |= {
            f"pass{k}.mix": (s, s + n if k else s),
            f"pass{k}.mix_bias": (QUALITIES, s),
            f"pass{k}.hidden": (s, s),
            f"pass{k}.hidden_bias": (s,),
            f"pass{k}.head": (n, s),
            f"pass{k}.head_bias": (n,),
        }
        if k:
            shapes |= {f"pass{k}.depthwise": (n, 9), f"pass{k}.depthwise_bias": (n,)}
    return shapes


def bounds(tensors: ScaleTensors) -> dict[str, tuple[int, int]]:
    """Largest possible magnitude of any partial sum of each layer, and the limit it must stay below."""

    def worst(weight: Tensor, bias: Tensor, inputs: int | Tensor) -> int:
        rows = (weight.double().abs() * inputs).sum(-1)
        return int(rows.max() + bias.double().abs().max())

    exact = 1 << 53
    limit = ACTIVATION_LIMIT
    rounding = torch.tensor(float(1 << (ACTIVATION_BITS + WEIGHT_BITS)))
    out = {
        "z_in": (worst(tensors.z_in, tensors.z_in_bias, Z_MAX << Z_SHIFT), exact),
        "z_spread": (worst(tensors.z_spread.permute(1, 0, 2).flatten(1), tensors.z_spread_bias, limit), exact),
        "z_out": (worst(tensors.z_out, tensors.z_out_bias, limit), exact),
    }
    for k, p in enumerate(tensors.passes):
        out[f"pass{k}.mix"] = (worst(p.mix, p.mix_bias, limit), exact)
        out[f"pass{k}.hidden"] = (worst(p.hidden, p.hidden_bias, limit), exact)
        bias = p.head_bias.double().abs().max() + tensors.index_bias.double().abs().max() + rounding
        out[f"pass{k}.head"] = (worst(p.head, bias, limit), exact)
        if p.depthwise is not None and p.depthwise_bias is not None:
            out[f"pass{k}.depthwise"] = (worst(p.depthwise, p.depthwise_bias, MAGNITUDES[-1]), 1 << 24)
    return out


def _requantize(accumulator: Tensor, shift: int) -> Tensor:
    """floor(accumulator / 2^shift), clipped to the activation range; in place."""
    return accumulator.mul_(2.0**-shift).floor_().clamp_(0, ACTIVATION_LIMIT)


class IntScaleNet:
    """Runs `ScaleTensors`; raises ModelMismatchError when they break the exactness bounds."""

    def __init__(self, tensors: ScaleTensors) -> None:
        for name, (worst, limit) in bounds(tensors).items():
            if worst >= limit:
                raise ModelMismatchError(f"scale net layer {name}: partial sums reach {worst}, over the exact {limit}")
        if int(tensors.z_index.min()) < 0 or int(tensors.z_index.max()) > SCALE_INDEX_MAX:
            raise ModelMismatchError(f"z_index is not within 0..{SCALE_INDEX_MAX}")
        if int(tensors.z_around.double().abs().max()) > Z_AROUND_MAX:
            raise ModelMismatchError(f"z_around is not within -{Z_AROUND_MAX}..{Z_AROUND_MAX}")
        half = 1 << (WEIGHT_BITS - 1)
        self._z_in = tensors.z_in.double()
        self._z_in_bias = tensors.z_in_bias.double() + half
        self._z_spread = tensors.z_spread.double()
        self._z_spread_bias = tensors.z_spread_bias.double()[:, None] + half
        self._z_out = tensors.z_out.double()
        self._z_out_bias = tensors.z_out_bias.double()[:, None] + half
        self._index_bias = tensors.index_bias.double() + (1 << (ACTIVATION_BITS + WEIGHT_BITS - INDEX_BITS - 1))
        self._passes = [
            PassTensors(
                mix=p.mix.double(),
                mix_bias=p.mix_bias.double() + half,
                hidden=p.hidden.double(),
                hidden_bias=p.hidden_bias.double()[:, None] + half,
                head=p.head.double(),
                head_bias=p.head_bias.double(),
                depthwise=None if p.depthwise is None else p.depthwise.float(),
                depthwise_bias=None
                if p.depthwise_bias is None
                else p.depthwise_bias.float()[:, None, None] + (1 << (DEPTHWISE_BITS - 1)),
            )
            for p in tensors.passes
        ]
        self.z_index = tensors.z_index.to(torch.uint8)
        self.z_around = tensors.z_around.numpy()
        self.channels = tensors.index_bias.shape[1]

    def features(self, z_hat: Tensor, quality: int) -> Tensor:
        """z_hat int32 [Cz, h/4, w/4] -> activations f64 [S, h, w]."""
        _, height, width = z_hat.shape
        h = self._z_in @ (z_hat.double() * (1 << Z_SHIFT)).flatten(1)
        h = _requantize(h.add_(self._z_in_bias[quality - 1][:, None]), WEIGHT_BITS)
        around = F.pad(h.view(-1, height, width), (1, 1, 1, 1))
        h = self._z_spread_bias.expand(-1, height * width).clone()
        for tap in range(9):
            i, j = divmod(tap, 3)
            h.addmm_(self._z_spread[tap], around[:, i : i + height, j : j + width].flatten(1))
        h = self._z_out @ _requantize(h, WEIGHT_BITS)
        h = _requantize(h.add_(self._z_out_bias), WEIGHT_BITS)
        return F.pixel_shuffle(h.view(-1, height, width), 4)

    def index(self, features: Tensor, magnitudes: Tensor, quality: int, pass_index: int) -> Tensor:
        """Scale indices uint8 [N, h/2, w/2] of one pass.

        `magnitudes` f32 [N, h, w] holds MAGNITUDES of what is decoded, zero elsewhere.
        """
        p = self._passes[pass_index]
        s, height, width = features.shape
        positions = features.reshape(s, -1)
        h = p.mix[:, :s] @ positions
        if p.depthwise is not None:
            h.addmm_(p.mix[:, s:], self._context(magnitudes, pass_index))
        h = _requantize(h.add_(p.mix_bias[quality - 1][:, None]), WEIGHT_BITS)
        h = _requantize((p.hidden @ h).add_(p.hidden_bias), WEIGHT_BITS).view(s, height, width)
        bias = self._index_bias[quality - 1] + p.head_bias
        size = len(bias) // GROUPS
        out = []
        for group in range(GROUPS):
            row, column = quadtree.position(pass_index, group)
            rows = slice(group * size, (group + 1) * size)
            part = p.head[rows] @ h[:, row::2, column::2].flatten(1)
            out.append(part.add_(bias[rows, None]))
        index = torch.cat(out).mul_(2.0 ** -(ACTIVATION_BITS + WEIGHT_BITS - INDEX_BITS)).floor_()
        return index.clamp_(0, SCALE_INDEX_MAX).to(torch.uint8).view(-1, height // 2, width // 2)

    def _context(self, magnitudes: Tensor, pass_index: int) -> Tensor:
        """Depthwise 3x3 over magnitudes -> activations f64 [N, h * w]."""
        p = self._passes[pass_index]
        assert p.depthwise is not None
        assert p.depthwise_bias is not None
        _, height, width = magnitudes.shape
        around = F.pad(magnitudes, (1, 1, 1, 1))
        out = p.depthwise_bias.expand_as(magnitudes).clone()
        for tap in range(9):
            i, j = divmod(tap, 3)
            out.addcmul_(around[:, i : i + height, j : j + width], p.depthwise[:, tap, None, None])
        return _requantize(out, DEPTHWISE_BITS).flatten(1).double()


def magnitude_table() -> Tensor:
    """MAGNITUDES as f32 [16], to be indexed by min(|r_hat|, 15)."""
    assert len(MAGNITUDES) == MAGNITUDE_MAX + 1
    return torch.tensor(MAGNITUDES, dtype=torch.float32)
