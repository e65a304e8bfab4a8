"""How unusual a picture is among normal ones: what it costs, what is lost of it, what its latents are like.

Knows numbers of pictures and the calibration file. Normal pictures alone decide: the mean and covariance of their
features give a distance (Mahalanobis), and the distances of normal pictures that were left out of both the threshold.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nncodec import __version__, codec, container, decoding, freqs, hiding, quadtree, rows
from nncodec.analysis import describe
from nncodec.analysis.latents import Latents, Part, part_of
from nncodec.config import QUALITIES, Y_STRIDE
from nncodec.container import PIXELS_MAX, Color, Header, SectionType
from nncodec.effort import prices
from nncodec.entropy import Symbols
from nncodec.errors import InputError
from nncodec.weights import Model

FORMAT = "nncodec-anomaly-1"
QUALITY = 50
RATE, ALL = FEATURES = ("rate", "all")
"""What is looked at: bits a pixel and error alone, or the latents as well (`describe.pooled`)."""
FEW = 100
"""Below so many normal pictures a threshold is rough, and the command warns."""
LEAST = 10
"""Below so many there is no calibration."""
FOLDS = 20
"""Parts that the normal pictures are dealt into; each part is scored by a fit to the others."""
MSE_FLOOR, BPP_FLOOR = 1 / 12, 1e-3
"""Added before logarithms: the error of rounding to levels, and next to nothing."""
SCORES_MAX = 1000
"""Scores of normal pictures that a calibration keeps; of more pictures it keeps so many quantiles."""
HEAT_BLOCKS = 256
"""Blocks of each normal picture that tell what heat is usual."""

HEAT_SPAN = 1.0
"""Where normal blocks are much alike, full heat still takes so much more, in logarithm."""

Floats = NDArray[np.float64]


class Measured(NamedTuple):
    """What compressing a picture says of it.

    bpp_est
        Bits a pixel by the model's tables: without container, without what fills streams up, and without blocks
        that lie beyond the picture.
    mse
        Mean squared error, on the 255 scale.
    description
        `describe.pooled` f64.
    error, bits
        f32 [ceil(H / 16), ceil(W / 16)]: mean squared error and bits of each block of 16x16 pixels.
    """

    bpp_est: float
    mse: float
    description: Floats
    error: NDArray[np.float32]
    bits: NDArray[np.float32]

    def features(self, which: str) -> Floats:
        """f64 [2] or [2 + description]: logarithms of rate and error first."""
        rate = np.log([self.bpp_est + BPP_FLOOR, self.mse + MSE_FLOOR])
        return rate if which == RATE else np.concatenate([rate, self.description])

    @property
    def heat(self) -> Floats:
        """Logarithm of error times bits of each block: both what is hard to say and what is said wrongly."""
        product: Floats = np.log((self.error.astype(np.float64) + MSE_FLOOR) * (self.bits + 1.0))
        return product


class Verdict(NamedTuple):
    """`score` is a distance; `percentile` says how many normal pictures, in per cent, score below it."""

    score: float
    percentile: float
    anomalous: bool


class Fit(NamedTuple):
    """Means [D], standard deviations [D] and inverse of the shrunk correlation matrix [D, D] of features."""

    mean: Floats
    scale: Floats
    precision: Floats

    def distance(self, features: Floats) -> Floats:
        """Mahalanobis distances [n] of features [n, D], over the square root of D: about 1 for what is usual."""
        z = (features - self.mean) / self.scale
        distances: Floats = np.sqrt(np.sum(z @ self.precision * z, axis=1) / len(self.mean))
        return distances


@dataclass(frozen=True, eq=False)
class Calibration:
    """What is normal; the content of the JSON file.

    model, model_name, quality
        Weights (id in hex) and quality that pictures are compressed with.
    looked_at
        One of FEATURES.
    percentile, threshold
        So many of normal pictures, in per cent, score at most `threshold`.
    pictures
        How many normal pictures there were.
    fit
        To the features of all of them.
    scores
        Of normal pictures, each by a fit that had not seen it; ascending.
    heat
        95th and 99.9th percentile of `Measured.heat` over blocks of normal pictures.
    """

    model: str
    model_name: str
    quality: int
    looked_at: str
    percentile: float
    threshold: float
    pictures: int
    fit: Fit
    scores: Floats
    heat: tuple[float, float]

    def verdict(self, measured: Measured) -> Verdict:
        """Where a picture stands among the normal ones."""
        score = float(self.fit.distance(measured.features(self.looked_at)[None])[0])
        below = int(np.searchsorted(self.scores, score))
        return Verdict(score, 100.0 * below / (len(self.scores) + 1), score > self.threshold)

    def heatmap(self, measured: Measured) -> Floats:
        """Of each block 0 (as 95 % of normal blocks are) to 1 (beyond all but a thousandth of them)."""
        usual, unusual = self.heat
        return np.clip((measured.heat - usual) / max(unusual - usual, HEAT_SPAN), 0, 1)


def measure(source: Path | bytes, model: Model, quality: int = QUALITY, max_pixels: int = PIXELS_MAX) -> Measured:
    """Compress a picture, decode it, and look at it block by block. Raises InputError."""
    with rows.opened(source, max_pixels) as image:
        data = codec.compress(image, quality, model, max_pixels=max_pixels)
    header, entries = container.parse_header(data, max_pixels)
    streams = [container.payload(data, entries, i) for i, e in enumerate(entries) if e.type is SectionType.TILE]
    bits = np.zeros((-(-header.height // Y_STRIDE), -(-header.width // Y_STRIDE)), np.float32)
    beside, price = 0.0, prices(model.entropy.tables).numpy()

    def parts() -> Iterator[Part]:
        nonlocal beside
        for number, stream in enumerate(streams):
            symbols = decoding.decode_tile(model, header, number, stream)
            y_hat = decoding.reconstruct(model, symbols, header.quality)[0]
            part = part_of(header.height, header.width, decoding.tile_at(header, number), y_hat)
            of_blocks, of_z = _bits(model, header, symbols, price)
            height, width = part.y_hat.shape[1:]
            bits[part.top : part.top + height, part.left : part.left + width] = of_blocks[:height, :width]
            beside += of_z
            yield part

    description = describe.pooled(model, Latents(header.width, header.height, parts()))
    with rows.opened(source, max_pixels) as image:
        error, mse = _errors(model, header, streams, image)
    bpp = (float(bits.sum(dtype=np.float64)) + beside) / (header.width * header.height)
    return Measured(bpp, mse, description, error, bits)


def _bits(
    model: Model, header: Header, symbols: Symbols, price: NDArray[np.float32]
) -> tuple[NDArray[np.float32], float]:
    """Bits f32 [h, w] of y at each position of a tile, and bits of its z and filter, as the tables say."""
    grey = header.color is Color.GREY
    bits = np.zeros(symbols.r_hat.shape, np.float32)
    for k, (residuals, index) in enumerate(model.entropy.walk(symbols, header.quality, grey)):
        paid = price[index, np.minimum(np.abs(residuals), price.shape[1] - 1)]
        if header.hidden:
            free = hiding.carriers(index.reshape(-1))
            paid.reshape(-1)[free] -= residuals.reshape(-1)[free] != 0
        quadtree.put(bits, k, paid)
    z_index = model.entropy.z_index(header.quality, *symbols.z_hat.shape[1:])
    beside = model.entropy.tap_bits(symbols.taps) if header.filtered else 0.0
    return bits.sum(0), freqs.bits(model.entropy.tables, model.entropy.z_coded(symbols.z_hat), z_index) + beside


def _errors(
    model: Model, header: Header, streams: Sequence[bytes], image: rows.Rows
) -> tuple[NDArray[np.float32], float]:
    """Mean squared error, on the 255 scale, of each block [ceil(H / 16), ceil(W / 16)] and of the picture."""
    height, width = -(-header.height // Y_STRIDE), -(-header.width // Y_STRIDE)
    sums, counts = np.zeros((height, width)), np.zeros((height, width))
    peak, top = (1 << header.bit_depth) - 1, 0
    columns = np.arange(0, header.width, Y_STRIDE)
    for band in decoding.bands(model, header, lambda number: (streams[number], None)):
        original = image.rows(top, top + band.height).color
        square = np.square((band.color.astype(np.float32) - original) * (255 / peak))
        square = square if square.ndim == 2 else square.mean(2)
        lines = np.arange(0, band.height, Y_STRIDE)
        where = slice(top // Y_STRIDE, top // Y_STRIDE + len(lines))  # bands begin at multiples of Y_STRIDE
        sums[where] = np.add.reduceat(np.add.reduceat(square, lines, 0, np.float64), columns, 1)
        counts[where] = np.minimum(band.height - lines, Y_STRIDE)[:, None] * np.minimum(
            header.width - columns, Y_STRIDE
        )
        top += band.height
    return (sums / counts).astype(np.float32), float(sums.sum() / counts.sum())


def fitted(features: Floats) -> Fit:
    """Mean, scale and precision of features [n, D], the correlations shrunk as Ledoit and Wolf (2004) advise."""
    mean, scale = features.mean(0), features.std(0) + 1e-6
    z = (features - mean) / scale
    count, size = z.shape
    correlation = z.T @ z / count
    level = np.trace(correlation) / size
    spread = np.square(correlation - level * np.eye(size)).sum()
    noise = (np.square(np.square(z).sum(1)).sum() / count - np.square(correlation).sum()) / count
    share = min(max(noise / spread, 0.01), 1.0) if spread > 0 else 1.0
    shrunk = (1 - share) * correlation + share * max(level, 1e-6) * np.eye(size)
    return Fit(mean, scale, np.linalg.inv(shrunk))


def calibrate(
    measured: Sequence[Measured], model: Model, quality: int, percentile: float = 95.0, looked_at: str = ALL
) -> Calibration:
    """Calibration by normal pictures. Raises InputError below LEAST of them.

    Each is scored by a fit to those of other folds. Of new normal pictures at most ``100 - percentile`` per cent
    score above the threshold, on average over draws: it is the score of rank ``ceil((n + 1) percentile / 100)``.
    """
    if len(measured) < LEAST:
        raise InputError(f"{len(measured)} normal pictures; a calibration needs {LEAST}, better {FEW} and more")
    features = np.stack([one.features(looked_at) for one in measured])
    count = len(features)
    fold = np.random.default_rng(0).permutation(count) % min(FOLDS, count)
    scores = np.empty(count)
    for number in range(fold.max() + 1):
        scores[fold == number] = fitted(features[fold != number]).distance(features[fold == number])
    scores.sort()
    threshold = scores[min(math.ceil((count + 1) * percentile / 100), count) - 1]
    if count > SCORES_MAX:
        scores = np.quantile(scores, np.linspace(0, 1, SCORES_MAX))
    heat = np.concatenate([one.heat.reshape(-1)[:: max(one.heat.size // HEAT_BLOCKS, 1)] for one in measured])
    usual, unusual = np.quantile(heat, [0.95, 0.999])
    return Calibration(
        model.id.hex(), model.name, quality, looked_at, percentile, float(threshold), count, fitted(features), scores,
        (float(usual), float(unusual)),
    )  # fmt: skip


def to_json(calibration: Calibration) -> str:
    """The calibration file's text."""
    facts: dict[str, Any] = {"format": FORMAT, "nncodec": __version__}
    facts |= {field.name: getattr(calibration, field.name) for field in fields(calibration)}
    facts["scores"] = [round(score, 6) for score in calibration.scores.tolist()]
    facts["fit"] = {name: array.astype(np.float32).tolist() for name, array in calibration.fit._asdict().items()}
    return json.dumps(facts)


def read(path: Path) -> Calibration:
    """Read a calibration file. Raises InputError for what is none."""
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise InputError(f"{path}: not a calibration that `nncodec anomaly fit` wrote ({error})") from None
    try:
        if facts.pop("format") != FORMAT:
            raise ValueError("another format")
        facts.pop("nncodec")
        fit = Fit(*(np.array(facts["fit"][name], np.float64) for name in Fit._fields))
        facts |= {"fit": fit, "scores": np.array(facts["scores"], np.float64), "heat": tuple(map(float, facts["heat"]))}
        calibration = Calibration(**facts)
        _check(calibration)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: not a calibration that `nncodec anomaly fit` wrote ({error})") from None
    return calibration


def _check(of: Calibration) -> None:
    if of.looked_at not in FEATURES:
        raise ValueError(f"looked_at is {of.looked_at!r}")
    size = 2 + (describe.dimensions(describe.DEFAULT) if of.looked_at == ALL else 0)
    shapes = [array.shape for array in of.fit]
    if shapes != [(size,), (size,), (size, size)] or of.scores.ndim != 1 or not len(of.scores) or len(of.heat) != 2:
        raise ValueError(f"arrays {shapes} where {size} features are needed")
    if not all(np.isfinite(array).all() for array in (*of.fit, of.scores)) or (of.fit.scale <= 0).any():
        raise ValueError("a number is not one")
    bytes.fromhex(of.model)
    if not math.isfinite(of.threshold) or not 1 <= of.quality <= QUALITIES:
        raise ValueError("threshold or quality is out of range")
