"""Where files of ours are worst: of each picture the crop that loses most against AVIF at the same number of bytes.

    python benchmarks/failures.py [PICTURES...] [--model fast] [--bpp 0.3] [-o docs/images/failures.png]

Default pictures: those of scikit-image that may be shown (astronaut, chelsea, coffee, rocket). Needs nncodec[bench].
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib
import numpy as np
import skimage.data
from numpy.typing import NDArray
from PIL import Image
from teaser import rival

from nncodec import codec, rate

matplotlib.use("Agg")
import matplotlib.pyplot as plt

SIDE = 96
SHOWN = ("astronaut", "chelsea", "coffee", "rocket")


def worst(ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> tuple[int, int]:
    """Top and left of the crop in which our squared error [H, W] exceeds theirs most, on a grid of half crops."""
    more = ours - theirs
    places = [
        (top, left)
        for top in range(0, more.shape[0] - SIDE + 1, SIDE // 2)
        for left in range(0, more.shape[1] - SIDE + 1, SIDE // 2)
    ]
    return max(places, key=lambda at: float(more[at[0] : at[0] + SIDE, at[1] : at[1] + SIDE].mean()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", nargs="*", type=Path)
    parser.add_argument("--model", default="fast")
    parser.add_argument("--bpp", type=float, default=0.3)
    parser.add_argument("-o", "--output", type=Path, default=Path("docs/images/failures.png"))
    options = parser.parse_args()
    named = [(path.stem, np.asarray(Image.open(path).convert("RGB"))) for path in options.pictures]
    named = named or [(name, getattr(skimage.data, name)()) for name in SHOWN]
    figure, axes = plt.subplots(len(named), 3, figsize=(7.4, 2.55 * len(named)), squeeze=False)
    for row, (name, picture) in zip(axes, named, strict=True):
        pixels = picture.shape[0] * picture.shape[1]
        data = rate.to_size(
            codec.as_picture(picture), int(options.bpp * pixels / 8), codec.load_model(options.model)
        ).data
        ours = codec.decompress(data).color
        size, image = rival(Image.fromarray(picture), "AVIF", len(data))
        theirs = np.asarray(image)
        errors = [np.square(shown.astype(float) - picture).mean(2) for shown in (ours, theirs)]
        top, left = worst(*errors)
        where = np.s_[top : top + SIDE, left : left + SIDE]
        print(f"{name}: {len(data)} and {size} bytes, worst crop at {left},{top}")
        panels = [(f"{name}, {8 * len(data) / pixels:.2f} bpp", picture, None)]
        panels += [(options.model, ours, errors[0]), ("AVIF 4:2:0", theirs, errors[1])]
        for axis, (label, shown, error) in zip(row, panels, strict=True):
            psnr = "" if error is None else f"  {10 * np.log10(255**2 / error[where].mean()):.1f} dB here"
            axis.imshow(shown[where], interpolation="nearest")
            axis.set_title(label + psnr, fontsize=9, loc="left")
            axis.axis("off")
    figure.tight_layout(pad=0.4)
    figure.savefig(options.output, dpi=110)


if __name__ == "__main__":
    main()
