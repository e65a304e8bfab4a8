"""Train a small model of another arch on the example photos for some seconds, then compress one of them with it."""

import sys
import tempfile
from pathlib import Path

import torch

from nncodec import codec, metrics, read, weights
from nncodec.train.recipe import Recipe
from nncodec.train.run import run

ARCH = "baseline"  # or pooling, enhanced, variational; nncodec train --arch has the same
path = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).with_name("coffee.png"))
recipe = Recipe(
    data=str(Path(__file__).parent),
    arch=ARCH,
    size="tiny",  # "fast", and hours instead of seconds, for pictures worth looking at
    steps=80,
    optimizer="adamw",
    learning_rate=5e-3,
    decoder_share=0.0,
    batch=4,
    crop=64,
    late_crop=64,
    fit_pictures=0,
    bfloat16=False,
)
torch.set_num_threads(1)

with tempfile.TemporaryDirectory() as folder:
    out = run(recipe, Path(folder), resume=False, report=print)
    model = weights.load(weights.describe(out))

picture = read(path)
for quality in (20, 80):
    data = codec.compress(picture, quality, model)
    decoded = codec.decompress(data, model=model)
    bpp = metrics.bpp(len(data), picture.width, picture.height)
    print(f"{ARCH}, quality {quality}: {bpp:.2f} bpp, {metrics.psnr(picture.color, decoded.color):.1f} dB")
