"""The container refuses everything but what the specification allows."""

from __future__ import annotations

import contextlib
import struct
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nncodec import container
from nncodec.container import Color, Header, Section, SectionType
from nncodec.errors import CorruptError, FormatError, InputError, LimitError, NotAecError, UnsupportedError

HEADER = Header(width=100, height=60, quality=40, model_id=b"modelid!", tile_log2=6)
SECTIONS = [
    Section(SectionType.ICC, container.deflate(b"profile")),
    Section(SectionType.TILE, b"abcd"),
    Section(SectionType.ALPHA, b"png"),
    Section(SectionType.TILE, b"efgh"),
    Section(SectionType.ALPHA, b"gnp"),
]
DATA = container.pack(HEADER, SECTIONS)
HEAD = 29


def with_header(**changes: int) -> bytes:
    """DATA with header fields overwritten and the header's CRC recomputed."""
    offsets = {"color": (7, "<B"), "depth": (8, "<B"), "quality": (9, "<B"), "tile_log2": (10, "<B"),
               "width": (11, "<I"), "height": (15, "<I"), "count": (27, "<H")}  # fmt: skip
    data = bytearray(DATA)
    for name, value in changes.items():
        struct.pack_into(offsets[name][1], data, offsets[name][0], value)
    return reseal(data)


def reseal(data: bytearray) -> bytes:
    end = HEAD + 9 * struct.unpack_from("<H", data, 27)[0]
    if end + 4 <= len(data):
        struct.pack_into("<I", data, end, zlib.crc32(bytes(data[:end])))
    return bytes(data)


def test_pack_then_parse_gives_the_same() -> None:
    assert container.parse(DATA) == (HEADER, SECTIONS)


def test_single_tile_costs_at_most_48_bytes() -> None:
    data = container.pack(Header(64, 64, 1, b"modelid!"), [Section(SectionType.TILE, b"word")])
    assert len(data) == 46


def test_every_truncation_is_an_error() -> None:
    for length in range(len(DATA)):
        with pytest.raises(FormatError):
            container.parse(DATA[:length])


def test_every_flipped_bit_is_an_error() -> None:
    for i in range(8 * len(DATA)):
        data = bytearray(DATA)
        data[i // 8] ^= 1 << i % 8
        with pytest.raises(FormatError):
            container.parse(bytes(data))


def test_trailing_bytes_are_refused() -> None:
    with pytest.raises(CorruptError, match="followed by other bytes"):
        container.parse(DATA + b"\0")


def test_damaged_tile_is_named() -> None:
    data = bytearray(DATA)
    data[-4] ^= 1
    with pytest.raises(CorruptError, match=r"tile 1: crc [0-9a-f]{8} does not match [0-9a-f]{8}"):
        container.parse(bytes(data))


def test_damaged_section_is_named() -> None:
    data = bytearray(DATA)
    data[HEAD + 9 * len(SECTIONS) + 4] ^= 1
    with pytest.raises(CorruptError, match="icc: crc"):
        container.parse(bytes(data))


@pytest.mark.parametrize(
    ("data", "error", "words"),
    [
        (b"", NotAecError, "empty"),
        (b"\x89PNG\r\n\x1a\n" + bytes(50), NotAecError, "not an .aec file"),
        (b"\x8bAEC\n" + DATA[6:], NotAecError, "binary mode"),
        (DATA[:3], NotAecError, "truncated"),
        (DATA[:6] + b"\x02" + DATA[7:], UnsupportedError, "version 2"),
        (with_header(color=65), UnsupportedError, "color 65"),
        (with_header(color=2), UnsupportedError, "that wrote the file"),
        (with_header(color=8), UnsupportedError, "that wrote the file"),
        (with_header(color=16), UnsupportedError, "that wrote the file"),
        (with_header(depth=12), UnsupportedError, "12 bits"),
        (with_header(quality=0), CorruptError, "quality 0"),
        (with_header(quality=101), CorruptError, "quality 101"),
        (with_header(tile_log2=5), CorruptError, "tile_log2 5"),
        (with_header(tile_log2=255), CorruptError, "tile_log2 255"),
        (with_header(width=0), CorruptError, "0x60"),
        (with_header(width=2**32 - 1), CorruptError, "4294967295x60"),
        (with_header(width=2**24, height=2**24), LimitError, "limit"),
        (with_header(width=200), CorruptError, "2 tiles where"),
        (with_header(count=0), CorruptError, "0 tiles where"),
        (with_header(count=65535), CorruptError, "truncated"),
    ],
)
def test_bad_header_is_refused_with_the_fact(data: bytes, error: type[FormatError], words: str) -> None:
    with pytest.raises(error, match=words):
        container.parse(data)


@pytest.mark.parametrize(("tile_log2", "side"), [(12, 4096), (12, 4000), (6, 64), (10, 1000)])
def test_a_file_claims_at_most_1024_pixels_a_byte(tile_log2: int, side: int) -> None:
    header = Header(side, side, 40, b"modelid!", tile_log2=tile_log2)
    (floor,) = header.tile_floors()
    assert floor >= side * side / 1024
    container.pack(header, [Section(SectionType.TILE, bytes(floor))])
    with pytest.raises(ValueError, match=f"tile 0: {floor - 1} bytes where at least {floor} are needed"):
        container.pack(header, [Section(SectionType.TILE, bytes(floor - 1))])


def test_pixel_limit_is_the_callers() -> None:
    with pytest.raises(LimitError):
        container.parse(DATA, pixels_max=5999)
    container.parse(DATA, pixels_max=6000)


@pytest.mark.parametrize(
    "order", [(1, 0, 2, 3, 4), (0, 2, 1, 3, 4), (0, 0, 1, 2, 3, 4), (0, 1, 2, 2, 3, 4), (0, 1, 3, 2, 4)]
)
def test_sections_out_of_order_are_refused(order: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="out of order"):
        container.pack(HEADER, [SECTIONS[i] for i in order])


def test_alpha_of_some_tiles_only_is_refused() -> None:
    with pytest.raises(ValueError, match="1 of 2 tiles have alpha"):
        container.pack(HEADER, SECTIONS[:-1])


def test_too_many_sections_are_refused() -> None:
    header = Header(64, 64 * 70_000, 1, b"modelid!", tile_log2=6)
    with pytest.raises(ValueError, match="70000 sections are more than 65535"):
        container.pack(header, [Section(SectionType.TILE, b"")] * 70_000)


def test_unknown_section_type_is_unsupported() -> None:
    data = bytearray(DATA)
    data[HEAD] = 99
    with pytest.raises(UnsupportedError, match="type 99"):
        container.parse(reseal(data))


def test_metadata_that_no_decoder_takes_is_not_written() -> None:
    with pytest.raises(InputError, match="over 16777216; leave it out"):
        container.deflate(bytes(container.METADATA_MAX + 1))
    assert len(container.inflate(container.deflate(bytes(container.METADATA_MAX)), "icc")) == container.METADATA_MAX


def test_metadata_bomb_is_refused() -> None:
    bomb = zlib.compress(bytes(container.METADATA_MAX + 1))
    with pytest.raises(LimitError, match="icc"):
        container.inflate(bomb, "icc")


@pytest.mark.parametrize("body", [b"", b"junk", zlib.compress(b"x")[:-1], zlib.compress(b"x") + b"y"])
def test_broken_metadata_is_corrupt(body: bytes) -> None:
    with pytest.raises(CorruptError, match="exif"):
        container.inflate(body, "exif")


@given(st.binary(max_size=300), st.booleans())
def test_any_bytes_give_a_typed_error_or_a_header(body: bytes, sealed: bool) -> None:
    data = bytearray(container.MAGIC + bytes([container.VERSION]) + body)
    with contextlib.suppress(FormatError):
        container.parse(reseal(data) if sealed and len(data) >= HEAD else bytes(data))


@given(st.integers(1, 5000), st.integers(1, 5000), st.integers(1, 100), st.sampled_from(Color), st.integers(10, 12))
def test_any_header_survives(width: int, height: int, quality: int, color: Color, tile_log2: int) -> None:
    header = Header(width, height, quality, b"12345678", color, 8, tile_log2)
    sections = [Section(SectionType.TILE, bytes(floor)) for floor in header.tile_floors()]
    assert container.parse(container.pack(header, sections)) == (header, sections)
