"""How closely targets are met: ``python benchmarks/targets.py PICTURES [--effort 1] [--tune psnr]``.

Every picture is compressed to five sizes and five PSNRs. Prints a Markdown table: the worst and the median use of
an allowed size, the largest and the median excess over an asked PSNR, the tries, and how often one was missed.
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path
from unittest import mock

import numpy as np
import torch

from nncodec import codec, picture, rate
from nncodec.config import TUNES
from nncodec.effort import DEFAULT, LEVELS
from nncodec.train.data import find_pictures

RATES = (0.15, 0.3, 0.6, 1.0, 1.5)
"""Bits a pixel of the size targets."""
PSNRS = (28.0, 30.0, 33.0, 36.0, 39.0)
"""dB."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", type=Path)
    parser.add_argument("--effort", type=int, choices=LEVELS, default=DEFAULT)
    parser.add_argument("--tune", choices=TUNES, default=TUNES[0])
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = codec.load_model(device="cpu", tune=options.tune)
    known = [picture.read(path) for path in find_pictures(options.pictures)]
    print("| target | met | worst | median | tries, mean | tries, most |\n|---|--:|--:|--:|--:|--:|")
    real = codec.compress
    for bpp in RATES:
        used, tries = [], []
        for each in known:
            with mock.patch.object(codec, "compress", side_effect=real) as compress:
                limit = int(bpp * each.width * each.height / 8)
                found = rate.to_size(each, limit, model, options.effort, options.tune)
            used.append(len(found.data) / limit)
            tries.append(compress.call_count)
        met = sum(u <= 1 for u in used)
        print(f"| {bpp} bpp | {met} of {len(known)} | {min(used):.2%} | {np.median(used):.2%} | {_tries(tries)} |")
    for psnr in PSNRS:
        over, tries = [], []
        for each in known:
            with mock.patch.object(codec, "compress", side_effect=real) as compress:
                found = rate.to_psnr(each, psnr, model, options.effort, options.tune)
            over.append(rate.measured_psnr(io.BytesIO(found.data), each, model) - psnr)
            tries.append(compress.call_count)
        met = sum(o >= 0 for o in over)
        worst, median = max(over), np.median(over)
        print(f"| {psnr:g} dB | {met} of {len(known)} | +{worst:.3f} dB | +{median:.3f} dB | {_tries(tries)} |")


def _tries(counts: list[int]) -> str:
    return f"{np.mean(counts):.1f} | {max(counts)}"


if __name__ == "__main__":
    main()
