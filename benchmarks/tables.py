"""Tables for the model card and docs from a bench run: python benchmarks/tables.py benchmarks/results [CODEC]

Prints the curve of CODEC (nncodec:fast; quality, mean bpp, mean PSNR and MS-SSIM of pictures), its BD-rates against
everything measured or published in the run, and every variant of this project's against effort 0 of `fast`.
"""

from __future__ import annotations

import csv
import json
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np

OURS = sys.argv[2] if len(sys.argv) > 2 else "nncodec:fast"
BASE = "nncodec:fast:e0"
METRICS = (("psnr", "PSNR"), ("ms_ssim", "MS-SSIM"))


def main() -> None:
    folder = Path(sys.argv[1])
    with (folder / "results.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["codec"].startswith("nncodec:")]
    results = json.loads((folder / "results.json").read_text())
    curves: dict[str, dict[float, list[tuple[float, ...]]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        point = tuple(float(row[name]) for name in ("bpp", "psnr", "ms_ssim"))
        curves[row["codec"]][float(row["quality"])].append(point)

    print("| quality | bpp | PSNR | MS-SSIM |\n|--:|--:|--:|--:|")
    for quality, points in sorted(curves[OURS].items()):
        bpp, psnr, ms_ssim = np.mean(points, axis=0)
        print(f"| {quality:.0f} | {bpp:.3f} | {psnr:.2f} | {ms_ssim:.4f} |")

    rates = {(r["test"], r["anchor"], r["metric"]): r["percent"] for r in results["bd_rate"]}
    published = ("vtm18.0", "compressai:vtm", "shallow-ntc")
    measured = {entry["codec"] for entry in results["speed"]}
    anchors = sorted({a for t, a, _ in rates if t == OURS and (a in measured or a.startswith(published))})
    names = {"psnr": "psnr", "ms_ssim": "ms_ssim_db"}
    print("\n| BD-rate against | " + " | ".join(label for _, label in METRICS) + " |\n|---|--:|--:|")
    for anchor in anchors:
        cells = [rates.get((OURS, anchor, names[metric])) for metric, _ in METRICS]
        print(f"| {anchor} | " + " | ".join("-" if c is None else f"{c:+.1f} %" for c in cells) + " |")

    speed = {entry["codec"]: entry for entry in results.get("speed") or []}
    print("\n| codec | PSNR, against effort 0 | MS-SSIM | encode, ms/MP |\n|---|--:|--:|--:|")
    for codec in sorted(curves):
        cells = []
        for metric, _ in METRICS:
            saved = 0.0 if codec == BASE else rates.get((codec, BASE, names[metric]))
            cells.append("-" if saved is None else f"{saved:+.1f} %")
        time = speed.get(codec, {}).get("encode_ms_mp")
        print(f"| {codec} | " + " | ".join([*cells, "-" if time is None else f"{time:.0f}"]) + " |")


if __name__ == "__main__":
    main()
