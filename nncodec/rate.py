"""Rate control: the quality at which a picture meets a size or a PSNR, by trying.

Knows how to search over qualities; what a try costs and gives is `codec`'s.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO

import numpy as np

from nncodec import codec
from nncodec.config import QUALITIES
from nncodec.decoding import Progress
from nncodec.errors import CorruptError, InputError
from nncodec.picture import Picture
from nncodec.weights import Model

PROBES = 5
"""Most qualities tried for one picture."""


@dataclass(frozen=True)
class Found:
    """A file that meets its target: its bytes, its quality, and what was measured (bytes or dB)."""

    data: bytes
    quality: int
    measured: float


def to_size(picture: Picture, size: int, model: Model, effort: int = 1, progress: Progress | None = None) -> Found:
    """The best file of at most `size` bytes. Raises InputError, saying what is reachable.

    `progress` is called as in `codec.compress`, anew for each quality tried.
    """
    tried: dict[int, bytes] = {}

    def measure(quality: int) -> float:
        tried[quality] = codec.compress(picture, quality, model, effort=effort, progress=progress)
        return math.log(len(tried[quality]))

    quality = _search(measure, math.log(size), below=True)
    if quality is None:
        least = len(tried[1])
        raise InputError(f"{size} bytes cannot be reached; quality 1 takes {least}")
    return Found(tried[quality], quality, len(tried[quality]))


def to_psnr(picture: Picture, psnr: float, model: Model, effort: int = 1, progress: Progress | None = None) -> Found:
    """The smallest file of at least `psnr` dB (over RGB or grey). Raises InputError, saying what is reachable.

    `progress` is called as in `codec.compress`, anew for each quality tried.
    """
    tried: dict[int, tuple[bytes, float]] = {}

    def measure(quality: int) -> float:
        data = codec.compress(picture, quality, model, effort=effort, progress=progress)
        tried[quality] = data, measured_psnr(io.BytesIO(data), picture, model)
        return tried[quality][1]

    quality = _search(measure, psnr, below=False)
    if quality is None:
        raise InputError(f"{psnr:g} dB cannot be reached; quality {QUALITIES} gives {tried[QUALITIES][1]:.2f} dB")
    return Found(tried[quality][0], quality, tried[quality][1])


def measured_psnr(file: IO[bytes], picture: Picture, model: Model) -> float:
    """dB between `picture` and what an .aec file decodes to (at most 148). Raises FormatError."""
    file.seek(0)
    decoded = codec.decompress(file.read(), model=model)
    a, b = decoded.alpha, picture.alpha
    if (a is None) != (b is None) or (a is not None and b is not None and not np.array_equal(a, b)):
        raise CorruptError("the alpha that was decoded is not the picture's; please report this picture")
    error = np.mean(np.square(decoded.color.astype(np.float64) - picture.color))
    return 10 * math.log10(picture.peak**2 / max(float(error), 1e-10))


def _search(measure: Callable[[int], float], target: float, below: bool) -> int | None:
    """Quality closest to `target` on its right side, of at most PROBES that are measured.

    `measure` rises with quality, nearly linearly. With `below` the highest quality that measures at most
    `target` is sought, else the lowest that measures at least it. None when even the end does not do.
    """
    known: dict[int, float] = {}

    def fits(quality: int) -> bool:
        return known[quality] <= target if below else known[quality] >= target

    low, high = 0, QUALITIES + 1  # exclusive bounds of where the crossing may lie
    guess = QUALITIES // 2
    while len(known) < PROBES:
        known[guess] = measure(guess)
        if known[guess] <= target:
            low = guess
        if known[guess] >= target:
            high = guess
        if high - low <= 1:
            break
        guess = min(max(_interpolate(known, target, below), low + 1), high - 1)
    good = [q for q in known if fits(q)]
    end = 1 if below else QUALITIES
    if not good and end not in known:
        known[end] = measure(end)
        good = [end] if fits(end) else []
    if not good:
        return None
    return max(good) if below else min(good)


def _interpolate(known: dict[int, float], target: float, below: bool) -> int:
    """Where the line through the two measured qualities nearest to `target` meets it."""
    nearest = sorted(known, key=lambda q: abs(known[q] - target))[:2]
    if len(nearest) == 1:
        # First step: over the range, log bytes grow by about 0.036 a quality, decibels by 0.18.
        slope = 0.036 if below else 0.18
        return round(nearest[0] + (target - known[nearest[0]]) / slope)
    a, b = nearest
    slope = (known[b] - known[a]) / (b - a)
    if slope <= 0:
        return (a + b) // 2
    at = a + (target - known[a]) / slope
    return math.floor(at) if below else math.ceil(at)
