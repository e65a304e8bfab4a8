"""Every example runs as its reader would run it."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

import nncodec

EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


@pytest.mark.weights
@pytest.mark.parametrize("path", [p for p in EXAMPLES if p.stem != "ray_compress"], ids=lambda p: p.stem)
def test_example_runs(path) -> None:
    environment = {k: v for k, v in os.environ.items() if k != "NNCODEC_WEIGHTS"}
    done = subprocess.run(
        [sys.executable, str(path), str(ROOT / "examples" / "chelsea.png")],
        capture_output=True, text=True, timeout=120, env=environment, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


@pytest.mark.weights
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed")
def test_ray_compresses_a_tree_and_reports_a_bad_file(tmp_path: Path) -> None:
    pictures, packed = tmp_path / "pictures", tmp_path / "packed"
    (pictures / "sub").mkdir(parents=True)
    shutil.copy(ROOT / "examples" / "chelsea.png", pictures / "sub")
    (pictures / "bad.jpg").write_bytes(b"none")
    environment = {k: v for k, v in os.environ.items() if k != "NNCODEC_WEIGHTS"}
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / "ray_compress.py"), str(pictures), str(packed)],
        capture_output=True, text=True, timeout=180, env=environment, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = {Path(row["path"]).name: row for row in map(json.loads, done.stdout.splitlines())}
    assert rows["chelsea.png"]["status"] == "done"
    assert rows["bad.jpg"]["status"].endswith("bad.jpg: not a picture that Pillow can read")
    data = (packed / "sub" / "chelsea.aec").read_bytes()
    assert rows["chelsea.png"]["bytes"] == len(data)
    assert nncodec.decompress(data).color.shape == (300, 451, 3)


def test_examples_are_short() -> None:
    assert len(EXAMPLES) >= 3
    assert all(len(p.read_text().splitlines()) <= 40 for p in EXAMPLES)
