"""Many files: what becomes of folders and patterns, what is recorded, what is done again."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import shutil
import struct
import subprocess
import sys
import termios
import threading
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import IO

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from nncodec import codec, weights
from nncodec.batch import jobs, run
from nncodec.batch.jobs import PICTURES, Job, PlanError, Shard, plan
from nncodec.batch.manifest import DONE, FAILED, Entry, Manifest, ManifestError
from nncodec.cli import main
from nncodec.errors import CorruptError, InputError
from nncodec.weights import Model


@pytest.fixture(autouse=True)
def _tiny_weights(tiny_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NNCODEC_WEIGHTS", str(tiny_path.parent))


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of three pictures, one file that is none, and things to pass over; it is `in` here."""
    rng = np.random.default_rng(3)
    names = ["a.png", "sub/b.PNG", "sub/deep er/c.webp", ".hidden.png", "sub/.git/d.png"]
    for name in names:
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (30, 40, 3), np.uint8)).save(path)
    (tmp_path / "in" / "sub" / "broken.jpg").write_bytes(b"none")
    (tmp_path / "in" / "notes.txt").write_text("text")
    monkeypatch.chdir(tmp_path)
    return Path("in")


def call(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments])


def compress(*arguments: object) -> Result:
    return call("compress", *arguments, "-m", "tiny")


def targets(*inputs: str, output: str | None = None, recursive: bool = False, keep: bool = False) -> dict[str, str]:
    out = None if output is None else Path(output)
    made = plan(
        [Path(i) for i in inputs], out, ".aec", PICTURES,
        into_folder=bool(output) and str(output).endswith("/"), recursive=recursive, keep_suffix=keep,
    )  # fmt: skip
    assert not made.errors
    return {str(job.source): str(job.target) for job in made.jobs}


def entries(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def found(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def test_folders_are_mirrored(tree: Path) -> None:
    assert targets("in", output="out", recursive=True) == {
        "in/a.png": "out/a.aec",
        "in/sub/b.PNG": "out/sub/b.aec",
        "in/sub/broken.jpg": "out/sub/broken.aec",
        "in/sub/deep er/c.webp": "out/sub/deep er/c.aec",
    }
    assert targets("in/sub", recursive=True)["in/sub/deep er/c.webp"] == "in/sub/deep er/c.aec"


def test_patterns_are_expanded_and_a_file_of_that_name_comes_first(tree: Path) -> None:
    assert targets("in/*.png", output="out") == {"in/a.png": "out/a.aec"}
    assert targets("in/**/[bc].*", output="out") == {
        "in/sub/b.PNG": "out/b.aec",
        "in/sub/deep er/c.webp": "out/c.aec",
    }
    shutil.copy(tree / "a.png", "[a].png")
    shutil.copy(tree / "a.png", "a.png")
    assert targets("[a].png") == {"[a].png": "[a].aec"}


def test_one_input_names_its_output_and_several_need_a_folder(tree: Path) -> None:
    assert targets("in/a.png", output="x.aec") == {"in/a.png": "x.aec"}
    assert targets("in/a.png", output="new") == {"in/a.png": "new"}
    assert targets("in/a.png", output="new/") == {"in/a.png": "new/a.aec"}
    assert compress("in/a.png", "-o", "made/for it/").exit_code == 0
    assert found(Path("made")) == ["for it/a.aec"]
    assert compress("in/a.png", "-o", "made/q/w/e.aec").exit_code == 0
    assert found(Path("made")) == ["for it/a.aec", "q/w/e.aec"]
    assert targets("in/a.png", output="in") == {"in/a.png": "in/a.aec"}
    assert targets("-", output="in") == {"-": "in/stdin.aec"}
    assert targets("-") == {"-": "-"}
    for inputs in (["in/a.png", "in/sub/b.PNG"], ["in/*.txt"]):
        with pytest.raises(PlanError, match=r"notes\.txt is a file"):
            targets(*inputs, output="in/notes.txt")
    with pytest.raises(PlanError, match="takes one input"):
        targets("in", output="-", recursive=True)


def test_an_input_given_twice_is_done_once(tree: Path) -> None:
    assert len(targets("in/a.png", "./in/a.png", "in", output="out", recursive=True)) == 4


def test_clashing_outputs_are_named_before_any_work(tree: Path) -> None:
    shutil.copy(tree / "a.png", tree / "a.tif")
    with pytest.raises(PlanError, match=r"in/a.png and in/a.tif would both be written to out/a.aec; add --keep-suffix"):
        targets("in", output="out", recursive=True)
    assert targets("in", output="out", recursive=True, keep=True)["in/a.tif"] == "out/a.tif.aec"


def test_what_names_nothing_is_an_error_and_the_rest_goes_on(tree: Path) -> None:
    result = compress("nothing*.png", "in", "in/notes.txt", "in/a.png", "-o", "out")
    assert result.exit_code == 1
    assert "nothing*.png: no file matches" in result.stderr
    assert "in: is a folder; add -r" in result.stderr
    assert "in/notes.txt: not a picture" in result.stderr
    assert "1 done, 3 failed" in result.stderr
    assert found(Path("out")) == ["a.aec"]
    Path("empty").mkdir()
    assert "empty: nothing below it ends in .avif" in compress("empty", "-r").stderr


def test_a_folder_there_and_back_keeps_its_shape(tree: Path) -> None:
    result = compress("-r", "in", "-o", "out")
    assert result.exit_code == 1
    assert "nncodec: error: in/sub/broken.jpg: not a picture" in result.stderr
    assert len(result.stdout.splitlines()) == 3
    assert found(Path("out")) == ["a.aec", "sub/b.aec", "sub/deep er/c.aec"]
    assert call("decompress", "-r", "out", "-o", "back").exit_code == 0
    assert found(Path("back")) == ["a.png", "sub/b.png", "sub/deep er/c.png"]


def test_two_at_a_time_give_the_same_files_as_one(tree: Path) -> None:
    for i in range(8):
        shutil.copy(tree / "a.png", tree / f"copy{i}.png")
    assert compress("-r", "in", "-o", "one").exit_code == 1
    assert compress("-r", "in", "-o", "two", "-j", 3, "--threads", 1).exit_code == 1
    assert found(Path("one")) == found(Path("two"))
    assert all((Path("one") / name).read_bytes() == (Path("two") / name).read_bytes() for name in found(Path("one")))


def test_workers_share_one_load_of_the_model(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loads = []
    load = weights.load

    def slow(*arguments: object) -> Model:
        loads.append(arguments)
        time.sleep(0.2)
        return load(*arguments)  # type: ignore[arg-type]

    assert compress("-r", "in", "-o", "out").exit_code == 1
    codec._load.cache_clear()
    monkeypatch.setattr(weights, "load", slow)
    assert call("decompress", "-r", "out", "-j", 3, "--threads", 1).exit_code == 0
    assert len(loads) == 1


def test_shards_partition_the_inputs_wherever_they_lie(tree: Path) -> None:
    everything = plan([tree], Path("out"), ".aec", PICTURES, recursive=True).jobs
    parts = [[job for job in everything if job in Shard(i, 3)] for i in (1, 2, 3)]
    assert sorted(job.key for part in parts for job in part) == sorted(job.key for job in everything)
    assert max(map(len, parts)) < len(everything)
    tree.rename("elsewhere")
    moved = plan([Path("elsewhere")], None, ".aec", PICTURES, recursive=True).jobs
    assert [[job.key for job in moved if job in Shard(i, 3)] for i in (1, 2, 3)] == [[j.key for j in p] for p in parts]


def test_shards_do_all_the_work_once(tree: Path) -> None:
    for i in (1, 2, 3):
        compress("-r", "in", "-o", "out", "--shard", f"{i}/3")  # a file done twice would exist
    assert found(Path("out")) == ["a.aec", "sub/b.aec", "sub/deep er/c.aec"]


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "a/b", "1/0", "-1/2", "1/2/3", "²/3"])
def test_shards_that_make_no_sense_are_usage_errors(text: str, tree: Path) -> None:
    result = compress("in/a.png", "--shard", text)
    assert result.exit_code == 2
    assert "--shard" in result.stderr


def test_existing_outputs_are_passed_over_on_request(tree: Path) -> None:
    Path("out").mkdir()
    Path("out/a.aec").write_bytes(b"old")
    result = compress("in/a.png", "in/sub/b.PNG", "-o", "out", "--skip-existing")
    assert result.exit_code == 0
    assert "in/a.png -> out/a.aec  skipped: exists" in result.stdout
    assert "1 done, 1 skipped" in result.stderr
    assert Path("out/a.aec").read_bytes() == b"old"
    assert compress("in/a.png", "--skip-existing", "--force").exit_code == 2


def test_no_output_replaces_an_input(tree: Path) -> None:
    second = tree / "a.png.aec"
    shutil.copy(tree / "a.png", second)
    Path("link").symlink_to("in")
    before = second.read_bytes()
    result = compress("in/a.png", second, "-o", "link", "--force", "--keep-suffix")
    assert result.exit_code == 1
    assert "link/a.png.aec: is one of the inputs" in result.stderr
    assert second.read_bytes() == before


def test_the_manifest_says_what_became_of_each_file(tree: Path) -> None:
    assert compress("-r", "in", "-o", "out", "--manifest", "m.jsonl", "--verify", "-q", 90).exit_code == 1
    by_path = {str(e["path"]): e for e in entries(Path("m.jsonl"))}
    assert len(by_path) == 4
    entry = by_path["in/a.png"]
    size = Path("out/a.aec").stat().st_size
    assert (entry["status"], entry["bytes"], entry["written"]) == ("done", size, size)
    assert entry["bpp"] == pytest.approx(8 * size / (40 * 30))
    assert (entry["width"], entry["height"]) == (40, 30)
    assert isinstance(entry["seconds"], float)
    decoded = call("decompress", "out/a.aec", "-o", "a.png")
    assert decoded.exit_code == 0
    a, b = (np.asarray(Image.open(p).convert("RGB")).astype(float) for p in ("in/a.png", "a.png"))
    assert entry["psnr"] == pytest.approx(10 * np.log10(255**2 / np.mean((a - b) ** 2)), abs=0.01)
    assert by_path["in/sub/broken.jpg"]["status"] == "failed"
    assert "not a picture" in str(by_path["in/sub/broken.jpg"]["error"])


def test_a_manifest_resumes(tree: Path) -> None:
    command = ("-r", "in", "-o", "out", "--manifest", "m.jsonl")
    assert compress(*command).exit_code == 1
    stamps = {name: (Path("out") / name).stat().st_mtime_ns for name in found(Path("out"))}
    Image.new("RGB", (20, 20)).save(tree / "sub" / "broken.jpg")
    result = compress(*command, "-j", 2)
    assert result.exit_code == 0, result.stderr
    assert "1 done, 3 skipped" in result.stderr
    assert all((Path("out") / name).stat().st_mtime_ns == stamp for name, stamp in stamps.items())
    Path("out/a.aec").unlink()
    assert "1 done, 3 skipped" in compress(*command).stderr
    assert "4 failed" in compress(*command, "-q", "3").stderr  # other settings: not what was asked for, so not finished
    assert "4 done" in compress(*command, "-q", "3", "--force").stderr


@pytest.mark.parametrize("cut", [1, 2, 40, 10_000])
def test_a_torn_last_line_is_tolerated(tree: Path, cut: int) -> None:
    command = ("in/a.png", "in/sub/b.PNG", "-o", "out", "--manifest", "m.jsonl")
    assert compress(*command).exit_code == 0
    data = Path("m.jsonl").read_bytes()
    last = data.rindex(b"\n", 0, -1) + 1
    keep = max(len(data) - cut, last + 1)
    Path("m.jsonl").write_bytes(data[:keep])
    (Path("out") / ("b.aec" if b"b.PNG" in data[last:] else "a.aec")).unlink()
    assert "1 done, 1 skipped" in compress(*command).stderr
    assert all(json.loads(line) for line in Path("m.jsonl").read_bytes().splitlines()[-1:])
    assert "2 skipped" in compress(*command).stderr


def test_only_a_manifest_is_added_to(tree: Path) -> None:
    before = (tree / "a.png").read_bytes()
    result = compress("in/sub/b.PNG", "--manifest", "in/a.png")
    assert result.exit_code == 1
    assert "in/a.png: is not a manifest" in result.stderr
    assert (tree / "a.png").read_bytes() == before
    assert "absent/m: cannot be used as a manifest" in compress("in/sub/b.PNG", "--manifest", "absent/m").stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_manifest_that_cannot_be_written_ends_the_run(tree: Path) -> None:
    result = compress("in/a.png", "in/sub/b.PNG", "-o", "out", "--manifest", "/dev/full")
    assert result.exit_code == 1
    assert "/dev/full: cannot be written: No space left on device" in result.stderr
    assert found(Path("out")) == []


def test_the_last_line_of_an_output_counts(tmp_path: Path) -> None:
    path, source, target = (tmp_path / name for name in "mst")
    target.write_bytes(b"12345")
    done = Entry(str(source), str(target), DONE, written=5, settings={"quality": 1})

    def finished(quality: int) -> bool:
        with closing(Manifest(path)) as manifest:
            return manifest.finished(source, target, {"quality": quality})

    with closing(Manifest(path)) as manifest:
        manifest.add(done)
        manifest.add(replace(done, status=FAILED, settings={"quality": 2}))
    assert finished(1)
    assert not finished(2)
    with closing(Manifest(path)) as manifest:
        manifest.add(replace(done, status=FAILED))
    assert not finished(1)


def test_what_a_manifest_cannot_know_is_done_again(tree: Path) -> None:
    command = ("in/a.png", "-o", "out/", "--manifest", "m.jsonl", "--force")
    assert "skipped" not in compress(*command).stdout
    assert "skipped" in compress(*command).stdout
    newer = Path("out/a.aec").stat().st_mtime + 1
    os.utime("in/a.png", (newer, newer))
    assert "skipped" not in compress(*command).stdout
    for _ in range(2):
        arguments = ["compress", "-", "-o", "s.aec", "-m", "tiny", "--manifest", "n", "-f"]
        result = CliRunner().invoke(main, arguments, input=Path("in/a.png").read_bytes())
        assert result.exit_code == 0
        assert "skipped" not in result.stdout


def test_verify_refuses_what_does_not_decode(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codec, "compress", lambda *_, **__: b"junk")
    result = compress("in/a.png", "--verify")
    assert result.exit_code == 1
    assert "in/a.png" in result.stderr
    assert found(tree).count("a.aec") == 0


def run_jobs(work: run.Work, count: int, **options: object) -> bool:
    made = [Job(Path(f"{i}.txt"), Path(f"{i}.out")) for i in range(count)]
    for job in made:
        if not job.source.exists():
            job.source.write_text("x")
    return run.run(jobs.Plan(tuple(made)), work, run.Options(**options))  # type: ignore[arg-type]


@pytest.mark.parametrize("workers", [1, 2])
def test_any_error_of_one_file_leaves_the_others_alone(
    workers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    errors = {"1.txt": ZeroDivisionError("bug"), "2.txt": MemoryError(), "3.txt": CorruptError("3.txt: damaged")}

    def work(job: Job, file: IO[bytes], progress: run.Progress) -> run.Facts:
        file.write(b"data")
        if error := errors.get(str(job.source)):
            raise error
        return run.Facts(1, 1, 4)

    assert not run_jobs(work, 6, workers=workers)
    said = capsys.readouterr().err
    assert "1.txt: unexpected ZeroDivisionError: bug; --debug shows where" in said
    assert "2.txt: not enough memory for this picture" in said
    assert "error: 3.txt: damaged" in said
    assert sorted(p.name for p in tmp_path.glob("*.out")) == ["0.out", "4.out", "5.out"]
    assert len(list(tmp_path.iterdir())) == 9
    with pytest.raises(tuple(map(type, errors.values()))):  # whichever thread fails first
        run_jobs(work, 6, workers=workers, overwrite=True, debug=True)


def test_remarks_are_warnings_and_partial_outputs_stay_but_count_as_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    answers = iter([
        run.Facts(2, 2, 1, pixels=16, remarks=("only its first frame",)),
        run.Facts(2, 2, 1, error="1.txt: tile 3 is damaged"),
    ])  # fmt: skip
    assert not run_jobs(lambda *_: next(answers), 2, manifest=Path("m"))
    said = capsys.readouterr()
    assert "nncodec: warning: 0.txt: only its first frame\n" in said.err
    assert "nncodec: error: 1.txt: tile 3 is damaged\n" in said.err
    assert "1 done, 1 partial" in said.err
    assert "0.txt -> 0.out  2x2  1 B  0.500 bpp" in said.out
    assert Path("1.out").exists()
    assert [entry["status"] for entry in entries(Path("m"))] == ["done", "partial"]
    answers = iter([run.Facts(2, 2, 1)])
    assert run_jobs(lambda *_: next(answers), 2, manifest=Path("m"), overwrite=True)  # what is partial is done again


def test_files_are_worked_on_at_the_same_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    together = threading.Barrier(3, timeout=30)

    def work(job: Job, file: IO[bytes], progress: run.Progress) -> run.Facts:
        together.wait()
        return run.Facts(1, 1, 1)

    assert run_jobs(work, 6, workers=3)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_lost_manifest_stops_everything(workers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    def refuse(*_: object) -> None:
        raise ManifestError("m: cannot be written")

    monkeypatch.setattr(Manifest, "add", refuse)
    with pytest.raises(InputError, match="m: cannot"):
        run_jobs(lambda *_: run.Facts(1, 1, 1), 50, workers=workers, manifest=Path("m"))
    assert not list(tmp_path.glob("*.out"))
    assert not list(tmp_path.glob(".*"))


def test_the_help_of_compress_has_sections_and_examples() -> None:
    text = call("compress", "--help").stdout
    order = ["Files:", "--recursive", "--shard", "Picture:", "--quality", "Machine:", "--jobs", "Examples:"]
    assert sorted(order, key=text.index) == order


def test_names_that_are_no_text_are_shown_with_escapes(tree: Path) -> None:
    odd = tree / os.fsdecode(b"odd\xff.png")
    shutil.copy(tree / "a.png", odd)
    result = compress(odd, "-o", "out/", "--manifest", "m.jsonl")
    assert result.exit_code == 0
    assert r"odd\udcff.png -> out/odd\udcff.aec  40x30" in result.stdout
    assert "1 skipped" not in result.stderr
    assert "skipped: finished before" in compress(odd, "-o", "out/", "--manifest", "m.jsonl").stdout


def test_names_that_stdout_cannot_show_end_no_run(tree: Path) -> None:
    japanese, odd = tree / "\u8a9e.png", tree / os.fsdecode(b"odd\xff.png")
    for path in (japanese, odd):
        shutil.copy(tree / "a.png", path)
    begin = [sys.executable, "-m", "nncodec"]
    packed, seen = [japanese.with_suffix(".aec"), odd.with_suffix(".aec")], [r"\u8a9e", r"odd\udcff"]
    for encoding, command, files in (
        ("latin-1:strict", ["compress", "-m", "tiny"], [japanese, odd]),
        ("utf-8:strict", ["info"], packed[1:]),
        ("latin-1:strict", ["verify"], packed),
        ("latin-1:strict", ["compare", str(japanese)], [odd]),
    ):
        environment = os.environ | {"PYTHONIOENCODING": encoding}
        done = subprocess.run([*begin, *command, *files], env=environment, capture_output=True, check=False)
        assert done.returncode == 0, (command, done.stderr)
        assert all(name in done.stdout.decode("ascii") for name in (seen if len(files) > 1 else seen[1:])), command


def test_a_closed_reader_of_result_lines_ends_the_run_quietly(tree: Path) -> None:
    command = f"{sys.executable} -m nncodec compress -m tiny in/*.png -o out | head -n 0; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, check=False)
    assert done.stdout == b"1\n"
    assert done.stderr == b""


def test_a_terminal_sees_a_bar_over_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    reading, writing = pty.openpty()
    fcntl.ioctl(writing, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    with os.fdopen(writing, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)

        def work(job: Job, file: IO[bytes], progress: run.Progress) -> run.Facts:
            time.sleep(0.12)  # tqdm draws every tenth of a second
            return run.Facts(1, 1, 1)

        assert run_jobs(work, 3)
        print("end", file=terminal, flush=True)
        shown = b""
        while not shown.endswith(b"end\r\n"):
            shown += os.read(reading, 10_000)
    os.close(reading)
    assert b"files:   0%" in shown
    assert b"2/3" in shown
    assert shown.endswith(b"\rnncodec: 3 done\r\nend\r\n")
