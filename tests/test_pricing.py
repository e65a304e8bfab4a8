"""Training pays what tables say, with a slope that latents can follow."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import seeded_net

from nncodec import effort, freqs, weights
from nncodec.config import scale_of_index
from nncodec.freqs import FIRST, REACH_MAX, ROWS, Tables
from nncodec.nets.model import Coding
from nncodec.train.export import gaussian_tables
from nncodec.train.pricing import Pricing

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def counted() -> Tables:
    """Fitted to a thousand Laplacian residuals a row, as far from a Gaussian as real ones and as noisy."""
    rng = np.random.default_rng(3)
    counts = np.zeros((ROWS, REACH_MAX + 2), np.int64)
    for row in freqs.CODED:
        drawn = np.abs(np.round(rng.laplace(0, scale_of_index(row % FIRST) / 2**0.5, 1_000))).astype(int)
        counts[row] = np.bincount(np.minimum(drawn, REACH_MAX + 1), minlength=REACH_MAX + 2)
    return freqs.fit(counts)


def test_integers_cost_what_the_tables_say_and_what_lies_between_is_linear(counted: Tables) -> None:
    pricing, price = Pricing(counted, CPU), effort.prices(counted)
    row = torch.tensor([5, 18, 18 + FIRST], dtype=torch.uint8)
    for low in (0, 1, 3):
        ends = [price[row.long(), m] for m in (low, low + 1)]
        for share in (0.0, 0.25, 1.0):
            for sign in (-1.0, 1.0):
                found = pricing.bits(torch.full((3,), sign * (low + share)), row)
                torch.testing.assert_close(found, torch.lerp(*ends, share))


def test_the_gradient_is_the_slope_towards_larger_magnitudes(counted: Tables) -> None:
    price = effort.prices(counted)
    residual = torch.tensor([-1.3, -0.2, 0.7, 2.6], requires_grad=True)
    row = torch.full((4,), 14, dtype=torch.uint8)
    Pricing(counted, CPU).bits(residual, row).sum().backward()
    low = torch.tensor([1, 0, 0, 2])
    slope = price[14, low + 1] - price[14, low]
    torch.testing.assert_close(residual.grad, slope * residual.detach().sign())


def test_what_is_not_coded_costs_nothing(counted: Tables) -> None:
    assert Pricing(counted, CPU).bits(torch.tensor([0.0, 3.3, -900.0]), torch.zeros(3, dtype=torch.uint8)).sum() == 0


def test_residuals_beyond_every_row_have_a_price(counted: Tables) -> None:
    far = torch.tensor([REACH_MAX + 0.5, -1e4])
    assert torch.isfinite(Pricing(counted, CPU).bits(far, torch.tensor([63, 1], dtype=torch.uint8))).all()


def test_slopes_of_wide_rows_follow_the_distribution_not_the_noise_of_counts(counted: Tables) -> None:
    """A Laplacian of deviation s costs sqrt(2) / (s ln 2) bits more with each step, near and far."""
    pricing, price = Pricing(counted, CPU), effort.prices(counted)
    for row in (36, 42, 42 + FIRST):
        deviation = scale_of_index(row % FIRST)
        at = torch.arange(int(0.8 * deviation), int(2.0 * deviation)).float().requires_grad_()
        slopes = pricing.bits(at, torch.full(at.shape, row, dtype=torch.uint8)).detach().diff()
        expected = 2**0.5 / (deviation * np.log(2))
        rough = (price[row][at.long()].diff() - expected).square().mean().sqrt()
        error = (slopes - expected).square().mean().sqrt()
        assert error < 0.35 * expected
        assert error < 0.3 * rough


def test_validation_counts_the_bits_of_the_tables(tiny_path: Path) -> None:
    tables = weights.load(weights.describe(tiny_path)).entropy.tables
    pricing, net = Pricing(tables, CPU), seeded_net()
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []

    def price(value: torch.Tensor, row: torch.Tensor) -> torch.Tensor:
        seen.append((value, row))
        return pricing.bits(value, row)

    with torch.no_grad():
        found = net.latents(torch.rand(1, 3, 128, 128), torch.tensor([70.0]), coding=Coding(pricing.chosen, price))
    exact = sum(freqs.bits(tables, v.numpy().astype(np.int32), row.numpy()) for v, row in seen)
    assert len(seen) == 4
    assert exact > 1000
    assert float(found.y_bits) == pytest.approx(exact, rel=0.01)


def test_latents_follow_the_tables_prices_and_scales_do_not() -> None:
    """The value of the bits stays what scales learn from; the gradient to y is that of the price."""
    torch.manual_seed(0)
    net = seeded_net().train()
    pricing = Pricing(gaussian_tables(), CPU)
    x, quality = torch.rand(1, 3, 64, 64), torch.tensor([60.0])
    found = []
    for factor in (0.0, 1.0, 2.0):

        def price(value: torch.Tensor, row: torch.Tensor, factor: float = factor) -> torch.Tensor:
            return factor * pricing.bits(value, row)

        net.zero_grad()
        torch.manual_seed(1)
        bits = net.latents(x, quality, coding=Coding(price=price)).y_bits
        bits.sum().backward()
        found.append((bits.detach(), net.g_a.linear.weight.grad.clone(), net.scale_net.index_bias.rows.grad.clone()))
    (bits, none, scales), *others = found
    for other_bits, _, other_scales in others:
        torch.testing.assert_close(other_bits, bits)
        torch.testing.assert_close(other_scales, scales)
    (once, twice) = (gradient - none for _, gradient, _ in others)
    assert once.norm() > 0
    torch.testing.assert_close(twice, 2 * once, rtol=1e-3, atol=1e-3 * float(once.abs().max()))
