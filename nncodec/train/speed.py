"""What a device can do: speed of matrix products, bfloat16."""

from __future__ import annotations

import time

import torch

from nncodec.codec import usable_device

BFLOAT16_GAIN = 1.2
"""bfloat16 rounds more, so it must be this much faster to be chosen."""


def matrix_gflops(device: torch.device, bfloat16: bool) -> float:
    """Speed of a large matrix product on `device`, measured for a fraction of a second."""
    kind = torch.bfloat16 if bfloat16 else torch.float32
    side = 8192 if device.type == "cuda" else 1024
    a = torch.randn(side, side, device=device, dtype=kind)
    best = float("inf")
    for _ in range(5):
        begin = time.perf_counter()
        (a @ a)[0, 0].item()
        best = min(best, time.perf_counter() - begin)
    return 2 * side**3 / best / 1e9


def prefers_bfloat16(device: torch.device) -> bool:
    """Whether matrix products in bfloat16 are clearly faster than in float32.

    They are on GPUs and on CPUs with AMX; with AVX512-BF16 alone they took twice as long on a Xeon, half on an EPYC.
    """
    return matrix_gflops(device, True) > BFLOAT16_GAIN * matrix_gflops(device, False)


def device_of(name: str) -> torch.device:
    """The device of that name ('cpu', 'cuda:1', ...). Raises InputError for what this machine has not.

    A GPU that is there is taken at its word: no process is to touch another's.
    """
    gpus = [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    return torch.device(name) if name in gpus or (gpus and name == "cuda") else usable_device(name)
