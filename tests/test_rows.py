"""Pictures read and written in bands are what they are as a whole."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import SHARED
from PIL import Image

from nncodec import codec, picture, rows
from nncodec.errors import InputError, PictureWarning
from nncodec.picture import Picture
from nncodec.weights import Model


@pytest.fixture
def _everything_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "LARGE", 0)
    monkeypatch.setattr(rows, "_STEP", 900)


def in_bands(path: Path, step: int = 13, overlap: int = 5) -> Picture:
    """A file's picture, read in overlapping bands."""
    with rows.opened(path) as source:
        of = source.outline
        parts = []
        for top in range(0, of.height, step):
            band = source.rows(max(top - overlap, 0), min(top + step + overlap, of.height))
            parts.append(band.rows(min(top, overlap), min(top, overlap) + min(step, of.height - top)))
        return replace(rows.gathered(of, parts), remarks=source.remarks)


def same(a: Picture, b: Picture) -> bool:
    return (
        a.outline == b.outline
        and a.remarks == b.remarks
        and a.planes().dtype == b.planes().dtype
        and bool((a.planes() == b.planes()).all())
    )


@pytest.mark.shared
@pytest.mark.usefixtures("_everything_is_large")
def test_bands_of_every_odd_file_are_the_whole() -> None:
    done = 0
    for path in sorted((SHARED / "data" / "odd").iterdir()):
        try:
            whole = picture.read(path)
        except InputError:
            continue
        if whole.width * whole.height <= 300_000:
            assert same(in_bands(path), whole), path
            done += 1
    assert done > 70


@pytest.mark.shared
@pytest.mark.usefixtures("_everything_is_large")
def test_bands_of_the_png_suite_are_the_whole() -> None:
    for path in sorted((SHARED / "data" / "pngsuite").glob("[!x]*.png")):
        assert same(in_bands(path), picture.read(path)), path


@pytest.mark.usefixtures("_everything_is_large")
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".ppm", ".tif", ".webp"])
def test_bands_give_the_same_file_as_the_whole(suffix: str, photo: np.ndarray, tiny: Model, tmp_path: Path) -> None:
    path = tmp_path / f"photo{suffix}"
    path.write_bytes(picture.encode_file(Picture(photo, exif=b"II*\0\x08\0\0\0\0\0\0\0\0\0"), suffix))
    with rows.opened(path) as source:
        assert not isinstance(source, Picture)
    assert codec.compress(path, 40, tiny, tile_log2=6) == codec.compress(picture.read(path), 40, tiny, tile_log2=6)


@pytest.mark.usefixtures("_everything_is_large")
@pytest.mark.parametrize(("dtype", "shape"), [(np.uint8, (20, 30)), (np.uint16, (20, 30)), (np.uint16, (20, 30, 3))])
def test_pnm_is_written_and_read_in_bands(dtype: type, shape: tuple[int, ...], tmp_path: Path) -> None:
    levels = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, shape).astype(dtype)
    out = io.BytesIO()
    rows.save(out, ".ppm", Picture(levels).outline, [Picture(levels[:7]), Picture(levels[7:])])
    assert picture.encode_file(Picture(levels), ".ppm") == out.getvalue()
    path = tmp_path / "picture.ppm"
    path.write_bytes(out.getvalue())
    assert (in_bands(path).color == levels).all()
    assert (picture.read(path).color == levels).all()
    path.write_bytes(out.getvalue()[:-9])
    with pytest.raises(InputError, match=r"picture\.ppm: cannot be read: ends at row 19 of 20; it is truncated"):
        in_bands(path)


@pytest.mark.usefixtures("_everything_is_large")
def test_a_truncated_png_is_an_error_that_names_the_file(photo: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "photo.png"
    data = picture.encode_file(Picture(photo), ".png")
    path.write_bytes(data[:40000] + data[-12:])
    with pytest.raises(InputError, match=r"photo\.png: cannot be read"):
        in_bands(path)


@pytest.mark.parametrize("suffix", [".png", ".ppm", ".jpg"])
@pytest.mark.parametrize("large", [0, rows.LARGE])
def test_more_pixels_than_allowed_are_refused(
    suffix: str, large: int, photo: np.ndarray, tiny: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows, "LARGE", large)
    path = tmp_path / f"photo{suffix}"
    Image.fromarray(photo).save(path)
    with pytest.raises(InputError, match=r"photo.*: picture of 208x160 is over the limit of 33279 pixels"):
        codec.compress(path, 50, tiny, max_pixels=33279)
    assert codec.compress(path, 50, tiny, max_pixels=33280)


def test_pictures_beyond_pillows_limit_are_read(
    photo: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pillow refuses 179 megapixels by default, half of that with a warning; here its limit is made small."""
    path = tmp_path / "photo.jpg"
    Image.fromarray(photo).save(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(Image.DecompressionBombError):
        Image.open(path)
    assert picture.read(path).width == 208
    monkeypatch.setattr(rows, "LARGE", 0)
    assert in_bands(path).width == 208
    assert Image.MAX_IMAGE_PIXELS == 1000


@pytest.mark.parametrize("large", [0, rows.LARGE])
def test_a_profile_of_megabytes_is_read_from_png(large: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "LARGE", large)
    before = Picture(np.zeros((20, 30, 3), np.uint8), icc=b"profile" * 300_000)
    before.save(tmp_path / "a.png")
    with rows.opened(tmp_path / "a.png") as found:
        assert found.outline == before.outline
    with pytest.raises(ValueError, match="MAX_TEXT_CHUNK"):
        Image.open(tmp_path / "a.png")


def test_what_is_lost_is_said_once(tiny: Model, tmp_path: Path) -> None:
    path = tmp_path / "animated.gif"
    frames = [Image.new("L", (20, 20), level) for level in (0, 99, 200)]
    frames[0].save(path, save_all=True, append_images=frames[1:])
    with pytest.warns(PictureWarning, match=r"animated\.gif: holds 3 frames; only the first is kept") as caught:
        codec.compress(path, 50, tiny)
    assert len(caught) == 1
    assert caught[0].filename == __file__
