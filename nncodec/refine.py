"""Refined targets for latents: decode, compare with the picture, move what is aimed at, choose again.

Knows networks and pixels of one tile; what residual is then chosen is `effort`'s.

A step is Newton's on the error of the decoded tile, as an `objective` counts it. The linear path of g_s is close to
orthogonal, so its columns give the curvature, and a handful of steps do what gradient descent needs hundreds for.
The error weight of each latent follows from the same curvature and lambda.

Small pictures of one size have no such path, and networks small enough for gradient descent: `descend`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from nncodec import metrics
from nncodec.nets.model import CodecNet
from nncodec.objective import MIX_MSE, MS_SSIM_FACTOR, Inner, Objective

ERROR_FACTOR = 1.2
"""Error weights over those of theory: choosing a residual also moves the context of those after it."""

STEP = 0.5
"""Share of a Newton step that is taken; measured on photos."""

DESCENT_RATE = 0.3
"""Adam's learning rate in quantization steps, falling linearly to zero."""

Choose = Callable[[Tensor], Tensor]
"""Target y [1, N, h, w] -> the y_hat that is chosen for it."""
Chosen = tuple[Tensor, float]
"""A y_hat [1, N, h, w] and the bits of its residuals."""


class Frame(NamedTuple):
    """A tile in its surroundings.

    x, y
        f32 [1, 3, H, W] in [0, 1] of the tile and its halo, and latents [1, N, H/16, W/16] as g_a gives them.
    inner, seen
        Where in y the tile lies; where in x its pixels lie that belong to the picture.
    """

    x: Tensor
    y: Tensor
    inner: Inner
    seen: Inner


def error_weights(objective: Objective, net: CodecNet, quality: Tensor, lmbda: float) -> Tensor:
    """Bits that a squared error of one step is worth, of the shape of the curvature."""
    return ERROR_FACTOR * lmbda / 3.0 * objective.curvature / net.gain(quality) ** 2


def refine(
    net: CodecNet,
    frame: Frame,
    objective: Objective,
    chosen: Chosen,
    quality: Tensor,
    grey: bool,
    steps: int,
    choose: Callable[[Tensor], Chosen],
    lmbda: float,
    filtered: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> Tensor | None:
    """Target [1, N, h, w] of least bits + error for the latents of a tile, of `steps` that are tried.

    None stands for what is `chosen` without refinement, where no step gains. One that does not is halved.
    `filtered` makes of x_hat and x [1, 3, H, W] what the tile's filter will (`postfilter.adapted`). Around the
    tile, where what will be decoded is not known yet, g_s sees y as it is.
    """
    step_size = 1.0 / (2.0 * objective.curvature)
    latents = frame.y.clone()
    target = start = frame.y[(..., *frame.inner)]
    best: Tensor | None = None
    least = math.inf
    for step in range(steps + 1):
        y_hat, bits = choose(target) if step else chosen
        latents[(..., *frame.inner)] = y_hat
        error, gradient = _gradient(net, objective, frame.x, latents, quality, grey, filtered, step < steps)
        cost = bits + lmbda / 3.0 * error
        if cost > least:  # a step too far: the linear path is a rough guide to some pictures
            target = torch.lerp(start, target, 0.5)
            continue
        best, least, start = target if step else None, cost, target
        if gradient is not None:
            target = torch.lerp(target, y_hat - step_size * gradient[(..., *frame.inner)], STEP)
    return best


def _gradient(
    net: CodecNet,
    objective: Objective,
    x: Tensor,
    y_hat: Tensor,
    quality: Tensor,
    grey: bool,
    filtered: Callable[[Tensor, Tensor], Tensor] | None,
    wanted: bool,
) -> tuple[float, Tensor | None]:
    """The error, and its gradient by y_hat where it is `wanted`."""
    with torch.inference_mode(False), torch.set_grad_enabled(wanted):
        latents = y_hat.clone().requires_grad_(wanted)  # clones leave inference mode
        x_hat, x = net.g_s(latents, quality.clone()), x.clone()
        difference = 255.0 * ((filtered(x_hat, x) if filtered else x_hat) - x)
        if grey:  # what a grey picture's decoder shows is the mean of the three planes
            difference = difference.mean(1, keepdim=True) * 3.0**0.5
        error = objective.error(difference)
        gradient = torch.autograd.grad(error, latents)[0] if wanted else None
    return float(error.detach()), gradient


def descend(net: CodecNet, x: Tensor, y: Tensor, quality: Tensor, steps: int, choose: Choose) -> Tensor:
    """Target [1, N, 4, 4] for the latents y of a picture x f32 [1, 3, H, W] in [0, 1] of arch 'dense'.

    Adam on `small_error`, through what is chosen for the target as if choosing were the identity.
    """
    gain = net.gain(quality).clone()
    target = y * gain
    mean, square = torch.zeros_like(target), torch.zeros_like(target)
    for step in range(steps):
        with torch.inference_mode(False), torch.enable_grad():
            latents = choose(target / gain).clone().requires_grad_(True)
            (gradient,) = torch.autograd.grad(small_error(net, x.clone(), latents, quality.clone()), latents)
        gradient = gradient / gain
        mean = torch.lerp(mean, gradient, 0.1)
        square = torch.lerp(square, gradient**2, 0.01)
        update = mean / (1 - 0.9 ** (step + 1)) / ((square / (1 - 0.99 ** (step + 1))).sqrt() + 1e-9)
        target = target - DESCENT_RATE * (1 - step / steps) * update
    return target / gain


def small_error(net: CodecNet, x: Tensor, y_hat: Tensor, quality: Tensor) -> Tensor:
    """What weights of arch 'dense' were trained to keep small: 1 - SSIM and a tenth of the squared error, []."""
    side = net.config.side
    shown = net.g_s(y_hat, quality)[:, :1, :side, :side].clamp(0.0, 1.0)
    original = x[:, :1, :side, :side]
    similarity = metrics.similarities(255.0 * shown, 255.0 * original)
    error = (255.0 * (shown - original)).square().mean((1, 2, 3))
    total: Tensor = (MS_SSIM_FACTOR * (1.0 - similarity) + MIX_MSE * error).sum()
    return total
