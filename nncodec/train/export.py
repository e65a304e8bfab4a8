"""Checkpoint -> shippable weights: scale net to integers, tables fitted to residuals, one file.

Every number a decoder's symbols depend on is an integer when this is done.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from nncodec import encoding, freqs, tiling, weights
from nncodec.config import CODEC, ModelConfig
from nncodec.effort import prices
from nncodec.entropy import EntropyModel
from nncodec.errors import InputError
from nncodec.intnet import IntScaleNet, ScaleTensors
from nncodec.nets.model import CodecNet, placed
from nncodec.nets.twin import from_integers, snap, to_integers
from nncodec.rangecoder import CodingTables
from nncodec.tiling import Rect
from nncodec.train.data import PictureStore
from nncodec.weights import Model

Z_AROUND = "scale_net.z_around"
"""What checkpoints of before 2026-11-30 lack."""
FIT_QUALITIES = (1, 8, 15, 25, 35, 45, 55, 65, 75, 85, 93, 100)


def gaussian_tables() -> freqs.Tables:
    """Tables before any residual was seen."""
    return freqs.fit(np.zeros((freqs.ROWS, freqs.REACH_MAX + 2), np.int64))


def build(net: CodecNet, tables: freqs.Tables) -> dict[str, Tensor]:
    """All tensors of a weights file."""
    state = {n: t.detach().cpu() for n, t in net.state_dict().items()}
    tensors = {n: _stored(n, t) for n, t in state.items() if not n.startswith("scale_net.")}
    integers = to_integers(snap(net.scale_net.cpu(), net.config))
    tensors |= {f"scale.{n}": t for n, t in integers.to_dict().items()}
    tensors["tables.reach"] = torch.from_numpy(tables.reach)
    tensors["tables.half"] = torch.from_numpy(tables.half)
    return tensors


def fit_tables(net: CodecNet, store: PictureStore, pictures: int = 32, seconds: float | None = None) -> freqs.Tables:
    """Tables fitted to the residuals of `pictures` pictures, or of as many as `seconds` allow (at least two).

    Without pictures, those of Gaussians: 3 % more bits, and no time.
    """
    tables = gaussian_tables()
    if not pictures:
        return tables
    tensors = build(net.cpu(), tables)
    # Twice: what the default effort chooses depends on the tables it is then to be fitted to.
    for share in (0.25, 1.0):
        model = _assemble(tensors, net.config, tables)
        end = math.inf if seconds is None else time.perf_counter() + 0.8 * share * seconds
        tables = freqs.fit(_histograms(model, store, math.ceil(share * pictures), end))
    return tables


def write(net: CodecNet, name: str, tables: freqs.Tables, out: Path, facts: Mapping[str, str]) -> bytes:
    """Write a weights file with `facts` (recipe, data, license) in its metadata; returns its model id."""
    return weights.save(build(net, tables), name, net.config, out, facts)


def write_encoder(net: CodecNet, name: str, decoder: Path, out: Path, facts: Mapping[str, str]) -> bytes:
    """Write g_a and h_a of `net` with the decoder of the weights file `decoder`, whose model id it keeps."""
    tensors = safetensors.torch.load_file(decoder)
    state = {n: t.detach().cpu() for n, t in net.state_dict().items()}
    tensors |= {n: _stored(n, t) for n, t in state.items() if n.startswith(weights.ENCODER_ONLY)}
    return weights.save(tensors, name, net.config, out, facts)


def _stored(name: str, value: Tensor) -> Tensor:
    """Matrices in half precision; vectors and quality tables, which are small, in single."""
    single = value.dim() < 2 or name.endswith(".rows")
    return value.float() if single else value.half()


def _assemble(tensors: dict[str, Tensor], config: ModelConfig, tables: freqs.Tables) -> Model:
    net = CodecNet(config)
    del net.scale_net
    net.load_state_dict({n: tensors[n].float() for n in net.state_dict()})
    net = placed(net, "cpu").eval().requires_grad_(False)
    scale = {n.removeprefix("scale."): t for n, t in tensors.items() if n.startswith("scale.")}
    integers = IntScaleNet(ScaleTensors.from_dict(scale, config))
    return Model("", bytes(8), config, net, EntropyModel(integers, tables, CodingTables(tables)))


def _histograms(model: Model, store: PictureStore, pictures: int, end: float) -> NDArray[np.int64]:
    """Counts [ROWS, REACH_MAX + 2] of |residual| by row over pictures and FIT_QUALITIES, up to the time `end`."""
    width = freqs.REACH_MAX + 2
    counts = np.zeros(freqs.ROWS * width, np.int64)
    count = min(pictures, len(store))
    price = prices(model.entropy.tables)
    # Pictures in an order that leaves an even sample wherever time ends it.
    order = np.random.default_rng(0).permutation(count)
    for done, i in enumerate(tqdm(order, desc="fit tables", file=sys.stderr, mininterval=2)):
        if done >= 2 and time.perf_counter() > end:
            break
        color = store.picture(int(i) * len(store) // count)
        if not model.config.side:
            color = color[: min(color.shape[0], 512) // 64 * 64, : min(color.shape[1], 512) // 64 * 64]
        for quality in FIT_QUALITIES:
            y = encoding.analyze(model, color, Rect(0, 0, *map(tiling.padded, color.shape[:2])), quality)
            _, symbols = encoding.encode_tile(model, y, quality, price)
            for residuals, index in model.entropy.walk(symbols, quality):
                magnitude = np.minimum(np.abs(residuals), width - 1)
                counts += np.bincount((index.astype(np.int64) * width + magnitude).reshape(-1), minlength=len(counts))
    return counts.reshape(freqs.ROWS, width)


def trainable(path: Path, block_knots: int = 0) -> tuple[CodecNet, freqs.Tables]:
    """The networks of a shipped weights file, scale net and all, to be trained on, and its tables.

    Where the file's blocks know nothing of quality they get `block_knots`, which start as nothing. Raises
    ModelMismatchError.
    """
    description = weights.describe(path)
    model = weights.load(description)
    config = description.config
    if config.arch == CODEC and not config.block_knots:
        config = replace(config, block_knots=block_knots)
    flat = safetensors.torch.load_file(path)
    scale = {n.removeprefix("scale."): t for n, t in flat.items() if n.startswith("scale.")}
    net = CodecNet(config)
    net.scale_net = from_integers(ScaleTensors.from_dict(scale, config), config)
    rest = net.load_state_dict(model.net.state_dict(), strict=False)
    assert all(name.startswith("scale_net.") or "by_quality" in name for name in rest.missing_keys)
    return net, model.entropy.tables


def load_checkpoint(path: Path) -> tuple[CodecNet, freqs.Tables | None]:
    """The averaged model of a training checkpoint and its tables, if it has got so far. Raises InputError."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError) as error:
        raise InputError(f"{path}: not a readable checkpoint ({error})") from None
    net = CodecNet(ModelConfig.from_dict(state["config"]))
    net.load_state_dict({Z_AROUND: torch.zeros_like(net.scale_net.z_around), **state["ema"]})
    tables = state["tables"] and freqs.Tables.stored(*(t.numpy() for t in state["tables"]))
    return net.eval().requires_grad_(False), tables
