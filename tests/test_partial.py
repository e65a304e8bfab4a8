"""What is left of a damaged file can be had, and what is missing is said."""

from __future__ import annotations

from pathlib import Path

import hostile
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import nncodec
from nncodec import codec, container, decoding, partial
from nncodec.cli import main
from nncodec.errors import CorruptError, NotAecError
from nncodec.picture import Picture
from nncodec.tiling import Rect
from nncodec.weights import Model

ALPHA = np.add.outer(np.arange(160), np.arange(208)).astype(np.uint8)


@pytest.fixture(scope="module")
def file(tiny: Model, photo: np.ndarray) -> bytes:
    """3 x 4 tiles of 64 pixels, every kind of section: ICC, EXIF, XMP, then each tile and its alpha."""
    picture = Picture(photo, ALPHA, b"profile" * 9, b"Exif\0\0data", b"<xmp/>")
    return codec.compress(picture, 60, tiny, tile_log2=6)


@pytest.fixture(scope="module")
def whole(tiny: Model, file: bytes) -> Picture:
    return codec.decompress(file, model=tiny)


def spoil(data: bytes, *sections: int) -> bytes:
    """One bit of each of these sections flipped."""
    _, entries = container.parse_header(data)
    out = bytearray(data)
    for i in sections:
        out[entries[i].offset + entries[i].length // 2] ^= 4
    return bytes(out)


def tile(number: int) -> int:
    """Section of a tile."""
    return 3 + 2 * number


def far_from(areas: list[Rect], shape: tuple[int, int], distance: int) -> np.ndarray:
    mask = np.ones(shape, bool)
    for a in areas:
        mask[max(a.top - distance, 0) : a.bottom + distance, max(a.left - distance, 0) : a.right + distance] = False
    return mask


def test_a_sound_file_has_no_damage(tiny: Model, file: bytes, whole: Picture) -> None:
    decoded = codec.decompress(file, model=tiny, partial=True)
    assert decoded.damage == whole.damage == ()
    assert (decoded.color == whole.color).all()


@pytest.mark.parametrize("tiles", [(0,), (5,), (11,), (4, 5, 6), tuple(range(1, 12))])
def test_undamaged_tiles_come_back(tiny: Model, file: bytes, whole: Picture, tiles: tuple[int, ...]) -> None:
    damaged = spoil(file, *map(tile, tiles))
    with pytest.raises(CorruptError, match=f"tile {tiles[0]}: crc"):
        codec.decompress(damaged, model=tiny)
    decoded = codec.decompress(damaged, model=tiny, partial=True)
    assert [d.section for d in decoded.damage] == [f"tile {t}" for t in tiles]
    areas = [d.area for d in decoded.damage if d.area]
    assert areas == [decoding.shown(container.parse_header(file)[0], t) for t in tiles]
    difference = np.abs(decoded.color.astype(int) - whole.color).max(-1)
    kept = far_from(areas, difference.shape, tiny.config.synthesis_halo)
    assert kept.any()
    assert difference[kept].max() <= 1
    lost = ~far_from(areas, difference.shape, 0)
    assert difference[lost].mean() > 2 * difference[~lost].mean()
    assert (decoded.alpha == ALPHA).all()
    assert (decoded.icc, decoded.exif, decoded.xmp) == (whole.icc, whole.exif, whole.xmp)


@pytest.mark.parametrize(("section", "name"), [(0, "icc"), (1, "exif"), (2, "xmp")])
def test_damaged_metadata_is_left_out_and_reported(
    tiny: Model, file: bytes, whole: Picture, section: int, name: str
) -> None:
    decoded = codec.decompress(spoil(file, section), model=tiny, partial=True)
    assert [(d.section, d.area) for d in decoded.damage] == [(name, None)]
    for kind in ("icc", "exif", "xmp"):
        assert (getattr(decoded, kind) is None) == (kind == name)
    assert (decoded.color == whole.color).all()
    assert (decoded.alpha == ALPHA).all()


def test_damaged_alpha_is_opaque_and_reported(tiny: Model, file: bytes, whole: Picture) -> None:
    decoded = codec.decompress(spoil(file, tile(5) + 1), model=tiny, partial=True)
    assert [(d.section, d.area) for d in decoded.damage] == [("alpha 5", None)]
    assert (decoded.color == whole.color).all()
    expected = ALPHA.copy()
    expected[64:128, 64:128] = 255
    assert (decoded.alpha == expected).all()


@pytest.mark.parametrize("tail", [0, 1, 500])
def test_tiles_before_a_cut_survive(tiny: Model, file: bytes, whole: Picture, tail: int) -> None:
    _, entries = container.parse_header(file)
    cut = entries[tile(6)].offset + min(tail, entries[tile(6)].length - 1)
    decoded = codec.decompress(file[:cut], model=tiny, partial=True)
    assert [d.section for d in decoded.damage] == [
        "end of file",
        *(f"{kind} {t}" for t in range(6, 12) for kind in ("tile", "alpha")),
    ]
    assert f"the file ends at byte {cut}" in decoded.damage[1].reason
    assert np.abs(decoded.color[:48].astype(int) - whole.color[:48]).max() <= 1


def test_bytes_after_the_end_are_reported(tiny: Model, file: bytes, whole: Picture) -> None:
    decoded = codec.decompress(file + b"more", model=tiny, partial=True)
    assert [d.section for d in decoded.damage] == ["end of file"]
    assert (decoded.color == whole.color).all()


def test_a_tile_that_decodes_to_nonsense_is_damage(tiny: Model, file: bytes) -> None:
    """Its CRC is right, its stream is not: too long."""
    parts = hostile.take_apart(file)
    assert parts is not None
    parts.sections[tile(3)] = (hostile.TILE, parts.sections[tile(3)][1] + b"more" * 2)
    (damage,) = codec.decompress(parts.bytes(), model=tiny, partial=True).damage
    assert damage.section == "tile 3"
    assert "longer than its symbols" in damage.reason


def test_without_an_intact_tile_or_header_there_is_nothing(tiny: Model, file: bytes) -> None:
    with pytest.raises(CorruptError, match="no tile is intact"):
        codec.decompress(spoil(file, *map(tile, range(12))), model=tiny, partial=True)
    with pytest.raises(CorruptError, match="header: crc"):
        codec.decompress(file[:15] + b"\xff" + file[16:], model=tiny, partial=True)
    with pytest.raises(CorruptError, match="section table"):
        codec.decompress(file[:60], model=tiny, partial=True)
    with pytest.raises(NotAecError):
        codec.decompress(b"", model=tiny, partial=True)


def test_holes_are_filled_smoothly() -> None:
    y, x = np.mgrid[0:300, 0:333]
    ramp = np.stack([x / 2 + 20, y / 2 + 30, np.full_like(x, 77.0)], -1).round().astype(np.uint8)
    hole = Rect(64, 128, 192, 256)
    color = ramp.copy()
    color[64:192, 128:256] = 0
    partial.fill(color, [hole])
    assert (color[far_from([hole], (300, 333), 0)] == ramp[far_from([hole], (300, 333), 0)]).all()
    inside = np.abs(color[64:192, 128:256].astype(int) - ramp[64:192, 128:256])
    assert inside.mean() < 12
    assert (color[64:192, 128:256, 2] == 77).all()
    grey = ramp[..., 0].copy()
    partial.fill(grey, [hole])
    assert (grey == color[..., 0]).all()


def test_holes_at_the_edge_and_beyond_it_are_filled() -> None:
    color = np.full((70, 130), 50, np.uint16) * 300
    partial.fill(color, [Rect(64, 0, 128, 64), Rect(64, 64, 128, 128), Rect(0, 128, 64, 192), Rect(64, 128, 128, 192)])
    assert (color == 15000).all()


@pytest.fixture
def damaged(file: bytes, tmp_path: Path, tiny_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NNCODEC_WEIGHTS", str(tiny_path.parent))
    path = tmp_path / "photo.aec"
    path.write_bytes(spoil(file, 0, tile(5)))
    return path


def test_command_writes_what_is_intact_and_exits_with_1(damaged: Path) -> None:
    refused = CliRunner().invoke(main, ["decompress", str(damaged)])
    assert refused.exit_code == 1
    assert refused.stderr.rstrip().endswith("the file is damaged; --partial decodes the rest")
    assert not damaged.with_suffix(".png").exists()
    done = CliRunner().invoke(main, ["decompress", "--partial", str(damaged)])
    assert done.exit_code == 1
    assert done.stdout.startswith(f"{damaged} -> {damaged.with_suffix('.png')}  208x160  ")
    first, second, last = done.stderr.splitlines()
    assert first.startswith(f"nncodec: warning: {damaged}: icc: crc")
    assert second.startswith(f"nncodec: warning: {damaged}: tile 5: crc")
    assert second.endswith("(x 64..127, y 64..127: filled smoothly)")
    assert last == f"nncodec: error: {damaged}: damaged, 1 tiles lost; what is intact was written to " + str(
        damaged.with_suffix(".png")
    )
    with Image.open(damaged.with_suffix(".png")) as image:
        assert image.size == (208, 160)
        assert image.mode == "RGBA"


def test_command_keeps_the_report_short(damaged: Path, file: bytes) -> None:
    damaged.write_bytes(spoil(file, *range(3), *map(tile, range(11)), tile(0) + 1))
    done = CliRunner().invoke(main, ["decompress", "--partial", str(damaged)])
    assert len(done.stderr.splitlines()) == 10
    assert "and 7 more" in done.stderr


def test_command_does_not_promise_what_cannot_be(damaged: Path, file: bytes) -> None:
    for data, words in (
        (file[:15] + b"\xff" + file[16:], "header: crc"),
        (spoil(file, *map(tile, range(12))), "tile 0: crc"),
    ):
        damaged.write_bytes(data)
        done = CliRunner().invoke(main, ["decompress", str(damaged)])
        assert words in done.stderr
        assert "--partial" not in done.stderr


def test_public_name_takes_partial(damaged: Path) -> None:
    assert nncodec.decompress(damaged.read_bytes(), partial=True).damage[1].area == Rect(64, 64, 128, 128)


def test_crops_and_previews_are_filled_too(tiny: Model, file: bytes) -> None:
    damaged = spoil(file, tile(5))
    crop = codec.decompress(damaged, model=tiny, partial=True, crop=(70, 30, 100, 77))
    full = codec.decompress(damaged, model=tiny, partial=True)
    assert [d.section for d in crop.damage] == ["tile 5"]
    assert (crop.color[:34] == full.color[30:64, 70:170]).all()
    assert np.abs(crop.color[34:, :58].astype(int) - full.color[64:107, 70:128]).mean() < 40
    small = codec.decompress(damaged, model=tiny, partial=True, preview=4)
    assert [d.section for d in small.damage] == ["tile 5"]
    assert small.color.shape == (40, 52, 3)


def test_what_is_shown_decides_over_what_is_left(tiny: Model, photo: np.ndarray) -> None:
    """4 tiles; parts and previews smaller than the cells that fillings are made of."""
    sound = codec.compress(photo[:64, :64].repeat(4, 1), 60, tiny, tile_log2=6)
    damaged = spoil(sound, 0)
    crop = codec.decompress(damaged, model=tiny, partial=True, crop=(60, 0, 8, 8))
    expected = codec.decompress(damaged, model=tiny, partial=True).color[:8, 64:68]
    assert (crop.color[:, 4:] == expected).all()
    mean = np.rint(expected.mean((0, 1)))
    assert np.abs(crop.color[:, :4].astype(int) - mean).max() <= 1
    small = codec.decompress(damaged, model=tiny, partial=True, preview=32)
    assert [d.section for d in small.damage] == ["tile 0"]
    assert np.abs(small.color[:, :2] - small.color[:, 2:].mean((0, 1))).max() <= 1
    lost = codec.decompress(damaged, model=tiny, partial=True, crop=(0, 0, 20, 20))
    assert (lost.color == 128).all()
    assert [d.section for d in lost.damage] == ["tile 0"]
    for part in ({"preview": 32}, {}):
        with pytest.raises(CorruptError, match="no tile is intact"):
            codec.decompress(spoil(sound, *range(4)), model=tiny, partial=True, **part)
