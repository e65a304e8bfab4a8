"""Sixteen threads, one model: the same pictures as one thread gives, and torch left as it was."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import numpy as np
import pytest
import torch

from nncodec import codec, decoding
from nncodec.weights import Model

THREADS = 16


def together(work) -> list:
    """`work(i)` of THREADS threads that start at once."""
    barrier = Barrier(THREADS)

    def one(i: int):
        barrier.wait()
        return work(i)

    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(one, range(THREADS)))


def test_threads_decode_and_encode_the_same(tiny: Model, photo: np.ndarray) -> None:
    pictures = [np.roll(photo, 7 * i, axis=1)[:70, :80] for i in range(THREADS)]
    qualities = [10 + 5 * i for i in range(THREADS)]
    files = [codec.compress(p, q, tiny, tile_log2=6) for p, q in zip(pictures, qualities, strict=True)]
    decoded = [codec.decompress(f, model=tiny).color for f in files]
    assert together(lambda i: codec.compress(pictures[i], qualities[i], tiny, tile_log2=6)) == files
    for one, alone in zip(together(lambda i: codec.decompress(files[i], model=tiny).color), decoded, strict=True):
        assert (one == alone).all()


def test_threads_leave_the_precision_as_it_was(tiny: Model, photo: np.ndarray) -> None:
    data = codec.compress(photo, 50, tiny)
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        seen: list[str] = []

        def decode(i: int) -> None:
            codec.decompress(data, model=tiny, progress=lambda *_: seen.append("decoded"))

        together(decode)
        assert torch.get_float32_matmul_precision() == "medium"
        assert len(seen) == THREADS
    finally:
        torch.set_float32_matmul_precision(before)


def test_precision_is_highest_until_the_last_thread_leaves() -> None:
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        inside = decoding._full_precision
        inside.__enter__()
        inside.__enter__()
        inside.__exit__()
        assert torch.get_float32_matmul_precision() == "highest"
        inside.__exit__()
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)


def test_threads_load_a_model_once(tiny_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NNCODEC_WEIGHTS", str(tiny_path.parent))
    codec._load.cache_clear()
    assert len({id(model) for model in together(lambda _: codec.load_model("tiny", "cpu"))}) == 1
