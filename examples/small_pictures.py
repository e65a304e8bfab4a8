"""Weights of one's own for small grey pictures: trained for some seconds on ellipses, written as IDX, then used."""

import struct
import sys
import tempfile
from pathlib import Path

import numpy as np

import nncodec
from nncodec import weights
from nncodec.train.recipe import PRESETS, Recipe
from nncodec.train.run import run


def ellipses(count: int) -> np.ndarray:
    """u8 [count, 28, 28]: bright on black."""
    rng, at = np.random.default_rng(0), np.arange(28)
    y, x, a, b, level = (rng.uniform(*r, (count, 1, 1)) for r in ((9, 19), (9, 19), (3, 9), (3, 9), (100, 255)))
    inside = ((at[:, None] - y) / a) ** 2 + ((at[None] - x) / b) ** 2 < 1
    return np.where(inside, level, 0).astype(np.uint8)


if __name__ == "__main__":
    pictures = ellipses(2000)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if len(sys.argv) > 1 and Path(sys.argv[1]).is_dir():  # a folder of IDX files or pictures of 28x28
            data = Path(sys.argv[1])
        else:
            data = folder / "ellipses-images-idx3-ubyte"
            data.write_bytes(struct.pack(">HBBIII", 0, 8, 3, *pictures.shape) + pictures.tobytes())
        recipe = Recipe(data=str(data), **PRESETS["28x28"] | {"steps": 100, "fit_pictures": 4, "bfloat16": False})
        out = run(recipe, folder / "run", False, print)
        model = weights.load(weights.describe(out))
    for quality in (10, 50, 100):
        file = nncodec.compress(pictures[0], quality, model)
        decoded = nncodec.decompress(file, model=model).color
        error = np.square(decoded.astype(float) - pictures[0]).mean()
        print(f"quality {quality:3}  {len(file):3} B  mean squared error {error:.0f}")
