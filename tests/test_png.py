"""PNG written from bands is read by Pillow, PNG cut in bands is what Pillow reads whole."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nncodec import picture, png
from nncodec.errors import InputError


def plain_png(planes: np.ndarray, color: int) -> bytes:
    """PNG without filters, straight from the specification."""
    big = planes.astype(planes.dtype.newbyteorder(">"))
    raw = b"".join(b"\0" + row.tobytes() for row in big)
    header = struct.pack(">IIBBBBB", planes.shape[1], planes.shape[0], 8 * planes.itemsize, color, 0, 0, 0)
    chunks = [png.chunk(b"IHDR", header), png.chunk(b"IDAT", zlib.compress(raw)), png.chunk(b"IEND", b"")]
    return png.MAGIC + b"".join(chunks)


def noise(channels: int, dtype: type, height: int = 37, width: int = 23) -> np.ndarray:
    rng = np.random.default_rng(channels)
    smooth = np.add.outer(np.arange(height) * 301, np.arange(width) * 97)[..., None] * np.arange(1, channels + 1)
    return (smooth + rng.integers(0, 999, (height, width, channels))).astype(dtype)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize(("channels", "color"), [(1, 0), (2, 4), (3, 2), (4, 6)])
def test_every_sample_of_every_layout_is_read(channels: int, color: int, dtype: type) -> None:
    planes = noise(channels, dtype)
    found = picture.read(plain_png(planes, color))
    assert found.bit_depth == 8 * np.dtype(dtype).itemsize
    assert (found.planes() == planes).all()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_what_is_written_in_bands_is_read(channels: int, dtype: type) -> None:
    planes, file = noise(channels, dtype), io.BytesIO()
    writer = png.PngWriter(file, 23, 37, channels, 8 * np.dtype(dtype).itemsize, icc=b"icc", exif=b"II*\0", xmp=b"<x/>")
    for rows in (planes[:1], planes[1:20], planes[20:]):
        writer.write(rows)
    writer.close()
    found = picture.read(file.getvalue())
    assert (found.planes() == planes).all()
    assert (found.icc, found.exif, found.xmp) == (b"icc", b"II*\0", b"<x/>")


def test_a_photo_is_not_larger_than_from_pillow(photo: np.ndarray) -> None:
    ours, theirs = io.BytesIO(), io.BytesIO()
    writer = png.PngWriter(ours, photo.shape[1], photo.shape[0], 3, 8)
    writer.write(photo)
    writer.close()
    Image.fromarray(photo).save(theirs, "PNG")
    assert len(ours.getvalue()) < 1.05 * len(theirs.getvalue())


def test_16_bit_tiff_is_read_whole(tmp_path: Path) -> None:
    tifffile = pytest.importorskip("tifffile")
    planes = noise(3, np.uint16)
    for name, order in (("little", "<"), ("big", ">")):
        tifffile.imwrite(tmp_path / f"{name}.tif", planes, photometric="rgb", byteorder=order)
        assert (picture.read(tmp_path / f"{name}.tif").color == planes).all()


def keyed_grey(bits: int, key: int, samples: bytes, width: int) -> bytes:
    """PNG of one row of grey samples, one level of which is transparent."""
    parts = [(b"IHDR", struct.pack(">IIBBBBB", width, 1, bits, 0, 0, 0, 0)), (b"tRNS", struct.pack(">H", key)),
             (b"IDAT", zlib.compress(b"\0" + samples)), (b"IEND", b"")]  # fmt: skip
    return png.MAGIC + b"".join(png.chunk(*part) for part in parts)


def test_transparent_grey_of_few_bits_is_on_the_scale_of_the_samples() -> None:
    levels = np.arange(16, dtype=np.uint8)
    found = picture.read(keyed_grey(4, 5, (levels[::2] << 4 | levels[1::2]).tobytes(), 16))
    assert (found.color == 17 * levels).all()
    assert found.alpha is not None
    assert (found.alpha == np.where(levels == 5, 0, 255)).all()


def test_pillows_image_is_what_its_file_is() -> None:
    body = b"".join([
        png.chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 1, 2, 0, 0, 0, 0)), png.chunk(b"tRNS", b"\0\2"),
        png.chunk(b"IDAT", zlib.compress(b"\0\x1b")), png.chunk(b"eXIf", b"II*\0"),
        png.chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0<x/>"), png.chunk(b"IEND", b""),
    ])  # fmt: skip
    with Image.open(io.BytesIO(png.MAGIC + body)) as image:
        for found in (picture.read(png.MAGIC + body), picture.from_pil(image), picture.from_pil(image)):
            assert found.color.tolist() == [[0, 85, 170, 255]]
            assert found.alpha is not None
            assert found.alpha.tolist() == [[255, 255, 0, 255]]
            assert (found.exif, found.xmp) == (b"II*\0", b"<x/>")


@pytest.mark.parametrize(("key", "alpha"), [(0, [0, 255, 0, 255]), (1, [255, 0, 255, 0])])
def test_transparent_black_or_white_of_one_bit(key: int, alpha: list[int]) -> None:
    found = picture.read(keyed_grey(1, key, b"\x50", 4))
    assert found.color.tolist() == [[0, 255, 0, 255]]
    assert found.alpha is not None
    assert found.alpha.tolist() == [alpha]


def test_damaged_pixel_data_is_refused_with_its_place() -> None:
    data = bytearray(plain_png(noise(3, np.uint8), 2))
    at = data.index(b"IDAT") + 4
    data[at + 2000] ^= 1
    with pytest.raises(InputError, match=f"PNG data at byte {at} is damaged"):
        picture.read(bytes(data))


@pytest.mark.parametrize("damage", ["crc", "truncated", "zlib"])
def test_bands_of_a_damaged_file_end_in_an_error(damage: str) -> None:
    planes = noise(3, np.uint8)
    data = plain_png(planes, 2)
    at, end = data.index(b"IDAT") + 4, data.index(b"IEND") - 8
    of = png.layout(io.BytesIO(data))
    assert of is not None
    if damage == "crc":
        data = data[:end] + bytes([data[end] ^ 1]) + data[end + 1 :]
    elif damage == "zlib":
        data = data[: at + 5] + b"\xff" * 50 + data[at + 55 :]
    else:
        data = data[: at + 1000]
    bands = png.Bands(io.BytesIO(data), of)
    with pytest.raises(InputError, match=r"damaged|truncated"):
        bands.take(37, bytes(23 * 3))


def test_a_damaged_header_is_no_layout() -> None:
    data = bytearray(plain_png(noise(3, np.uint8), 2))
    data[data.index(b"IHDR") + 11] ^= 1  # of the height
    assert png.layout(io.BytesIO(data)) is None
    with pytest.raises(InputError, match="not a picture that Pillow can read"):
        picture.read(bytes(data))


def test_orderly_bands_end_without_more_rows() -> None:
    data = plain_png(noise(3, np.uint8), 2)
    of = png.layout(io.BytesIO(data))
    assert of is not None
    bands = png.Bands(io.BytesIO(data), of)
    bands.take(37, bytes(23 * 3))
    with pytest.raises(InputError, match="row 37 of 37"):
        bands.take(1, bytes(23 * 3))
