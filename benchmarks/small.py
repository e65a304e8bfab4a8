"""Small grey pictures: real bytes and closeness on the test split, beside PNG, WebP and the weights for photographs.

    python benchmarks/small.py WEIGHTS.safetensors IDX_FOLDER [--pictures 200] [--seed 0] [--sheet OUT.png]

Needs nncodec[bench] and scikit-image. The split is that of a run with `--preset 28x28` and this seed. Writes
benchmarks/small.json, the table between the marks in docs/small.md, and docs/images/small.png; --sheet shows pictures.
"""

from __future__ import annotations

import argparse
import io
import json
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import matplotlib
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from skimage.metrics import structural_similarity

from nncodec import codec, container, metrics, weights
from nncodec.train.data import grey_planes, load_pictures
from nncodec.weights import Model

matplotlib.use("Agg")
import matplotlib.pyplot as plt

ROOT = Path(__file__).resolve().parent.parent
BEGIN, END = "<!-- small:begin -->", "<!-- small:end -->"
OURS = {1: (1, 10, 25, 40, 55, 70, 85, 100), 2: (10, 40, 70, 100), 3: (40, 70, 100)}
"""Qualities of each effort."""
FAST = (10, 40, 70, 100)
WEBP = (1, 20, 40, 60, 80, 90, 95, 100)
SHOWN = ((25, 1), (100, 1), (100, 3))
"""Quality and effort of the lines of the sheet."""
GOAL = 0.93

Grey = NDArray[np.uint8]
Coder = Callable[[Grey], tuple[bytes, Grey]]


@dataclass(frozen=True)
class Row:
    """Means over the pictures; `payload` is the file without header, table and CRC, None for other formats."""

    codec: str
    setting: str
    bytes: float
    payload: float | None
    ssim: float
    ssim_uniform: float
    psnr: float


def ours(model: Model, quality: int, effort: int = 1) -> Coder:
    def code(pixels: Grey) -> tuple[bytes, Grey]:
        data = codec.compress(pixels, quality, model, effort=effort)
        return data, codec.decompress(data, model=model).color

    return code


def pillow(kind: str, **options: object) -> Coder:
    def code(pixels: Grey) -> tuple[bytes, Grey]:
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, kind, **options)
        with Image.open(file) as image:
            return file.getvalue(), np.asarray(image.convert("L"))

    return code


def measure(name: str, setting: str, code: Coder, pictures: Grey) -> Row:
    values = []
    for pixels in pictures:
        data, decoded = code(pixels)
        payload = np.nan
        if data.startswith(container.MAGIC):
            payload = sum(len(section.payload) for section in container.parse(data)[1])
        uniform = structural_similarity(pixels, decoded)
        psnr = min(metrics.psnr(pixels, decoded), 99.0)
        values.append((len(data), payload, metrics.ssim(pixels, decoded), uniform, psnr))
    size, payload, ssim, uniform, psnr = (float(v) for v in np.mean(values, axis=0))
    row = Row(name, setting, size, None if np.isnan(payload) else payload, ssim, uniform, psnr)
    print(row, flush=True)
    return row


def table(rows: list[Row], count: int, total: int) -> str:
    lines = [
        "| | setting | file, bytes | of it payload | SSIM | SSIM, 7x7 | PSNR, dB |",
        "|---|---|--:|--:|--:|--:|--:|",
    ]
    for row in rows:
        payload = "" if row.payload is None else f"{row.payload:.1f}"
        psnr = "lossless" if row.psnr >= 99 else f"{row.psnr:.2f}"
        closeness = f"{row.ssim:.4f} | {row.ssim_uniform:.4f}"
        lines.append(f"| {row.codec} | {row.setting} | {row.bytes:.1f} | {payload} | {closeness} | {psnr} |")
    return "\n".join([*lines, "", f"Means of {count} of the {total} pictures of the test split."])


def bytes_at(rows: list[Row], ssim: float) -> str:
    """Bytes of a codec's curve at that SSIM, linear between its settings, or what can be said of them."""
    curve = sorted((row.ssim, row.bytes) for row in rows)
    x, y = zip(*curve, strict=True)
    if ssim > x[-1]:
        return "not reached"
    return f"under {y[0]:.0f}" if ssim < x[0] else f"{np.interp(ssim, x, y):.0f}"


def figure(path: Path, rows: list[Row]) -> None:
    layout, axis = plt.subplots(figsize=(7.5, 4.6), layout="constrained")
    for name in dict.fromkeys(row.codec for row in rows):
        curve = sorted((row.bytes, row.ssim) for row in rows if row.codec == name)
        axis.plot(*zip(*curve, strict=True), "o-", markersize=4, label=name)
    axis.axhline(GOAL, color="0.6", linestyle=":", linewidth=1)
    axis.set(xlabel="bytes a picture, whole file (logarithmic)", ylabel="SSIM", xscale="log")
    axis.xaxis.set_major_formatter("{x:g}")
    axis.xaxis.set_minor_formatter("{x:g}")
    axis.grid(alpha=0.3)
    axis.legend(frameon=False)
    layout.savefig(path, dpi=100)


def sheet(path: Path, model: Model, pictures: Grey) -> None:
    """A line of originals and one for each of SHOWN."""
    layout, axes = plt.subplots(1 + len(SHOWN), len(pictures), figsize=(1.1 * len(pictures), 6), layout="constrained")
    for line, shown in zip(axes, (None, *SHOWN), strict=True):
        for axis, pixels in zip(line, pictures, strict=True):
            decoded, label = pixels, ""
            if shown:
                data, decoded = ours(model, *shown)(pixels)
                label = f"{len(data)} B\n{metrics.ssim(pixels, decoded):.3f}"
            axis.imshow(decoded, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
            axis.set(xticks=[], yticks=[])
            axis.set_xlabel(label, fontsize=8)
        line[0].set_ylabel(f"quality {shown[0]}, effort {shown[1]}" if shown else "original", fontsize=8)
    layout.savefig(path, dpi=100)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--pictures", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sheet", type=Path, help="pictures and what becomes of them")
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = weights.load(weights.describe(options.weights))
    with tempfile.TemporaryDirectory() as cache:
        store = load_pictures(options.data, Path(cache), 64, model.config.side)
        *_, test = store.parts((0.1, 0.1), options.seed)
        every = grey_planes(test, torch.device("cpu")).numpy()
    step = len(every) / min(options.pictures, len(every))
    pictures = every[[int(i * step) for i in range(min(options.pictures, len(every)))]]
    fast = codec.load_model("fast", "cpu")
    rows = [
        measure(f"{model.name}, effort {effort}", f"quality {q}", ours(model, q, effort), pictures)
        for effort, qualities in OURS.items()
        for q in qualities
    ]
    rows += [measure("fast", f"quality {q}", ours(fast, q), pictures) for q in FAST]
    rows += [measure("WebP", f"quality {q}", pillow("WEBP", quality=q, method=6), pictures) for q in WEBP]
    rows.append(measure("WebP lossless", "", pillow("WEBP", lossless=True, quality=100, method=6), pictures))
    rows.append(measure("PNG", "optimize", pillow("PNG", optimize=True), pictures))
    compared = [*(f"{model.name}, effort {effort}" for effort in OURS), "fast", "WebP"]
    found = {name: bytes_at([r for r in rows if r.codec == name], GOAL) for name in compared}
    text = (
        table(rows, len(pictures), len(every))
        + f"\n\nBytes at SSIM {GOAL}, between settings: "
        + "; ".join(f"{name}: {value}" for name, value in found.items())
    )
    facts = {"model": model.id.hex(), "pictures": len(pictures), "of": len(every), "seed": options.seed}
    result = {**facts, "bytes_at_goal": found, "rows": [asdict(row) for row in rows]}
    (ROOT / "benchmarks" / "small.json").write_text(json.dumps(result, indent=1) + "\n")
    page = ROOT / "docs" / "small.md"
    head, _, rest = page.read_text().partition(BEGIN)
    page.write_text(f"{head}{BEGIN}\n{text}.\n{END}{rest.partition(END)[2]}")
    figure(ROOT / "docs" / "images" / "small.png", rows)
    if options.sheet:
        sheet(options.sheet, model, pictures[:12])


if __name__ == "__main__":
    main()
