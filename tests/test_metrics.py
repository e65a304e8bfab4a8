"""Metrics: agreement with scikit-image, torchmetrics, pytorch-msssim; edges; BD-rate."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from nncodec import metrics
from nncodec.errors import InputError
from nncodec.metrics import Point

Pixels = NDArray[np.uint8]


def photo_like(height: int, width: int, seed: int = 0) -> Pixels:
    """u8 [H,W,3] with the spectrum of a photograph: noise whose amplitude falls with frequency."""
    rng = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    spectrum = np.fft.rfft2(rng.normal(size=(3, height, width))) / (frequency + 0.01) ** 1.2
    planes = np.fft.irfft2(spectrum, s=(height, width))
    planes = 128 + 50 * planes / planes.std()
    return np.clip(planes, 0, 255).astype(np.uint8).transpose(1, 2, 0)


def coarser(pixels: Pixels, step: int) -> Pixels:
    """The same picture with values rounded to multiples of `step`."""
    return (np.rint(pixels / step) * step).clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module", params=[8, 40])
def pair(request: pytest.FixtureRequest) -> tuple[Pixels, Pixels]:
    a = photo_like(192, 256)
    return a, coarser(a, request.param)


def planes(pixels: Pixels):
    import torch

    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))[None].float()


def test_similarities_of_a_batch_are_those_of_its_pictures(pair: tuple[Pixels, Pixels]) -> None:
    import torch

    a, b = (np.stack([x[:28, :28], x[90:118, 50:78]]) for x in pair)
    found = metrics.similarities(*(torch.from_numpy(x.transpose(0, 3, 1, 2)).float() for x in (a, b)))
    expected = [metrics.ssim(np.ascontiguousarray(x), np.ascontiguousarray(y)) for x, y in zip(a, b, strict=True)]
    assert found.tolist() == pytest.approx(expected, abs=1e-4)


def test_psnr_equals_scikit_image(pair: tuple[Pixels, Pixels]) -> None:
    reference = pytest.importorskip("skimage.metrics")
    expected = reference.peak_signal_noise_ratio(*pair, data_range=255)
    assert metrics.psnr(*pair) == pytest.approx(expected, abs=1e-6)


def test_ssim_equals_scikit_image(pair: tuple[Pixels, Pixels]) -> None:
    reference = pytest.importorskip("skimage.metrics")
    expected = reference.structural_similarity(
        *pair, channel_axis=2, data_range=255, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
    )
    assert metrics.ssim(*pair) == pytest.approx(expected, abs=1e-4)


def test_ssim_equals_torchmetrics_where_its_window_lies_inside(pair: tuple[Pixels, Pixels]) -> None:
    """torchmetrics also counts windows that hang over the edge, which Wang et al. and scikit-image do not."""
    reference = pytest.importorskip("torchmetrics.functional.image")
    _, similarity = reference.structural_similarity_index_measure(
        planes(pair[1]), planes(pair[0]), data_range=255.0, return_full_image=True
    )
    assert metrics.ssim(*pair) == pytest.approx(float(similarity[..., 5:-5, 5:-5].mean()), abs=1e-4)


def test_ms_ssim_equals_torchmetrics() -> None:
    """Up to torchmetrics' windows over the edge of the coarsest level: hence a picture that is not small."""
    reference = pytest.importorskip("torchmetrics.functional.image")
    a = photo_like(512, 768, seed=1)
    b = coarser(a, 24)
    expected = float(reference.multiscale_structural_similarity_index_measure(planes(b), planes(a), data_range=255.0))
    assert metrics.ms_ssim(a, b) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(("height", "width"), [(192, 256), (161, 203)])
def test_ms_ssim_equals_pytorch_msssim_also_for_odd_sides(height: int, width: int) -> None:
    reference = pytest.importorskip("pytorch_msssim")
    a = photo_like(height, width, seed=3)
    b = coarser(a, 30)
    expected = float(reference.ms_ssim(planes(a), planes(b), data_range=255))
    assert metrics.ms_ssim(a, b) == pytest.approx(expected, abs=1e-6)


def test_closeness_agrees_with_the_single_metrics(pair: tuple[Pixels, Pixels]) -> None:
    close = metrics.closeness(*pair)
    assert close == (metrics.psnr(*pair), metrics.ssim(*pair), metrics.ms_ssim(*pair))


def test_equal_pictures_are_infinitely_close() -> None:
    a = photo_like(176, 176)
    close = metrics.closeness(a, a.copy())
    assert close.psnr == math.inf
    assert close.ssim == pytest.approx(1, abs=1e-6)
    assert close.ms_ssim == pytest.approx(1, abs=1e-6)
    assert metrics.similarity_db(1.0) == math.inf


def test_one_level_of_error_everywhere_is_48_13_db() -> None:
    a = np.full((20, 30, 3), 100, np.uint8)
    assert metrics.psnr(a, a + np.uint8(1)) == pytest.approx(20 * math.log10(255))
    assert metrics.psnr(a + np.uint8(1), a) == metrics.psnr(a, a + np.uint8(1))


def test_small_pictures_lack_only_what_does_not_fit() -> None:
    narrow = photo_like(160, 400)
    close = metrics.closeness(narrow, coarser(narrow, 16))
    assert math.isnan(close.ms_ssim)
    assert math.isfinite(close.ssim)
    tiny = narrow[:10, :10]
    assert math.isnan(metrics.closeness(tiny, tiny).ssim)
    assert math.isfinite(metrics.ms_ssim(photo_like(161, 161), photo_like(161, 161, seed=2)))


def test_gray_equals_the_same_gray_three_times() -> None:
    a = photo_like(170, 180)[..., 0]
    b = coarser(a, 20)
    assert metrics.closeness(a, b) == pytest.approx(metrics.closeness(np.dstack([a] * 3), np.dstack([b] * 3)))


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (np.zeros((4, 4, 3), np.uint8), np.zeros((4, 5, 3), np.uint8)),
        (np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4), np.uint8)),
        (np.zeros((4, 4, 3)), np.zeros((4, 4, 3))),
        (np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8)),
        (np.zeros((0, 4, 3), np.uint8), np.zeros((0, 4, 3), np.uint8)),
    ],
)
def test_pictures_that_cannot_be_compared_are_refused(a: Pixels, b: Pixels) -> None:
    for metric in (metrics.psnr, metrics.ssim, metrics.ms_ssim):
        with pytest.raises(InputError, match=r"\["):
            metric(a, b)


def test_bpp_counts_bits() -> None:
    assert metrics.bpp(1000, 100, 40) == 2.0


CURVE = [Point(0.1, 28.0), Point(0.2, 30.5), Point(0.4, 33.0), Point(0.8, 36.0), Point(1.6, 39.5)]


def scaled(factor: float) -> list[Point]:
    return [Point(p.bpp * factor, p.quality) for p in CURVE]


@pytest.mark.parametrize("factor", [0.5, 0.9, 1.0, 2.0])
def test_bd_rate_of_a_curve_scaled_in_rate_is_the_scale(factor: float) -> None:
    pytest.importorskip("bjontegaard")
    bd = metrics.bd_rate(CURVE, scaled(factor))
    assert bd is not None
    assert bd.percent == pytest.approx(100 * (factor - 1), abs=1e-6)
    assert (bd.low, bd.high) == (28.0, 39.5)


def test_bd_rate_does_not_depend_on_the_order_or_on_points_that_gain_nothing() -> None:
    pytest.importorskip("bjontegaard")
    worse = Point(0.5, 33.01)
    assert metrics.bd_rate([worse, *CURVE[::-1]], scaled(0.8)) == metrics.bd_rate(CURVE, scaled(0.8))


def test_bd_rate_is_none_where_it_would_mean_nothing() -> None:
    above = [Point(p.bpp, p.quality + 11.0) for p in CURVE]
    assert metrics.bd_rate(CURVE, above) is None  # half a decibel in common
    assert metrics.bd_rate(CURVE, CURVE[:3]) is None
    assert metrics.bd_rate(CURVE, []) is None
