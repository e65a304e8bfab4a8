"""Memory that is freed stays with the process: what the next picture or training step asks for again."""

from __future__ import annotations

import ctypes
import sys


def keep() -> None:
    """From now on the C library (glibc) keeps memory that is freed. Elsewhere nothing changes.

    One picture or step after the other asks for the same large blocks; given back, every page of them costs a fault.
    For a process of its own: `cli` calls it, the library does not.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD
        mallopt(-3, 2**30)  # M_MMAP_THRESHOLD
