"""How good the model is on pictures it does not train on: estimated rate and PSNR at a few qualities."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from nncodec.config import ModelConfig
from nncodec.nets.model import CodecNet
from nncodec.train.data import PictureStore

QUALITIES = (5, 20, 35, 50, 65, 80, 95)
SIDE = 256
SHOWN_QUALITY = 35


class Validator:
    """Centre crops of up to `pictures` pictures, and what a model makes of them."""

    def __init__(self, store: PictureStore, device: torch.device, pictures: int = 16) -> None:
        crops = []
        count = min(pictures, len(store))
        for i in range(count):
            picture = store.picture(i * len(store) // count)
            top, left = (picture.shape[0] - SIDE) // 2, (picture.shape[1] - SIDE) // 2
            crops.append(picture[top : top + SIDE, left : left + SIDE])
        self.crops = np.stack(crops)
        """u8 [n, SIDE, SIDE, 3]"""
        x = torch.from_numpy(self.crops).to(device).permute(0, 3, 1, 2).float() / 255.0
        self.x = x.contiguous(memory_format=torch.channels_last)

    @torch.no_grad()
    def rows(self, model: CodecNet) -> list[dict[str, float]]:
        """Mean estimated bpp and mean PSNR at each of QUALITIES."""
        rows = []
        for quality in QUALITIES:
            bpps, psnrs = [], []
            for part in torch.split(self.x, 4):
                out = model(part, torch.full((len(part),), float(quality), device=part.device))
                mse = (_levels(out.x_hat) / 255.0 - part).square().mean((1, 2, 3)).clamp(min=1e-9)
                bpps.append((out.y_bits + out.z_bits) / SIDE**2)
                psnrs.append(-10 * torch.log10(mse))
            means = {"bpp_est": float(torch.cat(bpps).mean()), "psnr": float(torch.cat(psnrs).mean())}
            rows.append({"quality": quality, **means})
        return rows

    @torch.no_grad()
    def decoded(self, model: CodecNet, count: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
        """u8 [count, SIDE, SIDE, 3]: the first crops at SHOWN_QUALITY."""
        x = self.x[:count]
        out = model(x, torch.full((len(x),), float(SHOWN_QUALITY), device=x.device))
        return _levels(out.x_hat).to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()


def _levels(x_hat: Tensor) -> Tensor:
    return (x_hat.clamp(0, 1) * 255).round()


def score(rows: list[dict[str, float]], config: ModelConfig) -> float:
    """Geometric mean over qualities of bpp + lambda MSE, from mean bpp and mean PSNR: lower is better.

    One per cent less is about one per cent fewer bits plus error, at every rate alike.
    """
    logs = [
        math.log(row["bpp_est"] + config.lmbda(row["quality"]) * 255.0**2 * 10 ** (-row["psnr"] / 10)) for row in rows
    ]
    return math.exp(sum(logs) / len(logs))
