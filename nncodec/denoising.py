"""Noisy pixels -> clean pixels: an encoder that has learned to leave noise out, and the decoder of its files.

Knows the networks and windows of pixels; nothing of files. Latents are not rounded and nothing is coded.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

import numpy as np

from nncodec import decoding, encoding, tiling
from nncodec.config import Y_STRIDE
from nncodec.container import Color, Header
from nncodec.decoding import Progress
from nncodec.errors import InputError
from nncodec.picture import Picture
from nncodec.rows import Rows
from nncodec.weights import Model

QUALITY = 60
"""What the networks are told. On validation photos the best for deviations of 15 to 25; at 5 quality 80 is better by
0.2 dB, at 50 quality 40 by as much."""


def check(model: Model) -> None:
    """Raises InputError for weights that were not trained with noise."""
    if not model.noise:
        raise InputError(f"weights {model.name} were not trained to remove noise; 'nncodec models' says which were")


def bands(model: Model, source: Rows, progress: Progress | None = None) -> Iterator[Picture]:
    """The picture without its noise, in bands of rows from the top, without seams; alpha as it was.

    Raises InputError for weights that were not trained with noise.
    """
    check(model)
    of = source.outline
    header = Header(of.width, of.height, QUALITY, model.id, Color.GREY if of.is_grey else Color.RGB, of.bit_depth)
    whole, halo = decoding.plane(header), model.config.synthesis_halo
    cores = list(tiling.grid(whole.height, whole.width, decoding.WINDOW))
    done = 0
    for top, group in groupby(cores, key=lambda core: core.top):
        first = max(top - halo - model.config.analysis_halo, 0)
        last = min(top + decoding.WINDOW + halo + model.config.analysis_halo, of.height)
        band = source.rows(first, last)
        kept = band.rows(top - first, min(top + decoding.WINDOW, of.height) - first)
        color = np.empty_like(kept.color)
        for core in group:
            outer = tiling.with_halo(core, halo, whole.height, whole.width)
            window, _, y = encoding.analyzed(model, band.color, first, outer, whole, QUALITY)
            y = y[(..., *tiling.inside(outer, window, Y_STRIDE))]
            levels = decoding.synthesize(model, y, header, core, outer)
            right = min(core.right, of.width)
            color[:, core.left : right] = levels[: kept.height, : right - core.left]
            done += 1
            if progress:
                progress(done, len(cores))
        yield Picture(color, kept.alpha)
