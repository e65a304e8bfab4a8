"""Compress a picture, decompress it, say what that cost."""

import sys
import time
from pathlib import Path

import numpy as np

import nncodec

path = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).with_name("coffee.png"))
original = nncodec.read(path)

begin = time.perf_counter()
data = nncodec.compress(original, quality=50)
middle = time.perf_counter()
decoded = nncodec.decompress(data)
end = time.perf_counter()

error = np.mean((decoded.color.astype(float) - original.color) ** 2)
pixels = original.width * original.height
print(f"{path.name}: {original.width}x{original.height}, {path.stat().st_size} bytes as it was")
print(f"{len(data)} bytes, {8 * len(data) / pixels:.3f} bpp, PSNR {10 * np.log10(255**2 / error):.2f} dB")
print(f"encoded in {1000 * (middle - begin):.0f} ms, loading the weights included")
print(f"decoded in {1000 * (end - middle):.0f} ms")
