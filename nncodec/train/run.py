"""A whole run: data, stages, log, checkpoints, validation, pictures, and the weights file at its end."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import torch

from nncodec.config import Z_STRIDE
from nncodec.errors import InputError
from nncodec.nets.complexity import kmac_per_pixel
from nncodec.train import plots, validate
from nncodec.train.data import Crops, PictureStore, WholePictures, load_pictures
from nncodec.train.loop import CHECKPOINT, DECODER, DONE, JOINT, Trainer
from nncodec.train.recipe import Recipe
from nncodec.train.speed import matrix_gflops
from nncodec.train.validate import Validator
from nncodec.train.watch import Log

LOG_STEPS = 50
PLATEAU_PATIENCE = 2
SHOWN_CROPS = 4
START_PICTURES = 20_000
"""As many give the principal components that small pictures start with."""


class Stopped(KeyboardInterrupt):
    """SIGTERM or SIGINT came; the checkpoint is written."""


def run(
    recipe: Recipe,
    folder: Path,
    resume: bool,
    report: Callable[[str], None],
    cache: Path | None = None,
    watch: Callable[[float, float], None] | None = None,
) -> Path | None:
    """Train to the end of the budget; returns the weights file (on rank 0).

    Leaves recipe.toml, checkpoint.pt, log.jsonl, log.csv, curves.png, rd.png, progress.gif, `name`.safetensors and,
    with a test share, test.json in `folder`, and decoded pictures in `cache` (default: in `folder`). `watch` is called
    with the share of the budget used and the score of each validation. Raises Stopped after a signal, InputError for
    what the user can mend.
    """
    begun = time.perf_counter() if recipe.clock == "wall" else time.process_time()
    folder.mkdir(parents=True, exist_ok=True)
    if not resume and (folder / CHECKPOINT).exists():
        raise InputError(f"{folder}: holds a checkpoint already; add --resume or choose another folder")
    trainer = Trainer(recipe, folder, begun)
    data, validation, test = _pictures(recipe, cache or folder / "cache", trainer)
    crops: Crops | WholePictures
    if trainer.model.config.side:
        crops = WholePictures(data, trainer.device, trainer.generator)
        if not (resume or recipe.init_from):
            trainer.start_from(crops.planes[:START_PICTURES].cpu().numpy())
    else:
        crops = Crops(data, trainer.device, trainer.generator, recipe.downscaled, recipe.relit)
    session = _Session(trainer, data, crops, validation, watch)
    if resume:
        trainer.load()
    if trainer.group.rank == 0:
        (folder / "recipe.toml").write_text(recipe.to_toml())
    try:
        with _signals(trainer):
            session.train()
    except torch.OutOfMemoryError as error:
        raise InputError(f"out of memory on {trainer.device}; give a smaller --batch ({error})") from None
    except RuntimeError as error:
        if "alloc" not in str(error):
            raise
        raise InputError(f"out of memory; give a smaller --batch ({error})") from None
    out = trainer.export(data) if trainer.group.rank == 0 else None
    trainer.group.wait()
    trainer.group.close()
    if out is None:
        return None
    report(f"{out}  {trainer.step} steps in {trainer.elapsed:.0f} s")
    if test:
        report(_test(trainer, test))
    return out


def _test(trainer: Trainer, store: PictureStore) -> str:
    """Rate and closeness on the test pictures, residuals chosen as the default effort does: test.json, and a line."""
    validator = Validator(store, trainer.device, len(store), trainer.model.config.side, trainer.noise)
    rows = validator.rows(trainer.averaged_model(), trainer.coding, trainer.phase.filtered)
    (trainer.folder / "test.json").write_text(json.dumps({"pictures": len(store), "qualities": rows}, indent=1) + "\n")
    name = validator.names[-1]
    label = name.upper().replace("_", "-")
    points = (f"{r['quality']}: {r[name]:.4f} {r['psnr']:.2f} {r['bpp_est']:.3f}" for r in rows)
    return f"test, {len(store)} pictures, quality: {label}, PSNR, bpp_est  {'  '.join(points)}"


def _pictures(
    recipe: Recipe, cache: Path, trainer: Trainer
) -> tuple[PictureStore, PictureStore | None, PictureStore | None]:
    """Training, validation and test pictures; rank 0 decodes, the others map what it wrote."""
    side = trainer.model.config.side
    if side and recipe.side_min != Z_STRIDE:
        raise InputError(f"pictures of {side}x{side} train in crops of {Z_STRIDE} (crop, late_crop); --preset does so")
    if trainer.group.rank:
        trainer.group.wait()
    data = load_pictures(Path(recipe.data), cache, recipe.side_min, side)
    validation = test = None
    if recipe.validation:
        validation = load_pictures(Path(recipe.validation), cache, validate.SIDE, side)
    elif recipe.test_share:
        data, validation, test = data.parts((recipe.validation_share, recipe.test_share), recipe.seed)
    elif recipe.validation_share:
        data, validation = data.split(recipe.validation_share)
    if trainer.group.rank == 0:
        trainer.group.wait()
    return data, validation, test


@contextmanager
def _signals(trainer: Trainer) -> Iterator[None]:
    """SIGTERM and the first SIGINT end the run after the step in progress."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def ask(number: int, frame: FrameType | None) -> None:
        if trainer.stop and number == signal.SIGINT:
            raise KeyboardInterrupt
        trainer.stop = True

    previous = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


class _Session:
    """What `run` does between its beginning and its end."""

    def __init__(
        self,
        trainer: Trainer,
        data: PictureStore,
        crops: Crops | WholePictures,
        validation: PictureStore | None,
        watch: Callable[[float, float], None] | None,
    ) -> None:
        self.trainer, self.recipe, self.data, self.crops = trainer, trainer.recipe, data, crops
        self.watch = watch
        self.rank0 = trainer.group.rank == 0
        self.log = Log(trainer.folder, not self.rank0, trainer.progress)
        side, self.validator = trainer.model.config.side, None
        if validation and self.rank0:
            self.validator = Validator(validation, trainer.device, side=side, noise=trainer.noise)
        self.jpeg = plots.jpeg_points(self.validator.crops) if self.validator else []
        self.scores: list[float] = []
        self.saved = self.checked = 0.0
        self.gflop, self.peak = 0.0, 1.0
        if self.rank0:
            parts = kmac_per_pixel(trainer.model.config)
            macs = parts["encode"] + parts["g_s"]
            # Forward, and twice that backward, of a crop of 256x256 (or as many planes as make its area).
            self.gflop = 3 * 2 * macs * 1e3 * (256**2 if not side else side**2 * (256 // Z_STRIDE) ** 2) / 1e9
            self.peak = trainer.group.size * matrix_gflops(trainer.device, self.recipe.bfloat16)

    def train(self) -> None:
        trainer = self.trainer
        self.saved = self.checked = trainer.elapsed
        try:
            while trainer.stage != DONE:
                self._stage()
                if trainer.stage != DONE:
                    trainer.next_stage(self.data)
                self._save()
        finally:
            self.log.close()

    def _stage(self) -> None:
        trainer = self.trainer
        mark, crops, logged = time.perf_counter(), 0.0, trainer.step
        while trainer.stage_progress < 1.0:
            crops += trainer.train_step(self.crops)
            if trainer.elapsed - self.checked > self.recipe.validation_seconds:
                self._validate()
            if trainer.step % LOG_STEPS == 0 or trainer.stage_progress >= 1.0:
                crops, mark = self._write_row(crops, mark)
                logged = trainer.step
            if trainer.elapsed - self.saved > self.recipe.checkpoint_seconds or trainer.stop:
                self._save()
            if trainer.stop:
                raise Stopped(
                    f"stopped at step {trainer.step}, {trainer.folder / CHECKPOINT} is written; --resume goes on"
                )
        if logged < trainer.step:
            self._write_row(crops, mark)
        if self.checked < trainer.elapsed:
            self._validate()

    def _write_row(self, crops: float, mark: float) -> tuple[float, float]:
        trainer = self.trainer
        means = trainer.take_means()
        now = time.perf_counter()
        speed = crops / (now - mark)
        gflops = speed * self.gflop * (1.0 if trainer.stage != DECODER else 0.0)
        row = {"step": trainer.step, "stage": trainer.stage, "elapsed": round(trainer.elapsed, 2), **means}
        row |= {"lr": trainer.learning_rate(), "crops256_per_s": round(speed, 2)}
        row |= {"gflops": round(gflops, 1), "utilization": round(gflops / self.peak, 4)}
        self.log.train(row, trainer.progress)
        return 0.0, now

    def _save(self) -> None:
        self.saved = self.trainer.elapsed
        self.trainer.save()

    def _validate(self) -> None:
        trainer = self.trainer
        self.checked = trainer.elapsed
        if self.validator is None:
            return
        model = trainer.averaged_model()
        rows = self.validator.rows(model, trainer.coding, trainer.phase.filtered)
        score = validate.score(rows, model.config, self.recipe.measure)
        self.log.validation(trainer.step, trainer.elapsed, score, rows)
        decoded = self.validator.decoded(model, SHOWN_CROPS)
        plots.save_frame(trainer.folder, trainer.step, self.validator.crops[:SHOWN_CROPS], decoded)
        plots.draw(trainer.folder, self.jpeg)
        self.scores.append(score)
        if self.watch:
            self.watch(trainer.progress, score)
        since_best = len(self.scores) - 1 - self.scores.index(min(self.scores))
        if trainer.stage == JOINT:
            if self.recipe.schedule == "plateau" and since_best >= PLATEAU_PATIENCE:
                trainer.halvings += 1
                self.scores.clear()
            elif self.recipe.patience and since_best >= self.recipe.patience:
                self.log.note(f"no better for {since_best} validations: the stage ends at step {trainer.step}")
                trainer.end_stage_early()
