"""Add noise to a photo, take it off again, and store it without: PSNR and bytes of each."""

import io
import sys
from pathlib import Path

import numpy as np
from PIL import Image

import nncodec
from nncodec import metrics

SIGMA = 25
path = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).with_name("chelsea.png"))
clean = np.asarray(Image.open(path).convert("RGB"))
noise = np.random.default_rng(0).normal(0, SIGMA, clean.shape)
noisy = np.clip(np.rint(clean + noise), 0, 255).astype(np.uint8)


def report(what: str, pixels: np.ndarray, size: int) -> None:
    print(f"{what:32}  {size:7} B  {metrics.psnr(clean, pixels):5.2f} dB  SSIM {metrics.ssim(clean, pixels):.3f}")


png = io.BytesIO()
Image.fromarray(noisy).save(png, "PNG")
report(f"noisy (sigma {SIGMA}), PNG", noisy, png.tell())

denoised = nncodec.denoise(noisy)
png = io.BytesIO()
denoised.to_pil().save(png, "PNG")
report("denoised, PNG", denoised.color, png.tell())

for what, model in (("noisy, .aec", "fast"), ("--denoise, .aec", "denoise")):
    data = nncodec.compress(noisy, quality=60, model=model)
    report(f"{what}, quality 60", nncodec.decompress(data).color, len(data))
