"""The command line as a user meets it, in real processes where that matters."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
from click.testing import CliRunner, Result
from PIL import Image

from nncodec import codec, weights
from nncodec.cli import main
from nncodec.config import SIZES, TINY
from nncodec.nets.complexity import kmac_per_pixel
from nncodec.picture import Picture


@pytest.fixture
def png(tmp_path: Path, photo: np.ndarray) -> Path:
    path = tmp_path / "photo.png"
    Image.fromarray(photo).save(path)
    return path


@pytest.fixture
def aec(png: Path, tiny_path: Path) -> Path:
    assert call("compress", png, "-m", "tiny").exit_code == 0
    return png.with_suffix(".aec")


@pytest.fixture(autouse=True)
def _tiny_weights(tiny_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NNCODEC_WEIGHTS", str(tiny_path.parent))


def call(*arguments: object, stdin: bytes | None = None) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments], input=stdin)


def run(*arguments: object, **options: object) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "nncodec", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, timeout=120, check=False, **options)  # type: ignore[call-overload]


def test_compress_and_decompress_in_fresh_processes(png: Path, tmp_path: Path) -> None:
    done = run("compress", png, "-m", "tiny", "-q", "80", "-o", tmp_path / "out.aec")
    assert done.returncode == 0, done.stderr
    line = done.stdout.decode()
    assert line.startswith(f"{png} -> {tmp_path / 'out.aec'}  208x160  ")
    assert line.rstrip().endswith(" s")
    done = run("decompress", tmp_path / "out.aec", "-o", tmp_path / "out.png")
    assert done.returncode == 0, done.stderr
    with Image.open(tmp_path / "out.png") as decoded:
        assert decoded.size == (208, 160)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.aec", "out.png", "photo.png"]


def test_pipes_work(png: Path) -> None:
    packed = run("compress", "-", "-o", "-", "-m", "tiny", input=png.read_bytes())
    assert packed.returncode == 0, packed.stderr
    decoded = run("decompress", "-", "-o", "-", input=packed.stdout)
    assert decoded.stdout.startswith(b"\x89PNG")


def test_existing_output_is_kept_without_force(aec: Path, png: Path) -> None:
    before = aec.read_bytes()
    result = call("compress", png, "-m", "tiny", "-q", "1")
    assert result.exit_code == 1
    assert "exists; add --force" in result.stderr
    assert aec.read_bytes() == before
    assert call("compress", png, "-m", "tiny", "-q", "1", "--force").exit_code == 0
    assert len(aec.read_bytes()) < len(before)


def test_output_on_the_input_is_refused(png: Path) -> None:
    before = png.read_bytes()
    result = call("compress", png, "-m", "tiny", "-o", png, "--force")
    assert result.exit_code == 1
    assert "is the input itself" in result.stderr
    assert png.read_bytes() == before


def test_a_failing_file_does_not_stop_the_rest(png: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"not a picture")
    result = call("compress", broken, png, "-m", "tiny", "-o", tmp_path / "out")
    assert result.exit_code == 1
    assert f"nncodec: error: {broken}: not a picture" in result.stderr
    assert (tmp_path / "out" / "photo.aec").exists()
    assert not (tmp_path / "out" / "broken.aec").exists()


def test_clashing_outputs_are_a_usage_error(png: Path, tmp_path: Path) -> None:
    other = tmp_path / "photo.jpg"
    Image.open(png).save(other)
    result = call("compress", png, other, "-m", "tiny")
    assert result.exit_code == 2
    assert "photo.aec" in result.stderr


@pytest.mark.parametrize("command", ["compress", "decompress", "info", "verify"])
def test_missing_input_names_the_file(command: str) -> None:
    result = call(command, "absent.xyz")
    assert result.exit_code == 1
    assert "absent.xyz" in result.stderr
    assert "Traceback" not in result.stderr


def test_info_tells_people_and_programs(aec: Path) -> None:
    text = call("info", aec).stdout
    assert "208x160 rgb" in text
    assert "(tiny)" in text
    facts = json.loads(call("info", "--json", aec).stdout)
    assert facts["bytes"] == aec.stat().st_size
    assert facts["bpp"] == pytest.approx(8 * facts["bytes"] / (208 * 160))
    assert [s["name"] for s in facts["sections"]] == ["tile 0"]


def test_verify_finds_one_flipped_bit(aec: Path) -> None:
    assert call("verify", aec).exit_code == 0
    data = bytearray(aec.read_bytes())
    data[-1] ^= 1
    aec.write_bytes(data)
    result = call("verify", aec)
    assert result.exit_code == 1
    assert "tile 0: crc" in result.stderr


def test_decompress_names_file_and_damage(aec: Path) -> None:
    aec.write_bytes(aec.read_bytes()[:-5])
    result = call("decompress", aec, "-o", aec.with_name("out.png"))
    assert result.exit_code == 1
    assert str(aec) in result.stderr
    assert "truncated" in result.stderr
    assert not aec.with_name("out.png").exists()


def test_crop_and_preview_write_a_part_and_a_small_picture(aec: Path, tmp_path: Path) -> None:
    assert call("decompress", aec, "-o", tmp_path / "whole.png").exit_code == 0
    assert call("decompress", aec, "-o", tmp_path / "part.png", "--crop", "10,20,50,40").exit_code == 0
    with Image.open(tmp_path / "whole.png") as whole, Image.open(tmp_path / "part.png") as part:
        assert (np.asarray(part) == np.asarray(whole)[20:60, 10:60]).all()
    for i, (arguments, size) in enumerate([(["--preview"], (26, 20)), (["--preview", "16"], (13, 10))]):
        assert call("decompress", aec, "-o", tmp_path / f"{i}.png", *arguments).exit_code == 0
        with Image.open(tmp_path / f"{i}.png") as small:
            assert small.size == size
    outside = call("decompress", aec, "-o", tmp_path / "o.png", "--crop", "10,20,500,40")
    assert outside.exit_code == 1
    assert f"{aec}: crop 500x40 at 10,20 is not inside the picture of 208x160" in outside.stderr
    assert not (tmp_path / "o.png").exists()
    assert call("decompress", aec, "--crop", "10,20,500").exit_code == 2
    assert call("decompress", aec, "--preview", "3").exit_code == 2


def test_strip_and_limits_are_options(photo: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "photo.png"
    Picture(photo, None, b"icc", b"II*\0\x08\0\0\0\0\0\0\0\0\0", b"<xmp/>").save(path)
    for strip, kept in (("", ["icc", "exif", "xmp"]), ("exif,xmp", ["icc"]), ("all", [])):
        assert call("compress", path, "-m", "tiny", "--force", "--strip", strip).exit_code == 0
        facts = json.loads(call("info", "--json", path.with_suffix(".aec")).stdout)
        assert [s["name"] for s in facts["sections"]] == [*kept, "tile 0"]
    assert call("compress", path, "-m", "tiny", "--force", "--strip", "all", "--target-size", "3k").exit_code == 0
    assert not codec.decompress(path.with_suffix(".aec").read_bytes()).icc
    result = call("compress", path, "-m", "tiny", "--force", "--strip", "gps")
    assert result.exit_code == 1
    assert "only icc, exif, xmp or all" in result.stderr
    result = call("compress", path, "-m", "tiny", "--force", "--max-pixels", "1000")
    assert result.exit_code == 1
    assert f"{path}: picture of 208x160 is over the limit of 1000 pixels; raise it with --max-pixels" in result.stderr


def test_what_is_lost_is_said_on_stderr(tmp_path: Path) -> None:
    path = tmp_path / "animated.gif"
    Image.new("L", (20, 20)).save(path, save_all=True, append_images=[Image.new("L", (20, 20), 200)])
    result = call("compress", path, "-m", "tiny")
    assert result.exit_code == 0
    assert f"nncodec: warning: {path}: holds 2 frames; only the first is kept" in result.stderr


def test_unwritable_format_is_named(aec: Path) -> None:
    result = call("decompress", aec, "-o", aec.with_name("out.xyz"))
    assert result.exit_code == 1
    assert ".xyz: not an image format" in result.stderr


def test_unknown_model_lists_what_is_installed(png: Path) -> None:
    result = call("compress", png, "-m", "nonsense")
    assert result.exit_code == 1
    assert "tiny" in result.stderr


def test_wrong_usage_exits_with_2(png: Path) -> None:
    assert call("compress", png, "-q", "0").exit_code == 2
    assert call("nonsense").exit_code == 2


@pytest.mark.parametrize(
    ("option", "value"),
    [("size", "inf"), ("size", "1e999k"), ("size", "nan"), ("size", ""), ("bpp", "inf"), ("bpp", "nan"),
     ("psnr", "inf"), ("psnr", "nan"), ("ssim", "nan"), ("ssim", "1")],
)  # fmt: skip
def test_targets_that_are_no_numbers_are_wrong_usage(png: Path, option: str, value: str) -> None:
    result = call("compress", png, f"--target-{option}={value}", "-m", "tiny")
    assert result.exit_code == 2
    assert f"--target-{option}" in result.stderr.splitlines()[-1]


def test_no_target_is_too_small_to_be_refused_clearly(png: Path) -> None:
    result = call("compress", png, "--target-bpp", "0.0001", "-m", "tiny")
    assert result.exit_code == 1
    assert f"nncodec: error: {png}: 0 bytes cannot be reached; quality 1 takes" in result.stderr


@pytest.mark.parametrize("device", ["foo", "meta", "hpu", "cuda:99"])
def test_unusable_device_is_named(png: Path, aec: Path, device: str) -> None:
    for command, path in (("compress", png), ("decompress", aec)):
        result = call(command, path, "--device", device, "-f")
        assert result.exit_code == 1
        assert f"device '{device}' cannot be used: " in result.stderr
        assert "unexpected" not in result.stderr


def test_models_counts_multiply_accumulates(tmp_path: Path, tiny_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NNCODEC_WEIGHTS", str(tmp_path))
    weights.save(safetensors.torch.load_file(tiny_path), "fast", TINY, tmp_path / "fast.safetensors")
    result = call("models", "--kmac")
    assert result.exit_code == 0
    installed, sizes = result.stdout.split("\nkMAC/pixel")[1:]
    for text, config in ((installed, TINY), (sizes, SIZES["fast"])):  # weights may be called as a size is
        line = next(line for line in text.splitlines() if line.startswith("fast "))
        assert f"decode {kmac_per_pixel(config)['decode']:.2f}" in line
    assert {line.split()[0] for line in sizes.splitlines()[1:]} == set(SIZES)


@pytest.mark.parametrize("arguments", [["--help"], ["info"]])
def test_light_commands_are_quick(arguments: list[str], aec: Path) -> None:
    command = [sys.executable, "-m", "nncodec", *arguments, *([str(aec)] if arguments == ["info"] else [])]
    seconds = []
    for _ in range(5):
        begin = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True, env=dict(os.environ))
        seconds.append(time.perf_counter() - begin)
    assert min(seconds) < 0.4
