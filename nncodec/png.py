"""PNG files a band of rows at a time: written from arrays, and cut into small PNG files on reading.

Knows chunks and filters, nothing of what a picture is. Pillow decodes (and unfilters) every band; what it
cannot do is hold only a part of a picture, and write 16-bit color.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from nncodec.errors import InputError

MAGIC = b"\x89PNG\r\n\x1a\n"
CHANNELS = {0: 1, 2: 3, 4: 2, 6: 4}
"""Samples a pixel of each color type but the palette's."""
_COLOR_TYPE = {channels: kind for kind, channels in CHANNELS.items()}
_IDAT = 1 << 18
_PIECE = 1 << 20
_BAND = 1 << 20
"""Bytes filtered at once: what the processor's cache holds."""

Samples = NDArray[Any]


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def big_endian(rows: Samples) -> NDArray[np.uint8]:
    """Rows [h, ...] as the bytes [h, n] in which PNG and PNM store them."""
    flat = np.ascontiguousarray(rows).reshape(rows.shape[0], -1)
    return (flat.astype(">u2") if flat.dtype == np.uint16 else flat).view(np.uint8)


class PngWriter:
    """Writes a PNG file to `file` from bands of rows u8 or u16 [h, width, channels]; never seeks.

    `exif` is the bare TIFF block, without the prefix that JPEG puts before it.
    """

    def __init__(
        self,
        file: IO[bytes],
        width: int,
        height: int,
        channels: int,
        bits: int,
        *,
        icc: bytes | None = None,
        exif: bytes | None = None,
        xmp: bytes | None = None,
    ) -> None:
        self._file = file
        self._pixel = channels * bits // 8
        self._above = np.zeros(width * self._pixel, np.uint8)
        self._zlib = zlib.compressobj(6)
        self._pending = bytearray()
        header = struct.pack(">IIBBBBB", width, height, bits, _COLOR_TYPE[channels], 0, 0, 0)
        file.write(MAGIC + chunk(b"IHDR", header))
        if icc:
            file.write(chunk(b"iCCP", b"ICC profile\0\0" + zlib.compress(icc)))
        if exif:
            file.write(chunk(b"eXIf", exif))
        if xmp:
            file.write(chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp))

    def write(self, rows: Samples) -> None:
        raw = big_endian(rows)
        step = max(_BAND // max(raw.shape[1], 1), 1)
        for top in range(0, len(raw), step):
            part = raw[top : top + step]
            self._put(self._zlib.compress(_filtered(part, self._above, self._pixel)))
            self._above = part[-1]

    def close(self) -> None:
        """Finish the file; `file` stays open."""
        self._put(self._zlib.flush())
        self._put(b"", last=True)
        self._file.write(chunk(b"IEND", b""))

    def _put(self, data: bytes, last: bool = False) -> None:
        self._pending += data
        while len(self._pending) >= _IDAT or (last and self._pending):
            self._file.write(chunk(b"IDAT", bytes(self._pending[:_IDAT])))
            del self._pending[:_IDAT]


def _filtered(raw: NDArray[np.uint8], above: NDArray[np.uint8], pixel: int) -> bytes:
    """Rows u8 [h, n] with their filter bytes: of sub, up and Paeth the one of least absolute sum."""
    up = np.empty_like(raw)
    up[0], up[1:] = above, raw[:-1]
    left, corner = np.zeros_like(raw), np.zeros_like(raw)
    left[:, pixel:], corner[:, pixel:] = raw[:, :-pixel], up[:, :-pixel]
    # Distances of left, up and corner from left + up - corner.
    a, b, c = (plane.astype(np.int16) for plane in (left, up, corner))
    to_left, to_up = np.abs(b - c), np.abs(a - c)
    to_corner = np.abs(a + b - 2 * c)
    paeth = np.where(to_up <= to_corner, up, corner)
    np.copyto(paeth, left, where=(to_left <= to_up) & (to_left <= to_corner))
    candidates = [raw - left, raw - up, raw - paeth]
    costs = [np.minimum(v, np.negative(v)).sum(axis=1, dtype=np.int64) for v in candidates]
    choice = np.argmin(costs, axis=0)
    out = np.empty((len(raw), raw.shape[1] + 1), np.uint8)
    for i, (kind, filtered) in enumerate(zip((1, 2, 4), candidates, strict=True)):
        out[choice == i, 0] = kind
        out[choice == i, 1:] = filtered[choice == i]
    return out.tobytes()


@dataclass(frozen=True)
class Layout:
    """Where the parts of a PNG file lie: offset and length of the body of each chunk."""

    width: int
    height: int
    bits: int
    kind: int
    data: tuple[tuple[int, int], ...]
    others: tuple[tuple[int, int], ...]

    @property
    def pixel(self) -> int:
        return CHANNELS[self.kind] * self.bits // 8


def verify(file: IO[bytes]) -> None:
    """Raises InputError for a PNG with a damaged piece of pixel data: Pillow decodes it all the same."""
    if file.read(len(MAGIC)) != MAGIC:
        return
    while len(head := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        if kind != b"IDAT":
            file.seek(length + 4, io.SEEK_CUR)
            continue
        offset, crc = file.tell(), zlib.crc32(kind)
        while length and (body := file.read(min(length, _PIECE))):
            crc = zlib.crc32(body, crc)
            length -= len(body)
        stored = file.read(4)
        if len(stored) == 4 and stored != crc.to_bytes(4, "big"):
            raise InputError(f"PNG data at byte {offset} is damaged: its crc does not match")


def layout(file: IO[bytes]) -> Layout | None:
    """Layout of a PNG that can be read in bands; None for every other file, broken ones included.

    Not in bands: interlaced pictures, palettes, fewer than 8 bits, a transparent color, animations.
    """
    if file.read(len(MAGIC)) != MAGIC:
        return None
    fields: tuple[int, ...] = ()
    data: list[tuple[int, int]] = []
    others: list[tuple[int, int]] = []
    while True:
        head = file.read(8)
        if len(head) < 8:
            return None
        length, kind = struct.unpack(">I4s", head)
        offset = file.tell()
        if kind == b"IHDR":
            if length != 13 or fields:
                return None
            body = file.read(length)
            if file.read(4) != zlib.crc32(kind + body).to_bytes(4, "big"):
                return None
            fields = struct.unpack(">IIBBBBB", body)
        elif kind in (b"tRNS", b"acTL", b"PLTE") or not fields:
            return None
        elif kind == b"IDAT":
            data.append((offset, length))
        elif kind == b"IEND":
            break
        else:
            others.append((offset, length))
        file.seek(offset + length + 4)
    width, height, bits, color, _, _, interlaced = fields
    if bits not in (8, 16) or color not in CHANNELS or interlaced or not (width and height and data):
        return None
    return Layout(width, height, bits, color, tuple(data), tuple(others))


def shell(file: IO[bytes], of: Layout) -> bytes:
    """PNG of one black pixel that carries everything else that the file does."""
    header = struct.pack(">IIBBBBB", 1, 1, of.bits, of.kind, 0, 0, 0)
    parts = [MAGIC, chunk(b"IHDR", header)]
    for offset, length in of.others:
        file.seek(offset - 8)
        parts.append(file.read(length + 12))
    return b"".join([*parts, chunk(b"IDAT", zlib.compress(bytes(1 + of.pixel))), chunk(b"IEND", b"")])


class Bands:
    """Cuts a PNG file into PNG files of some rows each, from the top."""

    def __init__(self, file: IO[bytes], of: Layout) -> None:
        self._layout = of
        self._stride = 1 + of.width * of.pixel
        self._inflating = self._inflated(file)
        self._pending = bytearray()
        self._done = 0

    def take(self, count: int, above: bytes) -> bytes:
        """PNG of the row `above` (unfiltered; zeros before the first) and the next `count` rows.

        Raises InputError where the file is damaged; with the last row, what is behind it counts as well.
        """
        of = self._layout
        while len(self._pending) < count * self._stride:
            more = next(self._inflating, None)
            if more is None:
                raise InputError(f"PNG ends at row {self._done} of {of.height}; the file is truncated")
            self._pending += more
        raw = b"\0" + above + self._pending[: count * self._stride]
        del self._pending[: count * self._stride]
        self._done += count
        if self._done == of.height:
            deque(self._inflating, maxlen=0)  # what follows the last row is checked, too
        header = struct.pack(">IIBBBBB", of.width, count + 1, of.bits, of.kind, 0, 0, 0)
        parts = [MAGIC, chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(raw, 0)), chunk(b"IEND", b"")]
        return b"".join(parts)

    def _inflated(self, file: IO[bytes]) -> Iterator[bytes]:
        stream: Any = zlib.decompressobj()
        for offset, length in self._layout.data:
            file.seek(offset)
            crc, left = zlib.crc32(b"IDAT"), length
            while left:
                body = file.read(min(left, _PIECE))
                if not body:
                    return
                crc = zlib.crc32(body, crc)
                left -= len(body)
                while body and not stream.eof:
                    try:
                        yield stream.decompress(body, 4 * _PIECE)
                    except zlib.error as error:
                        raise InputError(f"PNG data at byte {offset} is damaged: {error}") from None
                    body = stream.unconsumed_tail
            if file.read(4) != crc.to_bytes(4, "big"):
                raise InputError(f"PNG data at byte {offset} is damaged: its crc does not match")
        yield stream.flush()
