"""The classic archs against the codec's own, all trained for the same time on the same pictures.

    python benchmarks/classic.py PICTURES VALIDATION -o FOLDER [--minutes 8] [--choice-minutes 4] [--only NAME ...]

A variant trains from scratch on one thread and counts its own CPU time, so that variants stay comparable on a shared
machine (and run side by side: one call with --only for each core). Then all validation pictures are compressed and
decompressed at effort 1 and a few qualities: rates are of whole files. What is finished lies in FOLDER/NAME.json and is
not repeated. Without --only the tables and figures of `docs/classic.md` are written, of what is finished.
"""

from __future__ import annotations

import argparse
import bisect
import json
import re
from collections.abc import Iterator
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from nncodec import codec, metrics, weights
from nncodec.config import BASELINE, CODEC, ENHANCED, POOLING, VARIATIONAL
from nncodec.nets.complexity import kmac_per_pixel
from nncodec.train import plots, validate, watch
from nncodec.train.data import load_pictures
from nncodec.train.loop import CHECKPOINT
from nncodec.train.recipe import Recipe
from nncodec.train.run import run
from nncodec.train.speed import prefers_bfloat16
from nncodec.weights import Model

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

QUALITIES = (5, 20, 40, 60, 80, 95)
EXAMPLES = Path(__file__).parent.parent / "examples"
SHOWN, SHOWN_BPP, SIDE = EXAMPLES / "coffee.png", 0.5, 112
"""Which photo is shown, at how many bits a pixel at most, and how many pixels a side of it."""
DIFFERENCE = 8
"""Differences are shown so many times as large."""
CHECKS = 6
"""Validations of a run."""
BEGIN, END = "<!-- classic:begin -->", "<!-- classic:end -->"
COLORS = ("#d6336c", "#1864ab", "#f08c00", "#2b8a3e", "#8ce99a", "#7048e8", "#868e96")
CAPTIONS = {
    "rd": "PSNR over rate, means over all validation pictures, whole files. JPEG is Pillow's, 4:2:0.",
    "curves": "Left, the training loss: each crop's bpp + lambda distortion over the running mean of its quality, "
    "means of 50 steps; the stage of the decoder alone has a loss of its own. Right, the validation score: the "
    "geometric mean over seven qualities of bpp + lambda MSE, on one scale for all.",
    "grid": f"`examples/coffee.png`, the largest file of at most {SHOWN_BPP:g} bpp. Below each reconstruction the "
    f"mean absolute difference from the original, times {DIFFERENCE}.",
    "progress": "Another run of each, validated on the photos in `examples/`: one at quality 35 as training goes on, "
    "minutes of CPU time.",
}
"""Figures of docs/classic.md."""


class Variant(NamedTuple):
    """`label` as tables have it, and what of the default recipe is changed."""

    label: str
    changes: dict[str, Any]


ARCHS = {
    "codec": Variant("codec (the default)", {}),
    "baseline": Variant("baseline", {"arch": BASELINE}),
    "pooling": Variant("pooling", {"arch": POOLING}),
    "enhanced": Variant("enhanced", {"arch": ENHANCED}),
    "enhanced-dropout": Variant("enhanced, dropout 0.1", {"arch": ENHANCED, "dropout": 0.1}),
    "variational": Variant("variational", {"arch": VARIATIONAL}),
    "baseline-noise": Variant("baseline, noisy in, clean target", {"arch": BASELINE, "noise": "gauss:5-25"}),
}
CHOICES = {
    "unchanged": Variant("none", {}),
    "adamw": Variant("AdamW 1e-3 instead of Muon 2e-3", {"optimizer": "adamw"}),
    "lion": Variant("Lion 1e-4 instead of Muon 2e-3", {"optimizer": "lion"}),
    "step": Variant("step decay instead of cosine", {"schedule": "step"}),
    "l1": Variant("L1 instead of MSE", {"loss": "l1"}),
    "latents-128": Variant("128 latent channels instead of 320", {"latents": 128}),
    "latents-256": Variant("256 latent channels", {"latents": 256}),
    "latents-512": Variant("512 latent channels", {"latents": 512}),
}
"""One choice at a time on 'baseline': docs/design.md has optimizers and more on the codec's own model, which starts as
a working codec; here the networks are all there is."""
CHOICES = {name: Variant(label, {"arch": BASELINE, **changes}) for name, (label, changes) in CHOICES.items()}
VARIANTS = ARCHS | CHOICES
DRAWN = (CODEC, BASELINE, POOLING, ENHANCED, VARIATIONAL)
"""Variants in grids of pictures."""


# Training and measuring


def experiment(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Train one variant and measure its files; what FOLDER/NAME.json says."""
    seconds = 60.0 * (options.choice_minutes if name in CHOICES else options.minutes)
    recipe = Recipe(
        data=str(options.data), validation=str(options.validation), size=options.size, name=name, seconds=seconds,
        clock="cpu", validation_seconds=seconds / CHECKS, bfloat16=prefers_bfloat16(torch.device("cpu")),
        **VARIANTS[name].changes,
    )  # fmt: skip
    folder = options.output / name
    folder.mkdir(exist_ok=True)
    if not (folder / "cache").exists():  # decoding pictures is no part of anyone's time
        (folder / "cache").symlink_to("../cache")
    load_pictures(options.data, folder / "cache", recipe.side_min)
    load_pictures(options.validation, folder / "cache", validate.SIDE)
    out = run(recipe, folder, (folder / CHECKPOINT).exists(), print)
    assert out is not None
    model = weights.load(weights.describe(out))
    found = pictures(options.validation, options.pictures)
    train, checks = watch.read(folder / "log.jsonl")
    return {
        "name": name,
        "recipe": asdict(recipe),
        "id": model.id.hex(),
        "steps": train[-1]["step"],
        "score": checks[-1]["score"],
        "kmac": kmac_per_pixel(model.config),
        "pictures": len(found),
        "points": [point(model, found, quality) for quality in QUALITIES],
        "torch": torch.__version__,
    }


def pictures(folder: Path, count: int | None) -> list[metrics.Pixels]:
    paths = sorted(p for p in folder.iterdir() if p.suffix in (".png", ".webp", ".jpg"))
    return [np.asarray(Image.open(path).convert("RGB")) for path in paths[:count]]


def point(model: Model, found: list[metrics.Pixels], quality: int) -> dict[str, float]:
    """Mean rate, PSNR and MS-SSIM (both in dB) over pictures at a quality."""
    rows = []
    for pixels in found:
        data = codec.compress(pixels, quality, model)
        close = metrics.closeness(pixels, codec.decompress(data, model=model).color)
        bpp = metrics.bpp(len(data), pixels.shape[1], pixels.shape[0])
        rows.append((bpp, close.psnr, metrics.similarity_db(close.ms_ssim)))
    bpp, psnr, ms_ssim = np.nanmean(rows, axis=0).tolist()
    print(f"quality {quality:3}  {bpp:.3f} bpp  {psnr:.2f} dB  MS-SSIM {ms_ssim:.2f} dB", flush=True)
    return {"quality": quality, "bpp": bpp, "psnr": psnr, "ms_ssim": ms_ssim}


def shown(model: Model, pixels: metrics.Pixels) -> tuple[metrics.Pixels, float]:
    """The picture from its largest file of at most SHOWN_BPP, and the rate of that."""
    height, width = pixels.shape[:2]

    def rate(quality: int) -> float:
        return metrics.bpp(len(codec.compress(pixels, quality, model)), width, height)

    quality = max(1, bisect.bisect_right(range(1, 101), SHOWN_BPP, key=rate))
    data = codec.compress(pixels, quality, model)
    return codec.decompress(data, model=model).color, metrics.bpp(len(data), width, height)


# Tables


def block(rows: dict[str, dict[str, Any]]) -> str:
    """What docs/classic.md has between its marks."""
    any_row = next(iter(rows.values()))
    recipe = any_row["recipe"]
    head = (
        f"`--size {recipe['size']}`, {recipe['seconds'] / 60:g} minutes of CPU time each on one thread; "
        f"{any_row['pictures']} validation pictures, real files at effort 1, qualities "
        f"{', '.join(map(str, QUALITIES))}; torch {any_row['torch']}. BD-rates below 0 are fewer bits at equal quality."
    )
    parts = [head, table(rows, ARCHS, "codec")]
    if rows.keys() & CHOICES.keys():
        minutes = next(rows[name]["recipe"]["seconds"] / 60 for name in CHOICES if name in rows)
        parts.append(
            f"One choice at a time on `baseline` (Muon, cosine, MSE, 320 latent channels), {minutes:g} minutes each:"
        )
        parts.append(table(rows, CHOICES, "unchanged"))
    parts += [f"![{name}](images/classic-{name}.png)\n\n{caption}" for name, caption in CAPTIONS.items()]
    return "\n\n".join(parts)


def table(rows: dict[str, dict[str, Any]], variants: dict[str, Variant], anchor: str) -> str:
    lines = ["| | steps | kMAC/px g_a | g_s | score | BD-rate, PSNR | MS-SSIM |", "|---|---|---|---|---|---|---|"]
    for name, (label, _) in variants.items():
        if name in rows:
            row = rows[name]
            saved = (bd_rate(rows[anchor], row, key) for key in ("psnr", "ms_ssim")) if anchor in rows else ("-", "-")
            kmac = f"{row['kmac']['g_a']:.1f} | {row['kmac']['g_s']:.1f}"
            lines.append(f"| {label} | {row['steps']:,} | {kmac} | {row['score']:.4f} | {' | '.join(saved)} |")
    return "\n".join(lines)


def bd_rate(anchor: dict[str, Any], row: dict[str, Any], key: str) -> str:
    if anchor is row:
        return "0"
    a, t = ([metrics.Point(p["bpp"], p[key]) for p in r["points"]] for r in (anchor, row))
    found = metrics.bd_rate(a, t)
    return f"{found.percent:+.1f} %" if found else "no common range"


# Figures


def canvas(columns: int = 1) -> tuple[Figure, list[Axes]]:
    figure, axes = plt.subplots(1, columns, figsize=(5 * columns + 1, 4.4), layout="constrained", squeeze=False)
    for axis in axes.flat:
        axis.grid(color="#e4e7ea")
        axis.spines[["top", "right"]].set_visible(False)
    return figure, list(axes.flat)


def drawn(rows: dict[str, dict[str, Any]]) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Rows of ARCHS, and how their lines look."""
    for (name, (label, _)), color in zip(ARCHS.items(), COLORS, strict=True):
        if name in rows:
            width = 2.4 if name == CODEC else 1.4
            yield rows[name], {"label": label, "color": color, "linewidth": width}


def rate_distortion(rows: dict[str, dict[str, Any]], found: list[metrics.Pixels]) -> Figure:
    figure, (axis,) = canvas()
    for row, style in drawn(rows):
        axis.plot([p["bpp"] for p in row["points"]], [p["psnr"] for p in row["points"]], "o-", markersize=3.5, **style)
    jpeg = plots.jpeg_points(found)
    axis.plot([p.bpp for p in jpeg], [p.quality for p in jpeg], "--", color="0.5", linewidth=1.2, label="JPEG")
    axis.set_xscale("log")
    axis.xaxis.set_major_formatter("{x:g}")
    axis.xaxis.set_minor_formatter("")
    axis.set_xlabel("bits per pixel, whole file (logarithmic)")
    axis.set_ylabel("PSNR, dB")
    axis.legend(frameon=False, fontsize=9)
    return figure


def curves(rows: dict[str, dict[str, Any]], folder: Path) -> Figure:
    figure, (left, right) = canvas(2)
    for row, style in drawn(rows):
        train, checks = watch.read(folder / row["name"] / "log.jsonl")
        left.plot([r["elapsed"] / 60 for r in train], [r["loss"] for r in train], **style)
        right.plot([r["elapsed"] / 60 for r in checks], [r["score"] for r in checks], "o-", markersize=3.5, **style)
    left.set_title("training loss", fontsize=11)
    right.set_title("validation score", fontsize=11)
    right.legend(frameon=False, fontsize=9)
    for axis in (left, right):
        axis.set_yscale("log")
        axis.yaxis.set_major_formatter("{x:g}")
        axis.yaxis.set_minor_formatter("{x:g}")
        axis.set_xlabel("minutes of CPU time")
    return figure


def middle(pixels: metrics.Pixels) -> metrics.Pixels:
    top, left = ((side - SIDE) // 2 for side in pixels.shape[:2])
    return pixels[top : top + SIDE, left : left + SIDE]


def sheet(lines: list[list[tuple[str, metrics.Pixels | None]]]) -> Image.Image:
    """Squares of SIDE pixels with a label above each, pixel for pixel."""
    gap, label = 4, 30
    size = (len(lines[0]) * (SIDE + gap) - gap, len(lines) * (SIDE + label))
    page, font = Image.new("RGB", size, "white"), ImageFont.load_default(12)
    pen = ImageDraw.Draw(page)
    for i, line in enumerate(lines):
        for j, (text, pixels) in enumerate(line):
            at = j * (SIDE + gap), i * (SIDE + label)
            pen.multiline_text((at[0] + 1, at[1] + label - 2), text, "black", font, anchor="ld", spacing=1)
            if pixels is not None:
                page.paste(Image.fromarray(pixels), (at[0], at[1] + label))
    return page


def grid(rows: dict[str, dict[str, Any]], folder: Path) -> Image.Image:
    original = np.asarray(Image.open(SHOWN).convert("RGB"))
    above: list[tuple[str, metrics.Pixels | None]] = [("original", middle(original))]
    below: list[tuple[str, metrics.Pixels | None]] = [("", None)]
    for name in DRAWN:
        if name in rows:
            model = weights.load(weights.describe(folder / name / f"{name}.safetensors"))
            decoded, bpp = shown(model, original)
            difference = np.abs(decoded.astype(int) - original).mean(2) * DIFFERENCE
            label = f"{name}\n{bpp:.2f} bpp  {metrics.psnr(original, decoded):.1f} dB"
            above.append((label, middle(decoded)))
            below.append((f"difference x {DIFFERENCE}", middle(difference.clip(0, 255).astype(np.uint8))))
    return sheet([above, below])


def watched(name: str, options: argparse.Namespace) -> None:
    """A run of variant `name` whose validation crops may be shown: those of photos in `examples`."""
    folder, seconds = options.output / f"{name}-progress", 60.0 * options.choice_minutes
    if (folder / f"{name}.safetensors").exists():
        return
    recipe = Recipe(
        data=str(options.data), validation=str(EXAMPLES), size=options.size, name=name, seconds=seconds, clock="cpu",
        validation_seconds=seconds / CHECKS, bfloat16=False, fit_pictures=0, **VARIANTS[name].changes,
    )  # fmt: skip
    run(recipe, folder, (folder / CHECKPOINT).exists(), print, cache=options.output / "cache")


def progress(folder: Path, names: tuple[str, ...], columns: int = 5) -> Image.Image:
    """The first validation crop in the frames of runs of `watched`, as many as `columns` from first to last."""
    lines = []
    for name in (f"{name}-progress" for name in names):
        _, checks = watch.read(folder / name / "log.jsonl")
        minutes = {f"{check['step']:07d}": check["elapsed"] / 60 for check in checks}
        paths = sorted((folder / name / "frames").glob("*.png"))
        picked = sorted({round(i) for i in np.linspace(0, len(paths) - 1, columns)})
        frames = [np.asarray(Image.open(paths[i]).convert("RGB")) for i in picked]
        side = frames[0].shape[0] // 3
        line: list[tuple[str, metrics.Pixels | None]] = [
            (f"{name.removesuffix('-progress')}: original", middle(frames[0][:side, :side]))
        ]
        for i, frame in zip(picked, frames, strict=True):
            line.append((f"{minutes[paths[i].stem]:.1f} min", middle(frame[side : 2 * side, :side])))
        lines.append(line)
    return sheet(lines)


def write(options: argparse.Namespace, rows: dict[str, dict[str, Any]], found: list[metrics.Pixels]) -> None:
    """Tables into docs/classic.md, figures into docs/images."""
    docs, folder = options.docs, options.output
    page, images = docs / "classic.md", docs / "images"
    text = page.read_text()
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise SystemExit(f"{page} needs {BEGIN} and then {END}, once each")
    images.mkdir(exist_ok=True)
    for name, figure in (("rd", rate_distortion(rows, found)), ("curves", curves(rows, folder))):
        figure.savefig(images / f"classic-{name}.png", dpi=100)
        plt.close(figure)
    grid(rows, folder).save(images / "classic-grid.png", optimize=True)
    for name in (CODEC, BASELINE):
        watched(name, options)
    progress(folder, (CODEC, BASELINE)).save(images / "classic-progress.png", optimize=True)
    inside = f"{BEGIN}\n{block(rows)}\n{END}"
    page.write_text(re.sub(f"{BEGIN}.*{END}", lambda _: inside, text, flags=re.DOTALL))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("validation", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--choice-minutes", type=float, default=4.0, help="of each choice on the baseline")
    parser.add_argument("--size", default="fast")
    parser.add_argument("--pictures", type=int, help="so many of the validation pictures alone")
    parser.add_argument("--only", nargs="+", choices=VARIANTS, metavar="NAME", help=f"of {', '.join(VARIANTS)}")
    parser.add_argument("--docs", type=Path, default=Path(__file__).parent.parent / "docs")
    options = parser.parse_args()
    torch.set_num_threads(1)
    (options.output / "cache").mkdir(parents=True, exist_ok=True)
    rows = {}
    for name in options.only or VARIANTS:
        path = options.output / f"{name}.json"
        if unknown := set(VARIANTS[name].changes) - {field.name for field in fields(Recipe)}:
            print(f"{name}: skipped, recipes have no {', '.join(unknown)}")
            continue
        if not path.exists():
            print(name, flush=True)
            path.write_text(json.dumps(experiment(name, options), indent=1))
        rows[name] = json.loads(path.read_text())
    if not options.only:
        write(options, rows, pictures(options.validation, options.pictures))


if __name__ == "__main__":
    main()
