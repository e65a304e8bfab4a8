"""What a run says: a result line a file on stdout, errors and progress bars on stderr.

Knows outcomes and terminals; nothing of how an outcome comes about.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from nncodec.batch import say, spaced
from nncodec.batch.jobs import DASH, Job
from nncodec.batch.manifest import DONE, FAILED, PARTIAL, SKIPPED, Entry


class Report:
    """Lines and, on a terminal, a bar: over the files of many, over the tiles of one."""

    def __init__(self, jobs: Sequence[Job]) -> None:
        self._stream = sys.stderr if any(job.target == DASH for job in jobs) else sys.stdout
        self._count = len(jobs)
        self._name = jobs[0].source.name if jobs else ""
        self._failed = 0
        self._bar: Any = None

    def __enter__(self) -> Report:
        if self._count > 1:
            self._bar = _bar(self._count, "files", "file")
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def tiles(self, done: int, total: int) -> None:
        """Progress of the only job; called with (tiles done, tiles in all)."""
        if self._count > 1 or total < 2:
            return
        if self._bar is None:
            self._bar = _bar(total, self._name, "tile")
        if self._bar is not None:
            self._bar.update(done - self._bar.n)

    def outcome(self, entry: Entry) -> None:
        """One line, and one step of the bar over files."""
        if self._bar is not None:
            self._bar.clear()
        for remark in entry.remarks:
            say(f"nncodec: warning: {entry.path}: {remark}", sys.stderr)
        if entry.status in (PARTIAL, FAILED):
            self._failed += 1
            self.error(entry.error or "")
        if entry.status != FAILED:
            say(line(entry), self._stream)
        if self._bar is not None and self._count > 1:
            self._bar.set_postfix_str(f"{self._failed} failed" if self._failed else "", refresh=False)
            self._bar.update()

    def error(self, message: str) -> None:
        """One line on stderr."""
        say(f"nncodec: error: {message}", sys.stderr)

    def summary(self, counts: Mapping[str, int]) -> None:
        """What became of all files, on stderr."""
        parts = [f"{counts[status]} {status}" for status in (DONE, SKIPPED, PARTIAL, FAILED) if counts.get(status)]
        print(f"nncodec: {', '.join(parts) or 'nothing to do'}", file=sys.stderr, flush=True)


def line(entry: Entry) -> str:
    """The result line of a file that was done or skipped."""
    if entry.status == SKIPPED:
        return f"{entry.path} -> {entry.target}  skipped: {entry.error}"
    text = (
        f"{entry.path} -> {entry.target}  {entry.width}x{entry.height}  {spaced(entry.bytes or 0)} B"
        f"  {entry.bpp:.3f} bpp  {entry.seconds:.2f} s"
    )
    return text if entry.psnr is None else f"{text}  {entry.psnr:.2f} dB"


def _bar(total: int, name: str, unit: str) -> Any:
    """A bar on stderr; None where that is no terminal."""
    if not sys.stderr.isatty():
        return None
    from tqdm import tqdm

    return tqdm(total=total, desc=name, unit=unit, file=sys.stderr, leave=False)
