"""Tiles and windows: integer rectangles over a picture.

Knows geometry only. A tile is what the entropy coder codes alone; a window, with a halo, is what a
transform sees at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import pairwise
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


class Sides(NamedTuple):
    """One number for each side of a window: 1 where it is cut out of a larger plane, 0 where both end."""

    top: int
    left: int
    bottom: int
    right: int


UNCUT = Sides(0, 0, 0, 0)
"""Of a window that is all of a plane."""


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


def windows(height: int, width: int, size: int, shift: int) -> Iterator[Rect]:
    """Like `grid`, but cut `shift` further up and to the left: the first of a row or column is smaller.

    With the halo as `shift`, a window and its halo end where a tile of the same size does.
    """
    rows, columns = (sorted({0, *range(-shift % size, side, size), side}) for side in (height, width))
    for top, bottom in pairwise(rows):
        for left, right in pairwise(columns):
            yield Rect(top, left, bottom, right)


def meets(a: Rect, b: Rect) -> bool:
    """Whether two rectangles share a pixel."""
    return a.top < b.bottom and b.top < a.bottom and a.left < b.right and b.left < a.right


def common(a: Rect, b: Rect) -> Rect:
    """What two rectangles that meet share."""
    return Rect(max(a.top, b.top), max(a.left, b.left), min(a.bottom, b.bottom), min(a.right, b.right))


def cells(rect: Rect, width: int, size: int) -> list[int]:
    """Numbers of the cells of `grid(..., width, size)` that `rect` meets, in order."""
    across = -(-width // size)
    return [
        row * across + column
        for row in range(rect.top // size, -(-rect.bottom // size))
        for column in range(rect.left // size, -(-rect.right // size))
    ]


def cell(number: int, height: int, width: int, size: int) -> Rect:
    """Cell `number` of `grid(height, width, size)`."""
    top, left = (size * i for i in divmod(number, -(-width // size)))
    return Rect(top, left, min(top + size, height), min(left + size, width))


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


def cut(window: Rect, whole: Rect) -> Sides:
    """The sides where the plane `whole` goes on beyond a window of it."""
    return Sides(*(int(a != b) for a, b in zip(window, whole, strict=True)))


def without_halo(window: Rect, sides: Sides, halo: int) -> Rect:
    """What is left of a window without `halo` on its cut `sides`."""
    top, left, bottom, right = (halo * side for side in sides)
    return Rect(window.top + top, window.left + left, window.bottom - bottom, window.right - right)


def inside(rect: Rect, outer: Rect, stride: int = 1) -> tuple[slice, slice]:
    """Where `rect` lies in an array that covers `outer` at `stride` pixels a position."""
    rows = slice((rect.top - outer.top) // stride, (rect.bottom - outer.top) // stride)
    columns = slice((rect.left - outer.left) // stride, (rect.right - outer.left) // stride)
    return rows, columns
