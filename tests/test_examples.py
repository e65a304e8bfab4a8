"""Every example runs as its reader would run it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from conftest import ROOT

EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


@pytest.mark.weights
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.stem)
def test_example_runs(path) -> None:
    environment = {k: v for k, v in os.environ.items() if k != "NNCODEC_WEIGHTS"}
    done = subprocess.run(
        [sys.executable, str(path), str(ROOT / "examples" / "chelsea.png")],
        capture_output=True, text=True, timeout=120, env=environment, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_examples_are_short() -> None:
    assert len(EXAMPLES) >= 3
    assert all(len(p.read_text().splitlines()) <= 40 for p in EXAMPLES)
