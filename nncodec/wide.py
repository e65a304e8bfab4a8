"""Samples that Pillow has in the file but does not hand out: 16-bit color, and transparent colors to scale.

Knows Pillow's names of sample layouts ("RGB;16B"); everything here runs before the pixels are loaded.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Samples = NDArray[np.uint16]


def _raw_modes(image: Image.Image) -> set[str]:
    """Layout of the stored samples, in Pillow's words; of a picture whose pixels are not loaded yet."""
    found = (tile.args if isinstance(tile.args, str) else next(iter(tile.args or ("",)), "") for tile in _tiles(image))
    return {name for name in found if isinstance(name, str)}


def _tiles(image: Image.Image) -> list[Any]:
    return list(getattr(image, "tile", []))


def transparent(image: Image.Image) -> Any:
    """The transparent color on the scale of the decoded samples: Pillow leaves it on that of the file."""
    key = image.info.get("transparency")
    if isinstance(key, int) and image.mode == "1":  # newer Pillow has scaled it
        return 255 if key else 0
    for name, scale in (("L;2", 85), ("L;4", 17)):
        if isinstance(key, int) and image.mode == "L" and name in _raw_modes(image):
            return key * scale
    return key


_LITTLE = sys.byteorder == "little"
_LOW = {
    f"{mode};16{order}": f"{mode};16{'L' if order == 'B' or (order == 'N' and not _LITTLE) else 'B'}"
    for mode in ("RGB", "RGBA")
    for order in "BLN"
}
"""Layout that makes Pillow, which keeps the upper byte of 16-bit color, take the lower one."""


def samples(image: Image.Image, source: str | Path | bytes) -> Samples | None:
    """u16 [H, W, 2 to 4] of 16-bit color or grey with alpha; None for everything else.

    Pillow drops the lower byte of such samples. It is decoded a second time, in the other byte order,
    for the lower bytes. (Grey without alpha it reads whole.)
    """
    raw = _raw_modes(image)
    if raw == {"LA;16B"}:  # four bytes a pixel: taken as RGBA they are all kept
        _set_layout(image, {"LA;16B": "RGBA"})
        return np.asarray(image).view(">u2").astype(np.uint16)
    if image.format == "PPM" and image.mode == "RGB" and _peak(image) > 255:
        return _pnm(image)
    if not raw or not raw <= _LOW.keys() or image.mode not in ("RGB", "RGBA"):
        return None
    with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as second:
        _set_layout(second, _LOW)
        low = np.asarray(second)
    wide = np.asarray(image).astype(np.uint16)
    wide <<= 8
    wide |= low
    return wide


def _peak(image: Image.Image) -> int:
    """Largest level that a PNM file states; 0 where Pillow needs none, as for 255."""
    (tile,) = _tiles(image)
    return 0 if isinstance(tile.args, str) else int(tile.args[1])


def _pnm(image: Any) -> Samples:
    """u16 [H, W, 3] of color: what Pillow takes for grey, here thrice as wide, it keeps whole and brings to 65535."""
    width, height = image.size
    (tile,) = image.tile
    plain = tile._replace(extents=(0, 0, 3 * width, height))
    if tile.codec_name == "ppm" and _peak(image) == 65535:  # the decoder of other peaks is written in Python
        plain = plain._replace(codec_name="raw", args="I;16B")
    image._mode, image._size, image.tile = "I", (3 * width, height), [plain]
    return np.asarray(image).reshape(height, width, 3).astype(np.uint16)


def _set_layout(image: Any, names: dict[str, str]) -> None:
    image.tile = [
        tile._replace(args=names[tile.args] if isinstance(tile.args, str) else (names[tile.args[0]], *tile.args[1:]))
        for tile in image.tile
    ]
