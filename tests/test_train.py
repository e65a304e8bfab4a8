"""Training goes on exactly where it stopped, and its result is a working codec."""

from __future__ import annotations

import csv
import json
import math
import os
import platform
import signal
import socket
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch
from click.testing import CliRunner
from PIL import Image
from torch._dynamo.testing import CompileCounter

from nncodec import codec, encoding, postfilter, weights
from nncodec.cli import main
from nncodec.config import TINY
from nncodec.effort import prices, rounded
from nncodec.errors import InputError
from nncodec.nets.model import PLAIN, CodecNet
from nncodec.train import export, filtering, losses, optimizers, plots, speed, validate, watch
from nncodec.train import recipe as recipes
from nncodec.train.data import Crops, load_pictures, noisy
from nncodec.train.flat import FlatParameters
from nncodec.train.loop import DECODER, DONE, Trainer
from nncodec.train.recipe import OPTIMIZERS, Recipe
from nncodec.train.run import Stopped, run


def silent(_: str) -> None:
    pass


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
        data=str(folder), size="tiny", batch=2, crop=64, late_crop=128, steps=12, warmup_steps=2, fit_pictures=2,
        decoder_share=0.25, late_from=0.8, bfloat16=False, optimizer="adamw",
    )  # fmt: skip


def crops_of(recipe: Recipe, trainer: Trainer, cache: Path) -> Crops:
    return Crops(load_pictures(Path(recipe.data), cache, 64), "cpu", trainer.generator)


# Runs


@pytest.mark.parametrize("stop_at", [5, 10])  # in the joint stage, and in that of the decoder
def test_resumed_run_equals_the_unbroken_one(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_at: int
) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    run(recipe, whole, False, silent)
    original = Trainer.train_step

    def stopping(self: Trainer, crops: Crops) -> float:
        done = original(self, crops)
        self.stop = self.step == stop_at
        return done

    monkeypatch.setattr(Trainer, "train_step", stopping)
    with pytest.raises(Stopped, match=f"step {stop_at}"):
        run(recipe, broken, False, silent)
    monkeypatch.setattr(Trainer, "train_step", original)
    run(recipe, broken, True, silent)
    states = [torch.load(f / "checkpoint.pt", weights_only=True) for f in (whole, broken)]
    assert states[0]["step"] == states[1]["step"] == 12
    for part in ("model", "ema"):
        for name, value in states[0][part].items():
            assert torch.equal(value, states[1][part][name]), name
    files = [safetensors.torch.load_file(f / "mine.safetensors") for f in (whole, broken)]
    assert all(torch.equal(value, files[1][name]) for name, value in files[0].items())


@pytest.mark.parametrize("share", [0.0, 0.25])  # with a decoder stage and without
def test_run_that_was_killed_before_its_weights_were_written_resumes(
    recipe: Recipe, tmp_path: Path, share: float
) -> None:
    recipe = replace(recipe, steps=4, decoder_share=share, optimizer="muon")  # which knows its matrices
    out = run(recipe, tmp_path, False, silent)
    assert out is not None
    written = safetensors.torch.load_file(out)
    out.unlink()
    assert run(recipe, tmp_path, True, silent) == out
    assert all(torch.equal(value, written[name]) for name, value in safetensors.torch.load_file(out).items())


def test_checkpoint_of_before_z_was_guessed_is_exported_but_not_resumed(recipe: Recipe, tmp_path: Path) -> None:
    run(replace(recipe, steps=2, decoder_share=0.0), tmp_path, False, silent)
    path = tmp_path / "checkpoint.pt"
    state = torch.load(path, weights_only=True)
    for part in ("model", "ema"):
        del state[part][export.Z_AROUND]
    torch.save(state, path)
    net, _ = export.load_checkpoint(path)
    assert not net.scale_net.z_around.any()
    with pytest.raises(InputError, match="--init-from"):
        run(recipe, tmp_path, True, silent)


def test_time_limit_ends_the_run_with_a_usable_model(recipe: Recipe, tmp_path: Path, photo: np.ndarray) -> None:
    # Processor time, which other programs do not eat: on a busy box the tables took all the time left for the decoder.
    limited = replace(recipe, steps=None, seconds=12.0, clock="cpu", decoder_share=0.4)
    out = run(limited, tmp_path / "run", False, silent)
    train, _ = watch.read(tmp_path / "run" / "log.jsonl")
    assert {row["stage"] for row in train} == {"joint", "decoder"}
    assert 11.9 <= train[-1]["elapsed"] < 16
    assert train[-1]["lr"] < 0.02 * OPTIMIZERS["adamw"]
    assert out is not None
    model = weights.load(weights.describe(out))
    assert codec.decompress(codec.compress(photo, 80, model), model=model).color.shape == photo.shape


def test_run_leaves_recipe_logs_pictures_and_weights(recipe: Recipe, folder: Path, tmp_path: Path) -> None:
    recipe = replace(recipe, steps=4, crop=64, late_crop=64, validation_seconds=1e-3, license="CC0-1.0")
    big = tmp_path / "big"
    big.mkdir()
    with Image.open(folder / "deep" / "0.png") as picture:
        picture.resize((300, 280)).save(big / "a.png")
    out = run(replace(recipe, validation=str(big)), tmp_path / "run", False, silent)
    assert out is not None
    train, validation = watch.read(tmp_path / "run" / "log.jsonl")
    assert train[-1]["step"] == 4
    assert {row["stage"] for row in train} == {"joint", "decoder"}
    assert len(validation) == 4
    header = (tmp_path / "run" / "log.csv").read_text().splitlines()[0]
    assert header == ",".join(watch.COLUMNS)
    assert set(train[-1]) == set(watch.COLUMNS)
    with Image.open(tmp_path / "run" / "progress.gif") as gif:
        assert gif.n_frames == 4
        assert gif.size == (256, 3 * 256)
    for name in ("curves.png", "rd.png"):
        with Image.open(tmp_path / "run" / name) as picture:
            picture.verify()
    again = Recipe(**recipes.read(tmp_path / "run" / "recipe.toml"))
    with safetensors.safe_open(out, "pt") as file:
        facts = file.metadata()
    assert facts["recipe"] == again.digest()
    assert facts["license"] == "CC0-1.0"
    assert facts["tune"] == "psnr"
    assert len(facts["data"]) == 16


def test_training_lowers_the_loss_with_every_optimizer(recipe: Recipe, tmp_path: Path) -> None:
    for optimizer in OPTIMIZERS:
        trainer = Trainer(replace(recipe, optimizer=optimizer, steps=60, warmup_steps=5), tmp_path)
        crops, means = crops_of(recipe, trainer, tmp_path / "cache"), []
        for _ in range(4):
            for _ in range(15):
                trainer.train_step(crops)
            means.append(trainer.take_means()["loss"])
        assert means[-1] < 0.95 * means[0], optimizer


def test_muon_is_the_librarys_in_bfloat16_and_nearly_so_in_float32() -> None:
    import pytorch_optimizer

    def moved(kind: Callable[..., Any], bfloat16: bool) -> torch.Tensor:
        torch.manual_seed(0)
        flat = FlatParameters(CodecNet(TINY))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(optimizers, "_muon", lambda library, dtype: kind(library, dtype))
            optimizer = optimizers.build(Recipe(data=".", steps=1, bfloat16=bfloat16), flat)
        before, generator = flat.values.clone(), torch.Generator().manual_seed(1)
        for _ in range(3):
            flat.gradients.normal_(generator=generator)
            optimizer.step()
        return flat.values - before

    library = moved(lambda *_: pytorch_optimizer.Muon, True)
    assert torch.equal(moved(optimizers._muon, True), library)
    single = moved(optimizers._muon, False)
    assert 0 < torch.dist(single, library) < 0.01 * library.norm()


def test_time_left_of_a_run_that_goes_on_counts_from_where_it_goes_on(tmp_path: Path) -> None:
    log = watch.Log(tmp_path, quiet=False, progress=0.5)
    log.bar.start_t -= 60
    row = {"step": 1, "stage": "joint", "loss": 1.0, "bpp": 0.5, "psnr": 30.0, "crops256_per_s": 9.0}
    log.train(row, 0.75)
    assert " 75%|" in str(log.bar)
    assert "01:00<01:00" in str(log.bar)
    log.close()


MEMORY = """
import resource, torch
from nncodec import memory
torch.set_num_threads(1)

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        torch.ones(5 << 20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

given_back = faults()
memory.keep()
faults()
print(given_back, faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc")
def test_memory_is_kept_from_step_to_step() -> None:
    told = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True)
    given_back, kept = map(int, told.stdout.split())
    assert kept < 0.1 * given_back


def test_bfloat16_is_what_pays_unless_it_is_asked_for(folder: Path, tmp_path: Path) -> None:
    options = [
        "--size",
        "tiny",
        "--steps",
        "2",
        "--batch",
        "1",
        "--crop",
        "64",
        "--late-crop",
        "64",
        "--fit-pictures",
        "1",
    ]
    for flags, expected in (
        ([], speed.prefers_bfloat16(torch.device("cpu"))),
        (["--bf16"], True),
        (["--no-bf16"], False),
    ):
        out = tmp_path / "-".join(["run", *flags])
        done = CliRunner().invoke(main, ["train", str(folder), "-o", str(out), *options, *flags])
        assert done.exit_code == 0, done.output
        assert recipes.read(out / "recipe.toml")["bfloat16"] is expected


def test_learning_rate_warms_up_and_anneals_to_zero_in_each_stage(recipe: Recipe, tmp_path: Path) -> None:
    trainer = Trainer(replace(recipe, steps=1000, decoder_share=0.0, warmup_steps=300), tmp_path)

    def rate(step: int) -> float:
        trainer.step = trainer.stage_step = step
        return trainer.learning_rate()

    rates = [rate(step) for step in (0, 99, 340, 500, 900, 999)]
    assert rates[0] < 1e-5
    assert rates[1] == pytest.approx(0.99e-3)  # warm-up takes a tenth of the stage at most
    assert rates[2] == pytest.approx(1e-3)
    assert rates[2] > rates[3] > rates[4] > rates[5]
    assert rates[5] < 1e-7
    trainer.recipe = replace(trainer.recipe, warmup_steps=50)
    assert rate(24) == pytest.approx(0.5e-3)
    assert rate(49) == rate(60) == pytest.approx(1e-3)


def test_step_and_plateau_schedules_halve(recipe: Recipe, tmp_path: Path) -> None:
    trainer = Trainer(replace(recipe, steps=1000, decoder_share=0.0, schedule="step"), tmp_path)
    seen = set()
    for step in range(10, 1000):
        trainer.step = trainer.stage_step = step
        seen.add(trainer.learning_rate())
    assert sorted(seen, reverse=True) == pytest.approx([1e-3 * 0.5**i for i in range(10)])
    trainer.recipe = replace(trainer.recipe, schedule="plateau", validation="x")
    trainer.halvings = 3
    assert trainer.learning_rate() == pytest.approx(1e-3 / 8)


def test_patience_ends_the_stage(recipe: Recipe, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    big = tmp_path / "big"
    big.mkdir()
    with Image.open(folder / "deep" / "0.png") as picture:
        picture.resize((300, 280)).save(big / "a.png")
    scores = iter([3.0, 2.0] + [2.5] * 40)
    monkeypatch.setattr(validate, "score", lambda *_: next(scores))
    monkeypatch.setattr(plots, "draw", lambda *_: None)
    monkeypatch.setattr(plots, "save_frame", lambda *_: None)
    patient = replace(recipe, steps=16, validation=str(big), patience=3, validation_seconds=1e-6)
    run(patient, tmp_path / "run", False, silent)
    train, _ = watch.read(tmp_path / "run" / "log.jsonl")
    joint = [row["step"] for row in train if row["stage"] == "joint"]
    assert joint[-1] == 5  # two better, three not
    assert train[-1]["step"] == 5 + 4
    assert "no better for 3 validations" in (tmp_path / "run" / "log.jsonl").read_text()


def test_non_finite_gradient_changes_nothing_and_is_counted(recipe: Recipe, tmp_path: Path) -> None:
    trainer = Trainer(recipe, tmp_path)
    crops = crops_of(recipe, trainer, tmp_path / "cache")
    before = trainer.flat.values.clone()
    poison = trainer.distortion
    trainer.distortion = lambda *a: poison(*a) * math.nan
    trainer.train_step(crops)
    assert torch.equal(trainer.flat.values, before)
    trainer.distortion = poison
    trainer.train_step(crops)
    assert not torch.equal(trainer.flat.values, before)
    assert torch.isfinite(trainer.flat.values).all()
    assert torch.isfinite(trainer.mean_loss).all()
    assert trainer.take_means()["skipped_steps"] == 1


def test_full_disk_keeps_the_last_checkpoint(
    recipe: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = Trainer(recipe, tmp_path)
    assert trainer.save()
    before = (tmp_path / "checkpoint.pt").read_bytes()
    (tmp_path / "checkpoint.partial").symlink_to("/dev/full")
    trainer.step = 7
    assert not trainer.save()
    assert "the last checkpoint is kept" in capsys.readouterr().err
    assert (tmp_path / "checkpoint.pt").read_bytes() == before
    assert trainer.save()
    assert (tmp_path / "checkpoint.pt").read_bytes() != before


def test_terminated_run_saves_and_goes_on(recipe: Recipe, tmp_path: Path) -> None:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    begin = [sys.executable, "-m", "nncodec", "train"]
    where = ["-o", str(tmp_path / "run")]
    what = [recipe.data, "--size", "tiny", "--steps", "80", "--batch", "1", "--crop", "64", "--late-crop", "64",
            "--fit-pictures", "2", "--no-bf16", "--device", "cpu", "--checkpoint-every", "1"]  # fmt: skip
    process = subprocess.Popen([*begin, *what, *where], env=environment, stderr=subprocess.PIPE, text=True)
    checkpoint = tmp_path / "run" / "checkpoint.pt"
    end = time.monotonic() + 60
    while not checkpoint.exists() and time.monotonic() < end:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, message = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "--resume" in message
    assert "Traceback" not in message
    stopped = torch.load(checkpoint, weights_only=True)["step"]
    assert 0 < stopped < 80
    done = subprocess.run([*begin, "--resume", *where], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert torch.load(checkpoint, weights_only=True)["step"] == 80


def test_train_export_compress_by_the_command_line(folder: Path, tmp_path: Path, photo: np.ndarray) -> None:
    runner = CliRunner()
    done = runner.invoke(
        main,
        ["train", str(folder), "-o", str(tmp_path / "run"), "--size", "tiny", "--steps", "6", "--batch", "1",
         "--crop", "64", "--late-crop", "64", "--no-bf16", "--fit-pictures", "2", "--device", "cpu"],
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    out = tmp_path / "other.safetensors"
    done = runner.invoke(main, ["export", str(tmp_path / "run"), "-o", str(out), "--refit", "--pictures", "1"])
    assert done.exit_code == 0, done.output
    for path, name in ((tmp_path / "run" / "mine.safetensors", "mine"), (out, "other")):
        model = weights.load(weights.describe(path))
        assert model.name == name
        assert codec.decompress(codec.compress(photo, 80, model), model=model).color.shape == photo.shape


@pytest.mark.parametrize("limit", ["nanm", "infh", "nan", "0s", "-1s"])
@pytest.mark.parametrize("command", [["train"], ["tune", "--trials", "1"]])
def test_time_limits_that_are_no_time_are_refused(command: list[str], limit: str, tmp_path: Path) -> None:
    done = CliRunner().invoke(main, [*command, str(tmp_path), "-o", str(tmp_path / "run"), "--time-limit", limit])
    assert done.exit_code == 2
    assert "write 90s, 10m or 8h" in done.output


@pytest.mark.parametrize("device", ["foo", "cuda:99"])
@pytest.mark.parametrize("command", [["train"], ["tune", "--trials", "1"]])
def test_devices_that_are_not_there_are_refused(command: list[str], device: str, tmp_path: Path) -> None:
    arguments = [*command, str(tmp_path), "-o", str(tmp_path / "run"), "--time-limit", "9s", "--device", device]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 1
    assert f"device '{device}' cannot be used" in done.output


def test_outputs_that_cannot_be_are_refused_at_once(tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    file.write_bytes(b"x")
    done = CliRunner().invoke(main, ["train", str(tmp_path), "-o", str(file), "--steps", "1"])
    assert done.exit_code == 2
    assert "is a file" in done.output
    for name, message in (("nowhere/y.safetensors", "make it first"), ("y.txt", r"weights end in .safetensors")):
        done = CliRunner().invoke(main, ["export", str(tmp_path), "-o", str(tmp_path / name)])
        assert done.exit_code == 1
        assert message in done.output


def test_run_folder_is_not_overwritten(recipe: Recipe, tmp_path: Path) -> None:
    run(replace(recipe, steps=2), tmp_path / "run", False, silent)
    with pytest.raises(InputError, match="--resume"):
        run(replace(recipe, steps=2), tmp_path / "run", False, silent)


def test_decoder_alone_leaves_every_symbol_and_lowers_the_error(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoding, "filters", lambda *_: False)  # they are fitted to what the decoder makes
    before = run(replace(recipe, decoder_share=0.0), tmp_path / "joint", False, silent)
    alone = replace(recipe, steps=60, warmup_steps=5, init_from=str(before), decoder_only=True)
    after = run(alone, tmp_path / "decoder", False, silent)
    assert before is not None
    assert after is not None
    models = [weights.load(weights.describe(p)) for p in (before, after)]
    store = load_pictures(Path(recipe.data), tmp_path / "cache", 64)
    errors = []
    files = [codec.compress(store.picture(0), 40, model) for model in models]
    for model, data in zip(models, files, strict=True):
        decoded = codec.decompress(data, model=model)
        errors.append(np.mean((decoded.color.astype(float) - store.picture(0)) ** 2))
    streams = [codec.container.parse(data)[1] for data in files]
    assert streams[0] == streams[1]  # only the model id differs
    assert models[0].id != models[1].id
    assert errors[1] < errors[0]


@pytest.mark.filterwarnings("ignore")  # torch, of what it does itself while it traces
def test_a_compiled_step_is_compiled_once(recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counter = CompileCounter()  # in place of the C++ compiler, which takes minutes
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=counter))
    trainer = Trainer(
        replace(recipe, compile=True, late_crop=64, chosen_from=0.0, priced_from=0.0, filtered_from=0.0), tmp_path
    )
    crops = crops_of(recipe, trainer, tmp_path / "cache")
    compiled = []
    for _ in range(3):
        trainer.train_step(crops)
        compiled.append(counter.frame_count)
    assert compiled[0] > 0
    assert compiled == 3 * compiled[:1]


def test_residuals_are_chosen_and_priced_from_where_the_recipe_says(
    recipe: Recipe, tmp_path: Path, tiny_path: Path
) -> None:
    late = replace(recipe, steps=20, decoder_share=0.5, chosen_from=0.6, priced_from=0.8, init_from=str(tiny_path))
    trainer = Trainer(late, tmp_path)
    crops = crops_of(recipe, trainer, tmp_path / "cache")
    seen = []
    while trainer.stage_progress < 1.0:
        seen.append([part is not None for part in trainer.coding])
        trainer.train_step(crops)
    assert seen == 6 * [[False, False]] + 2 * [[True, False]] + 2 * [[True, True]]
    residual, row = torch.tensor([0.55, 1.4]), torch.tensor([20, 20], dtype=torch.uint8)
    price = prices(weights.load(weights.describe(tiny_path)).entropy.tables)
    choose = trainer.coding.choose
    assert choose is not None
    assert torch.equal(choose(residual, row), rounded(residual, row, price))
    assert Trainer(replace(late, chosen_from=1.0, priced_from=1.0), tmp_path).coding == PLAIN


def test_distortion_is_behind_filters_from_where_the_recipe_says(
    recipe: Recipe, tmp_path: Path, photo: np.ndarray
) -> None:
    late = replace(recipe, steps=20, decoder_share=0.5, filtered_from=0.6)
    trainer = Trainer(late, tmp_path)
    crops = crops_of(recipe, trainer, tmp_path / "cache")
    x, bits = crops.batch(2, 64), torch.tensor([4096.0, 8192.0])
    x_hat, lmbda = torch.nn.functional.avg_pool2d(x, 3, 1, 1), torch.tensor([0.01, 0.05])
    plain, own = (losses.squared_error(each, x) for each in (x_hat, filtering.filtered(x_hat, x, lmbda)))
    assert (own < 0.7 * plain).all()
    found = []
    while trainer.stage_progress < 1.0:
        behind = trainer.phase.filtered
        _, distortion, mse = trainer._costs(bits, x_hat, x, lmbda, behind)
        found.append(behind)
        torch.testing.assert_close(mse, own if behind else plain)
        torch.testing.assert_close(distortion, lmbda * (0.15 * plain + 0.85 * own if behind else plain))
        trainer.train_step(crops)
    assert found == [False] * 6 + [True] * 4
    Image.fromarray(np.tile(photo, (4, 4, 1))).save(tmp_path / "large.png")
    validator = validate.Validator(load_pictures(tmp_path / "large.png", tmp_path / "other", 256), trainer.device)
    model = trainer.averaged_model()
    for plain_row, own_row in zip(validator.rows(model), validator.rows(model, filters=True), strict=True):
        assert own_row["psnr"] > plain_row["psnr"] + 0.05
        assert own_row["bpp_est"] == plain_row["bpp_est"]


def test_share_of_crops_has_a_middle_quality(recipe: Recipe, tmp_path: Path) -> None:
    low, high = recipes.MIDDLE
    for share in (0.0, 0.4, 1.0):
        quality = Trainer(replace(recipe, middle_share=share), tmp_path)._qualities(4000)
        assert quality.min() >= 1
        assert quality.max() <= 100
        inside = ((quality >= low) & (quality <= high)).float().mean().item()
        assert inside == pytest.approx(share + (1 - share) * (high - low) / 99, abs=0.03)


def test_gradients_pass_through_filters() -> None:
    """As autograd has them, of taps as large as those of files and crops that exceed the range of levels."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(2, 3, 40, 48, generator=generator)
    x = (torch.nn.functional.avg_pool2d(noise, 3, 1, 1) * 2.4 - 0.7).requires_grad_()
    taps = torch.from_numpy(np.random.default_rng(0).uniform(-6, 6, (2, *postfilter.none(3).shape)).astype(np.float32))
    limits = [postfilter.clip_at(0.02), postfilter.clip_at(0.1)]
    toward = torch.randn(2, 3, 40, 48, generator=generator)
    seen = postfilter.padded(x)
    alone = [postfilter._filtered(*one) for one in zip(seen.split(1), taps.split(1), limits, strict=True)]
    outs = torch.cat(alone), postfilter._Filter.apply(seen, taps, torch.tensor(limits)[:, None, None, None])
    expected, found = (torch.autograd.grad((out * toward).sum(), x, retain_graph=True)[0] for out in outs)
    torch.testing.assert_close(*outs, rtol=0, atol=1e-6)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert 0.02 < (expected == 0).float().mean() < 0.5  # where x exceeds the range


def test_crops_of_a_batch_have_the_filters_they_would_have_alone() -> None:
    """Those of least error as `solved` finds them, at each crop's own lambda."""
    generator = torch.Generator().manual_seed(0)
    x = torch.nn.functional.avg_pool2d(torch.rand(2, 3, 64, 64, generator=generator), 5, 1, 2)
    x_hat = torch.nn.functional.avg_pool2d(x, 3, 1, 1) + 0.02 * torch.randn(x.shape, generator=generator)
    lmbda = torch.tensor([0.004, 0.1])
    found = filtering.filtered(x_hat, x, lmbda)
    for one, original, worth, behind in zip(x_hat, x, lmbda.tolist(), found, strict=True):
        seen = postfilter.padded(one)
        taps = [postfilter.solved(a, b) for a, b in postfilter.equations(seen, original, postfilter.clip_at(worth))]
        alone = torch.from_numpy(0.9 * np.stack(taps).astype(np.float32))[None]
        limit = torch.full((1, 1, 1, 1), postfilter.clip_at(worth))
        torch.testing.assert_close(behind, postfilter._filtered(seen[None], alone, limit)[0], rtol=0, atol=1e-5)


def test_training_goes_on_from_shipped_weights(tiny_path: Path) -> None:
    """A network made back from integers is the one they were made of."""
    again = export.build(export.trainable(tiny_path)[0], export.gaussian_tables())
    shipped = safetensors.torch.load_file(tiny_path)
    different = [n for n in shipped if not n.startswith("tables.") and not torch.equal(shipped[n], again[n])]
    # Only what lies between knots, where a line is drawn anew through rounded numbers, may move, by one unit.
    assert all("bias" in n or n == "scale.z_index" for n in different)
    assert all((shipped[n] - again[n]).abs().max() <= 1 for n in different)


def test_blocks_without_tables_get_some_that_start_as_nothing(tmp_path: Path) -> None:
    old, config = tmp_path / "old.safetensors", replace(TINY, block_knots=0)
    export.write(CodecNet(config), "old", export.gaussian_tables(), old, {})
    before, after = export.trainable(old)[0].eval(), export.trainable(old, 3)[0].eval()
    assert (before.config, after.config) == (config, replace(config, block_knots=3))
    x, quality = torch.rand(2, 3, 64, 64), torch.tensor([20.0, 80.0])
    for expected, found in zip(before(x, quality), after(x, quality), strict=True):
        torch.testing.assert_close(found, expected)
    recipe = Recipe("x", size="tiny", steps=10, init_from=str(old))
    assert Trainer(recipe, tmp_path).model.config == TINY
    assert Trainer(replace(recipe, encoder_only=True), tmp_path).model.config == config  # the decoder is that of `old`


# Data


def test_unreadable_and_small_pictures_are_skipped_and_counted(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = load_pictures(folder, tmp_path, 64)
    assert len(store) == 3
    assert "skipped 2 of 5" in capsys.readouterr().err
    assert store.picture(2).shape == (160, 208, 3)


def test_pictures_are_decoded_as_the_codec_reads_them(photo: np.ndarray, tmp_path: Path) -> None:
    photos, grey = tmp_path / "photos", photo[..., 1]
    photos.mkdir()
    Image.fromarray(grey.astype(np.uint16) * 257).save(photos / "16-bit.png")
    alpha = np.where(np.arange(photo.shape[1]) < 100, 0, 255).astype(np.uint8)
    Image.fromarray(np.dstack([photo, np.broadcast_to(alpha, grey.shape)])).save(photos / "alpha.png")
    Image.fromarray(grey).save(photos / "keyed.png", transparency=int(grey[0, 0]))
    Image.fromarray(photo).save(photos / "plain.png")
    store = load_pictures(photos, tmp_path / "cache", 64)
    deep, over_white, keyed, plain = (store.picture(i) for i in range(len(store)))
    assert np.array_equal(deep, np.dstack([grey] * 3))
    assert np.array_equal(over_white, np.where(alpha[:, None] == 0, 255, photo))
    assert np.array_equal(keyed[..., 0], np.where(grey == grey[0, 0], 255, grey))
    assert np.array_equal(plain, photo)


def test_folder_without_pictures_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no pictures"):
        load_pictures(tmp_path, tmp_path / "cache", 64)


def test_tar_shards_hold_the_same_pictures(folder: Path, tmp_path: Path) -> None:
    shards = tmp_path / "shards"
    shards.mkdir()
    with tarfile.open(shards / "one.tar", "w") as tar:
        for i in range(2):
            tar.add(folder / "deep" / f"{i}.png", f"class-{i}/{i}.png")
        tar.add(folder / "broken.jpg", "broken.jpg")
    with tarfile.open(shards / "two.tar.gz", "w:gz") as tar:
        tar.add(folder / "deep" / "2.png", "2.png")
    stores = [load_pictures(source, tmp_path / "cache", 64) for source in (folder, shards)]
    assert len(stores[1]) == 3
    assert all(np.array_equal(stores[0].picture(i), stores[1].picture(i)) for i in range(3))
    (shards / "bad.tar").write_bytes(b"x" * 700)
    with pytest.raises(InputError, match=r"bad\.tar"):
        load_pictures(shards, tmp_path / "cache", 64)


def test_validation_share_splits_without_overlap(folder: Path, tmp_path: Path) -> None:
    store = load_pictures(folder, tmp_path / "cache", 64)
    train, validation = store.split(0.34)
    assert (len(train), len(validation)) == (2, 1)
    assert sorted(train.offsets + validation.offsets) == sorted(store.offsets)
    with pytest.raises(InputError, match="too few"):
        train.split(1.0)


@pytest.fixture
def crops(folder: Path, tmp_path: Path) -> Callable[[float], Crops]:
    store = load_pictures(folder, tmp_path / "cache", 64)
    return lambda downscaled: Crops(store, "cpu", torch.Generator().manual_seed(3), downscaled)


def test_crops_are_pieces_of_the_pictures_turned_and_mirrored(crops: Callable[[float], Crops]) -> None:
    sampler = crops(0.0)
    batch = (sampler.batch(64, 64) * 255).round().to(torch.uint8)
    assert batch.shape == (64, 3, 64, 64)
    pixels = sampler.pixels.numpy()
    picture = pixels[: 160 * 208].reshape(160, 208, 3)
    windows = np.lib.stride_tricks.sliding_window_view(picture, (64, 64), (0, 1))
    turns = set()
    for crop in batch.permute(0, 2, 3, 1).numpy():
        for turn in range(8):
            turned = np.rot90(crop[:, ::-1] if turn > 3 else crop, turn)
            corner = np.argwhere((windows[..., 0, 0] == turned[0, 0]).all(-1))
            if any(np.array_equal(np.moveaxis(windows[r, c], 0, -1), turned) for r, c in corner):
                turns.add(turn)
    assert turns == set(range(8))


def test_downscaled_crops_average_their_pixels(crops: Callable[[float], Crops]) -> None:
    sampler = crops(1.0)
    u = torch.rand(3, 7, generator=torch.Generator().manual_seed(1))
    u[:, 3:5] = 1.0  # as it stands
    u[:, 6] = torch.tensor([0.0, 0.5, 1.0])
    picture = torch.zeros(3, dtype=torch.long)
    small = sampler._scaled(u, picture, 64).float()
    source = torch.tensor([64, 96, 128])
    window = sampler._window(u, picture, source, 128).float()
    assert torch.equal(small[0], window[0, :64, :64])
    halves = window[2].unflatten(0, (64, 2)).unflatten(2, (64, 2)).mean((1, 3))
    assert (small[2] - halves).abs().max() <= 0.5
    # By 1.5, every two pixels out are three in: 1, a half and a half, 1.
    triples = window[1, :96, :96].unflatten(0, (32, 3)).unflatten(2, (32, 3))  # [32, 3, 32, 3, c]
    first = torch.einsum("rycxk,y,x->rck", triples, *2 * [torch.tensor([1.0, 0.5, 0.0]) / 1.5])
    assert (small[1, ::2, ::2] - first).abs().max() <= 0.51


def test_relit_crops_are_the_same_in_other_light(crops: Callable[[float], Crops]) -> None:
    plain, sampler = crops(0.0), crops(0.0)
    sampler.relit = 0.5
    before, after = plain.batch(64, 64), sampler.batch(64, 64)
    same = (before == after).flatten(1).all(1)
    assert 20 < same.sum() < 44
    assert torch.equal(after, (255 * after).round() / 255)
    was, became = (x[~same].mean(1).flatten(1) for x in (before, after))
    assert (became.mean(1) - was.mean(1)).abs().median() > 0.03
    alike = [np.corrcoef(a, b)[0, 1] for a, b in zip(was, became, strict=True)]
    assert np.median(alike) > 0.97
    chroma = [(x[~same] - x[~same].mean(1, keepdim=True)).abs().mean((1, 2, 3)) for x in (before, after)]
    ratio = chroma[1] / chroma[0]
    assert ratio.min() < 0.8
    assert ratio.max() > 1.2


# Parts


def test_flat_gradients_are_clipped_as_torch_does() -> None:
    torch.manual_seed(0)
    first, second = (torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.Conv2d(4, 2, 3)) for _ in range(2))
    second.load_state_dict(first.state_dict())
    flat = FlatParameters(first)
    x = torch.randn(2, 3, 8, 8)
    for net in (first, second):
        (net(x) ** 2).sum().backward()
    norm, skipped = flat.limit_gradients(0.5)
    expected = torch.nn.utils.clip_grad_norm_(second.parameters(), 0.5)
    assert norm == pytest.approx(float(expected))
    assert not skipped
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert a.grad is not None
        assert torch.allclose(a.grad, b.grad, atol=1e-6)
    assert flat.kinds == ["matrix", "vector", "vector", "vector"]


def test_losses_ask_for_about_the_same_rate_at_equal_lambda() -> None:
    """At the error that theory gives for lambda, MSE and L1 have equal slopes."""
    torch.manual_seed(0)
    lmbda = torch.tensor([0.02])
    sigma = math.sqrt(1.5 / (0.02 * math.log(2.0)))
    x = torch.rand(1, 3, 192, 192)
    noise = torch.randn_like(x) * sigma / 255
    slopes = {}
    for name in ("mse", "l1"):
        values = [float(losses.distortion(name)(x + noise * f, x, lmbda)) for f in (0.99, 1.01)]
        slopes[name] = values[1] - values[0]
    assert slopes["l1"] == pytest.approx(slopes["mse"], rel=0.02)


@pytest.mark.parametrize("name", recipes.LOSSES)
def test_every_loss_is_zero_for_equal_pictures_and_pulls_towards_them(name: str) -> None:
    torch.manual_seed(0)
    x, lmbda = torch.rand(2, 3, 192, 192), torch.tensor([0.01, 0.1])
    weigh = losses.distortion(name)
    assert weigh(x, x, lmbda).abs().max() < 1e-3
    x_hat = (x + 0.05 * torch.randn_like(x)).requires_grad_()
    value = weigh(x_hat, x, lmbda)
    assert value.shape == (2,)
    assert value[1] > value[0] > 0
    (gradient,) = torch.autograd.grad(value.sum(), x_hat)
    assert weigh((x_hat - 1e-3 * gradient / gradient.abs().max()).detach(), x, lmbda).sum() < value.sum()


def test_recipe_survives_toml(recipe: Recipe, tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(recipe.to_toml())
    assert Recipe(**recipes.read(path)) == recipe
    for text, message in (("batch = 'x'", "type int"), ("nothing = 1", "no field"), ("batch =", "not a TOML")):
        path.write_text(text)
        with pytest.raises(InputError, match=message):
            recipes.read(path)


def test_pictures_are_kept_for_validation_unless_a_recipe_says_otherwise(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shares: list[float] = []
    monkeypatch.setattr("nncodec.train.run.run", lambda made, *_: shares.append(made.validation_share))
    path = tmp_path / "r.toml"
    path.write_text(recipe.to_toml())
    begin = ["train", recipe.data, "-o", str(tmp_path / "run"), "--steps", "1", "--no-bf16"]
    for more in ([], ["--val", recipe.data], ["--val-share", "0"], ["--config", str(path)], ["--preset", "28x28"],
                 ["--late-crop", "192"]):  # fmt: skip
        done = CliRunner().invoke(main, [*begin, *more])
        assert done.exit_code == 0, done.output
    assert shares == [recipes.VALIDATION_SHARE, 0.0, 0.0, 0.0, 0.1, 0.0]


def test_config_file_is_overridden_by_options(recipe: Recipe, tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    path.write_text(replace(recipe, fit_pictures=1).to_toml())
    arguments = ["train", "--config", str(path), "-o", str(tmp_path / "run"), "--steps", "3", "--name", "other"]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 0, done.output
    resolved = Recipe(**recipes.read(tmp_path / "run" / "recipe.toml"))
    assert resolved == replace(recipe, fit_pictures=1, steps=3, name="other")
    assert (tmp_path / "run" / "other.safetensors").exists()


@pytest.mark.parametrize(
    "change",
    [{"steps": None}, {"seconds": 3.0}, {"crop": 100}, {"decoder_only": True}, {"optimizer": "sgd"}, {"batch": 0},
     {"loss": "ms-ssim"}, {"patience": 2}, {"late_from": 1.5}],
)  # fmt: skip
def test_impossible_recipes_are_refused(recipe: Recipe, change: dict[str, object]) -> None:
    with pytest.raises(InputError):
        replace(recipe, **change)  # type: ignore[arg-type]


def test_score_is_the_geometric_mean_of_the_losses() -> None:
    rows = [{"quality": 1, "bpp_est": 0.1, "psnr": 30.0}, {"quality": 100, "bpp_est": 2.0, "psnr": 40.0}]
    each = [0.1 + TINY.lmbda_min * 65.025, 2.0 + TINY.lmbda_max * 6.5025]
    assert validate.score(rows, TINY) == pytest.approx(math.sqrt(each[0] * each[1]))


def test_grid_shows_original_decoded_and_difference() -> None:
    crops = np.full((2, 256, 256, 3), 100, np.uint8)
    picture = np.asarray(plots.grid(crops, crops + 3))
    assert picture.shape == (768, 512, 3)
    assert [int(picture[256 * row, 0, 0]) for row in range(3)] == [100, 103, 128 + 24]


TWO_PROCESSES = """
import sys, torch
torch.set_num_threads(1)
from pathlib import Path
from nncodec.config import TINY
from nncodec.nets.model import PLAIN, CodecNet
from nncodec.train import optimizers
from nncodec.train.flat import FlatParameters
from nncodec.train.loop import Trainer
from nncodec.train.recipe import Recipe

def muon():
    torch.manual_seed(0)
    flat = FlatParameters(CodecNet(TINY))
    return flat, optimizers.build(Recipe(data=".", steps=1, optimizer="muon", weight_decay=0.1, bfloat16=False), flat)

by_itself = muon()
trainer = Trainer(Recipe(data=".", size="tiny", steps=10, clip=1e9, bfloat16=False), Path(sys.argv[1]))
rank = trainer.group.rank

# Muon's matrices are shared out, and move as they do in a process of its own.
for flat, optimizer in (shared := muon(), by_itself):
    before, generator = flat.values.clone(), torch.Generator().manual_seed(1)
    for _ in range(3):
        flat.gradients.normal_(generator=generator)
        optimizer.step()
    assert torch.dist(before, flat.values) > 0.1
assert torch.allclose(shared[0].values, by_itself[0].values, atol=1e-6)

x = torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(5))
net, quality = trainer.model.eval(), torch.linspace(20, 80, 4)

def gradient(rows):
    trainer.flat.gradients.zero_()
    out = net(x[rows], quality[rows])
    ((out.y_bits + out.z_bits) / 4096 + 650 * (out.x_hat - x[rows]).square().mean((1, 2, 3))).mean().backward()
    return trainer.flat.gradients.clone()

joint = gradient(slice(0, 4))
gradient(slice(2 * rank, 2 * rank + 2))
trainer.average_gradients()
assert torch.allclose(trainer.flat.gradients, joint, rtol=1e-3, atol=1e-5 * float(joint.abs().max()))

# Whole steps keep the processes equal, also where rank 0 alone decides something.
class Random:
    def batch(self, count, size):
        return torch.rand(count, 3, size, size, generator=trainer.generator)
trainer.recipe = Recipe(data=".", size="tiny", steps=10, crop=64, late_crop=64, batch=2, bfloat16=False)
trainer.model.train()
for step in range(3):
    trainer.halvings = 2 if rank == 0 else 0
    trainer.train_step(Random())
values = trainer.flat.values.clone()
trainer.group.sum(values)
assert torch.equal(values / 2, trainer.flat.values)
assert trainer.halvings == 2
trainer.group.wait()
trainer.group.close()
print("agrees")
"""


def test_two_processes_average_to_the_joint_batch_and_stay_equal(tmp_path: Path) -> None:
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
    outcomes = [(*process.communicate(timeout=100), process.returncode) for process in processes]
    for out, err, status in outcomes:
        assert status == 0, err
        assert out.startswith("agrees")


def test_stages_follow_each_other(recipe: Recipe, tmp_path: Path) -> None:
    trainer = Trainer(recipe, tmp_path)
    store = load_pictures(Path(recipe.data), tmp_path / "cache", 64)
    encoder = {n: p.clone() for n, p in trainer.model.named_parameters() if not n.startswith("g_s.")}
    trainer.next_stage(store)
    assert trainer.stage == DECODER
    assert all(name.startswith("g_s.") or not p.requires_grad for name, p in trainer.model.named_parameters())
    trainer.train_step(Crops(store, "cpu", trainer.generator))
    assert all(torch.equal(dict(trainer.model.named_parameters())[n], p) for n, p in encoder.items())
    trainer.next_stage(store)
    assert trainer.stage == DONE
    state = json.dumps([trainer.stage, trainer.step])
    assert state == '["done", 1]'


# Noise


def test_noise_has_the_deviation_it_names() -> None:
    x = torch.full((64, 3, 32, 32), 0.5)
    first = noisy(x, (10.0, 40.0), torch.Generator().manual_seed(3))
    deviations = 255 * (first - x).std((1, 2, 3))
    assert 9 < deviations.min() < 13
    assert 36 < deviations.max() < 42
    assert torch.equal(first, noisy(x, (10.0, 40.0), torch.Generator().manual_seed(3)))
    extreme = noisy(torch.ones(1, 3, 8, 8), (50.0, 50.0), torch.Generator().manual_seed(0))
    assert extreme.max() == 1.0
    assert extreme.min() < 0.9


def test_encoder_learns_the_clean_picture_and_the_decoder_stays(
    recipe: Recipe, folder: Path, tmp_path: Path, tiny_path: Path, photo: np.ndarray
) -> None:
    changes = {"init_from": str(tiny_path), "encoder_only": True, "noise": "gauss:40", "steps": 60, "size": "fast"}
    out = run(replace(recipe, **changes), tmp_path / "run", False, silent)
    assert out is not None
    before, after = (safetensors.torch.load_file(path) for path in (tiny_path, out))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all(name.startswith(("g_a.", "h_a.")) for name in changed)
    description = weights.describe(out)
    assert description.id == weights.describe(tiny_path).id
    assert description.noise == "gauss:40"
    call = CliRunner().invoke(main, ["export", str(tmp_path / "run"), "-o", str(tmp_path / "again.safetensors")])
    assert call.exit_code == 0, call.output
    again = safetensors.torch.load_file(tmp_path / "again.safetensors")
    assert all(torch.equal(value, again[name]) for name, value in after.items())
    seen = np.clip(photo + np.random.default_rng(5).normal(0, 40, photo.shape), 0, 255).astype(np.uint8)
    errors = []
    for path in (tiny_path, out):
        model = replace(weights.load(weights.describe(path)), noise="gauss:40")
        errors.append(np.square(codec.denoise(seen, model).color.astype(float) - photo).mean())
    assert errors[1] < 0.93 * errors[0]


def test_validation_sees_noise_and_counts_against_the_clean(folder: Path, tmp_path: Path) -> None:
    with Image.open(folder / "deep" / "0.png") as picture:
        (tmp_path / "big").mkdir()
        picture.resize((300, 280)).save(tmp_path / "big" / "a.png")
    store = load_pictures(tmp_path / "big", tmp_path / "cache", 256)
    plain, seeing = (validate.Validator(store, torch.device("cpu"), noise=noise) for noise in (None, (30.0, 30.0)))
    assert np.array_equal(plain.crops, seeing.crops)
    assert torch.equal(plain.x, seeing.x)
    assert 25 < 255 * float((seeing.seen - seeing.x).std()) < 31
    model = CodecNet(TINY).eval()
    assert seeing.rows(model)[-1]["psnr"] < plain.rows(model)[-1]["psnr"] - 0.5


@pytest.mark.parametrize(
    "noise", ["gauss", "gauss:", "gauss:50-0", "gauss:-3", "gauss:nan", "gauss:300", "salt:3", "gauss:1-2-3"]
)
def test_odd_noise_is_refused(noise: str) -> None:
    with pytest.raises(InputError, match=r"write gauss:0-50"):
        Recipe(data="x", steps=1, noise=noise)


@pytest.mark.parametrize("field", ["seconds", "learning_rate", "clip", "width"])
def test_numbers_that_are_not_finite_are_refused(field: str) -> None:
    for value in (math.nan, math.inf):
        with pytest.raises(InputError, match=f"{field} is .*must be finite"):
            Recipe(**({"data": "x", field: value} | ({} if field == "seconds" else {"steps": 1})))


@pytest.mark.parametrize("name", ["", "../esc", "a/b", "a\\b", "a\nb", "odd\udcff", 101 * "a", 34 * "\u8a9e"])
def test_names_that_no_weights_file_can_have_are_refused(name: str) -> None:
    with pytest.raises(InputError, match="name is"):
        Recipe(data="x", steps=1, name=name)


def test_half_a_model_needs_weights_to_begin_with(recipe: Recipe) -> None:
    with pytest.raises(InputError, match="only be trained from weights"):
        replace(recipe, encoder_only=True)
    with pytest.raises(InputError, match="nothing to train"):
        replace(recipe, encoder_only=True, decoder_only=True, init_from="x.safetensors")


# Tuning


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory, photo: np.ndarray) -> Path:
    folder = tmp_path_factory.mktemp("large")
    for i in range(4):
        Image.fromarray(np.roll(photo, 50 * i, axis=1)).resize((320, 288)).save(folder / f"{i}.png")
    return folder


def test_tune_goes_on_where_it_was(large: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("optuna")
    study = tmp_path / "study"
    command = ["tune", str(large), "-o", str(study), "--val-share", "0.3", "--size", "tiny", "--time-limit", "2s"]
    first = CliRunner().invoke(main, [*command, "--trials", "2"])
    assert first.exit_code == 0, first.output
    assert first.stdout.splitlines()[0].startswith("1/2  latents 32  width 1.00  lr 2.00e-03  score ")

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("nncodec.train.run.run", interrupted)
        assert CliRunner().invoke(main, [*command, "--trials", "3"]).exit_code == 130
    second = CliRunner().invoke(main, [*command, "--trials", "3"])
    assert second.exit_code == 0, second.output
    assert [line.split()[0] for line in second.stdout.splitlines()] == ["3/3", "best:"]
    with (study / "trials.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["state"] for row in rows] == ["complete", "complete", "fail", "complete"]
    assert rows[2]["learning_rate"] == rows[3]["learning_rate"]  # what was interrupted is done first
    assert len({row["learning_rate"] for row in rows}) == 3
    recipe = Recipe(**recipes.read(study / "best.toml"))
    best = next(row for row in rows if row["score"] and float(row["learning_rate"]) == recipe.learning_rate)
    assert float(best["score"]) == min(float(row["score"]) for row in rows if row["score"])
    assert f"score {float(best['score']):.4f}" in second.stdout
    assert recipe.config.y_channels == int(best["latents"])
    _, validation = watch.read(study / f"trial-{int(best['trial']):03d}" / "log.jsonl")
    assert validation[-1]["score"] == float(best["score"])
    with Image.open(study / "study.png") as figure:
        figure.verify()
    other = CliRunner().invoke(main, [*command[:-1], "3s", "--trials", "4"])
    assert other.exit_code == 1
    assert "another recipe" in other.output


def test_tune_refuses_what_leaves_no_model(large: Path, tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    command = ["tune", str(large), "-o", str(tmp_path / "s"), "--val-share", "0.3", "--size", "tiny", "--time-limit"]
    result = CliRunner().invoke(main, [*command, "2s", "--trials", "1", "--max-kmac", "0.001"])
    assert result.exit_code == 1
    assert "more than 0.001 kMAC" in result.output
