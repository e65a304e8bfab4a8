"""The classic archs: they train, their files come back, and the codec's own mechanisms hold for them."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from click.testing import CliRunner
from PIL import Image

from nncodec import codec, weights
from nncodec.cli import main
from nncodec.config import (
    ARCHS,
    BASE,
    BASELINE,
    CODEC,
    DENSE,
    ENHANCED,
    FAST,
    POOLING,
    SMALL28,
    TINY,
    VARIATIONAL,
    ModelConfig,
)
from nncodec.errors import InputError
from nncodec.nets.classic import Attention, BatchNorm, ResidualBlock, Upsample
from nncodec.nets.complexity import kmac_per_pixel
from nncodec.nets.model import CodecNet
from nncodec.train import export
from nncodec.train.data import Crops, load_pictures
from nncodec.train.flat import MATRIX, STATISTIC, FlatParameters, kind_of
from nncodec.train.loop import Trainer
from nncodec.train.recipe import Recipe
from nncodec.train.run import run

CLASSIC = (BASELINE, POOLING, ENHANCED, VARIATIONAL)
NORMED = (BASELINE, POOLING, VARIATIONAL)


def silent(_: str) -> None:
    pass


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, photo: np.ndarray) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for i in range(3):
        Image.fromarray(np.roll(photo, 37 * i, axis=1)).save(folder / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def recipe(folder: Path) -> Recipe:
    return Recipe(
        data=str(folder), size="tiny", batch=2, crop=64, late_crop=128, steps=12, warmup_steps=2, fit_pictures=1,
        decoder_share=0.25, late_from=0.8, bfloat16=False, optimizer="adamw",
    )  # fmt: skip


@pytest.fixture(scope="module")
def trained(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A weights file of each arch, after a whole run of a dozen steps."""
    found = {}
    for arch in CLASSIC:
        out = run(replace(recipe, arch=arch), tmp_path_factory.mktemp(arch), False, silent)
        assert out is not None
        found[arch] = out
    return found


def net_of(arch: str, config: ModelConfig = TINY) -> CodecNet:
    """Seeded, in evaluation mode; batch norms are past their start, attention is not."""
    torch.manual_seed(0)
    net = CodecNet(replace(config, arch=arch))
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, BatchNorm):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 2)
                module.bias.normal_(0, 0.1)
            if isinstance(module, ResidualBlock):
                module.second.weight.normal_(0, 0.1)
    return net.eval()


# Networks


def test_decoders_cost_about_what_the_codecs_own_does() -> None:
    own = kmac_per_pixel(FAST)["g_s"]
    for arch in (BASELINE, ENHANCED):  # pooling and variational have that of baseline
        assert 0.5 * own < kmac_per_pixel(replace(FAST, arch=arch))["g_s"] < 2 * own, arch


@pytest.mark.parametrize("arch", CLASSIC)
def test_narrow_and_uneven_widths_make_a_model(arch: str) -> None:
    widths = {f"{kind}_width{stride}": 1 for kind in ("encoder", "decoder") for stride in (8, 16)}
    net = CodecNet(replace(TINY, arch=arch, y_channels=12, **widths)).eval()
    with torch.no_grad():
        assert net(torch.rand(1, 3, 64, 128), torch.tensor([40.0])).x_hat.shape == (1, 3, 64, 128)


@pytest.mark.parametrize("arch", CLASSIC)
def test_halos_cover_the_receptive_fields_and_are_no_larger(arch: str) -> None:
    net = net_of(arch).double()
    x, quality = torch.rand(1, 3, 448, 64, dtype=torch.float64), torch.tensor([50.0])
    with torch.no_grad():
        y = net.g_a(x, quality)
        for grow, equal in ((net.config.analysis_halo, True), (net.config.analysis_halo - 16, False)):
            window = net.g_a(x[:, :, 192 - grow : 256 + grow], quality)
            same = torch.allclose(y[:, :, 12:16], window[:, :, grow // 16 : grow // 16 + 4], rtol=0, atol=1e-6)
            assert same is equal
        # A transposed convolution reaches down alone, so both sides count.
        y = y.double()
        x_hat = net.g_s(y, quality)
        for grow, equal in ((net.config.synthesis_halo, True), (net.config.synthesis_halo - 16, False)):
            cells = grow // 16
            window = net.g_s(y[:, :, 12 - cells : 16 + cells], quality)
            same = torch.allclose(x_hat[:, :, 192:256], window[:, :, grow : grow + 64], rtol=0, atol=1e-6)
            assert same is equal


@pytest.mark.parametrize("arch", CLASSIC)
def test_untrained_latents_are_of_the_spread_that_gains_and_scales_expect(arch: str, photo: np.ndarray) -> None:
    torch.manual_seed(0)
    net = CodecNet(replace(FAST, arch=arch)).train()
    x = torch.from_numpy(photo[:128, :192]).permute(2, 0, 1)[None].float() / 255
    with torch.no_grad():
        y = net.g_a(x, torch.tensor([50.0]))
        net.eval()
        out = [net(x, torch.tensor([quality])) for quality in (10.0, 50.0, 90.0)]
    assert 0.3 < float(y.std()) < 3
    rates = [float(o.y_bits + o.z_bits) / (128 * 192) for o in out]
    assert 0.05 < rates[0] < rates[1] < rates[2] < 12


def test_every_parameter_learns() -> None:
    for arch in CLASSIC:
        net = net_of(arch).train()
        with torch.no_grad():
            for module in net.modules():
                if isinstance(module, Attention):
                    module.project.weight.normal_(0, 0.1)
            for head in net.mean_net.heads:
                head.weight.normal_(0, 0.02)
        x = torch.rand(12, 3, 64, 64)
        out = net(x, torch.linspace(1, 100, 12))
        (out.y_bits.mean() / 4096 + 100 * (out.x_hat - x).square().mean() + out.z_bits.mean() / 4096).backward()
        idle = {n for n, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0}
        assert {n for n in idle if n.startswith(("g_a.", "g_s.", "log_gain."))} == set(), arch


def test_upsampling_starts_without_a_checkerboard() -> None:
    torch.manual_seed(0)
    up = CodecNet(replace(TINY, arch=ENHANCED)).g_s.head
    assert isinstance(up, Upsample)
    h = up(torch.randn(1, 4, 6, 6))
    assert torch.equal(h[:, :, ::2, ::2], h[:, :, 1::2, 1::2])


def test_attention_sees_every_position() -> None:
    torch.manual_seed(0)
    attention = Attention(12)
    x = torch.randn(1, 12, 5, 7, requires_grad=True)
    attention(x)[0, :, 0, 0].square().sum().backward()
    assert x.grad is not None
    assert (x.grad.abs().sum((0, 1)) > 0).all()


# Variational


def test_gains_of_a_variational_model_learn_from_divergence_and_distortion_alone() -> None:
    net = net_of(VARIATIONAL).train()
    x, quality = torch.rand(2, 3, 64, 64), torch.tensor([20.0, 80.0])
    out = net(x, quality)
    out.z_bits.sum().backward(retain_graph=True)
    encoder = [p for n, p in net.named_parameters() if n.startswith(("g_a.", "log_gain."))]
    assert all(p.grad is None or not p.grad.any() for p in encoder)
    out.y_bits.sum().backward(retain_graph=True)
    found, grad_of_a = net.log_gain.rows.grad, net.g_a.head.weight.grad
    assert found is not None
    net.zero_grad()
    # d/d(log gain) of sum (y^2 + v - ln v - 1) / (2 ln 2) with v = 1 / (12 gain^2): (1 - v) / ln 2 at each position
    rows = net.log_gain(quality)
    rows.backward((1 - torch.exp(-2 * rows.detach()) / 12) * 16 / math.log(2))
    assert torch.allclose(found, net.log_gain.rows.grad, rtol=1e-4)
    (net.g_a(x, quality).square().sum() / (2 * math.log(2))).backward()
    assert torch.allclose(grad_of_a, net.g_a.head.weight.grad, rtol=1e-3, atol=1e-3)
    net.zero_grad()
    (out.x_hat - x).square().mean().backward()
    assert net.log_gain.rows.grad is not None
    assert net.log_gain.rows.grad.abs().sum() > 0
    assert all(p.grad is None for n, p in net.named_parameters() if n.startswith(("h_a.", "mean_net.", "scale_net.")))


def test_bits_of_a_variational_model_are_the_entropy_models() -> None:
    net = net_of(VARIATIONAL).train()
    x, quality = torch.rand(2, 3, 64, 64), torch.tensor([20.0, 80.0])
    with torch.no_grad():
        out = net(x, quality)
        net.config = replace(net.config, arch=BASELINE)
        plain = net(x, quality)
    assert torch.allclose(out.y_bits, plain.y_bits, rtol=1e-3)  # the noise under the gradient cancels in the value
    assert torch.allclose(out.z_bits, plain.z_bits, rtol=1e-3)
    assert not torch.equal(out.x_hat, plain.x_hat)


# Training


@pytest.mark.parametrize("arch", CLASSIC)
def test_training_lowers_the_loss(arch: str, recipe: Recipe, tmp_path: Path) -> None:
    trainer = Trainer(replace(recipe, arch=arch, optimizer="muon", steps=60, warmup_steps=5), tmp_path)
    crops, means = Crops(load_pictures(Path(recipe.data), tmp_path / "cache", 64), "cpu", trainer.generator), []
    for _ in range(4):
        for _ in range(15):
            trainer.train_step(crops)
        means.append(trainer.take_means()["loss"])
    assert means[-1] < 0.9 * means[0]


def test_muon_gets_the_kernels_of_the_transforms_and_no_others_of_the_codec() -> None:
    kinds = {n: kind_of(n, p) for n, p in CodecNet(replace(TINY, arch=ENHANCED)).named_parameters()}
    assert kinds["g_a.stages.0.weight"] == kinds["g_s.head.conv.weight"] == MATRIX
    flat = FlatParameters(CodecNet(replace(TINY, arch=BASELINE)))
    assert (8, 27) in {tuple(m.shape) for m in flat.matrices()}  # g_a's first, [8, 3, 3, 3]
    own = CodecNet(TINY).named_parameters()
    assert {n for n, p in own if kind_of(n, p) == MATRIX and p.shape[2:] != (1, 1)} == set()


def test_statistics_are_averaged_with_the_weights_and_left_alone_by_optimizers(recipe: Recipe, tmp_path: Path) -> None:
    trainer = Trainer(replace(recipe, arch=BASELINE, optimizer="muon"), tmp_path)
    crops = Crops(load_pictures(Path(recipe.data), tmp_path / "cache", 64), "cpu", trainer.generator)
    name, module = "g_a.stages.0.1.running_mean", trainer.model.g_a.stages[0][1]
    average = module.running_mean.clone()
    for step in range(4):
        trainer.train_step(crops)
        average.lerp_(module.running_mean, 1 - min(recipe.ema, (2 + step) / (11 + step)))
    assert module.running_mean.abs().sum() > 0
    assert torch.allclose(trainer.averaged_model().state_dict()[name], average, rtol=1e-5, atol=1e-7)
    at = trainer.flat.of_kind(STATISTIC)
    assert at is not None
    assert not trainer.flat.gradients[at].any()


def test_encoder_alone_leaves_the_decoders_statistics(recipe: Recipe, trained: dict[str, Path], tmp_path: Path) -> None:
    trainer = Trainer(replace(recipe, init_from=str(trained[BASELINE]), encoder_only=True), tmp_path)
    before = {n: t.clone() for n, t in trainer.model.state_dict().items()}
    trainer.train_step(Crops(load_pictures(Path(recipe.data), tmp_path / "cache", 64), "cpu", trainer.generator))
    changed = {n.split(".")[0] for n, t in trainer.model.state_dict().items() if not torch.equal(t, before[n])}
    assert changed == {"g_a", "h_a"}


def test_resumed_run_of_batch_norms_equals_the_unbroken_one(recipe: Recipe, tmp_path: Path) -> None:
    recipe = replace(recipe, arch=BASELINE)
    store = load_pictures(Path(recipe.data), tmp_path / "cache", 64)
    first = Trainer(recipe, tmp_path)
    crops = Crops(store, "cpu", first.generator)
    for _ in range(3):
        first.train_step(crops)
    first.save()
    first.train_step(crops)
    second = Trainer(recipe, tmp_path)
    second.load()
    second.train_step(Crops(store, "cpu", second.generator))
    assert torch.equal(first.flat.values, second.flat.values)
    assert torch.equal(first.flat.average, second.flat.average)


def test_dropout_reaches_training_and_no_weights_file(recipe: Recipe, tmp_path: Path) -> None:
    trainer = Trainer(replace(recipe, arch=ENHANCED, dropout=0.3), tmp_path)
    blocks = [m for m in trainer.model.modules() if isinstance(m, ResidualBlock)]
    assert {b.dropout.p for b in blocks} == {0.3}
    with torch.no_grad():
        blocks[0].second.weight.normal_()
    h = torch.randn(1, blocks[0].first.in_channels, 8, 8)
    assert not torch.equal(blocks[0](h), blocks[0](h))
    assert {m.dropout.p for m in trainer.averaged_model().modules() if isinstance(m, ResidualBlock)} == {0.0}
    assert "dropout" not in trainer.model.config.to_dict()
    with pytest.raises(InputError, match="baseline has no dropout"):
        Trainer(replace(recipe, arch=BASELINE, dropout=0.3), tmp_path)


# Files


DECODE = """
import sys
from pathlib import Path
import numpy, torch
from nncodec import codec, weights
torch.set_num_threads(1)
for path in map(Path, sys.argv[1:]):
    model = weights.load(weights.describe(path.with_suffix(".safetensors")))
    numpy.save(path.with_suffix(".npy"), codec.decompress(path.read_bytes(), model=model).color)
"""


def test_a_fresh_process_decodes_the_same_pixels(trained: dict[str, Path], photo: np.ndarray) -> None:
    files = {}
    for arch, path in trained.items():
        model = weights.load(weights.describe(path))
        data = codec.compress(photo, 60, model)
        assert codec.compress(photo, 60, model) == data
        path.with_suffix(".aec").write_bytes(data)
        files[arch] = path.with_suffix(".npy"), codec.decompress(data, model=model).color
    streams = [str(path.with_suffix(".aec")) for path in trained.values()]
    subprocess.run([sys.executable, "-c", DECODE, *streams], check=True, timeout=100)
    for arch, (there, here) in files.items():
        assert here.shape == photo.shape
        assert np.array_equal(np.load(there), here), arch


@pytest.mark.parametrize("arch", CLASSIC)
def test_crops_tiles_and_grey_pictures_come_back(arch: str, trained: dict[str, Path], photo: np.ndarray) -> None:
    model = weights.load(weights.describe(trained[arch]))
    for effort in (0, 1):
        data = codec.compress(photo, 70, model, effort=effort, tile_log2=6)
        whole = codec.decompress(data, model=model).color
        part = codec.decompress(data, crop=(30, 50, 90, 70), model=model).color
        assert np.array_equal(part, whole[50:120, 30:120])
    if arch != ENHANCED:  # attention sees windows
        one = codec.decompress(data, model=model, window=64).color
        assert np.abs(one.astype(int) - whole).max() <= 1
    grey = codec.decompress(codec.compress(photo[..., 1], 70, model), model=model).color
    assert grey.shape == photo.shape[:2]


def test_statistics_of_batch_norms_survive_in_the_file(trained: dict[str, Path]) -> None:
    for arch in NORMED:
        stored = safetensors.torch.load_file(trained[arch])
        names = [n for n in stored if "running" in n]
        assert len(names) == 12
        state = weights.load(weights.describe(trained[arch])).net.state_dict()
        again = export.trainable(trained[arch])[0].state_dict()
        for name in names:
            assert torch.equal(stored[name], state[name])
            assert torch.equal(stored[name], again[name])
            assert not torch.equal(stored[name], torch.full_like(stored[name], float("var" in name)))


def test_what_needs_a_linear_path_is_refused_by_name(trained: dict[str, Path], photo: np.ndarray) -> None:
    model = weights.load(weights.describe(trained[BASELINE]))
    for effort in (2, 3):
        with pytest.raises(InputError, match=r"arch baseline have no linear path.*efforts above 1"):
            codec.compress(photo, 50, model, effort=effort)
    with pytest.raises(InputError, match=r"arch baseline.*--tune"):
        codec.compress(photo, 50, model, tune="ms-ssim")
    data = codec.compress(photo, 50, model)
    with pytest.raises(InputError, match=r"arch baseline.*previews"):
        codec.decompress(data, preview=4, model=model)


def test_command_line_refuses_effort_2_and_vectors(trained: dict[str, Path], folder: Path, tmp_path: Path) -> None:
    picture, model = str(folder / "0.png"), ["-m", str(trained[ENHANCED])]
    runner = CliRunner()
    for command in (
        ["compress", picture, "-o", str(tmp_path / "a.aec"), "--effort", "2"],
        ["embed", picture, "-o", str(tmp_path / "a.npz")],
    ):
        done = runner.invoke(main, [*command, *model])
        assert done.exit_code == 1
        assert "arch enhanced have no linear path" in done.output
        assert "Traceback" not in done.output


def test_the_codecs_own_arch_goes_without_saying() -> None:
    assert "arch" not in BASE.to_dict()
    for arch in ARCHS:
        config = SMALL28 if arch == DENSE else replace(TINY, arch=arch)
        assert ModelConfig.from_dict(config.to_dict()) == config
        assert (config.to_dict().get("arch", CODEC)) == arch
