"""``nncodec tune``: runs of equal length over latents, widths and learning rate, chosen by optuna.

Knows recipes and scores; what a run does is `run`'s. The study lies in a folder and can be gone on with.
"""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nncodec.config import SIZES
from nncodec.errors import InputError
from nncodec.train.recipe import CLOCKS, VALIDATION_SHARE, Recipe

if TYPE_CHECKING:
    import optuna

STUDY, BEST, TABLE, FIGURE = "study.log", "best.toml", "trials.csv", "study.png"
WIDTH = (0.5, 1.5, 0.25)
"""Smallest, largest and step of the factor on widths."""
LEARNING_RATE = (0.25, 4.0)
"""Range of the factor on the optimizer's own learning rate."""
FIRST_PRUNED = 4
"""So many trials run to their end before any is ended for falling behind them."""
LAST_PRUNED = 0.9
"""Nor is one ended so near its end."""


@click.command()
@click.argument("data", type=click.Path(exists=True, path_type=Path))
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path, file_okay=False), help="Study folder.")
@click.option("--val", "validation", type=click.Path(exists=True), help="Validation pictures, which decide.")
@click.option("--val-share", type=click.FloatRange(0, 1), default=VALIDATION_SHARE, show_default=True,
              help="Without --val: keep this share of the data for validation.")  # fmt: skip
@click.option("--trials", type=click.IntRange(1), required=True, help="How many runs the study is to have in all.")
@click.option("--time-limit", required=True, help="Of each run: 90s, 10m, 8h.")
@click.option("--clock", type=click.Choice(CLOCKS), default="wall", show_default=True, help="What --time-limit counts.")
@click.option("--size", type=click.Choice(sorted(SIZES)), default="fast", show_default=True,
              help="What latents and widths are varied around.")  # fmt: skip
@click.option("--max-kmac", type=click.FloatRange(0, min_open=True),
              help="Leave out models that decode at more kMAC a pixel.")  # fmt: skip
@click.option("--seed", type=int, default=0, show_default=True, help="Of the choices, and of each run.")
@click.option("--threads", type=click.IntRange(1), help="CPU threads. [default: torch's choice]")
@click.option("--device", help="cpu, cuda, ... [default: cpu, or cuda if there is one]")
def tune(
    data: Path,
    output: Path,
    validation: str | None,
    val_share: float,
    trials: int,
    time_limit: str,
    clock: str,
    size: str,
    max_kmac: float | None,
    seed: int,
    threads: int | None,
    device: str | None,
) -> None:
    """Look for better latent sizes, widths and learning rates: --trials runs of equal length.

    The first run is the recipe as it is. Leaves in the study folder a run folder for each trial, trials.csv,
    study.png, and best.toml for `nncodec train --config`. The same command again goes on after an interruption,
    or for more --trials. The score is the validation score of `nncodec train`: lower is better, one per cent is
    about one per cent of the bits.
    """
    import torch

    from nncodec.train.command import seconds
    from nncodec.train.speed import device_of, prefers_bfloat16

    chosen = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if threads:
        torch.set_num_threads(threads)
    base = Recipe(
        data=str(data),
        validation=validation,
        validation_share=0.0 if validation else val_share,
        size=size,
        seed=seed,
        seconds=seconds(time_limit),
        clock=clock,
        decoder_share=0.0,
        fit_pictures=0,
        bfloat16=prefers_bfloat16(device_of(chosen)),
        device=chosen,
    )
    search(base, output, trials, max_kmac, click.echo)


def search(base: Recipe, folder: Path, trials: int, max_kmac: float | None, report: Callable[[str], None]) -> None:
    """Run the study in `folder` until it has `trials` finished trials. Raises InputError."""
    optuna = _library()
    folder.mkdir(parents=True, exist_ok=True)
    _same_base(base, folder, max_kmac)
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(folder / STUDY)))
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    pruner = optuna.pruners.MedianPruner(n_startup_trials=FIRST_PRUNED)
    study = optuna.create_study(storage=storage, study_name="nncodec", load_if_exists=True, pruner=pruner)
    # Of one seed alone, a study that goes on would draw what it drew at its beginning.
    study.sampler = optuna.samplers.TPESampler(seed=base.seed + len(study.trials))
    state = optuna.trial.TrialState
    if not study.trials:
        study.enqueue_trial({"latents": SIZES[base.size].y_channels, "width": 1.0, "learning_rate": base.rate})
    for stale in study.get_trials(states=(state.RUNNING,)):  # the process was killed
        study.enqueue_trial(stale.params)
        study.tell(stale.number, state=state.FAIL)

    def finished() -> int:
        return len(study.get_trials(states=(state.COMPLETE, state.PRUNED)))

    while finished() < trials:
        try:
            study.optimize(lambda trial: _score(trial, base, folder, max_kmac), n_trials=1)
        except KeyboardInterrupt:
            study.enqueue_trial(study.trials[-1].params)
            raise
        last = study.trials[-1]
        value = "ended early" if last.value is None else f"{last.value:.4f}"
        report(f"{finished()}/{trials}  {_said(last.params)}  score {value}")
        _leave(study, base, folder)
    if not study.get_trials(states=(state.COMPLETE,)):
        raise InputError(f"{folder}: no trial ran; every model decodes at more than {max_kmac} kMAC a pixel")
    best = study.best_trial
    report(f"best: {_said(best.params)}  score {best.value:.4f}  nncodec train --config {folder / BEST} ...")


def _library() -> Any:
    try:
        import optuna
    except ImportError:
        raise InputError("nncodec tune needs the package optuna: pip install nncodec[tune]") from None
    return optuna


def _same_base(base: Recipe, folder: Path, max_kmac: float | None) -> None:
    """A study compares like with like: its folder remembers what every run of it shares."""
    path, now = folder / "base.toml", base.to_toml() + f"# max_kmac {max_kmac}\n"
    if path.exists() and path.read_text() != now:
        raise InputError(f"{folder}: holds a study of another recipe (see {path.name}); choose another folder")
    path.write_text(now)


def _score(trial: optuna.Trial, base: Recipe, folder: Path, max_kmac: float | None) -> float:
    """The validation score at the end of a run; ends it where it falls behind the median of the others."""
    from optuna import TrialPruned

    from nncodec.nets.complexity import kmac_per_pixel
    from nncodec.train.run import run

    latents, (low, high, step) = SIZES[base.size].y_channels, WIDTH
    quarter = 4 * max(1, latents // 16)
    params: dict[str, Any] = {
        "latents": trial.suggest_int("latents", max(latents - 2 * quarter, 4), latents + 2 * quarter, step=quarter),
        "width": trial.suggest_float("width", low, high, step=step),
        "learning_rate": trial.suggest_float(
            "learning_rate", *(factor * base.rate for factor in LEARNING_RATE), log=True
        ),
    }
    recipe = replace(base, **params)
    kmac = kmac_per_pixel(recipe.config)["decode"]
    trial.set_user_attr("decode_kmac", kmac)
    if max_kmac is not None and kmac > max_kmac:
        raise TrialPruned
    scores: list[float] = []

    def watch(progress: float, score: float) -> None:
        scores.append(score)
        trial.report(score, round(1000 * progress))
        if progress < LAST_PRUNED and trial.should_prune():
            raise TrialPruned

    own = replace(recipe, validation_seconds=(recipe.seconds or 0.0) / 4)
    run(own, folder / f"trial-{trial.number:03d}", False, lambda _: None, cache=folder / "cache", watch=watch)
    return scores[-1]


def _said(params: dict[str, Any]) -> str:
    return f"latents {params['latents']}  width {params['width']:.2f}  lr {params['learning_rate']:.2e}"


def _leave(study: optuna.Study, base: Recipe, folder: Path) -> None:
    """best.toml, trials.csv and study.png of the trials so far."""
    rows = [
        {
            "trial": trial.number,
            "state": trial.state.name.lower(),
            "score": trial.value,
            "decode_kmac": trial.user_attrs.get("decode_kmac"),
            **trial.params,
        }
        for trial in study.trials
        if trial.params
    ]
    with (folder / TABLE).open("w", newline="") as file:
        writer = csv.DictWriter(file, ("trial", "state", "score", "decode_kmac", "latents", "width", "learning_rate"))
        writer.writeheader()
        writer.writerows(rows)
    done = [row for row in rows if row["score"] is not None]
    if not done:
        return
    best = replace(base, **study.best_params)
    final = replace(best, decoder_share=Recipe.decoder_share, fit_pictures=Recipe.fit_pictures)
    (folder / BEST).write_text(f"# score {study.best_value:.4f} after {base.seconds:g} s\n" + final.to_toml())
    _draw(done, folder / FIGURE)


def _draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Scores in the order of the trials, and over each of what was varied."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot, ticker

    figure, axes = pyplot.subplots(1, 5, figsize=(15, 3.2), sharey=True, layout="constrained")
    scores = [row["score"] for row in rows]
    best = [min(scores[: i + 1]) for i in range(len(scores))]
    names = ("trial", "latents", "width", "learning_rate", "decode_kmac")
    labels = ("trial", "latents (channels of y)", "factor on widths", "learning rate", "kMAC/pixel, decoding")
    for axis, name, label in zip(axes, names, labels, strict=True):
        axis.scatter([row[name] for row in rows], scores, s=18, c=range(len(rows)), cmap="viridis")
        axis.scatter(rows[0][name], scores[0], s=80, facecolors="none", edgecolors="tab:red", label="recipe as it is")
        axis.set_xlabel(label)
        axis.grid(alpha=0.3)
    axes[0].step([row["trial"] for row in rows], best, where="post", color="tab:gray", label="best so far")
    axes[0].set_ylabel("validation score (lower is better)")
    axes[0].legend(fontsize=8)
    axes[3].set_xscale("log")
    axes[3].xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    axes[3].xaxis.set_major_formatter(ticker.FormatStrFormatter("%.0e"))
    axes[3].xaxis.set_minor_locator(ticker.NullLocator())
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
