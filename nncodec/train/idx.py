"""IDX files of pictures (MNIST, Fashion-MNIST, ...), plain or gzip. Files of labels are none.

Format: two zero bytes, type 8 (u8), 3 dimensions; their sizes, u32 big-endian; the pixels (yann.lecun.com/exdb/mnist).
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nncodec.errors import InputError

_HEADER = struct.Struct(">HBBIII")
U8 = 8


def is_idx(name: str) -> bool:
    """Whether a file of this name holds pictures: ...idx3-ubyte, ...idx3-ubyte.gz."""
    return name.removesuffix(".gz").endswith("idx3-ubyte")


def read(path: Path) -> NDArray[np.uint8]:
    """Grey pictures u8 [n, height, width]. Raises InputError naming the file."""
    try:
        data = path.read_bytes()
        if data[:2] == b"\x1f\x8b":
            data = gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: cannot be read: {error}") from None
    if len(data) < _HEADER.size:
        raise InputError(f"{path}: {len(data)} bytes are no IDX file; its header alone has {_HEADER.size}")
    zero, kind, dimensions, *shape = _HEADER.unpack_from(data)
    if (zero, kind, dimensions) != (0, U8, 3):
        raise InputError(f"{path}: starts with {data[:4].hex(' ')}, an IDX file of 8-bit pictures with 00 00 08 03")
    wanted = _HEADER.size + math.prod(shape)
    if len(data) != wanted:
        what = "{} pictures of {}x{} take".format(*shape)
        raise InputError(f"{path}: {len(data)} bytes where {what} {wanted}; the file is damaged, get it again")
    return np.frombuffer(data, np.uint8, offset=_HEADER.size).reshape(shape)
