"""Weights files are found, named by what decoding depends on, and checked."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, seeded_net

from nncodec import codec, weights
from nncodec.config import TINY
from nncodec.errors import ModelMismatchError, ModelNotFoundError
from nncodec.train import export


def test_id_covers_what_the_decoder_reads_and_only_that() -> None:
    tensors = export.build(seeded_net(), export.gaussian_tables())
    identity = weights.model_id(tensors, TINY)
    for name, tensor in tensors.items():
        changed = dict(tensors) | {name: tensor + 1}
        same = weights.model_id(changed, TINY) == identity
        assert same == name.startswith(("g_a.", "h_a.")), name


def test_flipped_bit_in_a_weights_file_is_found(tiny_path: Path, tmp_path: Path) -> None:
    data = bytearray(tiny_path.read_bytes())
    description = weights.describe(tiny_path)
    header = int.from_bytes(data[:8], "little")
    layout = json.loads(data[8 : 8 + header])
    position = 8 + header + layout["g_s.head.weight"]["data_offsets"][0]
    data[position] ^= 1
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(data)
    with pytest.raises(ModelMismatchError, match=description.id.hex()):
        weights.load(weights.describe(damaged))


@pytest.mark.parametrize("data", [b"", b"\xff" * 40, b"\x02\0\0\0\0\0\0\0{}", b"\x02\0\0\0\0\0\0\0[]"])
def test_what_is_no_weights_file_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(data)
    with pytest.raises(ModelMismatchError, match=r"x\.safetensors"):
        weights.describe(path)


def test_names_and_ids_find_the_same_file(tiny_path: Path) -> None:
    description = weights.find("tiny")
    assert weights.find(model_id=description.id) == description == weights.find(str(tiny_path))
    with pytest.raises(ModelNotFoundError, match="tiny"):
        weights.find("nonsense")


@pytest.mark.weights
def test_shipped_weights_come_with_their_papers() -> None:
    for suffix in (".md", ".toml", ".train.jsonl"):
        assert (ROOT / "weights" / f"fast{suffix}").is_file()
    card = (ROOT / "weights" / "fast.md").read_text()
    assert weights.describe(ROOT / "weights" / "fast.safetensors").id.hex() in card


@pytest.mark.weights
@pytest.mark.shared
def test_shipped_weights_on_kodak() -> None:
    """Estimated and real bits agree, quality orders bytes and error, the range is covered."""
    model = codec.load_model("fast", "cpu")
    paths = sorted((ROOT.parent / "shared" / "data" / "kodak").glob("*.*"))[::6]
    rates = []
    for quality in (1, 20, 40, 60, 80, 100):
        bpp = []
        for path in paths:
            picture = codec.as_picture(path)
            data = codec.compress(picture, quality, model)
            header, sections = codec.container.parse(data)
            for _, symbols in codec.decode_symbols(model, header, [s.payload for s in sections]):
                estimate = model.entropy.estimate(symbols, quality)
                assert estimate == pytest.approx(8 * len(sections[0].payload), rel=0.01)
            bpp.append(8 * len(data) / (picture.width * picture.height))
        rates.append(np.mean(bpp))
    assert rates == sorted(rates)
    assert rates[0] < 0.2
    assert rates[-1] > 1.8


def test_loading_leaves_torch_as_it_was(tiny_path: Path) -> None:
    state = torch.get_rng_state()
    weights.load(weights.describe(tiny_path))
    assert torch.equal(state, torch.get_rng_state())
    assert torch.get_default_device().type == "cpu"
