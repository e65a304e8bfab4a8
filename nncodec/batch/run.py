"""Run jobs: open outputs, count what fails, report, record; one at a time or in threads.

Knows a job's work as a function from a job and an open file to facts; nothing of what it computes.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO

from nncodec import atomic
from nncodec.atomic import ExistsError
from nncodec.batch.jobs import DASH, Job, Plan, Shard
from nncodec.batch.manifest import DONE, FAILED, PARTIAL, SKIPPED, Entry, Manifest, ManifestError, Settings
from nncodec.batch.report import Report
from nncodec.errors import InputError, NncodecError

Progress = Callable[[int, int], None]
"""Called with (tiles done, tiles in all); ends the job when the run is being stopped."""


@dataclass(frozen=True)
class Facts:
    """What a job's work says of the picture.

    width, height, size, psnr
        Pixels; bytes of the .aec file; dB where it was measured.
    pixels
        Of all that the .aec file holds, where width x height is only a part or a preview of it.
    remarks, error
        What is to be known; what is amiss though the output is worth keeping (the run counts as failed).
    """

    width: int
    height: int
    size: int
    psnr: float | None = None
    pixels: int | None = None
    remarks: tuple[str, ...] = ()
    error: str | None = None


Work = Callable[[Job, IO[bytes], Progress], Facts]
"""Reads `job.source` and fills the file, which becomes `job.target` afterwards; errors name the source."""


@dataclass(frozen=True)
class Options:
    """How to run.

    workers
        Threads that work on files at the same time.
    overwrite, skip_existing
        What becomes of an output that exists: replaced, kept in silence, or (neither) an error.
    manifest, shard
        File to record in and resume from; the part of the jobs to do.
    settings
        Options that decide what the outputs hold; a finished file of other settings is not finished.
    debug
        Let the first error through, with its traceback.
    """

    workers: int = 1
    overwrite: bool = False
    skip_existing: bool = False
    manifest: Path | None = None
    shard: Shard | None = None
    settings: Settings = field(default_factory=dict)
    debug: bool = False


class _Stopped(BaseException):
    """The run is ending; raised in its threads out of `Progress`."""


def run(plan: Plan, work: Work, options: Options) -> bool:
    """Do the jobs of `plan`; a failing one does not stop the rest. Whether all went well.

    Raises InputError for a manifest that cannot be used. KeyboardInterrupt and SIGTERM (as SystemExit
    143) pass through once no temporary file is left.
    """
    jobs = [job for job in plan.jobs if options.shard is None or job in options.shard]
    for error in plan.errors:
        if options.debug:
            raise error
    with (
        closing(Manifest(options.manifest)) if options.manifest else nullcontext() as manifest,
        Report(jobs) as report,
        _ended_by_sigterm(),
    ):
        for error in plan.errors:
            report.error(str(error))
        counts: Counter[str] = Counter({FAILED: len(plan.errors)})
        outcomes = _Run(work, options, manifest, plan.jobs, report.tiles).each(jobs)
        with closing(outcomes):  # or an interrupt out here would leave its threads at work
            for outcome in outcomes:
                counts[outcome.status] += 1
                report.outcome(outcome)
    if len(jobs) + len(plan.errors) > 1:
        report.summary(counts)
    return not counts[FAILED] + counts[PARTIAL]


class _Run:
    """What the jobs of one run share."""

    def __init__(
        self,
        work: Work,
        options: Options,
        manifest: Manifest | None,
        everything: Iterable[Job],
        tiles: Progress,
    ) -> None:
        self._work = work
        self._options = options
        self._manifest = manifest
        self._tiles = tiles
        self._stop = threading.Event()
        self._swept: set[Path] = set()
        # Without --force an input is never replaced because it exists.
        sources = (job.source for job in everything) if options.overwrite else ()
        self._sources = {os.path.realpath(source) for source in sources}

    def each(self, jobs: list[Job]) -> Generator[Entry]:
        """Outcomes, in the order in which jobs end."""
        if self._options.workers == 1 or len(jobs) < 2:
            yield from map(self._outcome, jobs)
            return
        executor = ThreadPoolExecutor(self._options.workers)
        try:
            with _signals_wait():  # an executor that is interrupted while it starts a thread forgets that thread
                futures = [executor.submit(self._outcome, job) for job in jobs]
            for future in as_completed(futures):
                yield future.result()
        finally:
            self._stop.set()
            executor.shutdown(cancel_futures=True)

    def _outcome(self, job: Job) -> Entry:
        begin = time.perf_counter()
        base = Entry(str(job.source), str(job.target), FAILED, settings=self._options.settings)
        if self._manifest and self._manifest.finished(job.source, job.target, self._options.settings):
            return replace(base, status=SKIPPED, error="finished before")
        try:
            return self._do(job, base, begin)
        except ManifestError:
            raise
        except ExistsError as error:
            if self._options.debug and not self._options.skip_existing:
                raise
            skipped = self._options.skip_existing
            outcome = replace(base, status=SKIPPED if skipped else FAILED, error="exists" if skipped else str(error))
        except Exception as error:
            # The outermost place of a run: one file that meets a bug must not cost the other thousands.
            if self._options.debug:
                raise
            outcome = replace(base, error=_message(error, job))
        outcome = replace(outcome, seconds=_seconds(begin))
        if self._manifest:
            self._manifest.add(outcome)
        return outcome

    def _do(self, job: Job, base: Entry, begin: float) -> Entry:
        self._refuse(job)
        with self._opened(job) as file:
            facts = self._work(job, file, self._progress)
            done = replace(
                base,
                status=PARTIAL if facts.error else DONE,
                error=facts.error,
                remarks=facts.remarks,
                width=facts.width,
                height=facts.height,
                bytes=facts.size,
                bpp=8 * facts.size / (facts.pixels or facts.width * facts.height),
                psnr=None if facts.psnr is None else round(min(facts.psnr, 999.0), 3),
                written=file.seek(0, os.SEEK_END),
                seconds=_seconds(begin),
            )
            # Before the output has its name: killed in between, the next run finds no such output and
            # does it again; the other way round it would find an output that it knows nothing of.
            if self._manifest:
                self._manifest.add(done)
        return replace(done, seconds=_seconds(begin))

    def _refuse(self, job: Job) -> None:
        if job.source != DASH and not job.source.exists():
            raise InputError(f"{job.source}: no such file")
        if job.target == DASH:
            return
        if job.source != DASH and job.target.exists() and job.target.samefile(job.source):
            raise InputError(f"{job.target}: is the input itself; choose another output")
        if os.path.realpath(job.target) in self._sources:
            raise InputError(f"{job.target}: is one of the inputs; choose another output")

    def _opened(self, job: Job) -> AbstractContextManager[IO[bytes]]:
        if job.target == DASH:
            return _standard_output()
        folder = job.target.parent
        if job.folder:
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise InputError(f"{folder}: cannot be made: {error.strerror}") from None
        if folder not in self._swept:
            self._swept.add(folder)
            atomic.sweep(folder)
        return atomic.writing(job.target, self._options.overwrite)

    def _progress(self, done: int, total: int) -> None:
        if self._stop.is_set():
            raise _Stopped
        self._tiles(done, total)


@contextmanager
def _standard_output() -> Iterator[IO[bytes]]:
    """A file whose content goes to standard output in the end. Raises InputError if that is closed or full."""
    try:
        with atomic.spooled(sys.stdout.buffer) as file:
            yield file
    except OSError as error:
        with suppress(OSError, ValueError):  # or what is left in the buffer fails again at exit
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise InputError(f"standard output: cannot be written: {error.strerror or error}") from None


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """SIGTERM unwinds the main thread, so that temporary files go, and ends with status 143."""

    def end(*_: object) -> None:
        raise SystemExit(128 + signal.SIGTERM)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous or signal.SIG_DFL)


@contextmanager
def _signals_wait() -> Iterator[None]:
    """SIGINT and SIGTERM of this block take effect at its end."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    pending: list[int] = []
    handlers = {
        number: signal.signal(number, lambda number, _: pending.append(number))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler or signal.SIG_DFL)
    if pending:
        signal.raise_signal(pending[0])


def _message(error: Exception, job: Job) -> str:
    if isinstance(error, NncodecError):
        return str(error)
    if isinstance(error, MemoryError):
        return f"{job.source}: not enough memory for this picture"
    return f"{job.source}: unexpected {type(error).__name__}: {error}; --debug shows where"


def _seconds(begin: float) -> float:
    return round(time.perf_counter() - begin, 3)
