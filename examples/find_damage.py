"""Flip one bit of a compressed picture: decoding says where, instead of showing garbage."""

import sys
from pathlib import Path

import nncodec

path = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).with_name("coffee.png"))
data = bytearray(nncodec.compress(path, quality=40))
data[len(data) // 2] ^= 0b0000_0100

try:
    nncodec.decompress(bytes(data))
except nncodec.CorruptError as error:
    print(f"refused: {error}")
