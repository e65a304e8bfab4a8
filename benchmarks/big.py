"""Time and peak memory of the command line on big pictures: ``python benchmarks/big.py PHOTOS FOLDER 25 100 400``.

Makes a PNG of so many megapixels from the photos, mosaic-wise and shifted so that nothing repeats on a grid,
compresses and decompresses it in processes of their own, and prints a table.
"""

import os
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image

from nncodec.png import PngWriter

BAND = 500


def make(photos: list[Path], side: int, path: Path) -> None:
    pictures = [np.asarray(Image.open(p).convert("RGB")) for p in photos]
    rng = np.random.default_rng(0)
    with path.open("wb") as file:
        writer = PngWriter(file, side, side, 3, 8)
        for _ in range(0, side, BAND):
            row, width = [], 0
            while width < side:
                photo = pictures[rng.integers(len(pictures))]
                down, across = rng.integers(photo.shape[0] - BAND + 1), rng.integers(100)
                row.append(photo[down : down + BAND, across:])
                width += row[-1].shape[1]
            writer.write(np.ascontiguousarray(np.concatenate(row, axis=1)[:, :side]))
        writer.close()


def run(*arguments: str) -> tuple[float, float, int]:
    """Seconds, CPU seconds and peak resident bytes of one command."""
    begin = time.perf_counter()
    child = os.spawnv(os.P_NOWAIT, sys.executable, [sys.executable, "-m", "nncodec", *arguments])
    _, status, usage = os.wait4(child, 0)
    if status:
        raise SystemExit(f"nncodec {' '.join(arguments)} failed")
    return time.perf_counter() - begin, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024


def main() -> None:
    photos, folder, *sizes = sys.argv[1:]
    print("| MP | | s | CPU s | s/MP | peak MB | file MB |\n|---|---|--:|--:|--:|--:|--:|")
    for megapixels in map(int, sizes):
        png, aec, out = (Path(folder, f"big{megapixels}.{suffix}") for suffix in ("png", "aec", "out.png"))
        if not png.exists():
            make(sorted(Path(photos).glob("*.png")), round((megapixels * 1e6) ** 0.5), png)
        for label, target, arguments in (
            ("compress", aec, ["compress", png, "-o", aec]),
            ("decompress", out, ["decompress", aec, "-o", out]),
            ("--preview", out, ["decompress", aec, "-o", out, "--preview"]),
            ("--crop of 1 MP", out, ["decompress", aec, "-o", out, "--crop", "500,500,1000,1000"]),
        ):
            wall, cpu, peak = run(*map(str, arguments), "--force")
            print(f"| {megapixels} | {label} | {wall:.1f} | {cpu:.1f} | {cpu / megapixels:.2f} | {peak / 1e6:.0f} "
                  f"| {target.stat().st_size / 1e6:.1f} |", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
