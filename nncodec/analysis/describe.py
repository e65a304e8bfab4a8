"""What the latents of a picture are like: a fixed number of features for any size.

Knows latents and the linear path of g_s, through which a block's latents stand for the DCT coefficients of its 16x16
pixels: those mean the same in every model. A block is described by its mean colors and by log energies of bands of
frequency and direction; a picture by the moments of its blocks, and by where in it they are how.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nncodec.analysis.latents import Latents
from nncodec.config import Y_STRIDE
from nncodec.nets.blocks import dct_planes
from nncodec.nets.transforms import PIXEL_SCALE
from nncodec.weights import Model

Floats = NDArray[np.float64]
Vector = NDArray[np.float32]

ALL, MOMENTS = POOLS = ("all", "moments")
DEFAULT = ALL
WHITENING = Path(__file__).with_name("whitening.npz")
"""For each pool the mean [D], scale [D] and projection [D, VECTOR] that `benchmarks/embed_anomaly.py fit` made."""
VECTOR = 128
"""Numbers of a vector."""
GRID = 4
"""Cells a side of the layout."""
DC_SCALE = (70.0, 25.0, 12.0)
"""Usual deviations of a block's mean in luma and the two planes of chroma, in levels of orthonormal axes."""
EDGES = (0.5, 2.0, 3.7, 6.5, 22.0)
"""Bounds of the bands of luma, in cycles per 32 pixels; each is split in three directions."""
CHROMA_EDGES = (0.5, 2.5, 22.0)
TURNS = (0.0, 0.4, 1.17, 1.6)
"""Bounds of the directions, in radians from horizontal frequency to vertical."""
NOISE = 30.0
"""Energy added to each band before its logarithm: about that of quantisation at quality 50."""


@lru_cache(maxsize=1)
def _bands() -> list[NDArray[np.bool_]]:
    """Which DCT coefficients [3, 16, 16] belong to each band."""
    n = np.arange(16)
    radius = np.broadcast_to(np.hypot(n[:, None], n), (3, 16, 16))
    turn = np.broadcast_to(np.arctan2(n[:, None], n), (3, 16, 16))
    plane = np.broadcast_to(np.arange(3)[:, None, None], (3, 16, 16))
    found = []
    for low, high in pairwise(EDGES):
        for left, right in pairwise(TURNS):
            found.append((plane == 0) & (radius >= low) & (radius < high) & (turn >= left) & (turn < right))
    for chroma in (1, 2):
        for low, high in pairwise(CHROMA_EDGES):
            found.append((plane == chroma) & (radius >= low) & (radius < high))
    return found


BLOCK = 3 + 3 * (len(EDGES) - 1) + 2 * (len(CHROMA_EDGES) - 1)
"""Features of a block."""


def blocks(model: Model, y_hat: NDArray[np.float32]) -> Floats:
    """Features [BLOCK, h, w] of each block, of its latents [N, h, w]."""
    weight = model.net.linear_path.flatten(1).cpu().numpy()  # [768, N]
    coefficients = _coefficients(weight.tobytes(), weight.shape[1]) @ y_hat.reshape(len(y_hat), -1)  # [768, h w]
    dc = [coefficients[256 * plane] / (Y_STRIDE * DC_SCALE[plane]) for plane in range(3)]
    energy = [0.5 * np.log(np.square(coefficients[band.reshape(-1)]).mean(0) + NOISE) for band in _bands()]
    return np.stack([*dc, *energy]).astype(np.float64).reshape(BLOCK, *y_hat.shape[1:])


@lru_cache(maxsize=2)
def _coefficients(weight: bytes, channels: int) -> NDArray[np.float32]:
    """f32 [768, N]: DCT coefficients, on the 255 scale, that latents stand for; of the linear path of g_s [768, N]."""
    matrix = np.frombuffer(weight, np.float32).reshape(768, channels)
    rows: NDArray[np.float32] = (dct_planes().reshape(768, 768) @ matrix * (255.0 / PIXEL_SCALE)).astype(np.float32)
    return rows


def pooled(model: Model, latents: Latents, pool: str = DEFAULT) -> Floats:
    """Features [`dimensions`] of a picture, as they come; `whitened` makes a vector of them."""
    height, width = -(-latents.height // Y_STRIDE), -(-latents.width // Y_STRIDE)
    down, across = _shares(height), _shares(width)
    count, first, third = 0, np.zeros(BLOCK), np.zeros(BLOCK)
    second = np.zeros((BLOCK, BLOCK))
    cells = np.zeros((BLOCK, GRID, GRID))
    for part in latents.parts:
        found = blocks(model, part.y_hat.numpy())
        rows, columns = (slice(at, at + size) for at, size in zip(part[1:], found.shape[1:], strict=True))
        cells += np.einsum("gi,cij,hj->cgh", down[:, rows], found, across[:, columns], optimize=True)
        flat = found.reshape(BLOCK, -1)
        count += flat.shape[1]
        first += flat.sum(1)
        second += flat @ flat.T
        third += (flat**3).sum(1)
    square = np.diag(second)
    mean = first / count
    covariance = second / count - np.outer(mean, mean)
    deviation = np.sqrt(np.maximum(np.diag(covariance), 0) + 1e-4)
    skew = (third / count - 3 * mean * square / count + 2 * mean**3) / deviation**3
    correlation = (covariance / np.outer(deviation, deviation))[np.triu_indices(BLOCK, 1)]
    moments = np.concatenate([mean, np.log(deviation), correlation, skew])
    mirrored = cells[:, :, ::-1]
    half = [(cells + mirrored) / 2, np.abs(cells - mirrored) / 2]  # the same for a mirrored picture
    layout = np.concatenate([side[:, :, : GRID // 2].reshape(-1) for side in half])
    return moments if pool == MOMENTS else np.concatenate([moments, layout])


def dimensions(pool: str = DEFAULT) -> int:
    """How many features `pooled` gives. Raises ValueError for an unknown pool."""
    moments = 3 * BLOCK + BLOCK * (BLOCK - 1) // 2
    return moments + {ALL: BLOCK * GRID * GRID, MOMENTS: 0}[_known(pool)]


def whitened(features: Floats, pool: str = DEFAULT) -> Vector:
    """Unit vector f32 [VECTOR]: what differs between pictures, in units of how much copies of one picture differ.

    The projection is linear discriminants: of training photographs, against crops, rescaled, recompressed, brightened
    and mirrored copies of them. It was fitted to DCT features, not to a model's latents, so it serves every model.
    """
    mean, scale, projection = _whitening(_known(pool))
    vector = ((features - mean) / scale) @ projection
    unit: Vector = (vector / max(float(np.linalg.norm(vector)), 1e-12)).astype(np.float32)
    return unit


@lru_cache(maxsize=2)
def _whitening(pool: str) -> tuple[Floats, Floats, Floats]:
    with np.load(WHITENING, allow_pickle=False) as arrays:
        mean, scale, projection = (arrays[f"{pool}_{name}"].astype(np.float64) for name in ("mean", "scale", "project"))
    return mean, scale, projection


def _known(pool: str) -> str:
    if pool not in POOLS:
        raise ValueError(f"pool is {pool!r}; there are {', '.join(POOLS)}")
    return pool


def _shares(count: int) -> Floats:
    """[GRID, count]: with what weight each of `count` rows enters each cell's mean."""
    edges = np.linspace(0, count, GRID + 1)
    at = np.arange(count)
    shares = np.minimum(at + 1, edges[1:, None]) - np.maximum(at, edges[:-1, None])
    shares = np.maximum(shares, 0)
    weights: Floats = shares / shares.sum(1, keepdims=True)
    return weights
