"""Weights files are found, named by what decoding depends on, and checked."""

from __future__ import annotations

import contextlib
import json
import os
import struct
from pathlib import Path

import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch
from click.testing import CliRunner
from conftest import ROOT, seeded_net

from nncodec import codec, container, weights
from nncodec.cli import main
from nncodec.config import TINY, ModelConfig
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


@pytest.fixture
def own(tiny_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of one's own before that of `tiny`: older weights of that name, and a file that is none."""
    weights.save(export.build(seeded_net(1), export.gaussian_tables()), "tiny", TINY, tmp_path / "tiny.safetensors")
    (tmp_path / "foreign.safetensors").write_bytes(b"\x02\0\0\0\0\0\0\0{}")
    monkeypatch.setenv("NNCODEC_WEIGHTS", os.pathsep.join([str(tmp_path), str(tiny_path.parent)]))
    return tmp_path


def test_weights_of_one_name_hide_each_other_from_names_alone(own: Path, tiny_path: Path, photo: np.ndarray) -> None:
    older, newer = weights.describe(own / "tiny.safetensors"), weights.describe(tiny_path)
    assert weights.find("tiny") == older
    assert weights.installed().count("tiny") == 1
    for description in (older, newer):
        assert weights.find(model_id=description.id) == description
        path = own / f"{description.id.hex()}.aec"
        path.write_bytes(codec.compress(photo[:64, :64], 50, codec.load_model(str(description.path))))
        assert codec.decompress(path.read_bytes()).color.shape == (64, 64, 3)
        assert "(tiny)" in CliRunner().invoke(main, ["info", str(path)]).stdout


def test_a_foreign_file_among_weights_is_passed_over_and_named(own: Path) -> None:
    listed = CliRunner().invoke(main, ["models"])
    assert listed.exit_code == 0
    assert listed.stdout.count("tiny ") == 2
    assert listed.stderr.startswith(f"nncodec: warning: {own / 'foreign.safetensors'}: not a usable weights file")
    for wanted in ({"name": "nonsense"}, {"model_id": bytes(8)}):
        with pytest.raises(ModelNotFoundError, match=r"foreign\.safetensors: not a usable weights file"):
            weights.find(**wanted)
    with pytest.raises(ModelMismatchError, match=r"foreign\.safetensors"):
        weights.find("foreign")


@pytest.mark.weights
def test_shipped_weights_come_with_their_papers() -> None:
    shipped = sorted((ROOT / "weights").glob("*.safetensors"))
    assert {"fast", "fast-ssim", "denoise"} <= {path.stem for path in shipped}
    for path in shipped:
        for suffix in (".md", ".toml", ".train.jsonl"):
            assert path.with_suffix(suffix).is_file()
        card = path.with_suffix(".md").read_text()
        assert weights.describe(path).id.hex() in card
        assert f"{path.stat().st_size:,} bytes" in card


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
                flags = {"hidden": header.hidden, "filtered": header.filtered}
                estimate = model.entropy.estimate(symbols, quality, **flags)
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


def rewritten(path: Path, target: Path, change) -> Path:
    """A weights file after `change(tensors, metadata, config)`, its model id right again."""
    tensors = safetensors.torch.load_file(path)
    with safetensors.safe_open(path, "pt") as file:
        metadata = dict(file.metadata())
    config = json.loads(metadata["config"])
    change(tensors, metadata, config)
    metadata["config"] = json.dumps(config)
    with contextlib.suppress(ValueError, TypeError):
        metadata["id"] = weights.model_id(tensors, ModelConfig.from_dict(config)).hex()
    safetensors.torch.save_file(tensors, target, metadata)
    return target


def test_saving_leaves_other_files_alone(tmp_path: Path) -> None:
    (tmp_path / "tiny.partial").write_text("somebody's")
    weights.save(export.build(seeded_net(), export.gaussian_tables()), "tiny", TINY, tmp_path / "tiny.safetensors")
    assert (tmp_path / "tiny.partial").read_text() == "somebody's"
    assert len(list(tmp_path.iterdir())) == 2


HOSTILE = {
    "depth of 10^9": (lambda t, m, c: c.update(decoder_depth8=10**9), "decoder_depth8 is 1000000000"),
    "width of 10^9": (lambda t, m, c: c.update(mean_width=10**9), "mean_width is 1000000000"),
    "half a layer": (lambda t, m, c: c.update(hyper_width=16.5), "hyper_width is 16.5"),
    "a layer that is true": (lambda t, m, c: c.update(decoder_depth8=True), "decoder_depth8 is True"),
    "lambda of NaN": (lambda t, m, c: c.update(lmbda_min=float("nan")), "lmbda_min is nan"),
    "another width": (lambda t, m, c: c.update(decoder_width8=24), r"tensor g_s\..* where .* is needed"),
    "terminal escapes": (lambda t, m, c: m.update(name="\x1b[31mred"), r"name '\\x1b\[31mred'"),
    "no name": (lambda t, m, c: m.update(name=""), "name ''"),
    "a long name": (lambda t, m, c: m.update(name="n" * 101), "name 'nnn"),
    "no tables": (lambda t, m, c: t.pop("tables.half"), "tensor 'tables.half' is missing"),
    "one tensor more": (lambda t, m, c: t.update({"scale.pass0.depthwise": torch.zeros(1)}), "depthwise' is unknown"),
    "another type": (lambda t, m, c: t.update({"log_gain.rows": t["log_gain.rows"].bfloat16()}), "is torch.bfloat16"),
    "tables of floats": (lambda t, m, c: t.update({"tables.half": t["tables.half"].float()}), "not int32"),
    "a scalar reach": (lambda t, m, c: t.update({"tables.reach": torch.tensor(1, dtype=torch.int32)}), r"shapes \(\)"),
    "a scalar half": (lambda t, m, c: t.update({"tables.half": torch.tensor(1, dtype=torch.int32)}), r"and \(\)"),
    "integers for a network": (
        lambda t, m, c: t.update({"g_s.head.weight": t["g_s.head.weight"].int()}),
        "tensor g_s.head.weight is torch.int32 where floating point",
    ),
    "scales of floats": (lambda t, m, c: t.update({"scale.z_in": t["scale.z_in"].float()}), "z_in: .* is needed"),
    "inexact sums": (lambda t, m, c: t["scale.pass1.depthwise"].fill_(2**31 - 1), "over the exact"),
    "tables that do not sum": (lambda t, m, c: t["tables.half"][5, 0].add_(1), "table 5: .* not 16777216"),
    "frequency of zero": (lambda t, m, c: t["tables.half"][5, 2].fill_(0), "table 5: least frequency 0"),
    "endless reach": (lambda t, m, c: t["tables.reach"].fill_(2**31 - 1), "reach 2147483647"),
    "endless linear path": (lambda t, m, c: t["g_s.linear.weight"][3, 4].fill_(float("inf")), "linear.weight is not"),
    "no number": (lambda t, m, c: t["g_s.linear.weight"][3, 4].fill_(float("nan")), "linear.weight is not"),
    "sums beyond int64": (lambda t, m, c: t["g_s.linear.weight"][3, 4].fill_(256), "linear.weight is not below 256"),
    "index beyond the tables": (lambda t, m, c: t["scale.z_index"].fill_(64), r"not within 0\.\.63"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_weights_are_refused_with_the_fact(name: str, tiny_path: Path, tmp_path: Path) -> None:
    change, words = HOSTILE[name]
    path = rewritten(tiny_path, tmp_path / "hostile.safetensors", change)
    with pytest.raises(ModelMismatchError, match=f"hostile.safetensors: .*{words}"):
        weights.load(weights.describe(path))


def test_deeply_nested_metadata_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "deep.safetensors"
    path.write_bytes(struct.pack("<Q", 200_000) + b"[" * 200_000)
    with pytest.raises(ModelMismatchError, match=r"deep\.safetensors"):
        weights.describe(path)


def test_a_pickle_is_refused_unread(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self):
            return (pytest.fail, ("the pickle ran",))

    path = tmp_path / "model.safetensors"
    torch.save({"weight": Trap()}, path)
    with pytest.raises(ModelMismatchError, match="not a usable weights file"):
        weights.describe(path)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 6e4])
def test_weights_that_overflow_decode_to_some_picture(value: float, tiny_path: Path, tmp_path: Path) -> None:
    def change(tensors, metadata, config) -> None:
        for name, tensor in tensors.items():
            if name.startswith(("mean_net.", "g_s.", "log_gain.")) and name != "g_s.linear.weight":
                tensor.fill_(value)

    model = weights.load(weights.describe(rewritten(tiny_path, tmp_path / "wild.safetensors", change)))
    header = container.Header(60, 60, 50, model.id)
    data = container.pack(header, [container.Section(container.SectionType.TILE, bytes(4))])
    assert codec.decompress(data, model=model).color.shape == (60, 60, 3)


def test_every_cut_of_a_weights_file_is_a_typed_error(tiny_path: Path, tmp_path: Path) -> None:
    data = tiny_path.read_bytes()
    path = tmp_path / "cut.safetensors"
    for length in [*range(0, 9000, 150), *range(9000, len(data), 20_000), len(data) - 1]:
        path.write_bytes(data[:length])
        with pytest.raises(ModelMismatchError, match=r"cut\.safetensors"):
            weights.load(weights.describe(path))
