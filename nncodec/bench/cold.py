"""One encode or decode in a process of its own: ``python -m nncodec.bench.cold CODEC ACTION QUALITY THREADS IN OUT``.

Imports what the codec needs, reads IN, writes OUT, prints its peak memory in bytes. `speed` takes the time
around it, so that the interpreter's start, imports and the loading of weights count.
"""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image

from nncodec.bench import codecs


def main(arguments: list[str]) -> None:
    name, action, quality, threads, source, target = arguments
    codec = codecs.require(name)
    if action == "encode":
        with Image.open(source) as picture:
            Path(target).write_bytes(codec.encode(picture.convert("RGB"), float(quality), int(threads)))
    else:
        codec.decode(Path(source).read_bytes(), int(threads)).save(target)
    print(_peak_bytes())


def _peak_bytes() -> int:
    """Largest resident memory so far; 0 where the system does not tell."""
    status = Path("/proc/self/status")
    if status.exists():
        # Not ru_maxrss: on Linux that includes the parent's memory between fork and exec.
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    try:
        import resource
    except ImportError:  # Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


if __name__ == "__main__":
    main(sys.argv[1:])
