"""ScaleNet <-> its integers: snap to the grid, export, and back.

A snapped float64 network and `nncodec.intnet` agree to the last bit; a network made back from integers
can be trained on.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from nncodec import around
from nncodec.config import PASSES, QUALITIES, SCALE_INDEX_MAX, ModelConfig
from nncodec.errors import ModelMismatchError
from nncodec.intnet import ACTIVATION_BITS, DEPTHWISE_BITS, WEIGHT_BITS, PassTensors, ScaleTensors
from nncodec.nets.blocks import QualityTable
from nncodec.nets.scales import INDEX_UNIT, ScaleNet


def _bits_of(name: str) -> int:
    """Fraction bits of a parameter of ScaleNet on the integer grid."""
    if name.endswith("depthwise.weight"):
        return DEPTHWISE_BITS
    if name.endswith("depthwise.bias"):
        return ACTIVATION_BITS + DEPTHWISE_BITS
    if name.endswith("weight"):
        return WEIGHT_BITS
    if name == "z_around":
        return around.FRACTION_BITS
    return ACTIVATION_BITS + WEIGHT_BITS


@torch.no_grad()
def snap(net: ScaleNet, config: ModelConfig) -> ScaleNet:
    """float64 twin of `net` with every parameter on the integer grid and one table row a quality."""
    twin = ScaleNet(replace(config, knots=QUALITIES), quantized=True).double().eval()
    qualities = torch.arange(1, QUALITIES + 1, dtype=torch.float64)
    tables = {f"{n}.rows" for n, m in net.named_modules() if isinstance(m, QualityTable)}
    state = {}
    for name, value in net.state_dict().items():
        if name in tables:
            table = QualityTable(*value.shape).double()
            table.rows.copy_(value)
            value = table(qualities)
        unit = 2.0 ** _bits_of(name)
        state[name] = (value.double() * unit).round() / unit
    twin.load_state_dict(state)
    return twin


@torch.no_grad()
def to_integers(twin: ScaleNet) -> ScaleTensors:
    """Integer tensors of a snapped twin."""

    def ints(name: str) -> Tensor:
        value = twin.state_dict()[name] * 2.0 ** _bits_of(name)
        if value.abs().max() >= 2**31:
            raise ModelMismatchError(f"scale net {name} reaches {value.abs().max():.0f}, beyond int32")
        return value.round().to(torch.int32)

    def matrix(name: str) -> Tensor:
        return ints(name).flatten(1)

    passes = []
    for k in range(PASSES):
        p = f"passes.{k}."
        mix = matrix(p + "from_features.weight")
        spatial: dict[str, Tensor] = {}
        if k:
            mix = torch.cat([mix, matrix(p + "from_context.weight")], dim=1)
            spatial = {"depthwise": matrix(p + "depthwise.weight"), "depthwise_bias": ints(p + "depthwise.bias")}
        passes.append(
            PassTensors(
                mix=mix,
                mix_bias=ints(p + "from_features.bias") + ints(p + "quality_bias.rows"),
                hidden=matrix(p + "hidden.weight"),
                hidden_bias=ints(p + "hidden.bias"),
                head=matrix(p + "head.weight"),
                head_bias=ints(p + "head.bias"),
                **spatial,
            )
        )
    spread = ints("z_spread.weight")
    z_index = (twin.z_index.rows * INDEX_UNIT).round().clamp(0, SCALE_INDEX_MAX)
    return ScaleTensors(
        z_in=matrix("z_in.weight"),
        z_in_bias=ints("z_in.bias") + ints("z_quality.rows"),
        z_spread=spread.permute(2, 3, 0, 1).flatten(0, 1).contiguous(),
        z_spread_bias=ints("z_spread.bias"),
        z_out=matrix("z_out.weight"),
        z_out_bias=ints("z_out.bias"),
        index_bias=ints("index_bias.rows"),
        z_index=z_index.to(torch.int32),
        z_around=matrix("z_around"),
        passes=tuple(passes),
    )


@torch.no_grad()
def from_integers(tensors: ScaleTensors, config: ModelConfig) -> ScaleNet:
    """A trainable network that computes what `tensors` do, up to rounding of activations.

    Biases of a layer and its quality table are stored as their sum; here the table holds all of it.
    Raises ModelMismatchError unless every knot of the configuration falls on a whole quality.
    """
    if (QUALITIES - 1) % (config.knots - 1):
        raise ModelMismatchError(f"{config.knots} knots do not fall on whole qualities; they cannot be recovered")
    knots = slice(None, None, (QUALITIES - 1) // (config.knots - 1))
    net = ScaleNet(config)
    state = {name: torch.zeros_like(value) for name, value in net.state_dict().items()}

    def put(name: str, value: Tensor) -> None:
        value = value[knots] if name.endswith(".rows") else value
        state[name] = (value.double() / 2.0 ** _bits_of(name)).float().view_as(state[name])

    s = config.scale_width
    put("z_in.weight", tensors.z_in)
    put("z_quality.rows", tensors.z_in_bias)
    put("z_spread.weight", tensors.z_spread.view(3, 3, s, s).permute(2, 3, 0, 1).contiguous())
    put("z_spread.bias", tensors.z_spread_bias)
    put("z_out.weight", tensors.z_out)
    put("z_out.bias", tensors.z_out_bias)
    put("index_bias.rows", tensors.index_bias)
    put("z_around", tensors.z_around)
    state["z_index.rows"] = tensors.z_index[knots].float() / INDEX_UNIT
    for k, p in enumerate(tensors.passes):
        at = f"passes.{k}."
        put(at + "from_features.weight", p.mix[:, :s].contiguous())
        put(at + "quality_bias.rows", p.mix_bias)
        put(at + "hidden.weight", p.hidden)
        put(at + "hidden.bias", p.hidden_bias)
        put(at + "head.weight", p.head)
        put(at + "head.bias", p.head_bias)
        if p.depthwise is not None and p.depthwise_bias is not None:
            put(at + "from_context.weight", p.mix[:, s:].contiguous())
            put(at + "depthwise.weight", p.depthwise)
            put(at + "depthwise.bias", p.depthwise_bias)
    net.load_state_dict(state)
    return net
