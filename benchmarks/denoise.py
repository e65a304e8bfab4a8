"""Denoising measured: PSNR and SSIM before and after, against non-local means and BM3D, and what files shrink by.

    python benchmarks/denoise.py PICTURES... [--sigma 15 25 50] [--json OUT.json] [--figure OUT.png] [--rivals 24]

White Gaussian noise of each sigma is added to every picture (one seed a picture), rounded and clipped to 8 bits. Needs
scikit-image (non-local means) and, for BM3D, the package bm3d, whose licence allows non-commercial use. Rivals are told
sigma, nncodec is not; they are run on the first --rivals pictures. BM3D takes minutes a picture; --no-bm3d: without.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image
from skimage.restoration import denoise_nl_means

from nncodec import codec, denoising, metrics, weights

matplotlib.use("Agg")
import matplotlib.pyplot as plt

QUALITIES = (30, 50, 70, 90)
SHOWN = (200, 130)
"""Left and top of the crop of the figure, where the picture is large enough; SIDE pixels of it."""
SIDE = 190


def noisy(clean: np.ndarray, sigma: float, seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(0, sigma, clean.shape)
    return np.clip(np.rint(clean + noise), 0, 255).astype(np.uint8)


def levels(x: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(255 * x), 0, 255).astype(np.uint8)


def middle(pixels: np.ndarray, side: int | None) -> np.ndarray:
    if side is None:
        return pixels
    top, left = ((length - side) // 2 for length in pixels.shape[:2])
    return pixels[top : top + side, left : left + side]


def non_local_means(seen: np.ndarray, sigma: float) -> np.ndarray:
    s = sigma / 255
    return levels(denoise_nl_means(seen / 255.0, 5, 6, h=0.8 * s, sigma=s, fast_mode=True, channel_axis=-1))


def bm3d_rgb(seen: np.ndarray, sigma: float) -> np.ndarray:
    import bm3d

    return levels(bm3d.bm3d_rgb(seen / 255.0, sigma / 255))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", type=Path, nargs="+")
    parser.add_argument("--sigma", type=float, nargs="+", default=[15, 25, 50])
    parser.add_argument("--model", default=weights.DENOISE)
    parser.add_argument("--quality", type=int, default=denoising.QUALITY, help="what the networks are told")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--figure", type=Path)
    parser.add_argument("--rivals", type=int, default=24, help="pictures that the rivals are run on")
    parser.add_argument("--files", type=int, default=8, help="pictures that are compressed as well")
    parser.add_argument("--crop", type=int, help="only the middle of each picture, so many pixels a side")
    parser.add_argument("--no-bm3d", action="store_true", help="it takes minutes a picture")
    options = parser.parse_args()
    denoising.QUALITY = options.quality
    model, plain = codec.load_model(options.model), codec.load_model()
    methods = {"noisy": lambda seen, _: seen, "nncodec": lambda seen, _: codec.denoise(seen, model).color}
    rivals = {"non-local means": non_local_means} if options.rivals else {}
    if options.rivals and not options.no_bm3d:
        rivals["BM3D"] = bm3d_rgb
    rows, files, shown = [], [], []
    for number, path in enumerate(options.pictures):
        clean = middle(np.asarray(Image.open(path).convert("RGB")), options.crop)
        for sigma in options.sigma:
            seen = noisy(clean, sigma, number)
            for name, method in (methods | (rivals if number < options.rivals else {})).items():
                begin = time.perf_counter()
                out = method(seen, sigma)
                seconds = time.perf_counter() - begin
                rows.append({
                    "picture": path.name, "sigma": sigma, "method": name, "psnr": metrics.psnr(clean, out),
                    "ssim": metrics.ssim(clean, out), "seconds_per_mp": seconds * 1e6 / clean[..., 0].size,
                })  # fmt: skip
                if number == 0:
                    shown.append((sigma, name, out, rows[-1]))
            for quality in QUALITIES if number < options.files else ():
                for kind, by in (("as it is", plain), ("--denoise", model)):
                    data = codec.compress(seen, quality, by)
                    psnr = metrics.psnr(clean, codec.decompress(data).color)
                    files.append({"picture": path.name, "sigma": sigma, "quality": quality, "kind": kind,
                                  "bpp": metrics.bpp(len(data), *clean.shape[1::-1]), "psnr": psnr})  # fmt: skip
        print(f"{path.name}  " + "  ".join(f"{r['method']} {r['psnr']:.2f}" for r in rows if r["picture"] == path.name))
        if options.json:
            options.json.write_text(json.dumps({"denoised": rows, "files": files}) + "\n")
    print(table(rows, [*methods, *rivals]))
    if files:
        print(file_table(files))
    if options.figure:
        draw(
            middle(np.asarray(Image.open(options.pictures[0]).convert("RGB")), options.crop),
            shown,
            [*methods, *rivals],
            options.figure,
        )


def table(rows: list[dict], methods: list[str]) -> str:
    """Means of each method over the pictures that all of them have seen; the worst gain is over all pictures."""
    both = set.intersection(*({r["picture"] for r in rows if r["method"] == m} for m in methods))
    lines = ["| sigma | pictures | " + " | ".join(methods) + " | least gain of nncodec over noisy |",
             "| --: | --: | " + "--: | " * len(methods) + "--: |"]  # fmt: skip
    for sigma in sorted({r["sigma"] for r in rows}):
        cells = []
        for method in methods:
            of = [r for r in rows if (r["sigma"], r["method"]) == (sigma, method) and r["picture"] in both]
            cells.append(f"{np.mean([r['psnr'] for r in of]):.2f} dB, {np.mean([r['ssim'] for r in of]):.3f}")
        value = {(r["picture"], r["method"]): r["psnr"] for r in rows if r["sigma"] == sigma}
        gain = min(value[name, "nncodec"] - value[name, "noisy"] for name, m in value if m == "noisy")
        lines.append(f"| {sigma:g} | {len(both)} | " + " | ".join(cells) + f" | {gain:+.2f} dB |")
    speed = [f"{np.median([r['seconds_per_mp'] for r in rows if r['method'] == m]):.1f}" for m in methods]
    lines.append("| s/megapixel | | " + " | ".join(speed) + " | |")
    return "\n".join(lines)


def file_table(files: list[dict]) -> str:
    lines = ["| sigma | quality | as it is | --denoise |", "| --: | --: | --: | --: |"]
    for sigma in sorted({r["sigma"] for r in files}):
        for quality in QUALITIES:
            cells = []
            for kind in ("as it is", "--denoise"):
                of = [r for r in files if (r["sigma"], r["quality"], r["kind"]) == (sigma, quality, kind)]
                cells.append(f"{np.mean([r['bpp'] for r in of]):.3f} bpp, {np.mean([r['psnr'] for r in of]):.2f} dB")
            lines.append(f"| {sigma:g} | {quality} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def draw(clean: np.ndarray, shown: list, methods: list[str], path: Path) -> None:
    """A row for each sigma: the clean crop and what each method makes of the noisy one."""
    left, top = (min(at, side - SIDE) for at, side in zip(SHOWN, clean.shape[1::-1], strict=True))
    sigmas = sorted({sigma for sigma, *_ in shown})
    columns = ["clean", *methods]
    figure, axes = plt.subplots(len(sigmas), len(columns), squeeze=False,
                                figsize=(2.5 * len(columns), 2.75 * len(sigmas)))  # fmt: skip
    for line, sigma in zip(axes, sigmas, strict=True):
        found = {name: (out, row) for s, name, out, row in shown if s == sigma}
        for axis, name in zip(line, columns, strict=True):
            out, row = found.get(name, (clean, None))
            axis.imshow(out[top : top + SIDE, left : left + SIDE], interpolation="nearest")
            axis.axis("off")
            label = f"{name}\n{row['psnr']:.2f} dB  SSIM {row['ssim']:.3f}" if row else f"clean\nsigma {sigma:g}"
            axis.set_title(label, fontsize=8.5, loc="left", pad=3)
    figure.subplots_adjust(0.005, 0.005, 0.995, 0.94, 0.02, 0.16)
    figure.savefig(path, dpi=95)
    Image.open(path).convert("RGB").quantize(256).save(path, optimize=True)  # a fifth of the bytes


if __name__ == "__main__":
    main()
