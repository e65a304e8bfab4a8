"""Words of polar codes have the bits that were given in their transform, and cost as little as any search finds."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nncodec import polar


def random_task(rng: np.random.Generator, words: int, length: int, count: int) -> tuple[np.ndarray, ...]:
    wanted = rng.integers(0, 2, (words, length)).astype(np.uint8)
    cost = rng.exponential(2.0, (words, length)).astype(np.float32)
    return wanted, cost, polar.order(length)[:count], rng.integers(0, 2, (words, count)).astype(np.uint8)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 9), st.integers(1, 5), st.floats(0, 1), st.sampled_from([1, 2, 5, 16]))
def test_what_is_given_is_there(seed: int, log_length: int, words: int, share: float, paths: int) -> None:
    rng = np.random.default_rng(seed)
    length = 1 << log_length
    wanted, cost, sites, given_bits = random_task(rng, words, length, 1 + int(share * (length - 1)))
    loose = rng.random(words) < 0.3
    said = polar.transform(polar.nearest(wanted, cost, sites, given_bits, loose, paths))[:, sites]
    assert (said[:, :-1] == given_bits[:, :-1]).all()
    assert (said[~loose, -1] == given_bits[~loose, -1]).all()


def test_with_all_paths_nothing_costs_less() -> None:
    rng = np.random.default_rng(1)
    wanted, cost, sites, given_bits = random_task(rng, 30, 8, 3)
    found = polar.nearest(wanted, cost, sites, given_bits, np.zeros(30, bool), 64)
    words = np.array(list(itertools.product((0, 1), repeat=8)), np.uint8)
    said = polar.transform(words)[:, sites]
    for own, price, asked, word in zip(wanted, cost, given_bits, found, strict=True):
        fits = words[(said == asked).all(1)]
        assert price[word != own].sum() == pytest.approx(((fits != own) * price).sum(1).min(), abs=1e-4)


def test_loose_sites_cost_nothing() -> None:
    rng = np.random.default_rng(2)
    wanted, cost, sites, given_bits = random_task(rng, 40, 4, 1)
    found = polar.nearest(wanted, cost, sites, given_bits, np.ones(40, bool), 4)
    assert (found == wanted).all()


def test_transform_is_its_own_inverse_and_what_the_format_says() -> None:
    bits = np.random.default_rng(3).integers(0, 2, (3, 64)).astype(np.uint8)
    said = polar.transform(bits)
    assert (polar.transform(said) == bits).all()
    for i in range(64):
        counted = [j for j in range(64) if i & j == i]
        assert (said[:, i] == bits[:, counted].sum(1) % 2).all()


@pytest.mark.parametrize("length", [1, 2, 64, polar.LENGTH_MAX])
def test_order_is_of_all_positions_without_ties(length: int) -> None:
    order = polar.order(length)
    assert sorted(order.tolist()) == list(range(length))
    weights = [sum(6**k * 5 ** (12 - k) for k in range(12) if i >> k & 1) for i in order.tolist()]
    assert all(a < b for a, b in itertools.pairwise(weights))
