"""Files that appear whole or not at all: temporary sibling, fsync, then a link or a rename.

Knows paths and bytes; nothing of pictures. A process that dies leaves its temporary sibling behind,
`.NAME.<12 hex digits>.nncodec-partial`, and never a half-written NAME; `sweep` removes such leftovers.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from nncodec.errors import InputError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

SUFFIX = ".nncodec-partial"
STALE_SECONDS = 600
"""A leftover is one that no process holds a lock on and that nobody has written to for so long."""
_LEFTOVER = re.compile(r"\..+\.[0-9a-f]{12}" + re.escape(SUFFIX))
_NAME_MAX = 200  # of 255 bytes; the rest is for what a temporary name adds
_SPOOL = 64 << 20  # bytes kept in memory of what goes to a stream


class ExistsError(InputError):
    """A file stands where one is to be written, and may not be replaced."""


def check(path: Path, overwrite: bool) -> None:
    """Raises ExistsError or InputError where `path` cannot be written, before the work that it is for."""
    if not path.parent.is_dir():
        raise InputError(f"{path}: there is no folder {path.parent}; make it first")
    if path.exists() and not overwrite:
        raise ExistsError(f"{path}: exists; add --force to overwrite it")


@contextmanager
def writing(path: Path, overwrite: bool = True) -> Iterator[IO[bytes]]:
    """A seekable file, readable too, whose content becomes `path` when the block ends well.

    If it does not, `path` is as it was. A link is followed, an old file's permissions stay. Without
    `overwrite` a file that stands there at the last moment is kept. A device or a pipe cannot be
    replaced: it gets the bytes once they are complete. Raises ExistsError, or InputError naming `path`
    where the disk refuses.
    """
    try:
        real = Path(os.path.realpath(path))
        mode = _mode(real)
        if mode is None or stat.S_ISREG(mode):
            with _sibling(path, real, mode, overwrite) as file:
                yield file
        elif stat.S_ISDIR(mode):
            raise InputError(f"{path}: is a folder; name a file in it")
        else:
            with real.open("wb") as device, spooled(device) as file:
                yield file
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror or error}") from None


@contextmanager
def spooled(stream: IO[bytes]) -> Iterator[IO[bytes]]:
    """A seekable file whose content goes to `stream` when the block ends well, and nothing before."""
    with tempfile.SpooledTemporaryFile(_SPOOL) as file:
        yield file
        file.seek(0)
        shutil.copyfileobj(file, stream)
        stream.flush()


def write(path: Path, data: bytes, overwrite: bool = True) -> None:
    """Write `data` to `path` whole or not at all. Raises InputError."""
    with writing(path, overwrite) as file:
        file.write(data)


def sweep(folder: Path) -> int:
    """Remove what dead processes left in `folder`; says how many files that were.

    Whatever cannot be listed, locked or removed is left alone.
    """
    removed = 0
    with suppress(OSError):
        for entry in os.scandir(folder):
            if _LEFTOVER.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                with suppress(OSError):
                    removed += _remove_leftover(Path(entry.path))
    return removed


def _remove_leftover(path: Path) -> bool:
    with path.open("rb") as file:
        if time.time() - os.fstat(file.fileno()).st_mtime < STALE_SECONDS:
            return False
        _lock(file)  # raises BlockingIOError where its writer lives
        path.unlink()
        return True


def _lock(file: IO[bytes]) -> None:
    """Hold `file` until it is closed or the process ends. Raises OSError where that is not possible."""
    if fcntl:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)


def _mode(path: Path) -> int | None:
    try:
        return path.stat().st_mode
    except FileNotFoundError:
        return None


@contextmanager
def _sibling(path: Path, real: Path, mode: int | None, overwrite: bool) -> Iterator[IO[bytes]]:
    """`path` is for messages; `real` is what it stands for, of permissions `mode` if it exists."""
    if mode is not None and not overwrite:
        raise ExistsError(f"{path}: exists; add --force to overwrite it")
    partial = real.with_name(f".{_short(real.name)}.{secrets.token_hex(6)}{SUFFIX}")
    try:
        with partial.open("x+b") as file:
            with suppress(OSError):  # some network file systems have no locks; age alone protects then
                _lock(file)
            yield file
            file.flush()
            if mode is not None:
                partial.chmod(stat.S_IMODE(mode))
            os.fsync(file.fileno())
        if overwrite:
            partial.replace(real)
        else:
            _put_where_nothing_is(partial, path, real)
    finally:
        partial.unlink(missing_ok=True)


def _put_where_nothing_is(partial: Path, path: Path, real: Path) -> None:
    """Rename without replacing: a second name fails where one exists, in one step."""
    try:
        os.link(partial, real)
    except FileExistsError:
        raise ExistsError(f"{path}: exists; add --force to overwrite it") from None
    except OSError:  # FAT and some network file systems have no second names
        if real.exists():
            raise ExistsError(f"{path}: exists; add --force to overwrite it") from None
        partial.replace(real)


def _short(name: str) -> str:
    """`name`, or a digest of it where a temporary name would grow over the file system's limit."""
    raw = os.fsencode(name)
    return name if len(raw) <= _NAME_MAX else hashlib.sha256(raw).hexdigest()[:32]
