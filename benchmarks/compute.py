"""BD-rate of `fast` against the compute spent on it: docs/compute.csv -> docs/images/compute.png.

    python benchmarks/compute.py

Needs nncodec[bench]. The points are measured on 24 Kodak pictures, real bytes, effort 1 unless the row says otherwise.
"""

from __future__ import annotations

import csv
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

DOCS = Path(__file__).resolve().parent.parent / "docs"
TARGET = 20.0


def main() -> None:
    with (DOCS / "compute.csv").open() as file:
        rows = list(csv.DictReader(file))
    figure, axis = plt.subplots(figsize=(7.2, 3.6))
    for signs, mark in (("coded", "o-"), ("hidden", "s-"), ("hidden, filters", "^-")):
        points = [(float(r["crops"]) / 1000, float(r["vtm18"]), r["label"]) for r in rows if r["signs"] == signs]
        axis.plot([p[0] for p in points], [p[1] for p in points], mark, label=f"signs {signs}")
        last = 0.0
        for crops, gap, label in points:  # beside a point to the left a label goes below
            below = crops < 1.2 * last
            last = 0.0 if below else crops
            place = (-30, -18) if below else (6, 5)
            axis.annotate(label, (crops, gap), xytext=place, textcoords="offset points", fontsize=8)
    axis.axhline(TARGET, color="0.5", linestyle="--", linewidth=1)
    axis.annotate("target", (27, TARGET), xytext=(0, 4), textcoords="offset points", fontsize=8)
    axis.set_xscale("log")
    axis.set_xticks([30, 50, 100, 200, 400], ["30", "50", "100", "200", "400"])
    axis.minorticks_off()
    axis.set_xlim(right=750)
    axis.set_xlabel("thousand crops of 256x256 seen")
    axis.set_ylabel("bits over VTM 18 at equal PSNR, %")
    axis.set_ylim(0, 80)
    axis.legend(frameon=False)
    axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(DOCS / "images" / "compute.png", dpi=110)


if __name__ == "__main__":
    main()
