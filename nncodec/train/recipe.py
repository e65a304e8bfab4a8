"""Recipe: everything that decides a training run, read from and written to TOML.

Knows names and ranges; knows nothing of networks, files of pictures or time.
"""

from __future__ import annotations

import hashlib
import json
import math
import tomllib
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from nncodec.config import CODEC, DENSE, MS_SSIM, PSNR, QUALITIES, SIZES, ModelConfig
from nncodec.errors import InputError
from nncodec.weights import NAME_MAX

OPTIMIZERS = {"adamw": 1e-3, "lion": 1e-4, "soap": 2e-3, "muon": 2e-3}
"""Each optimizer's learning rate unless a recipe states one."""
SCHEDULES = ("cosine", "step", "plateau")
LOSSES = ("mse", "l1", "ms-ssim", "mix", "ssim")
CLOCKS = ("wall", "cpu")
VALIDATION_SHARE = 0.05
"""What the commands keep apart where nothing else is said; a recipe says what it keeps."""
MIDDLE = (25.0, 70.0)
"""Qualities at which photographs have about 30 to 37 dB, which most files are for."""

PRESETS: dict[str, dict[str, Any]] = {
    "28x28": {
        "size": "28x28",
        "arch": DENSE,
        "validation_share": 0.1,
        "test_share": 0.1,
        "crop": 64,
        "late_crop": 64,
        "batch": 128,
        "clock": "cpu",
        "optimizer": "adamw",
        "learning_rate": 2e-3,
        "ema": 0.998,
        "factorized_until": 0.8,
        "loss": "ssim",
        "linear_learning_rate_factor": 1.0,
        "fit_pictures": 256,
        "decoder_share": 0.0,
        "patience": 3,
        "validation_seconds": 120.0,
    }
}
"""Recipe fields for a kind of pictures: 28x28 grey (Fashion-MNIST, MNIST)."""


@dataclass(frozen=True)
class Recipe:
    """A training run; `docs/training.md` says what each field bought.

    data, validation
        Folders of pictures, tar or IDX files of them; without `validation`, `validation_share` of the data.
    test_share
        Share of the data that is looked at once, when training is over; with it the data are split by `seed`.
    arch, latents, width
        Kind of g_a and g_s (`config.ARCHS`), channels of y (0: the size's own), factor on the widths of the size.
    seconds, steps
        The budget, one of the two. Everything anneals to zero inside it.
    clock
        What `seconds` counts: 'wall', or 'cpu' seconds of this process, which stay comparable on a shared machine.
    learning_rate
        0 stands for the optimizer's own (`OPTIMIZERS`).
    schedule
        After warm-up and a constant phase up to `constant_until`: 'cosine' to zero; 'step' halves ten times in equal
        parts; 'plateau' halves when `patience` validations bring nothing better.
    fixed_until
        Share of the joint stage in which every crop has the middle quality.
    factorized_until
        Share of the joint stage in which means and context are left out (`CodecNet.factorized_latents`).
    late_from, late_crop
        Share of the joint stage from which crops are of `late_crop` pixels, as many as make the same area.
    downscaled, relit
        Share of the crops that are area-downscaled, and of those given other light, white balance and saturation.
    middle_share
        Share of the crops whose quality is drawn from MIDDLE; the others' are drawn from all.
    chosen_from
        Share of the joint stage from which synthesis and context see residuals as the default effort chooses them.
    priced_from
        Share of the joint stage from which latents learn from bits as tables price them (those of `init_from`), not
        as Gaussians do (1: never).
    filtered_from
        Share of the joint stage from which the distortion is, for the most part, that behind filters as the default
        effort fits them (1: never).
    decoder_share
        Share of the budget for the last stage: the decoder alone on the residuals that files hold.
    batch, accumulate
        Crops a process and gradient; gradients a step.
    balance
        Divide each crop's loss by the running mean loss of its quality.
    noise
        What is added to what the encoder sees, while the distortion is that of the clean picture: 'gauss:LOW-HIGH',
        white noise of a standard deviation drawn for each crop (255 scale), clipped to the range of levels.
    loss
        Distortion: 'mse', 'l1', 'ms-ssim', 'mix' (MS-SSIM with a tenth of the MSE) or 'ssim' (SSIM with the same).
    dropout
        Share of the channels inside residual blocks that a step leaves out (arch 'enhanced').
    patience
        Stop when so many validations in a row brought nothing better (0: never).
    """

    data: str
    validation: str | None = None
    validation_share: float = 0.0
    test_share: float = 0.0
    size: str = "fast"
    arch: str = CODEC
    latents: int = 0
    width: float = 1.0
    name: str = "mine"
    license: str = "unstated"
    seed: int = 0
    steps: int | None = None
    seconds: float | None = None
    clock: str = "wall"
    optimizer: str = "muon"
    learning_rate: float = 0.0
    linear_learning_rate_factor: float = 0.3
    weight_decay: float = 0.0
    schedule: str = "cosine"
    warmup_steps: int = 300
    constant_until: float = 0.35
    batch: int = 12
    accumulate: int = 1
    crop: int = 128
    late_crop: int = 256
    late_from: float = 0.6
    chosen_from: float = 1.0
    priced_from: float = 1.0
    filtered_from: float = 1.0
    downscaled: float = 0.3
    relit: float = 0.0
    middle_share: float = 0.0
    fixed_until: float = 0.0
    factorized_until: float = 0.0
    decoder_share: float = 0.08
    fit_pictures: int = 32
    loss: str = "mse"
    balance: bool = True
    dropout: float = 0.0
    clip: float = 1.0
    ema: float = 0.9995
    patience: int = 0
    bfloat16: bool = True
    compile: bool = False
    init_from: str | None = None
    decoder_only: bool = False
    encoder_only: bool = False
    noise: str = ""
    checkpoint_seconds: float = 180.0
    validation_seconds: float = 900.0
    device: str = "cpu"

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.seconds is None):
            raise InputError("training needs either a number of steps or a time limit")
        for name, value in asdict(self).items():
            if isinstance(value, float) and not math.isfinite(value):
                raise InputError(f"{name} is {value}; it must be finite")
        if not self.name.isprintable() or not 1 <= len(self.name.encode()) <= NAME_MAX or set(self.name) & set("/\\"):
            raise InputError(f"name is {self.name!a:.120}; a file's has 1 to {NAME_MAX} bytes, printable, no / or \\")
        if self.crop % 64 or self.late_crop % 64:
            raise InputError(f"crops are {self.crop} and {self.late_crop} pixels; both must be multiples of 64")
        if (self.decoder_only or self.encoder_only) and self.init_from is None:
            raise InputError("an encoder or decoder alone can only be trained from weights; name them by init_from")
        if self.decoder_only and self.encoder_only:
            raise InputError("decoder_only and encoder_only leave nothing to train; give one of them")
        if self.noise:
            noise_range(self.noise)
        if self.loss in ("ms-ssim", "mix") and min(self.crop, self.late_crop) < 192:
            raise InputError(f"loss {self.loss} has five levels; give crops of at least 192 pixels (crop, late_crop)")
        if self.validation is None and (self.patience or self.schedule == "plateau") and not self.validation_share:
            raise InputError("patience and the plateau schedule need validation pictures (validation)")
        for name, known in (
            ("optimizer", tuple(OPTIMIZERS)),
            ("schedule", SCHEDULES),
            ("loss", LOSSES),
            ("clock", CLOCKS),
        ):
            if getattr(self, name) not in known:
                raise InputError(f"{name} is {getattr(self, name)!r}; it must be one of {', '.join(known)}")
        if self.test_share and (self.validation or not self.validation_share):
            raise InputError("test_share needs validation_share, and no validation pictures of their own")
        if self.validation_share + self.test_share >= 1:
            raise InputError("validation_share and test_share leave nothing to train on")
        for name in (
            "constant_until",
            "late_from",
            "fixed_until",
            "factorized_until",
            "chosen_from",
            "priced_from",
            "filtered_from",
            "decoder_share",
            "validation_share",
            "test_share",
            "downscaled",
            "relit",
            "middle_share",
        ):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name} is {getattr(self, name)}; it must lie in 0..1")
        if not 0 <= self.dropout < 1:
            raise InputError(f"dropout is {self.dropout}; it must be at least 0 and below 1")
        for name in ("batch", "accumulate", "crop", "late_crop"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; it must be at least 1")

    @property
    def config(self) -> ModelConfig:
        """Shape of the model, where `init_from` does not decide it. Raises InputError."""
        size = SIZES[self.size]
        try:
            widths = {f.name: getattr(size, f.name) for f in fields(size) if "width" in f.name}
            widths = {n: max(8, 8 * round(value * self.width / 8)) for n, value in widths.items()}
            return replace(size, arch=self.arch, y_channels=self.latents or size.y_channels, **widths)
        except ValueError as error:
            raise InputError(f"size {self.size}, arch, latents and width make no model: {error}") from None

    @property
    def rate(self) -> float:
        """Learning rate of the constant phase."""
        return self.learning_rate or OPTIMIZERS[self.optimizer]

    @property
    def tune(self) -> str:
        """What the model is trained for, of `config.TUNES`."""
        return MS_SSIM if self.loss in ("ms-ssim", "mix") else PSNR

    @property
    def measure(self) -> str:
        """What validation scores by: `tune`, or 'ssim'."""
        return self.loss if self.loss == "ssim" else self.tune

    @property
    def facts(self) -> dict[str, str]:
        """What a weights file says of this recipe."""
        facts = {"recipe": self.digest(), "license": self.license, "tune": self.tune}
        return facts | ({"noise": self.noise} if self.noise else {})

    @property
    def fixed_quality(self) -> float:
        return (1 + QUALITIES) / 2

    @property
    def side_min(self) -> int:
        """Smallest picture side that every crop fits into."""
        return max(self.crop, self.late_crop)

    def digest(self) -> str:
        """Twelve hexadecimal digits that name this recipe."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:12]

    def to_toml(self) -> str:
        """The recipe as a TOML document; fields that are None are left out."""
        rows = [f"{name} = {json.dumps(value)}" for name, value in asdict(self).items() if value is not None]
        return "\n".join(rows) + "\n"


def noise_range(noise: str) -> tuple[float, float]:
    """Smallest and largest standard deviation, on the 255 scale, that a recipe's `noise` names. Raises InputError."""
    kind, _, numbers = noise.partition(":")
    low, _, high = numbers.partition("-")
    try:
        found = float(low), float(high or low)
    except ValueError:
        found = -1.0, -1.0
    if kind != "gauss" or not 0 <= found[0] <= found[1] <= 255:
        raise InputError(f"noise is {noise!r}; write gauss:0-50, or gauss:25, in levels of 255")
    return found


def read(path: Path) -> dict[str, Any]:
    """Fields of a recipe file. Raises InputError for files that are not TOML and for unknown names."""
    try:
        values = tomllib.loads(path.read_text())
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a TOML file: {error}") from None
    kinds = {field.name: str(field.type) for field in fields(Recipe)}
    for name, value in values.items():
        if name not in kinds:
            raise InputError(f"{path}: {name!r} is no field of a recipe; known are {', '.join(kinds)}")
        kind = kinds[name].removesuffix(" | None")
        types: dict[str, tuple[type, ...]] = {"str": (str,), "int": (int,), "bool": (bool,), "float": (int, float)}
        if not isinstance(value, types[kind]) or (isinstance(value, bool) and kind != "bool"):
            raise InputError(f"{path}: {name} is {value!r}; it must be of type {kind}")
    return values
