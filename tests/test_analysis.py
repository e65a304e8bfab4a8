"""Vectors of latents, and how unusual a picture is: numbers, files and commands."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from conftest import seeded_net
from PIL import Image

from nncodec import codec, container, weights
from nncodec.analysis import anomaly, command, describe, embed, heat, latents
from nncodec.cli import main
from nncodec.config import TINY
from nncodec.errors import CorruptError, InputError
from nncodec.train import export
from nncodec.weights import Model

RNG = np.random.default_rng(3)


@pytest.fixture(autouse=True)
def _tiny_weights(tiny_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NNCODEC_WEIGHTS", str(tiny_path.parent))


@pytest.fixture(scope="module")
def other_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("other") / "other.safetensors"
    weights.save(export.build(seeded_net(1), export.gaussian_tables()), "other", TINY, path)
    return path


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory, photo: np.ndarray) -> Path:
    """Twelve 64x80 pictures, smooth ones of random colors."""
    folder = tmp_path_factory.mktemp("pictures")
    for number in range(12):
        small = RNG.integers(0, 256, (5, 6, 3)).astype(np.uint8)
        Image.fromarray(small).resize((80, 64), Image.Resampling.BICUBIC).save(folder / f"{number:02}.png")
    return folder


def test_the_command_names_the_pools_and_features() -> None:
    options = {p.name: p.type for command_ in (command.embed, command.fit) for p in command_.params}
    assert tuple(options["pool"].choices) == describe.POOLS
    assert sorted(options["looked_at"].choices) == sorted(anomaly.FEATURES)


def call(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments])


def ppm(levels: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(levels).save(out, "PPM")
    return out.getvalue()


def test_a_picture_and_its_aec_have_one_vector(tiny: Model, photo: np.ndarray) -> None:
    own = embed.embed(ppm(photo), tiny)
    assert (own.width, own.height) == (208, 160)
    assert np.linalg.norm(own.vector) == pytest.approx(1, abs=1e-5)
    same = embed.embed(codec.compress(photo, embed.QUALITY, tiny, effort=0), tiny)
    np.testing.assert_allclose(same.vector, own.vector, atol=1e-6)
    finer = embed.embed(codec.compress(photo, 80, tiny), tiny)
    assert 0.8 < float(finer.vector @ own.vector) < 0.99999


def test_vectors_know_a_mirrored_picture_and_not_another(tiny: Model, photo: np.ndarray) -> None:
    own, mirrored, turned = (embed.embed(ppm(a), tiny).vector for a in (photo, photo[:, ::-1], photo[::-1, ::-1, ::-1]))
    assert own @ mirrored > 0.9
    assert own @ turned < own @ mirrored


@pytest.mark.parametrize("pool", describe.POOLS)
def test_features_do_not_depend_on_how_the_plane_is_cut(tiny: Model, pool: str) -> None:
    y = torch.from_numpy(RNG.standard_normal((TINY.y_channels, 7, 9)).astype(np.float32))
    whole = latents.Latents(9 * 16, 7 * 16, iter([latents.Part(y, 0, 0)]))
    cuts = [(0, 4, 0, 4), (0, 4, 4, 9), (4, 7, 0, 4), (4, 7, 4, 9)]
    cut = latents.Latents(9 * 16, 7 * 16, (latents.Part(y[:, t:b, le:r], t, le) for t, b, le, r in cuts))
    features = describe.pooled(tiny, whole, pool)
    assert features.shape == (describe.dimensions(pool),)
    np.testing.assert_allclose(describe.pooled(tiny, cut, pool), features, atol=1e-6)


def test_mean_features_are_the_pictures_colors(tiny: Model) -> None:
    color = np.full((64, 64, 3), (200, 100, 50), np.uint8)
    with latents.opened(tiny, ppm(color), 90) as found:
        mean = describe.pooled(tiny, found, describe.MOMENTS)[:3]
    red, green, blue = (np.array([200, 100, 50]) - 127.5).tolist()
    luma, orange = (red + green + blue) / 3**0.5, (red - blue) / 2**0.5
    np.testing.assert_allclose(mean[:2] * describe.DC_SCALE[:2], [luma, orange], atol=12)


@pytest.mark.parametrize("size", [(1, 1), (17, 3), (40, 1100)])
def test_any_size_has_a_vector_and_a_measure(tiny: Model, size: tuple[int, int]) -> None:
    source = ppm(RNG.integers(0, 256, (*size, 3)).astype(np.uint8))
    assert np.isfinite(embed.embed(source, tiny).vector).all()
    measured = anomaly.measure(source, tiny)
    assert measured.error.shape == measured.bits.shape == (-(-size[0] // 16), -(-size[1] // 16))
    decoded = codec.decompress(codec.compress(np.asarray(Image.open(io.BytesIO(source))), 50, tiny), model=tiny).color
    difference = decoded.astype(float) - np.asarray(Image.open(io.BytesIO(source)))
    assert measured.mse == pytest.approx(np.mean(difference**2), rel=1e-6)
    assert measured.error[0, 0] == pytest.approx(np.mean(difference[:16, :16] ** 2), rel=1e-5)


def test_bits_are_those_of_the_file(tiny: Model, photo: np.ndarray) -> None:
    part = photo[:128, :192]  # no block of the plane lies beyond the picture
    measured = anomaly.measure(ppm(part), tiny)
    data = codec.compress(part, anomaly.QUALITY, tiny)
    _, entries = container.parse_header(data)
    stated = 8 * sum(entry.length for entry in entries)
    assert measured.bpp_est * 128 * 192 == pytest.approx(stated, rel=0.02)


def test_grey_and_16_bits_are_measured_on_one_scale(tiny: Model, photo: np.ndarray) -> None:
    grey = photo[..., 0]
    deep = io.BytesIO()
    Image.fromarray(grey.astype(np.uint16) * 257).save(deep, "PNG")
    shallow = anomaly.measure(ppm(grey), tiny)
    assert anomaly.measure(deep.getvalue(), tiny).mse == pytest.approx(shallow.mse, rel=0.02)


def test_a_damaged_aec_has_no_vector(tiny: Model, photo: np.ndarray, tmp_path: Path) -> None:
    data = bytearray(codec.compress(photo, 50, tiny))
    data[-9] ^= 4
    (tmp_path / "bad.aec").write_bytes(data)
    with pytest.raises(CorruptError, match=r"bad\.aec: tile 0: crc"):
        embed.embed(tmp_path / "bad.aec", tiny)


@pytest.mark.parametrize("suffix", embed.SUFFIXES)
def test_an_index_file_keeps_all(tmp_path: Path, suffix: str) -> None:
    if suffix == embed.PARQUET:
        pytest.importorskip("pyarrow")
    vectors = RNG.standard_normal((3, describe.VECTOR)).astype(np.float32)
    index = embed.Index(b"12345678", "all", ("a", "ü.png", "c" * 300), ((1, 2), (3, 4), (5, 6)), vectors)
    path = tmp_path / f"index{suffix}"
    with path.open("wb") as file:
        embed.save(index, file, suffix)
    again = embed.load(path)
    np.testing.assert_array_equal(again.vectors, vectors)
    assert (again.model, again.pool, again.names, again.sizes) == (index.model, index.pool, index.names, index.sizes)
    if suffix == embed.PARQUET:
        import pyarrow.parquet

        assert pyarrow.parquet.read_table(path).column_names == ["name", "width", "height", "vector"]


def test_parquet_without_pyarrow_says_what_to_do(pictures: Path, tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['pyarrow'] = None\nfrom nncodec.cli import main\n"
        f"main(['embed', {str(pictures)!r}, '-o', {str(tmp_path / 'x.parquet')!r}])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 1
    assert "pip install 'nncodec[parquet]'" in done.stderr


def test_a_name_that_is_no_text_costs_parquet_that_picture_alone(pictures: Path, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    odd, plain = tmp_path / os.fsdecode(b"odd\xff.png"), tmp_path / "plain.png"
    for number, path in enumerate((odd, plain)):
        path.write_bytes((pictures / f"{number:02}.png").read_bytes())
    made = call("embed", odd, plain, "-o", tmp_path / "x.parquet", "-m", "tiny")
    assert made.exit_code == 1
    assert "is not UTF-8, which .parquet needs" in made.stderr
    assert embed.load(tmp_path / "x.parquet").names == (str(plain),)
    assert call("embed", odd, plain, "-o", tmp_path / "x.npz", "-m", "tiny").exit_code == 0
    assert embed.load(tmp_path / "x.npz").names == (str(odd), str(plain))


@pytest.mark.parametrize("command", [["embed"], ["anomaly", "fit"]])
def test_a_folder_that_is_not_there_is_found_before_the_work(
    command: list[str], pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(codec, "load_model", lambda *_: pytest.fail("it began"))
    made = call(*command, pictures, "-o", tmp_path / "nowhere" / "x.npz", "-m", "tiny")
    assert made.exit_code == 1
    assert "there is no folder" in made.stderr
    assert "make it first" in made.stderr


def test_what_is_no_index_is_refused(tmp_path: Path) -> None:
    bad = tmp_path / "bad.npz"
    bad.write_bytes(b"PK\3\4 nothing")
    with pytest.raises(InputError, match="not an index"):
        embed.load(bad)
    np.savez(bad, vectors=np.zeros((2, 3)))
    with pytest.raises(InputError, match="not an index"):
        embed.load(bad)
    with pytest.raises(InputError, match=r"ends in \.npz or \.parquet"):
        embed.load(tmp_path / "index.txt")


def test_embed_and_similar_as_commands(pictures: Path, tmp_path: Path, tiny: Model) -> None:
    folder, index = tmp_path / "in", tmp_path / "index.npz"
    folder.mkdir()
    for path in sorted(pictures.iterdir())[:4]:
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "packed.aec").write_bytes(codec.compress(pictures / "05.png", 60, tiny))
    (folder / "broken.png").write_bytes(b"no picture")
    made = call("embed", folder, "-o", index, "-m", "tiny")
    assert made.exit_code == 1
    assert made.stderr.splitlines()[0].startswith(f"nncodec: error: {folder / 'broken.png'}: not a picture")
    assert "5 done, 1 failed" in made.stderr
    assert len(made.stdout.splitlines()) == 5
    assert embed.load(index).names[-1] == str(folder / "packed.aec")
    assert call("embed", folder, "-o", index, "-m", "tiny").exit_code == 1  # exists
    found = call("similar", pictures / "05.png", folder / "02.png", index, "-k", "2", "--json")
    assert found.exit_code == 0, found.stderr
    lines = [json.loads(line) for line in found.stdout.splitlines()]
    assert [line["matches"][0]["file"] for line in lines] == [str(folder / "packed.aec"), str(folder / "02.png")]
    assert lines[1]["matches"][0]["similarity"] == pytest.approx(1, abs=1e-5)
    assert [len(line["matches"]) for line in lines] == [2, 2]


def test_models_are_not_mixed(pictures: Path, tmp_path: Path, tiny: Model, other_path: Path) -> None:
    index, file = tmp_path / "index.npz", tmp_path / "of_other.aec"
    other = weights.load(weights.describe(other_path))
    file.write_bytes(codec.compress(pictures / "01.png", 50, other))
    assert call("embed", pictures / "00.png", "-o", index, "-m", "tiny").exit_code == 0
    query = call("similar", file, index)
    assert query.exit_code == 1
    assert f"{file}: was made with model {other.id.hex()}, not with tiny ({tiny.id.hex()})" in query.stderr
    wrong = call("similar", pictures / "01.png", index, "-m", other_path)
    assert wrong.exit_code == 1
    assert f"{index}: holds vectors of model {tiny.id.hex()}, not of other" in wrong.stderr
    assert call("embed", pictures / "00.png", "-o", index, "-m", other_path, "-f").exit_code == 0
    missing = call("similar", pictures / "01.png", index)
    assert missing.exit_code == 1
    assert f"needs model {other.id.hex()}" in missing.stderr


def measured(description: np.ndarray, rate: float = 0.0, error: float = 0.0) -> anomaly.Measured:
    block = np.ones((1, 1), np.float32)
    return anomaly.Measured(float(np.exp(rate)), float(np.exp(error)), description, block, block)


@pytest.mark.parametrize(("which", "share"), [(anomaly.RATE, 95.0), (anomaly.ALL, 95.0), (anomaly.ALL, 80.0)])
def test_false_alarms_are_as_asked_for(tiny: Model, which: str, share: float) -> None:
    rng = np.random.default_rng(5)
    mix = rng.standard_normal((describe.dimensions(), describe.dimensions())) * 0.05
    several = [measured(mix @ rng.standard_normal(len(mix)), *rng.standard_normal(2)) for _ in range(900)]
    known = anomaly.calibrate(several[:200], tiny, 50, share, which)
    alarms = 100 * np.mean([known.verdict(one).anomalous for one in several[200:]])
    assert 0.3 * (100 - share) < alarms < 1.8 * (100 - share)


def test_few_normals_keep_their_promise(tiny: Model) -> None:
    """With ten pictures 95 % cannot be had; the largest of their scores is the threshold."""
    rng = np.random.default_rng(6)
    known = anomaly.calibrate(
        [measured(np.zeros(0), *rng.standard_normal(2)) for _ in range(10)], tiny, 50, 95.0, "rate"
    )
    assert known.threshold == known.scores[-1]
    with pytest.raises(InputError, match="9 normal pictures; a calibration needs 10"):
        anomaly.calibrate([measured(np.zeros(0))] * 9, tiny, 50)


def test_anomaly_fit_and_score_as_commands(pictures: Path, tmp_path: Path, photo: np.ndarray) -> None:
    calibration, maps, odd = tmp_path / "cal.json", tmp_path / "maps", tmp_path / "odd"
    odd.mkdir()
    levels = np.array(Image.open(pictures / "03.png"))
    levels[:32, :32] = RNG.integers(0, 256, (32, 32, 3))
    Image.fromarray(levels).save(odd / "noisy.png")
    (odd / "broken.png").write_bytes(b"no picture")
    made = call("anomaly", "fit", pictures, "-o", calibration, "-m", "tiny", "--percentile", "90")
    assert made.exit_code == 0, made.stderr
    assert "12 normal pictures; below 100" in made.stderr
    assert json.loads(calibration.read_text())["percentile"] == 90
    assert call("anomaly", "fit", pictures, "-o", calibration, "-m", "tiny").exit_code == 1  # exists
    scored = call("anomaly", "score", odd, "-c", calibration, "--heatmap", maps, "--json")
    assert scored.exit_code == 1
    assert f"{odd / 'broken.png'}: not a picture" in scored.stderr
    (line,) = (json.loads(text) for text in scored.stdout.splitlines())
    assert line["anomalous"]
    assert line["percentile"] == pytest.approx(100 * 12 / 13)
    with Image.open(line["heatmap"]) as drawn:
        assert drawn.size == (80, 64)
        color = np.asarray(drawn).astype(int)
    glow = np.ptp(color, axis=2)
    assert glow[:24, :24].mean() > 2 * glow[48:, 56:].mean()
    usual = call("anomaly", "score", pictures / "04.png", "-c", calibration)
    assert usual.exit_code == 0
    assert "  normal  " in usual.stdout


def test_a_calibration_of_another_model_is_refused(pictures: Path, tmp_path: Path, other_path: Path) -> None:
    calibration = tmp_path / "cal.json"
    assert call("anomaly", "fit", pictures, "-o", calibration, "-m", "tiny", "--features", "rate").exit_code == 0
    wrong = call("anomaly", "score", pictures / "00.png", "-c", calibration, "-m", other_path)
    assert wrong.exit_code == 1
    assert f"{calibration}: was fitted with model tiny (" in wrong.stderr


@pytest.mark.parametrize("change", [{"format": "x"}, {"scores": []}, {"quality": 0}, {"heat": [1]}, {"looked_at": "y"}])
def test_what_is_no_calibration_is_refused(pictures: Path, tmp_path: Path, tiny: Model, change: dict) -> None:
    several = [anomaly.measure(path, tiny) for path in sorted(pictures.iterdir())[:10]]
    text = anomaly.to_json(anomaly.calibrate(several, tiny, 50, 95.0, "rate"))
    path = tmp_path / "cal.json"
    path.write_text(text)
    assert anomaly.read(path).verdict(several[0]).score > 0
    path.write_text(json.dumps(json.loads(text) | change))
    with pytest.raises(InputError, match="not a calibration"):
        anomaly.read(path)


def test_heat_glows_where_it_is_and_bands_fit() -> None:
    color = np.full((64, 48, 3), 100, np.uint8)
    field = np.zeros((4, 3))
    field[3, 0] = 1.0
    whole = heat.glowing(color, field, 0, 64)
    np.testing.assert_array_equal(whole[40:], heat.glowing(color[40:], field, 40, 64))
    assert (whole[:24] == 100).all()
    assert whole[60, 2, 0] > 200 > whole[60, 2, 2]
