"""How long codecs take and how much memory: warm in one process, interleaved; cold in fresh ones.

Knows clocks; knows nothing of rate or distortion, except that all codecs are timed near one rate.
"""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from nncodec.bench.codecs import Codec
from nncodec.bench.measure import Source
from nncodec.errors import InputError

BUSY = 0.15
"""Share of the processors at work for others from which on timings carry a warning."""


@dataclass(frozen=True)
class Sample:
    """A file of one codec for one picture, near the rate that all are timed at."""

    source: Source
    codec: Codec
    quality: float
    data: bytes

    @property
    def bpp(self) -> float:
        return 8 * len(self.data) / (self.source.picture.width * self.source.picture.height)


@dataclass(frozen=True)
class Speed:
    """Times of one codec.

    `*_ms_mp`: warm milliseconds a megapixel, median over rounds. `*_ratio`: how many times the baseline
    needs that, median over rounds of the quotient within the round. `cold_*_s`: seconds of a fresh process.
    `peak_*`: its peak resident memory in bytes, 0 where unknown. `threads`: as allowed; 1 for a codec that
    has no threads.
    """

    codec: str
    label: str
    bpp: float
    threads: int
    encode_ms_mp: float
    decode_ms_mp: float
    encode_ratio: float
    decode_ratio: float
    cold_encode_s: float
    cold_decode_s: float
    peak_encode: int
    peak_decode: int


@dataclass(frozen=True)
class Conditions:
    """What the timings were taken on and how; `busy` is the share of processor time others used just before."""

    pictures: tuple[str, ...]
    megapixels: float
    rounds: int
    baseline: str
    processor: str
    cores: int
    load_average: float
    busy: float

    @property
    def note(self) -> str:
        text = f"load average {self.load_average:.1f} on {self.cores} cores at the start"
        if self.busy > BUSY:
            text += f"; BUSY: others used {self.busy:.0%} of the machine, trust the ratios, not the times"
        return text


def conditions(samples: Sequence[Sample], rounds: int, load_average: float) -> Conditions:
    """`load_average` as it was before this program did anything."""
    sources = {sample.source.sha256: sample.source for sample in samples}.values()
    return Conditions(
        pictures=tuple(source.name for source in sources),
        megapixels=sum(s.picture.width * s.picture.height for s in sources) / 1e6,
        rounds=rounds,
        baseline=baseline(samples),
        processor=processor(),
        cores=cores(),
        load_average=load_average,
        busy=_busy_share(),
    )


def baseline(samples: Sequence[Sample]) -> str:
    """The codec that ratios are relative to: JPEG, or the first."""
    names = [sample.codec.name for sample in samples]
    return "jpeg" if "jpeg" in names else names[0]


def run(
    samples: Sequence[Sample], rounds: int, threads: int, cold: int, progress: Callable[[int], object]
) -> list[Speed]:
    """Times every codec on every sample.

    Parameters
    ----------
    samples : sequence of Sample
        Every codec on the same pictures.
    rounds : int
        Warm rounds. In a round each sample is encoded and decoded once, codecs taking turns, so that a
        disturbance hits all of them; one round before is not counted.
    threads : int
        Threads a codec may use.
    cold : int
        Fresh processes an action, of which the median counts; 0 for none (nan).
    progress : callable
        Told 1 after each sample of a round and after each fresh process.
    """
    encode, decode = _warm(samples, rounds, threads, progress)
    first = baseline(samples)
    speeds = []
    for name in dict.fromkeys(sample.codec.name for sample in samples):
        own = [sample for sample in samples if sample.codec.name == name]
        megapixels = sum(s.source.picture.width * s.source.picture.height for s in own) / 1e6
        cold_encode, peak_encode = _cold(own[0], "encode", threads, cold, progress)
        cold_decode, peak_decode = _cold(own[0], "decode", threads, cold, progress)
        speeds.append(
            Speed(
                codec=name,
                label=own[0].codec.label,
                bpp=sum(s.bpp for s in own) / len(own),
                threads=threads if own[0].codec.threaded else 1,
                encode_ms_mp=1e3 * statistics.median(encode[name]) / megapixels,
                decode_ms_mp=1e3 * statistics.median(decode[name]) / megapixels,
                encode_ratio=_ratio(encode[name], encode[first]),
                decode_ratio=_ratio(decode[name], decode[first]),
                cold_encode_s=cold_encode,
                cold_decode_s=cold_decode,
                peak_encode=peak_encode,
                peak_decode=peak_decode,
            )
        )
    return speeds


def processor() -> str:
    """The processor's name as the system gives it."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def cores() -> int:
    """Processors this program may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def load_average() -> float:
    """Runnable processes over the last minute; nan where the system does not count them."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")


def _warm(
    samples: Sequence[Sample], rounds: int, threads: int, progress: Callable[[int], object]
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Seconds by codec, one value a round: the sum over its samples."""
    names = dict.fromkeys(sample.codec.name for sample in samples)
    encode: dict[str, list[float]] = {name: [] for name in names}
    decode: dict[str, list[float]] = {name: [] for name in names}
    for round_number in range(rounds + 1):
        seconds = {name: [0.0, 0.0] for name in names}
        for sample in samples:
            codec, started = sample.codec, time.perf_counter()
            codec.encode(sample.source.picture, sample.quality, threads)
            encoded = time.perf_counter()
            codec.decode(sample.data, threads)
            decoded = time.perf_counter()
            seconds[codec.name][0] += encoded - started
            seconds[codec.name][1] += decoded - encoded
            progress(1)
        if round_number:  # the first only warms up
            for name, (spent_encoding, spent_decoding) in seconds.items():
                encode[name].append(spent_encoding)
                decode[name].append(spent_decoding)
    return encode, decode


def _ratio(values: Sequence[float], base: Sequence[float]) -> float:
    return statistics.median(v / b for v, b in zip(values, base, strict=True))


def _cold(
    sample: Sample, action: str, threads: int, times: int, progress: Callable[[int], object]
) -> tuple[float, int]:
    """Median seconds of a fresh process and its peak memory in bytes."""
    if not times:
        return float("nan"), 0
    seconds, peak = [], 0
    with tempfile.TemporaryDirectory() as folder:
        picture, file = Path(folder, "picture.ppm"), Path(folder, "file")
        sample.source.picture.save(picture)
        file.write_bytes(sample.data)
        paths = [picture, Path(folder, "out")] if action == "encode" else [file, Path(folder, "out.ppm")]
        command = [sys.executable, "-m", "nncodec.bench.cold", sample.codec.name, action]
        command += [str(sample.quality), str(threads), *map(str, paths)]
        for _ in range(times):
            started = time.perf_counter()
            done = subprocess.run(command, capture_output=True, text=True)
            seconds.append(time.perf_counter() - started)
            if done.returncode:
                raise InputError(f"{' '.join(command)} failed: {done.stderr.strip()[-500:]}")
            peak = max(peak, int(done.stdout))
            progress(1)
    return statistics.median(seconds), peak


def _busy_share(seconds: float = 0.5) -> float:
    """Share of all processors at work while this program sleeps; nan where the system does not tell."""
    stat = Path("/proc/stat")
    if not stat.exists():
        return float("nan")

    def sample() -> tuple[int, int]:
        numbers = [int(text) for text in stat.read_text().split("\n", 1)[0].split()[1:9]]
        return sum(numbers), numbers[3] + numbers[4]  # all, idle and waiting for disks

    total, idle = sample()
    time.sleep(seconds)
    total_after, idle_after = sample()
    return 1 - (idle_after - idle) / max(total_after - total, 1)
