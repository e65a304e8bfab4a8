"""Small grey pictures of one size: IDX files, splits, arch 'dense', and what becomes of other pictures."""

from __future__ import annotations

import gzip
import json
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from conftest import SHARED
from PIL import Image
from reference_decoder import decode_symbols, read_weights

from nncodec import codec, container, metrics, weights
from nncodec.cli import main
from nncodec.config import SMALL28, TINY, ModelConfig
from nncodec.errors import CorruptError, InputError
from nncodec.nets.model import CodecNet
from nncodec.train import export, idx, validate, watch
from nncodec.train.data import PictureStore, WholePictures, grey_planes, load_pictures, on_plane
from nncodec.train.recipe import PRESETS, Recipe
from nncodec.train.run import run
from nncodec.weights import Model

NARROW = replace(SMALL28, encoder_width16=32, decoder_width16=32, encoder_depth16=1, decoder_depth16=1)


def blobs(count: int, seed: int = 0) -> np.ndarray:
    """u8 [count, 28, 28]: a bright ellipse on black, of any place, size and shade."""
    rng = np.random.default_rng(seed)
    at = np.arange(28)
    y, x, a, b, level = (rng.uniform(*r, (count, 1, 1)) for r in ((9, 19), (9, 19), (3, 9), (3, 9), (100, 255)))
    inside = ((at[:, None] - y) / a) ** 2 + ((at[None] - x) / b) ** 2 < 1
    return np.where(inside, level, 0).astype(np.uint8)


def write_idx(path: Path, pictures: np.ndarray) -> Path:
    data = struct.pack(">HBBIII", 0, 8, 3, *pictures.shape) + pictures.tobytes()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("idx")
    write_idx(folder / "train-images-idx3-ubyte.gz", blobs(240))
    write_idx(folder / "t10k-images.idx3-ubyte", blobs(60, seed=1))
    (folder / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(b"labels are not looked at"))
    return folder


@pytest.fixture(scope="module")
def store(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> PictureStore:
    return load_pictures(folder, tmp_path_factory.mktemp("cache"), 64, 28)


@pytest.fixture(scope="module")
def small_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of arch 'dense' in which nothing is left at its zero start."""
    torch.manual_seed(0)
    net = CodecNet(NARROW).eval()
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if parameter.requires_grad and ".linear." not in name and name != "log_gain.rows":
                parameter += 0.02 * torch.randn_like(parameter)
    path = tmp_path_factory.mktemp("weights") / "small.safetensors"
    weights.save(export.build(net, export.gaussian_tables()), "small", NARROW, path)
    return path


@pytest.fixture(scope="module")
def small(small_path: Path) -> Model:
    return weights.load(weights.describe(small_path))


# Data


def test_idx_files_beside_labels_are_pictures(folder: Path, store: PictureStore) -> None:
    assert len(store) == 300
    found = grey_planes(store, torch.device("cpu")).numpy()
    assert np.array_equal(found, np.concatenate([blobs(60, seed=1), blobs(240)]))  # by path
    assert np.array_equal(idx.read(folder / "train-images-idx3-ubyte.gz"), blobs(240))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "no IDX file"),
        (struct.pack(">HBBIII", 0, 8, 3, 2, 28, 28) + bytes(700), "2 pictures of 28x28"),
        (struct.pack(">HBBIII", 0, 8, 3, 1 << 31, 1 << 31, 1 << 31), "damaged"),
        (struct.pack(">HBBIII", 0, 13, 3, 1, 1, 1) + bytes(4), "00 00 0d 03"),
        (gzip.compress(bytes(900))[:-20], "cannot be read"),
        (b"\x1f\x8b\x08" + bytes(40), "cannot be read"),
    ],
)
def test_broken_idx_file_is_named(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "bad-images-idx3-ubyte"
    path.write_bytes(data)
    with pytest.raises(InputError, match=message) as caught:
        load_pictures(tmp_path, tmp_path / "cache", 64, 28)
    assert str(path) in str(caught.value)


def test_pictures_of_another_size_are_skipped_and_colors_made_grey(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    color = np.random.default_rng(0).integers(0, 256, (28, 28, 3), np.uint8)
    Image.fromarray(color).save(tmp_path / "a.png")
    Image.fromarray(color[:20]).save(tmp_path / "b.png")
    store = load_pictures(tmp_path, tmp_path / "cache", 64, 28)
    assert "skipped 1 of 2 pictures (unreadable or of another size)" in capsys.readouterr().err
    assert np.array_equal(store.picture(0)[..., 1], np.asarray(Image.fromarray(color).convert("L")))


def test_parts_are_disjoint_whatever_the_order_of_files(folder: Path, store: PictureStore, tmp_path: Path) -> None:
    parts = store.parts((0.1, 0.1), 0)
    assert [len(part) for part in parts] == [240, 30, 30]
    assert sorted(o for part in parts for o in part.offsets) == sorted(store.offsets)
    (tmp_path / "other").mkdir()
    write_idx(tmp_path / "other" / "images-idx3-ubyte", np.concatenate([blobs(240), blobs(60, seed=1)])[::-1])
    again = load_pictures(tmp_path / "other", tmp_path / "cache", 64, 28).parts((0.1, 0.1), 0)

    def pictures(part: PictureStore) -> set[bytes]:
        return {part.picture(i).tobytes() for i in range(len(part))}

    assert [pictures(part) for part in parts] == [pictures(part) for part in again]
    assert pictures(parts[2]) != pictures(store.parts((0.1, 0.1), 1)[2])


def test_equal_pictures_are_in_one_part(tmp_path: Path) -> None:
    write_idx(tmp_path / "images-idx3-ubyte", np.repeat(blobs(20), 5, axis=0))
    parts = load_pictures(tmp_path, tmp_path / "cache", 64, 28).parts((0.17, 0.17), 0)
    assert all(len(part) % 5 == 0 for part in parts)
    with pytest.raises(InputError, match="too few"):
        parts[1].parts((0.01, 0.01), 0)


def test_whole_pictures_are_padded_as_the_codec_does(store: PictureStore) -> None:
    x = WholePictures(store, "cpu", torch.Generator().manual_seed(0)).batch(200, 64)
    assert x.shape == (200, 3, 64, 64)
    known = {plane.tobytes() for plane in grey_planes(store, torch.device("cpu")).numpy()}
    assert {plane.tobytes() for plane in (x[:, 0, :28, :28] * 255).round().to(torch.uint8).numpy()} <= known
    assert torch.equal(x[:, :, 28:], x[:, :, 27:28].expand(-1, -1, 36, -1))


# Networks


def test_dense_latents_are_128_and_z_is_never_coded(small: Model) -> None:
    planes = torch.from_numpy(blobs(3))
    x = on_plane(planes)
    y = small.net.g_a(x, torch.full((3,), 50.0))
    assert y[0].numel() == 128
    assert not small.entropy.scale_net.z_index.any()
    x_hat = small.net.g_s(y, torch.full((3,), 50.0))
    assert torch.equal(x_hat[:, 0], x_hat[:, 2])


def test_padding_is_neither_seen_nor_coded(small: Model) -> None:
    x = on_plane(torch.from_numpy(blobs(1)))
    other = x.clone()
    other[:, :, 28:] = 0.7
    other[:, :, :, 28:] = 0.3
    q = torch.tensor([70.0])
    assert torch.equal(small.net.g_a(x, q), small.net.g_a(other, q))


def test_dense_model_starts_as_a_transform_codec() -> None:
    net = CodecNet(SMALL28).eval()
    net.start_from(blobs(500, seed=2))
    x = on_plane(torch.from_numpy(blobs(16)))
    rates, errors = [], []
    for quality in (5.0, 50.0, 95.0):
        with torch.no_grad():
            out = net(x, torch.full((16,), quality))
        rates.append(float(out.y_bits.mean()))
        errors.append(float((out.x_hat - x)[:, :, :28, :28].square().mean()))
        assert float(out.z_bits.sum()) == 0
    assert rates == sorted(rates)
    assert errors == sorted(errors, reverse=True)


@pytest.mark.parametrize(
    "change", [{"side": 12}, {"side": 65}, {"side": 0}, {"arch": "codec"}, {"side": 28, "y_channels": 52}]
)
def test_impossible_sides_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"side|y_channels"):
        ModelConfig.from_dict(SMALL28.to_dict() | change)  # type: ignore[arg-type]


def test_side_is_written_only_where_there_is_one() -> None:
    assert "side" not in TINY.to_dict()
    assert SMALL28.to_dict()["side"] == 28
    assert ModelConfig.from_dict(SMALL28.to_dict()) == SMALL28


# Codec


@pytest.mark.parametrize("quality", [1, 60, 100])
def test_bytes_give_the_same_picture_in_a_fresh_load(small: Model, small_path: Path, quality: int) -> None:
    for picture in blobs(4):
        data = codec.compress(picture, quality, small)
        found = codec.decompress(data, model=small).color
        assert found.shape == (28, 28)
        assert np.array_equal(found, codec.decompress(data, model=small, window=16).color)
        part = codec.decompress(data, model=small, crop=(3, 5, 20, 9)).color
        assert np.array_equal(part, found[5:14, 3:23])
    fresh = weights.load(weights.describe(small_path))
    assert np.array_equal(codec.decompress(data, model=fresh).color, found)


def test_efforts_come_closer(small: Model) -> None:
    """Descent on the latents: at equal quality higher SSIM for few bytes more, and the file is an ordinary one."""
    found = []
    for effort in (1, 2, 3):
        rows = []
        for pixels in blobs(8, seed=5):
            data = codec.compress(pixels, 90, small, effort=effort)
            decoded = codec.decompress(data, model=small).color
            assert np.array_equal(decoded, codec.decompress(data, model=small).color)
            rows.append((metrics.ssim(pixels, decoded), len(data)))
        found.append(np.mean(rows, axis=0))
    assert found[0][0] + 0.001 < found[1][0] < found[2][0]
    assert found[2][1] < 1.3 * found[0][1]


def test_other_pictures_are_refused(small: Model, photo: np.ndarray) -> None:
    with pytest.raises(InputError, match=r"grey pictures of 28x28, this one is grey of 28x30; convert it"):
        codec.compress(np.zeros((30, 28), np.uint8), 50, small)
    with pytest.raises(InputError, match="color of 28x28"):
        codec.compress(photo[:28, :28], 50, small)
    header, sections = container.parse(codec.compress(blobs(1)[0], 50, small))
    with pytest.raises(CorruptError, match="this one is grey of 20x28"):
        codec.decompress(container.pack(replace(header, width=20), sections), model=small)
    with pytest.raises(InputError, match="28x28"):
        small.net.g_a(torch.zeros(1, 3, 64, 128), torch.tensor([50.0]))


# Training


def recipe_of(folder: Path, **fields: object) -> Recipe:
    values = PRESETS["28x28"] | {"batch": 32, "width": 0.25, "optimizer": "adamw", "fit_pictures": 4,
                                 "warmup_steps": 5, "bfloat16": False}  # fmt: skip
    return Recipe(data=str(folder), **(values | fields))  # type: ignore[arg-type]


def test_training_on_small_pictures_lowers_the_score_and_reports_the_test_split(folder: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    recipe = recipe_of(folder, steps=60, validation_seconds=0.3)
    out = run(recipe, tmp_path / "run", False, lines.append)
    assert out is not None
    _, validation = watch.read(tmp_path / "run" / "log.jsonl")
    assert validation[-1]["score"] < 0.9 * validation[0]["score"]
    assert "ssim" in validation[0]["validation"][0]
    test = json.loads((tmp_path / "run" / "test.json").read_text())
    assert test["pictures"] == 30
    assert [row["quality"] for row in test["qualities"]] == list(validate.QUALITIES)
    assert lines[-1].startswith("test, 30 pictures")
    with Image.open(tmp_path / "run" / "progress.gif") as gif:
        assert gif.size == (4 * 28, 3 * 28)
    model = weights.load(weights.describe(out))
    assert not model.entropy.scale_net.z_index.any()
    assert len(codec.compress(blobs(1)[0], 50, model)) < 200


def test_patience_ends_the_run_early(folder: Path, tmp_path: Path) -> None:
    recipe = recipe_of(folder, steps=2000, validation_seconds=1e-3, patience=2, learning_rate=1e-9, decoder_share=0.0,
                       fit_pictures=0, ema=0.0)  # fmt: skip
    run(recipe, tmp_path / "run", False, lambda _: None)
    assert "no better for 2 validations" in (tmp_path / "run" / "log.jsonl").read_text()


@pytest.mark.parametrize(
    "change",
    [{"test_share": 0.1, "validation_share": 0.0, "patience": 0}, {"test_share": 0.9, "validation_share": 0.1}],
)
def test_impossible_shares_are_refused(folder: Path, change: dict[str, object]) -> None:
    with pytest.raises(InputError, match="share"):
        recipe_of(folder, steps=1, **change)


def test_preset_is_overridden_by_options(folder: Path, tmp_path: Path) -> None:
    arguments = ["train", str(folder), "--preset", "28x28", "-o", str(tmp_path / "run"), "--steps", "2"]
    done = CliRunner().invoke(main, [*arguments, "--batch", "8", "--optimizer", "adamw", "--fit-pictures", "1"])
    assert done.exit_code == 0, done.output
    assert 'arch = "dense"' in (tmp_path / "run" / "recipe.toml").read_text()
    assert "batch = 8" in (tmp_path / "run" / "recipe.toml").read_text()
    done = CliRunner().invoke(main, [*arguments[:4], "-o", str(tmp_path / "b"), "--steps", "2", "--crop", "128"])
    assert isinstance(done.exception, InputError) or "28x28 train in crops of 64" in done.output


@pytest.mark.shared
def test_fashion_mnist_splits_into_56000_7000_7000(tmp_path: Path) -> None:
    store = load_pictures(SHARED / "data" / "fashion", tmp_path, 64, 28)
    assert [len(part) for part in store.parts((0.1, 0.1), 0)] == [56000, 7000, 7000]


def test_noise_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="noise is for color pictures"):
        run(recipe_of(folder, seconds=1.0, noise="gauss:10"), tmp_path / "run", False, lambda _: None)


def test_the_reference_decoder_agrees(small: Model, small_path: Path) -> None:
    """No chroma channels: g_s has no linear path."""
    data = codec.compress(blobs(1)[0], 90, small)
    ((z_hat, r_hat, _),) = decode_symbols(data, read_weights(small_path)[0])
    header, (section,) = container.parse(data)
    ((_, symbols),) = codec.decode_symbols(small, header, [section.payload])
    assert np.array_equal(z_hat, symbols.z_hat)
    assert np.array_equal(r_hat, symbols.r_hat)
    assert r_hat.any()
