"""nncodec: a learned image codec whose files decode anywhere.

>>> data = nncodec.compress("photo.png", quality=60)
>>> nncodec.decompress(data).save("photo.out.png")

Importing the package does not import torch; the first call of `compress` or `decompress` does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nncodec.errors import (
    CorruptError,
    FormatError,
    InputError,
    LimitError,
    ModelError,
    ModelMismatchError,
    ModelNotFoundError,
    NncodecError,
    NotAecError,
    PictureWarning,
    UnsupportedError,
)

if TYPE_CHECKING:
    from nncodec.codec import compress, decompress, denoise
    from nncodec.picture import Picture, read

__version__ = "0.1.0"

__all__ = [
    "CorruptError",
    "FormatError",
    "InputError",
    "LimitError",
    "ModelError",
    "ModelMismatchError",
    "ModelNotFoundError",
    "NncodecError",
    "NotAecError",
    "Picture",
    "PictureWarning",
    "UnsupportedError",
    "__version__",
    "compress",
    "decompress",
    "denoise",
    "read",
]


def __getattr__(name: str) -> Any:  # PEP 562: torch and Pillow load on first use
    if name in ("compress", "decompress", "denoise"):
        from nncodec import codec

        return getattr(codec, name)
    if name in ("Picture", "read"):
        from nncodec import picture

        return getattr(picture, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
