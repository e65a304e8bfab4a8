"""Many files in one process: which inputs become which outputs, run, recorded, resumed."""

import sys
from typing import IO


def spaced(count: int) -> str:
    """12345678 as '12 345 678'."""
    return f"{count:,}".replace(",", " ")


def printable(text: str, stream: IO[str]) -> str:
    """`text` with escapes for what `stream` cannot show: characters, and bytes of a file's name that are no text."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


def say(text: str, stream: IO[str] | None = None) -> None:
    """One line on `stream` (stdout), at once: a reader sees it when it is true, and a closed pipe fails here."""
    stream = stream or sys.stdout
    print(printable(text, stream), file=stream, flush=True)
