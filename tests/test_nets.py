"""The networks: budget, starting point, gradients."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import seeded_net

from nncodec import tiling
from nncodec.config import BASE, FAST, TINY, ModelConfig
from nncodec.nets.blocks import DepthConvBlock, QualityTable, dct_basis
from nncodec.nets.complexity import kmac_per_pixel
from nncodec.nets.model import CodecNet, Coding
from nncodec.nets.scales import gaussian_bits, lower_bound, sigma
from nncodec.tiling import UNCUT, Rect, Sides


@pytest.mark.parametrize(
    ("config", "budget"),
    [
        (FAST, {"g_a": 8.0, "g_s": 6.0, "scales": 0.7, "decode": 8.5, "encode": 11.0}),
        (BASE, {"g_a": 29.0, "g_s": 18.5, "scales": 1.0, "decode": 25.0, "encode": 37.0}),
    ],
)
def test_multiply_accumulates_stay_in_budget(config: ModelConfig, budget: dict[str, float]) -> None:
    found = kmac_per_pixel(config)
    over = {name: found[name] for name, limit in budget.items() if not 0.5 * limit < found[name] <= limit}
    assert over == {}, f"kMAC/px, of {budget}"


def test_basis_is_orthonormal_and_ordered() -> None:
    basis, std = dct_basis()
    assert np.allclose(basis @ basis.T, np.eye(768), atol=1e-12)
    assert (np.diff(std) <= 0).all()
    assert np.ptp(basis[0]) < 1e-12  # the constant comes first


def test_untrained_model_is_a_transform_codec(photo: np.ndarray) -> None:
    torch.manual_seed(0)
    net = CodecNet(FAST).eval()
    x = torch.from_numpy(photo[:128, :192]).permute(2, 0, 1)[None].float() / 255
    rates, psnrs = [], []
    for quality in (10.0, 50.0, 90.0):
        with torch.no_grad():
            out = net(x, torch.tensor([quality]))
        rates.append(float(out.y_bits + out.z_bits) / (128 * 192))
        psnrs.append(float(-10 * torch.log10((out.x_hat - x).square().mean())))
    assert rates == sorted(rates)
    assert psnrs == sorted(psnrs)
    assert psnrs[0] > 20
    assert rates[0] < 2


def test_every_parameter_learns() -> None:
    net = seeded_net().train()
    x = torch.rand(2, 3, 64, 128)
    # Qualities at both ends and in the middle touch every row of the quality tables between them.
    for quality in torch.linspace(1, 100, 12):
        out = net(x, quality.expand(2))
        (out.y_bits.mean() / 8192 + 100 * (out.x_hat - x).square().mean() + out.z_bits.mean() / 8192).backward()
    idle = [n for n, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert idle == []


def test_evaluation_rounds_and_repeats() -> None:
    net = seeded_net()
    x, q = torch.rand(1, 3, 64, 64), torch.tensor([40.0])
    with torch.no_grad():
        first, second = net(x, q), net(x, q)
    assert torch.equal(first.x_hat, second.x_hat)
    assert torch.equal(first.y_bits, second.y_bits)


def test_chosen_residuals_are_what_training_decodes() -> None:
    torch.manual_seed(0)
    net = CodecNet(TINY)
    x, quality = torch.rand(2, 3, 64, 64), torch.tensor([30.0, 80.0])
    rows = []

    def towards_zero(residual: torch.Tensor, row: torch.Tensor) -> torch.Tensor:
        rows.append(row)
        return residual.trunc()

    trained = net.train().latents(x, quality, coding=Coding(choose=towards_zero))
    coded = net.eval().latents(x, quality, coding=Coding(choose=towards_zero))
    plain = net.train().latents(x, quality)
    assert torch.equal(trained.y_hat, coded.y_hat)
    assert not torch.equal(trained.y_hat, plain.y_hat)
    assert [int(row.min()) >= 64 or int(row.max()) < 64 for row in rows] == [True] * 8
    trained.y_hat.square().sum().backward()
    assert net.g_a.linear.weight.grad.abs().max() > 0
    assert net.mean_net.heads[0].weight.grad is not None


def test_quality_table_is_linear_between_knots() -> None:
    table = QualityTable(4, 2)
    with torch.no_grad():
        table.rows.copy_(torch.tensor([[0.0, 3.0], [1.0, 3.0], [4.0, 3.0], [9.0, 3.0]]))
    found = table(torch.tensor([1.0, 34.0, 50.5, 100.0]))[:, 0]
    assert torch.allclose(found, torch.tensor([0.0, 1.0, 2.5, 9.0]), atol=1e-5)


def test_a_blocks_branches_have_gains_and_offsets_by_quality() -> None:
    torch.manual_seed(0)
    block = DepthConvBlock(8, knots=2)
    for parameter in (block.project.weight, block.project.bias, block.mix.weight, block.mix.bias):
        torch.nn.init.normal_(parameter)
    x, quality = torch.randn(3, 8, 6, 6), torch.tensor([1.0, 50.5, 100.0])
    plain = DepthConvBlock(8)
    plain.load_state_dict(block.state_dict(), strict=False)
    torch.testing.assert_close(block(x, quality), plain(x))
    rows = block.by_quality.rows
    torch.nn.init.normal_(rows, std=0.3)
    apart = torch.cat([block(x[i : i + 1], quality[i : i + 1]) for i in range(3)])  # into the weights
    torch.testing.assert_close(block(x, quality), apart)
    low = rows[0].detach()
    for conv, (offset, log_gain) in ((plain.project, low[:16].split(8)), (plain.mix, low[16:].split(8))):
        with torch.no_grad():
            conv.weight *= log_gain.exp()[:, None, None, None]
            conv.bias.mul_(log_gain.exp()).add_(offset)
    torch.testing.assert_close(apart[:1], plain(x[:1]))
    apart.sum().backward()
    assert (rows.grad.abs().amin(1) > 0).all()


@pytest.mark.parametrize("depth8", [1, 2])
@pytest.mark.parametrize("cut", [Sides(1, 1, 1, 1), Sides(0, 1, 1, 0), UNCUT])
def test_windows_give_what_the_picture_does_and_lose_their_halo_on_the_way(depth8: int, cut: Sides) -> None:
    net = seeded_net(config=replace(TINY, decoder_depth8=depth8))
    quality, whole = torch.tensor([50.0]), Rect(0, 0, 192, 256)
    window = Rect(32 * cut.top, 48 * cut.left, 192 - 48 * cut.bottom, 256 - 32 * cut.right)
    y = torch.randn(1, net.config.y_channels, whole.height // 16, whole.width // 16)
    widths: list[int] = []
    for blocks in (net.g_s.blocks16, net.g_s.blocks8):
        blocks.register_forward_hook(lambda _, inputs, out: widths.append(inputs[0].shape[3] - out.shape[3]))
    with torch.no_grad():
        x_inside = net.x_inside(y[(..., *tiling.inside(window, whole, 16))], quality, cut)
        x_hat = net.g_s(y, quality)
    inner = tiling.without_halo(window, cut, net.config.synthesis_halo)
    torch.testing.assert_close(x_inside, x_hat[(..., *tiling.inside(inner, whole))], rtol=0, atol=1e-5)
    sides = cut.left + cut.right
    assert widths[:2] == [sides, depth8 * sides]


def test_gaussian_bits_are_a_probability() -> None:
    residual = torch.arange(-400.0, 401.0)
    for index in (5.0, 20.0, 40.0):
        total = torch.exp2(-gaussian_bits(residual, torch.full_like(residual, index)).double()).sum()
        assert float(total) == pytest.approx(1.0, abs=2e-6)


def test_lower_bound_lets_values_rise() -> None:
    x = torch.tensor([-1.0, -1.0, 2.0], requires_grad=True)
    (lower_bound(x, 0.0) * torch.tensor([1.0, -1.0, 1.0])).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [0.0, -1.0, 1.0]
    assert float(sigma(torch.tensor(-5.0))) == pytest.approx(0.11)


@pytest.mark.parametrize(
    "change", [{"y_channels": 30}, {"y_channels": 772}, {"knots": 1}, {"block_knots": 1}, {"z_channels": 0}]
)
def test_impossible_configurations_are_refused(change: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"must|most"):
        ModelConfig.from_dict(TINY.to_dict() | change)


def test_configuration_survives_its_dictionary() -> None:
    assert ModelConfig.from_dict(BASE.to_dict()) == BASE
    with pytest.raises(ValueError, match="unknown"):
        ModelConfig.from_dict(TINY.to_dict() | {"surprise": 1})
