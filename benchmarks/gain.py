"""What weights gain over others, in real bytes: ``python benchmarks/gain.py PICTURES A.safetensors B.safetensors``.

Compresses every picture of a folder (``--every 4``: each fourth, by name) at eight qualities with each weights file.
Prints a Markdown table of bits + lambda MSE less those of the first weights, in per cent of the first's bits: negative
is better. At equal quality rates and errors both move; the quality's lambda is what the one is worth in the other.
Weights that have moved along their curve, to fewer bits and larger errors, may gain there alone, so the last column is
what counts: BD-rate over all qualities, mean of pictures.
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
from nncodec.weights import Model

QUALITIES = (10, 20, 30, 40, 50, 60, 70, 80)
SHOWN = (20, 40, 60, 80)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", type=Path)
    parser.add_argument("weights", type=Path, nargs="+")
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--effort", type=int, choices=LEVELS, default=DEFAULT)
    options = parser.parse_args()
    torch.set_num_threads(1)
    known = [picture.read(path) for path in find_pictures(options.pictures)[:: options.every]]
    print(
        f"| {len(known)} pictures | {' | '.join(map(str, SHOWN))} | mean | BD-rate |\n|---|{'--:|' * (len(SHOWN) + 2)}"
    )
    shown = [QUALITIES.index(quality) for quality in SHOWN]
    base = None
    for path in options.weights:
        model = weights.load(weights.describe(path))
        bits, errors = measured(model, known, options.effort)
        base = (bits, errors) if base is None else base
        worth = [model.config.lmbda(quality) for quality in QUALITIES]
        gain = (100 * (bits - base[0] + worth * (errors - base[1])) / base[0]).mean(0)[shown]
        rates = [bd.percent for curves in zip(*base, bits, errors, strict=True) if (bd := compared(*curves))]
        columns = [*gain, gain.mean(), np.mean(rates)]
        print(f"| {path} | {' | '.join(f'{c:+.2f}' for c in columns)} |", flush=True)


def measured(model: Model, known: list[Picture], effort: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Bits a pixel and the mean squared error, [pictures, qualities] each."""
    found = []
    for each in known:
        for quality in QUALITIES:
            data = codec.compress(each, quality, model, effort=effort)
            psnr = metrics.psnr(each.color, codec.decompress(data, model=model).color)
            found.append((8 * len(data) / (each.width * each.height), 255.0**2 * 10 ** (-psnr / 10)))
    bits, errors = np.array(found).reshape(len(known), len(QUALITIES), 2).transpose(2, 0, 1)
    return bits, errors


def compared(*curves: NDArray[np.float64]) -> metrics.BdRate | None:
    """BD-rate of one picture: bits and squared errors of the anchor, then of the other, [qualities] each."""
    anchor, test = (
        [metrics.Point(bpp, 10 * np.log10(255.0**2 / mse)) for bpp, mse in zip(bits, errors, strict=True)]
        for bits, errors in (curves[:2], curves[2:])
    )
    return metrics.bd_rate(anchor, test)


if __name__ == "__main__":
    main()
