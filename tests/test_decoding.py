"""Crops are cut from the same windows as the whole, previews skip the costly part, memory holds few tiles."""

from __future__ import annotations

import io

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

from nncodec import codec, container, decoding, picture, tiling
from nncodec.errors import CorruptError, InputError
from nncodec.picture import Picture
from nncodec.tiling import Rect
from nncodec.weights import Model


@pytest.fixture(scope="module")
def large(photo: np.ndarray) -> Picture:
    """480 x 624 with alpha: 80 tiles of 64 pixels."""
    color = np.concatenate([np.concatenate([photo, photo[:, ::-1], 255 - photo], axis=1)] * 3)
    alpha = np.add.outer(np.arange(480), np.arange(624)).astype(np.uint8)
    return Picture(color, alpha)


@pytest.fixture(scope="module")
def data(large: Picture, tiny: Model) -> bytes:
    return codec.compress(large, 60, tiny, tile_log2=6)


@pytest.fixture(scope="module")
def wholes(data: bytes, tiny: Model) -> dict[int, Picture]:
    """The decoded picture by window size."""
    return {window: codec.decompress(data, model=tiny, window=window) for window in (64, 144, 1024)}


def box(crop: tuple[int, int, int, int]) -> tuple[slice, slice]:
    x, y, width, height = crop
    return slice(y, y + height), slice(x, x + width)


@pytest.mark.parametrize("window", [64, 144, 1024])
@pytest.mark.parametrize("crop", [(0, 0, 1, 1), (623, 479, 1, 1), (130, 60, 77, 201), (64, 128, 64, 64)])
def test_crop_equals_the_crop_of_the_whole(
    data: bytes,
    large: Picture,
    tiny: Model,
    wholes: dict[int, Picture],
    crop: tuple[int, int, int, int],
    window: int,
) -> None:
    whole = wholes[window]
    part = codec.decompress(data, model=tiny, window=window, crop=crop)
    assert (part.color == whole.color[box(crop)]).all()
    assert part.alpha is not None
    assert large.alpha is not None
    assert (part.alpha == large.alpha[box(crop)]).all()


@pytest.mark.weights
def test_crop_by_the_shipped_model_equals_the_crop_of_the_whole(photo: np.ndarray) -> None:
    data = codec.compress(np.tile(photo, (3, 3, 1)), 50, codec.load_model("fast", "cpu"), tile_log2=8)
    crop = (190, 100, 170, 90)
    whole = codec.decompress(data, window=256)
    assert (codec.decompress(data, window=256, crop=crop).color == whole.color[box(crop)]).all()


def test_crop_decodes_only_the_tiles_it_needs(data: bytes, tiny: Model) -> None:
    steps = []
    codec.decompress(data, model=tiny, window=64, crop=(300, 200, 20, 20), progress=lambda *step: steps.append(step))
    assert steps == [(i, steps[-1][1]) for i in range(1, steps[-1][1] + 1)]
    assert 1 <= len(steps) <= 16  # 64-pixel tiles, and the halo reaches the next one on every side
    codec.decompress(data, model=tiny, progress=lambda *step: steps.append(step))
    assert steps[-1] == (80, 80)


def test_crop_reads_past_damage_elsewhere(data: bytes, tiny: Model) -> None:
    header, entries = container.parse_header(data)
    broken = bytearray(data)
    broken[entries[-2].offset] ^= 1
    with pytest.raises(CorruptError, match=f"tile {header.tiles - 1}: crc"):
        codec.decompress(bytes(broken), model=tiny)
    crop = (0, 0, 100, 100)
    part = codec.decompress(bytes(broken), model=tiny, window=64, crop=crop)
    assert (part.color == codec.decompress(data, model=tiny, window=64, crop=crop).color).all()
    with pytest.raises(CorruptError, match=f"tile {header.tiles - 1}: crc"):
        codec.decompress(bytes(broken), model=tiny, window=64, crop=(600, 450, 20, 20))


@pytest.mark.parametrize("crop", [(-1, 0, 5, 5), (0, 0, 0, 5), (620, 0, 5, 5), (0, 476, 5, 5), (0, 0, 625, 480)])
def test_crop_outside_is_refused(data: bytes, tiny: Model, crop: tuple[int, int, int, int]) -> None:
    with pytest.raises(InputError, match="not inside the picture of 624x480"):
        codec.decompress(data, model=tiny, crop=crop)


def test_only_a_row_of_tiles_is_held(data: bytes, tiny: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    held = []
    drop = decoding._Tiles.drop
    monkeypatch.setattr(decoding._Tiles, "drop", lambda self, outer: (held.append(len(self._held)), drop(self, outer)))
    codec.decompress(data, model=tiny, window=64)
    assert len(held) > 60
    assert max(held) <= 2 * 10 + 3  # of 80: a row is 10, the halo of 32 pixels reaches into the next


def test_windows_tile_the_plane() -> None:
    for height, width, size, shift in ((640, 320, 128, 48), (64, 64, 1024, 96), (192, 128, 16, 96), (64, 64, 64, 0)):
        seen = np.zeros((height, width), int)
        for rect in tiling.windows(height, width, size, shift):
            seen[rect.top : rect.bottom, rect.left : rect.right] += 1
            assert max(rect.height, rect.width) <= size
        assert (seen == 1).all()


def test_cells_are_those_of_the_grid() -> None:
    grid = list(tiling.grid(300, 500, 64))
    assert [tiling.cell(i, 300, 500, 64) for i in range(len(grid))] == grid
    for rect in (Rect(0, 0, 1, 1), Rect(63, 64, 65, 129), Rect(0, 0, 300, 500), Rect(299, 499, 300, 500)):
        assert tiling.cells(rect, 500, 64) == [i for i, cell in enumerate(grid) if tiling.meets(cell, rect)]


def block_means(levels: np.ndarray, factor: int) -> np.ndarray:
    height, width = (side // factor * factor for side in levels.shape[:2])
    cut = levels[:height, :width].astype(float)
    return cut.reshape(height // factor, factor, width // factor, factor, -1).mean((1, 3)).squeeze()


@pytest.mark.parametrize("factor", decoding.PREVIEWS)
def test_preview_has_its_size_and_the_alpha(data: bytes, large: Picture, tiny: Model, factor: int) -> None:
    small = codec.decompress(data, model=tiny, preview=factor)
    assert (small.width, small.height) == (-(-624 // factor), -(-480 // factor))
    assert small.alpha is not None
    assert large.alpha is not None
    means = block_means(large.alpha, factor)
    assert np.abs(small.alpha[: means.shape[0], : means.shape[1]] - means).max() <= 0.5


@pytest.mark.weights
@pytest.mark.parametrize(("factor", "least"), [(2, 29), (4, 32), (8, 34), (16, 34), (32, 29)])
def test_preview_looks_like_the_picture(factor: int, least: float) -> None:
    levels = np.asarray(Image.open(ROOT / "examples" / "chelsea.png").convert("RGB"))
    small = codec.decompress(codec.compress(levels, 50), preview=factor)
    means = block_means(levels, factor)
    error = np.mean((small.color[: means.shape[0], : means.shape[1]] - means) ** 2)
    assert 10 * np.log10(255**2 / error) > least


def test_preview_runs_no_synthesis_network(data: bytes, tiny: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiny.net.g_s, "forward", lambda *_: pytest.fail("g_s ran"))
    codec.decompress(data, model=tiny, preview=8)
    passes = []
    decode = type(tiny.entropy).decode
    monkeypatch.setattr(type(tiny.entropy), "decode", lambda *a: (passes.append(a[5]), decode(*a))[1])
    codec.decompress(data, model=tiny, preview=32)
    assert set(passes) == {1}


@pytest.mark.parametrize("factor", [0, 1, 3, 64, -8])
def test_other_previews_are_refused(data: bytes, tiny: Model, factor: int) -> None:
    with pytest.raises(InputError, match="must be one of 2, 4, 8, 16, 32"):
        codec.decompress(data, model=tiny, preview=factor)


def test_crop_and_preview_exclude_each_other(data: bytes, tiny: Model) -> None:
    with pytest.raises(InputError, match="exclude each other"):
        codec.decompress(data, model=tiny, preview=8, crop=(0, 0, 5, 5))


@pytest.mark.parametrize("suffix", [".png", ".ppm", ".webp"])
def test_decompress_to_a_file_is_decompress(photo: np.ndarray, tiny: Model, suffix: str) -> None:
    data = codec.compress(Picture(photo, icc=b"profile"), 60, tiny, tile_log2=6)
    whole, file = codec.decompress(data, model=tiny, window=64), io.BytesIO()
    assert codec.decompress_to(file, suffix, data, model=tiny, window=64) == whole.outline
    if suffix == ".webp":
        assert file.getvalue() == picture.encode_file(whole, ".webp")
    else:
        assert (picture.read(file.getvalue()).color == whole.color).all()
    assert picture.read(file.getvalue()).icc == (None if suffix == ".ppm" else b"profile")


def test_16_bits_come_back_as_16_bits(tiny: Model, photo: np.ndarray) -> None:
    deep = photo.astype(np.uint16) * 256 + 7
    for levels in (deep, deep[..., 0], np.dstack([deep, deep[..., 1]])):
        decoded = codec.decompress(codec.compress(levels, 90, tiny), model=tiny)
        assert decoded.bit_depth == 16
        assert decoded.color.dtype == np.uint16
        assert len(np.unique(decoded.color & 255)) > 200
        if levels.shape[-1] == 4:
            assert (decoded.alpha == levels[..., 3]).all()
    coarse = codec.decompress(codec.compress(photo, 90, tiny), model=tiny).color
    fine = codec.decompress(codec.compress(photo.astype(np.uint16) * 257, 90, tiny), model=tiny).color
    assert np.abs(fine / 257.0 - coarse).max() < 1


@pytest.mark.weights
def test_smooth_16_bit_pictures_get_beyond_what_8_bits_hold() -> None:
    y, x = np.mgrid[0:256, 0:384]
    ramp = (20000 + 25000 * (x / 384) * (0.5 + 0.5 * y / 256)).round().astype(np.uint16)
    decoded = codec.decompress(codec.compress(ramp, 100)).color

    def psnr(levels: np.ndarray) -> float:
        return float(10 * np.log10(65535**2 / np.mean((levels - ramp.astype(float)) ** 2)))

    ceiling = psnr(np.round(ramp / 257) * 257)
    assert 58 < ceiling < 60
    assert psnr(decoded) > ceiling + 1
    assert psnr(np.round(decoded / 257) * 257) < ceiling
