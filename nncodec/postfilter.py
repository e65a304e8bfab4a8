"""A filter for each tile, which its encoder fits to the picture and the decoder applies behind g_s.

A Wiener filter in the manner of VVC's nonlinear adaptive loop filter (Tsai et al., JSTSP 2013; Taquet et al.,
JVET-M0385): for each color plane, differences to point-symmetric neighbors, the nearest once more clipped so that edges
don't count, some in the other planes, and an affine map of the pixel's own colors. g_s works at a stride of 8 pixels
and is the same for all pictures; this sees single pixels, and what is peculiar to a picture, for some fifty bytes.

Knows pixels and integers ("taps"); how taps are coded is `entropy`'s, where they lie `decoding`'s.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor


def _half(places: Iterable[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """Of each point-symmetric pair of (down, right) the one below, or to the right in the row."""
    return tuple(sorted(place for place in places if place > (0, 0)))


RADIUS = 3
"""Neighbors lie up to so many pixels away."""
_REACH = range(-RADIUS, RADIUS + 1)
LINEAR = _half((y, x) for y in _REACH for x in _REACH if abs(y) + abs(x) <= RADIUS)
"""Pairs of neighbors in the plane itself, (down, right) of one; the other lies opposite."""
CLIPPED = tuple(place for place in LINEAR if sum(map(abs, place)) <= 2)
"""Those whose differences count once more, clipped."""
CROSS = tuple(place for place in LINEAR if max(map(abs, place)) <= 1)
"""Pairs in each of the other planes."""
KINDS = 4
"""Kinds of taps: of LINEAR, CLIPPED and CROSS differences and of colors. Each has a row of tables of its own."""
TAP = 1 / 64
"""Weight of a difference per unit of its tap."""
CONSTANT, COLOR = 8.0, 0.25
"""Factors of the constant (levels of 255) and of the colors (from mid-grey on) that color taps weigh."""
TAP_MAX = 1023
"""An encoder's largest tap."""
BAND = 32
"""So many rows are filtered at once, which caches hold."""
SAMPLES = 1 << 17
"""A fit looks at whole rows of about so many pixels in all, unless told otherwise."""

Taps = NDArray[np.int32]
"""[C, T] for a picture of C color planes; zeros change nothing.

In the order of the kinds; CROSS for each other plane in turn; a constant, then each plane.
"""

Equations = tuple[NDArray[np.float64], NDArray[np.float64]]
"""Normal equations (a, b) of a plane's taps w: they take 2 b w - w a w off the error."""


def kinds(planes: int) -> NDArray[np.intp]:
    """Kind of each tap of a plane, of a picture of so many planes."""
    return np.repeat(np.arange(KINDS), [len(LINEAR), len(CLIPPED), (planes - 1) * len(CROSS), 1 + planes])


def none(planes: int) -> Taps:
    """Taps that change nothing."""
    return np.zeros((planes, len(kinds(planes))), np.int32)


def clip_at(lmbda: float) -> float:
    """Differences are clipped at +- this, in 0..1: about twice the error that lambda stands for."""
    return 1.0 / (255.0 * math.sqrt(lmbda))


def padded(x: Tensor) -> Tensor:
    """x [..., C, H, W] limited to 0..1, last rows and columns repeated: [..., C, H + 2 RADIUS, W + 2 RADIUS]."""
    return F.pad(x.clamp(0.0, 1.0), 4 * (RADIUS,), mode="replicate")


def kernels(taps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What `taps` f32 [..., C, T] do; they need not be whole numbers.

    Kernel [..., C, C, 2 RADIUS + 1, 2 RADIUS + 1], bias [..., C] and factors of clipped differences
    [..., C, len(CLIPPED), 1, 1].
    """
    planes, weights = taps.shape[-2], TAP * taps
    linear, clipped, cross, color = torch.split(weights, np.bincount(kinds(planes)).tolist(), dim=-1)
    kernel = weights.new_zeros(*taps.shape[:-1], planes, 2 * RADIUS + 1, 2 * RADIUS + 1)
    for plane in range(planes):
        _add_pairs(kernel[..., plane, plane, :, :], LINEAR, linear[..., plane, :])
        for i, other in enumerate(_others(plane, planes)):
            part = cross[..., plane, i * len(CROSS) : (i + 1) * len(CROSS)]
            _add_pairs(kernel[..., plane, other, :, :], CROSS, part)
        kernel[..., plane, plane, RADIUS, RADIUS] += 1.0
    kernel[..., RADIUS, RADIUS] += COLOR * color[..., 1:]
    bias = CONSTANT / 255.0 * color[..., 0] - 0.5 * COLOR * color[..., 1:].sum(-1)
    return kernel, bias, clipped[..., None, None]


def filtered(x: Tensor, taps: Taps, lmbda: float) -> Tensor:
    """x f32 [C, H + 2 RADIUS, W + 2 RADIUS] in 0..1 -> [C, H, W], through `taps`."""
    return _filtered(x[None], torch.from_numpy(taps.astype(np.float32)).to(x.device)[None], clip_at(lmbda))[0]


def _filtered(x: Tensor, taps: Tensor, limit: float | Tensor) -> Tensor:
    """x f32 [B, C, H + 2 RADIUS, W + 2 RADIUS] in 0..1 -> [B, C, H, W], each through its `taps` f32 [B, C, T]."""
    kernel, bias, clipped = kernels(taps)
    # One by one: all in one convolution of groups takes more than twice as long on a CPU.
    out = torch.cat([_convolved(each[None], *own) for each, *own in zip(x, kernel, bias, strict=True)])
    if clipped.is_cuda or clipped.any():
        for top in range(0, out.shape[2], BAND):
            band = out[:, :, top : top + BAND]
            _add_clipped(band, x[:, :, top : top + band.shape[2] + 2 * RADIUS], clipped, limit)
    return out


def _convolved(x: Tensor, kernel: Tensor, bias: Tensor | None = None) -> Tensor:
    """F.conv2d of x [1, C, h, w] and kernel [C, C, size, size], by squares of four pixels.

    C channels are too few for a CPU's vector units; 4 C of them take less than half of the time.
    """
    planes, size = kernel.shape[1], kernel.shape[-1]
    height, width = x.shape[-2] - size + 1, x.shape[-1] - size + 1
    grown = kernel.new_zeros(planes, 2, 2, planes, size + 1, size + 1)
    for down, right in np.ndindex(2, 2):
        grown[:, down, right, :, down : down + size, right : right + size] = kernel
    x = F.pad(x, (0, width % 2, 0, height % 2))
    out = F.conv2d(x, grown.flatten(0, 2), None if bias is None else bias.repeat_interleave(4), stride=2)
    return F.pixel_shuffle(out, 2)[..., :height, :width]


def _add_clipped(out: Tensor, x: Tensor, factors: Tensor, limit: float | Tensor) -> None:
    """Add to `out` [B, C, H, W] the clipped differences in x, `factors` [B, C, len(CLIPPED), 1, 1] times."""
    for k, place in enumerate(CLIPPED):
        there, back = _both(_clipped(_difference(x, *place), limit), *place)
        out.addcmul_(there - back, factors[:, :, k])


def _difference(x: Tensor, down: int, right: int) -> Tensor:
    """x [..., H + 2 RADIUS, W + 2 RADIUS] `down` and `right` of a pixel less x there: of the inner pixels and, before
    them, of those that see these, [..., H + down, W + abs(right)].
    """
    height, width = x.shape[-2] - 2 * RADIUS + down, x.shape[-1] - 2 * RADIUS + abs(right)
    rows, columns = RADIUS - down, RADIUS - max(right, 0)
    here = x[..., rows : rows + height, columns : columns + width]
    return x[..., RADIUS : RADIUS + height, columns + right : columns + right + width] - here


def _both(pairs: Tensor, down: int, right: int) -> tuple[Tensor, Tensor]:
    """Of something of the shape of `_difference` that of each inner pixel and that of the pixel which sees it."""
    height, width = pairs.shape[-2] - down, pairs.shape[-1] - abs(right)
    there, back = max(right, 0), max(-right, 0)
    return pairs[..., down:, there : there + width], pairs[..., :height, back : back + width]


def _clipped(x: Tensor, limit: float | Tensor) -> Tensor:
    """x, which is changed, at +- `limit`."""
    if isinstance(limit, float):
        return x.clamp_(-limit, limit)
    torch.maximum(x, -limit, out=x)  # a clamp of tensors takes ten times as long
    return torch.minimum(x, limit, out=x)


def _others(plane: int, planes: int) -> list[int]:
    return [other for other in range(planes) if other != plane]


def _add_pairs(kernel: Tensor, places: Sequence[tuple[int, int]], weights: Tensor) -> None:
    """Add to kernels [..., 2 RADIUS + 1, 2 RADIUS + 1] the differences of pairs of neighbors to their middles.

    `weights` are [..., pairs].
    """
    for (down, right), weight in zip(places, weights.unbind(-1), strict=True):
        for sign in (-1, 1):
            kernel[..., RADIUS + sign * down, RADIUS + sign * right] += weight
            kernel[..., RADIUS, RADIUS] -= weight


def _shifted(x: Tensor, down: int, right: int) -> Tensor:
    """x [..., H + 2 RADIUS, W + 2 RADIUS] so many pixels further down and to the right, [..., H, W]."""
    height, width = x.shape[-2] - 2 * RADIUS, x.shape[-1] - 2 * RADIUS
    return x[..., RADIUS + down : RADIUS + down + height, RADIUS + right : RADIUS + right + width]


def fit(systems: Sequence[Equations], worth: float, bits: Callable[[Taps], float]) -> Taps:
    """Taps of least ``bits + worth * error``, or those that change nothing.

    systems
        What taps take off the error, for each plane.
    worth
        Bits that an error of one is worth.
    bits
        What taps cost.
    """
    scaled = [(worth * a, worth * b) for a, b in systems]
    exact = np.stack([solved(a, b) for a, b in scaled])

    def saved(taps: Taps) -> float:
        gain = sum(float(2 * b @ w - w @ a @ w) for (a, b), w in zip(scaled, taps, strict=True))
        return gain - bits(taps)

    nothing, nearest = none(len(scaled)), np.stack([_integers(a, b) for a, b in scaled])
    found = [_fitted(scaled, nearest, _spread(exact)), _fitted(scaled, nothing, 0.3 * _spread(exact))]
    return max([nothing, *found], key=saved)


def _fitted(systems: list[Equations], start: Taps, spread: NDArray[np.float64]) -> Taps:
    """Integers that weigh error against bits, from `start` on, if taps are about as large as `spread`."""
    taps = start.copy()
    for _ in range(2):
        price = math.log2(math.e) / np.maximum(spread, 0.1)  # a Laplacian's, bits for each unit of magnitude
        for plane, (a, b) in enumerate(systems):
            taps[plane] = _descended(a, b, taps[plane], price)
        spread = _spread(taps)
    return taps


def _spread(taps: NDArray[Any]) -> NDArray[np.float64]:
    """Mean magnitude of the taps of its kind, for each tap of a plane."""
    kind, mean = kinds(len(taps)), np.abs(taps).mean(0)
    return np.array([mean[kind == k].mean() for k in kind])


def equations(x_hat: Tensor, x: Tensor, limit: float, samples: int = SAMPLES) -> list[Equations]:
    """For each plane those of its mean squared error over about so many `samples`.

    x_hat
        f32 [C, H + 2 RADIUS, W + 2 RADIUS] in 0..1, what is decoded.
    x
        f32 [C, H, W] in 0..1, the picture there.
    limit
        What differences are clipped at (`clip_at`).
    """
    planes = len(x)
    total = _products(x_hat[None], x[None], limit, samples)[0].cpu().numpy()
    a, b = total[:-planes, :-planes], total[:-planes, -planes:]
    # Planes share most features: one product of all, from which each takes its own.
    return [(a[np.ix_(each, each)], b[each, plane]) for plane, each in enumerate(features_of(planes))]


def features(x_hat: Tensor, limit: float | Tensor, every: int = 1) -> Tensor:
    """What taps of 1 add to pixels, [..., n, h, W], for one row in `every`.

    x_hat is [..., C, H + 2 RADIUS, W + 2 RADIUS]. Planes share many; which are whose says `features_of`.
    """
    planes, rows, limit = x_hat.shape[-3], slice(0, None, every), TAP * limit
    x_hat = TAP * x_hat
    inner = _shifted(x_hat, 0, 0)[..., rows, :]
    sizes = [planes * len(LINEAR), planes * len(CLIPPED), 1, planes]
    out = inner.new_empty(*inner.shape[:-3], sum(sizes), *inner.shape[-2:])
    linear, clipped, constant, color = torch.split(out, sizes, dim=-3)
    for k, (down, right) in enumerate(LINEAR):
        pair = [_shifted(x_hat, sign * down, sign * right)[..., rows, :] - inner for sign in (1, -1)]
        torch.add(*pair, out=linear[..., k * planes : (k + 1) * planes, :, :])
        if (down, right) in CLIPPED:
            at = CLIPPED.index((down, right)) * planes
            torch.add(*(_clipped(each, limit) for each in pair), out=clipped[..., at : at + planes, :, :])
    constant.fill_(TAP * CONSTANT / 255.0)
    torch.sub(inner, TAP * 0.5, out=color).mul_(COLOR)
    return out


def features_of(planes: int) -> list[NDArray[np.intp]]:
    """For each plane the features of its taps, in their order."""
    index = np.arange(planes * (len(LINEAR) + len(CLIPPED)) + 1 + planes)
    differences, colors = index[: -1 - planes].reshape(-1, planes), index[-1 - planes :]
    beside = differences[[LINEAR.index(place) for place in CROSS]]
    return [
        np.concatenate([differences[:, plane], beside[:, _others(plane, planes)].T.reshape(-1), colors])
        for plane in range(planes)
    ]


def _products(x_hat: Tensor, x: Tensor, limit: float | Tensor, samples: int) -> Tensor:
    """Of all features and the planes' errors with each other, means over about so many samples: f64 [B, n + C, n + C].

    x_hat [B, C, H + 2 RADIUS, W + 2 RADIUS], x [B, C, H, W].
    """
    height, width = x.shape[-2:]
    every = height * width // samples | 1  # odd: even ones would see some rows of a position of y and never others
    total: Tensor | float = 0.0
    for top in range(0, height, BAND * every):
        decoded = x_hat[..., top : top + BAND * every + 2 * RADIUS, :]
        error = (x[..., top : top + BAND * every, :] - _shifted(decoded, 0, 0))[..., ::every, :]
        seen = torch.cat([features(decoded, limit, every), error], dim=-3).flatten(-2).double()
        total = total + seen @ seen.mT
    assert isinstance(total, Tensor)
    return total / (width * len(range(0, height, every)))


def solved(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weights of least error; small ones where flat pictures leave them open."""
    w: NDArray[np.float64] = np.linalg.solve(a + np.eye(len(b)) * (1e-9 * np.trace(a) + 1e-12), b)
    return w


def _integers(a: NDArray[np.float64], b: NDArray[np.float64]) -> Taps:
    """Least squares in integers: the most sensitive tap is rounded, the others solved for anew, and so on."""
    w, free = np.zeros(len(b)), np.ones(len(b), bool)
    for j in np.argsort(-np.diag(a)):
        w[free] = solved(a[np.ix_(free, free)], b[free] - a[np.ix_(free, ~free)] @ w[~free])
        w[j], free[j] = np.clip(np.round(w[j]), -TAP_MAX, TAP_MAX), False
    return w.astype(np.int32)


def _descended(
    a: NDArray[np.float64], b: NDArray[np.float64], first: Taps, price: NDArray[np.float64], sweeps: int = 4
) -> Taps:
    """From `first` on: one tap after the other to the integer of least ``w a w - 2 b w + price |w|``."""
    w = first.astype(np.float64)
    for _ in range(sweeps):
        before = w.copy()
        for j in range(len(w)):
            if a[j, j] <= 0.0:
                continue
            best = (b[j] - a[j] @ w + a[j, j] * w[j]) / a[j, j]
            near = np.clip([np.floor(best), np.ceil(best), w[j] - np.sign(w[j]), 0.0], -TAP_MAX, TAP_MAX)
            w[j] = near[np.argmin(a[j, j] * (near - best) ** 2 + price[j] * np.abs(near))]
        if (w == before).all():
            break
    return w.astype(np.int32)


SHRINKAGE = 0.9
"""What is left of the taps of least error in `adapted`: those of files cost bits, and may belong to more pixels."""


def adapted(x_hat: Tensor, x: Tensor, lmbda: Tensor, samples: int = SAMPLES) -> Tensor:
    """x_hat [B, C, H, W], limited to 0..1 as a decoder does, each behind a filter of its own that is fitted to x.

    lmbda [B]. Gradients pass through the filter; its taps are constants to them, which at the least error makes no
    difference (envelope theorem). A device is never waited for.
    """
    seen = padded(x_hat).contiguous()
    limit = (1.0 / (255.0 * lmbda.to(x.device).sqrt()))[:, None, None, None]  # `clip_at` of each
    with torch.no_grad():
        taps = SHRINKAGE * _least_squares(_products(seen, x, limit, samples), x.shape[1])
    out: Tensor = _Filter.apply(seen, taps, limit)  # type: ignore[no-untyped-call]
    return out


def _least_squares(products: Tensor, planes: int) -> Tensor:
    """Taps of least error f32 [B, C, T], from `_products`; as `solved` has them."""
    systems = []
    for plane, each in enumerate(features_of(planes)):
        own = torch.from_numpy(each).to(products.device)
        systems.append((products[:, own[:, None], own], products[:, own, -planes + plane]))
    a, b = (torch.stack(parts, 1) for parts in zip(*systems, strict=True))
    trace = a.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None]
    eye = torch.eye(a.shape[-1], dtype=a.dtype, device=a.device)
    taps: Tensor = torch.linalg.solve_ex(a + eye * (1e-9 * trace + 1e-12), b[..., None]).result[..., 0]
    return taps.float()


class _Filter(torch.autograd.Function):
    """`_filtered` with its gradient; autograd's own would fill a picture of zeros for every neighbor."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, taps: Tensor, limit: Tensor) -> Tensor:
        ctx.save_for_backward(x, taps, limit)
        return _filtered(x, taps, limit)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        x, taps, limit = ctx.saved_tensors
        kernel, _, clipped = kernels(taps)
        turned = kernel.transpose(1, 2).flip(3, 4)
        around = F.pad(grad, 4 * (2 * RADIUS,))
        result = torch.cat([_convolved(each[None], own) for each, own in zip(around, turned, strict=True)])
        into = _shifted(result, 0, 0)
        for k, (down, right) in enumerate(CLIPPED):
            weighed = grad * clipped[:, :, k]
            counts = _both(_difference(x, down, right).abs_() < limit, down, right)
            for sign, each in zip((1, -1), counts, strict=True):
                part = weighed * each
                _shifted(result, sign * down, sign * right).add_(part)
                into.sub_(part)
        return result, None, None
