"""The processes of one training run, and what they tell each other.

Knows torch.distributed; nothing of models or steps.
"""

from __future__ import annotations

import os

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor


class Group:
    """The processes of one run; alone unless torchrun started several."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.size = int(os.environ.get("WORLD_SIZE", "1"))
        self.rank = int(os.environ.get("RANK", "0"))
        if self.size > 1 and not dist.is_initialized():
            dist.init_process_group("nccl" if device.type == "cuda" else "gloo")

    def sum(self, values: Tensor) -> Tensor:
        """Sum of `values` over the processes, in place."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def from_first(self, values: NDArray[np.int32]) -> NDArray[np.int32]:
        """What rank 0 has; an array of the same shape in every process."""
        if self.size == 1:
            return values
        shared = torch.from_numpy(values.copy()).to(self.device)
        dist.broadcast(shared, 0)
        return shared.cpu().numpy()

    def wait(self) -> None:
        if self.size > 1:
            dist.barrier()

    def close(self) -> None:
        """Leave the group; without it, threads of gloo can outlive Python and abort the process."""
        if self.size > 1:
            dist.destroy_process_group()
