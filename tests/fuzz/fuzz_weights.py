#!/usr/bin/env python
"""Coverage-guided fuzzing of weights files: a model or a ModelError, nothing else.

    python tests/fuzz/fuzz_weights.py -max_total_time=600 -max_len=600000 \
        -seed_inputs=tests/golden/v1/tiny.safetensors /tmp/weights

The mutator changes metadata, configuration, names, types, shapes and numbers of tensors and makes file and model id
right again, most of the time. What loads must decode a picture, however ugly, without another exception.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import random
import struct
import sys
import tempfile
import time
import warnings
from pathlib import Path

import atheris

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
with atheris.instrument_imports(include=["nncodec"]):
    from fuzz import check
    from nncodec import codec, container, weights
    from nncodec.config import ModelConfig
    from nncodec.errors import FormatError, ModelError

PATH = Path(tempfile.mkdtemp()) / "fuzzed.safetensors"
SECONDS = 10.0
_outcomes = {"loaded": 0, "refused": 0}
_NUMBERS = [
    0,
    1,
    -1,
    2,
    3,
    4,
    63,
    64,
    255,
    256,
    768,
    4096,
    4097,
    10**9,
    2**31,
    2**63,
    1.5,
    1e308,
    True,
    None,
    "x",
    [],
    {},
]


def one_input(data: bytes) -> None:
    PATH.write_bytes(data)
    begin = time.process_time()
    try:
        model = weights.load(weights.describe(PATH))
    except ModelError as error:
        if str(PATH) not in str(error):
            raise check.BrokenPromiseError(f"no file name in {error}") from error
        _outcomes["refused"] += 1
    else:
        _outcomes["loaded"] += 1
        for stream in (bytes(4), b"any words there are here"):
            header = container.Header(60, 60, 1 + len(data) % 100, model.id)
            file = container.pack(header, [container.Section(container.SectionType.TILE, stream)])
            with contextlib.suppress(FormatError):
                codec.decompress(file, model=model)
    if time.process_time() - begin > SECONDS:
        raise check.BrokenPromiseError(f"{time.process_time() - begin:.1f} s for {len(data)} bytes")
    if sum(_outcomes.values()) % 100 == 0:
        print(_outcomes, f"{time.process_time():.0f} s", file=sys.stderr)


def mutate(data: bytes, max_size: int, seed: int) -> bytes:
    rng = random.Random(seed)
    if rng.random() < 0.1:
        return atheris.Mutate(data, max_size)
    if rng.random() < 0.5:  # most of what is found is refused early; what loads is where the work is
        data = check.TINY.read_bytes()
    try:
        (length,) = struct.unpack_from("<Q", data)
        layout = json.loads(data[8 : 8 + length])
        body = bytearray(data[8 + length :])
        config = json.loads(layout["__metadata__"]["config"])
        for _ in range(rng.choice([1, 1, 2])):
            _change(layout, config, body, rng)
        layout["__metadata__"]["config"] = json.dumps(config)
        if rng.random() < 0.9:
            layout["__metadata__"]["id"] = _identity(layout, config, body)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError, struct.error):
        return atheris.Mutate(data, max_size)
    head = json.dumps(layout).encode()
    head = head.ljust(-(-len(head) // 8) * 8)
    return (struct.pack("<Q", len(head)) + head + bytes(body))[:max_size]


def _change(layout: dict, config: dict, body: bytearray, rng: random.Random) -> None:
    names = [n for n in layout if n != "__metadata__"]
    entry = layout[rng.choice(names)]
    what = rng.randrange(8)
    if what == 0:
        config[rng.choice(list(config))] = rng.choice(_NUMBERS)
    elif what == 1:
        layout["__metadata__"][rng.choice(list(layout["__metadata__"]))] = rng.choice(
            ["", "\ud800", "a" * 200, "\x1b[31m"]
        )
    elif what == 2:
        entry["dtype"] = rng.choice(["F32", "F16", "I32", "BF16", "F64", "I64", "U8", "BOOL", "F8_E4M3", "C64"])
    elif what == 3:
        entry["shape"] = rng.choice([entry["shape"][::-1], [], [0], [*entry["shape"], 1], [2**62, 4]])
    elif what == 4:
        layout[rng.choice(["scale.pass0.depthwise", "scale.pass9.mix", "x", "scale.", "g_s."])] = layout.pop(
            rng.choice(names)
        )
    elif what == 5:
        del layout[rng.choice(names)]
    else:
        begin, end = entry["data_offsets"]
        for _ in range(rng.choice([1, 4, 100])):
            at = begin + 4 * rng.randrange(max((end - begin) // 4, 1))
            body[at : at + 4] = struct.pack(
                "<I", rng.choice([0, 1, 2**31, 2**32 - 1, 0x7FC00000, 0x7F7FFFFF, 0x7C007C00])
            )


def _identity(layout: dict, config: dict, body: bytearray) -> str:
    """`weights.model_id` of the tensors as they stand, written anew."""
    digest = hashlib.sha256(json.dumps(ModelConfig.from_dict(config).to_dict(), sort_keys=True).encode())
    types = {"F32": "torch.float32", "F16": "torch.float16", "I32": "torch.int32"}
    for name in sorted(n for n in layout if n != "__metadata__"):
        if not name.startswith(("g_a.", "h_a.")):
            begin, end = layout[name]["data_offsets"]
            digest.update(f"{name} {types[layout[name]['dtype']]} {tuple(layout[name]['shape'])}".encode())
            digest.update(body[begin:end])
    return digest.hexdigest()[:16]


def main() -> None:
    warnings.simplefilter("error")
    atheris.Setup([*sys.argv, "-timeout=60", "-rss_limit_mb=4096", "-len_control=0"], one_input, custom_mutator=mutate)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
