"""What weights gain over others, in real bytes: ``python benchmarks/gain.py PICTURES A.safetensors B.safetensors``.

Compresses every picture of a folder (``--every 4``: each fourth, by name) at four qualities with each weights file.
Prints a Markdown table of bits + lambda MSE less those of the first weights, in per cent of the first's bits: negative
is better. At equal quality rates and errors both move; the quality's lambda is what the one is worth in the other.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from nncodec import codec, metrics, picture, weights
from nncodec.effort import DEFAULT, LEVELS
from nncodec.picture import Picture
from nncodec.train.data import find_pictures

QUALITIES = (20, 40, 60, 80)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", type=Path)
    parser.add_argument("weights", type=Path, nargs="+")
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--effort", type=int, choices=LEVELS, default=DEFAULT)
    options = parser.parse_args()
    torch.set_num_threads(1)
    known = [picture.read(path) for path in find_pictures(options.pictures)[:: options.every]]
    print(f"| {len(known)} pictures | {' | '.join(map(str, QUALITIES))} | mean |\n|---|{'--:|' * (len(QUALITIES) + 1)}")
    base = None
    for path in options.weights:
        bits, errors = measured(path, known, options.effort)
        base = (bits, errors) if base is None else base
        gain = 100 * ((bits - base[0] + errors - base[1]) / base[0]).mean(0)
        print(f"| {path} | {' | '.join(f'{g:+.2f}' for g in gain)} | {gain.mean():+.2f} |", flush=True)


def measured(path: Path, known: list[Picture], effort: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Bits a pixel and lambda times the mean squared error, [pictures, qualities] each."""
    model = weights.load(weights.describe(path))
    found = []
    for each in known:
        for quality in QUALITIES:
            data = codec.compress(each, quality, model, effort=effort)
            mse = 255.0**2 * 10 ** (-metrics.psnr(each.color, codec.decompress(data, model=model).color) / 10)
            found.append((8 * len(data) / (each.width * each.height), model.config.lmbda(quality) * mse))
    bits, errors = np.array(found).reshape(len(known), len(QUALITIES), 2).transpose(2, 0, 1)
    return bits, errors


if __name__ == "__main__":
    main()
