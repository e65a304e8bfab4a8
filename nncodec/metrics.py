"""How close two pictures are and what a curve saves: PSNR, SSIM, MS-SSIM, bits per pixel, BD-rate.

Knows arrays of u8 pixels and pairs of numbers; knows no files and no codecs.

One number a picture pair, over RGB as it stands (no luma weighting), data range 255. `ssim` equals
scikit-image's with ``gaussian_weights=True, sigma=1.5, use_sample_covariance=False``; `ms_ssim` equals
pytorch-msssim, which the published learned codecs are measured with. Both are written out here because
the two share their costliest part, and a Kodak run asks for them some thousand times.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from nncodec.errors import InputError

Pixels: TypeAlias = NDArray[np.uint8]
"""u8 [H,W] or [H,W,3]."""

WINDOW = 11
"""Side of the Gaussian window of SSIM, in pixels (Wang et al. 2004, section III-C)."""
SIGMA = 1.5
"""Standard deviation of that window, in pixels."""
C1, C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
LEVEL_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""Exponents of MS-SSIM's five levels (Wang, Simoncelli, Bovik 2003, section 3.2)."""
MS_SSIM_SIDE_MIN = 161
"""Pixels a side below which level 5 holds no whole window: (WINDOW - 1) * 2**4 + 1."""


class Closeness(NamedTuple):
    """`psnr` in dB (inf where equal); `ssim` and `ms_ssim` at most 1, nan where the picture is too small."""

    psnr: float
    ssim: float
    ms_ssim: float


class Point(NamedTuple):
    """One point of a rate-distortion curve; `quality` in dB."""

    bpp: float
    quality: float


class BdRate(NamedTuple):
    """Bits at equal quality: `percent` below 0 saves bits; taken over `low`..`high` dB."""

    percent: float
    low: float
    high: float


def bpp(n_bytes: int, width: int, height: int) -> float:
    """Bits of the whole file per pixel."""
    return 8 * n_bytes / (width * height)


def psnr(a: Pixels, b: Pixels) -> float:
    """Peak signal-to-noise ratio over all samples, in dB; inf for equal pictures.

    Raises
    ------
    InputError
        The shapes differ or are not [H,W] or [H,W,3].
    """
    _check(a, b)
    difference = a.astype(np.int32) - b
    mse = float(np.mean(np.square(difference)))
    return math.inf if mse == 0 else 10 * math.log10(255**2 / mse)


def ssim(a: Pixels, b: Pixels) -> float:
    """Structural similarity (Wang et al. 2004), mean over channels; nan below 11 pixels a side."""
    _check(a, b)
    if min(a.shape[:2]) < WINDOW:
        return math.nan
    similarity, _ = _level(_planes(a), _planes(b))
    return float(similarity.mean())


def similarities(x: Tensor, y: Tensor) -> Tensor:
    """SSIM of each pair of small pictures of two batches f32 [B,C,H,W], 0..255, unrounded, with a gradient: [B]."""
    rows, columns = (_band(side, x) for side in x.shape[2:])
    moments = (rows @ plane @ columns.T for plane in (x, y, x * x, y * y, x * y))
    luminance, contrast = _terms(*moments)
    return (luminance * contrast).mean((1, 2, 3))


def _band(side: int, like: Tensor) -> Tensor:
    """SSIM's window as a matrix [side-10,side]: on few pixels several times as fast as a convolution."""
    window = _window(like)
    band = window.new_zeros(side - WINDOW + 1, side)
    for at in range(len(band)):
        band[at, at : at + WINDOW] = window
    return band


def ms_ssim(a: Pixels, b: Pixels) -> float:
    """Multi-scale structural similarity (Wang et al. 2003), mean over channels; nan below 161 pixels a side."""
    return closeness(a, b).ms_ssim


def closeness(a: Pixels, b: Pixels) -> Closeness:
    """All three at once, at the cost of `ms_ssim`; raises as `psnr` does."""
    _check(a, b)
    if min(a.shape[:2]) < MS_SSIM_SIDE_MIN:
        return Closeness(psnr(a, b), ssim(a, b), math.nan)
    x, y = _planes(a), _planes(b)
    product = torch.ones(x.shape[1])  # [C]
    first = math.nan
    for level, weight in enumerate(LEVEL_WEIGHTS):
        if level:
            x, y = _halved(x), _halved(y)
        similarity, contrast = _level(x, y)
        if level == 0:
            first = float(similarity.mean())
        last = level == len(LEVEL_WEIGHTS) - 1
        # A negative contrast has no real power; it counts as none in common, as in pytorch-msssim.
        product = product * torch.relu(similarity if last else contrast) ** weight
    return Closeness(psnr(a, b), first, float(product.mean()))


def similarity_db(value: float) -> float:
    """SSIM or MS-SSIM on a scale that spreads the top: ``-10 log10(1 - value)``, in dB; inf at 1."""
    return math.inf if value >= 1 else -10 * math.log10(1 - value)


def increasing(points: Sequence[Point], step: float = 0.02) -> list[Point]:
    """`points` by rate without those that gain less than `step` dB: interpolation wants a function."""
    kept: list[Point] = []
    for point in sorted(points):
        if not kept or (point.quality >= kept[-1].quality + step and point.bpp > kept[-1].bpp):
            kept.append(point)
    return kept


def bd_rate(anchor: Sequence[Point], test: Sequence[Point], overlap: float = 1.0) -> BdRate | None:
    """Bjontegaard's mean difference of log-rate at equal quality over the whole range both curves cover.

    Akima interpolation by the package ``bjontegaard`` (Herglotz et al. 2022), which deviates least from
    densely measured curves.

    Returns
    -------
    BdRate or None
        None where a curve has fewer than four usable points or both share less than `overlap` dB.
    """
    a, t = increasing(anchor), increasing(test)
    if min(len(a), len(t)) < 4:
        return None
    low, high = max(a[0].quality, t[0].quality), min(a[-1].quality, t[-1].quality)
    if high - low < overlap:
        return None
    import bjontegaard  # pulls in matplotlib and scipy

    percent = bjontegaard.bd_rate(
        *zip(*a, strict=True),
        *zip(*t, strict=True),
        method="akima",
        require_matching_points=False,
        min_overlap=0,
    )
    return BdRate(float(percent), low, high)


def _check(a: Pixels, b: Pixels) -> None:
    for x in (a, b):
        if x.dtype != np.uint8 or x.ndim not in (2, 3) or (x.ndim == 3 and x.shape[2] != 3) or not x.size:
            raise InputError(f"an array is {x.dtype} {list(x.shape)}; metrics take uint8 [H,W] or [H,W,3]")
    if a.shape != b.shape:
        raise InputError(f"the pictures are {list(a.shape)} and {list(b.shape)}; give two of one size and mode")


def _planes(pixels: Pixels) -> Tensor:
    """f32 [1,C,H,W], 0..255."""
    planes = np.ascontiguousarray(pixels if pixels.ndim == 2 else pixels.transpose(2, 0, 1))
    return torch.from_numpy(planes.reshape(1, -1, *pixels.shape[:2]).astype(np.float32))


def blurred(planes: Tensor) -> Tensor:
    """SSIM's Gaussian window over [B,N,H,W], separably and without padding: [B,N,H-10,W-10]."""
    window = _window(planes)
    n = planes.shape[1]
    column = window.view(1, 1, -1, 1).expand(n, 1, -1, 1)
    # Depthwise over one batch entry: 15 times as fast on a CPU as one channel and N entries.
    return F.conv2d(F.conv2d(planes, column, groups=n), column.transpose(2, 3), groups=n)


def spread_out(weights: Tensor) -> Tensor:
    """What each sample [B,N,H,W] counts where windows of `blurred` count so much [B,N,H-10,W-10]: its transpose."""
    return blurred(F.pad(weights, 4 * (WINDOW - 1,)))


def _window(like: Tensor) -> Tensor:
    """[WINDOW] on the device and in the type of `like`."""
    x = torch.arange(WINDOW, dtype=torch.float64) - WINDOW // 2
    window = torch.exp(-(x**2) / (2 * SIGMA**2))
    return (window / window.sum()).to(like)


def _halved(planes: Tensor) -> Tensor:
    """[1,C,H,W] -> [1,C,ceil(H/2),ceil(W/2)] by means of 2x2; an odd side gets a zero at either end, as published."""
    return F.avg_pool2d(planes, 2, padding=[side % 2 for side in planes.shape[2:]])


def _level(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Mean SSIM and mean contrast-structure term of each channel, [C] each, of f32 [1,C,H,W]."""
    mean_x, mean_y, xx, yy, xy = blurred(torch.cat([x, y, x * x, y * y, x * y], dim=1)).chunk(5, dim=1)
    luminance, contrast = _terms(mean_x, mean_y, xx, yy, xy)
    return (luminance * contrast).mean((0, 2, 3)), contrast.mean((0, 2, 3))


def _terms(mean_x: Tensor, mean_y: Tensor, xx: Tensor, yy: Tensor, xy: Tensor) -> tuple[Tensor, Tensor]:
    """SSIM's luminance term and its contrast and structure term, of blurred x, y and their products."""
    contrast = (2 * (xy - mean_x * mean_y) + C2) / (xx - mean_x**2 + yy - mean_y**2 + C2)
    return (2 * mean_x * mean_y + C1) / (mean_x**2 + mean_y**2 + C1), contrast
