"""What `nncodec embed` and `nncodec anomaly` find: the tables of docs/analysis.md.

Run as ``python benchmarks/embed_anomaly.py PART ../shared/data``, with PART one of

fit         makes nncodec/analysis/whitening.npz of every eighth training photo and copies of some others
embed       copies of the validation photos, looked for among these and training photos that the fit did not see; speed
photos      photos of train as normal, photos of val and corrupted photos of val scored
fashion     Fashion-MNIST, one class of ten normal at a time
"""

from __future__ import annotations

import gzip
import io
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from nncodec import codec
from nncodec.analysis import anomaly, describe, embed, latents
from nncodec.weights import Model

Picture = Image.Image
Change = Callable[[Picture, np.random.Generator], Picture]

FIT_PHOTOS, FIT_SIDE, FIT_QUALITIES = 17, 448, (20, 85)
NORMALS, HELD, VAL_STEP = 120, 40, 2
SIDE = 192
"""Pixels a side of the middle of each photo that is scored."""
CLASS_NORMALS, CLASS_TEST = 100, 25


def cropped(share: float) -> Change:
    def change(image: Picture, rng: np.random.Generator) -> Picture:
        width, height = int(image.width * share), int(image.height * share)
        x, y = rng.integers(0, image.width - width + 1), rng.integers(0, image.height - height + 1)
        return image.crop((x, y, x + width, y + height))

    return change


def scaled(factor: float) -> Change:
    def change(image: Picture, _: np.random.Generator) -> Picture:
        size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
        return image.resize(size, Image.Resampling.LANCZOS)

    return change


def recompressed(kind: str, quality: int) -> Change:
    def change(image: Picture, _: np.random.Generator) -> Picture:
        out = io.BytesIO()
        image.save(out, kind, quality=quality)
        return Image.open(out).convert("RGB")

    return change


def noisy(deviation: float) -> Change:
    def change(image: Picture, rng: np.random.Generator) -> Picture:
        levels = np.asarray(image) + rng.normal(0, deviation, (image.height, image.width, 3))
        return Image.fromarray(levels.round().clip(0, 255).astype(np.uint8))

    return change


def chained(*changes: Change) -> Change:
    def change(image: Picture, rng: np.random.Generator) -> Picture:
        for one in changes:
            image = one(image, rng)
        return image

    return change


LEARNED: dict[str, Change] = {
    "crop to 90 % a side": cropped(0.9),
    "crop to 75 % a side": cropped(0.75),
    "crop to 50 % a side": cropped(0.5),
    "scaled by 0.75": scaled(0.75),
    "scaled by 0.5": scaled(0.5),
    "scaled by 0.25": scaled(0.25),
    "JPEG 30": recompressed("JPEG", 30),
    "JPEG 10": recompressed("JPEG", 10),
    "brightness 0.6": lambda image, _: ImageEnhance.Brightness(image).enhance(0.6),
    "brightness 1.4": lambda image, _: ImageEnhance.Brightness(image).enhance(1.4),
    "mirrored": lambda image, _: ImageOps.mirror(image),
    "grey": lambda image, _: ImageOps.grayscale(image).convert("RGB"),
    "crop 75 %, scaled 0.75, JPEG 30": chained(cropped(0.75), scaled(0.75), recompressed("JPEG", 30)),
}
UNSEEN: dict[str, Change] = {
    "scaled by 1.5": scaled(1.5),
    "WebP 20": recompressed("WEBP", 20),
    "contrast 0.6": lambda image, _: ImageEnhance.Contrast(image).enhance(0.6),
    "noise of 10 levels": noisy(10),
    "blur of 1.5 pixels": lambda image, _: image.filter(ImageFilter.GaussianBlur(1.5)),
    "turned by 5 degrees": lambda image, _: image.rotate(5, Image.Resampling.BICUBIC),
}


def black_rows(image: Picture, rng: np.random.Generator) -> Picture:
    levels = np.array(image)
    levels[rng.choice(image.height, image.height // 50, replace=False)] = 0
    return Image.fromarray(levels)


def salt_and_pepper(image: Picture, rng: np.random.Generator) -> Picture:
    levels, chance = np.array(image), rng.random((image.height, image.width))
    levels[chance < 0.005], levels[chance > 0.995] = 0, 255
    return Image.fromarray(levels)


def color_cast(image: Picture, _: np.random.Generator) -> Picture:
    return Image.fromarray((np.asarray(image) * np.array([1.3, 0.9, 0.6])).clip(0, 255).astype(np.uint8))


def shifted_part(image: Picture, rng: np.random.Generator) -> Picture:
    """As of a damaged JPEG: from some row of blocks on, everything is shifted and tinted."""
    levels = np.array(image)
    top = 8 * int(rng.integers(image.height // 32, image.height // 12))
    levels[top:] = (np.roll(levels[top:], 100, 1) * np.array([0.6, 1.0, 1.2])).clip(0, 255)
    return Image.fromarray(levels)


CORRUPTED: dict[str, Change] = {
    "noise of 10 levels": noisy(10),
    "noise of 25 levels": noisy(25),
    "salt and pepper, 1 %": salt_and_pepper,
    "2 % of rows black": black_rows,
    "blur of 2 pixels": lambda image, _: image.filter(ImageFilter.GaussianBlur(2)),
    "JPEG 10": recompressed("JPEG", 10),
    "color cast": color_cast,
    "shifted and tinted part": shifted_part,
}


def photos(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix in (".avif", ".webp"))


def lossless(image: Picture) -> bytes:
    """A picture as the bytes of a PPM file."""
    out = io.BytesIO()
    image.save(out, "PPM")
    return out.getvalue()


def opened(path: Path) -> Picture:
    return Image.open(path).convert("RGB")


def middle(image: Picture) -> Picture:
    width, height = min(SIDE, image.width), min(SIDE, image.height)
    x, y = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((x, y, x + width, y + height))


def features(model: Model, source: bytes | Path) -> np.ndarray:
    with latents.opened(model, source, embed.QUALITY) as found:
        return describe.pooled(model, found)


def fit(model: Model, data: Path) -> None:
    paths, rng = photos(data / "train"), np.random.default_rng(0)
    several = np.stack([features(model, path) for path in paths[::8]])
    within = []
    for path in paths[1::2][::13][:FIT_PHOTOS]:
        image = opened(path)
        image = image.crop((0, 0, min(image.width, FIT_SIDE), min(image.height, FIT_SIDE)))
        own = features(model, lossless(image))
        copies = [lossless(change(image, rng)) for change in LEARNED.values()]
        copies += [codec.compress(np.asarray(image), quality, model, effort=0) for quality in FIT_QUALITIES]
        within += [features(model, copy) - own for copy in copies]
    arrays = {}
    moments = describe.dimensions(describe.MOMENTS)
    for pool, size in ((describe.ALL, several.shape[1]), (describe.MOMENTS, moments)):
        mean, scale = several[:, :size].mean(0), several[:, :size].std(0) + 1e-6
        between = np.cov(((several[:, :size] - mean) / scale).T)
        differences = np.stack(within)[:, :size] / scale
        spread = differences.T @ differences / len(differences)
        spread += 0.03 * np.trace(spread) / size * np.eye(size)
        # Generalized eigenvectors: white within copies of one picture, ordered by how much pictures differ.
        values, axes = np.linalg.eigh(spread)
        white = axes / np.sqrt(values)
        _, turned = np.linalg.eigh(white.T @ between @ white)
        project = (white @ turned)[:, ::-1][:, : describe.VECTOR]
        arrays |= {f"{pool}_mean": mean, f"{pool}_scale": scale, f"{pool}_project": project}
    np.savez_compressed(describe.WHITENING, **{name: array.astype(np.float16) for name, array in arrays.items()})
    print(f"{describe.WHITENING}: {len(several)} photos, {len(within)} copies, {describe.WHITENING.stat().st_size} B")


def auroc(normal: np.ndarray, unusual: np.ndarray) -> float:
    """Chance that an unusual one scores above a normal one, ties counting half."""
    difference = unusual[:, None] - normal[None]
    return float(np.mean((difference > 0) + 0.5 * (difference == 0)))


def scores(calibration: anomaly.Calibration, several: list[anomaly.Measured]) -> np.ndarray:
    return np.array([calibration.verdict(one).score for one in several])


def report(normal: list[anomaly.Measured], held: dict[str, list], unusual: dict[str, list], model: Model) -> None:
    """False alarms on held-out normal pictures, and AUROC of each kind against all of these."""
    fits = [anomaly.calibrate(normal, model, anomaly.QUALITY, 95.0, which) for which in anomaly.FEATURES]
    print(f"{len(normal)} normal pictures; columns: {', '.join(anomaly.FEATURES)}")
    for name, several in held.items():
        alarms = [100 * np.mean([of.verdict(one).anomalous for one in several]) for of in fits]
        print(f"| false alarms, {name} ({len(several)}) | " + " | ".join(f"{share:.1f} %" for share in alarms) + " |")
    usual = [scores(of, [one for several in held.values() for one in several]) for of in fits]
    for name, several in unusual.items():
        cells = (f"{auroc(u, scores(of, several)):.3f}" for u, of in zip(usual, fits, strict=True))
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


def photos_part(model: Model, data: Path) -> None:
    rng = np.random.default_rng(1)
    paths = photos(data / "train")
    step = len(paths) // (NORMALS + HELD)
    begin = time.process_time()
    several = [anomaly.measure(lossless(middle(opened(path))), model) for path in paths[::step][: NORMALS + HELD]]
    print(f"{(time.process_time() - begin) / len(several):.3f} s of CPU a picture", flush=True)
    order = rng.permutation(len(several))
    normal, held = [several[i] for i in order[:NORMALS]], [several[i] for i in order[NORMALS:]]
    val = [middle(opened(path)) for path in photos(data / "val")[::VAL_STEP]]
    other = [anomaly.measure(lossless(image), model) for image in val]
    unusual = {
        name: [anomaly.measure(lossless(change(image, rng)), model) for image in val]
        for name, change in CORRUPTED.items()
    }
    report(normal, {"train": held, "val": other}, unusual, model)


CLASSES = ("T-shirt", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Boot")


def fashion_pictures(folder: Path, part: str, count: int) -> Iterator[list[bytes]]:
    """For each class the first `count` pictures."""
    with gzip.open(folder / f"{part}-images-idx3-ubyte.gz") as file:
        pictures = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 28, 28)
    with gzip.open(folder / f"{part}-labels-idx1-ubyte.gz") as file:
        labels = np.frombuffer(file.read(), np.uint8, offset=8)
    for number in range(10):
        yield [lossless(Image.fromarray(one)) for one in pictures[labels == number][:count]]


def fashion_part(model: Model, data: Path) -> None:
    begin = time.process_time()
    train, test = (
        [[anomaly.measure(one, model) for one in several] for several in fashion_pictures(data / "fashion", *part)]
        for part in (("train", CLASS_NORMALS), ("t10k", CLASS_TEST))
    )
    count = 10 * (CLASS_NORMALS + CLASS_TEST)
    print(f"{1000 * (time.process_time() - begin) / count:.1f} ms of CPU a picture; {CLASS_NORMALS} normals a class")
    rows = []
    for number in range(len(CLASSES)):
        row = []
        for which in anomaly.FEATURES:
            of = anomaly.calibrate(train[number], model, anomaly.QUALITY, 95.0, which)
            usual = scores(of, test[number])
            others = scores(of, [one for i, several in enumerate(test) if i != number for one in several])
            row += [auroc(usual, others), 100 * float(np.mean(usual > of.threshold))]
        rows.append(row)
    for name, row in zip((*CLASSES, "mean"), (*rows, np.mean(rows, 0)), strict=True):
        cells = (f"{x:.3f} | {y:.1f} %" for x, y in zip(row[::2], row[1::2], strict=True))
        print(f"| {name} | " + " | ".join(cells) + " |")


def embed_part(model: Model, data: Path) -> None:
    rng = np.random.default_rng(2)
    begin = time.process_time()
    train = [features(model, path) for path in photos(data / "train")[4::8]]  # none that the fit saw
    seconds = (time.process_time() - begin) / len(train)
    val = [opened(path) for path in photos(data / "val")]
    own = [features(model, lossless(image)) for image in val]

    def vectors(several: list[np.ndarray], pool: str) -> np.ndarray:
        return np.stack([describe.whitened(one[: describe.dimensions(pool)], pool) for one in several])

    index = {pool: vectors([*own, *train], pool) for pool in describe.POOLS}
    print(f"{len(val)} photos among {len(own) + len(train)}; {1000 * seconds:.0f} ms of CPU a picture of train")
    print("| copy | " + " | ".join(f"recall@1 {pool} | cosine | best other" for pool in describe.POOLS) + " |")
    recalls = []
    for name, change in (LEARNED | UNSEEN).items():
        copies = [features(model, lossless(change(image, rng))) for image in val]
        recalls.append(row(name, {pool: (vectors(copies, pool), index[pool]) for pool in describe.POOLS}))
    print("| mean | " + " | ".join(f"{100 * share:.1f} %" for share in np.mean(recalls, 0)) + " |")
    for quality in (20, 50, 80):
        files = [codec.compress(np.asarray(image), quality, model) for image in val]
        begin = time.process_time()
        decoded = [features(model, file) for file in files]
        seconds = (time.process_time() - begin) / len(files)
        name = f".aec of quality {quality} ({1000 * seconds:.0f} ms of CPU)"
        row(name, {pool: (vectors(decoded, pool), index[pool]) for pool in describe.POOLS})


def row(name: str, by_pool: dict[str, tuple[np.ndarray, np.ndarray]]) -> list[float]:
    """Print recall, mean cosine of pairs and of the best of others; query i belongs to index entry i."""
    cells, recalls = [], []
    for queries, index in by_pool.values():
        cosine = queries @ index.T
        number = np.arange(len(queries))
        pairs = cosine[number, number].copy()
        recalls.append(float(np.mean(cosine.argmax(1) == number)))
        cosine[number, number] = -1
        cells += [f"{100 * recalls[-1]:.0f} %", f"{pairs.mean():.3f}", f"{cosine.max(1).mean():.3f}"]
    print(f"| {name} | " + " | ".join(cells) + " |", flush=True)
    return recalls


def main() -> None:
    torch.set_num_threads(1)
    parts = {"fit": fit, "embed": embed_part, "photos": photos_part, "fashion": fashion_part}
    parts[sys.argv[1]](codec.load_model(), Path(sys.argv[2]))


if __name__ == "__main__":
    main()
