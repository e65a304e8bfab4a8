"""The codecs the benchmark runs: how each encodes, decodes, and which qualities draw its curve.

Knows one adapter a codec; knows nothing of metrics or files. Every codec sees the same bare RGB picture
without metadata, and its rate is that of the whole file it writes.
"""

from __future__ import annotations

import importlib.util
import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, NamedTuple

from PIL import Image, features

from nncodec.config import TUNES
from nncodec.errors import InputError, ModelError

Encode = Callable[[Image.Image, float, int], bytes]
"""(RGB picture, quality, threads) -> file."""
Decode = Callable[[bytes, int], Image.Image]
"""(file, threads) -> RGB picture, pixels loaded."""

OURS = "nncodec"
"""Names of this project's codecs are ``nncodec:MODEL[:eEFFORT][:TUNE]``, the latter off their defaults.

MODEL is the name of installed weights or the path of a .safetensors file.
"""
_OURS = re.compile(rf"{OURS}:(?P<model>[^:]+)(:e(?P<effort>\d+))?(:(?P<tune>{'|'.join(TUNES)}))?")


@dataclass(frozen=True)
class Codec:
    """One codec with everything set but the quality.

    `settings` names versions and options, and is part of the key of a stored row: rows of another
    version are measured again. `ladder` are the qualities of the curve, `quick` those of ``--quick``, both
    from worst to best; `worst` and `best` bound the search for a given rate, in whole steps unless
    `continuous`. `threaded` says whether the codec honors the number of threads.
    """

    name: str
    label: str
    settings: str
    ladder: tuple[float, ...]
    quick: tuple[float, ...]
    encode: Encode
    decode: Decode
    worst: float = 1
    best: float = 100
    continuous: bool = False
    threaded: bool = False

    @property
    def ours(self) -> bool:
        return self.name.split(":")[0] == OURS


@dataclass(frozen=True)
class Missing:
    """A codec that was asked for and cannot run here; `reason` says what to install."""

    name: str
    reason: str


def jpeg() -> Codec | Missing:
    turbo = features.version("libjpeg_turbo")
    return Codec(
        name="jpeg",
        label="JPEG",
        settings=f"{_pillow()}, {f'libjpeg-turbo {turbo}' if turbo else 'libjpeg'}; 4:2:0, optimize, progressive",
        ladder=(5, 10, 20, 35, 50, 65, 80, 90, 95),
        quick=(10, 30, 60, 85),
        encode=lambda picture, quality, threads: _save(
            picture, "JPEG", quality=int(quality), optimize=True, progressive=True
        ),
        decode=lambda data, threads: _load(data, "JPEG"),
        best=95,
    )


def webp() -> Codec | Missing:
    if not features.check("webp"):
        return Missing("webp", "this Pillow was built without WebP")
    return Codec(
        name="webp",
        label="WebP",
        settings=f"{_pillow()}, libwebp {features.version('webp')}; method 6",
        ladder=(1, 5, 15, 30, 50, 70, 80, 90),
        quick=(1, 15, 50, 80),
        encode=lambda picture, quality, threads: _save(picture, "WEBP", quality=int(quality), method=6),
        decode=lambda data, threads: _load(data, "WEBP"),
        worst=0,
    )


def jpeg2000() -> Codec | Missing:
    if not features.check("jpg_2000"):
        return Missing("jpeg2000", "this Pillow was built without OpenJPEG")
    return Codec(
        name="jpeg2000",
        label="JPEG 2000",
        settings=f"{_pillow()}, OpenJPEG {features.version('jpg_2000')}; 9/7, rate mode (quality = ratio)",
        ladder=(240, 160, 90, 50, 28, 18, 12, 8),
        quick=(160, 70, 28, 14),
        encode=lambda picture, quality, threads: _save(
            picture, "JPEG2000", quality_mode="rates", quality_layers=[quality], irreversible=True, mct=1
        ),
        decode=lambda data, threads: _load(data, "JPEG2000"),
        worst=480,
        best=4,
        continuous=True,
    )


def avif() -> Codec | Missing:
    return _avif("avif", "AVIF 4:2:0", "Pillow's default: 4:2:0, speed 6", subsampling="4:2:0", speed=6)


def avif_444() -> Codec | Missing:
    return _avif("avif-444", "AVIF 4:4:4", "4:4:4, speed 4", subsampling="4:4:4", speed=4)


def _avif(name: str, label: str, options: str, subsampling: str, speed: int) -> Codec | Missing:
    if not features.check("avif"):
        return Missing(name, "this Pillow was built without AVIF; install Pillow 11.3 or later")

    def encode(picture: Image.Image, quality: float, threads: int) -> bytes:
        return _save(picture, "AVIF", quality=int(quality), subsampling=subsampling, speed=speed, max_threads=threads)

    def decode(data: bytes, threads: int) -> Image.Image:
        from PIL import AvifImagePlugin

        AvifImagePlugin.DEFAULT_MAX_THREADS = threads  # the plugin's documented way
        return _load(data, "AVIF")

    return Codec(
        name=name,
        label=label,
        settings=f"{_pillow()}, libavif {features.version('avif')}; {options}",
        ladder=(5, 15, 30, 45, 60, 74, 86),
        quick=(10, 30, 55, 75),
        encode=encode,
        decode=decode,
        worst=0,
        threaded=True,
    )


def jxl() -> Codec | Missing:
    if importlib.util.find_spec("pillow_jxl") is None:
        return Missing("jxl", "pip install pillow-jxl-plugin")

    def encode(picture: Image.Image, quality: float, threads: int) -> bytes:
        import pillow_jxl  # noqa: F401 - registers the format

        return _save(picture, "JXL", quality=int(quality), effort=7, num_threads=threads)

    def decode(data: bytes, threads: int) -> Image.Image:
        from pillow_jxl import JpegXLImagePlugin

        JpegXLImagePlugin.DECODE_THREADS = threads
        return _load(data, "JXL")

    return Codec(
        name="jxl",
        label="JPEG XL",
        settings=f"{_pillow()}, pillow-jxl-plugin {version('pillow-jxl-plugin')}; effort 7",
        ladder=(5, 10, 20, 40, 60, 75, 85, 93),
        quick=(10, 30, 60, 85),
        encode=encode,
        decode=decode,
        worst=0,
        best=99,
        threaded=True,
    )


def heic() -> Codec | Missing:
    if importlib.util.find_spec("pillow_heif") is None:
        return Missing("heic", "pip install pillow-heif")
    import pillow_heif

    if not pillow_heif.libheif_info()["HEIF"]:
        return Missing("heic", "this pillow-heif was built without the x265 encoder")
    pillow_heif.register_heif_opener()

    def encode(picture: Image.Image, quality: float, threads: int) -> bytes:
        return _save(picture, "HEIF", quality=int(quality), enc_params={"x265:pools": str(threads)})

    def decode(data: bytes, threads: int) -> Image.Image:
        pillow_heif.options.DECODE_THREADS = threads
        return _load(data, "HEIF")

    x265 = str(pillow_heif.libheif_info()["HEIF"]).split("(")[-1].split("-")[0]
    return Codec(
        name="heic",
        label="HEIC",
        settings=f"pillow-heif {version('pillow-heif')}, libheif {pillow_heif.libheif_version()}, x265 {x265}; 4:2:0",
        ladder=(5, 12, 20, 28, 36, 45, 55, 68),
        quick=(15, 30, 45, 65),
        encode=encode,
        decode=decode,
        worst=0,
        threaded=True,
    )


class Variant(NamedTuple):
    """What the name of one of this project's codecs says; None is the default."""

    model: str
    effort: int | None
    tune: str | None

    @property
    def usual(self) -> bool:
        return self.effort is None and self.tune is None


def variant(name: str) -> Variant | None:
    """None for the names of other codecs."""
    own = _OURS.fullmatch(name)
    return Variant(own["model"], int(own["effort"]) if own["effort"] else None, own["tune"]) if own else None


def nncodec(model: str, effort: int | None = None, tune: str | None = None) -> Codec | Missing:
    """This project's codec on the CPU, with weights `model` (installed, or a .safetensors file).

    None is the default effort and tuning.
    """
    import nncodec as package
    from nncodec import effort as efforts
    from nncodec import weights

    level = efforts.DEFAULT if effort is None else effort
    usual = level == efforts.DEFAULT
    name = f"{OURS}:{model}" + ("" if usual else f":e{level}") + (f":{tune}" if tune else "")
    try:
        found = weights.find(model)
    except ModelError as error:
        return Missing(name, str(error))
    if level not in efforts.LEVELS:
        return Missing(name, f"there is no effort {level}; the levels are {', '.join(map(str, efforts.LEVELS))}")

    def encode(picture: Image.Image, quality: float, threads: int) -> bytes:
        _torch_threads(threads)
        return package.compress(picture, int(quality), model, effort=level, tune=tune, device="cpu")

    def decode(data: bytes, threads: int) -> Image.Image:
        from nncodec import codec

        _torch_threads(threads)
        return package.decompress(data, model=codec.load_model(model, "cpu")).to_pil().convert("RGB")

    return Codec(
        name=name,
        label=f"nncodec {model}" + ("" if usual else f", effort {level}") + (f", tuned for {tune}" if tune else ""),
        settings=f"nncodec {package.__version__}; model {model} {weights.fingerprint(found)}; effort {level}, "
        f"tuned for {tune or found.tune}, CPU",
        ladder=(1, 14, 28, 42, 56, 70, 85, 100),
        quick=(10, 35, 60, 85),
        encode=encode,
        decode=decode,
        threaded=True,
    )


RIVALS: dict[str, Callable[[], Codec | Missing]] = {
    "jpeg": jpeg,
    "jpeg2000": jpeg2000,
    "webp": webp,
    "jxl": jxl,
    "heic": heic,
    "avif": avif,
    "avif-444": avif_444,
}


def find(name: str) -> Codec | Missing:
    """The codec of that name: a key of `RIVALS` or ``nncodec:MODEL[:eEFFORT][:TUNE]``.

    Raises
    ------
    InputError
        No codec is called so.
    """
    if name in RIVALS:
        return RIVALS[name]()
    if own := variant(name):
        return nncodec(own.model, own.effort, own.tune)
    raise InputError(f"{name!r} is no codec; there are {', '.join(RIVALS)} and {OURS}:MODEL[:eEFFORT][:TUNE]")


def require(name: str) -> Codec:
    """`find` for a codec known to run here; raises InputError if it does not after all."""
    codec = find(name)
    if isinstance(codec, Missing):
        raise InputError(f"codec {name} cannot run: {codec.reason}")
    return codec


def select(names: Sequence[str], models: Sequence[str], efforts: Sequence[int]) -> tuple[list[Codec], list[Missing]]:
    """Codecs to run and those that cannot be.

    Parameters
    ----------
    names : sequence of str
        Keys of `RIVALS`, ``nncodec`` for every model and effort, or full names; empty for everything.
    models : sequence of str
        Models that ``nncodec`` stands for; empty for all installed but those that leave noise out.
    efforts : sequence of int
        Efforts that ``nncodec`` stands for; empty for the default one.
    """
    full: list[str] = []
    missing: list[Missing] = []
    for name in names or [OURS, *RIVALS]:
        if name != OURS:
            full.append(name)
            continue
        from nncodec import weights

        chosen = list(models) or weights.installed()
        if not chosen:
            missing.append(Missing(OURS, "no weights are installed"))
        full += [f"{OURS}:{model}{suffix}" for model in chosen for suffix in ([f":e{e}" for e in efforts] or [""])]
    found = list({codec.name: codec for codec in map(find, full)}.values())
    missing += [codec for codec in found if isinstance(codec, Missing)]
    return [codec for codec in found if isinstance(codec, Codec)], missing


def nearest_rate(
    codec: Codec, picture: Image.Image, target: float, known: Mapping[float, float], threads: int = 1
) -> tuple[float, bytes]:
    """The quality whose file for `picture` comes nearest to `target` bits per pixel, and that file.

    Searches by false position between the qualities that enclose the target, at most 6 encodings.

    Parameters
    ----------
    known : mapping of float to float
        Bits per pixel of qualities already measured on this picture; may be empty.
    """
    rates = dict(known)
    tried: dict[float, bytes] = {}

    def encode(quality: float) -> None:
        tried[quality] = codec.encode(picture, quality, threads)
        rates[quality] = 8 * len(tried[quality]) / (picture.width * picture.height)

    for end in (codec.worst, codec.best):
        if not any((rate < target) == (end == codec.worst) for rate in rates.values()):
            encode(end)
    for _ in range(6):
        lower = max((q for q in rates if rates[q] < target), key=rates.__getitem__, default=None)
        upper = min((q for q in rates if rates[q] >= target), key=rates.__getitem__, default=None)
        if lower is None or upper is None:
            break  # out of this codec's reach: the nearest end has to do
        share = math.log(target / rates[lower]) / math.log(rates[upper] / rates[lower])
        if codec.continuous:
            quality = lower * (upper / lower) ** share
        elif upper - lower <= 1:
            break
        else:
            quality = float(min(max(round(lower + (upper - lower) * share), lower + 1), upper - 1))
        encode(quality)
        if abs(rates[quality] / target - 1) < 0.01:
            break
    best = min(rates, key=lambda quality: abs(rates[quality] - target))
    if best not in tried:
        encode(best)
    return best, tried[best]


def _pillow() -> str:
    return f"Pillow {version('pillow')}"


def _torch_threads(threads: int) -> None:
    import torch

    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)


def _save(picture: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def _load(data: bytes, kind: str) -> Image.Image:
    with Image.open(io.BytesIO(data), formats=[kind]) as picture:
        return picture.convert("RGB")
