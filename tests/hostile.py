"""Hostile .aec files: sections taken apart and put together again with every CRC right.

Shared by tests/test_hostile.py and the fuzzers in tests/fuzz. Knows the layout, not the package: a check of
the parser must not be built with it.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field

HEAD = 29
FIELDS = {
    "version": (6, 1), "color": (7, 1), "depth": (8, 1), "quality": (9, 1), "tile_log2": (10, 1), "width": (11, 4),
    "height": (15, 4), "model_id": (19, 8), "count": (27, 2),
}  # fmt: skip
"""Offset and size of every header field after the signature."""
META = (1, 2, 3)
TILE, ALPHA = 16, 17


@dataclass
class Parts:
    """A file in pieces: 29 bytes of header, sections (type, payload), what follows them."""

    head: bytearray
    sections: list[tuple[int, bytes]]
    tail: bytes = b""
    lengths: dict[int, int] = field(default_factory=dict)
    """Lengths the table shall state instead of the true ones, by section."""

    def set(self, name: str, value: int) -> None:
        offset, size = FIELDS[name]
        self.head[offset : offset + size] = (value % (1 << 8 * size)).to_bytes(size, "little")

    def replaced(self, i: int, body: bytes) -> Parts:
        """The same with another payload of section i."""
        return Parts(self.head, [*self.sections[:i], (self.sections[i][0], body), *self.sections[i + 1 :]])

    def bytes(self, count: int | None = None) -> bytes:
        """The file, all CRCs right; `count` overrides the header's number of sections."""
        head = bytearray(self.head)
        struct.pack_into("<H", head, 27, (len(self.sections) if count is None else count) & 0xFFFF)
        table = b"".join(
            struct.pack("<BII", kind & 0xFF, self.lengths.get(i, len(body)) & 0xFFFFFFFF, zlib.crc32(body))
            for i, (kind, body) in enumerate(self.sections)
        )
        sealed = bytes(head) + table
        return sealed + struct.pack("<I", zlib.crc32(sealed)) + b"".join(b for _, b in self.sections) + self.tail


def take_apart(data: bytes) -> Parts | None:
    """Pieces of a file, as far as its bytes go; None if there is not even a table."""
    if len(data) < HEAD:
        return None
    (count,) = struct.unpack_from("<H", data, 27)
    offset = HEAD + 9 * count + 4
    if offset > len(data):
        return None
    sections = []
    for i in range(count):
        kind, length, _ = struct.unpack_from("<BII", data, HEAD + 9 * i)
        sections.append((kind, data[offset : offset + length]))
        offset += length
    return Parts(bytearray(data[:HEAD]), sections, data[offset:])


def seal(data: bytes) -> bytes:
    """The same bytes with the CRCs of header and sections recomputed as far as they reach."""
    out = bytearray(data)
    if len(out) < HEAD:
        return data
    (count,) = struct.unpack_from("<H", out, 27)
    end = HEAD + 9 * count
    if end + 4 > len(out):
        return data
    offset = end + 4
    for i in range(count):
        at = HEAD + 9 * i
        (length,) = struct.unpack_from("<I", out, at + 1)
        struct.pack_into("<I", out, at + 5, zlib.crc32(out[offset : offset + length]))
        offset += length
    struct.pack_into("<I", out, end, zlib.crc32(out[:end]))
    return bytes(out)


def with_model_id(data: bytes, model_id: bytes) -> bytes:
    """The file for another model; one whose header is damaged stays as it is."""
    if len(data) < HEAD:
        return data
    end = HEAD + 9 * struct.unpack_from("<H", data, 27)[0]
    if data[end : end + 4] != struct.pack("<I", zlib.crc32(data[:end])):
        return data
    offset, size = FIELDS["model_id"]
    head = data[:offset] + model_id + data[offset + size : end]
    return head + struct.pack("<I", zlib.crc32(head)) + data[end + 4 :]


def png_chunks(body: bytes) -> list[tuple[bytes, bytes]]:
    """(type, data) of a PNG's chunks as far as they go."""
    chunks, at = [], 8
    while at + 12 <= len(body):
        (length,) = struct.unpack_from(">I", body, at)
        chunks.append((body[at + 4 : at + 8], body[at + 8 : at + 8 + length]))
        at += 12 + length
    return chunks


def png(chunks: list[tuple[bytes, bytes]]) -> bytes:
    """A PNG of chunks, CRCs right."""
    out = [b"\x89PNG\r\n\x1a\n"]
    for kind, data in chunks:
        out += [struct.pack(">I", len(data)), kind, data, struct.pack(">I", zlib.crc32(kind + data))]
    return b"".join(out)


def header_edges(data: bytes) -> Iterator[tuple[str, bytes]]:
    """Every header field at 0, 1, max - 1, max, with the sign bit and one more or less; CRCs right."""
    for name, (offset, size) in FIELDS.items():
        top = 1 << 8 * size
        now = int.from_bytes(data[offset : offset + size], "little")
        for value in sorted({0, 1, 2, top - 1, top - 2, top // 2, top // 2 - 1, (now + 1) % top, (now - 1) % top}):
            changed = bytearray(data)
            changed[offset : offset + size] = value.to_bytes(size, "little")
            yield f"{name}={value}", seal(bytes(changed))


def table_edges(data: bytes) -> Iterator[tuple[str, bytes]]:
    """Every table entry's type and length at their edges; CRCs right."""
    (count,) = struct.unpack_from("<H", data, 27)
    for i in range(count):
        for what, offset, size in (("type", 0, 1), ("length", 1, 4)):
            at, top = HEAD + 9 * i + offset, 1 << 8 * size
            now = int.from_bytes(data[at : at + size], "little")
            for value in sorted({0, 1, 2, 3, 4, 16, 17, top - 1, top - 2, top // 2, (now + 1) % top, (now - 1) % top}):
                changed = bytearray(data)
                changed[at : at + size] = value.to_bytes(size, "little")
                yield f"section {i} {what}={value}", seal(bytes(changed))


def rearrangements(data: bytes) -> Iterator[tuple[str, bytes]]:
    """Sections swapped, left out, doubled and emptied; CRCs right."""
    parts = take_apart(data)
    assert parts is not None
    many = parts.sections
    for i in range(len(many)):
        yield f"without {i}", Parts(parts.head, many[:i] + many[i + 1 :]).bytes()
        yield f"{i} twice", Parts(parts.head, many[: i + 1] + many[i:]).bytes()
        yield f"{i} empty", Parts(parts.head, [*many[:i], (many[i][0], b""), *many[i + 1 :]]).bytes()
        for j in range(i):
            order = list(many)
            order[i], order[j] = order[j], order[i]
            yield f"{i} and {j} swapped", Parts(parts.head, order).bytes()
            order = list(many)
            order[i] = (many[i][0], many[j][1])
            yield f"{i} with the payload of {j}", Parts(parts.head, order).bytes()
