"""``nncodec bench`` and ``nncodec compare``.

Knows options and the order of the work. Imports nothing heavy at the top: ``nncodec --help`` reads this file.
"""

from __future__ import annotations

import importlib.util
import math
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from nncodec.batch import say
from nncodec.errors import InputError

if TYPE_CHECKING:
    from nncodec.bench.codecs import Codec, Missing
    from nncodec.bench.measure import Source
    from nncodec.bench.results import Results
    from nncodec.bench.rows import Key, Row
    from nncodec.bench.speed import Sample
    from nncodec.metrics import Pixels

QUICK_PICTURES = 3
LOOK_PICTURES = 3
"""Pictures that are timed and shown as crops, unless --look names some."""


def _names(context: click.Context, parameter: click.Parameter, value: str | None) -> tuple[str, ...]:
    return tuple(name.strip() for name in value.split(",") if name.strip()) if value else ()


@click.command()
@click.argument("pictures", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("bench-results"),
    show_default=True,
    help="Folder for results.csv, results.json and the figures.",
)
@click.option(
    "--codecs",
    callback=_names,
    metavar="A,B,...",
    help="Which to run: nncodec, nncodec:MODEL, jpeg, jpeg2000, webp, jxl, heic, avif, avif-444. [default: all]",
)
@click.option(
    "--model",
    "models",
    callback=_names,
    metavar="A,B,...",
    help="nncodec's models, installed or .safetensors files. [default: all installed but those that denoise]",
)
@click.option(
    "--effort",
    "efforts",
    callback=_names,
    metavar="0,1,...",
    help="nncodec's efforts; each is a codec of its own. [default: the codec's default]",
)
@click.option("-j", "--jobs", type=click.IntRange(min=1), help="Processes. [default: one a core]")
@click.option("--threads", type=click.IntRange(min=1), help="Threads a codec may use when timed. [default: one a core]")
@click.option("--rounds", type=click.IntRange(min=5), default=5, show_default=True, help="Warm timings a codec.")
@click.option("--no-speed", is_flag=True, help="Take no times.")
@click.option("--quick", is_flag=True, help="Three pictures, four qualities, all but the slow avif-444: a first look.")
@click.option("--fresh", is_flag=True, help="Measure everything again. [default: reuse rows of results.csv]")
@click.option(
    "--reference",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="CSV of published curves; used where the pictures are Kodak's 24.",
)
@click.option("--anchor", help="Curve to rank against, by name. [default: VTM where published, else jpeg]")
@click.option(
    "--at",
    "at_bpp",
    type=click.FloatRange(0.02, 8),
    default=0.4,
    show_default=True,
    help="Bits per pixel at which codecs are timed and shown.",
)
@click.option("--look", callback=_names, metavar="A,B,...", help="Pictures to time and show. [default: three]")
@click.option("--report", type=click.Path(path_type=Path, file_okay=False),
              help="Folder for index.html, one page with everything.")  # fmt: skip
def bench(
    pictures: tuple[Path, ...], output: Path, codecs: tuple[str, ...], models: tuple[str, ...],
    efforts: tuple[str, ...], jobs: int | None, threads: int | None, rounds: int, no_speed: bool, quick: bool,
    fresh: bool, reference: Path | None, anchor: str | None, at_bpp: float, look: tuple[str, ...],
    report: Path | None,
) -> None:  # fmt: skip
    """Measure this codec and its rivals on PICTURES, files or folders.

    Rates are of whole files, distortion is of the decoded 8-bit RGB, times are warm medians. Codecs that
    cannot run here are named; where one was asked for by name, the exit status is 1. What was measured before into
    the same folder is not measured again.
    """
    for module in ("bjontegaard", "matplotlib"):
        if importlib.util.find_spec(module) is None:
            raise InputError(f"{module} is not installed; pip install 'nncodec[bench]'")
    from nncodec.bench import codecs as adapters
    from nncodec.bench import measure, speed, tables

    load = speed.load_average()  # before this program makes any itself
    bad = [effort for effort in efforts if not effort.isdecimal()]
    if bad:
        raise InputError(f"effort {bad[0]!r} is no whole number; give for example --effort 0,1")
    named = bool(codecs)
    paths = measure.find_pictures(pictures)
    paths = paths[:QUICK_PICTURES] if quick else paths
    if quick and not codecs:  # its encoder alone takes as long as all the others
        codecs = tuple(name for name in (adapters.OURS, *adapters.RIVALS) if name != "avif-444")
    chosen, missing = adapters.select(codecs, models, [int(effort) for effort in efforts])
    say(tables.text(tables.versions(chosen, missing)) + "\n")
    if not chosen:
        raise InputError("none of the codecs asked for can run here; see the list above")
    chosen_paths = _look(paths, look, 1 if quick else LOOK_PICTURES)
    if anchor:  # both before the measuring
        _check_anchor(anchor, _curve_names(paths, chosen, reference))
    output.mkdir(parents=True, exist_ok=True)
    rows, wanted = _rates(paths, chosen, output / "results.csv", jobs or speed.cores(), quick, fresh)
    samples = _samples(chosen_paths, chosen, rows, at_bpp) if report or not no_speed else []
    results = _results(rows, wanted, chosen, missing, reference, anchor)
    if not no_speed:
        results = _timed(results, samples, rounds, threads or speed.cores(), 1 if quick else 3, load)
    _write(results, output, reference)
    _tell(results)
    if report:
        _report(results, samples, at_bpp, report)
    if any(named or adapters.variant(codec.name) for codec in missing):  # of a default one it is enough to be told
        click.get_current_context().exit(1)


@click.command()
@click.argument("a", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.argument("b", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--diff", type=click.Path(path_type=Path, dir_okay=False), help="Write |A - B| times the gain here.")
@click.option("--gain", type=click.FloatRange(min=0, min_open=True), default=8.0, show_default=True)
@click.option("--force", is_flag=True, help="Overwrite the difference picture.")
def compare(a: Path, b: Path, diff: Path | None, gain: float, force: bool) -> None:
    """Say how close B is to A, pictures or .aec files.

    Alpha is laid over white; n/a stands where a picture is too small for a metric.
    """
    from nncodec import metrics
    from nncodec.bench import tables

    if not math.isfinite(gain):
        raise click.UsageError(f"--gain {gain}: give a number like 8")
    if diff is not None:
        _check_difference(diff, (a, b), force)
    first, second = _pixels(a), _pixels(b)
    if first.shape != second.shape:
        sizes = " and ".join(f"{x.shape[1]}x{x.shape[0]}" for x in (first, second))
        raise InputError(f"{a} and {b} are {sizes}; give two pictures of one size")
    close = metrics.closeness(first, second)
    db = metrics.similarity_db(close.ms_ssim)
    ms_ssim = tables.MISSING if close.ms_ssim != close.ms_ssim else f"{close.ms_ssim:.5f} ({db:.2f} dB)"
    ssim = tables.MISSING if close.ssim != close.ssim else f"{close.ssim:.5f}"
    click.echo(f"PSNR {close.psnr:.3f} dB  SSIM {ssim}  MS-SSIM {ms_ssim}  {first.shape[1]}x{first.shape[0]}")
    for path, pixels in ((a, first), (b, second)):
        size = path.stat().st_size
        say(f"{path}  {size} B  {metrics.bpp(size, pixels.shape[1], pixels.shape[0]):.3f} bpp")
    if diff is not None:
        _write_difference(first, second, gain, diff)
        say(f"{diff}  difference x {gain:g}")


def _rates(
    paths: Sequence[Path], chosen: Sequence[Codec], table: Path, jobs: int, quick: bool, fresh: bool
) -> tuple[list[Row], set[Key]]:
    """All rows of the table after measuring what lacks, and the keys this run consists of."""
    from nncodec.bench import measure
    from nncodec.bench import rows as stored

    if fresh:
        table.unlink(missing_ok=True)
    kept = stored.read(table)
    if kept:
        stored.write(table, kept)  # without a line that an interruption cut short
    tasks, wanted = measure.plan(paths, chosen, {row.key for row in kept}, quick)
    left = sum(len(task.qualities) for task in tasks)
    if len(wanted) > left:
        click.echo(f"{len(wanted) - left} of {len(wanted)} rows are in {table} already", err=True)
    with _bar(left, "rates") as progress:
        for new in measure.run(tasks, jobs, progress):
            stored.append(table, new)
    settings = {codec.name: codec.settings for codec in chosen}
    rows = [row for row in stored.read(table) if settings.get(row.codec, row.settings) == row.settings]
    stored.write(table, rows)  # sorted, and without rows of older versions of these codecs
    return rows, wanted


def _look(paths: Sequence[Path], names: Sequence[str], count: int) -> list[Path]:
    """Pictures called `names`, or `count` spread over all."""
    if names:
        found = [path for path in paths if path.stem in names or path.name in names]
        if not found:
            raise InputError(f"--look {','.join(names)} is none of the pictures; give names like {paths[0].stem}")
        return found
    count = min(count, len(paths))
    return [paths[(2 * i + 1) * len(paths) // (2 * count)] for i in range(count)]


def _curve_names(paths: Sequence[Path], chosen: Sequence[Codec], reference: Path | None) -> set[str]:
    """What the curves of a run will be called; those published only where the pictures can be Kodak's."""
    from nncodec.bench import summary

    names = {codec.name for codec in chosen}
    if reference and {path.stem for path in paths} == summary.KODAK:
        names |= {curve.name for curve in summary.published(reference)}
    return names


def _check_anchor(anchor: str, known: set[str]) -> None:
    if anchor not in known:
        raise InputError(f"--anchor {anchor!r} is no curve of this run; there are {', '.join(sorted(known)[:20])}")


def _samples(paths: Sequence[Path], chosen: Sequence[Codec], rows: Sequence[Row], target: float) -> list[Sample]:
    """A file of each codec near `target` bits per pixel for each picture."""
    from nncodec.bench import codecs, measure, speed

    samples = []
    with _bar(len(paths) * len(chosen), f"finding {target:g} bpp") as progress:
        for path in paths:
            source: Source = measure.load(path)
            for codec in chosen:
                known = {
                    row.quality: row.bpp
                    for row in rows
                    if (row.picture_sha256, row.codec) == (source.sha256, codec.name)
                }
                quality, data = codecs.nearest_rate(codec, source.picture, target, known)
                samples.append(speed.Sample(source, codec, quality, data))
                progress(1)
    return samples


def _results(
    rows: Sequence[Row], wanted: set[Key], chosen: Sequence[Codec], missing: Sequence[Missing],
    reference: Path | None, anchor: str | None,
) -> Results:  # fmt: skip
    from nncodec.bench import results, summary

    mine = [row for row in rows if row.key in wanted]
    curves = summary.measured(mine)
    published: list[summary.Curve] = []
    if reference and summary.is_kodak(mine):
        published = summary.published(reference)
    elif reference:
        click.echo("published curves are means over Kodak's 24 pictures, which this run is not: left out", err=True)
    if anchor:
        _check_anchor(anchor, {curve.name for curve in curves + published})
    anchors, standings = results.rank(curves, published, anchor)
    return results.Results(
        created=time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        command=shlex.join(["nncodec", *sys.argv[1:]]),
        pictures=tuple(sorted({row.picture_sha256: row.picture for row in mine}.values())),
        chosen=tuple(chosen),
        missing=tuple(missing),
        curves=tuple(curves),
        published=tuple(published),
        anchors=anchors,
        standings=tuple(standings),
        pairs=tuple(summary.pairs(curves + published)),
        speeds=(),
        conditions=None,
    )


def _timed(results: Results, samples: Sequence[Sample], rounds: int, threads: int, cold: int, load: float) -> Results:
    from dataclasses import replace

    from nncodec.bench import speed

    conditions = speed.conditions(samples, rounds, load)
    steps = (rounds + 1) * len(samples) + 2 * cold * len(results.chosen)
    with _bar(steps, "times") as progress:
        speeds = speed.run(samples, rounds, threads, cold, progress)
    return replace(results, speeds=tuple(speeds), conditions=conditions)


def _write(results: Results, folder: Path, reference: Path | None) -> None:
    from nncodec.bench import plots, summary
    from nncodec.bench import results as whole

    (folder / "results.json").write_text(whole.to_json(results), encoding="utf-8")
    subtitle = f"mean of {len(results.pictures)} pictures"
    if reference and results.published:
        names = {curve.name for curve in results.shown if curve.source}
        summary.copy_published(reference, folder / "reference.csv", names)
        subtitle += "; gray dashes: as published"
    curves = [standing.curve for standing in results.drawn]
    for metric in results.metrics:
        plots.write(plots.rate_distortion(curves, metric, subtitle), folder / f"rd_{metric.removesuffix('_db')}")
    if results.speeds:
        subtitle = f"BD-rate on {len(results.pictures)} pictures"
        figure = plots.trade(results.drawn, results.speeds, results.anchors["psnr"], subtitle)
        plots.write(figure, folder / "speed")
        if ladders := summary.ladders(results.curves):
            plots.write(plots.effort(ladders, results.speeds, subtitle), folder / "effort")


def _tell(results: Results) -> None:
    from nncodec.bench import tables

    say(tables.text(tables.ranking(results.standings, results.anchors)))
    for curve in results.ours:
        say("\n" + tables.text(tables.against(curve, results.pairs, results.shown)))
    if results.conditions:
        say("\n" + tables.text(tables.speed(results.speeds, results.conditions.baseline)))
        say(f"  {results.conditions.note}")
    for missing in results.missing:
        say(f"\nnot measured: {missing.name} ({missing.reason})")


def _report(results: Results, samples: Sequence[Sample], target: float, folder: Path) -> None:
    from nncodec.bench import report

    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "index.html"
    path.write_text(report.page(results, samples, target), encoding="utf-8")
    say(f"\n{path}  {path.stat().st_size / 1e6:.1f} MB")


def _pixels(path: Path) -> Pixels:
    """u8 [H,W,3] of a picture or an .aec file."""
    from nncodec.bench import measure

    if path.suffix.lower() != ".aec":
        return measure.load(path).pixels
    import nncodec

    return measure.flatten(nncodec.decompress(path.read_bytes()).to_pil(), path)


def _check_difference(path: Path, inputs: Sequence[Path], force: bool) -> None:
    """Raises InputError where no picture can be written to `path`, or none may."""
    from nncodec import atomic, picture

    if path.exists() and any(path.samefile(given) for given in inputs):
        raise InputError(f"{path} is one of the pictures compared; choose another name")
    atomic.check(path, force)
    picture.file_kind(path.suffix)


def _write_difference(a: Pixels, b: Pixels, gain: float, path: Path) -> None:
    import numpy as np

    from nncodec.picture import Picture

    difference = np.abs(a.astype(np.int16) - b) * gain
    Picture(np.clip(np.rint(difference), 0, 255).astype(np.uint8)).save(path)


@contextmanager
def _bar(total: int, what: str) -> Iterator[Callable[[int], object]]:
    """Progress on stderr; silent where there is nothing to do."""
    from tqdm import tqdm

    with tqdm(total=total, desc=what, file=sys.stderr, disable=total == 0, leave=False) as bar:
        yield bar.update
