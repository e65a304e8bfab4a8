"""One-change experiments at equal time: what each training idea buys.

    python benchmarks/ablate.py PICTURES VALIDATION -o FOLDER [--minutes 10] [NAME ...]

Each run starts from scratch with the same seed, uses one thread and counts its own CPU time, so that runs stay
comparable on a shared machine. Prints a Markdown table: steps, validation score (lower is better), BD-rate
against the first run. Finished runs are kept in FOLDER and not repeated.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from nncodec import metrics
from nncodec.nets import model as nets_model
from nncodec.nets.scales import ScaleNet
from nncodec.nets.transforms import AnalysisTransform, SynthesisTransform
from nncodec.train import validate
from nncodec.train.data import Crops, load_pictures
from nncodec.train.loop import FIT_SHARE, Trainer
from nncodec.train.recipe import Recipe
from nncodec.train.speed import prefers_bfloat16


def noisy(x: Tensor) -> Tensor:
    """Additive noise in place of straight-through rounding."""
    return x + torch.empty_like(x).uniform_(-0.5, 0.5)


def context_passes(count: int) -> Any:
    """Scale context of |r| in passes below `count` only."""
    original = ScaleNet.index

    def index(self: ScaleNet, features: Tensor, magnitudes: Tensor, quality: Tensor, k: int) -> Tensor:
        return original(self, features, magnitudes if k < count else torch.zeros_like(magnitudes), quality, k)

    return mock.patch.object(ScaleNet, "index", index)


def without_linear(kind: type) -> Any:
    """No DCT path; the network's last layer starts at random instead of at zero."""
    original = kind.__init__

    def init(self: Any, config: Any) -> None:
        original(self, config)
        torch.nn.init.zeros_(self.linear.weight)
        self.linear.weight.requires_grad_(False)
        self.head.reset_parameters()
        if isinstance(self, SynthesisTransform):
            self.from_pixels.requires_grad_(False)

    return mock.patch.object(kind, "__init__", init)


RUNS: dict[str, tuple[dict[str, Any], list[Any]]] = {
    "the default recipe (muon 2e-3, batch 12)": ({}, []),
    "adamw 1e-3": ({"optimizer": "adamw"}, []),
    "adamw 2e-3": ({"optimizer": "adamw", "learning_rate": 2e-3}, []),
    "soap 2e-3": ({"optimizer": "soap"}, []),
    "lion 1e-4": ({"optimizer": "lion"}, []),
    "muon 4e-3": ({"learning_rate": 4e-3}, []),
    "batch 6": ({"batch": 6}, []),
    "batch 24": ({"batch": 24}, []),
    "crops of 256 throughout": ({"late_from": 0.0}, []),
    "crops of 128 throughout": ({"late_from": 1.0}, []),
    "noise instead of rounding": ({}, [lambda: mock.patch.object(nets_model, "ste_round", noisy)]),
    "no loss balance": ({"balance": False}, []),
    "no scale context": ({}, [lambda: context_passes(0)]),
    "scale context in 2 passes": ({}, [lambda: context_passes(2)]),
    "no linear path": ({}, [lambda: without_linear(AnalysisTransform), lambda: without_linear(SynthesisTransform)]),
    "one quality for 15 %": ({"fixed_until": 0.15}, []),
}


def experiment(name: str, data: Path, validation: Path, folder: Path, seconds: float) -> dict[str, Any]:
    """Train one variant; its row of the table."""
    changes, patches = RUNS[name]
    # The joint stage alone, which without a decoder stage gets all but the share for fitting tables.
    recipe = Recipe(data=str(data), seconds=seconds / (1 - FIT_SHARE), clock="cpu", decoder_share=0.0, **changes)
    recipe = replace(recipe, bfloat16=prefers_bfloat16(torch.device("cpu")))
    store = load_pictures(data, folder / "cache", 256)
    checks = load_pictures(validation, folder / "cache", validate.SIDE)
    for patch in patches:
        patch().start()
    trainer = Trainer(recipe, folder, time.process_time())
    crops = Crops(store, "cpu", trainer.generator)
    while trainer.stage_progress < 1.0:
        trainer.train_step(crops)
    rows = validate.Validator(checks, trainer.device, 48).rows(trainer.averaged_model())
    score = validate.score(rows, trainer.model.config)
    return {"name": name, "steps": trainer.step, "seconds": trainer.elapsed, "score": score, "rows": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("validation", type=Path)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(RUNS)}")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=10.0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.output.mkdir(parents=True, exist_ok=True)
    found = []
    for name in options.names or RUNS:
        path = options.output / f"{re.sub('[^a-z0-9-]+', '_', name)}.json"
        if not path.exists():
            row = experiment(name, options.data, options.validation, options.output, 60 * options.minutes)
            path.write_text(json.dumps(row, indent=1))
        found.append(json.loads(path.read_text()))
    points = [[metrics.Point(r["bpp_est"], r["psnr"]) for r in row["rows"]] for row in found]
    print("| run | steps | score | BD-rate |\n|---|---|---|---|")
    for row, curve in zip(found, points, strict=True):
        saved = metrics.bd_rate(points[0], curve)
        percent = f"{saved.percent:+.1f} %" if saved else "-"
        print(f"| {row['name']} | {row['steps']} | {row['score']:.4f} | {percent} |")


if __name__ == "__main__":
    main()
