"""How good the model is on pictures it does not train on: estimated rate, PSNR and similarity at a few qualities."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from nncodec import metrics
from nncodec.config import MS_SSIM, PSNR, ModelConfig
from nncodec.nets.model import PLAIN, CodecNet, Coding
from nncodec.objective import MIX_MSE, MS_SSIM_FACTOR
from nncodec.train.data import PictureStore, grey_planes, noisy, on_plane
from nncodec.train.filtering import filtered

QUALITIES = (5, 20, 35, 50, 65, 80, 95)
SIDE = 256
SHOWN_QUALITY = 35
SSIM = "ssim"
"""What a score of small pictures is by, where they were trained for it; no tune of an encoder."""


class Validator:
    """Centre crops u8 [n, side, side, 3] of up to `pictures` pictures, their planes x, and what a model makes of them.

    With `side` whole grey pictures of that size (up to `pictures`, default 512), of which SSIM takes MS-SSIM's place.
    With `noise` the model sees x with noise of such deviations.
    """

    def __init__(
        self,
        store: PictureStore,
        device: torch.device,
        pictures: int | None = None,
        side: int = 0,
        noise: tuple[float, float] | None = None,
    ) -> None:
        count = min(pictures or (512 if side else 16), len(store))
        places = [i * len(store) // count for i in range(count)]
        self.side, self.batch = side or SIDE, 256 if side else 4
        self.names = ("bpp_est", "psnr", "ssim" if side else "ms_ssim")
        if side:
            planes = grey_planes(store, torch.device("cpu"))[places]
            self.crops = planes[..., None].expand(-1, -1, -1, 3).numpy()
            self.x = on_plane(planes.to(device))
        else:
            crops = []
            for i in places:
                picture = store.picture(i)
                top, left = (picture.shape[0] - SIDE) // 2, (picture.shape[1] - SIDE) // 2
                crops.append(picture[top : top + SIDE, left : left + SIDE])
            self.crops = np.stack(crops)
            x = torch.from_numpy(self.crops).to(device).permute(0, 3, 1, 2).float() / 255.0
            self.x = x.contiguous(memory_format=torch.channels_last)
        self.seen = noisy(self.x, noise, torch.Generator(device).manual_seed(0)) if noise else self.x

    @torch.no_grad()
    def rows(self, model: CodecNet, coding: Coding = PLAIN, filters: bool = False) -> list[dict[str, float]]:
        """Mean estimated bpp, PSNR and (MS-)SSIM at each of QUALITIES; `coding` is that of `CodecNet.latents`.

        With `filters` what is decoded has passed `train.filtering`.
        """
        rows = []
        for quality in QUALITIES:
            bpps, psnrs, similarities = [], [], []
            for at in range(0, len(self.x), self.batch):
                part = self.x[at : at + self.batch]
                q = torch.full((len(part),), float(quality), device=part.device)
                latents = model.latents(self.seen[at : at + self.batch], q, coding=coding)
                x_hat = model.g_s(latents.y_hat, q)
                if filters:
                    x_hat = filtered(x_hat, part, torch.full_like(q, model.config.lmbda(quality)))
                decoded = self._shown(_levels(x_hat))
                original = self._shown(part)
                psnrs.append(-10 * torch.log10((decoded / 255.0 - original).square().mean((1, 2, 3)).clamp(min=1e-9)))
                bpps.append((latents.y_bits + latents.z_bits) / self.side**2)
                if "ssim" in self.names:
                    similarities.append(metrics.similarities(decoded[:, :1], 255.0 * original[:, :1]))
                else:
                    pairs = zip(self.crops[at : at + self.batch], _pixels(decoded), strict=True)
                    similarities.append(torch.tensor([metrics.ms_ssim(*pair) for pair in pairs]))
            means = [float(torch.cat(values).mean()) for values in (bpps, psnrs, similarities)]
            rows.append({"quality": quality, **dict(zip(self.names, means, strict=True))})
        return rows

    def _shown(self, x: Tensor) -> Tensor:
        """[B, 3, H, W] -> what of it belongs to the pictures."""
        return x[:, :, : self.side, : self.side]

    @torch.no_grad()
    def decoded(self, model: CodecNet, count: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
        """u8 [count, side, side, 3]: the first crops at SHOWN_QUALITY."""
        x = self.seen[:count]
        out = model(x, torch.full((len(x),), float(SHOWN_QUALITY), device=x.device))
        return _pixels(_levels(self._shown(out.x_hat)))


def _levels(x_hat: Tensor) -> Tensor:
    return (x_hat.clamp(0, 1) * 255).round()


def _pixels(levels: Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """[n, 3, H, W] -> u8 [n, H, W, 3]."""
    return levels.to(torch.uint8).permute(0, 2, 3, 1).contiguous().cpu().numpy()


def score(rows: list[dict[str, float]], config: ModelConfig, tune: str = PSNR) -> float:
    """Geometric mean over qualities of bpp + lambda distortion, from the means of `rows`: lower is better.

    The distortion is the squared error, or what losses 'mix' and 'ssim' make of MS-SSIM and SSIM where `tune` is one.
    One per cent less is about one per cent fewer bits plus error, at every rate alike.
    """
    similarity = {MS_SSIM: "ms_ssim", SSIM: "ssim"}.get(tune)

    def cost(row: dict[str, float]) -> float:
        distortion = 255.0**2 * 10 ** (-row["psnr"] / 10)
        if similarity:
            distortion = MS_SSIM_FACTOR * (1.0 - row[similarity]) + MIX_MSE * distortion
        return row["bpp_est"] + config.lmbda(row["quality"]) * distortion

    return math.exp(sum(math.log(cost(row)) for row in rows) / len(rows))
