"""What a picture carries is kept by the rule of its mode, in every format that is read and written."""

from __future__ import annotations

import io
import itertools
import struct
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps, features

from nncodec import codec, picture, rows
from nncodec.errors import CorruptError, InputError, PictureWarning
from nncodec.picture import Picture
from nncodec.weights import Model

ORIENTATION = 0x0112


def cmyk_profile() -> bytes:
    """An ICC profile (version 2.4, one 8-bit table) by which cyan prints red."""

    def lab(c: int, m: int, y: int, k: int) -> tuple[float, float, float]:
        light = 100 * (1 - k) * (1 - 0.5 * c) * (1 - 0.4 * m) * (1 - 0.1 * y)
        return light, 70 * c * (1 - k), 60 * c * (1 - k)

    corners = [lab(*inks) for inks in itertools.product((0, 1), repeat=4)]
    clut = b"".join(struct.pack("BBB", round(light * 2.55), round(a + 128), round(b + 128)) for light, a, b in corners)
    ramp = bytes(range(256))
    one = [65536 if i in (0, 4, 8) else 0 for i in range(9)]
    lut = b"mft1" + bytes(4) + struct.pack(">BBBB9I", 4, 3, 2, 0, *one) + 4 * ramp + clut + 3 * ramp
    text = b"desc" + bytes(4) + struct.pack(">I", 5) + b"test\0" + bytes(4 + 4 + 2 + 1 + 67)
    copyright_ = b"text" + bytes(4) + b"CC0\0"
    white = b"XYZ " + bytes(4) + struct.pack(">3i", 63190, 65536, 54061)
    tags, body, at = [], b"", 128 + 4 + 12 * 4
    for name, data in ((b"A2B0", lut), (b"desc", text), (b"cprt", copyright_), (b"wtpt", white)):
        data += bytes(-len(data) % 4)
        tags.append(struct.pack(">4sII", name, at + len(body), len(data)))
        body += data
    table = struct.pack(">I", len(tags)) + b"".join(tags)
    size = 128 + len(table) + len(body)
    header = struct.pack(">I4sI4s4s4s", size, b"lcms", 0x02400000, b"prtr", b"CMYK", b"Lab ")
    header += struct.pack(">6H", 2026, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + struct.pack(">3i", 63190, 65536, 54061)
    return header.ljust(128, b"\0") + table + body


def exif_with(orientation: int) -> bytes:
    tags = Image.Exif()
    tags[ORIENTATION] = orientation
    tags[0x010F] = "Maker"
    return tags.tobytes().removeprefix(b"Exif\0\0")


def shown(data: bytes) -> np.ndarray:
    """Pixels as a viewer turns them."""
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB")).astype(int)


FORMATS = [".png", ".jpg", ".webp", ".tif", *([".avif"] if features.check("avif") else [])]


@pytest.mark.parametrize("source", FORMATS)
@pytest.mark.parametrize("orientation", [1, 3, 5, 6])
def test_orientation_is_neither_lost_nor_applied_twice(
    source: str, orientation: int, photo: np.ndarray, tiny: Model
) -> None:
    corner = np.ascontiguousarray(photo[20:84, 40:136])  # no symmetry: flat color on one side only
    data = picture.encode_file(Picture(corner, exif=exif_with(orientation)), source)
    before = shown(data)
    assert before.shape == ((96, 64, 3) if orientation > 4 else (64, 96, 3))
    decoded = codec.decompress(codec.compress(picture.read(data), 95, tiny), model=tiny)
    right = np.abs(decoded.color.astype(int) - picture.read(data).color).mean()
    for target in FORMATS:
        after = shown(picture.encode_file(decoded, target))
        assert after.shape == before.shape, target
        assert np.abs(after - before).mean() < right + 3, target


@pytest.mark.parametrize("suffix", [".bmp", ".gif", ".ico", ".j2k", ".jp2", ".pgm", ".tga"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_formats_without_exif_get_the_pixels_turned(suffix: str, orientation: int, photo: np.ndarray) -> None:
    corner = np.ascontiguousarray(photo[20:84, 40:136, 1])
    of = Picture(corner, exif=exif_with(orientation), alpha=None if suffix != ".ico" else corner)
    before = shown(picture.encode_file(replace(of, alpha=None), ".png"))
    out = io.BytesIO()
    written = rows.save(out, suffix, of.outline, [of])
    assert out.getvalue() == picture.encode_file(of, suffix)
    assert (written.height, written.width) == before.shape[:2]
    assert (shown(out.getvalue()) == before).all()


def test_16_bits_of_pnm_are_kept_when_turned() -> None:
    deep = np.random.default_rng(0).integers(0, 65536, (5, 7, 3)).astype(np.uint16)
    out = io.BytesIO()
    of = Picture(deep, exif=exif_with(6))
    rows.save(out, ".ppm", of.outline, [of.rows(0, 2), of.rows(2, 5)])
    assert (picture.read(out.getvalue()).color == np.rot90(deep, -1)).all()


def test_j2k_is_a_codestream(photo: np.ndarray) -> None:
    assert picture.encode_file(Picture(photo), ".j2k").startswith(b"\xff\x4f\xff\x51")
    assert picture.encode_file(Picture(photo), ".jp2")[4:8] == b"jP  "


def test_ico_is_not_scaled(photo: np.ndarray) -> None:
    assert picture.read(picture.encode_file(Picture(photo), ".ico")).width == 208
    with pytest.raises(InputError, match=r"ICO cannot hold 300x4, only 256 pixels a side; write \.png"):
        picture.encode_file(Picture(np.zeros((4, 300, 3), np.uint8)), ".ico")


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
def test_blocks_are_kept_byte_for_byte(suffix: str, photo: np.ndarray, tiny: Model) -> None:
    blocks = (b"profile" * 30_000, exif_with(6), b"<x:xmpmeta xmlns:x='adobe:ns:meta/'/>")
    first = picture.read(picture.encode_file(Picture(photo, None, *blocks), suffix))
    decoded = codec.decompress(codec.compress(first, 20, tiny), model=tiny)
    last = picture.read(picture.encode_file(decoded, suffix))
    for one in (first, decoded, last):
        assert (one.icc, one.exif, one.xmp) == blocks


def test_strip_leaves_out_what_is_named(photo: np.ndarray, tiny: Model) -> None:
    source = Picture(photo, None, b"icc", exif_with(1), b"<xmp/>")
    for names, kept in (("xmp", (True, True, False)), (["icc", "exif"], (False, False, True)), ("all", (False,) * 3)):
        decoded = codec.decompress(codec.compress(source, 20, tiny, strip=names), model=tiny)
        assert tuple(block is not None for block in (decoded.icc, decoded.exif, decoded.xmp)) == kept
    with pytest.raises(InputError, match="strip gps: only icc, exif, xmp or all"):
        codec.compress(source, 20, tiny, strip=["gps"])


@pytest.mark.parametrize("orientation", range(1, 10))
def test_stripped_exif_leaves_the_picture_upright(orientation: int, photo: np.ndarray, tiny: Model) -> None:
    source = Picture(photo[:64, :80], exif=exif_with(orientation))
    decoded = codec.decompress(codec.compress(source, 20, tiny, strip="exif"), model=tiny)
    if not 2 <= orientation <= 8:
        assert decoded.exif is None
        return
    with Image.open(io.BytesIO(picture.encode_file(decoded, ".jpg"))) as written:
        assert dict(written.getexif()) == {ORIENTATION: orientation}


@pytest.mark.parametrize("exif", [b"nonsense", b"II*\0\xff\xff\xff\xff", b"II"])
def test_broken_exif_can_be_stripped(exif: bytes, photo: np.ndarray, tiny: Model) -> None:
    assert codec.decompress(codec.compress(Picture(photo, exif=exif), 20, tiny, strip="exif"), model=tiny).exif is None


def test_tags_of_a_tiff_become_exif(photo: np.ndarray, tmp_path: Path) -> None:
    tags = Image.Exif()
    tags[0x010F], tags[0x0132] = "Maker", "2026:01:01 00:00:00"
    tags.get_ifd(0x8769)[0x9003] = "2025:01:01 00:00:00"
    Image.fromarray(photo).save(tmp_path / "a.tif", exif=tags.tobytes())
    found = Image.Exif()
    found.load(picture.read(tmp_path / "a.tif").exif)
    assert (found[0x010F], found[0x0132]) == ("Maker", "2026:01:01 00:00:00")
    assert found.get_ifd(0x8769)[0x9003] == "2025:01:01 00:00:00"
    assert ORIENTATION not in found  # Pillow turns the pixels of a TIFF


def test_cmyk_goes_through_its_profile() -> None:
    image = Image.new("CMYK", (8, 8), (255, 0, 0, 0))
    image.info["icc_profile"] = cmyk_profile()
    found = picture.from_pil(image)
    red, green, blue = found.color[0, 0]
    assert red > 200
    assert max(green, blue) < 60
    assert found.icc is None  # it describes inks that are no longer there
    assert found.remarks == ()


@pytest.mark.parametrize("profile", [None, b"junk", ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()])
def test_cmyk_without_a_usable_profile_is_converted_with_a_remark(profile: bytes | None) -> None:
    image = Image.new("CMYK", (8, 8), (255, 0, 0, 0))
    image.info["icc_profile"] = profile
    found = picture.from_pil(image)
    assert tuple(found.color[0, 0]) == (0, 255, 255)
    assert found.icc is None
    assert "Pillow's formula" in found.remarks[0]


def test_integers_beyond_16_bits_are_refused() -> None:
    for value in (-1, 65536):
        with pytest.raises(InputError, match="only 0 to 65535"):
            picture.from_pil(Image.new("I", (4, 4), value))
    assert picture.from_pil(Image.new("I", (4, 4), 65535)).color.max() == 65535


def test_16_bits_are_rounded_where_a_format_has_8() -> None:
    ramp = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    expected = np.round(ramp / 257)
    for levels in (ramp, np.dstack([ramp] * 3)):
        written = picture.read(picture.encode_file(Picture(levels), ".bmp"))
        assert (written.color.reshape(256, 256, -1)[..., 0] == expected).all()
    kept = picture.read(picture.encode_file(Picture(ramp), ".tif"))
    assert (kept.color == ramp).all()


def test_alpha_of_the_wrong_size_is_corrupt() -> None:
    body = picture.encode_alpha(np.zeros((4, 5), np.uint8))
    assert picture.decode_alpha(body, 5, 4).shape == (4, 5)
    with pytest.raises(CorruptError, match="not L 4x5"):
        picture.decode_alpha(body, 4, 5)
    with pytest.raises(CorruptError, match="not a readable PNG"):
        picture.decode_alpha(body[:20], 5, 4)


def test_save_keeps_everything(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    before = Picture(*(rng.integers(0, 65536, shape).astype(np.uint16) for shape in ((9, 7, 3), (9, 7))), b"icc")
    before.save(tmp_path / "a.png")
    after = picture.read(tmp_path / "a.png")
    assert after.outline == before.outline
    assert (after.planes() == before.planes()).all()


def test_alpha_of_16_bits_is_lossless() -> None:
    alpha = np.random.default_rng(0).integers(0, 65536, (9, 7)).astype(np.uint16)
    assert (picture.decode_alpha(picture.encode_alpha(alpha), 7, 9, 16) == alpha).all()
    with pytest.raises(CorruptError, match="not L 7x9"):
        picture.decode_alpha(picture.encode_alpha(alpha), 7, 9)


def test_alpha_cannot_become_jpeg() -> None:
    levels = np.zeros((4, 5), np.uint8)
    with pytest.raises(InputError, match="alpha"):
        picture.encode_file(Picture(levels, levels), ".jpg")


def test_threads_that_read_leave_warnings_as_they_were() -> None:
    before, first, second = list(warnings.filters), picture.reading("a"), picture.reading("b")
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    with pytest.warns(PictureWarning, match="is heard"):
        warnings.warn("is heard while another thread reads", PictureWarning, stacklevel=1)
    warnings.warn_explicit("what Pillow says of metadata", UserWarning, "a.py", 1, module="PIL.TiffImagePlugin")
    second.__exit__(None, None, None)
    assert warnings.filters == before


@pytest.mark.parametrize("kind", ["P3", "P6"])
@pytest.mark.parametrize("peak", [256, 1023, 65535])
def test_deep_color_of_pnm_is_kept(kind: str, peak: int, tmp_path: Path) -> None:
    levels = np.random.default_rng(peak).integers(0, peak + 1, (5, 7, 3))
    levels[0, 0] = 0, 1, peak
    body = levels.astype(">u2").tobytes() if kind == "P6" else " ".join(map(str, levels.ravel())).encode()
    path = tmp_path / "deep.ppm"
    path.write_bytes(f"{kind} 7 5 {peak}\n".encode() + body)
    found = picture.read(path)
    assert found.bit_depth == 16
    assert (found.color == np.round(levels * 65535 / peak)).all()
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(InputError, match=r"deep\.ppm: cannot be read: .*(truncated|not enough)"):
        picture.read(path)


@pytest.mark.parametrize(
    "kind", [RuntimeError, TypeError, KeyError, IndexError, OverflowError, ZeroDivisionError, struct.error]
)
def test_whatever_pillow_raises_names_the_file(kind: type[Exception]) -> None:
    with pytest.raises(InputError, match=r"a\.avif: cannot be read: .*not implemented"), picture.reading("a.avif"):
        raise kind("not implemented")


@pytest.mark.skipif(not features.check("avif"), reason="Pillow without AVIF")
def test_a_broken_avif_is_refused_by_name(photo: np.ndarray, tmp_path: Path) -> None:
    data = picture.encode_file(Picture(photo), ".avif")
    at = data.index(b"mdat") + 4
    (tmp_path / "broken.avif").write_bytes(data[:at] + bytes(len(data) - at))
    with pytest.raises(InputError, match=r"broken\.avif: cannot be read: "):
        picture.read(tmp_path / "broken.avif")
