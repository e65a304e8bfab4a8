"""FlatParameters: all parameters and statistics of a network in one buffer, and all gradients in another.

Norms, clipping, averaging over processes, moving averages and element-wise optimizers then take a
handful of kernels instead of several for each of 300 tensors, and none of them waits for the device.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

MATRIX, VECTOR, LINEAR, STATISTIC = KINDS = ("matrix", "vector", "linear", "statistic")


def kind_of(name: str, parameter: Tensor) -> str:
    """How optimizers treat a parameter: MATRIX, LINEAR (the DCT path) or VECTOR (the rest).

    MATRIX are dense layers, 1x1 convolutions and, in g_a and g_s, all that mix channels: k x k kernels as [out, in kk].
    """
    if ".linear." in name:
        return LINEAR
    mixes = parameter.dim() == 4 and min(parameter.shape[:2]) > 1
    matrix = mixes and (parameter.shape[2:] == (1, 1) or name.startswith(("g_a.", "g_s.")))
    matrix |= parameter.dim() == 2 and not name.endswith(".rows")
    return MATRIX if matrix else VECTOR


class FlatParameters:
    """Parameters that require a gradient, moved into `values`, with `gradients` beside them.

    Of the order of KINDS, so that each kind is one slice. The last, STATISTIC, are the module's buffers (those of batch
    norm): no optimizer sees them, but whoever averages the weights averages what they were normalized by. The module's
    tensors become views; `values`, `gradients` and `average` are f32 [total].
    """

    def __init__(self, module: nn.Module) -> None:
        parameters = [(n, p) for n, p in module.named_parameters() if p.requires_grad]
        parameters.sort(key=lambda item: KINDS.index(kind_of(*item)))
        statistics = list(module.named_buffers())
        named: list[tuple[str, Tensor]] = [*parameters, *statistics]
        self.kinds = [kind_of(n, p) for n, p in parameters] + [STATISTIC] * len(statistics)
        self.names = [n for n, _ in named]
        self.shapes = [p.shape for _, p in named]
        ends = torch.tensor([p.numel() for _, p in named]).cumsum(0).tolist()
        self.slices = [slice(end - p.numel(), end) for end, (_, p) in zip(ends, named, strict=True)]
        first = named[0][1]
        self.values = torch.empty(ends[-1], device=first.device)
        self.gradients = torch.zeros_like(self.values)
        with torch.no_grad():
            for (_, tensor), at, kind in zip(named, self.slices, self.kinds, strict=True):
                view = self.values[at].view(tensor.shape)
                view.copy_(tensor)
                tensor.data = view
                if kind != STATISTIC:
                    tensor.grad = self.gradients[at].view(tensor.shape)
        self.average = self.values.clone()

    def of_kind(self, kind: str) -> slice | None:
        """The part of the buffers that holds what is of `kind`."""
        at = [s for s, k in zip(self.slices, self.kinds, strict=True) if k == kind]
        return slice(at[0].start, at[-1].stop) if at else None

    def leaf(self, at: slice, shape: tuple[int, ...] = (-1,)) -> nn.Parameter:
        """A parameter for an optimizer that shares memory with part of the buffers."""
        parameter = nn.Parameter(self.values[at].view(shape))
        parameter.grad = self.gradients[at].view(shape)
        return parameter

    def matrices(self) -> list[nn.Parameter]:
        """Each MATRIX as [out, in] or [out, in k k]."""
        found = zip(self.slices, self.shapes, self.kinds, strict=True)
        return [self.leaf(at, (shape[0], shape[1:].numel())) for at, shape, kind in found if kind == MATRIX]

    @torch.no_grad()
    def limit_gradients(self, clip: float) -> tuple[Tensor, Tensor]:
        """Scale gradients to a norm of at most `clip`; zero them where the norm is not finite.

        Returns the norm before and whether it was not finite, as tensors [] that nobody waited for.
        """
        norm = torch.linalg.vector_norm(self.gradients)
        finite = torch.isfinite(norm)
        scaled = self.gradients * (clip / norm).clamp(max=1.0)
        torch.where(finite, scaled, torch.zeros_like(scaled), out=self.gradients)
        return norm, ~finite

    @torch.no_grad()
    def update_average(self, decay: float) -> None:
        self.average.lerp_(self.values, 1 - decay)

    def named(self, buffer: Tensor) -> dict[str, Tensor]:
        """Copies of a buffer's tensors by name."""
        rows = zip(self.names, self.slices, self.shapes, strict=True)
        return {name: buffer[at].view(shape).clone() for name, at, shape in rows}

    @torch.no_grad()
    def load(self, buffer: Tensor, tensors: Mapping[str, Tensor]) -> None:
        """Inverse of `named`; tensors of other names are ignored."""
        for name, at in zip(self.names, self.slices, strict=True):
            buffer[at].copy_(tensors[name].reshape(-1))
