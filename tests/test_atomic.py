"""Files are never half-written: by killed processes, on full disks, among processes that share a name."""

from __future__ import annotations

import fcntl
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import SLOW
from forks import Forks
from PIL import Image

from nncodec import atomic
from nncodec.errors import InputError

KILLS = 100 if SLOW else 8


@pytest.fixture(scope="module")
def forks(tiny_path: Path) -> Iterator[Forks]:
    server = Forks({**os.environ, "NNCODEC_WEIGHTS": str(tiny_path.parent)})
    yield server
    server.close()


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    rng = np.random.default_rng(1)
    for i in range(12):
        Image.fromarray(rng.integers(0, 256, (40, 48 + i, 3), np.uint8)).save(folder / f"{i}.png")
    return folder


@pytest.fixture
def noise(tmp_path: Path) -> Path:
    path = tmp_path / "noise.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 300, 3), np.uint8)).save(path)
    return path


def leftovers(folder: Path) -> list[Path]:
    return [p for p in folder.rglob("*") if p.name.endswith(atomic.SUFFIX)]


def contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir() if not p.name.endswith(atomic.SUFFIX)}


@pytest.mark.parametrize("command", ["compress", "decompress"])
def test_kill_9_leaves_each_target_absent_old_or_complete(
    command: str, forks: Forks, pictures: Path, tmp_path: Path
) -> None:
    log, source, out = tmp_path / "log", pictures, tmp_path / "out"
    if command == "decompress":
        source = tmp_path / "packed"
        assert forks.run("compress", "-r", pictures, "-m", "tiny", "-o", source, log=log) == 0
    options = ["-m", "tiny"] if command == "compress" else []
    start = time.perf_counter()
    assert forks.run(command, "-r", source, *options, "-o", tmp_path / "whole", log=log) == 0
    lasts = time.perf_counter() - start
    whole = contents(tmp_path / "whole")
    assert len(whole) == 12
    rng = random.Random(command)
    killed = runs = left = 0
    seen = {"old": 0, "complete": 0}
    while killed < KILLS // 2:
        runs += 1
        assert runs < 10 * KILLS, "hardly any process lived long enough to be killed"
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        had_old = rng.random() < 0.5
        for name in whole if had_old else ():
            (out / name).write_bytes(b"old")
        manifest = tmp_path / f"{rng.random()}.jsonl"
        arguments = (command, "-r", source, *options, "-o", out, "--manifest", manifest)
        pid = forks.start(*arguments, *(["-f"] if had_old else []), log=log)
        time.sleep(rng.uniform(0, lasts))
        os.kill(pid, signal.SIGKILL)
        if forks.wait(pid) != -signal.SIGKILL:
            lasts *= 0.9  # it was through already
            continue
        killed += 1
        for name, data in contents(out).items():
            assert data in (whole[name], b"old"), f"{name} has {len(data)} of {len(whole[name])} bytes"
            assert data != b"old" or had_old
            seen["old" if data == b"old" else "complete"] += 1
        left += len(leftovers(out))
        for path in leftovers(out):
            os.utime(path, (0, 0))
        assert forks.run(*arguments, *(["-f"] if had_old else []), log=log) == 0, log.read_text()
        assert contents(out) == whole
        assert not leftovers(out)
    print(f"{command}: {killed} killed of {runs}, outputs {seen}, {left} leftovers swept")
    assert seen["complete"] or KILLS < 100


def test_a_full_disk_keeps_the_old_file_and_names_the_new(forks: Forks, noise: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.aec"
    for old in (None, b"old"):
        log = tmp_path / f"log {old!r}"
        if old:
            target.write_bytes(old)
        arguments = ("compress", noise, "-m", "tiny", "-q", 100, "-f", "-o", target)
        assert forks.run(*arguments, log=log, file_limit=4096) == 1
        assert f"nncodec: error: {target}: cannot be written: File too large" in log.read_text()
        assert (target.read_bytes() if target.exists() else None) == old
        assert not leftovers(tmp_path)


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "full"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=8k", "nncodec-test", str(folder)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a file system")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_file_system_gets_no_partial_file(forks: Forks, pictures: Path, full_disk: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    (full_disk / "3.aec").write_bytes(b"old")
    (full_disk / "filler").write_bytes(bytes(4096))
    assert forks.run("compress", pictures / "3.png", "-m", "tiny", "-f", "-o", full_disk, log=log) == 1
    assert f"{full_disk / '3.aec'}: cannot be written: No space left on device" in log.read_text()
    assert (full_disk / "3.aec").read_bytes() == b"old"
    assert not leftovers(full_disk)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_device_is_written_to_and_never_replaced(forks: Forks, pictures: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert forks.run("compress", pictures / "3.png", "-m", "tiny", "-f", "-o", "/dev/full", log=log) == 1
    assert "/dev/full: cannot be written: No space left on device" in log.read_text()
    assert Path("/dev/full").is_char_device()
    assert not leftovers(Path("/dev"))


def test_a_read_only_folder_is_named(pictures: Path, tmp_path: Path, tiny_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir()
    closed.chmod(0o555)
    command = [sys.executable, "-m", "nncodec", "compress", pictures / "3.png", "-m", "tiny", "-o", closed]
    if os.geteuid() == 0:  # whom permissions do not stop until it gives that up
        if shutil.which("setpriv") is None:
            pytest.skip("root without setpriv")
        command = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", *command]
    environment = {**os.environ, "NNCODEC_WEIGHTS": str(tiny_path.parent)}
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 1
    assert f"nncodec: error: {closed / '3.aec'}: cannot be written: Permission denied" in done.stderr
    assert not list(closed.iterdir())


@pytest.mark.parametrize("force", [True, False])
def test_32_processes_on_one_name_leave_one_complete_file(
    force: bool, forks: Forks, pictures: Path, tmp_path: Path
) -> None:
    target, logs = tmp_path / "out.aec", [tmp_path / f"log{i}" for i in range(32)]
    whole = []
    for quality in (1, 100):
        sample = tmp_path / f"{quality}.aec"
        assert forks.run("compress", pictures / "3.png", "-q", quality, "-m", "tiny", "-o", sample, log=logs[0]) == 0
        whole.append(sample.read_bytes())
    assert whole[0] != whole[1]
    logs[0].unlink()
    pids = [
        forks.start("compress", pictures / "3.png", "-q", 1 if i % 2 else 100, "-m", "tiny", "-o", target,
                    *(["-f"] if force else []), log=log)
        for i, log in enumerate(logs)
    ]  # fmt: skip
    statuses = [forks.wait(pid) for pid in pids]
    assert target.read_bytes() in whole
    assert not leftovers(tmp_path)
    if force:
        assert statuses == [0] * 32
    else:
        assert sorted(statuses) == [0] + [1] * 31
        refusals = [log.read_text() for status, log in zip(statuses, logs, strict=True) if status]
        assert all(f"{target}: exists; add --force" in text for text in refusals)


def started(pid: int, out: Path) -> None:
    """Wait until the command has begun to write."""
    end = time.monotonic() + 30
    while not (out.exists() and list(out.iterdir())):
        assert time.monotonic() < end, f"{pid} wrote nothing"
        time.sleep(0.005)


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_a_batch_without_leftovers(
    number: int, status: int, workers: int, forks: Forks, pictures: Path, tmp_path: Path
) -> None:
    log, out = tmp_path / "log", tmp_path / "out"
    many = [pictures / f"{i}.png" for i in range(12)]
    pid = forks.start("compress", *many, "--target-psnr", 5, "-m", "tiny", "-j", workers, "-o", out, log=log)
    started(pid, out)
    os.kill(pid, number)
    assert forks.wait(pid) == status, log.read_text()
    assert "Traceback" not in log.read_text()
    assert ("nncodec: interrupted" in log.read_text()) == (number == signal.SIGINT)
    assert len(contents(out)) < 12
    assert not leftovers(out)


def test_a_reader_that_leaves_early_gives_an_error_and_no_traceback(
    forks: Forks, noise: Path, tmp_path: Path, tiny_path: Path
) -> None:
    packed = tmp_path / "noise.aec"
    assert forks.run("compress", noise, "-m", "tiny", "-o", packed, log=tmp_path / "log") == 0
    done = subprocess.run(
        ["bash", "-c", f"{sys.executable} -m nncodec decompress {packed} -o - | head -c 10; echo ${{PIPESTATUS[0]}}"],
        capture_output=True, env={**os.environ, "NNCODEC_WEIGHTS": str(tiny_path.parent)}, check=False,
    )  # fmt: skip
    assert done.stdout == b"\x89PNG\r\n\x1a\n\0\x001\n"
    assert b"nncodec: error: standard output: cannot be written: Broken pipe" in done.stderr
    assert b"Traceback" not in done.stderr
    assert b"Exception ignored" not in done.stderr


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    target = tmp_path / "folder"
    target.mkdir()
    with pytest.raises(InputError, match="folder: is a folder"):
        atomic.write(target, b"data")
    with pytest.raises(InputError, match="absent"):
        atomic.write(tmp_path / "absent" / "x", b"data")
    with pytest.raises(ZeroDivisionError), atomic.writing(tmp_path / "x") as file:
        file.write(b"half" * (1 // 0))
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]


def test_a_link_is_followed_and_permissions_stay(tmp_path: Path) -> None:
    real, link = tmp_path / "real", tmp_path / "link"
    real.write_bytes(b"old")
    real.chmod(0o600)
    link.symlink_to(real)
    atomic.write(link, b"new")
    assert link.is_symlink()
    assert real.read_bytes() == b"new"
    assert real.stat().st_mode & 0o777 == 0o600


def test_a_file_that_appears_meanwhile_is_kept(tmp_path: Path) -> None:
    target = tmp_path / "x"
    with pytest.raises(atomic.ExistsError, match="exists"), atomic.writing(target, overwrite=False):
        target.write_bytes(b"theirs")
    assert target.read_bytes() == b"theirs"
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


def test_a_file_system_without_second_names_is_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    atomic.write(tmp_path / "x", b"data", overwrite=False)
    assert (tmp_path / "x").read_bytes() == b"data"
    assert len(list(tmp_path.iterdir())) == 1


def test_names_as_long_as_the_file_system_allows_work(tmp_path: Path) -> None:
    name = "ü" * 127
    atomic.write(tmp_path / name, b"data")
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_pipes_get_the_whole_content(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(pipe.read_bytes()))
    reader.start()
    atomic.write(pipe, b"data" * 50_000)
    reader.join(30)
    assert got == [b"data" * 50_000]
    assert pipe.is_fifo()


def test_sweeping_takes_old_leftovers_of_the_dead_only(tmp_path: Path) -> None:
    names = {kind: tmp_path / f".{kind}.png.0123456789ab{atomic.SUFFIX}" for kind in ("dead", "fresh", "alive")}
    names["other"] = tmp_path / f"mine{atomic.SUFFIX}"
    for path in names.values():
        path.write_bytes(b"half")
    for kind in ("dead", "alive", "other"):
        os.utime(names[kind], (0, 0))
    with names["alive"].open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert atomic.sweep(tmp_path) == 1
    assert sorted(p for p in tmp_path.iterdir()) == sorted(p for k, p in names.items() if k != "dead")
    assert atomic.sweep(tmp_path / "absent") == 0


def test_a_writer_holds_its_leftover_to_be(tmp_path: Path) -> None:
    with atomic.writing(tmp_path / "x") as file:
        (partial,) = leftovers(tmp_path)
        os.utime(partial, (0, 0))
        assert atomic.sweep(tmp_path) == 0
        file.write(b"data")
    assert (tmp_path / "x").read_bytes() == b"data"
