"""The manifest: one JSON line a finished or failed file, which doubles as a resume file.

Knows lines and files; what is done with a picture is elsewhere. Lines are only ever added; of several
for one output the last counts. A line that a crash tore is passed over.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Lock

from nncodec.batch.jobs import DASH
from nncodec.errors import InputError

Settings = Mapping[str, str | int | float | bool | None]
DONE, SKIPPED, PARTIAL, FAILED = "done", "skipped", "partial", "failed"
_START = b'{"path": '


@dataclass(frozen=True)
class Entry:
    """What became of one input.

    path, target
        As given or found; strings, `-` for standard input or output.
    status
        'done', 'skipped' (the output existed), 'partial' (written, though `error` is amiss), or 'failed'.
    width, height
        Pixels. None where it failed or was skipped, as are the next four.
    bytes, bpp
        Of the .aec file.
    psnr
        dB, with --verify; infinite is written as null.
    written
        Bytes of the output file.
    settings
        Options that decide what the output holds.
    remarks
        What is to be known of a picture that is well.
    """

    path: str
    target: str
    status: str
    width: int | None = None
    height: int | None = None
    bytes: int | None = None
    bpp: float | None = None
    psnr: float | None = None
    written: int | None = None
    seconds: float | None = None
    error: str | None = None
    settings: Settings | None = None
    remarks: Sequence[str] = ()


class ManifestError(InputError):
    """The manifest cannot be written: no reason to blame a picture, and no use going on."""


class Manifest:
    """A manifest file open for adding lines; safe to share between threads.

    Raises InputError for a file that is no manifest, or that cannot be read or written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = Lock()
        self._finished: dict[tuple[str, str], Entry] = {}
        try:
            torn = path.is_file() and self._read()  # a device has no end to read to
            self._file = path.open("ab", buffering=0)
            if torn:
                self._file.write(b"\n")
        except OSError as error:
            raise InputError(f"{path}: cannot be used as a manifest: {error.strerror}") from None

    def _read(self) -> bool:
        """Take in what the file says; whether its last line lacks its end."""
        with self._path.open("rb") as file:
            data = file.read(len(_START))
            if not _START.startswith(data):
                raise InputError(f"{self._path}: is not a manifest of nncodec; name a new file")
            data += file.read()
        for line in data.splitlines():
            try:
                entry = Entry(**json.loads(line))
            except (ValueError, TypeError):
                continue
            key = entry.path, entry.target
            if entry.status == DONE:
                self._finished[key] = entry
            elif self._finished.get(key, entry).settings == entry.settings:
                self._finished.pop(key, None)
        return bool(data) and not data.endswith(b"\n")

    def finished(self, source: Path, target: Path, settings: Settings) -> bool:
        """Whether `target` was made of `source` with these settings, is as large as it was, and not older than it.

        What comes from stdin never was.
        """
        entry = self._finished.get((str(source), str(target)))
        if entry is None or entry.settings != settings or source == DASH:
            return False
        try:
            made = target.stat()
        except OSError:
            return False
        with suppress(OSError):  # that it cannot be read is for its reader to say
            if source.stat().st_mtime > made.st_mtime:
                return False
        return made.st_size == entry.written

    def add(self, entry: Entry) -> None:
        """Append one line in one piece. Raises ManifestError."""
        line = json.dumps(asdict(entry), allow_nan=False).encode() + b"\n"
        try:
            with self._lock:
                whole = self._file.write(line) == len(line)
        except OSError as error:
            raise ManifestError(f"{self._path}: cannot be written: {error.strerror}") from None
        if not whole:
            raise ManifestError(f"{self._path}: cannot be written: no space left")

    def close(self) -> None:
        """Let the lines reach the disk."""
        with suppress(OSError):  # a pipe or device
            os.fsync(self._file.fileno())
        self._file.close()
