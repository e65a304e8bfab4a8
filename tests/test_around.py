"""What is coded of z gives z back, and the float network guesses what the integers do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import seeded_net
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_decoder import decode_symbols as reference_symbols
from reference_decoder import read_weights

from nncodec import around, codec, container, decoding, weights
from nncodec.config import TINY, Z_MAX
from nncodec.errors import CorruptError, ModelMismatchError
from nncodec.intnet import IntScaleNet, ScaleTensors
from nncodec.nets.twin import from_integers, snap, to_integers
from nncodec.train import export


def random_z(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.integers(-Z_MAX, Z_MAX + 1, shape).astype(np.int32)


@settings(max_examples=50, deadline=None)
@given(
    st.integers(0, 2**32 - 1), st.integers(1, 4), st.integers(1, 5), st.integers(1, 5), st.sampled_from([0, 70, 2**20])
)
def test_z_comes_back(seed: int, channels: int, height: int, width: int, largest: int) -> None:
    rng = np.random.default_rng(seed)
    z_hat = random_z(rng, channels, height, width)
    factors = rng.integers(-largest, largest + 1, (channels, 4)).astype(np.int32)
    assert (around.restored(around.coded(z_hat, factors), factors) == z_hat).all()


def test_guess_is_what_the_format_says() -> None:
    z_hat = np.array([[[5, -3, 8], [2, 7, 1]]], np.int32)
    factors = np.array([[10, 20, 30, 40]], np.int32)
    (difference,) = around.coded(z_hat, factors)
    assert difference[1, 1] == 7 - (10 * 2 + 20 * 5 + 30 * -3 + 40 * 8 + 32 >> 6)
    assert difference[0, 0] == 5
    assert difference[1, 2] == 1 - (10 * 7 + 20 * -3 + 30 * 8 + 32 >> 6)


def test_z_beyond_its_limit_is_corrupt() -> None:
    difference = np.full((2, 1, 3), 100, np.int32)
    with pytest.raises(CorruptError, match="z_hat reaches 200"):
        around.restored(difference, np.array([[0, 0, 0, 0], [64, 0, 0, 0]], np.int32))


def test_float_network_guesses_what_the_integers_do() -> None:
    rng = np.random.default_rng(1)
    twin = snap(seeded_net(4).scale_net, TINY)
    z_hat = random_z(rng, TINY.z_channels, 4, 5)
    with torch.no_grad():
        guess = twin.z_guess(torch.from_numpy(z_hat)[None].double())[0]
    factors = to_integers(twin).z_around.numpy()
    assert np.abs(factors).max() > 0
    assert (z_hat - (guess + 0.5).floor().numpy() == around.coded(z_hat, factors)).all()
    again = from_integers(to_integers(twin), TINY).z_around
    torch.testing.assert_close(again, twin.z_around.float(), rtol=0, atol=0)


def test_weights_without_neighbors_code_z_as_it_is() -> None:
    flat = to_integers(snap(seeded_net().scale_net, TINY)).to_dict()
    del flat["z_around"]
    net = IntScaleNet(ScaleTensors.from_dict(flat, TINY))
    assert not net.z_around.any()
    z_hat = random_z(np.random.default_rng(2), TINY.z_channels, 3, 3)
    assert (around.coded(z_hat, net.z_around) == z_hat).all()


@pytest.mark.parametrize("weight", [2**20 + 1, -(2**31)])
def test_weights_whose_sums_could_overflow_are_refused(weight: int) -> None:
    tensors = to_integers(snap(seeded_net().scale_net, TINY))
    tensors.z_around[0, 0] = weight
    with pytest.raises(ModelMismatchError, match="z_around"):
        IntScaleNet(tensors)


def test_files_hold_what_neighbors_do_not_say(photo: np.ndarray, tmp_path: Path) -> None:
    net = seeded_net()
    with torch.no_grad():
        net.scale_net.z_around.copy_(torch.tensor([0.5, -0.3, 0.6, 0.3]))
    path = tmp_path / "near.safetensors"
    weights.save(export.build(net, export.gaussian_tables()), "near", TINY, path)
    model = weights.load(weights.describe(path))
    data = codec.compress(photo, 60, model)
    header, sections = container.parse(data)
    symbols = decoding.decode_tile(model, header, 0, sections[0].payload)
    assert (model.entropy.z_coded(symbols.z_hat) != symbols.z_hat).any()
    z_hat, r_hat, _ = reference_symbols(data, read_weights(path)[0])[0]
    assert (z_hat == symbols.z_hat).all()
    assert (r_hat == symbols.r_hat).all()
