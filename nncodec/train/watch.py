"""What a run leaves for people: log.jsonl, log.csv, TensorBoard events, a progress line.

Knows rows of numbers and where they go; knows no networks.
"""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any

from tqdm import tqdm

COLUMNS = ("step", "stage", "elapsed", "loss", "bpp", "mse", "psnr", "lr", "grad_norm", "skipped_steps",
           "crops256_per_s", "gflops", "utilization")  # fmt: skip


class Log:
    """Appends to log.jsonl and log.csv of `folder`, and to `folder`/tensorboard when that package is there.

    With `quiet`, does nothing: the processes that are not rank 0. A run that goes on has come to `progress` (0..1).
    """

    def __init__(self, folder: Path, quiet: bool, progress: float = 0.0) -> None:
        self.folder, self.quiet = folder, quiet
        self.board: Any = None
        self.bar = tqdm(
            total=100,
            initial=round(100 * progress, 1),
            disable=quiet,
            file=sys.stderr,
            mininterval=2,
            bar_format="{desc}{percentage:3.0f}%|{bar:20}| {elapsed}<{remaining} {postfix}",
        )
        if not quiet:
            self.board = _board(folder / "tensorboard")

    def train(self, row: dict[str, Any], progress: float) -> None:
        """A row of training means, with the names of COLUMNS; `progress` 0..1."""
        self._json(row)
        if self.quiet:
            return
        path = self.folder / "log.csv"
        new = not path.exists()
        with path.open("a", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, restval="")
            if new:
                writer.writeheader()
            writer.writerow(row)
        self._board("train", {k: v for k, v in row.items() if k not in ("step", "stage")}, row["step"])
        self.bar.set_description_str(f"{row['stage']} ", refresh=False)
        self.bar.set_postfix_str(
            f"loss {row['loss']:.3f}  {row['bpp']:.3f} bpp  {row['psnr']:.2f} dB  {row['crops256_per_s']:.1f} crops/s",
            refresh=False,
        )
        self.bar.n = round(100 * progress, 1)
        self.bar.refresh()

    def validation(self, step: int, elapsed: float, score: float, rows: list[dict[str, float]]) -> None:
        self._json({"step": step, "elapsed": round(elapsed, 1), "score": score, "validation": rows})
        values = {"score": score}
        for row in rows:
            values |= {f"bpp_{row['quality']:.0f}": row["bpp_est"], f"psnr_{row['quality']:.0f}": row["psnr"]}
        self._board("validation", values, step)

    def note(self, text: str) -> None:
        """Something that happened, as a row of its own."""
        self._json({"note": text})
        if not self.quiet:
            self.bar.write(text, file=sys.stderr)

    def close(self) -> None:
        self.bar.close()
        if self.board is not None:
            self.board.close()

    def _json(self, row: dict[str, Any]) -> None:
        if not self.quiet:
            with (self.folder / "log.jsonl").open("a") as file:
                file.write(json.dumps(row) + "\n")

    def _board(self, group: str, values: dict[str, Any], step: int) -> None:
        if self.board is not None:
            for name, value in values.items():
                self.board.add_scalar(f"{group}/{name}", value, step)


def _board(folder: Path) -> Any:
    """A TensorBoard writer, or None without the package."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder))


def read(path: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Training and validation rows of a log.jsonl, those of older versions too; a torn last line is left out."""
    train, validation = [], []
    for line in path.read_text().splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        if "validation" in row:
            validation.append(row)
        elif "loss" in row:
            train.append(row)
    return train, validation
