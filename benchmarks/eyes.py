"""Codecs side by side for the eye: one crop of a picture, a row for each rate, a column for each codec.

    python benchmarks/eyes.py PICTURE X,Y,W,H OUT.png [--bpp 0.1 0.2 0.4]

Needs nncodec[bench]. Every file is the largest of its codec at that rate or below; PSNR and MS-SSIM are of the whole
picture.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image
from teaser import rival

from nncodec import codec, metrics, picture, rate

matplotlib.use("Agg")
import matplotlib.pyplot as plt

OURS = {
    "fast": ("fast", None),
    "fast, --tune ms-ssim": ("fast", "ms-ssim"),
    "fast-ssim": ("fast-ssim", None),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("picture", type=Path)
    parser.add_argument("crop", help="X,Y,W,H")
    parser.add_argument("output", type=Path)
    parser.add_argument("--bpp", type=float, nargs="+", default=[0.1, 0.2, 0.4])
    options = parser.parse_args()
    x, y, width, height = map(int, options.crop.split(","))
    original = Image.open(options.picture).convert("RGB")
    pixels = np.asarray(original)
    columns = ["original", "AVIF", *OURS]
    panel = 3.1
    figure, axes = plt.subplots(
        len(options.bpp), len(columns), squeeze=False,
        figsize=(panel * len(columns), (panel * height / width + 0.42) * len(options.bpp)),
    )  # fmt: skip
    for line, bpp in zip(axes, options.bpp, strict=True):
        shown = {"original": original, **at_rate(original, bpp)}
        for axis, name in zip(line, columns, strict=True):
            axis.imshow(shown[name].crop((x, y, x + width, y + height)), interpolation="nearest")
            axis.axis("off")
            label = name
            if name != "original":
                found = metrics.closeness(pixels, np.asarray(shown[name]))
                label = f"{name}\n{bpp:g} bpp  {found.psnr:.1f} dB  MS-SSIM {found.ms_ssim:.3f}"
            axis.set_title(label, fontsize=8.5, loc="left", pad=3)
    figure.tight_layout(pad=0.3)
    figure.savefig(options.output, dpi=100)


def at_rate(original: Image.Image, bpp: float) -> dict[str, Image.Image]:
    """What AVIF and OURS make of a picture in so many bits a pixel."""
    size = int(bpp * original.width * original.height / 8)
    shown = {"AVIF": rival(original, "AVIF", size)[1]}
    for name, (weights, tune) in OURS.items():
        data = rate.to_size(picture.from_pil(original), size, codec.load_model(weights, "cpu"), tune=tune).data
        shown[name] = codec.decompress(data).to_pil()
    return shown


if __name__ == "__main__":
    main()
