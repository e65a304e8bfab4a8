"""Encoder-side search lowers what it minimises, and never leaves the format."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT
from PIL import Image

from nncodec import codec, effort, encoding, freqs, metrics, weights
from nncodec.config import TINY
from nncodec.errors import InputError
from nncodec.freqs import FIRST, REACH_MAX
from nncodec.nets.model import CodecNet
from nncodec.rangecoder import RESIDUAL_MAX
from nncodec.train import export
from nncodec.train.export import gaussian_tables
from nncodec.weights import Model

TABLES = gaussian_tables()
PRICE = effort.prices(TABLES)


def test_prices_are_the_tables_bits() -> None:
    for index in (1, 20, 63):
        for magnitude in (0, 1, 7, REACH_MAX + 1):
            expected = freqs.bits(TABLES, np.array([-magnitude], np.int32), np.array([index], np.uint8))
            assert float(PRICE[index, magnitude]) == pytest.approx(expected, rel=1e-5)


def test_choice_is_the_cheaper_neighbor() -> None:
    torch.manual_seed(0)
    index = torch.randint(1, FIRST, (4000,))
    residual = torch.randn(4000) * 3
    chosen = effort.rounded(residual, index, PRICE)

    def cost(r: torch.Tensor) -> torch.Tensor:
        return PRICE[index, r.abs().long()] + effort.ERROR_WEIGHT * (r - residual).square()

    floor = residual.abs().floor().copysign(residual)
    ceil = residual.abs().ceil().copysign(residual)
    assert torch.allclose(cost(chosen), torch.minimum(cost(floor), cost(ceil)), rtol=1e-5)
    assert not torch.equal(chosen, residual.round())


def test_uncoded_positions_stay_zero_however_large() -> None:
    residual = torch.tensor([0.4, -0.9, 7.3])
    assert (effort.rounded(residual, torch.zeros(3, dtype=torch.uint8), PRICE) == 0).all()


def test_extreme_residuals_stay_in_range() -> None:
    residual = torch.tensor([RESIDUAL_MAX - 0.5, -RESIDUAL_MAX + 0.2, 300.7])
    chosen = effort.rounded(residual, torch.tensor([63, 1, 40]), PRICE)
    assert chosen.abs().max() <= RESIDUAL_MAX
    assert ((chosen - residual).abs() < 1).all()


def test_default_effort_saves_bytes(photo: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "plain.safetensors"  # untrained, so that its scales are those of theory
    weights.save(export.build(CodecNet(TINY), export.gaussian_tables()), "plain", TINY, path)
    model = weights.load(weights.describe(path))
    plain = codec.compress(photo, 5, model, effort=0)
    assert len(codec.compress(photo, 5, model)) < 0.98 * len(plain)
    assert codec.compress(photo, 5, model, effort=1) == codec.compress(photo, 5, model)


@pytest.mark.parametrize("level", [-1, 4, "high"])
def test_unknown_effort_is_refused(tiny: Model, photo: np.ndarray, level: object) -> None:
    with pytest.raises(InputError, match="the levels are 0, 1, 2, 3"):
        codec.compress(photo, 60, tiny, effort=level)  # type: ignore[arg-type]


@pytest.mark.weights
@pytest.mark.parametrize("level", effort.LEVELS)
@pytest.mark.parametrize("stripes", ["lines", "columns"])
def test_stripes_do_not_spoil_the_photo_beside_them(level: int, stripes: str) -> None:
    """z leaves its usual range for them: the photo came out at 10 to 20 dB, the stripes at 3."""
    beside = np.asarray(Image.open(ROOT / "examples" / "coffee.png").convert("RGB"))[:256, 64:320].copy()
    alone = codec.compress(beside, 50, "fast", effort=level)
    photo = codec.decompress(alone).color[:224]
    beside[240:] = 255 * (np.indices((16, 256, 1))[0 if stripes == "lines" else 1] % 2)
    data = codec.compress(beside, 50, "fast", effort=level)
    color = codec.decompress(data).color
    assert metrics.psnr(beside[:224], color[:224]) > metrics.psnr(beside[:224], photo) - 1.0
    assert metrics.psnr(beside[240:], color[240:]) > 20.0
    assert len(data) < 1.4 * len(alone)


@pytest.mark.weights
def test_latents_of_a_photo_do_not_go_astray(monkeypatch: pytest.MonkeyPatch) -> None:
    photo = np.asarray(Image.open(ROOT / "examples" / "coffee.png").convert("RGB"))[:256, 64:320]
    monkeypatch.delattr(encoding.Chooser, "tamed")
    for quality in (5, 50, 95):
        codec.compress(photo, quality, "fast")
