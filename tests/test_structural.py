"""Filters fitted for MS-SSIM: their equations are its derivative, and what they choose is better by it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nncodec import codec, metrics, postfilter, structural
from nncodec.objective import MIX_MSE, MS_SSIM_FACTOR

ROOT = Path(__file__).resolve().parent.parent
LIMIT = postfilter.clip_at(0.02)


def pair(height: int, width: int, planes: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    """A photograph x [C, H, W] and what blurring and noise leave of it, padded as filters see it."""
    photo = np.asarray(Image.open(ROOT / "examples" / "coffee.png"))[100 : 100 + height, 150 : 150 + width, :planes]
    x = torch.from_numpy(photo.astype(np.float32) / 255).permute(2, 0, 1)
    noise = 0.01 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    return x, postfilter.padded(torch.nn.functional.avg_pool2d(x[None], 3, 1, 1)[0] + noise)


def distortion(x_hat: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """What `structural.equations` counts, for each plane [C]."""
    from pytorch_msssim import ms_ssim

    similarity = ms_ssim(x_hat[:, None], x[:, None], data_range=1.0, size_average=False)
    return MS_SSIM_FACTOR / 255**2 * (1 - similarity) + MIX_MSE * (x_hat - x).square().mean((1, 2))


@pytest.mark.parametrize("planes", [1, 3])
def test_equations_are_the_slope_of_ms_ssim(planes: int) -> None:
    """With every window looked at; those that reach over bands are not, so the two are close but not equal."""
    x, x_hat = pair(256, 320, planes)
    features = postfilter.features(x_hat, LIMIT)
    middle = x_hat[:, postfilter.RADIUS : -postfilter.RADIUS, postfilter.RADIUS : -postfilter.RADIUS]
    own = postfilter.features_of(planes)
    found = structural.equations(x_hat, x, LIMIT, samples=1 << 30)
    for plane, (_, b) in enumerate(found):
        w = torch.zeros(len(own[plane]), requires_grad=True)
        change = (w[:, None, None] * features[own[plane]]).sum(0)
        moved = torch.stack([middle[c] + (change if c == plane else 0.0) for c in range(planes)])
        distortion(moved, x)[plane].backward()
        slope = -w.grad.numpy()
        assert slope @ (2 * b) / np.linalg.norm(slope) / np.linalg.norm(2 * b) > 0.99
        assert 0.9 < np.linalg.norm(2 * b) / np.linalg.norm(slope) < 1.1


def test_equations_say_what_taps_gain() -> None:
    x, x_hat = pair(256, 320)
    before = distortion(postfilter.filtered(x_hat, postfilter.none(3), 0.02), x)
    systems = structural.equations(x_hat, x, LIMIT)
    taps = np.stack([postfilter.solved(a, b) for a, b in systems])
    gained = (before - distortion(postfilter.filtered(x_hat, taps, 0.02), x)).numpy()
    said = [2 * b @ w - w @ a @ w for (a, b), w in zip(systems, taps, strict=True)]
    plain = [postfilter.solved(a, b) for a, b in postfilter.equations(x_hat, x, LIMIT)]
    other = (before - distortion(postfilter.filtered(x_hat, np.stack(plain), 0.02), x)).numpy()
    assert (gained > other).all()
    assert gained == pytest.approx(said, rel=0.2)


@pytest.mark.parametrize("shape", [(700, 8), (8, 700), (40, 150), (1, 5000)])
def test_pictures_too_small_for_windows(shape: tuple[int, int]) -> None:
    x, x_hat = (torch.rand(3, *shape, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    x_hat = postfilter.padded(x_hat)
    found = structural.equations(x_hat, x, LIMIT)
    assert all(np.isfinite(a).all() and np.isfinite(b).all() for a, b in found)
    if min(shape) < metrics.WINDOW:
        for (a, b), (c, d) in zip(found, postfilter.equations(x_hat, x, LIMIT), strict=True):
            assert np.allclose(a, MIX_MSE * c, rtol=0.02, atol=1e-7)
            assert np.allclose(b, MIX_MSE * d, rtol=0.02, atol=1e-7)


@pytest.mark.weights
@pytest.mark.parametrize("name", ["fast", "fast-ssim"])
def test_filters_for_ms_ssim_pay(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = codec.load_model(name, "cpu")
    cup = np.asarray(Image.open(ROOT / "examples" / "coffee.png").convert("RGB"))
    ours = {quality: codec.compress(cup, quality, model, tune="ms-ssim") for quality in (20, 60)}
    monkeypatch.setattr(structural, "equations", postfilter.equations)
    for quality, data in ours.items():
        other = codec.compress(cup, quality, model, tune="ms-ssim")
        costs = []
        for each in (data, other):
            closeness = metrics.closeness(cup, codec.decompress(each, model=model).color)
            error = MS_SSIM_FACTOR * (1 - closeness.ms_ssim) + MIX_MSE * 255**2 * 10 ** (-closeness.psnr / 10)
            costs.append(8 * len(each) / cup[..., 0].size + model.config.lmbda(quality) * error)
        assert costs[0] < costs[1]
