"""Bytes and PSNR of one picture over the whole quality range."""

import sys
from pathlib import Path

import numpy as np

import nncodec

path = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).with_name("coffee.png"))
picture = nncodec.read(path)

print("quality   bytes     bpp    PSNR")
for quality in (1, 10, 25, 40, 55, 70, 85, 100):
    data = nncodec.compress(picture, quality)
    decoded = nncodec.decompress(data)
    error = np.mean((decoded.color.astype(float) - picture.color) ** 2)
    bpp = 8 * len(data) / (picture.width * picture.height)
    print(f"{quality:7} {len(data):7} {bpp:7.3f} {10 * np.log10(255**2 / error):7.2f}")
