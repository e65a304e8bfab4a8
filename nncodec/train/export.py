"""Checkpoint -> shippable weights: scale net to integers, tables fitted to residuals, one file.

Every number a decoder's symbols depend on is an integer when this is done.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from nncodec import codec, freqs, weights
from nncodec.config import PASSES, ModelConfig
from nncodec.effort import prices
from nncodec.entropy import EntropyModel, take
from nncodec.errors import InputError
from nncodec.intnet import IntScaleNet, ScaleTensors
from nncodec.nets.model import CodecNet, placed
from nncodec.nets.twin import from_integers, snap, to_integers
from nncodec.rangecoder import CodingTables
from nncodec.tiling import Rect
from nncodec.train.data import PictureStore
from nncodec.weights import Model

FIT_QUALITIES = (1, 8, 15, 25, 35, 45, 55, 65, 75, 85, 93, 100)


def gaussian_tables() -> freqs.Tables:
    """Tables before any residual was seen."""
    return freqs.fit(np.zeros((freqs.ROWS, freqs.REACH_MAX + 2), np.int64))


def build(net: CodecNet, name: str, store: PictureStore | None, pictures: int = 64) -> dict[str, Tensor]:
    """All tensors of a weights file, tables fitted to `pictures` pictures of `store` (if given)."""
    state = {n: t.detach().cpu() for n, t in net.state_dict().items()}
    tensors = {n: _stored(n, t) for n, t in state.items() if not n.startswith("scale_net.")}
    integers = to_integers(snap(net.scale_net.cpu(), net.config))
    tensors |= {f"scale.{n}": t for n, t in integers.to_dict().items()}
    tables = gaussian_tables()
    if store is not None:
        # Twice: what the default effort chooses depends on the tables it is then to be fitted to.
        for share in (4, 1):
            model = _assemble(tensors, name, net.config, integers, tables)
            tables = freqs.fit(_histograms(model, store, -(-pictures // share)))
    tensors["tables.reach"] = torch.from_numpy(tables.reach)
    tensors["tables.half"] = torch.from_numpy(tables.half)
    return tensors


def _stored(name: str, value: Tensor) -> Tensor:
    """Matrices in half precision; vectors and quality tables, which are small, in single."""
    single = value.dim() < 2 or name.endswith(".rows")
    return value.float() if single else value.half()


def _assemble(
    tensors: dict[str, Tensor], name: str, config: ModelConfig, integers: ScaleTensors, tables: freqs.Tables
) -> Model:
    net = CodecNet(config)
    del net.scale_net
    net.load_state_dict({n: tensors[n].float() for n in net.state_dict()})
    net = placed(net, "cpu").eval().requires_grad_(False)
    return Model(name, bytes(8), config, net, EntropyModel(IntScaleNet(integers), tables, CodingTables(tables)))


def _histograms(model: Model, store: PictureStore, pictures: int) -> NDArray[np.int64]:
    """Counts [64, REACH_MAX + 2] of |residual| by scale index over pictures and FIT_QUALITIES."""
    width = freqs.REACH_MAX + 2
    counts = np.zeros(freqs.ROWS * width, np.int64)
    count = min(pictures, len(store))
    price = prices(model.entropy.tables)
    for i in tqdm(range(count), desc="fit tables", file=sys.stderr, mininterval=2):
        color = store.picture(i * len(store) // count)
        color = color[: min(color.shape[0], 512) // 64 * 64, : min(color.shape[1], 512) // 64 * 64]
        for quality in FIT_QUALITIES:
            y = codec.analyze(model, color, Rect(0, 0, *color.shape[:2]), quality)
            _, symbols = codec.encode_tile(model, y, quality, price)
            passes = model.entropy.passes(symbols.z_hat, quality)
            index = next(passes)
            for k in range(PASSES):
                residuals = take(symbols.r_hat, k)
                magnitude = np.minimum(np.abs(residuals), width - 1)
                counts += np.bincount((index.astype(np.int64) * width + magnitude).reshape(-1), minlength=len(counts))
                try:
                    index = passes.send(residuals)
                except StopIteration:
                    break
    return counts.reshape(freqs.ROWS, width)


def trainable(path: Path) -> CodecNet:
    """The networks of a shipped weights file, scale net and all, to be trained on. Raises ModelMismatchError."""
    description = weights.describe(path)
    model = weights.load(description)
    flat = safetensors.torch.load_file(path)
    scale = {n.removeprefix("scale."): t for n, t in flat.items() if n.startswith("scale.")}
    net = CodecNet(description.config)
    net.scale_net = from_integers(ScaleTensors.from_dict(scale, description.config), description.config)
    rest = net.load_state_dict(model.net.state_dict(), strict=False)
    assert all(name.startswith("scale_net.") for name in rest.missing_keys)
    return net


def load_checkpoint(path: Path) -> CodecNet:
    """The averaged model of a training checkpoint. Raises InputError."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError) as error:
        raise InputError(f"{path}: not a readable checkpoint ({error})") from None
    net = CodecNet(ModelConfig.from_dict(state["config"]))
    net.load_state_dict(state["ema"])
    return net.eval()


def export(
    checkpoint: Path, name: str, store: PictureStore, out: Path, pictures: int, tables: Path | None = None
) -> bytes:
    """Write the weights file of a checkpoint; returns its model id.

    With `tables`, a weights file of the same encoder and entropy model, its tables are taken over.
    """
    net = load_checkpoint(checkpoint)
    tensors = build(net, name, None if tables else store, pictures)
    if tables:
        fitted = safetensors.torch.load_file(tables)
        tensors |= {n: t for n, t in fitted.items() if n.startswith("tables.")}
    return weights.save(tensors, name, net.config, out)
