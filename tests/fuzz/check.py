"""What one file, however hostile, may do to its reader: a typed error or a picture of the stated shape."""

from __future__ import annotations

import hashlib
import io
from functools import cache
from pathlib import Path

import hostile
import torch
from PIL import Image

import nncodec.pillow  # noqa: F401
from nncodec import codec, container, weights
from nncodec.errors import CorruptError, FormatError, LimitError, NotAecError, UnsupportedError
from nncodec.picture import Picture
from nncodec.weights import Model

TINY = Path(__file__).resolve().parent.parent / "golden" / "v1" / "tiny.safetensors"
PIXELS = 1 << 20
TYPED = (CorruptError, LimitError, NotAecError, UnsupportedError)


class BrokenPromiseError(Exception):
    """The package did what SECURITY.md says it never does."""


@cache
def model() -> Model:
    torch.set_num_threads(1)
    return weights.load(weights.describe(TINY))


def one_file(data: bytes) -> str:
    """Read `data` in every way there is; 'kept' if it decodes, else the error's name.

    Whatever is neither a typed error nor a sound picture flies: another exception, or BrokenPromiseError.
    """
    data = hostile.with_model_id(data, model().id)  # so that the corpus survives a new tiny model
    try:
        outcome = "kept"
        _sound(data, codec.decompress(data, model=model(), max_pixels=PIXELS))
    except FormatError as error:
        outcome = _typed(error)
    if hashlib.sha256(data).digest()[0] % 4:  # a quarter of the files is enough for the other readers
        return outcome
    try:
        picture = codec.decompress(data, model=model(), max_pixels=PIXELS, partial=True)
        _sound(data, picture)
        if bool(picture.damage) == (outcome == "kept"):
            raise BrokenPromiseError(f"{outcome}, but the partial decode reports {picture.damage}")
    except FormatError as error:
        if outcome == "kept":
            raise BrokenPromiseError("a sound file has no partial decode") from error
        _typed(error)
    _pillow(data, outcome)
    _parts(data, outcome)
    return outcome


def _parts(data: bytes, outcome: str) -> None:
    """A preview and a crop: of sound files they have their size, of others they are typed errors or pictures."""
    for options in ({"preview": 2 ** (1 + len(data) % 5)}, {"crop": (0, 0, 1, 1)}):
        try:
            picture = codec.decompress(data, model=model(), max_pixels=PIXELS, **options)
        except FormatError as error:
            if outcome == "kept":
                raise BrokenPromiseError(f"a sound file has no {options}") from error
            _typed(error)
        else:
            header, _ = container.parse_header(data, PIXELS)
            by = options.get("preview")
            size = (-(-header.height // by), -(-header.width // by)) if by else (1, 1)
            if picture.color.shape[:2] != size:
                raise BrokenPromiseError(f"{picture.color.shape} of {options}, {size} expected")


def _pillow(data: bytes, outcome: str) -> None:
    """The plugin says the same, in Pillow's words: OSError or an image."""
    try:
        with Image.open(io.BytesIO(data), formats=["AEC"]) as image:
            image.verify()
        if outcome == "kept" and weights.folders()[:1] == [TINY.parent]:
            with Image.open(io.BytesIO(data), formats=["AEC"]) as image:
                image.load()
    except (OSError, Image.DecompressionBombError) as error:
        if outcome == "kept":
            raise BrokenPromiseError(f"decompress takes what Pillow refuses: {error}") from error
    else:
        if outcome == "NotAecError":
            raise BrokenPromiseError("Pillow takes what decompress refuses")


def _typed(error: FormatError) -> str:
    if type(error) not in TYPED or not str(error):
        raise BrokenPromiseError(f"{type(error).__name__} without a type or words") from error
    return type(error).__name__


def _sound(data: bytes, picture: Picture) -> None:
    header, _ = container.parse_header(data, PIXELS, whole=False)
    shape = (header.height, header.width) if header.color else (header.height, header.width, 3)
    if picture.color.shape != shape or picture.color.dtype != f"u{header.bit_depth // 8}":
        raise BrokenPromiseError(f"{picture.color.dtype} {picture.color.shape} where the header says {shape}")
    if picture.alpha is not None and picture.alpha.shape != shape[:2]:
        raise BrokenPromiseError(f"alpha {picture.alpha.shape} where the header says {shape}")
