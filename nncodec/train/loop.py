"""The training loop: one model, all qualities, annealed to zero inside a time or step limit.

Two stages: everything together; then, tables fitted, the decoder alone on the residuals that files hold.
Runs alone or under torchrun (one process a core or GPU; gradients averaged). The host never waits for a
CUDA device but where it logs.
"""

from __future__ import annotations

import math
import os
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nncodec.config import ENHANCED, QUALITIES
from nncodec.errors import InputError
from nncodec.freqs import Tables
from nncodec.nets.model import CodecNet, Coding, placed
from nncodec.train import export, losses, optimizers
from nncodec.train.data import Crops, PictureStore, WholePictures, noisy
from nncodec.train.filtering import filtered
from nncodec.train.flat import STATISTIC, FlatParameters
from nncodec.train.group import Group
from nncodec.train.pricing import Pricing
from nncodec.train.recipe import MIDDLE, Recipe, noise_range

LOSS_BINS = 20
FILTERED_SHARE = 0.85
"""Share of the distortion that is behind filters; the rest is for effort 0, `denoise` and very small pictures."""
JOINT, DECODER, DONE = "joint", "decoder", "done"
FIT_SHARE = 0.05
"""At most this share of a time limit goes into fitting tables."""
WARMUP_SHARE = 0.1
"""Warm-up ends here at the latest: the last stage of a short run has fewer steps than warm-up would take."""
CHECKPOINT = "checkpoint.pt"


def _set_dropout(net: CodecNet, share: float) -> None:
    """Raises InputError where the arch has no dropout."""
    layers = [module for module in net.modules() if isinstance(module, torch.nn.Dropout2d)]
    if not layers:
        raise InputError(f"arch {net.config.arch} has no dropout; take --arch {ENHANCED} or leave --dropout out")
    for layer in layers:
        layer.p = share


class Phase(NamedTuple):
    """What the recipe's shares of a stage have switched on by now.

    Compiled steps take it as an argument: of a clock that they read themselves they would be compiled anew each time.
    """

    factorized: bool
    chosen: bool
    priced: bool
    filtered: bool


class Trainer:
    """Model, moving average, optimizer, random numbers and counters of one run."""

    def __init__(self, recipe: Recipe, folder: Path, begun: float | None = None) -> None:
        self.recipe, self.folder = recipe, folder
        device = torch.device(recipe.device)
        if device.type == "cuda" and "LOCAL_RANK" in os.environ:
            device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
            torch.cuda.set_device(device)
        self.device, self.group = device, Group(device)
        torch.manual_seed(recipe.seed)
        if recipe.init_from:
            knots = 0 if recipe.decoder_only or recipe.encoder_only else recipe.config.block_knots
            net, tables = export.trainable(Path(recipe.init_from), knots)
        else:
            net, tables = CodecNet(recipe.config), export.gaussian_tables()
        if recipe.dropout:
            _set_dropout(net, recipe.dropout)
        self.model = placed(net, device)
        self.tables: Tables | None = None
        self.stage, self.stage_begin = JOINT, 0.0
        self.step, self.stage_step, self.elapsed = 0, 0, 0.0
        self.halvings, self.jumped, self.stop = 0, 0.0, False
        self.mean_loss = torch.exp(torch.linspace(math.log(0.3), math.log(4.0), LOSS_BINS, device=device))
        self.sums = torch.zeros(6, device=device)
        self.noise = noise_range(recipe.noise) if recipe.noise else None
        if recipe.filtered_from < 1.0 and self.model.config.side:
            raise InputError("filtered_from is for color pictures; small grey ones get no filters")
        if self.noise and self.model.config.side:
            raise InputError(f"noise is for color pictures; weights of arch {self.model.config.arch} see grey ones")
        self._take(tables)
        if not (recipe.decoder_only or recipe.encoder_only):
            self.tables = None  # until they are fitted
        if recipe.encoder_only:
            self.model.requires_grad_(False)
            self.model.g_a.requires_grad_(True)
            self.model.h_a.requires_grad_(True)
            self.model.g_s.eval()  # batch norms there as files are decoded with
        if recipe.decoder_only:
            self._start_decoder()
        else:
            self._prepare()
        self.generator = torch.Generator(device)
        self._seed(recipe.seed * 1000 + self.group.rank)
        self._clock_offset = self._now() if begun is None else begun
        self._agree = 10 if device.type == "cuda" else 1

    def start_from(self, pictures: NDArray[np.uint8]) -> None:
        """`CodecNet.start_from`, and the moving average with it."""
        self.model.start_from(pictures)
        self.flat.average.copy_(self.flat.values)

    def _seed(self, seed: int) -> None:
        """Each process draws its own crops, qualities and noise."""
        torch.manual_seed(seed)
        self.generator.manual_seed(seed)

    def _prepare(self) -> None:
        """Flat parameters and optimizer of what the stage trains."""
        self.flat = FlatParameters(self.model)
        self.optimizer = optimizers.build(self.recipe, self.flat)
        self.distortion = losses.distortion(self.recipe.loss)
        forward = self._joint if self.stage == JOINT else self._decoder_only
        if self.recipe.compile:
            mode = "reduce-overhead" if self.device.type == "cuda" else None
            forward = torch.compile(forward, mode=mode, dynamic=False)
        self._losses = forward

    def _take(self, tables: Tables) -> None:
        """From now on these price residuals, and the weights file will hold them."""
        self.tables, self.pricing = tables, Pricing(tables, self.device)

    def _start_decoder(self) -> None:
        """Train g_s alone, on residuals chosen as the default effort does."""
        self.stage, self.stage_step, self.stage_begin = DECODER, 0, self.progress
        self.model.eval()
        self.model.requires_grad_(False)
        self.model.g_s.requires_grad_(True)
        self._prepare()

    # Budget

    def _now(self) -> float:
        return time.perf_counter() if self.recipe.clock == "wall" else time.process_time()

    @property
    def progress(self) -> float:
        """Share of the budget that is used, 0..1; equal in all processes."""
        if self.recipe.steps is not None:
            return min(1.0, self.step / self.recipe.steps + self.jumped)
        assert self.recipe.seconds is not None
        return min(1.0, self.elapsed / self.recipe.seconds + self.jumped)

    @property
    def _stage_end(self) -> float:
        if self.stage == DECODER or self.recipe.encoder_only:
            return 1.0
        return 1.0 - self.recipe.decoder_share - (FIT_SHARE if self.recipe.seconds else 0.0)

    @property
    def stage_progress(self) -> float:
        """Share of the stage that is over, 0..1."""
        length = self._stage_end - self.stage_begin
        return min(1.0, (self.progress - self.stage_begin) / length) if length > 0 else 1.0

    def learning_rate(self) -> float:
        """Warm-up (at most a tenth of the stage), constant, then the recipe's schedule to the end of the stage."""
        recipe = self.recipe
        warm = max((self.stage_step + 1) / max(1, recipe.warmup_steps), self.stage_progress / WARMUP_SHARE)
        rate = recipe.rate * min(1.0, warm)
        late = (self.stage_progress - recipe.constant_until) / max(1e-9, 1 - recipe.constant_until)
        late = min(1.0, max(0.0, late))
        if recipe.schedule == "plateau":
            return rate * 0.5**self.halvings
        if recipe.schedule == "step":
            return rate * 0.5 ** math.floor(10 * late)
        return rate * 0.5 * (1 + math.cos(math.pi * late))

    def tick(self) -> None:
        """Agree with the other processes on the time used and on what rank 0 decided."""
        if self.step % self._agree:
            return
        mine = self.group.rank == 0
        used = self._now() - self._clock_offset
        facts = [used / self.group.size, float(self.stop), self.halvings * mine, self.jumped * mine]
        facts = self.group.sum(torch.tensor(facts, dtype=torch.float64)).tolist() if self.group.size > 1 else facts
        self.elapsed, self.stop = facts[0], facts[1] > 0
        self.halvings, self.jumped = round(facts[2]), facts[3]

    def end_stage_early(self) -> None:
        """Leave out what is left of the stage (rank 0; the others follow at the next tick)."""
        self.jumped += max(0.0, self._stage_end - self.progress)

    # Steps

    @property
    def crop_size(self) -> int:
        return self.recipe.late_crop if self.stage_progress >= self.recipe.late_from else self.recipe.crop

    def train_step(self, crops: Crops | WholePictures) -> float:
        """One optimizer step; returns its crops in units of 256x256 pixels, over all processes."""
        recipe, size = self.recipe, self.crop_size
        count = max(1, recipe.batch * recipe.crop**2 // size**2)
        rate = self.learning_rate()
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["factor"]
        self.flat.gradients.zero_()
        for _ in range(recipe.accumulate):
            if recipe.compile:
                torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
            x, quality = crops.batch(count, size), self._qualities(count)
            seen = x if self.noise is None else noisy(x, self.noise, self.generator)
            bpp, distortion, mse = self._losses(seen, x, quality, self._lmbda(quality), self.phase)
            values = bpp + distortion
            loss = (values * self._weights(quality, values.detach())).mean()
            torch.autograd.backward(loss / recipe.accumulate)
            with torch.no_grad():
                self.sums[:3] += torch.stack([loss, bpp.mean(), mse.mean()]) / recipe.accumulate
        self.average_gradients()
        norm, skipped = self.flat.limit_gradients(recipe.clip)
        self.sums[3:] += torch.stack([norm, skipped.float(), torch.ones_like(norm)])
        self.optimizer.step()
        self.step += 1
        self.stage_step += 1
        self.flat.update_average(min(recipe.ema, (1 + self.stage_step) / (10 + self.stage_step)))
        self.tick()
        return count * recipe.accumulate * self.group.size * (size / 256) ** 2

    def average_gradients(self) -> None:
        """Give every process the mean of all processes' gradients."""
        if self.group.size > 1:
            self.flat.gradients /= self.group.size
            self.group.sum(self.flat.gradients)

    def _qualities(self, count: int) -> Tensor:
        if self.stage == JOINT and self.stage_progress < self.recipe.fixed_until:
            return torch.full((count,), self.recipe.fixed_quality, device=self.device)
        drawn = torch.rand(count, generator=self.generator, device=self.device)
        quality = 1 + (QUALITIES - 1) * drawn
        if not self.recipe.middle_share:
            return quality
        low, high = MIDDLE
        middle = torch.rand(count, generator=self.generator, device=self.device) < self.recipe.middle_share
        return torch.where(middle, low + (high - low) * drawn, quality)

    def _lmbda(self, quality: Tensor) -> Tensor:
        config = self.model.config
        low, high = math.log(config.lmbda_min), math.log(config.lmbda_max)
        return torch.exp(low + (quality - 1) * ((high - low) / (QUALITIES - 1)))

    @property
    def phase(self) -> Phase:
        """Now; later stages of a run are never factorized, and choose and filter as files do."""
        recipe, progress, joint = self.recipe, self.stage_progress, self.stage == JOINT

        def since(begin: float) -> bool:
            return begin < 1.0 and progress >= begin

        return Phase(
            factorized=joint and progress < recipe.factorized_until,
            chosen=not joint or since(recipe.chosen_from),
            priced=since(recipe.priced_from),
            filtered=recipe.filtered_from < 1.0 and (not joint or since(recipe.filtered_from)),
        )

    @property
    def coding(self) -> Coding:
        """How residuals are chosen and priced now."""
        return self._coding(self.phase)

    def _coding(self, phase: Phase) -> Coding:
        return Coding(self.pricing.chosen if phase.chosen else None, self.pricing.bits if phase.priced else None)

    def _joint(
        self, seen: Tensor, x: Tensor, quality: Tensor, lmbda: Tensor, phase: Phase
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Bits a pixel, weighted distortion from x and squared error, [B] each, of what the encoder has `seen`."""
        out = self.model(seen, quality, self.recipe.bfloat16, phase.factorized, self._coding(phase))
        return self._costs(out.y_bits + out.z_bits, out.x_hat, x, lmbda, phase.filtered)

    def _decoder_only(
        self, seen: Tensor, x: Tensor, quality: Tensor, lmbda: Tensor, phase: Phase
    ) -> tuple[Tensor, Tensor, Tensor]:
        with torch.no_grad():
            latents = self.model.latents(seen, quality, self.recipe.bfloat16, self._coding(phase))
        with torch.autocast(x.device.type, dtype=torch.bfloat16, enabled=self.recipe.bfloat16):
            x_hat = self.model.g_s(latents.y_hat, quality)
        return self._costs(latents.y_bits + latents.z_bits, x_hat, x, lmbda, phase.filtered)

    def _costs(
        self, bits: Tensor, x_hat: Tensor, x: Tensor, lmbda: Tensor, behind_filters: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Bits a pixel, weighted distortion and squared error, [B] each, over what belongs to the picture."""
        side = self.model.config.side
        if side:  # and one of three equal channels
            x_hat, x = x_hat[:, :1, :side, :side], x[:, :1, :side, :side]
        bpp = bits / (x.shape[2] * x.shape[3])
        distortion = self.distortion(x_hat, x, lmbda)
        if behind_filters:
            x_hat = filtered(x_hat, x, lmbda)
            distortion = torch.lerp(distortion, self.distortion(x_hat, x, lmbda), FILTERED_SHARE)
        if self.recipe.loss == "ssim":  # says nothing of how far beyond black black lies
            x_hat = x_hat.clamp(0.0, 1.0)
        return bpp, distortion, losses.squared_error(x_hat, x)

    def _weights(self, quality: Tensor, values: Tensor) -> Tensor:
        """1 / running mean loss at each crop's quality, so that high rates don't drown low ones."""
        if not self.recipe.balance:
            return torch.ones_like(values)
        bins = ((quality - 1) / (QUALITIES - 1) * LOSS_BINS).long().clamp(0, LOSS_BINS - 1)
        sound = torch.isfinite(values)
        count = torch.zeros_like(self.mean_loss).index_add_(0, bins, sound.float())
        total = torch.zeros_like(self.mean_loss).index_add_(0, bins, torch.where(sound, values, 0.0))
        share = 1 - 0.98**count
        self.mean_loss.lerp_(torch.where(count > 0, total / count.clamp(min=1), self.mean_loss), share)
        return 1.0 / self.mean_loss[bins]

    def take_means(self) -> dict[str, float]:
        """Means since the last call, for the log; waits for the device."""
        loss, bpp, mse, norm, skipped, steps = self.sums.tolist()
        self.sums.zero_()
        steps = max(1.0, steps)
        psnr = 10 * math.log10(255.0**2 / max(mse / steps, 1e-9)) if math.isfinite(mse) else math.nan
        means = {"loss": loss / steps, "bpp": bpp / steps, "mse": mse / steps, "psnr": psnr}
        return means | {"grad_norm": norm / steps, "skipped_steps": skipped}

    # Stages

    def next_stage(self, store: PictureStore) -> None:
        """After the joint stage: average taken over, tables fitted, decoder stage begun; after that: done."""
        with torch.no_grad():
            statistics = self.flat.of_kind(STATISTIC)
            if statistics is not None and self.group.size > 1:  # each process has normalized crops of its own
                self.group.sum(self.flat.average[statistics].div_(self.group.size))
            self.flat.values.copy_(self.flat.average)
        if self.stage == JOINT and not self.recipe.encoder_only:
            seconds = self.recipe.seconds and FIT_SHARE * self.recipe.seconds
            tables = export.gaussian_tables()
            if self.group.rank == 0:
                tables = export.fit_tables(self.averaged_model(), store, self.recipe.fit_pictures, seconds)
            self._take(Tables(*(self.group.from_first(part) for part in (tables.reach, tables.half))))
            self.tick()
            if self.recipe.decoder_share > 0 and self.progress < 1.0:
                self._start_decoder()
                return
        self.stage = DONE

    def averaged_model(self) -> CodecNet:
        """The moving average as a model in evaluation mode."""
        with torch.random.fork_rng(devices=[]):  # when it is called must not change the run
            model = placed(CodecNet(self.model.config), self.device)
        model.load_state_dict(self._averages())
        return model.eval().requires_grad_(False)

    def _averages(self) -> dict[str, Tensor]:
        return self.model.state_dict() | self.flat.named(self.flat.average)

    # Checkpoints

    def save(self) -> bool:
        """Write the checkpoint, whole or not at all (rank 0); False when the disk refused it."""
        if self.group.rank:
            return True
        cuda = torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None
        state = {
            "recipe": asdict(self.recipe),
            "config": self.model.config.to_dict(),
            "stage": self.stage,
            "stage_begin": self.stage_begin,
            "stage_step": self.stage_step,
            "tables": self.tables and [torch.from_numpy(self.tables.reach), torch.from_numpy(self.tables.half)],
            "model": {n: t.clone() for n, t in self.model.state_dict().items()},
            "ema": self._averages(),
            "optimizer": self.optimizer.state_dict(),
            "mean_loss": self.mean_loss,
            "step": self.step,
            "elapsed": self.elapsed,
            "halvings": self.halvings,
            "jumped": self.jumped,
            "torch_rng": [torch.get_rng_state(), cuda, self.generator.get_state()],
        }
        partial = self.folder / "checkpoint.partial"
        try:
            torch.save(state, partial)
            partial.replace(self.folder / CHECKPOINT)
        except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
            partial.unlink(missing_ok=True)
            print(f"{partial}: not written ({error}); the last checkpoint is kept", file=sys.stderr)
            return False
        return True

    def load(self) -> None:
        """Go on from the folder's checkpoint. Raises InputError."""
        path = self.folder / CHECKPOINT
        if not path.exists():
            raise InputError(f"{path}: no checkpoint to resume from; start without --resume")
        try:
            state: dict[str, Any] = torch.load(path, map_location=self.device, weights_only=True)
        except (OSError, RuntimeError, EOFError) as error:
            raise InputError(f"{path}: not a readable checkpoint ({error})") from None
        if export.Z_AROUND not in state["model"]:
            raise InputError(f"{path}: of a version without guesses of z; `nncodec export` it, go on with --init-from")
        tables = state["tables"] and Tables.stored(*(t.cpu().numpy() for t in state["tables"]))
        if tables:
            self._take(tables)
        if state["stage"] == DECODER and self.stage == JOINT:
            self._start_decoder()
        self.stage = state["stage"]
        self.stage_begin, self.stage_step = state["stage_begin"], state["stage_step"]
        self.model.load_state_dict(state["model"])  # into the flat buffer
        self.flat.load(self.flat.average, state["ema"])
        if self.stage != DONE:  # then it may be that of either stage, and has no more to do
            self.optimizer.load_state_dict(state["optimizer"])
        self.mean_loss.copy_(state["mean_loss"])
        self.step, self.elapsed = state["step"], state["elapsed"]
        self.halvings, self.jumped = state["halvings"], state["jumped"]
        self._clock_offset = self._now() - self.elapsed
        if self.group.size == 1:
            host, cuda, crops = state["torch_rng"]
            torch.set_rng_state(host.cpu())
            if cuda is not None and self.device.type == "cuda":
                torch.cuda.set_rng_state(cuda.cpu(), self.device)
            self.generator.set_state(crops.cpu())
        else:  # rank 0's numbers were saved; all start anew, away from what they drew before
            self._seed(self.step * 1000 + self.group.rank)

    def export(self, store: PictureStore) -> Path:
        """Write the weights file of the moving average; needs `tables`."""
        assert self.tables is not None
        out = self.folder / f"{self.recipe.name}.safetensors"
        facts = {"data": store.digest, **self.recipe.facts}
        if self.recipe.encoder_only and self.recipe.init_from:
            export.write_encoder(self.averaged_model().cpu(), self.recipe.name, Path(self.recipe.init_from), out, facts)
            return out
        export.write(self.averaged_model().cpu(), self.recipe.name, self.tables, out, facts)
        return out
