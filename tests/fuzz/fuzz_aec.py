#!/usr/bin/env python
"""Coverage-guided fuzzing of parser, full decode, partial decode and Pillow plugin, with the tiny model.

    pip install ".[fuzz]"
    python tests/fuzz/fuzz_aec.py -max_total_time=600 -max_len=8192 /tmp/corpus tests/fuzz/corpus

What a long run has found is taken into the corpus by ``tests/fuzz/fuzz_aec.py -merge=1 -max_len=4096 tests/fuzz/corpus
/tmp/corpus``.

The mutator changes header, table, payloads, unpacked metadata and the alpha PNG's chunks, and recomputes the
CRCs, so that what lies behind them is reached. Whatever is not a typed error, or takes over 2 s, or leaves a
warning, is a crash; libFuzzer writes the file that made it, which then belongs into tests/fuzz/crashes.
"""

from __future__ import annotations

import json
import os
import random
import struct
import sys
import time
import warnings
import zlib
from collections import Counter
from pathlib import Path

import atheris

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
with atheris.instrument_imports(include=["nncodec"]):
    import hostile

    from fuzz import check

STATISTICS = os.environ.get("NNCODEC_FUZZ_STATISTICS")
"""Where counts of outcomes and CPU seconds are written, every 1000 executions."""
SECONDS = 2.0
_outcomes: Counter[str] = Counter()
_slowest = 0.0


def one_input(data: bytes) -> None:
    global _slowest
    begin = time.process_time()
    outcome = check.one_file(data)
    now = time.process_time()
    if now - begin > SECONDS:
        raise check.BrokenPromiseError(f"{now - begin:.1f} s for {len(data)} bytes")
    _outcomes[outcome] += 1
    _slowest = max(_slowest, now - begin)
    if STATISTICS and _outcomes.total() % 1000 == 0:
        record = {"executions": _outcomes.total(), "cpu_s": now, "slowest_s": _slowest, "outcomes": dict(_outcomes)}
        Path(STATISTICS).write_text(json.dumps(record))


def mutate(data: bytes, max_size: int, seed: int) -> bytes:
    rng = random.Random(seed)
    parts = hostile.take_apart(data)
    way = rng.random()
    if way < 0.05 or parts is None:
        return atheris.Mutate(data, max_size)
    if way < 0.15:
        return hostile.seal(atheris.Mutate(data, max_size))[:max_size]
    for _ in range(1 + (rng.random() < 0.2)):
        _change(parts, max_size, rng)
    if rng.random() < 0.6:
        _repair(parts, rng)
    return parts.bytes()[:max_size]


def _change(parts: hostile.Parts, max_size: int, rng: random.Random) -> None:
    sections = parts.sections
    what = rng.random()
    if what < 0.2 or not sections:
        name = rng.choice(list(hostile.FIELDS))
        value = rng.choice([0, 1, 2, 6, 12, 16, 64, 65, 127, 128, 129, 255, 2**16 - 1, 2**31, 2**32 - 1])
        parts.set(name, value)
        return
    i = rng.randrange(len(sections))
    kind, body = sections[i]
    if what < 0.3:
        j = rng.randrange(len(sections))
        choice = rng.randrange(5)
        if choice == 0:
            sections[i], sections[j] = sections[j], sections[i]
        elif choice == 1:
            sections.insert(i, sections[j])
        elif choice == 2:
            del sections[i]
        elif choice == 3:
            sections[i] = (rng.choice([*hostile.META, hostile.ALPHA, hostile.TILE, rng.randrange(256)]), body)
        else:
            parts.lengths[i] = rng.choice([0, 1, len(body) + 1, max(len(body) - 1, 0), 2**31, 2**32 - 1])
        return
    room = max(max_size - len(parts.bytes()) + len(body), 4)
    if kind in hostile.META and rng.random() < 0.5:
        body = zlib.compress(atheris.Mutate(_unpacked(body), max(room, 64)))
    elif kind == hostile.ALPHA and rng.random() < 0.8:
        body = _changed_png(body, room, rng)
    else:
        body = atheris.Mutate(body, room)
        if kind == hostile.TILE and rng.random() < 0.8:
            body = body[: len(body) // 4 * 4]
    sections[i] = (kind, body)


def _repair(parts: hostile.Parts, rng: random.Random) -> None:
    """Make the parser content, so that what comes after it is reached."""
    color, depth, quality, tile_log2, width, height = struct.unpack_from("<BBBBII", parts.head, 7)
    width, height, side = (width - 1) % 300 + 1, (height - 1) % 300 + 1, 1 << (tile_log2 - 6) % 7 + 6
    fields = {"version": 1, "color": color % 2, "depth": 16 if depth % 8 else 8, "quality": (quality - 1) % 100 + 1}
    for name, value in (fields | {"tile_log2": side.bit_length() - 1, "width": width, "height": height}).items():
        parts.set(name, value)
    parts.head[:6] = b"\x8bAEC\r\n"
    others = {kind: body for kind, body in parts.sections if kind in hostile.META}
    alphas = [body for kind, body in parts.sections if kind == hostile.ALPHA]
    bodies = [body for kind, body in parts.sections if kind == hostile.TILE] or [b""]
    plane_h, plane_w = -(-height // 64), -(-width // 64)
    tiles: list[tuple[int, bytes]] = []
    for top in range(0, plane_h, side // 64):
        for left in range(0, plane_w, side // 64):
            floor = 4 * min(side // 64, plane_h - top) * min(side // 64, plane_w - left)
            number = len(tiles) // (2 if alphas else 1)
            body = bodies[number] if number < len(bodies) else rng.choice(bodies)
            body = body[: len(body) // 4 * 4].ljust(floor, rng.choice([b"\0", b"\xff", b"a"]))
            tiles.append((hostile.TILE, body))
            if alphas:
                tiles.append((hostile.ALPHA, alphas[number] if number < len(alphas) else rng.choice(alphas)))
    parts.sections[:] = [*sorted(others.items()), *tiles]
    parts.tail = b""
    parts.lengths.clear()


def _unpacked(body: bytes) -> bytes:
    try:
        return zlib.decompressobj().decompress(body, 4096)
    except zlib.error:
        return body[:4096]


def _changed_png(body: bytes, room: int, rng: random.Random) -> bytes:
    chunks = hostile.png_chunks(body)
    if not chunks:
        return atheris.Mutate(body, room)
    i = rng.randrange(len(chunks))
    kind, data = chunks[i]
    choice = rng.random()
    if choice < 0.4:
        chunks[i] = (kind, atheris.Mutate(data, max(room, 16)))
    elif choice < 0.6 and kind == b"IDAT":
        chunks[i] = (kind, zlib.compress(atheris.Mutate(_unpacked(data), max(room, 64))))
    elif choice < 0.8:
        names = b"tRNS acTL fcTL fdAT iTXt zTXt tEXt iCCP eXIf PLTE IDAT IEND IHDR gAMA sBIT xyZw".split()
        chunks.insert(i, (rng.choice(names), rng.choice([b"", data[:64], rng.randbytes(rng.randrange(40))])))
    elif choice < 0.9:
        del chunks[i]
    else:
        chunks.insert(i, rng.choice(chunks))
    return hostile.png(chunks)


def main() -> None:
    warnings.simplefilter("error")
    os.environ["NNCODEC_WEIGHTS"] = str(check.TINY.parent)  # where the Pillow plugin looks for the model
    # SECONDS is of processor time; libFuzzer's timeout is of the clock, and a busy machine is no hang.
    arguments = [*sys.argv, "-timeout=300", "-rss_limit_mb=2048", "-print_final_stats=1", "-len_control=0"]
    atheris.Setup(arguments, one_input, custom_mutator=mutate)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
