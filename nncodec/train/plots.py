"""Pictures of a run: curves, rate-distortion against JPEG, and validation crops that become progress.gif."""

from __future__ import annotations

import io
import itertools
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from nncodec import metrics
from nncodec.train import watch

JPEG_QUALITIES = (5, 10, 20, 35, 50, 65, 80, 90, 95)
FRAME_SECONDS = 0.6

Crops = NDArray[np.uint8]


def jpeg_points(crops: Crops) -> list[metrics.Point]:
    """Mean rate (real bytes) and mean PSNR of JPEG 4:2:0 on u8 [n, H, W, 3]."""
    points = []
    for quality in JPEG_QUALITIES:
        rates, psnrs = [], []
        for crop in crops:
            file = io.BytesIO()
            Image.fromarray(crop).save(file, "JPEG", quality=quality, optimize=True)
            rates.append(metrics.bpp(file.tell(), crop.shape[1], crop.shape[0]))
            with Image.open(file) as decoded:
                psnrs.append(metrics.psnr(crop, np.asarray(decoded)))
        points.append(metrics.Point(float(np.mean(rates)), float(np.mean(psnrs))))
    return points


def grid(crops: Crops, decoded: Crops) -> Image.Image:
    """A column a crop: original, decoded, difference times 8 around grey."""
    difference = np.clip(128 + 8 * (decoded.astype(np.int16) - crops), 0, 255).astype(np.uint8)
    rows = [np.concatenate(list(part), axis=1) for part in (crops, decoded, difference)]
    return Image.fromarray(np.concatenate(rows))


def save_frame(folder: Path, step: int, crops: Crops, decoded: Crops) -> None:
    """Add a grid to `folder`/frames and make `folder`/progress.gif of all of them."""
    frames = folder / "frames"
    frames.mkdir(exist_ok=True)
    grid(crops, decoded).save(frames / f"{step:07d}.png")
    pictures = [Image.open(path).convert("RGB") for path in sorted(frames.glob("*.png"))]
    times = [int(1000 * FRAME_SECONDS)] * (len(pictures) - 1) + [3000]
    pictures[0].save(folder / "progress.gif", save_all=True, append_images=pictures[1:], duration=times, loop=0)


def draw(folder: Path, jpeg: list[metrics.Point]) -> None:
    """curves.png and rd.png of the log in `folder`; nothing without matplotlib."""
    try:
        import matplotlib
    except ImportError:
        return
    matplotlib.use("Agg")
    train, validation = watch.read(folder / "log.jsonl")
    if train:
        _curves(folder / "curves.png", train, validation)
    if validation:
        _rate_distortion(folder / "rd.png", validation, jpeg)


def _curves(path: Path, train: list[dict[str, Any]], validation: list[dict[str, Any]]) -> None:
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(2, 2, figsize=(11, 7), layout="constrained")
    minutes = [row["elapsed"] / 60 for row in train]
    checks = [row["elapsed"] / 60 for row in validation]
    middle = [row["validation"][len(row["validation"]) // 2] for row in validation]
    panels = (
        ("loss", "loss", [row.get("score") for row in validation], "validation score"),
        ("bpp", "bits a pixel", [row["bpp_est"] for row in middle], "validation, middle quality"),
        ("psnr", "PSNR, dB", [row["psnr"] for row in middle], "validation, middle quality"),
        ("lr", "learning rate", None, ""),
    )
    for axis, (key, title, checked, label) in zip(axes.flat, panels, strict=True):
        values = np.array([row[key] for row in train], float)
        smooth = _smoothed(values) if key != "lr" else values
        if key != "lr":
            axis.plot(minutes, values, color="0.8", linewidth=0.6)
        axis.plot(minutes, smooth, color="tab:blue", label="train")
        if checked and None not in checked:
            axis.plot(checks, checked, "o-", color="tab:orange", markersize=4, label=label)
        for before, row in itertools.pairwise(train):
            if row.get("stage") != before.get("stage"):
                axis.axvline(row["elapsed"] / 60, color="0.6", linestyle=":", linewidth=1)
        axis.set_title(title)
        axis.set_xlabel("minutes")
        axis.grid(alpha=0.3)
        if axis.get_legend_handles_labels()[0] and key != "lr":
            axis.legend(frameon=False)
    finite = [row["loss"] for row in train if np.isfinite(row["loss"])]
    if finite:
        axes[0, 0].set_ylim(0.9 * np.percentile(finite, 1), 1.1 * np.percentile(finite, 97))
    figure.savefig(path, dpi=90)
    plt.close(figure)


def _smoothed(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean over the last 4 % of the rows (and at least 5)."""
    width = max(5, len(values) // 25)
    sums = np.cumsum(np.nan_to_num(values))
    ends = np.arange(len(values))
    starts = np.maximum(ends - width, -1)
    return (sums - np.where(starts >= 0, sums[starts], 0.0)) / (ends - starts)


def _rate_distortion(path: Path, validation: list[dict[str, Any]], jpeg: list[metrics.Point]) -> None:
    from matplotlib import pyplot as plt

    figure, axis = plt.subplots(figsize=(7, 5), layout="constrained")
    axis.plot([p.bpp for p in jpeg], [p.quality for p in jpeg], "--", color="0.4", label="JPEG (file bytes)")
    shades = plt.get_cmap("viridis")(np.linspace(0.9, 0.1, len(validation)))
    for i, (row, color) in enumerate(zip(validation, shades, strict=True)):
        last = i == len(validation) - 1
        points = row["validation"]
        label = f"{row['elapsed'] / 60:.0f} min" if last or i == 0 else None
        axis.plot([p["bpp_est"] for p in points], [p["psnr"] for p in points], "o-" if last else "-",
                  color=color, linewidth=1.8 if last else 0.8, markersize=3, label=label)  # fmt: skip
    axis.set_xlabel("bits a pixel (ours estimated)")
    axis.set_ylabel("PSNR, dB")
    axis.set_title("validation crops")
    axis.grid(alpha=0.3)
    axis.legend(frameon=False)
    figure.savefig(path, dpi=90)
    plt.close(figure)
