"""Training goes on exactly where it stopped, and its result is a working codec."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from click.testing import CliRunner
from PIL import Image

from nncodec import codec, weights
from nncodec.cli import main
from nncodec.errors import InputError
from nncodec.train import export, loop
from nncodec.train.data import CropSampler, load_pictures
from nncodec.train.loop import Recipe


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, photo: np.ndarray) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    (folder / "deep").mkdir()
    for i in range(3):
        Image.fromarray(np.roll(photo, 37 * i, axis=1)).save(folder / "deep" / f"{i}.png")
    (folder / "broken.jpg").write_bytes(b"no picture")
    Image.fromarray(photo[:20, :20]).save(folder / "small.png")
    return folder


@pytest.fixture
def recipe(folder: Path) -> Recipe:
    return Recipe(
        data=str(folder), size="tiny", batch=2, crop=64, late_crop=128, steps=12, warmup_steps=2, late_from=0.8
    )


def test_resumed_run_equals_the_unbroken_one(recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    loop.run(recipe, whole, False, lambda _: None)

    original = loop.Trainer.train_step

    def stop_after_six(self: loop.Trainer, sampler: CropSampler) -> dict[str, float]:
        if self.step == 6 and not resumed:
            self.save()
            raise KeyboardInterrupt
        return original(self, sampler)

    resumed = False
    monkeypatch.setattr(loop.Trainer, "train_step", stop_after_six)
    with pytest.raises(KeyboardInterrupt):
        loop.run(recipe, broken, False, lambda _: None)
    resumed = True
    loop.run(recipe, broken, True, lambda _: None)
    states = [torch.load(f / "checkpoint.pt", weights_only=True) for f in (whole, broken)]
    assert states[0]["step"] == states[1]["step"] == 12
    for part in ("model", "ema"):
        for name, value in states[0][part].items():
            assert torch.equal(value, states[1][part][name]), name


def test_rate_anneals_to_zero(recipe: Recipe, tmp_path: Path) -> None:
    trainer = loop.Trainer(replace(recipe, steps=1000), tmp_path)
    rates = []
    for trainer.step in (0, 1, 300, 500, 900, 999):
        rates.append(trainer.learning_rate())
    assert rates[0] < rates[1] == pytest.approx(1e-3)
    assert rates[1] == rates[2] > rates[3] > rates[4] > rates[5]
    assert rates[5] < 1e-7


def test_time_limit_ends_the_run(recipe: Recipe, tmp_path: Path) -> None:
    said: list[str] = []
    loop.run(replace(recipe, steps=None, seconds=1.5), tmp_path / "run", False, said.append)
    rows = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert 1.5 <= rows[-1]["elapsed"] < 6
    assert len(said) == 1


def test_training_lowers_the_loss(recipe: Recipe, tmp_path: Path) -> None:
    trainer = loop.Trainer(replace(recipe, steps=60, warmup_steps=5), tmp_path)
    sampler = CropSampler(load_pictures(Path(recipe.data), tmp_path / "cache", 64), trainer.rng)
    losses = [trainer.train_step(sampler)["loss"] for _ in range(60)]
    assert np.mean(losses[-15:]) < 0.9 * np.mean(losses[:15])


def test_unreadable_and_small_pictures_are_skipped_and_counted(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = load_pictures(folder, tmp_path, 64)
    assert len(store) == 3
    assert "skipped 2 of 5" in capsys.readouterr().err
    assert store.picture(2).shape == (160, 208, 3)


def test_folder_without_pictures_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no pictures"):
        load_pictures(tmp_path, tmp_path / "cache", 64)


def test_crops_are_turned_mirrored_and_scaled(folder: Path, tmp_path: Path) -> None:
    sampler = CropSampler(load_pictures(folder, tmp_path, 64), np.random.default_rng(0), downscaled=0.5)
    batch = sampler.batch(64, 64)
    assert batch.shape == (64, 64, 64, 3)
    assert len({crop.tobytes() for crop in batch}) == 64


def test_train_export_compress_by_the_command_line(folder: Path, tmp_path: Path, photo: np.ndarray) -> None:
    runner = CliRunner()
    done = runner.invoke(
        main,
        ["train", str(folder), "-o", str(tmp_path / "run"), "--size", "tiny", "--steps", "6", "--batch", "1",
         "--crop", "64", "--late-crop", "64", "--no-bf16"],
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    out = tmp_path / "mine.safetensors"
    done = runner.invoke(main, ["export", str(tmp_path / "run"), "-o", str(out), "--pictures", "2"])
    assert done.exit_code == 0, done.output
    model = weights.load(weights.describe(out))
    assert model.name == "mine"
    decoded = codec.decompress(codec.compress(photo, 80, model), model=model)
    assert decoded.color.shape == photo.shape


def test_run_folder_is_not_overwritten(recipe: Recipe, tmp_path: Path) -> None:
    loop.run(replace(recipe, steps=1), tmp_path / "run", False, lambda _: None)
    with pytest.raises(InputError, match="--resume"):
        loop.run(replace(recipe, steps=1), tmp_path / "run", False, lambda _: None)


@pytest.mark.parametrize("change", [{"steps": None}, {"seconds": 3.0}, {"crop": 100}, {"decoder_only": True}])
def test_impossible_recipes_are_refused(recipe: Recipe, change: dict[str, object]) -> None:
    with pytest.raises(InputError):
        replace(recipe, **change)  # type: ignore[arg-type]


def test_decoder_alone_leaves_every_symbol_and_lowers_the_error(recipe: Recipe, tmp_path: Path) -> None:
    first = tmp_path / "joint"
    loop.run(recipe, first, False, lambda _: None)
    store = load_pictures(Path(recipe.data), first / "cache", 64)
    before, after = tmp_path / "before.safetensors", tmp_path / "after.safetensors"
    export.export(first / "checkpoint.pt", "before", store, before, 2)
    alone = replace(recipe, steps=60, warmup_steps=5, init_from=str(before), decoder_only=True)
    loop.run(alone, tmp_path / "decoder", False, lambda _: None)
    export.export(tmp_path / "decoder" / "checkpoint.pt", "after", store, after, 2, before)
    models = [weights.load(weights.describe(p)) for p in (before, after)]
    errors = []
    files = [codec.compress(store.picture(0), 40, model) for model in models]
    for model, data in zip(models, files, strict=True):
        decoded = codec.decompress(data, model=model)
        errors.append(np.mean((decoded.color.astype(float) - store.picture(0)) ** 2))
    streams = [codec.container.parse(data)[1] for data in files]
    assert streams[0] == streams[1]  # only the model id differs
    assert models[0].id != models[1].id
    assert errors[1] < errors[0]


def test_training_goes_on_from_shipped_weights(tiny_path: Path) -> None:
    """A network made back from integers is the one they were made of."""
    again = export.build(export.trainable(tiny_path), "tiny", None)
    shipped = safetensors.torch.load_file(tiny_path)
    different = [n for n in shipped if not n.startswith("tables.") and not torch.equal(shipped[n], again[n])]
    # Only what lies between knots, where a line is drawn anew through rounded numbers, may move, by one unit.
    assert all("bias" in n or n == "scale.z_index" for n in different)
    assert all((shipped[n] - again[n]).abs().max() <= 1 for n in different)


TWO_PROCESSES = """
import sys, torch
torch.set_num_threads(1)
from pathlib import Path
from nncodec.train.loop import Recipe, Trainer
trainer = Trainer(Recipe(data=".", size="tiny", steps=1, clip=1e9), Path(sys.argv[1]))
rank = trainer.group.rank
x = torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(5))
net, quality = trainer.model.eval(), torch.linspace(20, 80, 4)

def gradient(rows):
    trainer.optimizer.zero_grad(set_to_none=False)
    out = net(x[rows], quality[rows])
    ((out.y_bits + out.z_bits) / 4096 + 650 * (out.x_hat - x[rows]).square().mean((1, 2, 3))).mean().backward()
    return [p.grad.clone() for p in trainer.parameters if p.grad is not None]

joint = gradient(slice(0, 4))
gradient(slice(2 * rank, 2 * rank + 2))
stats = torch.tensor([float(rank), 10.0 * rank])
trainer._exchange(stats)
for p, expected in zip([p for p in trainer.parameters if p.grad is not None], joint, strict=True):
    assert torch.allclose(p.grad, expected, rtol=1e-3, atol=1e-5 * float(expected.abs().max() + 1e-9)), p.shape
assert stats.tolist() == [0.5, 5.0]
print("agrees", len(joint))
"""


def test_two_processes_average_to_the_joint_batch(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = os.environ | {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", TWO_PROCESSES, str(tmp_path)],
            env=shared | {"RANK": str(rank)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    for process in processes:
        out, err = process.communicate(timeout=100)
        assert process.returncode == 0, err
        assert out.startswith("agrees")
