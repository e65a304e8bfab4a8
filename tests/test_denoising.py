"""Denoising: latents straight to the decoder, in windows that nobody sees; files that hold the clean picture."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from click.testing import CliRunner
from conftest import ROOT
from PIL import Image

from nncodec import codec, container, decoding, denoising, encoding, metrics, tiling, weights
from nncodec.cli import main
from nncodec.errors import InputError, ModelMismatchError, PictureWarning
from nncodec.picture import Picture
from nncodec.tiling import Rect
from nncodec.weights import Model


@pytest.fixture(scope="module")
def noisy_path(tiny_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny weights with another encoder, said to leave noise out."""
    tensors = safetensors.torch.load_file(tiny_path)
    tensors["g_a.head.bias"] = tensors["g_a.head.bias"] + 0.3
    path = tmp_path_factory.mktemp("noise") / "denoise.safetensors"
    weights.save(tensors, "denoise", weights.describe(tiny_path).config, path, {"noise": "gauss:0-50"})
    return path


@pytest.fixture(scope="module")
def model(noisy_path: Path) -> Model:
    return weights.load(weights.describe(noisy_path))


def in_one_piece(model: Model, color: np.ndarray) -> np.ndarray:
    """Levels of g_s(g_a(x)) on the whole plane at once."""
    whole = Rect(0, 0, tiling.padded(color.shape[0]), tiling.padded(color.shape[1]))
    y = encoding.analyze(model, color, whole, denoising.QUALITY)
    header = container.Header(color.shape[1], color.shape[0], denoising.QUALITY, model.id, container.Color.RGB)
    return decoding.synthesize(model, y, header, whole, whole)[: color.shape[0], : color.shape[1]]


@pytest.mark.parametrize("window", [64, 1024])
def test_windows_leave_no_seams(model: Model, photo: np.ndarray, monkeypatch: pytest.MonkeyPatch, window: int) -> None:
    monkeypatch.setattr(decoding, "WINDOW", window)
    done = []
    parts = codec.denoise(photo, model, progress=lambda *count: done.append(count)).color
    whole = in_one_piece(model, photo)
    assert np.abs(whole.astype(int) - parts).max() <= 1
    assert (whole != parts).mean() < 1e-3
    count = -(-photo.shape[0] // window) * -(-photo.shape[1] // window)
    assert done == [(i + 1, count) for i in range(count)]


def test_without_halo_there_would_be_seams(model: Model, photo: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = in_one_piece(model, photo)
    monkeypatch.setattr(decoding, "WINDOW", 64)
    monkeypatch.setattr(tiling, "with_halo", lambda rect, *_: rect)
    monkeypatch.setattr(tiling, "cut", lambda *_: tiling.UNCUT)
    assert np.abs(whole.astype(int) - codec.denoise(photo, model).color).max() > 1


def test_alpha_depth_grey_and_blocks_are_kept(model: Model, photo: np.ndarray) -> None:
    alpha = np.arange(160 * 208, dtype=np.uint16).reshape(160, 208)
    deep = Picture(photo.astype(np.uint16) * 257, alpha, icc=b"profile")
    cleaned = codec.denoise(deep, model)
    assert cleaned.bit_depth == 16
    assert np.array_equal(cleaned.alpha, alpha)
    assert cleaned.icc == b"profile"
    assert np.abs(cleaned.color / 257.0 - codec.denoise(photo, model).color).max() <= 0.51
    assert codec.denoise(photo[..., 0], model).color.shape == (160, 208)


def test_plain_weights_are_refused(tiny: Model, photo: np.ndarray) -> None:
    with pytest.raises(InputError, match="tiny were not trained to remove noise"):
        codec.denoise(photo, tiny)


def test_limits_and_warnings_are_those_of_compress(model: Model, photo: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "animated.gif"
    Image.new("L", (20, 20)).save(path, save_all=True, append_images=[Image.new("L", (20, 20), 200)])
    for work in (codec.denoise, partial(codec.compress, quality=50)):
        with pytest.raises(InputError, match="208x160 is over the limit of 33279 pixels"):
            work(photo, model=model, max_pixels=208 * 160 - 1)
        with pytest.warns(PictureWarning, match=r"animated\.gif: holds 2 frames") as caught:
            work(path, model=model)
        assert caught[0].filename == __file__


def test_refinement_keeps_what_the_latents_say(model: Model, photo: np.ndarray) -> None:
    """The encoder that leaves noise out must not be pulled back to the noisy pixels."""
    plain = replace(model, noise="")
    clean = codec.denoise(photo, model).color

    def error(by: Model) -> float:
        decoded = codec.decompress(codec.compress(photo, 90, by, effort=3), model=model).color
        return float(np.square(decoded.astype(float) - clean).mean())

    assert error(model) < 0.8 * error(plain)


@pytest.fixture
def both(tiny_path: Path, noisy_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a noisy picture; plain and denoising weights of one id are installed."""
    monkeypatch.setenv("NNCODEC_WEIGHTS", f"{noisy_path.parent}:{tiny_path.parent}")
    monkeypatch.setattr(weights, "DEFAULTS", {"psnr": "tiny", "ms-ssim": "tiny"})
    rng = np.random.default_rng(1)
    Image.fromarray(rng.integers(0, 256, (70, 90, 3), dtype=np.uint8)).save(tmp_path / "night.png")
    return tmp_path


def call(*arguments: str | Path, code: int = 0) -> str:
    result = CliRunner().invoke(main, [str(a) for a in arguments])
    assert result.exit_code == code, result.output
    return result.output


def test_denoise_command(both: Path, model: Model) -> None:
    source = both / "night.png"
    before = source.read_bytes()
    assert "night-denoised.png  90x70" in call("denoise", source)
    assert source.read_bytes() == before
    with Image.open(both / "night-denoised.png") as image:
        assert np.array_equal(np.asarray(image), codec.denoise(source, model).color)
    assert "exists" in call("denoise", source, code=1)
    call("denoise", "-r", both, "-o", both / "out", "-j", "2")
    assert (both / "out" / "night-denoised.png").is_file()
    assert "tiny were not trained to remove noise" in call("denoise", source, "-m", "tiny", "-f", code=1)


def test_a_file_of_the_clean_picture_is_one_of_the_plain_weights(both: Path, tiny: Model, model: Model) -> None:
    source, out = both / "night.png", both / "night.aec"
    call("compress", source, "--denoise")
    assert out.read_bytes() == codec.compress(source, 50, model)
    assert out.read_bytes() != codec.compress(source, 50, tiny)
    decoded = codec.decompress(out.read_bytes()).color
    assert np.array_equal(decoded, codec.decompress(out.read_bytes(), model=tiny).color)
    assert json.loads(call("info", "--json", out))["model_name"] == "tiny"
    assert weights.find(model_id=tiny.id).name == "tiny"  # though `denoise` is found first by name and folder
    assert "denoise" in call("models")
    for wrong in ("--target-psnr=30", "--target-ssim=0.9", "--verify"):
        assert "the input is noisy" in call("compress", source, "--denoise", wrong, "-f", code=2)
    assert "not trained to remove noise" in call("compress", source, "--denoise", "-m", "tiny", "-f", code=1)
    call("compress", source, "--denoise", "--target-size", "700", "-f")
    assert out.stat().st_size <= 700


def test_a_manifest_tells_encoders_of_one_id_apart(both: Path) -> None:
    command = ("compress", both / "night.png", "--manifest", both / "m.jsonl", "-f", "-m")
    call(*command, "tiny")
    assert "finished before" in call(*command, "tiny")
    assert "finished before" not in call(*command, "denoise")
    settings = json.loads((both / "m.jsonl").read_text().splitlines()[-1])["settings"]
    assert settings["model"] == "denoise"
    assert settings["weights"] == weights.fingerprint(weights.find("denoise"))


def test_odd_noise_in_metadata_is_refused(tiny_path: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    tensors = safetensors.torch.load_file(tiny_path)
    weights.save(tensors, "x", weights.describe(tiny_path).config, path, {"noise": "\x1b[31m"})
    with pytest.raises(ModelMismatchError, match="noise"):
        weights.describe(path)


@pytest.mark.weights
@pytest.mark.parametrize(("sigma", "gain"), [(15, 4.0), (25, 6.0), (50, 8.0)])
def test_shipped_weights_take_noise_off(sigma: int, gain: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NNCODEC_WEIGHTS", raising=False)
    with Image.open(ROOT / "examples" / "chelsea.png") as image:
        clean = np.asarray(image.convert("RGB"))[:256, 64:320]
    noise = np.random.default_rng(0).normal(0, sigma, clean.shape)
    seen = np.clip(np.rint(clean + noise), 0, 255).astype(np.uint8)
    cleaned = codec.denoise(seen).color
    assert metrics.psnr(clean, cleaned) > metrics.psnr(clean, seen) + gain
    assert metrics.ssim(clean, cleaned) > metrics.ssim(clean, seen)
    data = codec.compress(seen, 60, codec.load_model(weights.DENOISE))
    assert len(data) < 0.7 * len(codec.compress(seen, 60))
    assert metrics.psnr(clean, codec.decompress(data).color) > metrics.psnr(clean, seen) + gain - 1
    assert torch.equal(*(codec.load_model(name).net.g_s.linear.weight for name in ("fast", "denoise")))
