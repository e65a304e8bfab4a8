"""The .aec container: bytes <-> header and sections, with every limit and every CRC.

Knows the layout of ``docs/bitstream.md`` and nothing of what a section's payload means. Standard
library only.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

from nncodec import tiling
from nncodec.config import QUALITIES, Z_BYTES, Z_STRIDE
from nncodec.errors import CorruptError, FormatError, InputError, LimitError, NotAecError, UnsupportedError

MAGIC = b"\x8bAEC\r\n"
VERSION = 1
SIDE_MAX = 1 << 24
"""Largest width or height a header may state."""
PIXELS_MAX = 1_000_000_000
"""Default limit on width x height that a reader accepts."""
TILE_LOG2_MIN, TILE_LOG2_MAX = 6, 12
METADATA_MAX = 1 << 24
"""Largest ICC, EXIF or XMP block after decompression, in bytes."""

BIT_DEPTHS = (8, 16)
SECTIONS_MAX = (1 << 16) - 1

_HEADER = struct.Struct("<6sBBBBBII8sH")
_ENTRY = struct.Struct("<BII")
_CRC = struct.Struct("<I")
HEADER_SIZE = _HEADER.size
"""Bytes before the section table."""


class Color(IntEnum):
    """What the decoded color planes are."""

    RGB = 0
    GREY = 1


FILTERED, HIDDEN = 4, 32
"""Bits beside the color that say `Header.filtered` and `Header.hidden`."""
WITHDRAWN = 2 | 8 | 16
"""Bits of signs hidden by earlier codes, which no build reads any more."""


class SectionType(IntEnum):
    """Kinds of section. ICC, EXIF, XMP come first; then every TILE, followed by its ALPHA if there is alpha."""

    ICC = 1
    EXIF = 2
    XMP = 3
    TILE = 16
    ALPHA = 17


_KINDS = frozenset(SectionType)


@dataclass(frozen=True)
class Header:
    """What a decoder must know before the first section.

    `model_id` is 8 bytes; `bit_depth` is 8 or 16; a tile is ``1 << tile_log2`` pixels wide and high; with `hidden`
    some signs are not coded but hidden (`nncodec.hiding`); with `filtered` each tile has a filter of its own
    (`nncodec.postfilter`).
    """

    width: int
    height: int
    quality: int
    model_id: bytes
    color: Color = Color.RGB
    bit_depth: int = 8
    tile_log2: int = 10
    hidden: bool = False
    filtered: bool = False

    @property
    def tiles(self) -> int:
        """Number of TILE sections, in raster order."""
        size = 1 << self.tile_log2
        return -(-self.width // size) * -(-self.height // size)

    def tile_floors(self) -> Iterator[int]:
        """Least length in bytes of each tile's payload, in file order."""
        plane = tiling.padded(self.height), tiling.padded(self.width)
        for tile in tiling.grid(*plane, 1 << self.tile_log2):
            yield Z_BYTES * (tile.height // Z_STRIDE) * (tile.width // Z_STRIDE)


@dataclass(frozen=True)
class Section:
    type: SectionType
    payload: bytes


@dataclass(frozen=True)
class Entry:
    """A section as the table describes it: where it lies and its CRC-32."""

    type: SectionType
    offset: int
    length: int
    crc: int


def check_room(header: Header, alpha: bool, blocks: int) -> None:
    """Raises InputError where no file can hold such a picture and so many blocks of metadata."""
    if max(header.width, header.height) > SIDE_MAX:
        raise InputError(
            f"picture of {header.width}x{header.height} has over {SIDE_MAX} pixels on a side; cut it in two"
        )
    if (count := header.tiles * (1 + alpha) + blocks) > SECTIONS_MAX:
        raise InputError(f"{count} sections are more than {SECTIONS_MAX}; use larger tiles")


def pack(header: Header, sections: list[Section]) -> bytes:
    """Serialize; `sections` are in file order. Raises ValueError when they break the format."""
    if len(sections) > SECTIONS_MAX:
        raise ValueError(f"{len(sections)} sections are more than {SECTIONS_MAX}; use larger tiles")
    head = _HEADER.pack(
        MAGIC,
        VERSION,
        header.color | HIDDEN * header.hidden | FILTERED * header.filtered,
        header.bit_depth,
        header.quality,
        header.tile_log2,
        header.width,
        header.height,
        header.model_id,
        len(sections),
    )
    table = b"".join(_ENTRY.pack(s.type, len(s.payload), zlib.crc32(s.payload)) for s in sections)
    data = b"".join([head, table, _CRC.pack(zlib.crc32(head + table)), *(s.payload for s in sections)])
    try:
        parse_header(data, pixels_max=SIDE_MAX**2)
    except (CorruptError, LimitError) as error:
        raise ValueError(f"refusing to write an invalid file: {error}") from None
    return data


def table_end(head: bytes) -> int:
    """Bytes that `parse_header` needs of a file that starts with `head`, at least HEADER_SIZE bytes."""
    count: int = _HEADER.unpack_from(head)[-1]
    return _HEADER.size + count * _ENTRY.size + _CRC.size


def parse_header(data: bytes, pixels_max: int = PIXELS_MAX, *, whole: bool = True) -> tuple[Header, list[Entry]]:
    """Read and check header and section table; no payload is touched.

    With `whole` false `data` may end before the sections do: a file's beginning, or a truncated file.
    Raises NotAecError, UnsupportedError, CorruptError or LimitError.
    """
    if data[: len(MAGIC)] != MAGIC:
        raise NotAecError(_why_not_aec(data))
    if len(data) > len(MAGIC) and data[len(MAGIC)] != VERSION:
        raise UnsupportedError(
            f"file is of .aec version {data[len(MAGIC)]}, this build reads version {VERSION}; update nncodec"
        )
    if len(data) < _HEADER.size:
        raise CorruptError(f"header: {len(data)} bytes where {_HEADER.size} are needed; the file is truncated")
    fields = _HEADER.unpack_from(data)
    _, _, color, depth, quality, tile_log2, width, height, model_id, count = fields
    end = _HEADER.size + count * _ENTRY.size
    if len(data) < end + _CRC.size:
        raise CorruptError(f"section table: file ends at byte {len(data)} of {end + _CRC.size}; it is truncated")
    (stated,) = _CRC.unpack_from(data, end)
    found = zlib.crc32(data[:end])
    if stated != found:
        raise CorruptError(f"header: crc {found:08x} does not match {stated:08x}; the file is damaged")
    if color & WITHDRAWN:
        raise UnsupportedError("signs are hidden by the code of an earlier build; use the nncodec that wrote the file")
    color, hidden, filtered = color & ~(HIDDEN | FILTERED), color & HIDDEN, color & FILTERED
    if color not in tuple(Color) or depth not in BIT_DEPTHS:
        raise UnsupportedError(f"color {color} with {depth} bits a sample is not known to this build; update nncodec")
    if not 1 <= quality <= QUALITIES:
        raise CorruptError(f"header: quality {quality} is not in 1..{QUALITIES}")
    if not TILE_LOG2_MIN <= tile_log2 <= TILE_LOG2_MAX:
        raise CorruptError(f"header: tile_log2 {tile_log2} is not in {TILE_LOG2_MIN}..{TILE_LOG2_MAX}")
    if not (1 <= width <= SIDE_MAX and 1 <= height <= SIDE_MAX):
        raise CorruptError(f"header: {width}x{height} is not within 1..{SIDE_MAX} on each side")
    if width * height > pixels_max:
        raise LimitError(
            f"picture of {width}x{height} is over the limit of {pixels_max} pixels; raise it if you trust the file"
        )
    header = Header(width, height, quality, model_id, Color(color), depth, tile_log2, hidden > 0, filtered > 0)
    entries = _parse_table(data, header, count)
    if whole:
        check_end(data, entries)
    return header, entries


def is_salvageable(data: bytes) -> bool:
    """Whether partial decoding gives something: header and section table are sound, and a tile is."""
    try:
        _, entries = parse_header(data, SIDE_MAX**2, whole=False)
    except FormatError:
        return False
    tiles = (e for e in entries if e.type is SectionType.TILE)
    return any(zlib.crc32(data[e.offset : e.offset + e.length]) == e.crc for e in tiles)


def check_end(data: bytes, entries: list[Entry]) -> None:
    """Raises CorruptError unless the file ends where its last section does."""
    stop = entries[-1].offset + entries[-1].length
    if stop != len(data):
        what = "truncated" if stop > len(data) else "followed by other bytes"
        raise CorruptError(f"sections end at byte {stop}, the file at {len(data)}; it is {what}")


def _parse_table(data: bytes, header: Header, count: int) -> list[Entry]:
    entries: list[Entry] = []
    offset = _HEADER.size + count * _ENTRY.size + _CRC.size
    for i in range(count):
        kind, length, crc = _ENTRY.unpack_from(data, _HEADER.size + i * _ENTRY.size)
        if kind not in _KINDS:
            raise UnsupportedError(f"section {i}: type {kind} is not known to this build; update nncodec")
        previous = entries[-1].type if entries else 0
        if not _may_follow(kind, previous):
            raise CorruptError(f"section {i}: type {kind} follows type {previous}; sections are out of order")
        entries.append(Entry(SectionType(kind), offset, length, crc))
        offset += length
    tiles, alphas = (sum(e.type is kind for e in entries) for kind in (SectionType.TILE, SectionType.ALPHA))
    if tiles != header.tiles:
        raise CorruptError(
            f"section table: {tiles} tiles where a {header.width}x{header.height} picture has {header.tiles}"
        )
    if alphas not in (0, tiles):
        raise CorruptError(f"section table: {alphas} of {tiles} tiles have alpha; all or none must")
    # Before a pixel is allocated: what a file claims is bounded by what it holds.
    lengths = [entry.length for entry in entries if entry.type is SectionType.TILE]
    for number, (length, floor) in enumerate(zip(lengths, header.tile_floors(), strict=True)):
        if length < floor:
            raise CorruptError(f"tile {number}: {length} bytes where at least {floor} are needed; the file is invalid")
    return entries


def _may_follow(kind: int, previous: int) -> bool:
    if kind == SectionType.ALPHA:
        return previous == SectionType.TILE
    if kind == SectionType.TILE:
        return True
    return kind > previous


def section_name(entries: list[Entry], index: int) -> str:
    """How messages call a section: 'tile 3', 'alpha 3', 'icc'."""
    kind = entries[index].type
    if kind < SectionType.TILE:
        return kind.name.lower()
    others = sum(e.type < SectionType.TILE for e in entries[: len(SectionType)])  # they come first, once each
    step = 2 if entries[-1].type is SectionType.ALPHA else 1
    return f"{kind.name.lower()} {(index - others) // step}"


def payload(data: bytes, entries: list[Entry], index: int) -> bytes:
    """Payload of one section, CRC checked. Raises CorruptError naming the section."""
    entry = entries[index]
    stop = entry.offset + entry.length
    if len(data) < stop:
        name = section_name(entries, index)
        raise CorruptError(f"{name}: the file ends at byte {len(data)}, before the section does at {stop}")
    body = data[entry.offset : stop]
    found = zlib.crc32(body)
    if found != entry.crc:
        name = section_name(entries, index)
        raise CorruptError(f"{name}: crc {found:08x} does not match {entry.crc:08x}; the file is damaged")
    return body


def parse(data: bytes, pixels_max: int = PIXELS_MAX) -> tuple[Header, list[Section]]:
    """Header and all sections, every CRC checked."""
    header, entries = parse_header(data, pixels_max)
    return header, [Section(e.type, payload(data, entries, i)) for i, e in enumerate(entries)]


def deflate(block: bytes) -> bytes:
    """Metadata as stored: a zlib stream. Raises InputError."""
    if len(block) > METADATA_MAX:
        raise InputError(f"metadata block of {len(block)} bytes is over {METADATA_MAX}; leave it out")
    return zlib.compress(block, 9)


def inflate(body: bytes, name: str) -> bytes:
    """Inverse of `deflate`. Raises CorruptError or LimitError; never allocates over METADATA_MAX."""
    stream = zlib.decompressobj()
    try:
        block = stream.decompress(body, METADATA_MAX)
    except zlib.error as error:
        raise CorruptError(f"{name}: not a zlib stream ({error})") from None
    if stream.unconsumed_tail:
        raise LimitError(f"{name}: unpacks to more than {METADATA_MAX} bytes")
    if not stream.eof or stream.unused_data:
        raise CorruptError(f"{name}: zlib stream is cut short or followed by other bytes")
    return block


def _why_not_aec(data: bytes) -> str:
    if not data:
        return "the file is empty"
    if data[:4] == MAGIC[:4] and len(data) >= len(MAGIC):
        return "line endings of the .aec signature were changed; transfer the file in binary mode"
    if MAGIC.startswith(data):
        return f"only {len(data)} bytes of the .aec signature; the file is truncated"
    return f"not an .aec file: it starts with {data[:6].hex(' ')}"
