"""Salvage: what becomes of a damaged file's sound part.

Knows which sections may be missed and how the hole they leave is filled; nothing of how they are decoded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from nncodec import tiling
from nncodec.errors import CorruptError, FormatError
from nncodec.picture import Damage
from nncodec.tiling import Rect

CELL = 16
"""Pixels a side of the cells whose means stand for what surrounds a hole; divides every tile's sides."""
T = TypeVar("T")


class Salvage:
    """Runs readers of sections; collects the damage they meet if `partial`, else lets it raise."""

    def __init__(self, partial: bool) -> None:
        self._partial = partial
        self.damage: list[Damage] = []

    def read(self, section: str, action: Callable[[], T], area: Rect | None = None) -> T | None:
        """Result of `action`; None where the section is damaged. `area` is what a tile covers."""
        try:
            return action()
        except FormatError as error:
            if not self._partial:
                raise
            self.damage.append(Damage(section, str(error), area))
            return None

    def fill(self, color: NDArray[Any], shown: Rect, tiles: int, factor: int = 1) -> None:
        """Fill the damaged areas of the decoded color planes. Raises CorruptError if all `tiles` of a file are.

        `shown` is what part of the picture `color` is, `factor` how many times smaller.
        """
        if sum(damage.area is not None for damage in self.damage) == tiles:
            raise CorruptError("no tile is intact; there is nothing to decode")
        areas = []
        for damage in self.damage:
            if damage.area is not None and tiling.meets(damage.area, shown):
                part = tiling.common(damage.area, shown)
                top, left = (part.top - shown.top) // factor, (part.left - shown.left) // factor
                areas.append(
                    Rect(top, left, -(-(part.bottom - shown.top) // factor), -(-(part.right - shown.left) // factor))
                )
        if areas:
            fill(color, areas)


def fill(color: NDArray[np.generic], areas: Sequence[Rect]) -> None:
    """Overwrite disjoint `areas` of color [H, W] or [H, W, 3] by a smooth continuation of what surrounds them.

    Push and pull over a pyramid of means (Gortler et al., SIGGRAPH 1996): far from the border of a hole
    the colors are those of a wider surrounding. Where the areas cover everything it becomes mid-grey.
    """
    height, width = color.shape[:2]
    intact = np.outer(_cells(0, height, height), _cells(0, width, width))
    for area in areas:
        color[area.top : area.bottom, area.left : area.right] = 0
        intact -= np.outer(_cells(area.top, area.bottom, height), _cells(area.left, area.right, width))
    if not intact.any():
        color[:] = 256**color.itemsize // 2
        return
    weight = (intact > 0).astype(np.float32)
    planes = color[..., None] if color.ndim == 2 else color
    for c in range(planes.shape[2]):
        means = (_cell_sums(planes[..., c]) / np.maximum(intact, 1)).astype(np.float32)
        smooth = Image.fromarray(_pull(means, weight))
        for area in areas:
            bottom, right = min(area.bottom, height), min(area.right, width)
            if bottom <= area.top or right <= area.left:
                continue
            box = (area.left / CELL, area.top / CELL, right / CELL, bottom / CELL)
            patch = smooth.resize((right - area.left, bottom - area.top), Image.Resampling.BILINEAR, box)
            planes[area.top : bottom, area.left : right, c] = np.asarray(patch).round().astype(color.dtype)


def _cells(first: int, stop: int, size: int) -> NDArray[np.int64]:
    """How many of the pixels first..stop - 1 each cell of a side of `size` pixels has."""
    edges = np.arange(0, size + CELL, CELL).clip(first, min(stop, size))
    return np.diff(edges)


def _cell_sums(plane: NDArray[np.generic]) -> NDArray[np.int64]:
    """int64 [ceil(H / CELL), ceil(W / CELL)]: sum of each cell of plane [H, W]."""
    tops, lefts = (np.arange(0, size, CELL) for size in plane.shape)
    sums: NDArray[np.int64] = np.add.reduceat(np.add.reduceat(plane, tops, 0, dtype=np.int64), lefts, 1)
    return sums


def _pull(mean: NDArray[np.float32], weight: NDArray[np.float32]) -> NDArray[np.float32]:
    """`mean` with its cells of weight 0 taken from coarser levels."""
    if weight.all():
        return mean
    height, width = mean.shape
    even = ((0, height % 2), (0, width % 2))
    weights = np.pad(weight, even)
    sums = np.pad(mean * weight, even)
    half = (slice(0, None, 2), slice(1, None, 2))
    coarse_weight = np.sum([weights[i, j] for i in half for j in half], 0)
    coarse_sum = np.sum([sums[i, j] for i in half for j in half], 0)
    coarse = _pull(coarse_sum / np.maximum(coarse_weight, 1e-9), np.minimum(coarse_weight, 1))
    box = (0.0, 0.0, width / 2, height / 2)
    wide = Image.fromarray(coarse).resize((width, height), Image.Resampling.BILINEAR, box)
    return np.where(weight > 0, mean, np.asarray(wide))
