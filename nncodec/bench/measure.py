"""Rate and distortion of codecs on pictures, over processes; every finished row is kept.

Knows how to run an adapter on a picture; knows nothing of time (`speed`) or curves (`summary`).
"""

from __future__ import annotations

import hashlib
import multiprocessing
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from nncodec import metrics
from nncodec.bench import codecs
from nncodec.bench.codecs import Codec
from nncodec.bench.rows import Key, Row
from nncodec.errors import InputError
from nncodec.picture import SUFFIXES

_EIGHT_BIT = {"1", "L", "P", "RGB", "LA", "RGBA", "CMYK", "YCbCr"}


@dataclass(frozen=True)
class Source:
    """A picture as every codec sees it: upright, 8-bit RGB, alpha over white, no metadata."""

    name: str
    sha256: str
    picture: Image.Image

    @property
    def pixels(self) -> metrics.Pixels:
        """u8 [H,W,3]."""
        return np.asarray(self.picture)


def find_pictures(paths: Sequence[Path]) -> list[Path]:
    """Files as given, folders by their pictures in order of name; raises InputError if there are none."""
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES)
            if not inside:
                raise InputError(f"{path} holds no pictures; looked for {', '.join(sorted(SUFFIXES))}")
            found += inside
        elif path.is_file():
            found.append(path)
        else:
            raise InputError(f"{path} does not exist; give pictures or folders of pictures")
    return list(dict.fromkeys(found))


def load(path: Path) -> Source:
    """Reads a picture; raises InputError where it is none or has more than 8 bits a sample."""
    try:
        with Image.open(path) as opened:
            pixels = flatten(opened, path)
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError) as error:
        raise InputError(f"{path} cannot be read as a picture: {error}") from None
    digest = hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).hexdigest()[:12]
    return Source(path.stem, digest, Image.fromarray(pixels))


def flatten(picture: Image.Image, path: Path) -> metrics.Pixels:
    """u8 [H,W,3], upright and over white; raises InputError, naming `path`, for more than 8 bits."""
    upright = ImageOps.exif_transpose(picture)
    if upright.mode not in _EIGHT_BIT:
        raise InputError(f"{path} has mode {upright.mode}; the benchmark compares 8-bit pictures, convert it")
    if upright.has_transparency_data:
        upright = upright.convert("RGBA")
        upright = Image.alpha_composite(Image.new("RGBA", upright.size, "white"), upright)
    return np.asarray(upright.convert("RGB"))


def measure_one(source: Source, codec: Codec, quality: float) -> Row:
    """Encodes, decodes and compares, on one thread."""
    data = codec.encode(source.picture, quality, 1)
    decoded = np.asarray(codec.decode(data, 1))
    width, height = source.picture.size
    if decoded.shape != source.pixels.shape:
        raise InputError(f"{codec.name} returned {list(decoded.shape)} for {source.name}, {width}x{height}")
    close = metrics.closeness(source.pixels, decoded)
    rate = metrics.bpp(len(data), width, height)
    return Row(
        source.name, source.sha256, width, height, codec.name, codec.label, codec.settings,
        quality, len(data), rate, close.psnr, close.ssim, close.ms_ssim,
    )  # fmt: skip


@dataclass(frozen=True)
class Task:
    """All missing qualities of one codec on one picture: the unit of work of a process."""

    path: Path
    codec: str
    qualities: tuple[float, ...]


def plan(
    paths: Sequence[Path], chosen: Sequence[Codec], done: Collection[Key], quick: bool
) -> tuple[list[Task], set[Key]]:
    """What is left to measure, and the keys of everything the run consists of, done or not."""
    tasks: list[Task] = []
    wanted: set[Key] = set()
    seen: set[str] = set()
    for path in paths:
        sha256 = load(path).sha256
        if sha256 in seen:
            continue  # the same picture under two names counts once
        seen.add(sha256)
        for codec in chosen:
            ladder = codec.quick if quick else codec.ladder
            keys = [Key(sha256, codec.name, codec.settings, float(quality)) for quality in ladder]
            wanted.update(keys)
            left = tuple(key.quality for key in keys if key not in done)
            if left:
                tasks.append(Task(path, codec.name, left))
    return tasks, wanted


def run(tasks: Sequence[Task], jobs: int, progress: Callable[[int], object]) -> Iterator[list[Row]]:
    """Rows of each task as it ends, in no order; `progress` is told how many rows came."""
    if jobs == 1 or len(tasks) == 1:
        for task in tasks:
            rows = _work(task)
            progress(len(rows))
            yield rows
        return
    # Spawned, not forked: torch's and libavif's thread pools do not survive a fork.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context, initializer=_one_thread) as pool:
        futures = [pool.submit(_work, task) for task in tasks]
        try:
            for future in as_completed(futures):
                rows = future.result()
                progress(len(rows))
                yield rows
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _work(task: Task) -> list[Row]:
    source = load(task.path)
    codec = codecs.require(task.codec)
    return [measure_one(source, codec, quality) for quality in task.qualities]


def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)
