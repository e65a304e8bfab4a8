"""Which input becomes which output: globs, folders, mirrored trees, shards.

Knows names of files; opens none of them. A clash of outputs is found before any work is done.
"""

from __future__ import annotations

import glob
import hashlib
import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from nncodec.errors import InputError

DASH = Path("-")
"""Standard input or output."""

PICTURES = frozenset({
    ".avif", ".bmp", ".dib", ".gif", ".heic", ".heif", ".hif", ".j2k", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg",
    ".jpx", ".jxl", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".qoi", ".tga", ".tif", ".tiff", ".webp",
})  # fmt: skip
"""Suffixes of what counts as a picture in a folder. One that Pillow cannot read is reported, not passed over."""

AEC = ".aec"


@dataclass(frozen=True)
class Job:
    """One input, the output it becomes, and the folder that may be made for it.

    key
        What says which shard the job is in: the path as given, or below the folder as given.
    """

    source: Path
    target: Path
    folder: Path | None = None
    key: str = ""


@dataclass(frozen=True)
class Plan:
    """Jobs in order, and inputs that name nothing, each with its error."""

    jobs: tuple[Job, ...]
    errors: tuple[InputError, ...] = ()


class PlanError(Exception):
    """The inputs and the output do not go together; a matter of usage."""


@dataclass(frozen=True)
class Shard:
    """Part `index` (1 to `count`) of all jobs."""

    index: int
    count: int

    def __contains__(self, job: Job) -> bool:
        digest = hashlib.sha256(job.key.encode("utf-8", "surrogateescape")).digest()
        return int.from_bytes(digest[:8], "little") % self.count == self.index - 1


def shard(text: str) -> Shard:
    """Shard of 'i/n'. Raises PlanError."""
    index, _, count = text.partition("/")
    if not (index.isascii() and index.isdigit() and count.isascii() and count.isdigit()):
        raise PlanError(f"--shard {text!r}: write i/n, 2/8 for the second of eight")
    if not 1 <= int(index) <= int(count):
        raise PlanError(f"--shard {text!r}: the first number goes from 1 to the second")
    return Shard(int(index), int(count))


@dataclass(frozen=True)
class _Found:
    """An input that was found: its path and what is mirrored of it below the output folder."""

    path: Path
    below: Path
    key: str


def plan(
    inputs: Sequence[Path],
    output: Path | None,
    suffix: str,
    wanted: Collection[str],
    *,
    into_folder: bool = False,
    recursive: bool = False,
    keep_suffix: bool = False,
) -> Plan:
    """Jobs for `inputs`: files, patterns (`*`, `?`, `[ab]`, `**`), folders if `recursive`, or `-`.

    Outputs end in `suffix` (put behind the input's own with `keep_suffix`) and lie beside their inputs,
    or in `output`: a folder if it is one, or is to be one (`into_folder`), or where one name would not do;
    what lies below a folder keeps its place below it. `wanted` are the suffixes that
    count in folders, in lower case. Raises PlanError where outputs clash or `output` does not fit.
    """
    found: list[_Found] = []
    errors: list[InputError] = []
    into_folder = into_folder or len(inputs) > 1 or (output is not None and output.is_dir())
    for given in inputs:
        try:
            several = list(_expand(given, wanted, recursive, errors))
        except InputError as error:
            errors.append(error)
            continue
        into_folder = into_folder or [f.path for f in several] != [given]
        found += several
    if output == DASH and (into_folder or len(found) > 1):
        raise PlanError("-o - takes one input")
    if into_folder and output is not None and output.exists() and not output.is_dir():
        raise PlanError(f"-o {output} is a file; several inputs need a folder")

    def target(one: _Found) -> Path:
        below = Path("stdin") if one.path == DASH else one.below
        name = f"{below.name}{suffix}" if keep_suffix and one.path != DASH else f"{below.stem}{suffix}"
        if output is None:
            return DASH if one.path == DASH else one.path.with_name(name)
        return output / below.with_name(name) if into_folder and output != DASH else output

    folder = None
    if output is not None and output != DASH:
        folder = output if into_folder else output.parent
    jobs = {(one.path, to): Job(one.path, to, folder, one.key) for one in found for to in [target(one)]}
    _refuse_clashes(jobs.values())
    return Plan(tuple(jobs.values()), tuple(errors))


def sources(inputs: Sequence[Path], wanted: Collection[str]) -> tuple[tuple[Path, ...], tuple[InputError, ...]]:
    """Files that `inputs` (files, patterns, folders with all below them) stand for, each once, and what names none."""
    found: dict[Path, None] = {}
    errors: list[InputError] = []
    for given in inputs:
        try:
            found.update((one.path, None) for one in _expand(given, wanted, True, errors))
        except InputError as error:
            errors.append(error)
    return tuple(found), tuple(errors)


def _expand(given: Path, wanted: Collection[str], recursive: bool, errors: list[InputError]) -> Iterator[_Found]:
    """What one argument stands for. A file of that very name comes before a pattern."""
    text = str(given)
    if given == DASH:
        yield _Found(given, given, text)
    elif given.is_dir():
        yield from _below(given, wanted, recursive, errors)
    elif glob.has_magic(text) and not given.exists():
        matches = sorted(glob.glob(text, recursive=True))
        if not matches:
            raise InputError(f"{given}: no file matches")
        for match in map(Path, matches):
            if not match.is_dir():
                yield _Found(match, Path(match.name), match.as_posix())
            elif recursive:
                yield from _below(match, wanted, recursive, errors)
    else:
        yield _Found(given, Path(given.name), given.as_posix())


def _below(folder: Path, wanted: Collection[str], recursive: bool, errors: list[InputError]) -> Iterator[_Found]:
    """The pictures of a folder in order of name. Hidden files and folders are passed over.

    Folders that cannot be listed go to `errors`.
    """
    if not recursive:
        raise InputError(f"{folder}: is a folder; add -r to take what lies below it")
    count, failed = 0, len(errors)

    def unlisted(error: OSError) -> None:
        errors.append(InputError(f"{error.filename}: cannot be listed: {error.strerror}"))

    for place, folders, files in os.walk(folder, onerror=unlisted):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            path = Path(place, name)
            if path.suffix.lower() in wanted and not name.startswith("."):
                count += 1
                below = path.relative_to(folder)
                yield _Found(path, below, below.as_posix())
    if not count and len(errors) == failed:
        raise InputError(f"{folder}: nothing below it ends in {', '.join(sorted(wanted))}")


def _refuse_clashes(jobs: Iterable[Job]) -> None:
    """Raise PlanError where two inputs have one output."""
    sources: dict[Path, Path] = {}
    clashes = []
    for job in jobs:
        first = sources.setdefault(job.target, job.source)
        if first != job.source:
            clashes.append(f"{first} and {job.source} would both be written to {job.target}")
    if clashes:
        more = f" (and {len(clashes) - 1} more such pairs)" if len(clashes) > 1 else ""
        raise PlanError(f"{clashes[0]}{more}; add --keep-suffix or give them different folders")
