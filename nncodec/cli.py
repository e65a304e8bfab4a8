"""The command line: nncodec compress, decompress, info, verify, models, train, export, bench, compare.

One result line a file on stdout, progress and errors on stderr. Exit status 0: all well; 1: an input
failed, the rest went on; 2: usage; 130: interrupted. torch loads only where a network runs.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import IO, Any, BinaryIO, TypeVar

import click

from nncodec import __version__, container
from nncodec.config import QUALITIES, SIZES
from nncodec.errors import CorruptError, InputError, NncodecError

SUFFIX = ".aec"
T = TypeVar("T")
_LAZY = {"bench": "nncodec.bench.command", "compare": "nncodec.bench.command"}


class Commands(click.Group):
    """A group whose heavier commands are imported only when asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted([*super().list_commands(ctx), *_LAZY])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in _LAZY:
            command: click.Command = getattr(import_module(_LAZY[cmd_name]), cmd_name)
            return command
        return super().get_command(ctx, cmd_name)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except NncodecError as error:
            if ctx.params.get("debug"):
                raise
            click.echo(f"nncodec: error: {error}", err=True)
            ctx.exit(1)
        except KeyboardInterrupt:
            click.echo("nncodec: interrupted", err=True)
            ctx.exit(130)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="nncodec")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def main(debug: bool) -> None:
    """A learned image codec whose files decode anywhere, exactly, and tell when they are damaged."""
    # Before torch loads OpenMP: threads that spin long while they wait make a busy machine 6 times slower.
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")


def _parse_crop(_: click.Context, __: click.Parameter, text: str | None) -> tuple[int, int, int, int] | None:
    if text is None:
        return None
    try:
        x, y, width, height = map(int, text.split(","))
    except ValueError:
        raise click.BadParameter(f"{text!r} is not X,Y,W,H in pixels, such as 100,50,640,480") from None
    return x, y, width, height


_output = click.option("-o", "--output", type=click.Path(path_type=Path), help="File, folder, or - for stdout.")
_force = click.option("-f", "--force", is_flag=True, help="Overwrite files that exist.")
_device = click.option("--device", help="cpu, cuda, cuda:1, ... [default: CUDA if there is one]")
_threads = click.option("--threads", type=click.IntRange(1), help="CPU threads. [default: torch's choice]")
_max_pixels = click.option("--max-pixels", type=click.IntRange(1), default=container.PIXELS_MAX, show_default=True,
                           help="Refuse larger pictures.")  # fmt: skip
_inputs = click.argument("inputs", nargs=-1, required=True, type=click.Path(path_type=Path, allow_dash=True))


@main.command()
@_inputs
@_output
@click.option("-q", "--quality", type=click.IntRange(1, QUALITIES), help="1 smallest, 100 best. [default: 50]")
@click.option("--target-size", help="At most so many bytes a picture: 50000, 200k, 1.5M.")
@click.option("--target-bpp", type=click.FloatRange(0, min_open=True), help="At most so many bits a pixel.")
@click.option("--target-psnr", type=click.FloatRange(0, min_open=True), help="At least so many dB.")
@click.option("-e", "--effort", type=click.IntRange(0, 1), default=1, show_default=True,
              help="0 rounds, 1 weighs bits against error.")  # fmt: skip
@click.option("-m", "--model", help="Installed weights or a .safetensors file. [default: fast]")
@click.option("--strip", default="", metavar="LIST", help="Leave out icc, exif, xmp (with commas between) or all.")
@_max_pixels
@_device
@_threads
@_force
def compress(
    inputs: tuple[Path, ...],
    output: Path | None,
    quality: int | None,
    target_size: str | None,
    target_bpp: float | None,
    target_psnr: float | None,
    effort: int,
    model: str | None,
    strip: str,
    max_pixels: int,
    device: str | None,
    threads: int | None,
    force: bool,
) -> None:
    """Compress pictures into .aec files.

    photo.png becomes photo.aec beside it unless -o names another file or a folder.
    """
    from nncodec import codec, picture, rate, rows

    if sum(option is not None for option in (quality, target_size, target_bpp, target_psnr)) > 1:
        raise click.UsageError("give only one of --quality, --target-size, --target-bpp and --target-psnr")
    size = _bytes(target_size) if target_size else None
    left_out = picture.to_strip(part.strip().lower() for part in strip.split(",") if part.strip())
    _set_threads(threads)

    def encode(image: rows.Rows, progress: Callable[[int, int], None]) -> bytes:
        loaded = codec.load_model(model, device)
        if target_psnr is None and size is None and target_bpp is None:
            return codec.compress(
                image, quality or 50, loaded, effort=effort, strip=left_out, max_pixels=max_pixels, progress=progress
            )
        of = picture.stripped(image.outline, left_out)  # several tries: the picture is held whole
        known = rows.gathered(of, [image.rows(0, of.height)])
        if target_psnr is not None:
            return rate.to_psnr(known, target_psnr, loaded, effort).data
        limit = size or int((target_bpp or 0) * of.width * of.height / 8)
        return rate.to_size(known, limit, loaded, effort).data

    def one(source: Path, target: Path) -> str:
        begin = time.perf_counter()
        with rows.opened(_read_stdin() if _is_dash(source) else source, max_pixels) as image:
            for remark in image.remarks:
                click.echo(f"nncodec: warning: {source}: {remark}", err=True)
            of = image.outline
            with _tiles_bar(source) as progress:
                data = _named(source, lambda: encode(image, progress))
        _write(target, data, force)
        return _line(source, target, of.width, of.height, len(data), 8 * len(data) / (of.width * of.height), begin)

    _each(inputs, output, SUFFIX, force, one)


@main.command()
@_inputs
@_output
@click.option("--crop", callback=_parse_crop, metavar="X,Y,W,H", help="Only this part of the picture.")
@click.option("--preview", is_flag=False, flag_value="8", type=click.Choice(["2", "4", "8", "16", "32"]),
              help="A picture so many times smaller, in a third of the time. [8 if no number is given]")  # fmt: skip
@click.option("--partial", is_flag=True,
              help="Of a damaged file, write what is intact; say what is not and exit with 1.")  # fmt: skip
@_max_pixels
@_device
@_threads
@_force
def decompress(
    inputs: tuple[Path, ...],
    output: Path | None,
    crop: tuple[int, int, int, int] | None,
    preview: str | None,
    partial: bool,
    max_pixels: int,
    device: str | None,
    threads: int | None,
    force: bool,
) -> None:
    """Decompress .aec files into pictures (.png unless -o says otherwise)."""
    from nncodec import codec, picture

    _set_threads(threads)
    smaller = int(preview) if preview else None

    def one(source: Path, target: Path) -> str:
        begin = time.perf_counter()
        data = _read_bytes(source)
        suffix = ".png" if _is_dash(target) else target.suffix

        damage: list[picture.Damage] = []
        lines: list[str] = []

        def write(file: BinaryIO) -> picture.Outline:
            with _tiles_bar(source) as progress:
                if not partial:
                    return codec.decompress_to(
                        file, suffix, data, crop=crop, preview=smaller, device=device, max_pixels=max_pixels,
                        progress=progress,
                    )  # fmt: skip
                image = codec.decompress(
                    data, crop=crop, preview=smaller, device=device, max_pixels=max_pixels, progress=progress,
                    partial=True,
                )  # fmt: skip
            damage.extend(image.damage)
            lines.extend(image.damage_report())
            file.write(picture.encode_file(image, suffix))
            return image.outline

        def decode(file: BinaryIO) -> picture.Outline:
            try:
                return write(file)
            except CorruptError as error:
                if not partial and container.is_salvageable(data):
                    raise CorruptError(f"{error}; --partial decodes the rest") from None
                raise

        if _is_dash(target):
            of = _named(source, lambda: decode(sys.stdout.buffer))
            sys.stdout.buffer.flush()
        else:
            with picture.replacing(target) as file:
                of = _named(source, lambda: decode(file))
        if damage:
            _report(source, lines)
            lost = sum(d.area is not None for d in damage)
            raise CorruptError(f"{source}: damaged, {lost} tiles lost; what is intact was written to {target}")
        header, _ = container.parse_header(data, max_pixels)
        return _line(
            source, target, of.width, of.height, len(data), 8 * len(data) / (header.width * header.height), begin
        )

    _each(inputs, output, ".png", force, one)


@main.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path, allow_dash=True))
@click.option("--json", "as_json", is_flag=True, help="One JSON object a file.")
def info(files: tuple[Path, ...], as_json: bool) -> None:
    """Say what .aec files hold, from their headers alone."""
    from nncodec import weights

    names = {d.id: d.name for d in weights.descriptions()}

    def one(path: Path) -> str:
        data = _read_bytes(path)
        header, entries = _named(path, lambda: container.parse_header(data, container.SIDE_MAX**2))
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
                f"  size      {_spaced(len(data))} B, {facts['bpp']:.3f} bpp",
                f"  model     {facts['model']} ({known})",
                f"  tiles     {header.tiles} of {facts['tile']}x{facts['tile']}",
                f"  carries   {', '.join(extras) if extras else 'nothing besides pixels'}",
            ]
        )

    _all(files, one)


@main.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path, allow_dash=True))
def verify(files: tuple[Path, ...]) -> None:
    """Check every CRC of .aec files without decoding them."""

    def one(path: Path) -> str:
        data = _read_bytes(path)
        _, entries = _named(path, lambda: container.parse_header(data, container.SIDE_MAX**2))
        damaged = []
        for i in range(len(entries)):
            try:
                container.payload(data, entries, i)
            except NncodecError as error:
                damaged.append(str(error))
        if damaged:
            more = f"; and {len(damaged) - 8} more" if len(damaged) > 8 else ""
            raise InputError(f"{path}: " + "; ".join(damaged[:8]) + more)
        return f"{path}: ok, {len(entries)} sections, {_spaced(len(data))} B"

    _all(files, one)


@main.command()
@click.option("--kmac", is_flag=True, help="Count multiply-accumulates a pixel of each part (loads torch).")
def models(kmac: bool) -> None:
    """List the installed weights."""
    from nncodec import weights

    found = weights.descriptions()
    for d in found:
        click.echo(f"{d.name:8} {d.id.hex()}  {_spaced(d.path.stat().st_size)} B  {d.path}")
    if not found:
        raise InputError("no weights are installed; set NNCODEC_WEIGHTS to a folder that has some")
    if kmac:
        from nncodec.nets.complexity import kmac_per_pixel

        configs = {d.name: d.config for d in found} | {n: c for n, c in SIZES.items() if n != "tiny"}
        click.echo("\nkMAC/pixel")
        for name, config in configs.items():
            parts = kmac_per_pixel(config)
            click.echo(f"{name:8} " + "  ".join(f"{part} {value:.2f}" for part, value in parts.items()))


@main.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="Run folder.")
@click.option("--val", "validation", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--size", type=click.Choice(sorted(SIZES)), default="fast", show_default=True)
@click.option("--time-limit", help="Train for this long: 90s, 10m, 8h. Anneals to zero inside it.")
@click.option("--steps", type=click.IntRange(1), help="Train for this many steps instead.")
@click.option("--batch", type=click.IntRange(1), default=12, show_default=True, help="Crops a step and process.")
@click.option("--crop", type=click.IntRange(64), default=128, show_default=True)
@click.option("--late-crop", type=click.IntRange(64), default=256, show_default=True, help="Crop of the last 40 %.")
@click.option("--lr", type=click.FloatRange(0, min_open=True), default=1e-3, show_default=True)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--bf16/--no-bf16", default=True, show_default=True, help="bfloat16 convolutions.")
@click.option("--init-from", type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="Start from these weights (.safetensors) instead of from theory; --size is theirs.")  # fmt: skip
@click.option("--decoder-only", is_flag=True,
              help="Train only the decoder of these weights, on what the default effort makes of latents.")  # fmt: skip
@click.option("--resume", is_flag=True, help="Go on from the run folder's checkpoint.")
@_device
@_threads
def train(
    folder: Path,
    output: Path,
    validation: Path | None,
    size: str,
    time_limit: str | None,
    steps: int | None,
    batch: int,
    crop: int,
    late_crop: int,
    lr: float,
    seed: int,
    bf16: bool,
    init_from: Path | None,
    decoder_only: bool,
    resume: bool,
    device: str | None,
    threads: int | None,
) -> None:
    """Train a model on a folder of pictures; export it with `nncodec export`.

    Under `torchrun --nproc-per-node N -m nncodec train ...` it uses N processes.
    """
    from nncodec.train import loop

    if (time_limit is None) == (steps is None):
        raise click.UsageError("give either --time-limit or --steps")
    _set_threads(threads)
    recipe = loop.Recipe(
        data=str(folder),
        validation=str(validation) if validation else None,
        size=size,
        seed=seed,
        learning_rate=lr,
        batch=batch,
        crop=crop,
        late_crop=late_crop,
        steps=steps,
        seconds=_seconds(time_limit) if time_limit else None,
        bfloat16=bf16,
        init_from=str(init_from) if init_from else None,
        decoder_only=decoder_only,
        device=device or "cpu",
    )
    loop.run(recipe, output, resume, click.echo)


@main.command()
@click.argument("run", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="The .safetensors to write.")
@click.option("--data", type=click.Path(exists=True, file_okay=False, path_type=Path),
              help="Training pictures to fit the tables to. [default: the run's own]")  # fmt: skip
@click.option("--tables", type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="Take the tables from these weights instead (after --decoder-only).")  # fmt: skip
@click.option("--pictures", type=click.IntRange(1), default=64, show_default=True, help="How many of them.")
@_force
def export(run: Path, output: Path, data: Path | None, tables: Path | None, pictures: int, force: bool) -> None:
    """Turn a run folder's checkpoint into a weights file: integer scale net, fitted tables."""
    from nncodec.train import export as exporter
    from nncodec.train.data import load_pictures

    if output.exists() and not force:
        raise InputError(f"{output}: exists; add --force to overwrite it")
    recipe = json.loads((run / "recipe.json").read_text())
    side = max(recipe["crop"], recipe["late_crop"])
    store = load_pictures(data or Path(recipe["data"]), run / "cache", side)
    identity = exporter.export(run / "checkpoint.pt", output.stem, store, output, pictures, tables)
    click.echo(f"{output}  {_spaced(output.stat().st_size)} B  model {identity.hex()}")


def _seconds(text: str) -> float:
    unit = {"s": 1.0, "m": 60.0, "h": 3600.0}.get(text[-1:], 0.0)
    try:
        value = float(text[:-1]) * unit
    except ValueError:
        value = 0.0
    if value <= 0:
        raise click.UsageError(f"--time-limit {text!r}: write 90s, 10m or 8h")
    return value


def _bytes(text: str) -> int:
    unit = {"k": 1000, "M": 1_000_000}.get(text[-1:], 1)
    try:
        value = int(float(text[:-1] if unit > 1 else text) * unit)
    except ValueError:
        value = 0
    if value <= 0:
        raise click.UsageError(f"--target-size {text!r}: write 50000, 200k or 1.5M")
    return value


def _set_threads(threads: int | None) -> None:
    if threads:
        import torch

        torch.set_num_threads(threads)


def _is_dash(path: Path) -> bool:
    return str(path) == "-"


def _read_stdin() -> bytes:
    return sys.stdin.buffer.read()


def _read_bytes(path: Path) -> bytes:
    if _is_dash(path):
        return _read_stdin()
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None


def _named(path: Path, action: Callable[[], T]) -> T:
    """Run `action`; its errors gain the file's name and keep their type."""
    try:
        return action()
    except NncodecError as error:
        raise type(error)(f"{path}: {error}") from None


def _report(source: Path, lines: list[str], most: int = 8) -> None:
    """Warnings about one file on stderr, not more than fit a screen."""
    for line in lines[:most]:
        click.echo(f"nncodec: warning: {source}: {line}", err=True)
    if len(lines) > most:
        click.echo(f"nncodec: warning: {source}: and {len(lines) - most} more", err=True)


def _write(target: Path, data: bytes, force: bool) -> None:
    if _is_dash(target):
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
        return
    from nncodec.picture import write_atomically

    if target.exists() and not force:
        raise InputError(f"{target}: exists; add --force to overwrite it")
    write_atomically(target, data)


def _target(source: Path, output: Path | None, suffix: str, several: bool) -> Path:
    if output is None:
        if _is_dash(source):
            return Path("-")
        return source.with_suffix(suffix)
    if _is_dash(output) or not (output.is_dir() or several or str(output).endswith(os.sep)):
        return output
    output.mkdir(parents=True, exist_ok=True)
    return output / (("stdin" if _is_dash(source) else source.stem) + suffix)


def _each(
    inputs: tuple[Path, ...], output: Path | None, suffix: str, force: bool, one: Callable[[Path, Path], str]
) -> None:
    """Run `one` for every input with its target; refuse clashes before any work."""
    if len(inputs) > 1 and output is not None and _is_dash(output):
        raise click.UsageError("-o - takes one input")
    if len(inputs) > 1 and output is not None and output.is_file():
        raise click.UsageError(f"-o {output} is a file; several inputs need a folder")
    targets = {source: _target(source, output, suffix, len(inputs) > 1) for source in inputs}
    clash = [t for t in targets.values() if list(targets.values()).count(t) > 1]
    if clash:
        raise click.UsageError(f"several inputs would be written to {clash[0]}")

    def run(source: Path) -> str:
        target = targets[source]
        if not _is_dash(target):
            if source.exists() and target.exists() and target.samefile(source):
                raise InputError(f"{target}: is the input itself; choose another output")
            if target.exists() and not force:
                raise InputError(f"{target}: exists; add --force to overwrite it")
        return one(source, target)

    stream = sys.stderr if any(_is_dash(t) for t in targets.values()) else sys.stdout
    _all(tuple(targets), run, stream)


def _all(files: tuple[Path, ...], one: Callable[[Path], str], stream: IO[str] | None = None) -> None:
    """Print `one` of every file; a failing file does not stop the rest, the exit status says so."""
    failed = False
    for path in files:
        try:
            print(one(path), file=stream or sys.stdout)
        except NncodecError as error:
            if click.get_current_context().find_root().params.get("debug"):
                raise
            failed = True
            click.echo(f"nncodec: error: {error}", err=True)
    if failed:
        click.get_current_context().exit(1)


class _tiles_bar:
    """A progress bar on stderr for pictures of several tiles, on terminals only."""

    def __init__(self, path: Path) -> None:
        self._name = path.name
        self._bar: Any = None

    def __enter__(self) -> Callable[[int, int], None]:
        return self._step

    def _step(self, done: int, total: int) -> None:
        if total > 1 and self._bar is None and sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(total=total, desc=self._name, unit="tile", file=sys.stderr, leave=False)
        if self._bar is not None:
            self._bar.update(done - self._bar.n)

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()


def _spaced(count: int) -> str:
    return f"{count:,}".replace(",", " ")


def _line(source: Path, target: Path, width: int, height: int, size: int, bpp: float, begin: float) -> str:
    seconds = time.perf_counter() - begin
    return f"{source} -> {target}  {width}x{height}  {_spaced(size)} B  {bpp:.3f} bpp  {seconds:.2f} s"
