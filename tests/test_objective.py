"""What refinement minimizes is what it claims to be, and minimizing it pays."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nncodec import codec, metrics, weights
from nncodec.config import MS_SSIM, PSNR
from nncodec.errors import InputError, ModelMismatchError
from nncodec.objective import MIX_MSE, MS_SSIM_FACTOR, MsSsim, SquaredError, columns
from nncodec.weights import Model

COFFEE = Path(__file__).resolve().parent.parent / "examples" / "coffee.png"
WHOLE = (slice(None), slice(None))


@pytest.fixture(scope="module")
def coffee() -> np.ndarray:
    """u8 [256, 320, 3]: cup, spoon, table."""
    with Image.open(COFFEE) as image:
        return np.asarray(image.convert("RGB"))[64:320, 96:416]


def _frame(pixels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 255


@pytest.mark.parametrize("smooth", [False, True])
def test_error_follows_ms_ssim(tiny: Model, coffee: np.ndarray, smooth: bool) -> None:
    noise = np.random.default_rng(0).normal(0, 2, coffee.shape)
    if smooth:  # errors of low frequency meet the coarse levels
        noise = np.asarray(Image.fromarray(noise[::8, ::8, 0]).resize(coffee.shape[1::-1]))[..., None]
    changed = np.clip(coffee + noise, 0, 255).astype(np.uint8)
    difference = 255 * (_frame(changed) - _frame(coffee))
    objective = MsSsim(tiny.net, _frame(coffee), WHOLE, WHOLE)
    structure = float(objective.error(difference) - MIX_MSE * difference.square().sum())
    lost = 1 - metrics.ms_ssim(coffee, changed)
    assert lost > 0.002
    assert structure / (MS_SSIM_FACTOR * coffee.size) == pytest.approx(lost, rel=0.15)


@pytest.mark.parametrize("kind", [PSNR, MS_SSIM])
def test_curvature_is_the_error_of_one_unit(tiny: Model, coffee: np.ndarray, kind: str) -> None:
    objective = SquaredError(tiny.net, WHOLE) if kind == PSNR else MsSsim(tiny.net, _frame(coffee), WHOLE, WHOLE)
    curvature = objective.curvature.expand(1, -1, 16, 20)
    ratios = []
    for channel in (0, 1, 5, 20):
        for row, column in ((3, 4), (9, 12), (14, 6)):
            difference = torch.zeros(1, 3, 256, 320)
            block = columns(tiny.net)[channel]
            difference[0, :, 16 * row : 16 * row + 16, 16 * column : 16 * column + 16] = block
            ratios.append(float(objective.error(difference) / curvature[0, channel, row, column]))
    # The weight's mean over a block stands for the weight itself, so single blocks differ.
    assert np.mean(ratios) == pytest.approx(1.0, abs=1e-4 if kind == PSNR else 0.2)
    assert max(ratios) / min(ratios) < (1.0001 if kind == PSNR else 3)


def test_only_what_is_seen_counts(tiny: Model, coffee: np.ndarray) -> None:
    seen = (slice(0, 64), slice(0, 320))
    difference = torch.zeros(1, 3, 256, 320)  # five rows of the coarsest level are 80
    difference[:, :, 160:] = torch.randn(1, 3, 96, 320, generator=torch.Generator().manual_seed(0))
    for objective in (SquaredError(tiny.net, seen), MsSsim(tiny.net, _frame(coffee), WHOLE, seen)):
        assert objective.error(difference) == 0
        difference[:, :, 20:40] = 1.0
        assert objective.error(difference) > 0
        difference[:, :, 20:40] = 0.0


def _cost(pixels: np.ndarray, model: Model, tune: str | None, effort: int) -> tuple[float, float]:
    """bpp + lambda distortion of the whole file, by squared error and by MS-SSIM."""
    data = codec.compress(pixels, 40, model, effort=effort, tune=tune)
    decoded = codec.decompress(data, model=model).color
    bpp, lmbda = metrics.bpp(len(data), pixels.shape[1], pixels.shape[0]), model.config.lmbda(40)
    mse = float(np.mean((decoded.astype(float) - pixels) ** 2))
    lost = MS_SSIM_FACTOR * (1 - metrics.ms_ssim(pixels, decoded)) + MIX_MSE * mse
    return bpp + lmbda * mse, bpp + lmbda * lost


@pytest.mark.weights
def test_effort_pays_in_what_it_is_tuned_for(coffee: np.ndarray) -> None:
    fast = codec.load_model("fast", "cpu")
    plain, weighed, refined = (_cost(coffee, fast, PSNR, effort) for effort in (0, 1, 3))
    by_eye = _cost(coffee, fast, MS_SSIM, 1)
    assert refined[0] < weighed[0] < plain[0]
    assert by_eye[1] < weighed[1]
    assert by_eye[0] > weighed[0]
    assert _cost(coffee, fast, None, 1) == weighed


@pytest.mark.weights
def test_tuning_saves_bits_at_equal_ms_ssim(coffee: np.ndarray) -> None:
    fast = codec.load_model("fast", "cpu")
    curves = []
    for tune in (PSNR, MS_SSIM):
        points = []
        for quality in (20, 30, 40, 50):
            data = codec.compress(coffee, quality, fast, tune=tune)
            similarity = metrics.ms_ssim(coffee, codec.decompress(data, model=fast).color)
            points.append(metrics.Point(8 * len(data) / coffee[..., 0].size, metrics.similarity_db(similarity)))
        curves.append(points)
    saved = metrics.bd_rate(*curves)
    assert saved is not None
    assert saved.percent < -5


@pytest.mark.weights
@pytest.mark.parametrize("weights", ["fast", "fast-ssim"])
def test_refinement_is_left_out_where_it_gains_nothing(coffee: np.ndarray, weights: str) -> None:
    model = codec.load_model(weights, "cpu")
    files = {codec.compress(coffee, 40, model, effort=effort, tune=MS_SSIM) for effort in (1, 2, 3)}
    assert len(files) == 1


@pytest.mark.weights
def test_grey_pictures_are_tuned_too(coffee: np.ndarray) -> None:
    fast = codec.load_model("fast", "cpu")
    grey = coffee[..., 1].copy()
    sizes = {tune: len(codec.compress(grey, 40, fast, effort=2, tune=tune)) for tune in (PSNR, MS_SSIM)}
    for tune, size in sizes.items():
        decoded = codec.decompress(codec.compress(grey, 40, fast, effort=2, tune=tune), model=fast).color
        assert decoded.shape == grey.shape, tune
        assert metrics.ms_ssim(grey, decoded) > 0.95
        assert size < grey.size / 8
    assert sizes[PSNR] != sizes[MS_SSIM]


@pytest.mark.weights
def test_tiles_are_weighed_like_the_whole(coffee: np.ndarray) -> None:
    """Each tile's weights see its surroundings, not all of the picture."""
    fast = codec.load_model("fast", "cpu")
    whole, tiled = (len(codec.compress(coffee, 40, fast, effort=2, tune=MS_SSIM, tile_log2=side)) for side in (10, 7))
    plain = len(codec.compress(coffee, 40, fast, effort=2, tile_log2=7))
    assert whole < tiled < 1.1 * whole
    assert tiled != plain


def test_unknown_tune_is_refused(tiny: Model, coffee: np.ndarray) -> None:
    with pytest.raises(InputError, match="must be one of psnr, ms-ssim"):
        codec.compress(coffee, 60, tiny, tune="vmaf")


def test_weights_say_what_they_were_trained_for(tiny_path: Path, tmp_path: Path) -> None:
    import safetensors.torch

    description = weights.describe(tiny_path)
    assert description.tune == PSNR
    tensors = safetensors.torch.load_file(tiny_path)
    path = tmp_path / "eyes.safetensors"
    weights.save(tensors, "eyes", description.config, path, {"tune": MS_SSIM})
    assert weights.load(weights.describe(path)).tune == MS_SSIM
    weights.save(tensors, "odd", description.config, path, {"tune": "sharpness"})
    with pytest.raises(ModelMismatchError, match="tuned for 'sharpness'"):
        weights.describe(path)
