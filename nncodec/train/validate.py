"""How good the model is on pictures it does not train on: estimated rate and PSNR at a few qualities."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from nncodec import metrics
from nncodec.config import MS_SSIM, PSNR, ModelConfig
from nncodec.nets.model import CodecNet
from nncodec.objective import MIX_MSE, MS_SSIM_FACTOR
from nncodec.train.data import PictureStore, noisy

QUALITIES = (5, 20, 35, 50, 65, 80, 95)
SIDE = 256
SHOWN_QUALITY = 35


class Validator:
    """Centre crops of up to `pictures` pictures, and what a model makes of them, or of them with `noise`."""

    def __init__(
        self, store: PictureStore, device: torch.device, pictures: int = 16, noise: tuple[float, float] | None = None
    ) -> None:
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
        self.seen = noisy(self.x, noise, torch.Generator(device).manual_seed(0)) if noise else self.x

    @torch.no_grad()
    def rows(self, model: CodecNet) -> list[dict[str, float]]:
        """Mean estimated bpp, mean PSNR and mean MS-SSIM at each of QUALITIES."""
        rows = []
        for quality in QUALITIES:
            bpps, psnrs, similarities = [], [], []
            for at in range(0, len(self.x), 4):
                part = self.x[at : at + 4]
                out = model(self.seen[at : at + 4], torch.full((len(part),), float(quality), device=part.device))
                decoded = _levels(out.x_hat)
                mse = (decoded / 255.0 - part).square().mean((1, 2, 3)).clamp(min=1e-9)
                for original, shown in zip(self.crops[at : at + 4], _pixels(decoded), strict=True):
                    similarities.append(metrics.ms_ssim(original, shown))
                bpps.append((out.y_bits + out.z_bits) / SIDE**2)
                psnrs.append(-10 * torch.log10(mse))
            means = {"bpp_est": float(torch.cat(bpps).mean()), "psnr": float(torch.cat(psnrs).mean())}
            rows.append({"quality": quality, **means, "ms_ssim": float(np.mean(similarities))})
        return rows

    @torch.no_grad()
    def decoded(self, model: CodecNet, count: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
        """u8 [count, SIDE, SIDE, 3]: the first crops at SHOWN_QUALITY."""
        x = self.seen[:count]
        out = model(x, torch.full((len(x),), float(SHOWN_QUALITY), device=x.device))
        return _pixels(_levels(out.x_hat))


def _levels(x_hat: Tensor) -> Tensor:
    return (x_hat.clamp(0, 1) * 255).round()


def _pixels(levels: Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """[n, 3, H, W] -> u8 [n, H, W, 3]."""
    return levels.to(torch.uint8).permute(0, 2, 3, 1).contiguous().cpu().numpy()


def score(rows: list[dict[str, float]], config: ModelConfig, tune: str = PSNR) -> float:
    """Geometric mean over qualities of bpp + lambda distortion, from the means of `rows`: lower is better.

    The distortion is the squared error, or what loss 'mix' makes of MS-SSIM where that is tuned for. One per
    cent less is about one per cent fewer bits plus error, at every rate alike.
    """

    def cost(row: dict[str, float]) -> float:
        distortion = 255.0**2 * 10 ** (-row["psnr"] / 10)
        if tune == MS_SSIM:
            distortion = MS_SSIM_FACTOR * (1.0 - row["ms_ssim"]) + MIX_MSE * distortion
        return row["bpp_est"] + config.lmbda(row["quality"]) * distortion

    return math.exp(sum(math.log(cost(row)) for row in rows) / len(rows))
