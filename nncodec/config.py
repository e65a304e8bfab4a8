"""ModelConfig: the shape of one model, as stored beside its weights.

Knows channel counts, strides and table shapes; knows nothing of torch, files or training.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields

Y_STRIDE = 16
"""Pixels per latent position of y in each direction."""
Z_STRIDE = 64
"""Pixels per latent position of z; every plane is padded to a multiple of it."""
Z_BYTES = 4
"""A tile's stream has at least so many bytes for each position of z: no file claims over 1024 pixels a byte."""
PASSES = 4
"""Coding passes over y, one per position of a 2x2 cell and channel group."""
GROUPS = 4
"""Channel groups of y."""
QUALITIES = 100
"""Qualities are the integers 1..QUALITIES."""

SCALE_INDEX_MAX = 63
"""Scale indices are 0..SCALE_INDEX_MAX; index 0 is 'not coded, residual 0'."""
SCALE_MIN = 0.11
"""Standard deviation, in quantisation steps, of scale index 0."""
SCALE_MAX = 160.0
"""Standard deviation, in quantisation steps, of scale index SCALE_INDEX_MAX."""
Z_MAX = 127
"""z_hat lies in -Z_MAX..Z_MAX."""
MAGNITUDE_MAX = 15
"""The scale context sees min(|r|, MAGNITUDE_MAX)."""

CODEC, BASELINE, POOLING, ENHANCED, VARIATIONAL, DENSE = ARCHS = (
    "codec", "baseline", "pooling", "enhanced", "variational", "dense"
)  # fmt: skip
"""Kinds of g_a and g_s: this codec's own, the classic ones of `nets.classic`, and that of small grey pictures."""

_CLASSIC_REACH = {BASELINE: (15, 15), POOLING: (15, 15), ENHANCED: (71, 58), VARIATIONAL: (15, 15)}
"""Receptive fields of g_a and g_s beyond their window, in pixels; of 'enhanced' those of its convolutions."""

PSNR, MS_SSIM = TUNES = ("psnr", "ms-ssim")
"""What a model can be trained for and an encoder can count errors by."""

_UNSAID = {"arch": CODEC, "side": 0, "block_knots": 0}
"""Fields of ModelConfig that the first weights had no word for, as they had them."""

WIDTH_MAX, DEPTH_MAX = 4096, 64
"""Largest width and depth of a network: what a weights file claims sizes its modules before its tensors do."""


@dataclass(frozen=True)
class ModelConfig:
    """Channel widths and depths of one model.

    ``*8`` and ``*16`` name the stride a width or depth belongs to; `arch` is one of ARCHS. The classic archs take
    their widths from these and have depths of their own. A `side` other than 0 says that pictures are grey and of
    side x side pixels; arch 'dense' has one, and uses the ``*16`` alone. `block_knots` qualities have gains and offsets
    of their own inside the blocks of g_a and g_s (arch 'codec'); with 0 there are none.
    """

    y_channels: int
    z_channels: int
    encoder_width8: int
    encoder_depth8: int
    encoder_width16: int
    encoder_depth16: int
    decoder_width16: int
    decoder_depth16: int
    decoder_width8: int
    decoder_depth8: int
    hyper_width: int
    mean_width: int
    scale_width: int
    knots: int = 12
    lmbda_min: float = 0.0005
    lmbda_max: float = 0.50
    arch: str = CODEC
    side: int = 0
    block_knots: int = 0

    def __post_init__(self) -> None:
        if self.arch not in ARCHS:
            raise ValueError(f"ModelConfig.arch is {self.arch!r}; known are {', '.join(ARCHS)}")
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name == "arch" or (field.name in _UNSAID and value == _UNSAID[field.name]):
                continue
            if field.type == "int" and (not isinstance(value, int) or isinstance(value, bool)):
                raise ValueError(f"ModelConfig.{field.name} is {value!r}; it must be a whole number")
            if not isinstance(value, int | float) or not 1e-9 <= value <= WIDTH_MAX:
                raise ValueError(f"ModelConfig.{field.name} is {value!r}; it must be positive, at most {WIDTH_MAX}")
            if "_depth" in field.name and value > DEPTH_MAX:
                raise ValueError(f"ModelConfig.{field.name} is {value!r}; at most {DEPTH_MAX}")
        if self.y_channels % GROUPS:
            raise ValueError(f"y_channels is {self.y_channels}; it must be a multiple of {GROUPS}")
        if self.y_channels > 3 * Y_STRIDE**2:
            raise ValueError(f"y_channels is {self.y_channels}; at most {3 * Y_STRIDE**2}")
        if self.knots < 2 or self.block_knots == 1:
            raise ValueError("knots and block_knots must be at least 2")
        if (self.arch == DENSE) != (Y_STRIDE <= self.side <= Z_STRIDE):
            sides = f"{Y_STRIDE}..{Z_STRIDE} with {DENSE}, else 0"
            raise ValueError(f"side is {self.side} with arch {self.arch}; it must be {sides}")
        if self.side and self.y_channels * (Z_STRIDE // Y_STRIDE) ** 2 > self.side**2:
            raise ValueError(f"y_channels is {self.y_channels}; too many for {self.side}x{self.side} pixels")

    def lmbda(self, quality: float) -> float:
        """Lagrangian weight of the mean squared error (255 scale) at `quality` in 1..100."""
        t = (quality - 1) / (QUALITIES - 1)
        return math.exp((1 - t) * math.log(self.lmbda_min) + t * math.log(self.lmbda_max))

    @property
    def analysis_halo(self) -> int:
        """Receptive field of g_a beyond its window, in pixels, a multiple of Y_STRIDE.

        Attention ('enhanced') sees all of the window and its halo, and nothing beyond.
        """
        return math.ceil(self._reach[0] / Y_STRIDE) * Y_STRIDE

    @property
    def synthesis_halo(self) -> int:
        """Receptive field of g_s beyond its window, in pixels, a multiple of Y_STRIDE; attention as in g_a."""
        return math.ceil(self._reach[1] / Y_STRIDE) * Y_STRIDE

    @property
    def _reach(self) -> tuple[int, int]:
        """Receptive fields of g_a and g_s beyond their window, in pixels."""
        if self.arch in _CLASSIC_REACH:
            return _CLASSIC_REACH[self.arch]
        if self.side:
            return Z_STRIDE, Z_STRIDE
        encoder = 8 * self.encoder_depth8 + 16 * self.encoder_depth16
        return encoder, 8 * self.decoder_depth8 + 16 * self.decoder_depth16

    def refusal(self, width: int, height: int, grey: bool) -> str:
        """Why weights of this shape don't code such a picture; empty where they do."""
        if not self.side or (grey and width == height == self.side):
            return ""
        kind = "grey" if grey else "color"
        return f"these weights code grey pictures of {self.side}x{self.side}, this one is {kind} of {width}x{height}"

    def to_dict(self) -> dict[str, int | float | str]:
        """As stored beside weights and hashed into their id; what is _UNSAID goes without saying."""
        return {name: value for name, value in asdict(self).items() if _UNSAID.get(name) != value}

    @classmethod
    def from_dict(cls, values: dict[str, int | float | str]) -> ModelConfig:
        """Inverse of `to_dict`; raises ValueError on unknown or missing names."""
        known = {field.name for field in fields(cls)}
        if set(values) - known:
            raise ValueError(f"unknown ModelConfig fields {sorted(set(values) - known)}")
        try:
            return cls(**values)  # type: ignore[arg-type]
        except TypeError as error:
            raise ValueError(str(error)) from None


FAST = ModelConfig(
    y_channels=320,
    z_channels=64,
    encoder_width8=96,
    encoder_depth8=5,
    encoder_width16=192,
    encoder_depth16=3,
    decoder_width16=160,
    decoder_depth16=2,
    decoder_width8=80,
    decoder_depth8=6,
    hyper_width=96,
    mean_width=96,
    scale_width=64,
    block_knots=6,
)
"""About 5 kMAC/px of synthesis: trainable and quick on a CPU."""

BASE = ModelConfig(
    y_channels=320,
    z_channels=96,
    encoder_width8=192,
    encoder_depth8=6,
    encoder_width16=320,
    encoder_depth16=4,
    decoder_width16=256,
    decoder_depth16=3,
    decoder_width8=128,
    decoder_depth8=9,
    hyper_width=192,
    mean_width=192,
    scale_width=96,
    block_knots=6,
)
"""About 17 kMAC/px of synthesis: to be trained on a GPU."""

TINY = ModelConfig(
    y_channels=32,
    z_channels=8,
    encoder_width8=16,
    encoder_depth8=1,
    encoder_width16=16,
    encoder_depth16=1,
    decoder_width16=16,
    decoder_depth16=1,
    decoder_width8=16,
    decoder_depth8=1,
    hyper_width=16,
    mean_width=16,
    scale_width=16,
    block_knots=6,
)
"""For tests: every path, no cost."""

SMALL28 = ModelConfig(
    y_channels=8,
    z_channels=1,
    encoder_width8=8,
    encoder_depth8=1,
    encoder_width16=256,
    encoder_depth16=2,
    decoder_width16=384,
    decoder_depth16=2,
    decoder_width8=8,
    decoder_depth8=1,
    hyper_width=8,
    mean_width=16,
    scale_width=8,
    lmbda_min=0.001,
    lmbda_max=0.10,
    arch=DENSE,
    side=28,
)
"""Grey pictures of 28x28: 128 latent values, no z."""

SIZES = {"fast": FAST, "base": BASE, "tiny": TINY, "28x28": SMALL28}


def scale_of_index(index: float) -> float:
    """Standard deviation, in quantisation steps, that a scale index stands for."""
    return SCALE_MIN * math.pow(SCALE_MAX / SCALE_MIN, index / SCALE_INDEX_MAX)
