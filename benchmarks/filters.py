"""What fitting filters for MS-SSIM saves: ``python benchmarks/filters.py PICTURES [--weights FILE] [--every 8]``.

Compresses every picture of a folder at six qualities, tuned for MS-SSIM, with filters fitted to the squared error and
to MS-SSIM. Prints a Markdown table of BD-rates of the second against the first, by MS-SSIM and by PSNR.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from nncodec import codec, metrics, picture, postfilter, structural
from nncodec.config import MS_SSIM
from nncodec.metrics import Point
from nncodec.picture import Picture
from nncodec.train.data import find_pictures
from nncodec.weights import Model

QUALITIES = (5, 20, 35, 50, 65, 80)
FITTED = {"squared error": postfilter.equations, "MS-SSIM": structural.equations}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", type=Path)
    parser.add_argument("--weights", default="fast-ssim")
    parser.add_argument("--every", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = codec.load_model(options.weights)
    print("| picture | by MS-SSIM | by PSNR |\n|---|--:|--:|")
    found = []
    for path in find_pictures(options.pictures)[:: options.every]:
        (plain_similarity, plain_psnr), (similarity, psnr) = (
            curves(model, picture.read(path), equations) for equations in FITTED.values()
        )
        rates = metrics.bd_rate(plain_similarity, similarity), metrics.bd_rate(plain_psnr, psnr)
        if all(rates):
            found.append([rate.percent for rate in rates if rate])
            print(f"| {path.name} | {found[-1][0]:+.2f} % | {found[-1][1]:+.2f} % |", flush=True)
    print("| mean | {:+.2f} % | {:+.2f} % |".format(*np.mean(found, 0)))


def curves(model: Model, shown: Picture, equations: object) -> tuple[list[Point], list[Point]]:
    """Points by MS-SSIM, in dB, and by PSNR."""
    structural.equations = equations
    by_similarity, by_psnr = [], []
    for quality in QUALITIES:
        data = codec.compress(shown, quality, model, tune=MS_SSIM)
        close = metrics.closeness(shown.color, codec.decompress(data, model=model).color)
        rate = metrics.bpp(len(data), shown.width, shown.height)
        by_similarity.append(Point(rate, metrics.similarity_db(close.ms_ssim)))
        by_psnr.append(Point(rate, close.psnr))
    return by_similarity, by_psnr


if __name__ == "__main__":
    main()
