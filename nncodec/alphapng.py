"""The plain PNG in which alpha is stored: one IHDR, IDATs, one IEND and nothing else.

What else a PNG can carry (text, animation, profiles) is refused before Pillow interprets or warns of it.
"""

from __future__ import annotations

import io
import struct

from PIL.PngImagePlugin import PngImageFile

from nncodec.errors import CorruptError

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_FRAME = 12
"""Bytes of a chunk around its data: length, type, CRC."""


def opened(body: bytes) -> PngImageFile:
    """The PNG, its pixels not yet read. Raises CorruptError, or what Pillow raises of a broken PNG.

    Its size is not held to Pillow's limit: the caller compares it with the file's header.
    """
    if not body.startswith(_SIGNATURE):
        raise CorruptError("alpha: not a readable PNG (no signature)")
    kinds, at = [], len(_SIGNATURE)
    while at + _FRAME <= len(body):
        (length,) = struct.unpack_from(">I", body, at)
        kinds.append(body[at + 4 : at + 8])
        at += _FRAME + length
    middle = set(kinds[1:-1])
    if at != len(body) or kinds[:1] != [b"IHDR"] or middle != {b"IDAT"} or kinds[-1] != b"IEND":
        names = ", ".join(repr(k)[2:-1] for k in kinds[:8])
        raise CorruptError(f"alpha: not a readable PNG (chunks {names}, where IHDR, IDAT and IEND are allowed)")
    return PngImageFile(io.BytesIO(body))
