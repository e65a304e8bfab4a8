"""Training pictures: decoded once into one uint8 file, then cropped at random.

Knows folders and pixels; nothing of networks or losses.
"""

from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from nncodec.errors import InputError

SUFFIXES = frozenset({".avif", ".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})


def find_pictures(folder: Path) -> list[Path]:
    """Every picture below `folder`, sorted. Raises InputError when there is none."""
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
    if not paths:
        raise InputError(f"{folder}: no pictures ({', '.join(sorted(SUFFIXES))}); name a folder that has some")
    return paths


@dataclass(frozen=True)
class PictureStore:
    """Decoded RGB pictures in one flat uint8 array; `shapes` are (height, width)."""

    pixels: NDArray[np.uint8]
    offsets: tuple[int, ...]
    shapes: tuple[tuple[int, int], ...]

    def __len__(self) -> int:
        return len(self.shapes)

    def picture(self, index: int) -> NDArray[np.uint8]:
        """One picture [H, W, 3]."""
        height, width = self.shapes[index]
        start = self.offsets[index]
        return self.pixels[start : start + height * width * 3].reshape(height, width, 3)


def load_pictures(folder: Path, cache: Path, min_side: int) -> PictureStore:
    """Decode every picture of `folder` into `cache` (once) and map it into memory.

    Pictures that cannot be read or are smaller than `min_side` are skipped and counted on stderr.
    """
    paths = find_pictures(folder)
    listing = [(str(p.relative_to(folder)), p.stat().st_size, p.stat().st_mtime_ns) for p in paths]
    key = hashlib.sha256(json.dumps([listing, min_side]).encode()).hexdigest()[:16]
    data, index = cache / f"{key}.u8", cache / f"{key}.json"
    if not index.exists():
        cache.mkdir(parents=True, exist_ok=True)
        shapes, skipped = [], 0
        partial = data.with_suffix(".partial")
        with partial.open("wb") as out:
            for path in tqdm(paths, desc="decode", file=sys.stderr, mininterval=2):
                try:
                    with Image.open(path) as image:
                        array = np.asarray(image.convert("RGB"))
                except (OSError, ValueError, Image.DecompressionBombError):
                    skipped += 1
                    continue
                if min(array.shape[:2]) < min_side:
                    skipped += 1
                    continue
                shapes.append(array.shape[:2])
                out.write(array.tobytes())
        if skipped:
            print(f"{folder}: skipped {skipped} of {len(paths)} pictures (unreadable or small)", file=sys.stderr)
        partial.replace(data)
        index.write_text(json.dumps(shapes))
    shapes_read: list[Any] = json.loads(index.read_text())
    shapes_all = tuple((int(h), int(w)) for h, w in shapes_read)
    if not shapes_all:
        raise InputError(f"{folder}: no picture is readable and at least {min_side} pixels on each side")
    sizes = [h * w * 3 for h, w in shapes_all]
    offsets = tuple(int(v) for v in np.cumsum([0, *sizes[:-1]]))
    return PictureStore(np.memmap(data, np.uint8, "r"), offsets, shapes_all)


class CropSampler:
    """Random crops with flips and quarter turns; a share of them area-downscaled by 1 to 2."""

    def __init__(self, store: PictureStore, rng: np.random.Generator, downscaled: float = 0.3) -> None:
        self.store = store
        self.rng = rng
        self.downscaled = downscaled
        areas = np.array([h * w for h, w in store.shapes], dtype=np.float64)
        self._cumulative = np.cumsum(areas / areas.sum())

    def batch(self, count: int, size: int) -> NDArray[np.uint8]:
        """`count` crops [count, size, size, 3]."""
        out = np.empty((count, size, size, 3), np.uint8)
        for i in range(count):
            out[i] = self._crop(size)
        return out

    def _crop(self, size: int) -> NDArray[np.uint8]:
        rng = self.rng
        index = min(int(np.searchsorted(self._cumulative, rng.random())), len(self.store) - 1)
        picture = self.store.picture(index)
        height, width = picture.shape[:2]
        source = size
        if rng.random() < self.downscaled:
            source = min(int(size * rng.uniform(1.0, 2.0)), height, width)
        source = max(source, min(size, height, width))
        top = int(rng.integers(0, height - source + 1))
        left = int(rng.integers(0, width - source + 1))
        crop = np.ascontiguousarray(picture[top : top + source, left : left + source])
        if source != size:
            crop = np.asarray(Image.fromarray(crop).resize((size, size), Image.Resampling.BOX))
        crop = np.rot90(crop, int(rng.integers(0, 4)))
        return crop[:, ::-1] if rng.random() < 0.5 else crop
