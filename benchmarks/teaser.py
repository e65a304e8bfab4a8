"""README's first picture: one crop, the original and codecs at the same number of bytes.

Run as ``python benchmarks/teaser.py`` with nncodec[bench] installed; writes docs/images/teaser.png.
"""

from __future__ import annotations

import io
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image

import nncodec

matplotlib.use("Agg")
import matplotlib.pyplot as plt

ROOT = Path(__file__).resolve().parent.parent
CROP = (70, 40, 310, 240)
QUALITY = 30


def rival(picture: Image.Image, kind: str, size: int, **options: object) -> tuple[int, Image.Image]:
    """The largest file of at most `size` bytes that Pillow writes, and what it decodes to."""
    best = None
    for quality in range(1, 96):
        out = io.BytesIO()
        picture.save(out, kind, quality=quality, **options)
        if out.tell() > size:
            break
        best = out
    assert best is not None
    return best.tell(), Image.open(best).convert("RGB")


def main() -> None:
    original = Image.open(ROOT / "examples" / "chelsea.png").convert("RGB")
    data = nncodec.compress(original, QUALITY)
    decoded = nncodec.decompress(data).to_pil()
    panels = [("original", None, original), ("nncodec", len(data), decoded)]
    panels.append(("AVIF", *rival(original, "AVIF", len(data))))
    panels.append(("JPEG", *rival(original, "JPEG", len(data), optimize=True, progressive=True)))
    figure, axes = plt.subplots(1, len(panels), figsize=(12.8, 3.0))
    for axis, (name, size, picture) in zip(axes, panels, strict=True):
        axis.imshow(picture.crop(CROP), interpolation="nearest")
        label = name
        if size is not None:
            error = np.mean((np.asarray(picture, float) - np.asarray(original, float)) ** 2)
            label = f"{name}  {size:,} B  {10 * np.log10(255**2 / error):.1f} dB".replace(",", " ")
        axis.set_title(label, fontsize=11, loc="left")
        axis.axis("off")
    figure.tight_layout(pad=0.4)
    (ROOT / "docs" / "images").mkdir(parents=True, exist_ok=True)
    figure.savefig(ROOT / "docs" / "images" / "teaser.png", dpi=100)


if __name__ == "__main__":
    main()
