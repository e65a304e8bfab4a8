"""The figures of docs/analysis.md and the README: copies that are found again, and a heat map.

Run as ``python benchmarks/analysis_figures.py`` with nncodec[bench] and scikit-image installed; writes
docs/images/similar.png and docs/images/anomaly.png of photographs that scikit-image distributes.
"""

from __future__ import annotations

import io
import tempfile
from pathlib import Path

import matplotlib
import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageOps
from skimage import data

from nncodec import codec
from nncodec.analysis import anomaly, embed, heat

matplotlib.use("Agg")
import matplotlib.pyplot as plt

IMAGES = Path(__file__).resolve().parent.parent / "docs" / "images"
NORMALS, SIDE = 60, 112


def ppm(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.save(out, "PPM")
    return out.getvalue()


def jpeg(image: Image.Image, quality: int) -> Image.Image:
    out = io.BytesIO()
    image.save(out, "JPEG", quality=quality)
    return Image.open(out).convert("RGB")


def photos() -> dict[str, Image.Image]:
    names = ("astronaut", "chelsea", "coffee", "rocket")
    return {name: Image.fromarray(getattr(data, name)()).convert("RGB") for name in names}


def similar(model: codec.Model) -> None:
    known = photos()
    index = embed.index_of(model, "all", [(name, embed.embed(ppm(image), model)) for name, image in known.items()])
    astronaut, chelsea, coffee, rocket = known.values()
    copies = [
        ("crop to 75 %, half size, JPEG 30", jpeg(astronaut.crop((64, 20, 448, 404)).reduce(2), 30)),
        ("mirrored, darker", ImageEnhance.Brightness(ImageOps.mirror(chelsea)).enhance(0.6)),
        ("a quarter of the size", coffee.reduce(4)),
        ("grey, JPEG 10", jpeg(ImageOps.grayscale(rocket).convert("RGB"), 10)),
    ]
    figure, axes = plt.subplots(2, 4, figsize=(10, 4.6))
    for (what, copy), (above, below) in zip(copies, axes.T, strict=True):
        best, second, *_ = embed.nearest(index, embed.embed(ppm(copy), model).vector, 2)
        above.imshow(copy)
        above.set_title(what, fontsize=9)
        below.imshow(known[best.name])
        below.set_title(f"{best.similarity:.2f} {best.name}   (next: {second.similarity:.2f})", fontsize=9)
    save(figure, axes, "similar.png")


def unusual(model: codec.Model) -> None:
    rng = np.random.default_rng(0)
    known = list(photos().values())
    normal = []
    for number in range(NORMALS):
        image = known[number % len(known)]
        x, y = rng.integers(0, image.width - SIDE), rng.integers(0, image.height - SIDE)
        normal.append(anomaly.measure(ppm(image.crop((x, y, x + SIDE, y + SIDE))), model))
    calibration = anomaly.calibrate(normal, model, anomaly.QUALITY, looked_at=anomaly.RATE)
    levels = np.array(known[2].crop((100, 0, 500, 400)))
    clean = Image.fromarray(levels)
    levels[30:190, 220:380] = np.clip(levels[30:190, 220:380] + rng.normal(0, 60, (160, 160, 3)), 0, 255)
    levels[280:344:4, 20:180] = 255
    figure, axes = plt.subplots(1, 3, figsize=(10, 3.6))
    axes[0].imshow(levels)
    axes[0].set_title("noise and white rows in a photograph", fontsize=9)
    with tempfile.TemporaryDirectory() as folder:
        for axis, image, name in ((axes[1], Image.fromarray(levels), "damaged"), (axes[2], clean, "as it was")):
            source, target = Path(folder, "in.ppm"), Path(folder, f"{name}.png")
            source.write_bytes(ppm(image))
            measured = anomaly.measure(source, model)
            verdict = calibration.verdict(measured)
            heat.write(target, source, calibration.heatmap(measured), overwrite=True)
            axis.imshow(Image.open(target))
            axis.set_title(f"{name}: score {verdict.score:.2f}, threshold {calibration.threshold:.2f}", fontsize=9)
    save(figure, axes, "anomaly.png")


def save(figure: plt.Figure, axes: np.ndarray, name: str) -> None:
    for axis in axes.flat:
        axis.axis("off")
    figure.tight_layout(pad=0.5)
    figure.savefig(IMAGES / name, dpi=80)
    with Image.open(IMAGES / name) as image:
        image.convert("RGB").quantize(192).save(IMAGES / name, optimize=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    loaded = codec.load_model()
    similar(loaded)
    unusual(loaded)
