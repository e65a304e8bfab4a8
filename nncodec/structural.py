"""What MS-SSIM asks of a tile's filter, as `postfilter.equations` is what the squared error asks.

What one minus MS-SSIM loses by a small change d of decoded pixels is to second order a quadratic form of it. With
``1 - cs = N / D`` in a window, N the error's variance and ``D = var(x) + var(x_hat) + C2``, the change takes
``(2 cov(e, d) - cs var(d)) / D + 2 N cov(x_hat, d) / D^2`` off it: where squared error would take more away of what
varies too little already, this gives some back.

Knows pixels and `postfilter`'s features. Errors are counted as `objective` counts them.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nncodec.metrics import C1, C2, LEVEL_WEIGHTS, WINDOW, blurred, spread_out
from nncodec.objective import MIX_MSE, MS_SSIM_FACTOR
from nncodec.postfilter import RADIUS, Equations, features, features_of

BAND = 64
"""Rows that are looked at together; windows of the first WHOLE levels lie inside."""
WHOLE = 2
"""From this level on every window counts; before it, of each band those of so many columns as make `samples` in all."""
GOLDEN = 0.618
"""By so much of the way columns move on from band to band."""
SAMPLES = 1 << 16
"""Half as many lose 0.14 % of the bits (docs/design.md)."""
PEAK = 255.0
CENTER = 0.5
"""Taken off pixels, which variances don't mind: sums keep more digits."""
CLOSE = 0.05
"""What a level's mean counts for at least: the power of less is too steep to follow."""


def equations(x_hat: Tensor, x: Tensor, limit: float, samples: int = SAMPLES) -> list[Equations]:
    """For each plane those of ``MS_SSIM_FACTOR / 255^2 (1 - MS-SSIM) + MIX_MSE MSE``.

    Arguments as for `postfilter.equations`. A level that has no whole window is left out.
    """
    planes, height, width = x.shape
    levels = [_Sums(planes) for _ in LEVEL_WEIGHTS]
    squared, coarse = _Sums(planes), []
    for band, top in enumerate(range(0, height, BAND)):
        seen = x_hat[:, top : top + BAND + 2 * RADIUS]
        decoded = seen[:, RADIUS:-RADIUS, RADIUS:-RADIUS]
        part = _Part(x[:, top : top + BAND] - CENTER, decoded - CENTER, features(seen, limit))
        for level in range(WHOLE):
            some = part.some(band, max(1.0, height * width / (samples << 2 * level)))
            levels[level].add_windows(some)
            if level == 0:
                squared.add_squares(some)
            part = part.halved()
        coarse.append(part)
    part = _Part(*(torch.cat(each, 1) for each in zip(*coarse, strict=True)))
    for level in range(WHOLE, len(levels)):
        levels[level].add_windows(part, last=level == len(levels) - 1)
        part = part.halved()
    known = [(sums, weight) for sums, weight in zip(levels, LEVEL_WEIGHTS, strict=True) if sums.windows]
    total = squared.scaled(MIX_MSE)
    product = np.ones(planes)
    for sums, weight in known:
        product *= sums.similarity**weight
    for sums, weight in known:
        total = total + sums.scaled(MS_SSIM_FACTOR / PEAK**2 * product * weight / sums.similarity)
    return [(plane[:, :-1], plane[:, -1]) for plane in total]


class _Part(NamedTuple):
    """Rows of a picture: the original's and what is decoded [C, h, w], and the features that move it [n, h, w]."""

    x: Tensor
    x_hat: Tensor
    features: Tensor

    def some(self, band: int, share: float) -> _Part:
        """One column in `share`, but as many as there are rows; others in the next band."""
        height, width = self.x.shape[1:]
        taken = min(width, max(height, round(width / share)))
        left = round((width - taken) * (band * GOLDEN % 1.0))
        return _Part(*(plane[:, :, left : left + taken] for plane in self))

    def halved(self) -> _Part:
        """Means of 2x2 samples; an odd row or column at the end is left out."""
        height, width = (side // 2 * 2 for side in self.x.shape[1:])
        rows = [plane[:, :height:2] + plane[:, 1:height:2] for plane in self]
        return _Part(*((pair[..., :width:2] + pair[..., 1:width:2]).mul_(0.25) for pair in rows))


class _Sums:
    """Over the windows of one level, or over pixels: what taps of each plane take off ``1 - cs``, and cs itself."""

    def __init__(self, planes: int) -> None:
        self.own = features_of(planes)
        n = len(self.own[0])
        self._forms = np.zeros((planes, n, n + 1))
        self._similarity, self.windows = np.zeros(planes), 0

    @property
    def similarity(self) -> NDArray[np.float64]:
        """Mean cs of each plane, [C]."""
        return np.maximum(self._similarity / self.windows, CLOSE)

    def scaled(self, worth: float | NDArray[np.float64]) -> NDArray[np.float64]:
        """Equations [C, n, n + 1], b behind a, of the mean times `worth`, a number or [C]."""
        return self._forms * (np.broadcast_to(worth, len(self.own)) / self.windows)[:, None, None]

    def add_squares(self, part: _Part) -> None:
        """Pixels' squared errors."""
        x, y, f = part
        self._add(f, torch.ones_like(x), x - y)
        self.windows += x[0].numel()

    def add_windows(self, part: _Part, last: bool = False) -> None:
        """Windows' contrast and structure, and luminance at the `last` level."""
        x, y, f = part
        if min(x.shape[1:]) < WINDOW:
            return
        planes = len(x)
        moments = blurred(torch.cat([x, y, x * x, y * y, x * y, f])[None])[0]
        mean_x, mean_y, xx, yy, xy, mean_f = torch.split(moments, [*5 * [planes], len(f)])
        off = mean_x - mean_y
        error = xx + yy - 2 * xy - off.square()
        scale = xx - mean_x.square() + yy - mean_y.square() + C2 / PEAK**2
        similarity = 1.0 - error / scale
        curvature, toward, back = similarity.clamp(min=0.0) / scale, 1.0 / scale, error / scale.square()
        spread = [spread_out(weight[None])[0] for weight in (curvature, toward, back)]
        self._add(f, spread[0], spread[1] * (x - y) + spread[2] * y)
        self._add(mean_f, -curvature, -(toward * off + back * mean_y))
        if last:
            luminance = 1.0 / ((mean_x + CENTER).square() + (mean_y + CENTER).square() + C1 / PEAK**2)
            self._add(mean_f, luminance, luminance * off)
        self._similarity += similarity.mean((1, 2)).double().cpu().numpy() * off[0].numel()
        self.windows += off[0].numel()

    def _add(self, f: Tensor, curvature: Tensor, slope: Tensor) -> None:
        """Sums of ``curvature f f`` and ``slope f`` over samples, for each plane's own features."""
        f = f.flatten(1)
        for plane, own in enumerate(self.own):
            mine = f[own]
            weighted = torch.cat([mine * curvature[plane].flatten(), slope[plane].flatten()[None]])
            self._forms[plane] += (mine @ weighted.T).double().cpu().numpy()
