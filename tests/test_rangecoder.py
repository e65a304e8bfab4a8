"""Tables are exact, the range coder inverts itself, and escapes carry any residual."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_decoder import RangeDecoder, residuals

from nncodec import freqs
from nncodec.config import SCALE_MAX, SCALE_MIN, scale_of_index
from nncodec.errors import CorruptError, ModelMismatchError
from nncodec.freqs import FIRST, REACH_MAX, ROWS, TOTAL, Tables
from nncodec.rangecoder import RESIDUAL_MAX, CodingTables, ResidualDecoder, ResidualEncoder
from nncodec.train.export import gaussian_tables

TABLES = gaussian_tables()
CODING = CodingTables(TABLES)
ALL = (0, *freqs.CODED)


def encode(residual: np.ndarray, index: np.ndarray) -> bytes:
    coder = ResidualEncoder(CODING)
    coder.put(residual, index)
    return coder.bytes()


def laplace(rng: np.random.Generator, index: np.ndarray) -> np.ndarray:
    scale = np.array([scale_of_index(i % FIRST) for i in range(ROWS)])[index]
    drawn = np.round(rng.laplace(0, scale)).astype(np.int32)
    return np.where(index == 0, 0, drawn).astype(np.int32)


def test_scales_span_the_stated_range() -> None:
    assert scale_of_index(0) == pytest.approx(SCALE_MIN)
    assert scale_of_index(63) == pytest.approx(SCALE_MAX)


def test_rows_are_exact_and_symmetric() -> None:
    for index in freqs.CODED:
        row = TABLES.row(index)
        reach = int(TABLES.reach[index])
        assert row.sum() == TOTAL
        assert row.min() >= 1
        assert (row[: 2 * reach + 1] == row[2 * reach :: -1]).all()


def test_fit_follows_the_histogram() -> None:
    counts = np.zeros((ROWS, REACH_MAX + 2), np.int64)
    counts[20, :3] = (6_000_000, 3_000_000, 1_000_000)
    half = freqs.fit(counts).half[20]
    assert half[0] / TOTAL == pytest.approx(0.6, rel=1e-3)
    assert 2 * half[1] / TOTAL == pytest.approx(0.3, rel=1e-3)


@pytest.mark.parametrize("p", [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [1e-12, 1.0, 1e-12], [1.0, 1.0, 1.0]])
def test_any_probabilities_give_an_exact_row(p: list[float]) -> None:
    half = freqs.quantize_row(np.array(p)).astype(np.int64)
    assert half.min() >= 1
    assert half[0] + 2 * half[1:-1].sum() + half[-1] == TOTAL


def test_damaged_tables_are_refused() -> None:
    half = TABLES.half.copy()
    half[30, 2] += 1
    with pytest.raises(ModelMismatchError, match="table 30"):
        freqs.validate(Tables(TABLES.reach, half))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 400))
def test_decoder_inverts_encoder(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    index = rng.choice(ALL, count).astype(np.uint8)
    residual = laplace(rng, index)
    if count:  # and one residual far out of every table
        residual[index > 0] = np.where(rng.random((index > 0).sum()) < 0.05, -RESIDUAL_MAX, residual[index > 0])
    decoder = ResidualDecoder(CODING, encode(residual, index))
    assert (decoder.get(index) == residual).all()
    decoder.finish()


def test_real_bits_equal_the_tables_estimate() -> None:
    rng = np.random.default_rng(1)
    index = rng.choice(ALL, 40_000).astype(np.uint8)
    residual = laplace(rng, index)
    real = 8 * len(encode(residual, index))
    assert freqs.bits(TABLES, residual, index) == pytest.approx(real, rel=1e-3)


def test_independent_decoder_reads_the_stream() -> None:
    rng = np.random.default_rng(2)
    index = rng.choice(ALL, 3000).astype(np.uint8)
    residual = laplace(rng, index)
    residual[np.flatnonzero(index)[:5]] = (RESIDUAL_MAX, -RESIDUAL_MAX, 256, -1000, 300)
    tensors = {"tables.reach": TABLES.reach.astype(np.int64), "tables.half": TABLES.half.astype(np.int64)}
    assert (residuals(RangeDecoder(encode(residual, index)), index, tensors) == residual).all()


def test_nothing_to_code_costs_nothing() -> None:
    assert encode(np.zeros(100, np.int32), np.zeros(100, np.uint8)) == b""


def test_leftover_words_are_corrupt() -> None:
    index = np.full(50, 10, np.uint8)
    decoder = ResidualDecoder(CODING, encode(np.zeros(50, np.int32), index) + bytes(range(1, 21)))
    decoder.get(index)
    with pytest.raises(CorruptError, match="longer than its symbols"):
        decoder.finish()


def test_stream_of_odd_length_is_corrupt() -> None:
    with pytest.raises(CorruptError, match="5 bytes"):
        ResidualDecoder(CODING, b"abcde")


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=64).map(lambda b: b[: len(b) // 4 * 4]), st.integers(0, 2**32 - 1))
def test_garbage_gives_symbols_or_a_typed_error(data: bytes, seed: int) -> None:
    index = np.random.default_rng(seed).choice(ALL, 500).astype(np.uint8)
    try:
        values = ResidualDecoder(CODING, data).get(index)
    except CorruptError:
        return
    assert np.abs(values).max() <= RESIDUAL_MAX
