"""Fixtures: a seeded tiny model that makes every path cheap, and where the shared pictures lie."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from nncodec import weights
from nncodec.config import TINY, ModelConfig
from nncodec.nets.model import CodecNet
from nncodec.train import export
from nncodec.weights import Model

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared"
SLOW = os.environ.get("NNCODEC_SLOW") == "1"
"""Whether tests that sample take all there is: minutes instead of seconds."""
GOLDEN = Path(__file__).parent / "golden" / "v1"

# Two threads on a busy two-core machine wait for each other far longer than they compute.
torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    reasons = {
        "shared": None if (SHARED / "data" / "kodak").is_dir() else "../shared is absent",
        "weights": None if (ROOT / "weights" / "fast.safetensors").is_file() else "no shipped weights",
        "gpu": None if torch.cuda.is_available() else "no CUDA device",
    }
    for item in items:
        for marker, reason in reasons.items():
            if reason and marker in item.keywords:
                item.add_marker(pytest.mark.skip(reason=reason))


def seeded_net(seed: int = 0, config: ModelConfig = TINY) -> CodecNet:
    """A tiny network in which nothing is left at its zero start, so that every path matters."""
    torch.manual_seed(seed)
    net = CodecNet(config).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if ".linear." not in name and name != "log_gain.rows":
                size = 0.05 if parameter.dim() > 1 else 0.02
                parameter += size * torch.randn(parameter.shape, generator=generator)
    return net


@pytest.fixture(scope="session")
def tiny_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    net = seeded_net()
    path = folder / "tiny.safetensors"
    weights.save(export.build(net, export.gaussian_tables()), "tiny", TINY, path)
    os.environ["NNCODEC_WEIGHTS"] = str(folder)
    return path


@pytest.fixture(scope="session")
def tiny(tiny_path: Path) -> Model:
    return weights.load(weights.describe(tiny_path))


@pytest.fixture(scope="session")
def photo() -> np.ndarray:
    """u8 [160, 208, 3]: smooth areas, edges and texture."""
    rng = np.random.default_rng(7)
    y, x = np.mgrid[0:160, 0:208]
    planes = [128 + 90 * np.sin(x / (17 + 9 * c)) * np.cos(y / (23 - 5 * c)) for c in range(3)]
    picture = np.stack(planes, axis=-1) + 12 * rng.standard_normal((160, 208, 3))
    picture[40:90, 60:120] = (200, 40, 90)
    return picture.clip(0, 255).astype(np.uint8)
