"""Multiply-accumulates per pixel of each part of a model, counted by torch on a real forward pass."""

from __future__ import annotations

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from nncodec.config import PASSES, Z_STRIDE, ModelConfig
from nncodec.nets.model import CodecNet

HEIGHT, WIDTH = 512, 768


def kmac_per_pixel(config: ModelConfig) -> dict[str, float]:
    """Thousands of multiply-accumulates a pixel: g_a, h_a, means, scales, g_s, on a Kodak-sized frame.

    For pictures of one size, a pixel of these.
    """
    net = CodecNet(config).eval()
    height, width = (Z_STRIDE, Z_STRIDE) if config.side else (HEIGHT, WIDTH)
    pixels = config.side**2 or HEIGHT * WIDTH
    x = torch.zeros(1, 3, height, width)
    q = torch.full((1,), 50.0)
    counts: dict[str, float] = {}

    def count(name: str, counter: FlopCounterMode) -> None:
        counts[name] = counter.get_total_flops() / 2 / pixels / 1000

    # The counter does not know the CPU's fused attention; as products of matrices it is counted.
    with torch.inference_mode(), sdpa_kernel(SDPBackend.MATH):
        with FlopCounterMode(display=False) as counter:
            y = net.g_a(x, q)
        count("g_a", counter)
        with FlopCounterMode(display=False) as counter:
            z = net.h_a(y, q)
        count("h_a", counter)
        with FlopCounterMode(display=False) as counter:
            features = net.mean_net.features(z)
            for k in range(PASSES):
                net.mean_net.means(features, y, q, k)
        count("means", counter)
        with FlopCounterMode(display=False) as counter:
            features = net.scale_net.features(z, q)
            for k in range(PASSES):
                net.scale_net.index(features, y, q, k)
        count("scales", counter)
        with FlopCounterMode(display=False) as counter:
            net.g_s(y, q)
        count("g_s", counter)
    counts["decode"] = counts["means"] + counts["scales"] + counts["g_s"]
    counts["encode"] = counts["g_a"] + counts["h_a"] + counts["means"] + counts["scales"]
    return counts
