"""Hostile files: a typed error or a picture, in bounded time and memory, whatever the bytes are.

By default a seeded sample of the files whose CRCs are made right again; NNCODEC_HOSTILE=all takes all of them
(minutes). What CRCs catch is always tried whole.
"""

from __future__ import annotations

import gc
import os
import random
import re
import time
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import hostile
import pytest
from click.testing import CliRunner
from fuzz import check, seeds

from nncodec import codec, container
from nncodec.cli import main
from nncodec.container import Header, Section, SectionType
from nncodec.errors import CorruptError, FormatError, LimitError, NotAecError

ALL = os.environ.get("NNCODEC_HOSTILE") == "all"
SAMPLE = 25
"""Files of each kind that are tried by default."""
SECONDS = 2.0
GROWTH = 64 << 10
"""KiB of resident memory."""
NAMES = ("tiles", "alpha_metadata", "noise")
CRASHES = sorted((Path(__file__).parent / "fuzz" / "crashes").glob("*.aec"))
CORPUS = Path(__file__).parent / "fuzz" / "corpus"
STATUS = Path("/proc/self/status")


@pytest.fixture(scope="module", params=NAMES)
def file(request: pytest.FixtureRequest) -> bytes:
    """Small files: six tiles; alpha and all metadata; noise with escapes."""
    picture, quality, tile_log2 = seeds.pictures()[request.param]
    data = codec.compress(picture, quality, check.model(), tile_log2=tile_log2)
    assert check.one_file(data) == "kept"
    assert len(data) < 500
    return data


def kib(key: str) -> int:
    found = re.search(rf"{key}:\s+(\d+)", STATUS.read_text())
    assert found
    return int(found[1])


def tried(files: Iterable[tuple[str, bytes]]) -> Counter[str]:
    """Outcomes of all files or of a sample, each within its time, all within the memory."""
    many = list(files)
    if not ALL and len(many) > SAMPLE:
        many = random.Random(11).sample(many, SAMPLE)
    outcomes: Counter[str] = Counter()
    before = 0
    if STATUS.exists():
        Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
        before = kib("VmRSS")
    for name, data in many:
        begin = time.process_time()
        try:
            outcomes[check.one_file(data)] += 1
        except BaseException as error:
            error.add_note(f"{name}: {data.hex()}")
            raise
        assert time.process_time() - begin < SECONDS, name
    if STATUS.exists():
        assert kib("VmHWM") - before < GROWTH
    print(os.environ["PYTEST_CURRENT_TEST"].split("::")[1].split(" ")[0], dict(outcomes))
    return outcomes


def flips(data: bytes) -> Iterator[tuple[str, bytes]]:
    for i in range(8 * len(data)):
        changed = bytearray(data)
        changed[i // 8] ^= 1 << i % 8
        yield f"bit {i}", bytes(changed)


def refused(files: Iterable[tuple[str, bytes]]) -> int:
    """How many files there were; every one is refused, by its CRCs and lengths alone."""
    count = 0
    for name, data in files:
        begin = time.process_time()
        with pytest.raises(FormatError) as raised:
            codec.decompress(data, model=check.model())
        assert type(raised.value) in check.TYPED, name
        assert str(raised.value)
        assert time.process_time() - begin < SECONDS
        count += 1
    return count


def test_every_flipped_bit_is_a_typed_error(file: bytes) -> None:
    assert refused(flips(file)) == 8 * len(file)


def test_every_truncation_is_a_typed_error(file: bytes) -> None:
    assert refused((f"{n} bytes", file[:n]) for n in range(len(file))) == len(file)


def test_every_deleted_byte_is_a_typed_error(file: bytes) -> None:
    refused((f"without {i}", file[:i] + file[i + 1 :]) for i in range(len(file)))


def test_every_inserted_byte_is_a_typed_error(file: bytes) -> None:
    values = range(256) if ALL else (0, 1, 16, 127, 255)
    refused((f"{v} at {i}", file[:i] + bytes([v]) + file[i:]) for i in range(len(file) + 1) for v in values)


def test_trailing_bytes_are_a_typed_error(file: bytes) -> None:
    refused((f"{len(tail)} more", file + tail) for tail in (b"\0", b"\xff" * 7, bytes(1 << 20), file))


def test_flipped_bits_under_right_crcs(file: bytes) -> None:
    outcomes = tried((name, hostile.seal(data)) for name, data in flips(file))
    assert outcomes["CorruptError"]


def test_shortened_payloads_under_right_crcs(file: bytes) -> None:
    parts = hostile.take_apart(file)
    assert parts is not None
    tried(
        (f"section {i} of {n} bytes", parts.replaced(i, body[:n]).bytes())
        for i, (_, body) in enumerate(parts.sections)
        for n in range(len(body))
    )


def test_lengthened_payloads_under_right_crcs(file: bytes) -> None:
    parts = hostile.take_apart(file)
    assert parts is not None
    tried(
        (f"section {i}: {value} at {at}", parts.replaced(i, body[:at] + bytes([value]) * 4 + body[at:]).bytes())
        for i, (_, body) in enumerate(parts.sections)
        for at in range(len(body) + 1)
        for value in (0, 255)
    )


def test_filled_payloads_under_right_crcs(file: bytes) -> None:
    parts = hostile.take_apart(file)
    assert parts is not None
    tried(
        (f"section {i} of {n} bytes of {value}", parts.replaced(i, bytes([value]) * n).bytes())
        for i in range(len(parts.sections))
        for n in (0, 1, 3, 4, 8, 64, 1000, 4096)
        for value in (0, 1, 0x78, 255)
    )


def test_rearranged_sections_under_right_crcs(file: bytes) -> None:
    tried(hostile.rearrangements(file))


def test_header_fields_at_their_edges_under_right_crcs(file: bytes) -> None:
    tried(hostile.header_edges(file))


def test_pairs_of_header_fields_at_their_edges_under_right_crcs(file: bytes) -> None:
    tried(
        (f"{first} {second}", twice)
        for first, once in hostile.header_edges(file)
        for second, twice in hostile.header_edges(once)
    )


def test_table_entries_at_their_edges_under_right_crcs(file: bytes) -> None:
    tried(hostile.table_edges(file))


def test_alpha_png_under_right_crcs() -> None:
    """Every bit of every chunk, with the chunk's CRC and the section's right; every bit of the filtered rows too."""
    picture, quality, tile_log2 = seeds.pictures()["alpha_metadata"]
    parts = hostile.take_apart(codec.compress(picture, quality, check.model(), tile_log2=tile_log2))
    assert parts is not None
    (at,) = (i for i, (kind, _) in enumerate(parts.sections) if kind == hostile.ALPHA)
    chunks = hostile.png_chunks(parts.sections[at][1])

    def files() -> Iterator[tuple[str, bytes]]:
        for i, (kind, data) in enumerate(chunks):
            for name, changed in flips(data):
                yield f"{kind!r} {name}", put(i, kind, changed)
        rows = zlib.decompress(chunks[1][1])
        for name, changed in flips(rows[:200]):
            yield f"rows {name}", put(1, b"IDAT", zlib.compress(changed + rows[200:]))
        for n in (0, 1, len(rows) - 1, len(rows) + 1, 1 << 20):
            yield f"{n} bytes of rows", put(1, b"IDAT", zlib.compress((rows + bytes(1 << 20))[:n]))

    def put(i: int, kind: bytes, data: bytes) -> bytes:
        return parts.replaced(at, hostile.png([*chunks[:i], (kind, data), *chunks[i + 1 :]])).bytes()

    assert tried(files())["CorruptError"]


@pytest.mark.parametrize("path", CRASHES, ids=lambda p: p.stem)
def test_what_once_broke_it_does_no_more(path: Path) -> None:
    tried([(path.stem, path.read_bytes())])


def test_what_the_fuzzer_found_interesting() -> None:
    """The corpus: each file takes a way through the readers that no other takes."""
    outcomes = tried((path.name, path.read_bytes()) for path in sorted(CORPUS.iterdir()))
    assert outcomes["kept"]
    assert outcomes["CorruptError"]


def claims() -> Iterator[tuple[str, bytes, type[FormatError]]]:
    """Small files that say they are big ones."""
    model_id = check.model().id

    def file(width: int, height: int, tile_log2: int, lengths: list[int]) -> bytes:
        head = bytearray(container.MAGIC + bytes([1, 0, 8, 50, tile_log2]))
        head += width.to_bytes(4, "little") + height.to_bytes(4, "little") + model_id + bytes(2)
        return hostile.Parts(head, [(hostile.TILE, bytes(n)) for n in lengths]).bytes()

    for side in (2**31, 2**32 - 1, 2**24 + 1):
        yield f"{side} a side", file(side, side, 12, [4]), CorruptError
    yield "2^24 a side", file(2**24, 2**24, 12, [4]), LimitError
    yield "over a gigapixel", file(2**24, 60, 12, [256] * 4096), LimitError
    for n in (0, 1, 4, 255):
        yield f"gigapixel of {n} bytes a tile", file(30_000, 30_000, 12, [n] * 64), CorruptError
    yield "one short tile", file(4096, 4096, 12, [16380]), CorruptError
    yield "no sections", file(100, 100, 10, []), CorruptError
    yield "too few tiles", file(60_000, 10_000, 6, [4] * 60_000), CorruptError


@pytest.mark.parametrize(("data", "error"), [c[1:] for c in claims()], ids=[c[0] for c in claims()])
def test_big_claims_are_refused_before_anything_is_allocated(data: bytes, error: type[FormatError]) -> None:
    for partial in (False, True):
        gc.collect()  # an error's frames hold what was parsed until then
        before = 0
        if STATUS.exists():
            Path("/proc/self/clear_refs").write_text("5")
            before = kib("VmRSS")
        begin = time.process_time()
        with pytest.raises(error):
            codec.decompress(data, model=check.model(), partial=partial)
        assert time.process_time() - begin < 1
        if STATUS.exists():
            assert kib("VmHWM") - before < 8 << 10


def test_the_biggest_claim_of_a_small_file_is_kept_within_bounds() -> None:
    """What the least length of a tile allows: 1024 pixels a byte."""
    header = Header(640, 640, 100, check.model().id)
    data = container.pack(header, [Section(SectionType.TILE, bytes(n)) for n in header.tile_floors()])
    assert len(data) < 500
    assert tried([("zeros", data)])["kept"] == 1


def test_most_sections_take_no_longer_than_their_number(tmp_path: Path) -> None:
    """65535 sections, every one damaged: names and reports are not quadratic, the message is short."""
    header = Header(64 * 255, 64 * 257, 50, check.model().id, tile_log2=6)
    data = bytearray(container.pack(header, [Section(SectionType.TILE, b"tile")] * header.tiles))
    data[-4 * header.tiles :] = b"TILE" * header.tiles
    path = tmp_path / "many.aec"
    path.write_bytes(data)
    begin = time.process_time()
    assert CliRunner().invoke(main, ["info", str(path)]).exit_code == 0
    verified = CliRunner().invoke(main, ["verify", str(path)])
    assert verified.exit_code == 1
    assert len(verified.stderr) < 2000
    assert "and 65527 more" in verified.stderr
    assert time.process_time() - begin < 10


def test_random_bytes_are_a_typed_error() -> None:
    rng = random.Random(5)
    for _ in range(300):
        body = rng.randbytes(rng.randrange(300))
        refused([("random", body), ("random after the signature", container.MAGIC + b"\x01" + body)])
    with pytest.raises(NotAecError):
        codec.decompress(b"", model=check.model())
