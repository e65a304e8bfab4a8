"""Heat maps: a picture in grey with what is unusual in it glowing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nncodec import atomic, rows
from nncodec.config import Y_STRIDE
from nncodec.errors import InputError
from nncodec.picture import Levels, Outline, png_writer

COLORS = np.array([[64, 0, 96], [200, 30, 60], [255, 140, 0], [255, 240, 120]], np.float32)
"""From barely unusual to most unusual."""
OPACITY = 0.75
"""Of the most unusual; of what is usual it is 0."""
BAND = 256
"""Rows drawn at once."""


def write(path: Path, source: Path, heat: NDArray[Any], overwrite: bool) -> None:
    """PNG of the picture `source` with its heat [ceil(H / 16), ceil(W / 16)], 0 to 1. Raises InputError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{path.parent}: cannot be made: {error.strerror}") from None
    with atomic.writing(path, overwrite) as file, rows.opened(source) as image:
        outline = Outline(image.outline.width, image.outline.height, is_grey=False, has_alpha=False, bit_depth=8)
        writer = png_writer(file, outline)
        for top in range(0, outline.height, BAND):
            bottom = min(top + BAND, outline.height)
            writer.write(glowing(image.rows(top, bottom).to_8_bits().color, heat, top, outline.height))
        writer.close()


def glowing(color: Levels, heat: NDArray[Any], top: int, height: int) -> NDArray[np.uint8]:
    """u8 [h, W, 3]: rows `top` and on of a picture of `height` rows, u8 [h, W, 3] or [h, W], under its heat."""
    across = _between(heat.T, np.arange(color.shape[1])).T
    value = _between(across, np.arange(top, top + len(color)))[..., None]
    step = value * (len(COLORS) - 1)
    low = np.minimum(step[..., 0].astype(np.int64), len(COLORS) - 2)
    glow = COLORS[low] + (COLORS[low + 1] - COLORS[low]) * (step - low[..., None])
    grey = color if color.ndim == 2 else color.mean(2)
    opacity = OPACITY * np.minimum(2 * value, 1)
    mixed: NDArray[np.uint8] = (grey[..., None] * (1 - opacity) + glow * opacity).round().astype(np.uint8)
    return mixed


def _between(heat: NDArray[Any], pixels: NDArray[np.int64]) -> NDArray[np.float32]:
    """Rows of `heat`, which stand for the middles of blocks, at `pixels`, linear between two."""
    at = np.clip((pixels + 0.5) / Y_STRIDE - 0.5, 0, len(heat) - 1)
    low = np.minimum(at.astype(np.int64), max(len(heat) - 2, 0))
    share = (at - low)[:, None].astype(np.float32)
    high = np.minimum(low + 1, len(heat) - 1)
    found: NDArray[np.float32] = (heat[low] * (1 - share) + heat[high] * share).astype(np.float32)
    return found
