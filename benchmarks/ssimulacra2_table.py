"""SSIMULACRA2 at equal size, a judge that nothing here was trained for: mean over pictures of each codec at each rate.

    python benchmarks/ssimulacra2_table.py PICTURES... [--bpp 0.2 0.5]

Needs nncodec[bench] and the package ssimulacra2. Every file is the largest of its codec at that rate or below.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
from eyes import at_rate
from PIL import Image
from ssimulacra2 import compute_ssimulacra2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", type=Path, nargs="+")
    parser.add_argument("--bpp", type=float, nargs="+", default=[0.2, 0.5])
    options = parser.parse_args()
    for line, bpp in enumerate(options.bpp):
        scores = [judged(path, bpp) for path in options.pictures]
        if line == 0:
            print(f"| bpp | {' | '.join(scores[0])} |\n|---|{'--:|' * len(scores[0])}")
        means = (np.mean([score[name] for score in scores]) for name in scores[0])
        print(f"| {bpp:g} | {' | '.join(f'{mean:.1f}' for mean in means)} |", flush=True)


def judged(path: Path, bpp: float) -> dict[str, float]:
    """Score of each codec on one picture."""
    with tempfile.TemporaryDirectory() as folder:
        original, decoded = Path(folder) / "original.png", Path(folder) / "decoded.png"
        picture = Image.open(path).convert("RGB")
        picture.save(original)
        found = {}
        for name, shown in at_rate(picture, bpp).items():
            shown.save(decoded)
            found[name] = float(compute_ssimulacra2(str(original), str(decoded)))
    return found


if __name__ == "__main__":
    main()
