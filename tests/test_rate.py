"""Rate control never breaks its promise and comes as close as the steps of quality allow."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from nncodec import codec, metrics, rate, weights
from nncodec.cli import main
from nncodec.config import TINY
from nncodec.errors import InputError
from nncodec.nets.model import CodecNet
from nncodec.picture import Picture, read
from nncodec.train import export
from nncodec.weights import Model

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def sizes(tiny: Model, photo: np.ndarray) -> dict[int, int]:
    return {q: len(codec.compress(photo, q, tiny)) for q in range(1, 101)}


@pytest.mark.parametrize("share", [0.03, 0.2, 0.5, 0.8, 0.97])
def test_size_is_met_and_nearly_used_up(tiny: Model, photo: np.ndarray, sizes: dict[int, int], share: float) -> None:
    target = round(math.exp((1 - share) * math.log(sizes[1]) + share * math.log(sizes[100])))
    found = rate.to_size(Picture(photo), target, tiny)
    assert len(found.data) == found.measured <= target
    # Of this untrained model a step of quality is 2.2 % of the size, and the error factor moves 1 % at most.
    assert found.measured >= 0.975 * target


def test_one_more_is_tried_where_five_leave_a_gap() -> None:
    """Between 6 and 12 the first five leave everything open, and no error factor makes up for five qualities."""
    known = {50: 2358, 27: 1522, 6: 842, 13: 1058, 12: 1034, 11: 994}
    assert rate._search(lambda quality: math.log(known[quality]), math.log(1032), rate._SIZE) == 11


def test_every_target_takes_few_probes(sizes: dict[int, int]) -> None:
    for target in range(sizes[1], sizes[100] + 200, 37):
        probes = []

        def measure(quality: int, probes: list[int] = probes) -> float:
            probes.append(quality)
            return math.log(sizes[quality])

        quality = rate._search(measure, math.log(target), rate._SIZE)
        assert quality is not None
        assert sizes[quality] <= target
        assert len(probes) == len(set(probes)) <= rate.PROBES + 1


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """Untrained: a transform codec, of which the PSNR rises with quality."""
    path = tmp_path_factory.mktemp("plain") / "plain.safetensors"
    weights.save(export.build(CodecNet(TINY), export.gaussian_tables()), "plain", TINY, path)
    return weights.load(weights.describe(path))


def test_psnr_is_met(photo: np.ndarray, plain: Model) -> None:
    def measured(data: bytes) -> float:
        error = np.mean((codec.decompress(data, model=plain).color.astype(float) - photo) ** 2)
        return 10 * math.log10(255**2 / error)

    ends = [measured(codec.compress(photo, quality, plain)) for quality in (1, 100)]
    target = sum(ends) / 2
    found = rate.to_psnr(Picture(photo), target, plain)
    assert target <= found.measured <= measured(codec.compress(photo, found.quality, plain))
    assert found.measured == pytest.approx(measured(found.data))
    assert 1 < found.quality < 100


def test_ssim_is_met(photo: np.ndarray, plain: Model) -> None:
    ends = [metrics.ssim(photo, codec.decompress(codec.compress(photo, q, plain), model=plain).color) for q in (1, 100)]
    target = sum(ends) / 2
    found = rate.to_ssim(Picture(photo), target, plain)
    assert found.measured >= target
    assert found.measured == metrics.ssim(photo, codec.decompress(found.data, model=plain).color)
    with pytest.raises(InputError, match=r"quality 100 gives 0\.\d+"):
        rate.to_ssim(Picture(photo), 0.999999, plain)


@pytest.mark.weights
def test_shipped_weights_meet_targets_closely() -> None:
    picture = read(ROOT / "examples" / "coffee.png")
    model = codec.load_model("fast")
    for size in (6_000, 30_000):
        assert 0.985 * size <= rate.to_size(picture, size, model).measured <= size
    assert 33 <= rate.to_psnr(picture, 33.0, model).measured <= 33.05
    assert 0.9 <= rate.to_ssim(picture, 0.9, model).measured <= 1 - 0.1 * 10**-0.005


def test_unreachable_targets_say_what_is_reachable(tiny: Model, photo: np.ndarray, sizes: dict[int, int]) -> None:
    with pytest.raises(InputError, match=f"quality 1 takes {sizes[1]}"):
        rate.to_size(Picture(photo), sizes[1] - 1, tiny)
    with pytest.raises(InputError, match=r"quality 100 gives \d+\.\d+ dB"):
        rate.to_psnr(Picture(photo), 99.0, tiny)


@pytest.mark.parametrize("target", [math.nan, math.inf])
def test_targets_that_are_no_numbers_are_refused(tiny: Model, photo: np.ndarray, target: float) -> None:
    for to in (rate.to_psnr, rate.to_ssim):
        with pytest.raises(InputError, match=f" {target} is not"):
            to(Picture(photo), target, tiny)


def test_the_limit_on_pixels_is_handed_on(tiny_path: Path, photo: np.ndarray, tmp_path: Path, monkeypatch) -> None:
    source = tmp_path / "photo.png"
    Image.fromarray(photo[:32, :32]).save(source)
    limits = set()
    for name in ("compress", "decompress"):
        work = getattr(codec, name)
        monkeypatch.setattr(codec, name, lambda *a, work=work, **k: limits.add(k.get("max_pixels")) or work(*a, **k))
    for target in ("--target-bpp=9", "--target-psnr=1", "--target-ssim=0.001"):
        command = ["compress", str(source), "-m", str(tiny_path), "-f", "--verify", "--max-pixels", "5000", target]
        assert CliRunner().invoke(main, command).exit_code == 0
    assert limits == {5000}


def test_targets_on_the_command_line(tiny_path: Path, tmp_path: Path, photo: np.ndarray) -> None:
    source = tmp_path / "photo.png"
    Image.fromarray(photo).save(source)

    def call(*arguments: str) -> int:
        return CliRunner().invoke(main, ["compress", str(source), "-m", "tiny", "--force", *arguments]).exit_code

    assert call("--target-size", "2.2k") == 0
    assert source.with_suffix(".aec").stat().st_size <= 2200
    assert call("--target-bpp", "0.5") == 0
    assert source.with_suffix(".aec").stat().st_size * 8 <= 0.5 * 160 * 208
    assert call("--target-ssim", "0.01") == 0
    assert call("--target-size", "10") == 1
    assert call("--target-size", "many") == 2
    assert call("--target-size", "2k", "-q", "5") == 2
