"""The integer scale net: equal to its float twin to the last bit, and provably exact."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import seeded_net
from reference_decoder import features as reference_features
from reference_decoder import indices as reference_indices

from nncodec.config import MAGNITUDE_MAX, PASSES, TINY
from nncodec.errors import ModelMismatchError
from nncodec.intnet import MAGNITUDES, IntScaleNet, ScaleTensors, bounds
from nncodec.nets.scales import magnitude
from nncodec.nets.twin import snap, to_integers


def random_inputs(seed: int, config=TINY) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(seed)
    z_hat = rng.integers(-127, 128, (config.z_channels, 3, 4)).astype(np.int32)
    r_hat = np.round(rng.laplace(0, 6, (config.y_channels, 12, 16))).astype(np.int32)
    return torch.from_numpy(z_hat), torch.from_numpy(r_hat)


def table(r_hat: torch.Tensor) -> torch.Tensor:
    return torch.tensor(MAGNITUDES, dtype=torch.float32)[r_hat.abs().clamp(max=MAGNITUDE_MAX).long()]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("quality", [1, 37, 100])
def test_float_twin_equals_the_integers(seed: int, quality: int) -> None:
    twin = snap(seeded_net(seed).scale_net, TINY)
    net = IntScaleNet(to_integers(twin))
    z_hat, r_hat = random_inputs(seed)
    q = torch.full((1,), float(quality), dtype=torch.float64)
    with torch.no_grad():
        twin_features = twin.features(z_hat[None].double(), q)
        features = net.features(z_hat, quality)
        assert torch.equal((twin_features[0] * 256), features)
        seen = (magnitude(r_hat.double()) * 256).round() / 256
        different = set()
        for k in range(PASSES):
            expected = (twin.index(twin_features, seen[None], q, k) + 0.5).floor().clamp(0, 63)
            found = net.index(features, table(r_hat), quality, k)
            assert torch.equal(expected[0].to(torch.uint8), found)
            different |= set(found.unique().tolist())
    assert len(different) > 10  # the comparison saw more than a constant


def test_independent_integer_arithmetic_agrees() -> None:
    tensors = to_integers(snap(seeded_net(1).scale_net, TINY))
    net = IntScaleNet(tensors)
    flat = {f"scale.{n}": t.numpy().astype(np.int64) for n, t in tensors.to_dict().items()}
    z_hat, r_hat = random_inputs(5)
    features = net.features(z_hat, 60)
    assert (reference_features(flat, z_hat.numpy().astype(np.int64), 60) == features.numpy()).all()
    magnitudes = table(r_hat)
    for k in range(PASSES):
        dense = reference_indices(flat, features.numpy().astype(np.int64), magnitudes.numpy().astype(np.int64), 60, k)
        found = net.index(features, magnitudes, 60, k).numpy()
        size = TINY.y_channels // 4
        for group in range(4):
            where = group ^ (0, 3, 1, 2)[k]
            rows = slice(group * size, (group + 1) * size)
            assert (dense[rows, where >> 1 :: 2, where & 1 :: 2] == found[rows]).all()


def test_magnitudes_are_the_stated_logarithms() -> None:
    assert list(MAGNITUDES) == [round(256 * np.log2(1 + m)) for m in range(16)]


def test_tensors_survive_their_flat_form() -> None:
    tensors = to_integers(snap(seeded_net().scale_net, TINY))
    again = ScaleTensors.from_dict(tensors.to_dict(), TINY)
    assert all(torch.equal(a, again.to_dict()[n]) for n, a in tensors.to_dict().items())


def test_weights_that_could_round_are_refused() -> None:
    tensors = to_integers(snap(seeded_net().scale_net, TINY))
    last = tensors.passes[3]
    assert last.depthwise is not None
    broken = replace(last, depthwise=torch.full_like(last.depthwise, 2**15))
    broken_tensors = replace(tensors, passes=(*tensors.passes[:3], broken))
    assert bounds(broken_tensors)["pass3.depthwise"][0] >= 1 << 24
    with pytest.raises(ModelMismatchError, match=r"pass3\.depthwise"):
        IntScaleNet(broken_tensors)


def test_wrong_shapes_are_refused() -> None:
    flat = to_integers(snap(seeded_net().scale_net, TINY)).to_dict()
    flat["z_in"] = flat["z_in"][:-1]
    with pytest.raises(ModelMismatchError, match="z_in"):
        ScaleTensors.from_dict(flat, TINY)
