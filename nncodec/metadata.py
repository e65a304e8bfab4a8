"""ICC, EXIF and XMP of a Pillow image, byte for byte as its file has them.

Knows where each image format and Pillow keep them; nothing of pixels.
"""

from __future__ import annotations

import struct
from typing import Any

from PIL import Image

EXIF_PREFIX = b"Exif\0\0"
"""Stands before EXIF in JPEG; not part of it here."""
_ORIENTATION = 0x0112
_TIFF_TAGS = (270, 271, 272, 282, 283, 296, 305, 306, 315, 33432)
"""Tags of a TIFF file that become EXIF: description, camera, resolution, software, date, artist, rights."""
_TIFF_FOLDERS = (0x8769, 0x8825)


def blocks(image: Image.Image) -> tuple[bytes | None, bytes | None, bytes | None]:
    """ICC, EXIF and XMP of a Pillow image, as the file has them."""
    info = image.info
    exif, xmp = info.get("exif"), info.get("xmp") or info.get("XML:com.adobe.xmp")
    exif = exif or _raw_profile(info, "exif")
    app1 = _raw_profile(info, "APP1")
    if not exif and app1 and app1.startswith(EXIF_PREFIX):
        exif = app1
    xmp = xmp or _raw_profile(info, "xmp")
    if not exif and image.format == "TIFF":
        exif = _tiff_exif(image)
    if isinstance(exif, bytes):
        exif = exif.removeprefix(EXIF_PREFIX)
    return info.get("icc_profile") or None, exif or None, xmp.encode() if isinstance(xmp, str) else xmp or None


def _raw_profile(info: dict[Any, Any], kind: str) -> bytes | None:
    """A block as ImageMagick wrote it before PNG had chunks for it: name, length, hexadecimal digits."""
    lines = str(info.get(f"Raw profile type {kind}", "")).strip().split("\n")
    try:
        length = int(lines[1])
        return bytes.fromhex("".join(lines[2:])[: 2 * length])
    except (ValueError, IndexError):
        return None


def _tiff_exif(image: Image.Image) -> bytes | None:
    """The tags of a TIFF file that are not about its layout. Pillow has already turned the pixels."""
    tags, kept = image.getexif(), Image.Exif()
    for tag in _TIFF_TAGS:
        if tag in tags:
            kept[tag] = tags[tag]
    for folder in _TIFF_FOLDERS:
        if inner := tags.get_ifd(folder):
            kept.get_ifd(folder).update(inner)
    return kept.tobytes() if len(kept) else None


def orientation_only(exif: bytes | None) -> bytes | None:
    """EXIF block with the orientation alone; None where it is absent or the usual one."""
    value = orientation(exif)
    if value == 1:
        return None
    return b"MM\0*\0\0\0\x08" + struct.pack(">HHHIHHI", 1, _ORIENTATION, 3, 1, value, 0, 0)


def orientation(exif: bytes | None) -> int:
    """Orientation that EXIF states, 1 (upright) if none of 2 to 8. (Pillow warns and fails on broken blocks.)"""
    exif = exif or b""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(exif[:4])
    if order is None:
        return 1
    try:
        (at,) = struct.unpack_from(f"{order}I", exif, 4)
        (count,) = struct.unpack_from(f"{order}H", exif, at)
        for i in range(count):
            tag, kind, _, value = struct.unpack_from(f"{order}HHIH", exif, at + 2 + 12 * i)
            if tag == _ORIENTATION and kind == 3:
                return int(value) if value in range(2, 9) else 1
    except struct.error:
        pass
    return 1
