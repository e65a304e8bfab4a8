"""Rate control never breaks its promise and comes as close as the steps of quality allow."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from nncodec import codec, rate, weights
from nncodec.cli import main
from nncodec.config import TINY
from nncodec.errors import InputError
from nncodec.nets.model import CodecNet
from nncodec.picture import Picture
from nncodec.train import export
from nncodec.weights import Model


@pytest.fixture(scope="module")
def sizes(tiny: Model, photo: np.ndarray) -> dict[int, int]:
    return {q: len(codec.compress(photo, q, tiny)) for q in range(1, 101)}


@pytest.mark.parametrize("share", [0.03, 0.2, 0.5, 0.8, 0.97])
def test_size_is_met_and_nearly_used_up(tiny: Model, photo: np.ndarray, sizes: dict[int, int], share: float) -> None:
    target = round(math.exp((1 - share) * math.log(sizes[1]) + share * math.log(sizes[100])))
    found = rate.to_size(Picture(photo), target, tiny)
    assert len(found.data) == found.measured <= target
    assert found.data == codec.compress(photo, found.quality, tiny)
    best = max(q for q, size in sizes.items() if size <= target)
    assert found.quality >= best - 1


def test_every_target_takes_few_probes(sizes: dict[int, int]) -> None:
    for target in range(sizes[1], sizes[100] + 200, 37):
        probes = []

        def measure(quality: int, probes: list[int] = probes) -> float:
            probes.append(quality)
            return math.log(sizes[quality])

        quality = rate._search(measure, math.log(target), below=True)
        assert quality is not None
        assert sizes[quality] <= target
        assert len(probes) == len(set(probes)) <= rate.PROBES + 1


def test_psnr_is_met(photo: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "plain.safetensors"  # untrained: a transform codec, of which the PSNR rises with quality
    weights.save(export.build(CodecNet(TINY), export.gaussian_tables()), "plain", TINY, path)
    model = weights.load(weights.describe(path))

    def psnr(quality: int) -> float:
        decoded = codec.decompress(codec.compress(photo, quality, model), model=model)
        error = np.mean((decoded.color.astype(float) - photo) ** 2)
        return 10 * math.log10(255**2 / error)

    target = (psnr(1) + psnr(100)) / 2
    found = rate.to_psnr(Picture(photo), target, model)
    assert found.measured == pytest.approx(psnr(found.quality))
    assert found.measured >= target
    assert 1 < found.quality < 100


def test_unreachable_targets_say_what_is_reachable(tiny: Model, photo: np.ndarray, sizes: dict[int, int]) -> None:
    with pytest.raises(InputError, match=f"quality 1 takes {sizes[1]}"):
        rate.to_size(Picture(photo), sizes[1] - 1, tiny)
    with pytest.raises(InputError, match=r"quality 100 gives \d+\.\d+ dB"):
        rate.to_psnr(Picture(photo), 99.0, tiny)


def test_targets_on_the_command_line(tiny_path: Path, tmp_path: Path, photo: np.ndarray) -> None:
    source = tmp_path / "photo.png"
    Image.fromarray(photo).save(source)

    def call(*arguments: str) -> int:
        return CliRunner().invoke(main, ["compress", str(source), "-m", "tiny", "--force", *arguments]).exit_code

    assert call("--target-size", "2.2k") == 0
    assert source.with_suffix(".aec").stat().st_size <= 2200
    assert call("--target-bpp", "0.5") == 0
    assert source.with_suffix(".aec").stat().st_size * 8 <= 0.5 * 160 * 208
    assert call("--target-size", "10") == 1
    assert call("--target-size", "many") == 2
    assert call("--target-size", "2k", "-q", "5") == 2
