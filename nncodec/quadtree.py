"""The coding order of y: four passes over 2x2 cells, rotated over four channel groups.

Integer geometry only: works on the last three axes [N, H, W] of numpy arrays and torch tensors alike.

In pass k, channel group g is coded at position ``g XOR TURN[k]`` of every cell, so each pass visits
all positions and, from the second pass on, every group has decoded neighbours in every cell (DCVC-DC,
Li et al., CVPR 2023). ``TURN`` goes to the diagonal neighbor first.
"""

from __future__ import annotations

from typing import TypeVar

from nncodec.config import GROUPS

TURN = (0, 3, 1, 2)

Array = TypeVar("Array")


def position(pass_index: int, group: int) -> tuple[int, int]:
    """Row and column inside the 2x2 cell at which `group` is coded in pass `pass_index`."""
    where = group ^ TURN[pass_index]
    return where >> 1, where & 1


def group_slice(x: Array, pass_index: int, group: int) -> Array:
    """View of x [..., N, H, W] on what one pass codes of one channel group: [..., N/4, H/2, W/2]."""
    size = x.shape[-3] // GROUPS  # type: ignore[attr-defined]
    row, column = position(pass_index, group)
    channels = slice(group * size, (group + 1) * size)
    return x[..., channels, row::2, column::2]  # type: ignore[index, no-any-return]


def put(x: Array, pass_index: int, values: Array) -> None:
    """Write values [..., N, H/2, W/2] of one pass into x [..., N, H, W], in place."""
    size = x.shape[-3] // GROUPS  # type: ignore[attr-defined]
    for group in range(GROUPS):
        # The view is taken anew each time: autograd forbids writing through stale ones.
        part = values[..., group * size : (group + 1) * size, :, :]  # type: ignore[index]
        group_slice(x, pass_index, group)[...] = part  # type: ignore[index]
