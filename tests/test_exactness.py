"""The same file decodes to the same symbols whatever the machine, threads, kernels or means."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from reference_decoder import decode_symbols as reference_symbols
from reference_decoder import read_weights

from nncodec import codec, container, effort, encoding, weights
from nncodec.container import SectionType
from nncodec.intnet import bounds
from nncodec.weights import Model

ROOT = Path(__file__).resolve().parent.parent

DIGEST = """
import hashlib, sys, torch
if len(sys.argv) > 3: torch.backends.mkldnn.enabled = sys.argv[3] != "off"
if len(sys.argv) > 4: torch.set_num_threads(int(sys.argv[4]))
from pathlib import Path
from nncodec import codec, container, weights
model = weights.load(weights.describe(Path(sys.argv[1])))
header, sections = container.parse(Path(sys.argv[2]).read_bytes())
streams = [s.payload for s in sections if s.type is container.SectionType.TILE]
digest = hashlib.sha256()
for _, symbols in codec.decode_symbols(model, header, streams):
    digest.update(symbols.z_hat.tobytes() + symbols.r_hat.tobytes())
print(digest.hexdigest(), torch.backends.cpu.get_cpu_capability())
"""


def symbols_of(model: Model, data: bytes) -> list:
    header, sections = container.parse(data)
    streams = [s.payload for s in sections if s.type is SectionType.TILE]
    return [symbols for _, symbols in codec.decode_symbols(model, header, streams)]


def digest_of(model: Model, data: bytes) -> str:
    digest = hashlib.sha256()
    for symbols in symbols_of(model, data):
        digest.update(symbols.z_hat.tobytes() + symbols.r_hat.tobytes())
    return digest.hexdigest()


@pytest.fixture(scope="module")
def file(tiny: Model, photo: np.ndarray) -> bytes:
    return codec.compress(photo, 70, tiny, tile_log2=7)


VARIANTS = {
    "one thread": ({}, ["on", "1"]),
    "two threads": ({}, ["on", "2"]),
    "three threads, without oneDNN": ({}, ["off", "3"]),
    "oneDNN at SSE4.1": ({"ONEDNN_MAX_CPU_ISA": "SSE41"}, ["on", "1"]),
    "oneDNN at AVX2": ({"ONEDNN_MAX_CPU_ISA": "AVX2"}, ["on", "2"]),
    "ATen without vectors": ({"ATEN_CPU_CAPABILITY": "default"}, ["on", "1"]),
    "ATen at AVX2": ({"ATEN_CPU_CAPABILITY": "avx2"}, ["on", "2"]),
    "oneDNN may use bfloat16": ({"ONEDNN_DEFAULT_FPMATH_MODE": "BF16"}, ["on", "1"]),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_symbols_do_not_depend_on(name: str, tiny: Model, tiny_path: Path, file: bytes, tmp_path: Path) -> None:
    changes, arguments = VARIANTS[name]
    path = tmp_path / "file.aec"
    path.write_bytes(file)
    environment = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"} | changes
    command = [sys.executable, "-c", DIGEST, str(tiny_path), str(path), *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.split()[0] == digest_of(tiny, file)


@pytest.mark.weights
@pytest.mark.parametrize("name", ["three threads, without oneDNN", "ATen without vectors"])
def test_shipped_symbols_do_not_depend_on(name: str, photo: np.ndarray, tmp_path: Path) -> None:
    path = ROOT / "weights" / "fast.safetensors"
    model = weights.load(weights.describe(path))
    data = codec.compress(photo, 60, model)
    (tmp_path / "file.aec").write_bytes(data)
    changes, arguments = VARIANTS[name]
    command = [sys.executable, "-c", DIGEST, str(path), str(tmp_path / "file.aec"), *arguments]
    done = subprocess.run(command, env=os.environ | changes, capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.split()[0] == digest_of(model, data)


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
@pytest.mark.parametrize("hidden", [False, True])
def test_file_decodes_to_what_the_encoder_coded(
    tiny: Model, photo: np.ndarray, dtype: torch.dtype | None, hidden: bool
) -> None:
    price = effort.prices(tiny.entropy.tables) if hidden else None
    coded = []
    with torch.autocast("cpu", dtype=dtype or torch.bfloat16, enabled=dtype is not None):
        header_rects = codec.tiles(container.Header(photo.shape[1], photo.shape[0], 70, tiny.id, tile_log2=7))
        for tile in header_rects:
            stream, symbols = encoding.encode_tile(tiny, encoding.analyze(tiny, photo, tile, 70).float(), 70, price)
            coded.append((tile, stream, symbols))
    for tile, stream, symbols in coded:
        found = tiny.entropy.decode(stream, 70, tile.height // 16, tile.width // 16, hidden=hidden)
        assert (found.z_hat == symbols.z_hat).all()
        assert (found.r_hat == symbols.r_hat).all()
        assert (found.r_hat != 0).any()


def test_bfloat16_and_float32_encoders_differ(tiny: Model, photo: np.ndarray) -> None:
    """So that the test above is about two different encoders."""
    tile = codec.tiles(container.Header(photo.shape[1], photo.shape[0], 70, tiny.id))[0]
    exact = encoding.analyze(tiny, photo, tile, 70)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = encoding.analyze(tiny, photo, tile, 70)
    assert not torch.equal(exact, rough.float())


def test_perturbed_means_change_no_symbol(
    tiny: Model, photo: np.ndarray, file: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, picture = symbols_of(tiny, file), codec.decompress(file, model=tiny).color
    net = tiny.net.mean_net
    original = net.means
    calls = []

    def perturbed(features, context, quality, k):
        means = original(features, context, quality, k)
        calls.append(k)
        step = 1 / tiny.net.gain(quality)
        return means + 1e-4 * step * torch.where(torch.rand_like(means) < 0.5, -1.0, 1.0)

    monkeypatch.setattr(net, "means", perturbed)
    after, other = symbols_of(tiny, file), codec.decompress(file, model=tiny).color
    assert calls == [0, 1, 2, 3] * len(before)
    for a, b in zip(before, after, strict=True):
        assert (a.z_hat == b.z_hat).all()
        assert (a.r_hat == b.r_hat).all()
    assert np.abs(picture.astype(int) - other).max() <= 1


@pytest.mark.parametrize("grey", [False, True])
def test_independent_decoder_reads_a_file(tiny: Model, tiny_path: Path, photo: np.ndarray, grey: bool) -> None:
    part = photo[:100, :150]
    data = codec.compress(part[..., 1] if grey else part, 60, tiny, tile_log2=6)
    tensors, _ = read_weights(tiny_path)
    found = reference_symbols(data, tensors)
    expected = symbols_of(tiny, data)
    assert len(found) == 6
    for (z_hat, r_hat, taps), symbols in zip(found, expected, strict=True):
        assert (z_hat == symbols.z_hat).all()
        assert (r_hat == symbols.r_hat).all()
        assert (taps == symbols.taps).all()
    assert any(s.taps.any() for s in expected)
    assert any((s.r_hat != 0).any() for s in expected)


@pytest.mark.weights
def test_independent_decoder_reads_a_real_tile(photo: np.ndarray) -> None:
    path = ROOT / "weights" / "fast.safetensors"
    model = weights.load(weights.describe(path))
    data = codec.compress(photo[:128, :128], 30, model)
    tensors, _ = read_weights(path)
    (z_hat, r_hat, taps), symbols = reference_symbols(data, tensors)[0], symbols_of(model, data)[0]
    assert (z_hat == symbols.z_hat).all()
    assert (r_hat == symbols.r_hat).all()
    assert (taps == symbols.taps).all()
    assert taps.any()


@pytest.mark.weights
def test_shipped_scale_net_stays_far_inside_the_exact_range() -> None:
    description = weights.describe(ROOT / "weights" / "fast.safetensors")
    from safetensors.torch import load_file

    from nncodec.intnet import ScaleTensors

    flat = {n.removeprefix("scale."): t for n, t in load_file(description.path).items() if n.startswith("scale.")}
    found = bounds(ScaleTensors.from_dict(flat, description.config))
    for name, (worst, limit) in found.items():
        assert worst < limit, f"{name}: {worst} against {limit}"
    assert max(w for n, (w, _) in found.items() if "depthwise" not in n) < 1 << 45


@pytest.mark.gpu
def test_cuda_decodes_what_the_cpu_wrote_and_the_reverse(tiny_path: Path, tiny: Model, photo: np.ndarray) -> None:
    cuda = weights.load(weights.describe(tiny_path), "cuda")
    for writer, reader in ((tiny, cuda), (cuda, tiny)):
        data = codec.compress(photo, 70, writer)
        for a, b in zip(symbols_of(writer, data), symbols_of(reader, data), strict=True):
            assert (a.r_hat == b.r_hat).all()
        here, there = codec.decompress(data, model=writer).color, codec.decompress(data, model=reader).color
        assert np.abs(here.astype(int) - there).max() <= 1
