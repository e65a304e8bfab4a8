"""compress and decompress: any size, what a picture carries, no seams, typed errors."""

from __future__ import annotations

import contextlib
import io
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import nncodec
from nncodec import codec, container, decoding, encoding, picture, tiling
from nncodec.container import Color, Header, SectionType
from nncodec.errors import CorruptError, FormatError, InputError, LimitError, ModelNotFoundError
from nncodec.picture import Outline
from nncodec.weights import Model


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.mean((a.astype(float) - b) ** 2)))


@pytest.mark.parametrize(
    "size", [(1, 1), (1, 2), (2, 1), (15, 17), (16, 16), (63, 65), (64, 64), (65, 63), (1, 300), (300, 1), (129, 130)]
)
def test_any_size_round_trips(tiny: Model, size: tuple[int, int]) -> None:
    height, width = size
    y, x = np.mgrid[0:height, 0:width]
    levels = np.stack([100 + y % 50, 150 - x % 60, 90 + (x + y) % 40], axis=-1).astype(np.uint8)
    decoded = codec.decompress(codec.compress(levels, 90, tiny), model=tiny)
    assert decoded.color.shape == levels.shape
    assert psnr(decoded.color, levels) > 20


def test_quality_orders_size(tiny: Model, photo: np.ndarray) -> None:
    sizes = [len(codec.compress(photo, quality, tiny)) for quality in (1, 25, 50, 75, 100)]
    assert sizes == sorted(sizes)
    assert len(set(sizes)) == 5


def test_grey_stays_grey(tiny: Model, photo: np.ndarray) -> None:
    data = codec.compress(photo[..., 0], 80, tiny)
    assert container.parse(data)[0].color is Color.GREY
    decoded = codec.decompress(data, model=tiny)
    assert decoded.color.shape == photo.shape[:2]
    assert decoded.to_pil().mode == "L"


def test_grey_codes_no_chroma(tiny: Model, photo: np.ndarray) -> None:
    chroma = tiny.entropy.chroma
    assert chroma is not None
    assert 0 < chroma.sum() < len(chroma)
    sizes = []
    for model in (tiny, replace(tiny, entropy=replace(tiny.entropy, chroma=None))):
        data = codec.compress(photo[..., 0], 90, model)
        header, sections = container.parse(data)
        symbols = next(codec.decode_symbols(model, header, [s.payload for s in sections]))[1]
        assert (symbols.r_hat[chroma] == 0).all() == (model is tiny)
        assert symbols.r_hat[~chroma].any()
        sizes.append(len(data))
    assert sizes[0] < sizes[1]


def test_alpha_is_lossless(tiny: Model, photo: np.ndarray) -> None:
    alpha = np.random.default_rng(0).integers(0, 256, photo.shape[:2]).astype(np.uint8)
    decoded = codec.decompress(codec.compress(np.dstack([photo, alpha]), 30, tiny), model=tiny)
    assert decoded.to_pil().mode == "RGBA"
    assert (decoded.alpha == alpha).all()


@pytest.mark.parametrize(
    ("mode", "expected"),
    [("1", "L"), ("L", "L"), ("LA", "LA"), ("P", "RGB"), ("RGB", "RGB"), ("RGBA", "RGBA"), ("CMYK", "RGB"),
     ("YCbCr", "RGB"), ("I;16", "I;16"), ("I", "I;16"), ("PA", "RGBA"), ("HSV", "RGB"), ("LAB", "RGB"),
     ("La", "LA"), ("RGBa", "RGBA"), ("RGBX", "RGB"), ("I;16B", "I;16")],
)  # fmt: skip
def test_every_mode_has_its_rule(tiny: Model, photo: np.ndarray, mode: str, expected: str) -> None:
    image = Image.fromarray(photo)
    if mode == "LAB":
        image = Image.new("LAB", image.size, (128, 20, 20))
    elif mode == "PA":
        image = image.convert("P").convert("PA")
    elif mode in ("La", "RGBa"):
        image = image.convert(mode.upper()).convert(mode)
    elif mode.startswith("I"):
        image = Image.fromarray(photo[..., 0].astype(np.uint16) * 257)
        image = image if mode == "I;16" else image.convert(mode)
    else:
        image = image.convert(mode)
    assert image.mode == mode
    source = picture.from_pil(image)
    assert source.remarks == (
        ("CMYK without a usable profile was converted to RGB by Pillow's formula",) * (mode == "CMYK")
    )
    assert codec.decompress(codec.compress(source, 50, tiny), model=tiny).to_pil().mode == expected


def test_palette_transparency_is_kept(tiny: Model) -> None:
    image = Image.new("P", (40, 30), 1)
    image.putpalette([0, 0, 0, 255, 0, 0])
    image.info["transparency"] = 1
    decoded = codec.decompress(codec.compress(image, 50, tiny), model=tiny)
    assert decoded.alpha is not None
    assert (decoded.alpha == 0).all()


def test_floating_point_pictures_are_refused(tiny: Model) -> None:
    with pytest.raises(InputError, match="floating-point"):
        codec.compress(Image.new("F", (10, 10)), 50, tiny)


def test_metadata_is_kept_byte_for_byte(tiny: Model, photo: np.ndarray) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    source = io.BytesIO()
    xmp = b"<x:xmpmeta xmlns:x='adobe:ns:meta/'/>"
    Image.fromarray(photo).save(source, "JPEG", icc_profile=b"profile" * 100, exif=exif.tobytes(), xmp=xmp)
    before = picture.read(source.getvalue())
    decoded = codec.decompress(codec.compress(before, 50, tiny), model=tiny)
    assert decoded.icc == b"profile" * 100
    assert decoded.exif == before.exif
    assert decoded.exif is not None
    assert decoded.xmp == xmp
    assert (decoded.width, decoded.height) == (photo.shape[1], photo.shape[0])  # not turned: the tag still says so
    written = Image.open(io.BytesIO(picture.encode_file(decoded, ".png")))
    assert written.getexif()[0x0112] == 6
    assert written.info["icc_profile"] == b"profile" * 100


@pytest.mark.parametrize("window", [16, 64, 128, 144])
def test_windows_leave_no_seams(tiny: Model, photo: np.ndarray, window: int) -> None:
    data = codec.compress(photo, 60, tiny)
    whole = codec.decompress(data, model=tiny, window=4096).color
    parts = codec.decompress(data, model=tiny, window=window).color
    assert np.abs(whole.astype(int) - parts).max() <= 1
    assert (whole != parts).mean() < 1e-3


def test_tiled_analysis_equals_the_full_frame(tiny: Model, photo: np.ndarray) -> None:
    plane = tiling.padded(photo.shape[0]), tiling.padded(photo.shape[1])
    whole = encoding.analyze(tiny, photo, tiling.Rect(0, 0, *plane), 50)
    for tile in tiling.grid(*plane, 64):
        rows, columns = tiling.inside(tile, tiling.Rect(0, 0, *plane), 16)
        assert torch.allclose(encoding.analyze(tiny, photo, tile, 50), whole[:, :, rows, columns], atol=1e-4)


def test_halo_is_no_larger_than_needed(tiny: Model, photo: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the halo the seam test would see seams: it tests something."""
    data = codec.compress(photo, 60, tiny)
    whole = codec.decompress(data, model=tiny, window=4096).color
    monkeypatch.setattr(tiling, "with_halo", lambda rect, *_: rect)
    monkeypatch.setattr(tiling, "cut", lambda *_: tiling.UNCUT)
    assert np.abs(whole.astype(int) - codec.decompress(data, model=tiny, window=64).color).max() > 1


def test_damage_is_found_before_the_entropy_coder(
    tiny: Model, photo: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = bytearray(codec.compress(photo, 50, tiny))
    data[-3] ^= 16
    monkeypatch.setattr(decoding, "decode_tile", lambda *_: pytest.fail("the entropy coder saw damaged bytes"))
    with pytest.raises(CorruptError, match="tile 0"):
        codec.decompress(bytes(data), model=tiny)


def test_sealed_nonsense_gives_a_typed_error_or_a_picture(tiny: Model) -> None:
    rng = np.random.default_rng(3)
    header = Header(64, 64, 50, tiny.id)
    for length in (4, 8, 64, 400):
        for _ in range(8):
            data = container.pack(header, [container.Section(SectionType.TILE, rng.bytes(length))])
            with contextlib.suppress(FormatError):
                assert codec.decompress(data, model=tiny).color.shape == (64, 64, 3)


def test_huge_claim_is_refused_at_once(tiny: Model) -> None:
    header = Header(40_000, 40_000, 50, tiny.id, tile_log2=12)
    data = container.pack(header, [container.Section(SectionType.TILE, bytes(n)) for n in header.tile_floors()])
    with pytest.raises(LimitError, match="40000x40000"):
        codec.decompress(data, model=tiny)


def test_unknown_model_is_named(tiny: Model, photo: np.ndarray) -> None:
    data = container.pack(Header(64, 64, 50, b"\xee" * 8), [container.Section(SectionType.TILE, bytes(4))])
    with pytest.raises(ModelNotFoundError, match="ee" * 8):
        codec.decompress(data)


@pytest.mark.parametrize("quality", [0, 101, 50.0, "50", True])
def test_bad_quality_is_refused(tiny: Model, photo: np.ndarray, quality: object) -> None:
    with pytest.raises(InputError, match="quality"):
        codec.compress(photo, quality, tiny)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "wrong",
    [{"tile_log2": value} for value in (5, 13, 7.0, "6", None)]
    + [{"error_factor": value} for value in (float("nan"), float("inf"), 0, -1, "1", None)],
)
def test_bad_arguments_are_refused(tiny: Model, photo: np.ndarray, wrong: dict[str, Any]) -> None:
    ((name, value),) = wrong.items()
    with pytest.raises(InputError, match=f"{name} is {value!r}; it must be"):
        codec.compress(photo, 50, tiny, **wrong)


@pytest.mark.parametrize("crop", [(1, 2, 3), (1, 2, 3, 4, 5), (0.5, 0, 8, 8), (0, 0, 8.0, 8), 7, "abcd"])
def test_bad_crop_is_refused(tiny: Model, photo: np.ndarray, crop: Any) -> None:
    data = codec.compress(photo[:16, :16], 50, tiny, effort=0)
    with pytest.raises(InputError, match=r"crop is .*; give four whole numbers"):
        codec.decompress(data, crop=crop, model=tiny)
    assert codec.decompress(data, crop=tuple(np.array([0, 0, 8, 8])), model=tiny).width == 8  # type: ignore[arg-type]


@dataclass(frozen=True)
class Claim:
    """An outline whose rows nobody may ask for."""

    outline: Outline
    remarks: tuple[str, ...] = ()

    def rows(self, top: int, bottom: int) -> picture.Picture:
        pytest.fail("rows were read")


@pytest.mark.parametrize(
    ("outline", "words"),
    [(Outline(1 << 24 | 1, 1, False, False, 8), "has over 16777216 pixels on a side"),
     (Outline(16384, 16384, False, False, 8, b"icc"), "65537 sections are more than 65535"),
     (Outline(16384, 8192, False, True, 8), "65536 sections")],
)  # fmt: skip
def test_what_no_file_can_hold_is_refused_before_it_is_read(tiny: Model, outline: Outline, words: str) -> None:
    with pytest.raises(InputError, match=words):
        codec.compress(Claim(outline), 50, tiny, tile_log2=6)


def test_weights_are_named_by_paths_too(tiny_path: Path, tiny: Model, photo: np.ndarray) -> None:
    small = photo[:16, :16]
    assert codec.compress(small, 50, tiny_path) == codec.compress(small, 50, tiny)


def test_a_bug_is_no_bad_input(tiny: Model, photo: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "sections", lambda *_: [container.Section(SectionType.TILE, b"")])
    with pytest.raises(ValueError, match="refusing to write an invalid file"):
        codec.compress(photo, 50, tiny)


@pytest.mark.parametrize(
    "image", [np.zeros((4, 4), np.float32), np.zeros((0, 4, 3), np.uint8), 7, np.zeros(3, np.uint8)]
)
def test_what_is_no_picture_is_refused(tiny: Model, image: object) -> None:
    with pytest.raises(InputError, match="not a picture"):
        codec.compress(image, 50, tiny)  # type: ignore[arg-type]


def test_missing_file_is_named(tiny: Model) -> None:
    with pytest.raises(InputError, match=r"absent\.png: no such file"):
        codec.compress("absent.png", 50, tiny)


def test_public_api_is_one_call_each_way(tiny_path: Path, photo: np.ndarray) -> None:
    data = nncodec.compress(photo, quality=50, model="tiny")
    assert isinstance(nncodec.decompress(data), nncodec.Picture)


@pytest.mark.parametrize("effort", [0, 1, 3])
def test_tiles_taken_together_give_the_same_file_and_picture(
    effort: int, tiny: Model, photo: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    together: list[int] = []
    encode = encoding.Chooser.encode

    def watched(self: encoding.Chooser, y: torch.Tensor, *others: Any) -> object:
        together.append(len(y))
        return encode(self, y, *others)

    alone = codec.compress(photo, 70, tiny, effort=effort, tile_log2=6)
    expected = codec.decompress(alone, model=tiny).color
    monkeypatch.setattr(encoding, "tiles_at_once", lambda _: 2)
    monkeypatch.setattr(encoding.Chooser, "encode", watched)
    steps: list[tuple[int, int]] = []
    data = codec.compress(photo, 70, tiny, effort=effort, tile_log2=6, progress=lambda *step: steps.append(step))
    assert together == [2, 2] * 3
    assert steps[-1] == (12, 12)
    assert data == alone
    assert np.array_equal(codec.decompress(data, model=tiny).color, expected)
