"""``nncodec embed``, ``nncodec similar`` and ``nncodec anomaly``.

Knows options and what is printed. Imports nothing heavy at the top: ``nncodec --help`` reads this file.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from nncodec import atomic, options
from nncodec.batch import jobs, printable
from nncodec.config import QUALITIES
from nncodec.errors import InputError, NncodecError
from nncodec.options import FILES, PICTURE, Command, option

if TYPE_CHECKING:
    from nncodec.weights import Model

T = TypeVar("T")
_POOLS = ("all", "moments")
_inputs = click.argument("inputs", nargs=-1, required=True, type=click.Path(path_type=Path))
_model = option(
    "-m", "--model", section=PICTURE, metavar="NAME", help="Installed weights or a .safetensors file. [default: fast]"
)
_force = option("-f", "--force", section=FILES, is_flag=True, help="Overwrite a file that exists.")
_json = option("--json", "as_json", section=FILES, is_flag=True, help="One JSON object a line.")


def _output(what: str) -> Callable[[Any], Any]:
    kind = click.Path(path_type=Path, dir_okay=False)
    return option("-o", "--output", section=FILES, metavar="PATH", required=True, type=kind, help=what)


@click.command(
    cls=Command,
    examples="""\
nncodec embed photos/ -o photos.npz               a folder with all below it
nncodec embed packed/*.aec -o packed.parquet      straight from .aec files; needs pyarrow
nncodec similar photo.jpg photos.npz              the ten most like it""",
)
@_inputs
@_output("Index to write: .npz, or .parquet (needs pyarrow).")
@option("--pool", section=PICTURE, type=click.Choice(_POOLS), default="all",
        help="moments: of blocks, wherever they are; all: where they are as well. [default: all]")  # fmt: skip
@_model
@_force
@_json
@options.device
@options.threads
def embed(
    inputs: tuple[Path, ...], output: Path, pool: str, model: str | None, force: bool, as_json: bool,
    device: str | None, threads: int | None,
) -> None:  # fmt: skip
    """Make vectors of pictures and .aec files to find similar ones by.

    INPUTS are pictures, .aec files, patterns, or folders, with all below them. Of .aec files no pixel is decoded.
    A file that fails is named and left out; the exit status is then 1.
    """
    from nncodec.analysis import embed as vectors

    vectors.check_suffix(output)
    atomic.check(output, force)
    options.set_threads(threads)
    from nncodec import codec

    loaded = codec.load_model(model, device)

    def one(path: Path) -> tuple[Path, vectors.Embedded]:
        begin = time.perf_counter()
        vectors.check_name(str(path), output)
        found = vectors.embed(path, loaded, pool)
        seconds = time.perf_counter() - begin
        if as_json:
            facts = {"file": str(path), "width": found.width, "height": found.height, "seconds": round(seconds, 3)}
            _say(json.dumps(facts | {"vector": [round(float(v), 6) for v in found.vector]}))
        else:
            _say(f"{path}  {found.width}x{found.height}  {seconds:.2f} s")
        return path, found

    paths, errors = jobs.sources(inputs, {*jobs.PICTURES, jobs.AEC})
    done, failed = _each(paths, errors, one)
    if not done:
        raise InputError("no input could be used; no index was written")
    index = vectors.index_of(loaded, pool, [(str(path), one) for path, one in done])
    with atomic.writing(output, force) as file:
        vectors.save(index, file, output.suffix)
    click.echo(f"nncodec: {len(done)} vectors of {index.vectors.shape[1]} numbers in {output}", err=True)
    _leave(failed)


@click.command(
    cls=Command,
    examples="""\
nncodec similar photo.jpg photos.npz -k 3
nncodec similar a.aec b.aec photos.npz --json""",
)
@click.argument("queries", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.argument("index", type=click.Path(path_type=Path))
@option("-k", "count", section=PICTURE, metavar="N", type=click.IntRange(1), default=10,
        help="How many of each query. [default: 10]")  # fmt: skip
@option("-m", "--model", section=PICTURE, metavar="NAME",
        help="The weights that the index was made with. [default: installed ones of its id]")  # fmt: skip
@_json
@options.device
@options.threads
def similar(
    queries: tuple[Path, ...], index: Path, count: int, model: str | None, as_json: bool,
    device: str | None, threads: int | None,
) -> None:  # fmt: skip
    """Find the pictures of an INDEX that are most like each of QUERIES, pictures or .aec files.

    Prints the cosine between the vectors, at most 1, and the picture's name as it was given to `embed`.
    """
    from nncodec.analysis import embed as vectors

    options.set_threads(threads)
    known = vectors.load(index)
    loaded = _model_of(known.model, model, device, f"{index}: holds vectors of model {known.model.hex()}")

    def one(path: Path) -> None:
        matches = vectors.nearest(known, vectors.embed(path, loaded, known.pool).vector, count)
        if as_json:
            found = [{"file": match.name, "similarity": round(match.similarity, 6)} for match in matches]
            _say(json.dumps({"query": str(path), "matches": found}))
            return
        _say("\n".join([f"{path}", *(f"  {match.similarity:.4f}  {match.name}" for match in matches)]))

    paths, errors = jobs.sources(queries, {*jobs.PICTURES, jobs.AEC})
    _leave(_each(paths, errors, one)[1])


@click.group()
def anomaly() -> None:
    """Find pictures that are unlike normal ones: what they cost, what is lost of them, what they are like."""


@anomaly.command(cls=Command, examples="nncodec anomaly fit normal/ --percentile 95 -o cal.json")
@_inputs
@_output("Calibration to write, JSON.")
@option("--percentile", section=PICTURE, metavar="P", type=click.FloatRange(50, 100, max_open=True), default=95.0,
        help="So many per cent of normal pictures are to pass. [default: 95]")  # fmt: skip
@option("--features", "looked_at", section=PICTURE, type=click.Choice(("all", "rate")), default="all",
        help="all: normals are alike; rate: bits and error alone, for photos of anything. [default: all]")  # fmt: skip
@option("-q", "--quality", section=PICTURE, metavar="Q", type=click.IntRange(1, QUALITIES), default=50,
        help="Quality to compress with. [default: 50]")  # fmt: skip
@_model
@_force
@options.device
@options.threads
def fit(
    inputs: tuple[Path, ...], output: Path, percentile: float, looked_at: str, quality: int, model: str | None,
    force: bool, device: str | None, threads: int | None,
) -> None:  # fmt: skip
    """Learn from normal pictures alone what is normal.

    INPUTS are pictures, patterns, or folders, with all below them. A hundred pictures and more make a good threshold.
    """
    atomic.check(output, force)
    options.set_threads(threads)
    from nncodec import codec
    from nncodec.analysis import anomaly as scoring

    loaded = codec.load_model(model, device)
    paths, errors = jobs.sources(inputs, jobs.PICTURES)
    done, failed = _each(paths, errors, lambda path: scoring.measure(path, loaded, quality))
    calibration = scoring.calibrate(done, loaded, quality, percentile, looked_at)
    atomic.write(output, scoring.to_json(calibration).encode(), force)
    if len(done) < scoring.FEW:
        click.echo(
            f"nncodec: warning: {len(done)} normal pictures; below {scoring.FEW} the threshold is rough: "
            "expect other false alarms than asked for",
            err=True,
        )
    _say(f"{output}  {len(done)} pictures  threshold {calibration.threshold:.3f} at {percentile:g} %")
    _leave(failed)


@anomaly.command(
    cls=Command,
    examples="""\
nncodec anomaly score new/ --calibration cal.json
nncodec anomaly score new/*.png --calibration cal.json --heatmap maps/ --json""",
)
@_inputs
@option("-c", "--calibration", section=FILES, metavar="PATH", required=True, type=click.Path(path_type=Path),
        help="What `anomaly fit` wrote.")  # fmt: skip
@option("--heatmap", section=FILES, metavar="DIR", type=click.Path(path_type=Path, file_okay=False),
        help="Write a PNG of each picture here that shows where error and bits are unusual.")  # fmt: skip
@_model
@_force
@_json
@options.device
@options.threads
def score(
    inputs: tuple[Path, ...], calibration: Path, heatmap: Path | None, model: str | None, force: bool, as_json: bool,
    device: str | None, threads: int | None,
) -> None:  # fmt: skip
    """Say how unusual pictures are: the share of normal pictures, in per cent, that score lower.

    INPUTS are pictures, patterns, or folders, with all below them. The exit status says whether all could be scored,
    not what they scored.
    """
    from nncodec.analysis import anomaly as scoring
    from nncodec.analysis import heat

    options.set_threads(threads)
    known = scoring.read(calibration)
    identity = bytes.fromhex(known.model)
    stated = f"{calibration}: was fitted with model {known.model_name} ({known.model})"
    loaded = _model_of(identity, model, device, stated)
    paths, errors = jobs.sources(inputs, jobs.PICTURES)
    maps = _maps(inputs, heatmap) if heatmap else {}

    def one(path: Path) -> None:
        measured = scoring.measure(path, loaded, known.quality)
        verdict = known.verdict(measured)
        if heatmap:
            heat.write(maps[path], path, known.heatmap(measured), force)
        if as_json:
            facts = {"file": str(path), **verdict._asdict(), "bpp_est": measured.bpp_est, "mse": measured.mse}
            _say(json.dumps(facts | ({"heatmap": str(maps[path])} if heatmap else {})))
            return
        word = "ANOMALY" if verdict.anomalous else "normal"
        _say(
            f"{path}  {word}  {verdict.percentile:.1f} %  score {verdict.score:.3f}"
            f"  {measured.bpp_est:.3f} bpp  mse {measured.mse:.2f}"
        )

    _leave(_each(paths, errors, one)[1])


def _maps(inputs: Sequence[Path], folder: Path) -> dict[Path, Path]:
    """Where the heat map of each picture goes: folders are mirrored into `folder`."""
    try:
        plan = jobs.plan(inputs, folder, ".heat.png", jobs.PICTURES, into_folder=True, recursive=True, keep_suffix=True)
    except jobs.PlanError as error:
        raise click.UsageError(str(error)) from None
    return {job.source: job.target for job in plan.jobs}


def _model_of(identity: bytes, name: str | None, device: str | None, what: str) -> Model:
    """The weights with that id. Raises InputError where `name` are others, ModelNotFoundError where there are none."""
    from nncodec import codec
    from nncodec.errors import ModelNotFoundError

    try:
        loaded = codec.load_model(name, device) if name else codec.load_model(device=device, model_id=identity)
    except ModelNotFoundError as error:
        raise ModelNotFoundError(f"{what}: {error}") from None
    if loaded.id != identity:
        raise InputError(f"{what}, not of {loaded.name} ({loaded.id.hex()}); give -m with that model, or make it anew")
    return loaded


def _say(text: str, error: bool = False) -> None:
    """A line on stdout or stderr, above the bar if there is one; what it cannot show is escaped."""
    from tqdm import tqdm

    stream = sys.stderr if error else sys.stdout
    tqdm.write(printable(text, stream), stream)
    stream.flush()


def _each(paths: Sequence[Path], errors: Iterable[InputError], one: Callable[[Path], T]) -> tuple[list[T], int]:
    """Results of `one` for every file that has one, and how many failed; each failure is named on stderr."""
    done: list[T] = []
    failed = 0
    for error in errors:
        failed += 1
        _say(f"nncodec: error: {error}", error=True)
    with _bar(len(paths)) as step:
        for path in paths:
            try:
                if not path.exists():
                    raise InputError(f"{path}: no such file")
                done.append(one(path))
            except NncodecError as error:
                if click.get_current_context().find_root().params.get("debug"):
                    raise
                failed += 1
                text = str(error)
                _say(f"nncodec: error: {text if str(path) in text else f'{path}: {text}'}", error=True)
            step()
    if failed:
        click.echo(f"nncodec: {len(done)} done, {failed} failed", err=True)
    return done, failed


def _leave(failed: int) -> None:
    if failed:
        click.get_current_context().exit(1)


@contextmanager
def _bar(total: int) -> Iterator[Callable[[], object]]:
    """Progress over files on stderr, where that is a terminal."""
    if total < 2 or not sys.stderr.isatty():
        yield lambda: None
        return
    from tqdm import tqdm

    with tqdm(total=total, unit="file", file=sys.stderr, leave=False) as bar:
        yield bar.update
