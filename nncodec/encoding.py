"""Rows of pixels -> sections: latents, what effort makes of them, streams of tiles, one row of tiles at a time.

Knows the networks and windows of pixels; nothing of files. The counterpart of `decoding`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from nncodec import decoding, freqs, picture, postfilter, quadtree, structural, tiling
from nncodec.config import PASSES, PSNR, Y_STRIDE, Z_MAX
from nncodec.container import Color, Header, Section, SectionType
from nncodec.decoding import Progress, device_of, inference, quality_of, tiles
from nncodec.effort import DEFAULT, DESCENT_STEPS, ERROR_WEIGHT, ERROR_WEIGHTS, REFINING_STEPS, hidden, prices, rounded
from nncodec.entropy import Indices, Integers, Symbols
from nncodec.errors import InputError
from nncodec.nets.model import quadtree_pass
from nncodec.objective import MsSsim, Objective, SquaredError
from nncodec.picture import Levels, Outline
from nncodec.postfilter import Taps
from nncodec.rangecoder import RESIDUAL_MAX
from nncodec.refine import Chosen, Frame, descend, error_weights, refine, small_error
from nncodec.rows import Rows
from nncodec.tiling import Rect
from nncodec.weights import Model

FILTERED_PIXELS = 1 << 12
"""What a filter saves in so small a picture is less than it costs to say that there is none."""
GPU_TILES = 16
"""Tiles that share their passes on a GPU. One of 1024 pixels a side has 5 MB of latents; the nets hold some such."""
ASTRAY = 2.0
"""A latent this many steps off was not coded though it should have been: its scale was foretold as next to nothing."""
Z_LIMITS = (4, 2, 1, 0)
"""Magnitudes of z that are tried where latents go astray; in photos they reach 20."""


def tiles_at_once(model: Model) -> int:
    """How many tiles of one size go through the networks together: one on a CPU, which one keeps busy."""
    return 1 if device_of(model).type == "cpu" else GPU_TILES


def hides(model: Model, effort: int = DEFAULT) -> bool:
    """Whether an encoder hides signs: small pictures have too few, and effort 0 has no time."""
    return effort > 0 and not model.config.side


def filters(model: Model, effort: int, of: Outline) -> bool:
    """Whether an encoder fits filters: where it hides signs, not to noise that is to go, nor to FILTERED_PIXELS."""
    return hides(model, effort) and not model.noise and of.width * of.height > FILTERED_PIXELS


def sections(
    model: Model,
    header: Header,
    source: Rows,
    effort: int,
    tune: str,
    error_factor: float,
    progress: Progress | None,
) -> Iterator[Section]:
    """Sections of every tile, in file order; the picture is read one row of tiles at a time.

    `tune` names what errors are counted by (`config.TUNES`); `error_factor` multiplies their worth beside bits.
    """
    price = prices(model.entropy.tables).to(device_of(model)) if effort else None
    small = model.config.side > 0
    steps = (DESCENT_STEPS if small else REFINING_STEPS)[effort]
    if tune != PSNR and not small:
        steps = 0  # for MS-SSIM refinement gains nothing
    own = effort == 0 or tune == model.tune  # the steps that a model was trained with suit what it is tuned for
    usual = ERROR_WEIGHTS[model.tune]
    whole, halo = decoding.plane(header), model.config.analysis_halo
    band, top, done = source.rows(0, 1), 0, 0
    for run in tiling.runs(tiles(header), tiles_at_once(model)):
        if run[0].left == 0:
            top = max(run[0].top - halo, 0)
            band = source.rows(top, min(run[0].bottom + halo, header.height))
        frames = []
        for tile in run:
            window, x, y = analyzed(model, band.color, top, tile, whole, header.quality)
            if model.noise and (steps or not own):  # what is to be kept is what the latents say, not the noise
                with inference():
                    x = model.net.g_s(y, quality_of(model, header.quality)).clamp(0.0, 1.0)
            frames.append(Frame(x, y, tiling.inside(tile, window, Y_STRIDE), _seen(tile, window, header)))
        objectives = [] if own and (small or not steps) else _objectives(model, tune, frames)
        worth = _weights(model, header.quality, objectives) if objectives else usual
        first = Chooser(model, header.quality, price, usual if own else worth, band.is_grey, header.hidden)
        chooser = replace(first, weight=error_factor * worth)
        targets = torch.cat([frame.y[(..., *frame.inner)] for frame in frames])
        z_hat = first.hyper(targets)  # of what g_a gave: of refined targets it costs 0.6 % more
        fit = partial(_fitted, model, header, tune, run, frames) if header.filtered else None
        group = _Group(first, chooser, error_factor, frames, objectives, steps, fit)
        coded = group.coded(targets, z_hat)
        if any(one.astray for one in coded):
            coded = group.coded(targets, first.tamed(targets, z_hat))
        for tile, (stream, *_) in zip(run, coded, strict=True):
            yield Section(SectionType.TILE, stream)
            if band.alpha is not None:
                part = band.alpha[tile.top - top : tile.bottom - top, tile.left : tile.right]
                yield Section(SectionType.ALPHA, picture.encode_alpha(part))
        done += len(run)
        if progress:
            progress(done, header.tiles)


def check(model: Model, of: Outline) -> None:
    """Raises InputError unless `model` codes such a picture."""
    if refusal := model.config.refusal(of.width, of.height, of.is_grey):
        raise InputError(f"{refusal}; convert it, or take other weights")


def _window(color: Levels, rect: Rect) -> Levels:
    """Levels [h, w, 3] of the padded plane: beyond the picture its last row and column repeat."""
    down = np.minimum(np.arange(rect.top, rect.bottom), color.shape[0] - 1)
    across = np.minimum(np.arange(rect.left, rect.right), color.shape[1] - 1)
    part = color[down][:, across]
    return part if part.ndim == 3 else np.repeat(part[..., None], 3, axis=2)


def _seen(tile: Rect, window: Rect, header: Header) -> tuple[slice, slice]:
    """Where in `window` those pixels of `tile` lie that belong to the picture."""
    return tiling.inside(decoding.in_picture(header, tile), window)


def analyzed(
    model: Model, color: Levels, top: int, tile: Rect, whole: Rect, quality: int
) -> tuple[Rect, Tensor, Tensor]:
    """The window of a tile of the plane `whole`, its x f32 [1, 3, h, w] in [0, 1] and y f32 [1, N, h/16, w/16].

    `color` holds the picture's rows from `top` on, as many as the window needs.
    """
    window = tiling.with_halo(tile, model.config.analysis_halo, whole.height, whole.width)
    levels = _window(color, Rect(window.top - top, window.left, window.bottom - top, window.right))
    device = device_of(model)
    peak = np.iinfo(levels.dtype).max
    with inference():
        x = torch.from_numpy(levels if peak == 255 else levels.astype(np.float32)).to(device)
        x = (x.permute(2, 0, 1)[None].float() / float(peak)).contiguous(memory_format=torch.channels_last)
        return window, x, model.net.g_a(x, quality_of(model, quality))


def analyze(model: Model, color: Levels, tile: Rect, quality: int) -> Tensor:
    """Latents y f32 [1, N, h/16, w/16] of one tile, as the full frame would give them."""
    whole = Rect(0, 0, tiling.padded(color.shape[0]), tiling.padded(color.shape[1]))
    window, _, y = analyzed(model, color, 0, tile, whole, quality)
    return y[(..., *tiling.inside(tile, window, Y_STRIDE))]


def _fitted(model: Model, header: Header, tune: str, run: list[Rect], frames: list[Frame], y_hat: Tensor) -> list[Taps]:
    """Taps for tiles of latents y_hat [B, N, h, w]. Around a tile g_s sees y, as what will be decoded is not known."""
    equations = postfilter.equations if tune == PSNR else structural.equations
    whole, planes = decoding.plane(header), 1 if header.color is Color.GREY else 3
    halo, lmbda = model.config.analysis_halo, model.config.lmbda(header.quality)
    beyond = max(decoding.synthesis_halo(model, header) - halo, 0)
    taps = []
    for b, (tile, frame) in enumerate(zip(run, frames, strict=True)):
        shown, window = decoding.in_picture(header, tile), tiling.with_halo(tile, halo, whole.height, whole.width)
        part = tiling.without_halo(shown, tiling.cut(tile, whole), beyond)
        if part.height < 1 or part.width < 1:
            taps.append(postfilter.none(planes))
            continue
        with inference():
            latents = frame.y.clone()
            latents[(..., *frame.inner)] = y_hat[b]
            inner, x_hat = decoding.decoded(model, latents, header, window)
            x = frame.x[(0, slice(planes), *tiling.inside(part, window))]
            seen = decoding.with_margin(postfilter.padded(x_hat), part, inner)
            systems = equations(seen, x, postfilter.clip_at(lmbda))
            worth = 255.0**2 * lmbda * shown.height * shown.width / planes
            taps.append(postfilter.fit(systems, worth, model.entropy.tap_bits))
    return taps


def _objectives(model: Model, tune: str, frames: list[Frame]) -> list[Objective]:
    with inference(), torch.inference_mode(False), torch.no_grad():  # refinement goes backward through them
        if tune == PSNR:
            return [SquaredError(model.net, frame.seen) for frame in frames]
        return [MsSsim(model.net, frame.x.clone(), frame.inner, frame.seen) for frame in frames]


def _weights(model: Model, quality: int, objectives: list[Objective]) -> Tensor:
    """Error weights [B, N, h, w] or [B, N, 1, 1] of tiles."""
    q, lmbda = quality_of(model, quality), model.config.lmbda(quality)
    with inference():
        return torch.cat([error_weights(objective, model.net, q, lmbda) for objective in objectives])


class Coded(NamedTuple):
    """A coded tile: its range-coded stream and what that says, the y_hat [1, N, h, w] it makes, and whether some
    latent is ASTRAY.
    """

    stream: bytes
    symbols: Symbols
    y_hat: Tensor
    astray: bool


@dataclass(frozen=True)
class _Group:
    """Tiles that are coded together. Errors count by `objectives`, refined in `steps`; `fit` makes filters.

    `first` makes the first choice, whatever the error factor, `later` those that follow.
    """

    first: Chooser
    later: Chooser
    error_factor: float
    frames: list[Frame]
    objectives: list[Objective]
    steps: int
    fit: Callable[[Tensor], list[Taps]] | None

    def coded(self, y: Tensor, z_hat: Integers) -> list[Coded]:
        """The tiles with latents y [B, N, h, w]."""
        chooser = self.later
        if self.steps and chooser.model.config.side:  # one tile is the picture
            y = _descended(chooser, self.frames[0].x, y, z_hat, self.steps)
        elif self.steps:
            y, weight = self._refined(y, z_hat)
            chooser = replace(chooser, weight=weight)
        return chooser.encode(y, z_hat, self.fit)

    def _refined(self, y: Tensor, z_hat: Integers) -> tuple[Tensor, Tensor]:
        """Targets of the tiles, and the error weights to choose by: [B, N, h, w] or [B, N, 1, 1].

        Where refinement gains nothing the target is y, and errors weigh what they do to `first`.
        """
        first, steps = self.first, self.steps
        net, q = first.model.net, quality_of(first.model, first.quality)
        lmbda = first.model.config.lmbda(first.quality)
        worth = lmbda * self.error_factor
        behind = None
        if self.fit and not first.grey:  # a grey picture's filter sees the mean of three planes, and is left out
            behind = partial(postfilter.adapted, lmbda=torch.tensor([lmbda]))
        targets, weights = [], []
        for b, (frame, objective) in enumerate(zip(self.frames, self.objectives, strict=True)):
            tile = slice(b, b + 1)
            own, other = first.of(tile), self.later.of(tile)
            chosen = own.tried(y[tile], z_hat[tile], first.hidden)
            choose = partial(other.tried, z_hat=z_hat[tile], conceal=first.hidden)
            target = refine(net, frame, objective, chosen, q, first.grey, steps, choose, worth, behind)
            targets.append(y[tile] if target is None else target)
            weight = torch.as_tensor(other.weight)
            weights.append(weight if target is not None else torch.zeros_like(weight) + self.error_factor * own.weight)
        return torch.cat(targets), torch.cat(weights)


def _descended(chooser: Chooser, x: Tensor, y: Tensor, z_hat: Integers, steps: int) -> Tensor:
    """Targets of a small picture: y, or what descent makes of it where that is worth its bits."""
    model, q = chooser.model, quality_of(chooser.model, chooser.quality)

    def cost(target: Tensor) -> float:
        (coded,) = chooser.encode(target, z_hat)
        with inference():
            error = float(small_error(model.net, x, coded.y_hat, q))
        return 8 * len(coded.stream) / model.config.side**2 + model.config.lmbda(chooser.quality) * error

    choose = partial(chooser.reconstruct, z_hat=z_hat)
    return min(y, descend(model.net, x, y, q, steps, choose), key=cost)


@dataclass(frozen=True)
class Chooser:
    """Picks the residuals of latents y [B, N, h, w] of tiles of one size.

    With `price` (`effort.prices`) bits are weighed against error, of which one squared step is worth `weight`
    bits (a scalar, [B, N, 1, 1] or [B, N, h, w]); without, residuals are rounded. The chroma channels of a `grey`
    picture are not coded. With `hidden`, which needs `price`, `encode` hides signs.
    """

    model: Model
    quality: int
    price: Tensor | None = None
    weight: float | Tensor = ERROR_WEIGHT
    grey: bool = False
    hidden: bool = False

    def of(self, tiles: slice) -> Chooser:
        """For some of the tiles alone."""
        return replace(self, weight=self.weight[tiles]) if isinstance(self.weight, Tensor) else self

    def hyper(self, y: Tensor) -> Integers:
        """z_hat int32 [B, Cz, h/4, w/4]."""
        with inference():
            z = self.model.net.h_a(y, quality_of(self.model, self.quality)).round().clamp(-Z_MAX, Z_MAX)
        z_hat: Integers = z.to("cpu", torch.int32).numpy()
        z_hat[:, self.model.entropy.z_index(self.quality, *z_hat.shape[2:]) == 0] = 0
        return z_hat

    def encode(self, y: Tensor, z_hat: Integers, fit: Callable[[Tensor], list[Taps]] | None = None) -> list[Coded]:
        """Each tile; `fit` makes filters of y_hat [B, N, h, w]."""
        passes = _Passes(self, y, z_hat, self.hidden)
        last = (lambda: fit(passes.y_hat)) if fit else None
        streams = self.model.entropy.encode(z_hat, self.quality, passes.choose, self.grey, self.hidden, last)
        astray = self._astray(y, passes.y_hat).amax((1, 2, 3)).tolist()
        return [Coded(*stream, *more) for stream, *more in zip(streams, passes.y_hat[:, None], astray, strict=True)]

    def tamed(self, y: Tensor, z_hat: Integers) -> Integers:
        """z_hat, limited where latents go astray if that costs less bits and error.

        Patterns unlike any photo make z leave the range that h_s was trained with, and what it then foretells is far
        off: one-pixel lines beside a photo came out at 3 dB, now at 24.
        """
        out = z_hat.copy()
        for b in range(len(z_hat)):
            tile = slice(b, b + 1)
            own, aimed, z = self.of(tile), y[tile], z_hat[tile]
            cells = F.max_pool2d(own._astray(aimed, own.reconstruct(aimed, z)).float(), 4).cpu().numpy() > 0
            tries = [z, *(np.where(cells, z.clip(-limit, limit), z) for limit in Z_LIMITS)]
            out[tile] = min(tries, key=partial(own._cost, aimed))
        return out

    def _cost(self, y: Tensor, z_hat: Integers) -> float:
        """Bits of one tile's residuals, and its latents' errors by their weight."""
        y_hat, bits = self.tried(y, z_hat, False)
        return bits + float((self.weight * self._off(y, y_hat).square()).sum())

    def _off(self, y: Tensor, y_hat: Tensor) -> Tensor:
        """Errors in steps, of the shape of y."""
        with inference():
            return (y_hat - y) * self.model.net.gain(quality_of(self.model, self.quality))

    def _astray(self, y: Tensor, y_hat: Tensor) -> Tensor:
        """Whether some latent of a position is ASTRAY, bool [B, 1, h, w]."""
        return self._off(y, y_hat).abs().amax(1, keepdim=True) > ASTRAY

    def reconstruct(self, y: Tensor, z_hat: Integers) -> Tensor:
        """y_hat [1, N, h, w] of one tile, without coding it."""
        passes = _Passes(self, y, z_hat, False)
        for _ in self._walk(passes, z_hat):
            pass
        return passes.y_hat

    def tried(self, y: Tensor, z_hat: Integers, conceal: bool) -> Chosen:
        """The same, and the bits of its residuals; with `conceal` signs are hidden as `encode` would, but counted."""
        passes, tables = _Passes(self, y, z_hat, conceal), self.model.entropy.tables
        bits = sum(freqs.bits(tables, *each) for each in self._walk(passes, z_hat))
        return passes.y_hat, bits

    def _walk(self, passes: _Passes, z_hat: Integers) -> Iterator[tuple[Integers, Indices]]:
        """Residuals and scale indices [N, h/2, w/2] of each pass over one tile, as they are chosen."""
        indices = self.model.entropy.passes(z_hat[0], self.quality, self.grey)
        index = next(indices)
        for k in range(PASSES):
            residuals = passes.choose(k, index[None])[0]
            yield residuals, index
            if k < PASSES - 1:
                index = indices.send(residuals)


def encode_tile(model: Model, y: Tensor, quality: int, price: Tensor | None = None) -> tuple[bytes, Symbols]:
    """Range-coded stream and symbols of the latents y [1, N, h, w] of one tile, without refinement."""
    chooser = Chooser(model, quality, price, hidden=price is not None and hides(model))
    return chooser.encode(y, chooser.hyper(y))[0][:2]


class _Passes:
    """The passes over some tiles: `choose` picks the residuals of one, `y_hat` is what they have come to.

    With `conceal` signs are hidden.
    """

    def __init__(self, by: Chooser, y: Tensor, z_hat: Integers, conceal: bool) -> None:
        self._by, self._y, self._net, self._conceal = by, y, by.model.net, conceal
        with inference():
            self._q = quality_of(by.model, by.quality)
            self._features = self._net.mean_net.features(torch.from_numpy(z_hat).float().to(y.device))
            self._gain = self._net.gain(self._q)
            self.y_hat = torch.zeros_like(y)

    def choose(self, k: int, index: Indices) -> Integers:
        """Residuals int32 [B, N, h/2, w/2] of pass k under these scale indices."""
        by = self._by
        with inference():
            means = self._net.mean_net.means(self._features, self.y_hat, self._q, k)
            residual = ((quadtree_pass(self._y, k) - means) * self._gain).clamp(-RESIDUAL_MAX, RESIDUAL_MAX)
            scale_index = torch.from_numpy(index).to(means.device)
            if by.price is None:
                r = residual.round().masked_fill_(scale_index == 0, 0)
            else:
                r = rounded(residual, scale_index, by.price, self._weight(k))
            chosen = r.to("cpu", torch.int32).numpy()
            if self._conceal and by.price is not None:
                exact, price, weight = residual.cpu().numpy(), by.price.cpu().numpy(), self._weight(k)
                worth = weight.cpu().numpy() if isinstance(weight, Tensor) else [weight] * len(chosen)
                tiles = zip(chosen, exact, index, worth, strict=True)
                chosen = np.stack([hidden(c, e, i, price, w) for c, e, i, w in tiles])
                r = torch.from_numpy(chosen).to(means.device)
            quadtree.put(self.y_hat, k, means + r / self._gain)
            return chosen

    def _weight(self, k: int) -> float | Tensor:
        """Error weights of pass k."""
        weight = self._by.weight
        return quadtree_pass(weight, k) if isinstance(weight, Tensor) and weight.shape[-1] > 1 else weight
