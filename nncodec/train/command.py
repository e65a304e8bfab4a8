"""`nncodec train` and `nncodec export`."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import click

from nncodec.batch import say
from nncodec.config import ARCHS, SIZES
from nncodec.errors import InputError
from nncodec.train import recipe as recipes
from nncodec.train.recipe import Recipe

_DEFAULTS = {field.name: field.default for field in fields(Recipe)}
_OPTIONS: list[tuple[str, str, Any, str]] = [
    ("--val", "validation", click.Path(exists=True), "Validation pictures."),
    ("--val-share", "validation_share", click.FloatRange(0, 1),
     "Without --val: keep this share of the data for validation; 0 leaves out curves and progress.gif. "
     f"[default: {recipes.VALIDATION_SHARE}; 0 with --config and for crops below 256 pixels]"),
    ("--test-share", "test_share", float, "Keep this share for test.json, written at the end."),
    ("--size", "size", click.Choice(sorted(SIZES)), "Widths and depths of the model."),
    ("--arch", "arch", click.Choice(ARCHS), "Kind of transforms; docs/classic.md."),
    ("--latents", "latents", click.IntRange(4), "Channels of y, a multiple of 4. [default: the size's own]"),
    ("--width", "width", click.FloatRange(0, min_open=True), "Factor on the widths of the size."),
    ("--name", "name", str, "Name of the weights; the file is NAME.safetensors in the run folder."),
    ("--license", "license", str, "License of the weights, for their metadata."),
    ("--steps", "steps", click.IntRange(1), "Train for this many steps."),
    ("--optimizer", "optimizer", click.Choice(sorted(recipes.OPTIMIZERS)), "All but adamw need nncodec[train]."),
    ("--lr", "learning_rate", click.FloatRange(0, min_open=True), "Learning rate. [default: the optimizer's own]"),
    ("--weight-decay", "weight_decay", click.FloatRange(0), "Of 1x1 and other channel-mixing convolutions."),
    ("--schedule", "schedule", click.Choice(recipes.SCHEDULES), "How the learning rate falls."),
    ("--warmup", "warmup_steps", click.IntRange(0), "Steps of linear warm-up."),
    ("--loss", "loss", click.Choice(recipes.LOSSES), "Distortion beside the rate."),
    ("--dropout", "dropout", click.FloatRange(0, 1, max_open=True), "Share of channels left out (--arch enhanced)."),
    ("--noise", "noise", str, "Noise on what the encoder sees, the target staying clean: gauss:0-50."),
    ("--batch", "batch", click.IntRange(1), "Crops a gradient and process."),
    ("--accumulate", "accumulate", click.IntRange(1), "Gradients a step."),
    ("--crop", "crop", click.IntRange(64), "Pixels a side."),
    ("--late-crop", "late_crop", click.IntRange(64), "Pixels a side in the last 40 % of the joint stage."),
    ("--decoder-share", "decoder_share", click.FloatRange(0, 1), "Share of the budget for the decoder alone."),
    ("--clip", "clip", click.FloatRange(0, min_open=True), "Largest norm of the gradient."),
    ("--ema", "ema", click.FloatRange(0, 1), "Decay of the moving average of the weights."),
    ("--patience", "patience", click.IntRange(0), "End a stage after so many validations without gain; 0: never."),
    ("--fit-pictures", "fit_pictures", click.IntRange(0), "Pictures to fit the tables to; 0 leaves it to `export`."),
    ("--seed", "seed", int, "Of weights, crops and noise."),
    ("--clock", "clock", click.Choice(recipes.CLOCKS), "What --time-limit counts."),
    ("--checkpoint-every", "checkpoint_seconds", click.FloatRange(1), "Seconds."),
    ("--validate-every", "validation_seconds", click.FloatRange(1), "Seconds."),
    ("--init-from", "init_from", click.Path(exists=True, dir_okay=False),
     "Start from these weights (.safetensors); the model has their size."),
]  # fmt: skip
_FLAGS = [
    ("--bf16/--no-bf16", "bfloat16", "Convolutions in bfloat16. [default: where matrix products are faster so]"),
    ("--compile/--no-compile", "compile", "torch.compile; needs a C++ compiler and some minutes."),
    ("--balance/--no-balance", "balance", "Divide each crop's loss by the mean loss of its quality."),
    ("--decoder-only/--all", "decoder_only", "Train only the decoder of --init-from."),
    (
        "--encoder-only/--decoder-too",
        "encoder_only",
        "Train only the encoder of --init-from: files are then for its model, whose decoder stays.",
    ),
]


def _recipe_options(command: Callable[..., None]) -> Callable[..., None]:
    """An option for every field of a Recipe; None where it was not given."""
    for flag, name, text in reversed(_FLAGS):
        if "default:" not in text:
            text = f"{text} [default: {'on' if _DEFAULTS[name] else 'off'}]"
        command = click.option(flag, name, default=None, help=text)(command)
    for flag, name, kind, text in reversed(_OPTIONS):
        default = _DEFAULTS[name]
        if default not in (None, "", 0) or name == "seed":
            text = f"{text} [default: {default}]"
        command = click.option(flag, name, type=kind, default=None, help=text)(command)
    return command


@click.command()
@click.argument("data", required=False, type=click.Path(exists=True, path_type=Path))
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path, file_okay=False), help="Run folder.")
@click.option("--config", type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="A recipe.toml; options given here override it.")  # fmt: skip
@click.option("--preset", type=click.Choice(sorted(recipes.PRESETS)),
              help="Recipe for a kind of pictures, 28x28: small and grey; options given here override it.")  # fmt: skip
@click.option("--time-limit", help="Train for this long: 90s, 10m, 8h. Anneals to zero inside it.")
@_recipe_options
@click.option("--resume", is_flag=True, help="Go on from the run folder's checkpoint, with its recipe.")
@click.option("--device", help="cpu, cuda, ... [default: cpu, or cuda if there is one]")
@click.option("--threads", type=click.IntRange(1), help="CPU threads. [default: torch's choice]")
def train(
    data: Path | None,
    output: Path,
    config: Path | None,
    preset: str | None,
    time_limit: str | None,
    resume: bool,
    device: str | None,
    threads: int | None,
    **options: Any,
) -> None:
    """Train a model on pictures: a folder (searched in depth), or tar or IDX files of pictures.

    Leaves in the run folder: the weights, ready for `nncodec compress -m`; the resolved recipe; logs, curves and
    progress.gif. Under `torchrun --nproc-per-node N -m nncodec train ...` it uses N processes.
    """
    import torch

    from nncodec.train import validate
    from nncodec.train.run import run
    from nncodec.train.speed import device_of, prefers_bfloat16

    given = {name: value for name, value in options.items() if value is not None}
    if resume:
        if config or preset or given or time_limit or data:
            raise click.UsageError("--resume takes the recipe of the run; give no other option than -o")
        config = output / "recipe.toml"
    values = dict(recipes.PRESETS[preset]) if preset else {}
    values |= recipes.read(config) if config else {}
    if time_limit:
        given["seconds"] = seconds(time_limit)
    if "seconds" in given and "steps" in given:
        raise click.UsageError("give either --time-limit or --steps")
    if "seconds" in given:
        values.pop("steps", None)
    if "steps" in given:
        values.pop("seconds", None)
    if data:
        given["data"] = str(data)
    shape = [name for name in ("size", "arch", "latents", "width") if name in given]
    if "init_from" in given and shape:
        raise click.UsageError(f"--init-from decides the shape of the model; leave --{shape[0]} out")
    values |= given
    crops = [values.get(name, _DEFAULTS[name]) for name in ("crop", "late_crop")]
    if not config and "validation" not in values and max(crops) >= validate.SIDE:
        values.setdefault("validation_share", recipes.VALIDATION_SHARE)
    if "data" not in values:
        raise click.UsageError("name the folder of pictures")
    if "seconds" not in values and "steps" not in values:
        raise click.UsageError("give either --time-limit or --steps")
    if device or "device" not in values:
        values["device"] = device or ("cuda" if torch.cuda.is_available() else "cpu")
    usable = device_of(values["device"])
    if usable.type == "cuda":
        values.setdefault("compile", True)
    if threads:
        torch.set_num_threads(threads)
    if "bfloat16" not in values:
        values["bfloat16"] = prefers_bfloat16(usable)
    run(Recipe(**values), output, resume, say)


@click.command()
@click.argument("run", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="The .safetensors to write.")
@click.option("--data", type=click.Path(exists=True, path_type=Path),
              help="Training pictures to fit the tables to. [default: the run's own]")  # fmt: skip
@click.option("--tables", type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="Take the tables from these weights instead.")  # fmt: skip
@click.option("--refit", is_flag=True, help="Fit tables anew though the checkpoint has some.")
@click.option("--pictures", type=click.IntRange(1), default=64, show_default=True, help="How many to fit to.")
@click.option("-f", "--force", is_flag=True, help="Overwrite files that exist.")
def export(
    run: Path, output: Path, data: Path | None, tables: Path | None, refit: bool, pictures: int, force: bool
) -> None:
    """Make a weights file of a run that was stopped, or one with other tables."""
    from nncodec import atomic, weights
    from nncodec.train import export as exporter
    from nncodec.train.data import load_pictures
    from nncodec.train.loop import CHECKPOINT

    if output.suffix != ".safetensors":
        raise InputError(f"{output}: weights end in .safetensors; name it so")
    atomic.check(output, force)
    recipe = Recipe(**recipes.read(run / "recipe.toml"))
    net, fitted = exporter.load_checkpoint(run / CHECKPOINT)
    store = load_pictures(data or Path(recipe.data), run / "cache", recipe.side_min, net.config.side)
    facts = {"data": store.digest, **recipe.facts}
    if recipe.encoder_only and recipe.init_from:
        identity = exporter.write_encoder(net, output.stem, Path(recipe.init_from), output, facts)
        say(f"{output}  {output.stat().st_size} B  model {identity.hex()}")
        return
    if tables:
        fitted = weights.load(weights.describe(tables)).entropy.tables
    elif fitted is None or refit:
        fitted = exporter.fit_tables(net, store, pictures)
    identity = exporter.write(net, output.stem, fitted, output, facts)
    say(f"{output}  {output.stat().st_size} B  model {identity.hex()}")


def seconds(text: str) -> float:
    """Seconds of '90s', '10m' or '8h'. Raises click.UsageError."""
    unit = {"s": 1.0, "m": 60.0, "h": 3600.0}.get(text[-1:], 0.0)
    try:
        value = float(text[:-1]) * unit
    except ValueError:
        value = 0.0
    if not 0 < value < math.inf:
        raise click.UsageError(f"--time-limit {text!r}: write 90s, 10m or 8h")
    return value
