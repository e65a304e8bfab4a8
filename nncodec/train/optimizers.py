"""Optimizers over flat parameters: AdamW of torch; Lion, SOAP and Muon of pytorch-optimizer."""

from __future__ import annotations

import itertools
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from nncodec.errors import InputError
from nncodec.train.flat import LINEAR, MATRIX, VECTOR, FlatParameters
from nncodec.train.recipe import Recipe

BETAS = (0.9, 0.99)


def build(recipe: Recipe, flat: FlatParameters) -> torch.optim.Optimizer:
    """The recipe's optimizer. Every group has a `factor` that multiplies the scheduled learning rate.

    Muon and SOAP treat 1x1 convolutions as matrices and everything else as AdamW does. The linear path has a
    group of its own; weight decay is for matrices.
    """

    def groups(kinds: tuple[str, ...], **extra: Any) -> list[dict[str, Any]]:
        found = []
        for kind in kinds:
            at = flat.of_kind(kind)
            if at is not None:
                factor = recipe.linear_learning_rate_factor if kind == LINEAR else 1.0
                decay = recipe.weight_decay if kind == MATRIX else 0.0
                found.append({"params": [flat.leaf(at)], "factor": factor, "weight_decay": decay, **extra})
        return found

    everything = (MATRIX, VECTOR, LINEAR)
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(groups(everything), lr=recipe.rate, betas=BETAS, fused=True)
    library = _library(recipe.optimizer)
    if recipe.optimizer == "lion":
        return library.Lion(groups(everything), lr=recipe.rate, betas=BETAS, weight_decay=0.0)
    matrices = {"params": flat.matrices(), "factor": 1.0, "weight_decay": recipe.weight_decay}
    if recipe.optimizer == "soap":
        rest = groups((VECTOR, LINEAR))
        return library.SOAP([matrices, *rest], lr=recipe.rate, betas=(0.95, 0.95), weight_decay=0.0)
    # Moonlight's factor gives a matrix the root-mean-square step that Adam gives, so one rate serves both.
    matrices |= {"use_muon": True, "lr": recipe.rate, "use_adjusted_lr": True}
    rest = groups((VECTOR, LINEAR), use_muon=False, lr=recipe.rate, betas=BETAS, eps=1e-8)
    return _muon(library, torch.bfloat16 if recipe.bfloat16 else torch.float32)([matrices, *rest], foreach=True)


def _muon(library: Any, dtype: torch.dtype) -> Any:
    """The library's Muon with its Newton-Schulz steps in `dtype`; it knows bfloat16 alone, slow on many CPUs.

    Processes of one run, which all have the same gradients, share these steps among them.
    """
    from pytorch_optimizer.optimizer.muon.base import get_adjusted_lr
    from pytorch_optimizer.optimizer.utils import zero_power_via_newton_schulz_5

    rank, size = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)

    class Muon(library.Muon):  # type: ignore[misc]
        @staticmethod
        def _orthogonalize(group: dict[str, Any], updates: list[Tensor]) -> list[Tensor]:
            """Polar factors of matrices of one shape or its transpose."""
            upright = [m.mT if m.shape[0] > m.shape[1] else m for m in updates]
            result = zero_power_via_newton_schulz_5(
                torch.stack(upright), num_steps=group["ns_steps"], weights=group["ns_coeffs"], dtype=dtype
            )
            return [r.mT if m.shape[0] > m.shape[1] else r for r, m in zip(result, updates, strict=True)]

        def _step_foreach_group(self, group: dict[str, Any]) -> None:
            """The library's, but each process takes every `size`-th matrix; one exchange brings them together."""
            if size == 1 or not group["use_muon"]:
                super()._step_foreach_group(group)
                return
            params = group["params"]
            grads, buffers = [p.grad for p in params], [self.state[p]["momentum_buffer"] for p in params]
            decay = group["lr"], group["weight_decay"], group["weight_decouple"]
            self.apply_weight_decay_foreach(params, grads, *decay, fixed_decay=False)
            torch._foreach_lerp_(buffers, grads, weight=1.0 - group["momentum"])
            torch._foreach_lerp_(grads, buffers, weight=group["momentum"])
            alike = sorted(grads, key=lambda grad: sorted(grad.shape))  # so that all get as much to do
            torch._foreach_zero_([grad for i, grad in enumerate(alike) if i % size != rank])
            for _, batch in itertools.groupby(alike[rank::size], key=lambda grad: sorted(grad.shape)):
                mine = list(batch)
                torch._foreach_copy_(mine, self._orthogonalize(group, mine))
            updates = torch.cat([grad.reshape(-1) for grad in grads])
            dist.all_reduce(updates)
            parts = torch.split(updates, [p.numel() for p in params])
            for p, update in zip(params, parts, strict=True):
                p.add_(update.view_as(p), alpha=-get_adjusted_lr(group["lr"], p.shape, group["use_adjusted_lr"]))

    return Muon


def _library(name: str) -> Any:
    try:
        import pytorch_optimizer
    except ImportError:
        raise InputError(f"optimizer {name} needs the package pytorch-optimizer: pip install nncodec[train]") from None
    return pytorch_optimizer
