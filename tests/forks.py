"""Real processes without their start: a server that has torch loaded forks one for each command.

Run as a script it is the server; `Forks` is the test's side of it. Its processes can be killed, run out
of disk and share names like any other.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any


class Forks:
    """Starts `nncodec` commands as processes of their own."""

    def __init__(self, environment: dict[str, str]) -> None:
        self._server = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True
        )
        assert self._ask({"ready": True}) is True

    def start(self, *arguments: object, log: Path, file_limit: int | None = None) -> int:
        """Process id of a command whose stdout and stderr go to `log`.

        `file_limit` is the size in bytes beyond which its files do not grow.
        """
        pid = self._ask({"start": [str(a) for a in arguments], "log": str(log), "file_limit": file_limit})
        assert isinstance(pid, int)
        return pid

    def wait(self, pid: int) -> int:
        """Exit status, or minus the signal that ended it."""
        status = self._ask({"wait": pid})
        assert isinstance(status, int)
        return status

    def run(self, *arguments: object, log: Path, file_limit: int | None = None) -> int:
        return self.wait(self.start(*arguments, log=log, file_limit=file_limit))

    def close(self) -> None:
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.close()
        self._server.stdout.close()
        self._server.wait(timeout=60)

    def _ask(self, question: dict[str, Any]) -> Any:
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.write(json.dumps(question) + "\n")
        self._server.stdin.flush()
        return json.loads(self._server.stdout.readline())


def _serve() -> None:
    import torch
    from PIL import Image

    import nncodec.rate  # noqa: F401
    from nncodec import codec

    torch.set_num_threads(1)
    codec.load_model("tiny", "cpu")
    Image.init()
    # As from a terminal: a shell starts background jobs, such as a whole test run, with SIGINT ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for line in sys.stdin:
        question = json.loads(line)
        if "start" in question:
            answer: Any = _fork(**question)
        elif "wait" in question:
            answer = os.waitstatus_to_exitcode(os.waitpid(question["wait"], 0)[1])
        else:
            answer = True
        print(json.dumps(answer), flush=True)


def _fork(start: list[str], log: str, file_limit: int | None) -> int:
    pid = os.fork()
    if pid:
        return pid
    status = 99
    try:
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for fd in (1, 2):
            os.dup2(out, fd)
        if file_limit is not None:
            import resource

            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, file_limit))
        from nncodec.cli import main

        main(start)
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    except BaseException:  # what a process that was not forked would print
        import traceback

        traceback.print_exc()
        status = 98
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    _serve()
