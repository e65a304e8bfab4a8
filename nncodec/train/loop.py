"""The training loop: one model, all qualities, annealed to zero inside a time or step limit.

Runs alone or under torchrun (one process a core or GPU; gradients averaged). Writes into its run
folder: recipe.json, log.jsonl and checkpoint.pt, from which `--resume` goes on.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from tqdm import tqdm

from nncodec import weights
from nncodec.config import QUALITIES, SIZES
from nncodec.effort import prices, rounded
from nncodec.errors import InputError
from nncodec.nets.model import Chooser, CodecNet, TrainOutput, placed
from nncodec.train import export
from nncodec.train.data import CropSampler, PictureStore, load_pictures

LOSS_BINS = 20
VALIDATION_QUALITIES = (5, 20, 35, 50, 65, 80, 95)


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a training run, stored beside its result."""

    data: str
    validation: str | None = None
    size: str = "fast"
    seed: int = 0
    learning_rate: float = 1e-3
    linear_learning_rate_factor: float = 0.3
    warmup_steps: int = 300
    constant_until: float = 0.35
    batch: int = 12
    crop: int = 128
    late_crop: int = 256
    late_from: float = 0.6
    clip: float = 1.0
    ema: float = 0.9995
    steps: int | None = None
    seconds: float | None = None
    bfloat16: bool = True
    init_from: str | None = None
    decoder_only: bool = False
    checkpoint_seconds: float = 180.0
    validation_seconds: float = 900.0
    device: str = "cpu"

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.seconds is None):
            raise InputError("training needs either a number of steps or a time limit")
        if self.crop % 64 or self.late_crop % 64:
            raise InputError("crop sizes must be multiples of 64")
        if self.decoder_only and self.init_from is None:
            raise InputError("a decoder alone can only be trained from weights; name them by init_from")


class Group:
    """The processes of one run; alone unless torchrun started several."""

    def __init__(self) -> None:
        self.size = int(os.environ.get("WORLD_SIZE", "1"))
        self.rank = int(os.environ.get("RANK", "0"))
        if self.size > 1 and not dist.is_initialized():
            dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")

    def average(self, values: Tensor) -> Tensor:
        """Mean of `values` over the processes, in place."""
        if self.size > 1:
            dist.all_reduce(values)
            values /= self.size
        return values

    def wait(self) -> None:
        if self.size > 1:
            dist.barrier()


class Trainer:
    """Model, moving average, optimizer and counters of one run."""

    def __init__(self, recipe: Recipe, folder: Path) -> None:
        self.recipe, self.folder = recipe, folder
        self.group = Group()
        self.device = torch.device(recipe.device)
        torch.manual_seed(recipe.seed)
        self.choose: Chooser | None = None
        net = export.trainable(Path(recipe.init_from)) if recipe.init_from else CodecNet(SIZES[recipe.size])
        self.model = placed(net, self.device)
        if recipe.decoder_only and recipe.init_from:
            self._freeze_all_but_decoder(Path(recipe.init_from))
        self.ema = {k: v.detach().clone() for k, v in self.model.state_dict().items()}
        trained = [(n, p) for n, p in self.model.named_parameters() if p.requires_grad]
        linear = [p for n, p in trained if ".linear." in n]
        rest = [p for n, p in trained if ".linear." not in n]
        factor = recipe.linear_learning_rate_factor
        self.optimizer = torch.optim.AdamW(
            [{"params": rest, "factor": 1.0}, {"params": linear, "factor": factor}],
            lr=recipe.learning_rate,
            betas=(0.9, 0.99),
            weight_decay=0.0,
            foreach=True,
        )
        self.parameters = [p for g in self.optimizer.param_groups for p in g["params"]]
        self.mean_loss = torch.exp(torch.linspace(math.log(0.3), math.log(4.0), LOSS_BINS))
        self.step, self.elapsed, self.mark = 0, 0.0, time.perf_counter()
        # Each process draws its own crops, qualities and noise.
        seed = recipe.seed * 1000 + self.group.rank
        torch.manual_seed(seed)
        self.rng = np.random.default_rng(seed)

    def _freeze_all_but_decoder(self, path: Path) -> None:
        """Train g_s alone, on residuals chosen as the default effort does with the tables of `path`."""
        self.model.requires_grad_(False)
        self.model.g_s.requires_grad_(True)
        price = prices(weights.load(weights.describe(path)).entropy.tables).to(self.device)
        self.choose = lambda residual, index: rounded(residual, index, price)

    @property
    def progress(self) -> float:
        """Share of the budget that is used, 0..1."""
        if self.recipe.steps is not None:
            return min(1.0, self.step / self.recipe.steps)
        assert self.recipe.seconds is not None
        return min(1.0, self.elapsed / self.recipe.seconds)

    def learning_rate(self) -> float:
        """Warm-up, constant, then cosine to zero at the end of the budget."""
        recipe = self.recipe
        rate = recipe.learning_rate * min(1.0, (self.step + 1) / recipe.warmup_steps)
        late = (self.progress - recipe.constant_until) / (1 - recipe.constant_until)
        return rate * (1.0 if late <= 0 else 0.5 * (1 + math.cos(math.pi * min(1.0, late))))

    def train_step(self, sampler: CropSampler) -> dict[str, float]:
        """One optimizer step; returns what the log wants."""
        recipe = self.recipe
        late = self.progress >= recipe.late_from
        size = recipe.late_crop if late else recipe.crop
        count = max(1, recipe.batch * recipe.crop**2 // size**2)
        x = to_input(sampler.batch(count, size), self.device)
        quality = torch.rand(count) * (QUALITIES - 1) + 1
        lmbda = torch.tensor([self.model.config.lmbda(float(q)) for q in quality], device=self.device)
        rate = self.learning_rate()
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["factor"]
        out = self._forward(x, quality.to(self.device))
        mse = (out.x_hat - x).square().mean((1, 2, 3)) * 255.0**2
        bpp = (out.y_bits + out.z_bits) / size**2
        losses = bpp + lmbda * mse
        balance = self._weights(quality, losses.detach().cpu())
        loss = (losses * balance.to(self.device)).mean()
        self.optimizer.zero_grad(set_to_none=False)
        torch.autograd.backward(loss)
        stats = torch.stack([loss.detach(), bpp.detach().mean(), mse.detach().mean()])
        now = time.perf_counter()
        stats = torch.cat([stats.cpu(), torch.tensor([now - self.mark])])
        self.mark = now
        norm = self._exchange(stats)
        if math.isfinite(norm):
            self.optimizer.step()
            self._update_ema()
        self.step += 1
        self.elapsed += float(stats[3])  # the mean over processes, so all of them end together
        return {
            "loss": float(stats[0]),
            "bpp": float(stats[1]),
            "mse": float(stats[2]),
            "grad_norm": norm,
            "lr": rate,
            "crops": count * self.group.size * (size / 256) ** 2,
        }

    def _forward(self, x: Tensor, quality: Tensor) -> TrainOutput:
        if self.choose is None:
            out: TrainOutput = self.model(x, quality, self.recipe.bfloat16)
            return out
        with torch.no_grad():
            latents = self.model.eval().latents(x, quality, self.recipe.bfloat16, self.choose)
        with torch.autocast(x.device.type, dtype=torch.bfloat16, enabled=self.recipe.bfloat16):
            x_hat = self.model.g_s(latents.y_hat, quality)
        return TrainOutput(x_hat, latents.y_bits, latents.z_bits)

    def _weights(self, quality: Tensor, losses: Tensor) -> Tensor:
        """1 / running mean loss at each sample's quality, so that high rates don't drown low ones."""
        bins = ((quality - 1) / (QUALITIES - 1) * LOSS_BINS).long().clamp(0, LOSS_BINS - 1)
        for b, value in zip(bins.tolist(), losses.tolist(), strict=True):
            if math.isfinite(value):
                self.mean_loss[b] += 0.02 * (value - self.mean_loss[b])
        return 1.0 / self.mean_loss[bins]

    def _exchange(self, stats: Tensor) -> float:
        """Average gradients and `stats` (in place) over processes, clip; returns the norm."""
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        if self.group.size > 1:
            flat = torch.cat([g.flatten() for g in gradients] + [stats.to(self.device)])
            self.group.average(flat)
            pieces = torch.split(flat, [g.numel() for g in gradients] + [len(stats)])
            torch._foreach_copy_(gradients, [p.view_as(g) for p, g in zip(pieces, gradients, strict=False)])
            stats.copy_(pieces[-1])
        return float(torch.nn.utils.clip_grad_norm_(self.parameters, self.recipe.clip, foreach=True))

    @torch.no_grad()
    def _update_ema(self) -> None:
        decay = min(self.recipe.ema, (1 + self.step) / (10 + self.step))
        state = self.model.state_dict()
        torch._foreach_lerp_([self.ema[k] for k in state], list(state.values()), 1 - decay)

    def save(self) -> None:
        """Write the checkpoint, whole or not at all (rank 0)."""
        if self.group.rank:
            return
        state = {
            "recipe": asdict(self.recipe),
            "config": self.model.config.to_dict(),
            "model": self.model.state_dict(),
            "ema": self.ema,
            "optimizer": self.optimizer.state_dict(),
            "mean_loss": self.mean_loss,
            "step": self.step,
            "elapsed": self.elapsed,
            "torch_rng": torch.get_rng_state(),
            "numpy_rng": self.rng.bit_generator.state,
        }
        partial = self.folder / "checkpoint.partial"
        torch.save(state, partial)
        partial.replace(self.folder / "checkpoint.pt")

    def load(self) -> None:
        """Go on from the folder's checkpoint."""
        path = self.folder / "checkpoint.pt"
        if not path.exists():
            raise InputError(f"{path}: no checkpoint to resume from; start without --resume")
        state = torch.load(path, map_location=self.device, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.ema = state["ema"]
        self.optimizer.load_state_dict(state["optimizer"])
        self.mean_loss = state["mean_loss"].cpu()
        self.step, self.elapsed = state["step"], state["elapsed"]
        if self.group.size == 1:
            torch.set_rng_state(state["torch_rng"].cpu())
            self.rng.bit_generator.state = state["numpy_rng"]
        else:  # one stream was saved; the others start anew, away from what they drew before
            torch.manual_seed(self.step * 1000 + self.group.rank)
            self.rng = np.random.default_rng(self.step * 1000 + self.group.rank)

    def averaged_model(self) -> CodecNet:
        """The moving average as a model in evaluation mode."""
        model = placed(CodecNet(self.model.config), self.device)
        model.load_state_dict(self.ema)
        return model.eval()


def to_input(crops: np.ndarray[Any, np.dtype[np.uint8]], device: torch.device) -> Tensor:
    """u8 [B, H, W, 3] -> f32 [B, 3, H, W] in [0, 1], channels last."""
    x = torch.from_numpy(crops).to(device).permute(0, 3, 1, 2).float() / 255.0
    return x.contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def validate(model: CodecNet, store: PictureStore, device: torch.device, pictures: int = 16) -> list[dict[str, float]]:
    """Estimated bpp and PSNR (mean of per-picture) at a few qualities, on centre crops of 256."""
    crops = []
    for i in range(min(pictures, len(store))):
        picture = store.picture(i * len(store) // min(pictures, len(store)))
        top, left = (picture.shape[0] - 256) // 2, (picture.shape[1] - 256) // 2
        crops.append(picture[top : top + 256, left : left + 256])
    x = to_input(np.stack(crops), device)
    rows = []
    for quality in VALIDATION_QUALITIES:
        bpps, psnrs = [], []
        for part in torch.split(x, 4):
            q = torch.full((len(part),), float(quality), device=device)
            out = model(part, q)
            levels = (out.x_hat.clamp(0, 1) * 255).round() / 255
            mse = (levels - part).square().mean((1, 2, 3)).clamp(min=1e-9)
            bpps.append((out.y_bits + out.z_bits) / 256**2)
            psnrs.append(-10 * torch.log10(mse))
        means = {"bpp_est": float(torch.cat(bpps).mean()), "psnr": float(torch.cat(psnrs).mean())}
        rows.append({"quality": quality, **means})
    return rows


def run(recipe: Recipe, folder: Path, resume: bool, report: Callable[[str], None]) -> None:
    """Train to the end of the budget, leaving checkpoint.pt, recipe.json and log.jsonl in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    trainer = Trainer(recipe, folder)
    rank0 = trainer.group.rank == 0
    side = max(recipe.crop, recipe.late_crop)
    if not rank0:
        trainer.group.wait()  # rank 0 decodes, the others map what it wrote
    sampler = CropSampler(load_pictures(Path(recipe.data), folder / "cache", side), trainer.rng)
    validation = load_pictures(Path(recipe.validation), folder / "cache", 256) if recipe.validation else None
    if rank0:
        trainer.group.wait()
    if resume:
        trainer.load()
        sampler.rng = trainer.rng
    elif (folder / "checkpoint.pt").exists():
        raise InputError(f"{folder}: holds a checkpoint already; add --resume or choose another folder")
    if rank0:
        (folder / "recipe.json").write_text(json.dumps(asdict(recipe), indent=1))
    log_path = folder / "log.jsonl"
    last_save = last_validation = trainer.elapsed
    with (
        log_path.open("a") as log,
        tqdm(
            total=100, disable=not rank0, file=sys.stderr, mininterval=5, bar_format="{l_bar}{bar}| {elapsed}{postfix}"
        ) as bar,
    ):
        mark_time, crops = time.perf_counter(), 0.0
        trainer.mark = mark_time
        while trainer.progress < 1.0:
            stats = trainer.train_step(sampler)
            crops += stats.pop("crops")
            done = trainer.progress >= 1.0
            if rank0 and (trainer.step % 50 == 0 or done):
                now = time.perf_counter()
                row = {"step": trainer.step, "elapsed": round(trainer.elapsed, 1), **stats}
                row["crops256_per_s"] = crops / (now - mark_time)
                row["psnr"] = 10 * math.log10(255.0**2 / max(stats["mse"], 1e-9))
                mark_time, crops = now, 0.0
                log.write(json.dumps(row) + "\n")
                log.flush()
                bar.set_postfix_str(f"loss {row['loss']:.3f} bpp {row['bpp']:.3f} {row['crops256_per_s']:.1f} crops/s")
                bar.n = round(100 * trainer.progress, 1)
                bar.refresh()
            if rank0 and (done or trainer.elapsed - last_save > recipe.checkpoint_seconds):
                trainer.save()
                last_save = trainer.elapsed
            if rank0 and validation and (done or trainer.elapsed - last_validation > recipe.validation_seconds):
                rows = validate(trainer.averaged_model(), validation, trainer.device)
                log.write(json.dumps({"step": trainer.step, "elapsed": trainer.elapsed, "validation": rows}) + "\n")
                log.flush()
                last_validation = trainer.elapsed
    trainer.group.wait()
    if rank0:
        report(f"{folder / 'checkpoint.pt'}: {trainer.step} steps in {trainer.elapsed:.0f} s")
