"""The target of the shipped weights, from stored results: BD-rate against VTM 18 between two PSNRs, lead over AVIF.

    python benchmarks/target.py [RESULTS] [--low 30] [--high 37]

Needs nncodec[bench]. Akima interpolation of log-rate over PSNR, as `nncodec.metrics.bd_rate` takes it over the whole
range that curves share; the integral alone is limited.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.interpolate import Akima1DInterpolator

from nncodec import metrics
from nncodec.bench import rows, summary
from nncodec.metrics import Point

VTM, AVIF = "vtm18.0", "avif-444"
RATES = (0.15, 0.25, 0.4, 0.6, 0.9, 1.2, 1.5)


def between(anchor: Sequence[Point], test: Sequence[Point], low: float, high: float) -> float:
    """BD-rate in percent over `low`..`high` dB; not a number where a curve does not reach them."""
    area = []
    for points in (anchor, test):
        rate, quality = zip(*metrics.increasing(points), strict=True)
        area.append(Akima1DInterpolator(quality, np.log(rate)).integrate(low, high))
    return 100.0 * math.expm1((area[1] - area[0]) / (high - low))


def at(points: Sequence[Point], bpp: float) -> float:
    """PSNR at a rate."""
    rate, quality = zip(*metrics.increasing(points), strict=True)
    return float(Akima1DInterpolator(np.log(rate), quality)(math.log(bpp)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, nargs="?", default=Path(__file__).resolve().parent / "results")
    parser.add_argument("--low", type=float, default=30.0)
    parser.add_argument("--high", type=float, default=37.0)
    arguments = parser.parse_args()
    curves = {curve.name: curve for curve in summary.measured(rows.read(arguments.results / "results.csv"))}
    vtm = next(c for c in summary.published(arguments.results / "reference.csv") if c.name == VTM)
    print(f"BD-rate against VTM 18 over {arguments.low:g} to {arguments.high:g} dB, and over all that is shared")
    for curve in curves.values():
        whole = metrics.bd_rate(vtm.psnr, curve.psnr)
        part = between(vtm.psnr, curve.psnr, arguments.low, arguments.high)
        print(f"{curve.label:36} {part:+7.1f} % {whole.percent if whole else math.nan:+7.1f} %")
    avif = curves[AVIF]
    print(f"dB of PSNR ahead of {avif.label} at", *(f"{bpp:g}" for bpp in RATES), "bpp")
    for curve in curves.values():
        if curve.name.startswith("nncodec:"):
            print(f"{curve.label:36}", *(f"{at(curve.psnr, bpp) - at(avif.psnr, bpp):+.2f}" for bpp in RATES))


if __name__ == "__main__":
    main()
