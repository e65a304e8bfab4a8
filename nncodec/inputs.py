"""Reading inputs that the command line names: files or standard input, and errors that say which.

Knows paths and bytes; nothing of formats.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from nncodec.errors import InputError, NncodecError

T = TypeVar("T")


def is_dash(path: Path) -> bool:
    return str(path) == "-"


def read_stdin() -> bytes:
    return sys.stdin.buffer.read()


def read_bytes(path: Path) -> bytes:
    if is_dash(path):
        return read_stdin()
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None


def named(path: Path, action: Callable[[], T]) -> T:
    """Run `action`; its errors gain the file's name and keep their type."""
    try:
        return action()
    except NncodecError as error:
        raise type(error)(f"{path}: {error}") from None


def shortened(lines: Sequence[str], most: int = 8) -> tuple[str, ...]:
    """Not more lines than fit a screen."""
    more = (f"and {len(lines) - most} more",) if len(lines) > most else ()
    return (*lines[:most], *more)
