"""Tiles and windows: integer rectangles over a picture.

Knows geometry only. A tile is what the entropy coder codes alone; a window, with a halo, is what a
transform sees at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from nncodec.config import Z_STRIDE


class Rect(NamedTuple):
    """Half-open rectangle in pixels."""

    top: int
    left: int
    bottom: int
    right: int

    @property
    def height(self) -> int:
        return self.bottom - self.top

    @property
    def width(self) -> int:
        return self.right - self.left

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.height, self.width


def padded(size: int) -> int:
    """`size` rounded up to a multiple of Z_STRIDE; planes are extended so by replicating their edge."""
    return -(-size // Z_STRIDE) * Z_STRIDE


def grid(height: int, width: int, size: int) -> Iterator[Rect]:
    """Squares of `size` over height x width in raster order; the last of a row or column is smaller."""
    for top in range(0, height, size):
        for left in range(0, width, size):
            yield Rect(top, left, min(top + size, height), min(left + size, width))


def runs(rects: Iterable[Rect], limit: int) -> Iterator[list[Rect]]:
    """Neighbors in a row that have one size, at most `limit` together; all of them in their order."""
    run: list[Rect] = []
    for rect in rects:
        if run and (len(run) == limit or (rect.top, rect.height, rect.width) != (run[0].top, *run[0].size)):
            yield run
            run = []
        run.append(rect)
    if run:
        yield run


def with_halo(rect: Rect, halo: int, height: int, width: int) -> Rect:
    """`rect` grown by `halo` on each side, cut at the picture's border.

    Cut, not padded: at the border the transforms' own zero padding must apply, as on the full frame.
    """
    return Rect(
        max(rect.top - halo, 0),
        max(rect.left - halo, 0),
        min(rect.bottom + halo, height),
        min(rect.right + halo, width),
    )


def inside(rect: Rect, outer: Rect, stride: int = 1) -> tuple[slice, slice]:
    """Where `rect` lies in an array that covers `outer` at `stride` pixels a position."""
    rows = slice((rect.top - outer.top) // stride, (rect.bottom - outer.top) // stride)
    columns = slice((rect.left - outer.left) // stride, (rect.right - outer.left) // stride)
    return rows, columns
