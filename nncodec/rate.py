"""Rate control: a file that meets a size, a PSNR or an SSIM, by trying.

Knows how to search over qualities and, between two of them, over what an error is worth beside bits; what a try
costs and gives is `codec`'s.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO

import numpy as np

from nncodec import codec, metrics
from nncodec.config import QUALITIES
from nncodec.container import PIXELS_MAX
from nncodec.decoding import Progress
from nncodec.effort import DEFAULT
from nncodec.errors import CorruptError, InputError
from nncodec.picture import Picture
from nncodec.weights import Model

PROBES = 5
"""Most qualities tried for one picture; one more where the two that enclose the target are over REACH apart."""
REACH = 3
"""Steps of quality that an error factor makes good."""
TRIMS = 3
"""Most error factors tried at the quality that was found."""
FACTORS = (0.5, 4.0)
"""Range of error factors: what lies between two qualities is well inside."""


@dataclass(frozen=True)
class Found:
    """A file that meets its target: its bytes, its quality, and what was measured (bytes, dB or SSIM)."""

    data: bytes
    quality: int
    measured: float


@dataclass(frozen=True)
class _Kind:
    """A kind of target, on a scale on which it rises nearly linearly with quality and with the log of the factor."""

    below: bool
    per_quality: float
    per_factor: float
    near: float
    """How close on the right side is close enough."""


_SIZE = _Kind(True, 0.036, 0.15, 0.015)  # log bytes
_PSNR = _Kind(False, 0.18, 0.9, 0.05)  # dB
_SSIM = _Kind(False, 0.18, 0.9, 0.05)  # dB of 1 / (1 - SSIM)


def to_size(
    picture: Picture,
    size: int,
    model: Model,
    effort: int = DEFAULT,
    tune: str | None = None,
    progress: Progress | None = None,
    max_pixels: int = PIXELS_MAX,
) -> Found:
    """The best file of at most `size` bytes. Raises InputError, saying what is reachable.

    `tune`, `progress` and `max_pixels` are those of `codec.compress`; progress is called anew for each try.
    """

    def value(data: bytes) -> tuple[float, float]:
        return math.log(len(data)), len(data)

    def beyond(least: float) -> str:
        return f"{size} bytes cannot be reached; quality 1 takes {least:.0f}"

    return _meet(picture, math.log(max(size, 1)), model, effort, tune, progress, max_pixels, value, _SIZE, beyond)


def to_psnr(
    picture: Picture,
    psnr: float,
    model: Model,
    effort: int = DEFAULT,
    tune: str | None = None,
    progress: Progress | None = None,
    max_pixels: int = PIXELS_MAX,
) -> Found:
    """The smallest file of at least `psnr` dB (over RGB or grey). Raises InputError, saying what is reachable.

    `tune`, `progress` and `max_pixels` are those of `codec.compress`; progress is called anew for each try.
    """
    if not math.isfinite(psnr):
        raise InputError(f"PSNR {psnr} is not a number of dB")

    def value(data: bytes) -> tuple[float, float]:
        return (dB := measured_psnr(io.BytesIO(data), picture, model, max_pixels)), dB

    def beyond(most: float) -> str:
        return f"{psnr:g} dB cannot be reached; quality {QUALITIES} gives {most:.2f} dB"

    return _meet(picture, psnr, model, effort, tune, progress, max_pixels, value, _PSNR, beyond)


def to_ssim(
    picture: Picture,
    ssim: float,
    model: Model,
    effort: int = DEFAULT,
    tune: str | None = None,
    progress: Progress | None = None,
    max_pixels: int = PIXELS_MAX,
) -> Found:
    """The smallest file of at least this SSIM (mean over RGB or grey, 8 bits). Raises InputError.

    `tune`, `progress` and `max_pixels` are those of `codec.compress`; progress is called anew for each try.
    """
    if not 0 < ssim < 1:
        raise InputError(f"SSIM {ssim:g} is not between 0 and 1")
    original = picture.to_8_bits().color

    def value(data: bytes) -> tuple[float, float]:
        decoded = codec.decompress(data, model=model, max_pixels=max_pixels)
        similarity = metrics.ssim(original, decoded.to_8_bits().color)
        return min(metrics.similarity_db(similarity), 99.0), similarity

    def beyond(most: float) -> str:
        return f"SSIM {ssim:g} cannot be reached; quality {QUALITIES} gives {most:.4f}"

    if min(original.shape[:2]) < metrics.WINDOW:
        raise InputError(f"SSIM needs a picture of at least {metrics.WINDOW} pixels a side")
    return _meet(picture, metrics.similarity_db(ssim), model, effort, tune, progress, max_pixels, value, _SSIM, beyond)


def _meet(
    picture: Picture,
    target: float,
    model: Model,
    effort: int,
    tune: str | None,
    progress: Progress | None,
    max_pixels: int,
    value: Callable[[bytes], tuple[float, float]],
    kind: _Kind,
    beyond: Callable[[float], str],
) -> Found:
    """The file that meets `target` most closely.

    First the quality, then, where steps of quality leave a gap, the error factor. `value` is what a file measures
    on the scale of `kind`, and as people read it. Raises InputError where even the end of the range does not
    do; `beyond` says so, given what that end measures.
    """
    tried: dict[tuple[int, float], tuple[float, Found]] = {}

    def measure(quality: int, factor: float = 1.0) -> float:
        data = codec.compress(
            picture, quality, model, effort=effort, tune=tune, error_factor=factor, max_pixels=max_pixels,
            progress=progress,
        )  # fmt: skip
        scaled, plain = value(data)
        tried[quality, factor] = scaled, Found(data, quality, plain)
        return scaled

    quality = _search(measure, target, kind)
    if quality is None:
        raise InputError(beyond(tried[1 if kind.below else QUALITIES, 1.0][1].measured))
    if effort:
        _trim(lambda factor: measure(quality, factor), tried[quality, 1.0][0], target, kind)
    fitting = [t for t in tried.values() if (t[0] <= target if kind.below else t[0] >= target)]
    return min(fitting, key=lambda t: abs(t[0] - target))[1]


def _trim(measure: Callable[[float], float], at_one: float, target: float, kind: _Kind) -> None:
    """Try error factors until one measures within `kind.near` of `target` on its right side."""
    known = {0.0: at_one}  # by log factor
    aim = target + (-0.4 if kind.below else 0.4) * kind.near
    for _ in range(TRIMS):
        nearest = sorted(known, key=lambda f: abs(known[f] - target))[:2]
        best, start, slope = known[nearest[0]], nearest[0], kind.per_factor
        miss = target - best if kind.below else best - target
        if 0 <= miss <= kind.near:
            return
        if len(nearest) == 2:
            found = (known[nearest[0]] - known[nearest[1]]) / (nearest[0] - nearest[1])
            if found > 0:
                slope = found
            else:  # small files move by whole words, and hidden signs move them a little: further the same way
                start = max(nearest) if aim > best else min(nearest)
        factor = start + (aim - best) / slope
        factor = min(max(factor, math.log(FACTORS[0])), math.log(FACTORS[1]))
        if factor in known:
            return
        known[factor] = measure(math.exp(factor))


def measured_psnr(file: IO[bytes], picture: Picture, model: Model, max_pixels: int = PIXELS_MAX) -> float:
    """dB between `picture` and what an .aec file decodes to (at most 148). Raises FormatError."""
    file.seek(0)
    decoded = codec.decompress(file.read(), model=model, max_pixels=max_pixels)
    a, b = decoded.alpha, picture.alpha
    if (a is None) != (b is None) or (a is not None and b is not None and not np.array_equal(a, b)):
        raise CorruptError("the alpha that was decoded is not the picture's; please report this picture")
    error = np.mean(np.square(decoded.color.astype(np.float64) - picture.color))
    return 10 * math.log10(picture.peak**2 / max(float(error), 1e-10))


def _search(measure: Callable[[int], float], target: float, kind: _Kind) -> int | None:
    """Quality closest to `target` on its right side, of at most PROBES (or one more) that are measured.

    `measure` rises with quality, nearly linearly. If the target is to be kept below, the highest quality that
    measures at most it is sought, else the lowest that measures at least it. None when even the end does not do.
    """
    known: dict[int, float] = {}
    below = kind.below

    def fits(quality: int) -> bool:
        return known[quality] <= target if below else known[quality] >= target

    low, high = 0, QUALITIES + 1  # exclusive bounds of where the crossing may lie
    guess = QUALITIES // 2
    while len(known) < PROBES or (len(known) == PROBES and high - low > REACH and any(map(fits, known))):
        known[guess] = measure(guess)
        if known[guess] <= target:
            low = guess
        if known[guess] >= target:
            high = guess
        if high - low <= 1:
            break
        guess = min(max(_interpolate(known, target, kind), low + 1), high - 1)
    good = [q for q in known if fits(q)]
    end = 1 if below else QUALITIES
    if not good and end not in known:
        known[end] = measure(end)
        good = [end] if fits(end) else []
    if not good:
        return None
    return max(good) if below else min(good)


def _interpolate(known: dict[int, float], target: float, kind: _Kind) -> int:
    """Where the line through the two measured qualities nearest to `target` meets it."""
    nearest = sorted(known, key=lambda q: abs(known[q] - target))[:2]
    if len(nearest) == 1:
        return round(nearest[0] + (target - known[nearest[0]]) / kind.per_quality)
    a, b = nearest
    slope = (known[b] - known[a]) / (b - a)
    if slope <= 0:
        return (a + b) // 2
    at = a + (target - known[a]) / slope
    return math.floor(at) if kind.below else math.ceil(at)
