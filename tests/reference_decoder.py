"""An independent decoder of .aec tile symbols, written from docs/bitstream.md.

Plain Python integers for the range coder, numpy int64 for the scale net; it shares no code with the
package: it reads the weights file's integers and the file's bytes itself. Slow, on purpose simple.
"""

from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path

import numpy as np

DTYPES = {"I32": "<i4", "F32": "<f4", "F16": "<f2"}
TURN = (0, 3, 1, 2)
PAYLOAD = [0, 0, 0, 0, 0, 0, 0, 30, 62, 104, 150, 205, 252, 280, 300]
PAYLOAD += [312] * 49
PAYLOAD += PAYLOAD
MAGNITUDES = np.array([round(256 * np.log2(1 + m)) for m in range(16)], dtype=np.int64)


def read_weights(path):
    """Integer tensors of a weights file, as int64 arrays, and its configuration."""
    data = Path(path).read_bytes()
    (length,) = struct.unpack_from("<Q", data)
    header = json.loads(data[8 : 8 + length])
    config = json.loads(header.pop("__metadata__")["config"])
    tensors = {}
    for name, entry in header.items():
        if entry["dtype"] == "I32":
            begin, end = entry["data_offsets"]
            flat = np.frombuffer(data[8 + length + begin : 8 + length + end], "<i4").astype(np.int64)
            tensors[name] = flat.reshape(entry["shape"])
        elif name == "g_s.linear.weight" and config.get("arch", "codec") == "codec":
            begin, end = entry["data_offsets"]
            flat = np.frombuffer(data[8 + length + begin : 8 + length + end], DTYPES[entry["dtype"]])
            w = np.rint(flat.astype(np.float64) * 65536).astype(np.int64).reshape(768, -1)
            grey = (w[:256] + w[256:512] + w[512:]) ** 2
            tensors["chroma"] = 10 * grey.sum(axis=0) < 3 * (w**2).sum(axis=0)
    tensors.setdefault("scale.z_around", np.zeros((tensors["scale.z_index"].shape[1], 4), np.int64))
    return tensors, config


def read_file(data):
    """(color and flags, quality, width, height, tile side, tile payloads) of an .aec file, CRCs checked."""
    assert data[:7] == b"\x8bAEC\r\n\x01"
    flags, _, quality, tile_log2, width, height = struct.unpack_from("<BBBBII", data, 7)
    (count,) = struct.unpack_from("<H", data, 27)
    end = 29 + 9 * count
    assert struct.unpack_from("<I", data, end)[0] == zlib.crc32(data[:end])
    offset, payloads = end + 4, []
    for i in range(count):
        kind, length, crc = struct.unpack_from("<BII", data, 29 + 9 * i)
        body = data[offset : offset + length]
        assert zlib.crc32(body) == crc
        offset += length
        if kind == 16:
            payloads.append(body)
    assert offset == len(data)
    return flags, quality, width, height, 1 << tile_log2, payloads


class RangeDecoder:
    """64-bit range decoder over 32-bit words, 24-bit frequencies."""

    def __init__(self, data):
        self.words = list(struct.unpack(f"<{len(data) // 4}I", data))
        self.next = 0
        self.lower, self.range = 0, 2**64 - 1
        self.point = (self.word() << 32) | self.word()

    def word(self):
        value = self.words[self.next] if self.next < len(self.words) else 0
        self.next += 1
        return value

    def symbol(self, row):
        unit = self.range >> 24
        target = ((self.point - self.lower) % 2**64) // unit
        assert target < 2**24
        value, left = 0, 0
        while target >= left + row[value]:
            left += row[value]
            value += 1
        self.lower = (self.lower + unit * left) % 2**64
        self.range = unit * row[value]
        if self.range < 2**32:
            self.lower = (self.lower << 32) % 2**64
            self.range <<= 32
            self.point = (self.point << 32) % 2**64 | self.word()
        return value


class Signs:
    """Which residuals of a pass are carriers, and what the parities of magnitudes say of their signs."""

    def __init__(self, flat):
        self.cover = [int(i) for s in range(127, 0, -1) if PAYLOAD[s] for i in np.flatnonzero(flat == s)[::-1]]
        self.weight = sum(PAYLOAD[flat[i]] for i in self.cover)
        count = self.weight // 1024 if self.weight >= 4 * 1024 else 0
        self.carriers = set(self.cover[:count])

    def apply(self, flat, out):
        hidden = [i for i in self.cover if i in self.carriers and out[i]]
        if not hidden:
            return
        words = -(-len(self.cover) // 4096)
        length = 1
        while length * words < len(self.cover):
            length *= 2
        places = sorted(range(length), key=lambda i: 2654435761 * i % 2**32)
        sites = sorted(range(length), key=lambda i: sum(6**k * 5 ** (12 - k) for k in range(12) if i >> k & 1))
        odd = [set() for _ in range(words)]
        for e, i in enumerate(self.cover):
            if out[i] & 1:
                odd[e % words].add(places[e // words])
        for k, i in enumerate(hidden):
            site = sites[k // words]
            out[i] *= -1 if sum(site & j == site for j in odd[k % words]) & 1 else 1


def residuals(coder, index, tensors, hidden=False):
    """One array of residuals under scale indices of the same shape."""
    flat = index.reshape(-1)
    signs = Signs(flat) if hidden else None
    carriers = signs.carriers if hidden else set()
    out = [0] * len(flat)
    escapes = []
    rows = len(tensors["tables.reach"])
    for s in range(1, 128):
        if s % 64 == 0:
            continue
        reach = int(tensors["tables.reach"][s % rows])
        half = [int(v) for v in tensors["tables.half"][s % rows]]
        row = half[reach:0:-1] + half[: reach + 2]
        assert sum(row) == 2**24
        folded = [half[0], *(2 * f for f in half[1 : reach + 1]), half[reach + 1]]
        places = np.flatnonzero(flat == s)
        for i in [*(i for i in places if i not in carriers), *(i for i in places if i in carriers)]:
            out[i] = coder.symbol(folded) if i in carriers else coder.symbol(row) - reach
            if out[i] == reach + 1:
                escapes.append((i, reach))
    prefixes = [coder.symbol([2**20] * 16) for _ in escapes]
    excess = [1] * len(escapes)
    for bit in range(max(prefixes, default=0) - 1, -1, -1):
        for e, prefix in enumerate(prefixes):
            if prefix > bit:
                excess[e] = 2 * excess[e] + coder.symbol([2**23, 2**23])
    for e, (i, reach) in enumerate(escapes):
        sign = -1 if i not in carriers and coder.symbol([2**23, 2**23]) else 1
        out[i] = sign * (reach + excess[e])
    if hidden:
        signs.apply(flat, out)
    return np.array(out, dtype=np.int64).reshape(index.shape)


def clip(accumulator, shift):
    return np.clip(accumulator >> shift, 0, 4095)


def shifted(x):
    """The nine neighbors of every position of x [C, h, w] in row order, zero beyond the border."""
    around = np.pad(x, ((0, 0), (1, 1), (1, 1)))
    h, w = x.shape[1:]
    return [around[:, i : i + h, j : j + w] for i in range(3) for j in range(3)]


def matmul(weight, x):
    return np.einsum("oc,chw->ohw", weight, x)


def features(t, z_hat, quality):
    h = matmul(t["scale.z_in"], 16 * z_hat) + t["scale.z_in_bias"][quality - 1][:, None, None]
    h = clip(h + 2048, 12)
    h = sum(matmul(w, x) for w, x in zip(t["scale.z_spread"], shifted(h), strict=True))
    h = clip(h + t["scale.z_spread_bias"][:, None, None] + 2048, 12)
    h = clip(matmul(t["scale.z_out"], h) + t["scale.z_out_bias"][:, None, None] + 2048, 12)
    c, rows, columns = h.shape[0] // 16, h.shape[1], h.shape[2]
    h = h.reshape(c, 4, 4, rows, columns).transpose(0, 3, 1, 4, 2)
    return h.reshape(c, 4 * rows, 4 * columns)


def indices(t, f, magnitudes, quality, k):
    p = f"scale.pass{k}."
    h = f
    if k:
        taps = t[p + "depthwise"]
        context = sum(taps[:, i, None, None] * x for i, x in enumerate(shifted(magnitudes)))
        context = clip(context + t[p + "depthwise_bias"][:, None, None] + 512, 10)
        h = np.concatenate([f, context])
    h = clip(matmul(t[p + "mix"], h) + t[p + "mix_bias"][quality - 1][:, None, None] + 2048, 12)
    h = clip(matmul(t[p + "hidden"], h) + t[p + "hidden_bias"][:, None, None] + 2048, 12)
    bias = t[p + "head_bias"] + t["scale.index_bias"][quality - 1]
    v = (matmul(t[p + "head"], h) + bias[:, None, None] + (1 << 16)) >> 17
    return np.clip(v, 0, 63)


def decode_tile(t, data, flags, quality, height, width):
    """z_hat [Cz, height/4, width/4], r_hat [N, height, width] and taps [C, T] of one tile."""
    assert len(data) >= 4 * (height // 4) * (width // 4)
    coder = RangeDecoder(data)
    z_rows = t["scale.z_index"][quality - 1]
    z_index = np.broadcast_to(z_rows[:, None, None], (len(z_rows), height // 4, width // 4))
    z_hat = residuals(coder, z_index, t)
    for i in range(height // 4 * (width // 4)):
        row, column = divmod(i, width // 4)
        total = 32
        for k, (down, right) in enumerate([(0, -1), (-1, -1), (-1, 0), (-1, 1)]):
            if row + down >= 0 and 0 <= column + right < width // 4:
                total = total + t["scale.z_around"][:, k] * z_hat[:, row + down, column + right]
        z_hat[:, row, column] += total >> 6
    f = features(t, z_hat, quality)
    n = t["scale.index_bias"].shape[1]
    group = n // 4
    r_hat = np.zeros((n, height, width), np.int64)
    magnitudes = np.zeros_like(r_hat)
    for k in range(4):
        full = indices(t, f, magnitudes, quality, k)
        if flags & 1 and "chroma" in t:
            full[t["chroma"]] = 0
        places = []
        for g in range(4):
            where = g ^ TURN[k]
            places.append((slice(g * group, (g + 1) * group), slice(where >> 1, None, 2), slice(where & 1, None, 2)))
        index = np.concatenate([full[place] for place in places])
        if k == 0:
            index = np.where(index > 0, index + 64, 0)
        r = residuals(coder, index, t, flags & 32)
        for g, place in enumerate(places):
            r_hat[place] = r[g * group : (g + 1) * group]
            magnitudes[place] = MAGNITUDES[np.minimum(np.abs(r_hat[place]), 15)]
    planes = 1 if flags & 1 else 3
    kinds = [12, 6, 4 * (planes - 1), 1 + planes]
    taps = np.zeros((planes, sum(kinds)), np.int64)
    if flags & 4:
        numbers = residuals(coder, np.full(4, 32), t) + 8
        assert all(0 <= number <= 15 for number in numbers)
        taps = residuals(coder, np.tile(np.repeat(4 * numbers, kinds), (planes, 1)), t)
    return z_hat, r_hat, taps


def decode_symbols(data, tensors):
    """[(z_hat, r_hat, taps)] of every tile of an .aec file."""
    flags, quality, width, height, side, payloads = read_file(data)
    plane_h, plane_w = -(-height // 64) * 64, -(-width // 64) * 64
    sizes = [
        (min(side, plane_h - top) // 16, min(side, plane_w - left) // 16)
        for top in range(0, plane_h, side)
        for left in range(0, plane_w, side)
    ]
    return [decode_tile(tensors, body, flags, quality, *size) for body, size in zip(payloads, sizes, strict=True)]
