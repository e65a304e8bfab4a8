"""Parities say the signs that were asked for, at little cost, and files are smaller for it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_decoder import RangeDecoder, residuals
from test_rangecoder import CODING, TABLES, laplace

from nncodec import codec, container, effort, encoding, freqs, hiding
from nncodec.freqs import ROWS
from nncodec.rangecoder import RESIDUAL_MAX, ResidualDecoder, ResidualEncoder
from nncodec.weights import Model

PRICE = effort.prices(TABLES).numpy()


def counts_of(**counts: int) -> np.ndarray:
    return np.bincount([int(s[1:]) for s, n in counts.items() for _ in range(n)], minlength=ROWS)


def made(counts: np.ndarray) -> hiding.Plan:
    plan = hiding.plan(counts)
    assert plan is not None
    return plan


def concealed(index: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Residuals with hidden signs under scale indices `index`."""
    exact = laplace(rng, index) + rng.uniform(-0.5, 0.5, index.shape).astype(np.float32)
    chosen = np.where(index == 0, 0, np.rint(exact)).astype(np.int32)
    return effort.hidden(chosen, exact.astype(np.float32), index, PRICE)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 6000), st.integers(1, 63))
def test_any_signs_can_be_asked_for(seed: int, count: int, top: int) -> None:
    rng = np.random.default_rng(seed)
    plan = hiding.plan(np.bincount(rng.integers(0, top + 1, count), minlength=ROWS))
    if plan is None:
        return
    magnitudes = rng.integers(0, 4, plan.elements).astype(np.int32)
    cost = rng.exponential(2.0, plan.elements).astype(np.float32)
    cost[rng.random(plan.elements) < 0.3] = np.inf
    nonzero = magnitudes[: plan.carriers] > 0
    cost[: plan.carriers][~nonzero] = np.inf
    negative = rng.random(plan.carriers) < 0.5
    changed = plan.embed(magnitudes, cost, negative)
    assert (plan.signs(magnitudes + changed) == (negative & nonzero)).all()


def test_changes_cost_little_more_than_theory_allows() -> None:
    """Costs uniform in 0..1, of which a code that changes each with 1 / (1 + 2^(beta cost)) needs least."""
    rng = np.random.default_rng(4)
    plan = made(counts_of(s30=40_000))
    share = plan.carriers / plan.elements
    assert share == pytest.approx(312 / 1024, rel=0.01)
    grid = (np.arange(10_000) + 0.5) / 10_000
    for beta in np.arange(1.0, 40.0, 0.05):
        p = 1 / (1 + 2 ** (beta * grid))
        if -(p * np.log2(p) + (1 - p) * np.log2(1 - p)).mean() < share:
            break
    least = (p * grid).mean()
    negative = rng.random(plan.carriers) < 0.5
    cost = rng.random(plan.elements).astype(np.float32)
    spent = {}
    for paths in (1, 4, hiding.PATHS):
        changed = plan.embed(np.ones(plan.elements, np.int32), 10 * cost, negative, paths)
        spent[paths] = cost[changed].sum() / plan.elements
    assert least < spent[hiding.PATHS] < 1.12 * least
    assert spent[hiding.PATHS] < spent[4] < spent[1]


def test_runs_of_zeros_do_not_shift_signs() -> None:
    """Where nothing but zeros of carriers could be changed some are, and the signs are those that were asked for."""
    rng = np.random.default_rng(8)
    index = np.full(2000, 30, np.uint8)
    exact = np.where(np.arange(2000) < 1700, 6.2, 0.1) * rng.choice([-1, 1], 2000)
    values = effort.hidden(np.rint(exact).astype(np.int32), exact.astype(np.float32), index, PRICE)
    assert (np.sign(values) == np.sign(exact))[values != 0].all()
    coder = ResidualEncoder(CODING)
    coder.put(values, index, hidden=True)
    assert (ResidualDecoder(CODING, coder.bytes()).get(index, hidden=True) == values).all()


def test_few_bits_are_not_hidden() -> None:
    assert hiding.plan(counts_of(s30=13)) is None
    assert made(counts_of(s30=14)).carriers == hiding.LEAST_BITS
    assert hiding.plan(counts_of(s1=100_000)) is None


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 3000), st.integers(1, 63))
def test_decoder_finds_the_signs(seed: int, count: int, top: int) -> None:
    rng = np.random.default_rng(seed)
    index = rng.integers(0, top + 1, count).astype(np.uint8)
    values = concealed(index, rng)
    coder = ResidualEncoder(CODING)
    coder.put(values, index, hidden=True)
    decoder = ResidualDecoder(CODING, coder.bytes())
    assert (decoder.get(index, hidden=True) == values).all()
    decoder.finish()


def test_independent_decoder_finds_the_signs() -> None:
    rng = np.random.default_rng(5)
    index = np.minimum(rng.geometric(0.06, 3000), 63).astype(np.uint8)
    exact = laplace(rng, index).astype(np.float32) + np.float32(0.4)
    exact[np.flatnonzero(index == 63)] = (-1) ** np.arange((index == 63).sum()) * 3000.4  # escapes of carriers
    values = effort.hidden(np.rint(exact).astype(np.int32), exact, index, PRICE)
    coder = ResidualEncoder(CODING)
    coder.put(values, index, hidden=True)
    tensors = {"tables.reach": TABLES.reach.astype(np.int64), "tables.half": TABLES.half.astype(np.int64)}
    assert (values != np.rint(exact)).any()
    assert (residuals(RangeDecoder(coder.bytes()), index, tensors, hidden=True) == values).all()


def test_residuals_that_say_other_signs_are_not_coded() -> None:
    rng = np.random.default_rng(6)
    index = np.full(2000, 25, np.uint8)
    values = concealed(index, rng)
    first = hiding.carriers(index)
    values[first[np.flatnonzero(values[first])[0]]] *= -1
    with pytest.raises(ValueError, match="signs of carriers"):
        ResidualEncoder(CODING).put(values, index, hidden=True)


def test_bits_are_what_the_tables_say_less_the_signs() -> None:
    rng = np.random.default_rng(7)
    index = rng.integers(0, 40, 20_000).astype(np.uint8)
    values = concealed(index, rng)
    coder = ResidualEncoder(CODING)
    coder.put(values, index, hidden=True)
    saved = np.count_nonzero(values[hiding.carriers(index)])
    assert saved > 1000
    assert freqs.bits(TABLES, values, index) - saved == pytest.approx(8 * len(coder.bytes()), rel=1e-3)


def test_the_largest_residual_is_not_made_larger() -> None:
    index = np.full(400, 63, np.uint8)
    exact = np.full(400, RESIDUAL_MAX, np.float32)
    assert np.abs(effort.hidden(exact.astype(np.int32), exact, index, PRICE)).max() == RESIDUAL_MAX


@pytest.mark.parametrize("levels", [0, 1])
def test_effort_decides_whether_signs_are_hidden(tiny: Model, photo: np.ndarray, levels: int) -> None:
    header, _ = container.parse_header(codec.compress(photo, 60, tiny, effort=levels))
    assert header.hidden == (levels > 0)


def test_files_are_smaller_by_more_than_they_lose(
    tiny: Model, photo: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cost() -> tuple[int, float]:
        data = codec.compress(photo, 60, tiny)
        error = np.square(codec.decompress(data, model=tiny).color.astype(float) - photo).mean()
        return len(data), 8 * len(data) + tiny.config.lmbda(60) * error * photo.shape[0] * photo.shape[1]

    with_hidden = cost()
    monkeypatch.setattr(encoding, "hides", lambda *_: False)
    without = cost()
    assert with_hidden[0] < 0.97 * without[0]
    assert with_hidden[1] < without[1]
