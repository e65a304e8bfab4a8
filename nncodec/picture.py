"""Picture: what an image file carries, and how it is read and written.

Knows Pillow; nothing of latents or bitstreams. Pixels and EXIF are kept as the file has them, so that
an orientation tag is neither lost nor applied twice.
"""

from __future__ import annotations

import io
import os
import secrets
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin, UnidentifiedImageError

from nncodec import png
from nncodec.errors import CorruptError, InputError
from nncodec.tiling import Rect

Levels = NDArray[np.uint8]


class Damage(NamedTuple):
    """A section that could not be decoded: its name ('tile 3', 'icc'), why, and what area a tile covers."""

    section: str
    reason: str
    area: Rect | None


@dataclass(frozen=True, eq=False)
class Picture:
    """Decoded pixels and what came with them.

    color
        u8 [H, W, 3] RGB, or u8 [H, W] grey.
    alpha
        u8 [H, W] or None.
    icc, exif, xmp
        The file's own bytes or None.
    damage
        Of a damaged file decoded with ``partial=True``: what is missing. A tile's area is filled smoothly.
    """

    color: Levels
    alpha: Levels | None = None
    icc: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None
    damage: tuple[Damage, ...] = ()

    @property
    def height(self) -> int:
        return int(self.color.shape[0])

    @property
    def width(self) -> int:
        return int(self.color.shape[1])

    @property
    def is_grey(self) -> bool:
        return self.color.ndim == 2

    def damage_report(self) -> list[str]:
        """`damage` in words, a line each."""
        lines = []
        for section, reason, area in self.damage:
            where = ""
            if area is not None:
                right, bottom = min(area.right, self.width), min(area.bottom, self.height)
                where = f" (x {area.left}..{right - 1}, y {area.top}..{bottom - 1}: filled from its surroundings)"
            lines.append((reason if section in reason else f"{section}: {reason}") + where)
        return lines

    def to_pil(self) -> Image.Image:
        """Pillow image of mode L, LA, RGB or RGBA, with ICC and EXIF in its ``info``."""
        planes = self.color if self.alpha is None else np.dstack([self.color, self.alpha])
        image = Image.fromarray(np.ascontiguousarray(planes))
        for key, value in (("icc_profile", self.icc), ("exif", self.exif), ("xmp", self.xmp)):
            if value:
                image.info[key] = value
        return image


def from_pil(image: Image.Image) -> Picture:
    """Picture of a Pillow image. The rule for each mode:

    L and 1 become grey; RGB stays; P becomes RGB; LA, PA, RGBA and any tRNS transparency keep their
    alpha; 16-bit grey keeps its upper 8 bits; every other mode is converted to RGB by Pillow.
    Raises InputError for empty pictures and for floating-point ones.
    """
    info = image.info
    icc, xmp = info.get("icc_profile"), info.get("xmp") or info.get("XML:com.adobe.xmp")
    exif = info.get("exif")
    blocks = (icc or None, exif or None, xmp.encode() if isinstance(xmp, str) else xmp or None)
    if image.width == 0 or image.height == 0:
        raise InputError(f"picture is {image.width}x{image.height}; it has no pixels")
    if image.mode == "F":
        raise InputError("picture has floating-point samples; convert it to 8 bits first")
    if image.mode == "I" or image.mode.startswith("I;16"):
        wide = np.asarray(image).astype(np.int64)
        return Picture((wide.clip(0, 65535) >> 8).astype(np.uint8), None, *blocks)
    if image.mode in ("LA", "La", "RGBA", "RGBa", "PA") or "transparency" in info:
        grey = image.mode in ("L", "LA", "La", "1")
        planes = np.asarray(image.convert("RGBA"))
        color = planes[..., 0] if grey else planes[..., :3]
        return Picture(np.ascontiguousarray(color), np.ascontiguousarray(planes[..., 3]), *blocks)
    if image.mode in ("L", "1"):
        return Picture(np.asarray(image.convert("L")), None, *blocks)
    return Picture(np.asarray(image.convert("RGB")), None, *blocks)


def read(source: str | Path | bytes) -> Picture:
    """Picture of a file or of a file's bytes. Raises InputError naming the file."""
    name = "input" if isinstance(source, bytes) else str(source)
    opened: Any = io.BytesIO(source) if isinstance(source, bytes) else source
    try:
        with warnings.catch_warnings():
            # Pillow warns of metadata it cannot parse; the pixels are what counts here.
            warnings.simplefilter("ignore", UserWarning)
            with Image.open(opened) as image:
                image.load()
                return from_pil(image)
    except FileNotFoundError:
        raise InputError(f"{name}: no such file") from None
    except UnidentifiedImageError:
        raise InputError(f"{name}: not a picture that Pillow can read") from None
    except Image.DecompressionBombError as error:
        raise InputError(f"{name}: {error}") from None
    except InputError as error:
        raise InputError(f"{name}: {error}") from None
    except (OSError, ValueError, SyntaxError, EOFError) as error:
        raise InputError(f"{name}: cannot be read: {error}") from None


def encode_alpha(alpha: Levels) -> bytes:
    """Alpha plane as a lossless PNG of mode L."""
    out = io.BytesIO()
    Image.fromarray(alpha).save(out, "PNG", optimize=True)
    return out.getvalue()


def decode_alpha(body: bytes, width: int, height: int) -> Levels:
    """Inverse of `encode_alpha`. Raises CorruptError unless it is exactly such a PNG of that size."""
    try:
        with png.opened(body) as image:
            if image.size != (width, height) or image.mode != "L":
                raise CorruptError(f"alpha: {image.mode} {image.width}x{image.height}, not L {width}x{height}")
            return np.asarray(image).copy()
    except (OSError, ValueError, SyntaxError) as error:
        raise CorruptError(f"alpha: not a readable PNG ({error})") from None


def encode_file(picture: Picture, suffix: str) -> bytes:
    """Bytes of an image file of the format that `suffix` names. Raises InputError."""
    image = picture.to_pil()
    kind = Image.registered_extensions().get(suffix.lower())
    if kind is None or kind not in Image.SAVE:
        raise InputError(f"{suffix or 'no suffix'}: not an image format that can be written; use .png")
    options: dict[str, Any] = {}
    if picture.icc:
        options["icc_profile"] = picture.icc
    if picture.exif:
        options["exif"] = picture.exif
    if picture.xmp and kind == "PNG":
        text = PngImagePlugin.PngInfo()
        text.add_itxt("XML:com.adobe.xmp", picture.xmp.decode("utf-8", "replace"))
        options["pnginfo"] = text
    elif picture.xmp:
        options["xmp"] = picture.xmp
    if kind == "JPEG" and picture.alpha is not None:
        raise InputError(f"{suffix}: JPEG cannot hold the picture's alpha; write .png or .webp")
    if kind in ("JPEG", "WEBP", "AVIF"):
        options["quality"] = 95
    out = io.BytesIO()
    try:
        image.save(out, kind, **options)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{suffix}: {kind} cannot hold this picture: {error}") from None
    return out.getvalue()


def write_atomically(path: Path, data: bytes) -> None:
    """Write `data` to `path` whole or not at all: temporary sibling, fsync, replace."""
    partial = path.with_name(f".{path.name}.{secrets.token_hex(6)}.partial")
    try:
        with partial.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror or error}") from None
    finally:
        partial.unlink(missing_ok=True)
