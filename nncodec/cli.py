"""The command line: nncodec compress, decompress, denoise, and the commands of other modules (`_LAZY`).

One result line a file on stdout, progress and errors on stderr. Exit status 0: all well; 1: an input
failed, the rest went on; 2: usage; 130: interrupted. torch loads only where a network runs.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from importlib import import_module
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar

import click

from nncodec import __version__, container, memory, options, weights
from nncodec.config import QUALITIES, TUNES
from nncodec.errors import CorruptError, NncodecError
from nncodec.inputs import named, read_bytes, read_stdin, shortened
from nncodec.options import PICTURE, Command, Files, Number, files, option

if TYPE_CHECKING:
    from nncodec.batch.jobs import Job, Plan, Shard
    from nncodec.batch.manifest import Settings
    from nncodec.batch.run import Work

T = TypeVar("T")
_LAZY = {
    "anomaly": "nncodec.analysis.command",
    "bench": "nncodec.bench.command",
    "compare": "nncodec.bench.command",
    "embed": "nncodec.analysis.command",
    "similar": "nncodec.analysis.command",
    "train": "nncodec.train.command",
    "tune": "nncodec.train.tune",
    "export": "nncodec.train.command",
    "info": "nncodec.facts",
    "models": "nncodec.facts",
    "verify": "nncodec.facts",
}


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
        except KeyboardInterrupt as stop:
            click.echo(f"nncodec: {stop if str(stop) else 'interrupted'}", err=True)
            ctx.exit(130)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="nncodec")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def main(debug: bool) -> None:
    """A learned image codec whose files decode anywhere, exactly, and tell when they are damaged."""
    # Before torch loads OpenMP: threads that spin long while they wait make a busy machine 6 times slower.
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")
    memory.keep()


def _parse_crop(_: click.Context, __: click.Parameter, text: str | None) -> tuple[int, int, int, int] | None:
    if text is None:
        return None
    try:
        x, y, width, height = map(int, text.split(","))
    except ValueError:
        raise click.BadParameter(f"{text!r} is not X,Y,W,H in pixels, such as 100,50,640,480") from None
    return x, y, width, height


_max_pixels = option("--max-pixels", section=PICTURE, metavar="N", type=click.IntRange(1), default=container.PIXELS_MAX,
                     help=f"Refuse larger pictures. [default: {container.PIXELS_MAX}]")  # fmt: skip


@main.command(
    cls=Command,
    examples="""\
nncodec compress photo.jpg                        photo.aec beside it
nncodec compress photo.jpg --target-size 200k
nncodec compress -r photos/ -o packed/ -j 4       a whole tree, four at a time
nncodec compress -r photos/ -o packed/ --manifest packed.jsonl
                                                  again after a crash: goes on where it was
cat photo.png | nncodec compress - > photo.aec""",
)
@files
@option("-q", "--quality", section=PICTURE, metavar="Q", type=click.IntRange(1, QUALITIES),
        help="1 smallest, 100 best. [default: 50]")  # fmt: skip
@option("--target-size", section=PICTURE, metavar="BYTES", help="At most so many a picture: 50000, 200k, 1.5M.")
@option("--target-bpp", section=PICTURE, metavar="BPP", type=Number(), help="At most so many bits a pixel.")
@option("--target-psnr", section=PICTURE, metavar="DB", type=Number(), help="At least so many dB.")
@option("--target-ssim", section=PICTURE, metavar="S", type=Number(1, max_open=True), help="At least this SSIM.")
@option("-e", "--effort", section=PICTURE, metavar="0-3", type=click.IntRange(0, 3), default=1,
        help="Time for bytes: 0 rounds, 1 weighs bits against error, 2 and 3 refine (PSNR). [default: 1]")  # fmt: skip
@option("--tune", section=PICTURE, type=click.Choice(TUNES),
        help="What errors are counted by. [default: what the model was trained for]")  # fmt: skip
@option("-m", "--model", section=PICTURE, metavar="NAME",
        help="Installed weights or a .safetensors file. [default: fast; for ms-ssim fast-ssim]")  # fmt: skip
@option("--denoise", section=PICTURE, is_flag=True,
        help="Leave white noise out: the file holds the clean picture.")  # fmt: skip
@option("--strip", section=PICTURE, metavar="LIST", default="",
        help="Leave out icc, exif, xmp (with commas between) or all.")  # fmt: skip
@_max_pixels
@option("--verify", section=PICTURE, is_flag=True, help="Decode what was written; print its PSNR.")
@options.device
@options.threads
def compress(
    files: Files,
    quality: int | None,
    target_size: str | None,
    target_bpp: float | None,
    target_psnr: float | None,
    target_ssim: float | None,
    effort: int,
    tune: str | None,
    model: str | None,
    denoise: bool,
    verify: bool,
    strip: str,
    max_pixels: int,
    device: str | None,
    threads: int | None,
) -> None:
    """Compress pictures into .aec files.

    INPUTS are pictures, patterns such as 'a*.png', folders (with -r), or - for stdin. photo.png becomes
    photo.aec beside it unless -o names another file or a folder; folders are mirrored into that folder.
    A file is written whole or not at all. Exit status: 0 all well, 1 a file failed (the rest went on),
    2 wrong usage, 130 interrupted.
    """
    from nncodec.batch import jobs, run

    targets = (target_size, target_bpp, target_psnr, target_ssim)
    if sum(option is not None for option in (quality, *targets)) > 1:
        raise click.UsageError("give only one of --quality and the --target options")
    if denoise and (target_psnr or target_ssim or verify):
        raise click.UsageError("--denoise goes without --target-psnr, --target-ssim and --verify: the input is noisy")
    size = None if target_size is None else _bytes(target_size)
    if not any(targets):
        quality = quality or 50
    plan = _plan(files, jobs.AEC, jobs.PICTURES)
    from nncodec import codec, denoising, picture, rate, rows  # after all that usage errors need: torch takes seconds

    options.set_threads(threads, files.jobs)
    found = weights.find(model or (weights.DENOISE if denoise else None), tune=tune)
    loaded = codec.load_model(found.path, device)
    if denoise:
        denoising.check(loaded)

    left_out = picture.to_strip(part.strip().lower() for part in strip.split(",") if part.strip())

    def encode(image: rows.Rows, known: picture.Picture | None, progress: run.Progress) -> bytes:
        if known is None or not any(targets):
            return codec.compress(
                image,
                quality or 50,
                loaded,
                effort=effort,
                tune=tune,
                strip=left_out,
                max_pixels=max_pixels,
                progress=progress,
            )
        if target_psnr is not None:
            return rate.to_psnr(known, target_psnr, loaded, effort, tune, progress, max_pixels).data
        if target_ssim is not None:
            return rate.to_ssim(known, target_ssim, loaded, effort, tune, progress, max_pixels).data
        limit = size or int((target_bpp or 0) * known.width * known.height / 8)
        return rate.to_size(known, limit, loaded, effort, tune, progress, max_pixels).data

    def one(job: Job, file: IO[bytes], progress: run.Progress) -> run.Facts:
        with rows.opened(read_stdin() if job.source == jobs.DASH else job.source, max_pixels) as image:
            of = picture.stripped(image.outline, left_out)
            # Several tries and a comparison want the picture whole; otherwise it passes through in bands.
            whole = verify or quality is None
            known = rows.gathered(of, [image.rows(0, of.height)]) if whole else None
            data = named(job.source, lambda: encode(image, known, progress))
        file.write(data)
        psnr = (
            named(job.source, lambda: rate.measured_psnr(file, known, loaded, max_pixels)) if verify and known else None
        )
        return run.Facts(of.width, of.height, len(data), psnr, remarks=tuple(image.remarks))

    settings: Settings = {
        "model": loaded.name,
        "weights": _digest(found, files),
        "effort": effort,
        "tune": tune or loaded.tune,
        "quality": quality,
        "target_size": size,
        "target_bpp": target_bpp,
        "target_psnr": target_psnr,
        "target_ssim": target_ssim,
        "strip": ",".join(sorted(left_out)) or None,
        "denoise": denoise or None,
    }
    _run(files, plan, one, {name: value for name, value in settings.items() if value is not None})


@main.command(
    cls=Command,
    examples="""\
nncodec decompress photo.aec                      photo.png beside it
nncodec decompress photo.aec -o photo.webp
nncodec decompress -r packed/ -o photos/ -j 4     a whole tree, four at a time""",
)
@files
@option("--crop", section=PICTURE, callback=_parse_crop, metavar="X,Y,W,H", help="Only this part of the picture.")
@option("--preview", section=PICTURE, is_flag=False, flag_value="8", type=click.Choice(["2", "4", "8", "16", "32"]),
        help="A picture so many times smaller, in a third of the time. [8 if no number is given]")  # fmt: skip
@option("--partial", section=PICTURE, is_flag=True,
        help="Of a damaged file, write what is intact; say what is not and exit with 1.")  # fmt: skip
@_max_pixels
@options.device
@options.threads
def decompress(
    files: Files,
    crop: tuple[int, int, int, int] | None,
    preview: str | None,
    partial: bool,
    max_pixels: int,
    device: str | None,
    threads: int | None,
) -> None:
    """Decompress .aec files into pictures (.png unless -o says otherwise).

    INPUTS are .aec files, patterns such as 'a*.aec', folders (with -r), or - for stdin; folders are
    mirrored into the folder -o. A file is written whole or not at all. Exit status: 0 all well, 1 a file
    failed (the rest went on), 2 wrong usage, 130 interrupted.
    """
    from nncodec.batch import jobs, run

    plan = _plan(files, ".png", {jobs.AEC})
    from nncodec import codec, rows  # after all that usage errors need: torch takes seconds

    options.set_threads(threads, files.jobs)
    smaller = int(preview) if preview else None

    def decode(job: Job, file: IO[bytes], data: bytes, progress: run.Progress) -> run.Facts:
        suffix = ".png" if job.target == jobs.DASH else job.target.suffix
        if not partial:
            of = codec.decompress_to(
                file, suffix, data, crop=crop, preview=smaller, device=device, max_pixels=max_pixels, progress=progress
            )
            header, _ = container.parse_header(data, max_pixels)
            return run.Facts(of.width, of.height, len(data), pixels=header.width * header.height)
        image = codec.decompress(
            data, crop=crop, preview=smaller, device=device, max_pixels=max_pixels, progress=progress, partial=True
        )
        of = rows.save(file, suffix, image.outline, [image])
        if not image.damage:
            return run.Facts(of.width, of.height, len(data))
        lost = sum(damage.area is not None for damage in image.damage)
        error = f"{job.source}: damaged, {lost} tiles lost; what is intact was written to {job.target}"
        remarks = shortened(image.damage_report())
        return run.Facts(of.width, of.height, len(data), remarks=remarks, error=error)

    def one(job: Job, file: IO[bytes], progress: run.Progress) -> run.Facts:
        data = read_bytes(job.source)
        try:
            return decode(job, file, data, progress)
        except CorruptError as error:
            hint = "; --partial decodes the rest" if not partial and container.is_salvageable(data) else ""
            raise CorruptError(f"{job.source}: {error}{hint}") from None
        except NncodecError as error:
            raise type(error)(f"{job.source}: {error}") from None

    settings: Settings = {
        "crop": ",".join(map(str, crop)) if crop else None,
        "preview": smaller,
        "partial": partial or None,
    }
    _run(files, plan, one, {name: value for name, value in settings.items() if value is not None})


@main.command(
    cls=Command,
    examples="""\
nncodec denoise night.png                         night-denoised.png beside it
nncodec denoise -r photos/ -o clean/ -j 2         a whole tree
nncodec compress night.png --denoise              a file that holds the clean picture""",
)
@files
@option("-m", "--model", section=PICTURE, metavar="NAME", default=weights.DENOISE,
        help="Weights that were trained with noise, or a .safetensors file. [default: denoise]")  # fmt: skip
@_max_pixels
@options.device
@options.threads
def denoise(files: Files, model: str, max_pixels: int, device: str | None, threads: int | None) -> None:
    """Take white noise off pictures (.png unless -o says otherwise).

    INPUTS are pictures, patterns such as 'a*.png', folders (with -r), or - for stdin. photo.png becomes
    photo-denoised.png beside it unless -o names another file or a folder. Exit status as for compress.
    """
    from nncodec.batch import jobs, run

    plan = _plan(files, "-denoised.png", jobs.PICTURES)
    from nncodec import codec, denoising, rows  # after all that usage errors need: torch takes seconds

    options.set_threads(threads, files.jobs)
    found = weights.find(model)
    loaded = codec.load_model(found.path, device)

    def one(job: Job, file: IO[bytes], progress: run.Progress) -> run.Facts:
        suffix = ".png" if job.target == jobs.DASH else job.target.suffix
        with rows.opened(read_stdin() if job.source == jobs.DASH else job.source, max_pixels) as image:
            bands = denoising.bands(loaded, image, progress)
            of = named(job.source, lambda: rows.save(file, suffix, image.outline, bands))
        return run.Facts(of.width, of.height, file.tell(), remarks=tuple(image.remarks))

    _run(files, plan, one, {"model": loaded.name, "weights": _digest(found, files), "denoise": True})


def _plan(files: Files, suffix: str, wanted: Collection[str]) -> Plan:
    from nncodec.batch import jobs

    output = Path(files.output) if files.output else None
    try:
        _shard(files)
        return jobs.plan(
            files.inputs,
            output,
            suffix,
            wanted,
            into_folder=bool(files.output) and str(files.output).endswith(("/", os.sep)),
            recursive=files.recursive,
            keep_suffix=files.keep_suffix,
        )
    except jobs.PlanError as error:
        raise click.UsageError(str(error)) from None


def _shard(files: Files) -> Shard | None:
    from nncodec.batch import jobs

    return jobs.shard(files.shard) if files.shard else None


def _run(files: Files, plan: Plan, work: Work, settings: Settings) -> None:
    """Do `plan` as the file options say; exit with 1 if a file failed."""
    from nncodec.batch import run

    context = click.get_current_context()
    chosen = run.Options(
        workers=files.jobs,
        overwrite=files.force,
        skip_existing=files.skip_existing,
        manifest=files.manifest,
        shard=_shard(files),
        settings=settings,
        debug=bool(context.find_root().params.get("debug")),
    )
    if not run.run(plan, work, chosen):
        context.exit(1)


def _digest(found: weights.Description, files: Files) -> str | None:
    """What tells weights apart in a manifest; without one their file need not be read once more."""
    return weights.fingerprint(found) if files.manifest else None


def _bytes(text: str) -> int:
    unit = {"k": 1000, "M": 1_000_000}.get(text[-1:], 1)
    try:
        value = int(float(text[:-1] if unit > 1 else text) * unit)
    except (ValueError, OverflowError):
        value = 0
    if value <= 0:
        raise click.UsageError(f"--target-size {text!r}: write 50000, 200k or 1.5M")
    return value
