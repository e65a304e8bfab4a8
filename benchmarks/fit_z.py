"""Guesses of z from its neighbors for weights that have none: ``python benchmarks/fit_z.py PICTURES FROM OUT``.

Least squares over what h_a makes of PICTURES at the qualities of all knots, then for each the scale indices that cost
least. Training goes on from there (`scale.z_around`). Prints bits of z a position before and after, of pictures that
were left out of the fit (one in four).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from tqdm import tqdm

from nncodec import around, encoding, weights
from nncodec.config import QUALITIES
from nncodec.effort import prices
from nncodec.nets.scales import INDEX_UNIT
from nncodec.tiling import Rect
from nncodec.train import export
from nncodec.train.data import load_pictures
from nncodec.weights import Model

Hyper = list[NDArray[np.int32]]
"""z_hat [Cz, h, w] of some pictures."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", type=Path)
    parser.add_argument("source", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--count", type=int, default=48, help="pictures that are looked at")
    options = parser.parse_args()
    model = weights.load(weights.describe(options.source))
    knots = model.config.knots
    qualities = [round(1 + k * (QUALITIES - 1) / (knots - 1)) for k in range(knots)]
    seen = _hyper(model, options.pictures, options.count, qualities)
    net, tables = export.trainable(options.source)
    price = prices(tables).numpy()
    fitted = [[z for i, z in enumerate(at) if i % 4] for at in seen]
    rest = [at[::4] for at in seen]
    guess = _least_squares([z for at in fitted for z in at])
    for k, quality in enumerate(qualities):
        index = model.entropy.scale_net.z_index[quality - 1].numpy().astype(np.int64)
        before = sum(_bits(price, model.entropy.z_coded(z))[np.arange(len(index)), index].sum() for z in rest[k])
        cost = sum(_bits(price, around.coded(z, guess)) for z in fitted[k])
        best = np.where(index > 0, 1 + cost[:, 1:64].argmin(1), 0)
        after = sum(_bits(price, around.coded(z, guess))[np.arange(len(best)), best].sum() for z in rest[k])
        positions = sum(z[0].size for z in rest[k])
        print(f"quality {quality}: {before / positions:.2f} -> {after / positions:.2f} bits a position of z")
        with torch.no_grad():
            net.scale_net.z_index.rows[k] = torch.from_numpy(best).float() / INDEX_UNIT
    with torch.no_grad():
        net.scale_net.z_around.copy_(torch.from_numpy(guess / 2**around.FRACTION_BITS).view(-1, 1, 4))
    with safe_open(options.source, "pt") as file:
        facts = file.metadata()
    export.write(net, model.name, tables, options.out, facts)


def _hyper(model: Model, pictures: Path, count: int, qualities: Sequence[int]) -> list[Hyper]:
    with TemporaryDirectory() as cache:
        store = load_pictures(pictures, Path(cache), 256)
        out: list[Hyper] = [[] for _ in qualities]
        for i in tqdm(range(count)):
            color = store.picture(i * len(store) // count)
            color = color[: color.shape[0] // 64 * 64, : color.shape[1] // 64 * 64]
            for k, quality in enumerate(qualities):
                y = encoding.analyze(model, color, Rect(0, 0, *color.shape[:2]), quality)
                out[k].append(encoding.Chooser(model, quality).hyper(y)[0])
    return out


def _least_squares(hyper: Hyper) -> NDArray[np.int32]:
    """Weights int32 [Cz, 4]."""
    channels = len(hyper[0])
    a, b = np.zeros((channels, 4, 4)), np.zeros((channels, 4))
    for z in hyper:
        wide = np.pad(z, ((0, 0), (1, 0), (1, 1))).astype(np.float64)
        flat = np.stack(around.neighbors(wide), -1).reshape(channels, -1, 4)
        a += flat.transpose(0, 2, 1) @ flat
        b += (flat.transpose(0, 2, 1) @ z.reshape(channels, -1, 1))[..., 0]
    return np.rint(np.linalg.solve(a + np.eye(4), b[..., None])[..., 0] * 2**around.FRACTION_BITS).astype(np.int32)


def _bits(price: NDArray[np.float32], values: NDArray[np.int32]) -> NDArray[np.float64]:
    """Of each channel [Cz, h, w] under each row of tables: [Cz, ROWS]."""
    magnitude = np.minimum(np.abs(values), price.shape[1] - 1).reshape(len(values), -1)
    return np.stack([price[:, each].sum(1, dtype=np.float64) for each in magnitude])


if __name__ == "__main__":
    main()
