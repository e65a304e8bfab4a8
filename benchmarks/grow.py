"""Weights to go on from: ``python benchmarks/grow.py FROM OUT FIELD=NUMBER ...``, or ``FROM OUT --encoder OTHER``.

With fields of the model's config, as ``encoder_depth8=8``, networks get blocks that start as identities: OUT encodes
and decodes as FROM does. With ``--encoder`` g_a and h_a are those of another weights file, where it has fewer blocks
with identities behind them, and all that a decoder reads stays the same to the byte: how the encoder of `denoise`
follows a decoder that was trained on. (A checkpoint becomes a weights file by ``nncodec export``.)
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from nncodec import weights
from nncodec.nets.model import CodecNet
from nncodec.train import export


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("fields", nargs="*")
    parser.add_argument("--encoder", type=Path)
    options = parser.parse_args()
    if bool(options.fields) == bool(options.encoder):
        parser.error("give fields of the config or --encoder, one of the two")
    net, tables = export.trainable(options.source)
    facts = {"recipe": f"grown from {options.source.name}"}
    torch.manual_seed(0)
    if options.encoder:
        grown = CodecNet(net.config)
        _take(grown, export.trainable(options.encoder)[0], weights.ENCODER_ONLY)
        export.write_encoder(grown, options.encoder.stem, options.source, options.out, facts)
    else:
        numbers: dict[str, Any] = {name: int(number) for name, number in (f.split("=") for f in options.fields)}
        grown = CodecNet(replace(net.config, **numbers))
        _take(grown, net, ("",))
        export.write(grown, options.source.stem, tables, options.out, facts)


def _take(into: CodecNet, source: CodecNet, prefixes: tuple[str, ...]) -> None:
    """Parameters of `source` whose names begin so."""
    state = {name: value for name, value in source.state_dict().items() if name.startswith(prefixes)}
    unknown = into.load_state_dict(state, strict=False).unexpected_keys
    if unknown:
        raise SystemExit(f"{unknown[0]} has no place in a network of this size; give the fields that make it larger")


if __name__ == "__main__":
    main()
