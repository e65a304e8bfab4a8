"""``nncodec info``, ``verify`` and ``models``: what files and weights say of themselves. No network runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from nncodec import container
from nncodec.batch import say, spaced
from nncodec.config import SIZES
from nncodec.errors import InputError, NncodecError
from nncodec.inputs import named, read_bytes, shortened


@click.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path, allow_dash=True))
@click.option("--json", "as_json", is_flag=True, help="One JSON object a file.")
def info(files: tuple[Path, ...], as_json: bool) -> None:
    """Say what .aec files hold, from their headers alone."""
    from nncodec import weights

    names = {model_id: found.name for model_id, found in weights.by_id(weights.survey()[0]).items()}

    def one(path: Path) -> str:
        data = read_bytes(path)
        header, entries = named(path, lambda: container.parse_header(data, container.SIDE_MAX**2))
        facts: dict[str, Any] = {
            "file": str(path),
            "version": container.VERSION,
            "width": header.width,
            "height": header.height,
            "color": header.color.name.lower(),
            "bit_depth": header.bit_depth,
            "quality": header.quality,
            "model": header.model_id.hex(),
            "model_name": names.get(header.model_id),
            "tile": 1 << header.tile_log2,
            "tiles": header.tiles,
            "bytes": len(data),
            "bpp": 8 * len(data) / (header.width * header.height),
            "sections": [
                {
                    "name": container.section_name(entries, i),
                    "offset": e.offset,
                    "bytes": e.length,
                    "crc32": f"{e.crc:08x}",
                }
                for i, e in enumerate(entries)
            ],
        }
        if as_json:
            return json.dumps(facts)
        kinds = dict.fromkeys(s["name"].split()[0] for s in facts["sections"])
        extras = [name for name in kinds if name != "tile"]
        known = facts["model_name"] or "not installed"
        return "\n".join(
            [
                f"{path}",
                f"  picture   {header.width}x{header.height} {facts['color']}, {header.bit_depth} bits a sample",
                f"  quality   {header.quality}",
                f"  size      {spaced(len(data))} B, {facts['bpp']:.3f} bpp",
                f"  model     {facts['model']} ({known})",
                f"  tiles     {header.tiles} of {facts['tile']}x{facts['tile']}",
                f"  carries   {', '.join(extras) if extras else 'nothing besides pixels'}",
            ]
        )

    _all(files, one)


@click.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path, allow_dash=True))
def verify(files: tuple[Path, ...]) -> None:
    """Check every CRC of .aec files without decoding them."""

    def one(path: Path) -> str:
        data = read_bytes(path)
        _, entries = named(path, lambda: container.parse_header(data, container.SIDE_MAX**2))
        damaged = []
        for i in range(len(entries)):
            try:
                container.payload(data, entries, i)
            except NncodecError as error:
                damaged.append(str(error))
        if damaged:
            raise InputError(f"{path}: " + "; ".join(shortened(damaged)))
        return f"{path}: ok, {len(entries)} sections, {spaced(len(data))} B"

    _all(files, one)


@click.command()
@click.option("--kmac", is_flag=True, help="Count multiply-accumulates a pixel of each part (loads torch).")
def models(kmac: bool) -> None:
    """List the installed weights; of several with one name -m takes the first."""
    from nncodec import weights

    found, unusable = weights.survey()
    for error in unusable.values():
        click.echo(f"nncodec: warning: {error}", err=True)
    for d in found:
        size = spaced(d.path.stat().st_size)
        say(f"{d.name:9} {d.id.hex()}  {'noise' if d.noise else d.tune:7}  {size} B  {d.path}")
    if not found:
        raise InputError("no weights are installed; set NNCODEC_WEIGHTS to a folder that has some")
    if kmac:
        from nncodec.nets.complexity import kmac_per_pixel

        for title, configs in (("", [(d.name, d.config) for d in found]), (", sizes to train", SIZES.items())):
            click.echo(f"\nkMAC/pixel{title}")
            for name, config in configs:
                parts = "  ".join(f"{part} {value:.2f}" for part, value in kmac_per_pixel(config).items())
                say(f"{name:9} {parts}")


def _all(files: tuple[Path, ...], one: Callable[[Path], str]) -> None:
    """Print `one` of every file; a failing file does not stop the rest, the exit status says so."""
    failed = False
    for path in files:
        try:
            say(one(path))
        except NncodecError as error:
            if click.get_current_context().find_root().params.get("debug"):
                raise
            failed = True
            click.echo(f"nncodec: error: {error}", err=True)
    if failed:
        click.get_current_context().exit(1)
