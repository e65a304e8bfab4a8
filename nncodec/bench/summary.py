"""From rows to curves and from curves to who needs fewer bits: means, BD-rates, ranking.

Knows points and how published ones are read; knows nothing of how they were measured or are drawn.
"""

from __future__ import annotations

import csv
import math
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from nncodec import metrics
from nncodec.bench import codecs
from nncodec.bench.rows import Key, Row
from nncodec.config import MS_SSIM, PSNR
from nncodec.errors import InputError
from nncodec.metrics import BdRate, Point

Metric = Literal["psnr", "ms_ssim_db"]
METRICS: tuple[Metric, ...] = ("psnr", "ms_ssim_db")
METRIC_LABELS: dict[Metric, str] = {"psnr": "PSNR", "ms_ssim_db": "MS-SSIM"}

PUBLISHED_LABELS = {
    "vtm18.0": "VTM 18 (H.266)",
    "compressai:vtm": "VTM 9.1 (H.266)",
    "compressai:hm": "HM (H.265)",
    "compressai:bpg_444_x265_ycbcr": "BPG 4:4:4",
    "compressai:av1": "AV1 (libaom)",
    "hpcm-large": "HPCM-Large",
    "mlic++": "MLIC++",
    "compressai:paper-elic2022_mse": "ELIC",
    "cool-chic v5.0": "Cool-Chic 5",
    "c3repo:EVC-S": "EVC-S",
    "shallow-ntc 2-layer_syn": "shallow-ntc",
    "compressai:cheng2020-anchor_mse_cuda": "Cheng 2020",
    "compressai:bmshj2018-hyperprior_mse_cuda": "Hyperprior (Ballé 2018)",
}
"""The published curves that tables and figures show by name; the others stand in results.json."""
ANCHORS: dict[Metric, tuple[str, ...]] = {"psnr": ("vtm18.0", "jpeg"), "ms_ssim_db": ("compressai:vtm", "jpeg")}
"""Curves that others are compared with unless told, the first that is there; VTM 18 has no MS-SSIM published."""
TUNE_METRICS: dict[str, Metric] = {PSNR: "psnr", MS_SSIM: "ms_ssim_db"}
"""What shows what a tuning is for."""


@dataclass(frozen=True)
class Curve:
    """Rate and quality of one codec over a set of pictures, each point a mean over all of them.

    `psnr` is the mean of per-picture PSNR; `ms_ssim_db` the mean MS-SSIM in dB; either may be empty.
    `source` is empty for a curve measured here, otherwise who published it.
    """

    name: str
    label: str
    psnr: tuple[Point, ...]
    ms_ssim_db: tuple[Point, ...]
    source: str = ""

    def points(self, metric: Metric) -> tuple[Point, ...]:
        return self.psnr if metric == "psnr" else self.ms_ssim_db


@dataclass(frozen=True)
class Pair:
    """Bits `test` needs relative to `anchor` at equal quality by `metric`."""

    test: str
    anchor: str
    metric: Metric
    bd: BdRate


@dataclass(frozen=True)
class Standing:
    """One line of the ranking; None where a curve does not overlap its anchor's or has no such metric."""

    curve: Curve
    psnr: BdRate | None
    ms_ssim_db: BdRate | None

    def bd(self, metric: Metric) -> BdRate | None:
        return self.psnr if metric == "psnr" else self.ms_ssim_db


class Rung(NamedTuple):
    """One effort: `percent` bits against effort 0 at equal quality."""

    effort: int
    curve: Curve
    percent: float


@dataclass(frozen=True)
class Ladder:
    """The efforts of a model tuned for `metric`, the lowest first."""

    model: str
    metric: Metric
    rungs: tuple[Rung, ...]


def measured(rows: Sequence[Row], wanted: Collection[Key] | None = None) -> list[Curve]:
    """Curves of `rows`, or of those with a wanted key; a quality that lacks a picture is left out."""
    rows = [row for row in rows if wanted is None or row.key in wanted]
    pictures = {row.picture_sha256 for row in rows}
    groups: dict[str, dict[tuple[str, float], list[Row]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        groups[row.codec][row.settings, row.quality].append(row)
    curves = []
    for codec, settings in sorted(groups.items()):
        complete = [group for group in settings.values() if {r.picture_sha256 for r in group} == pictures]
        if complete:
            curves.append(
                Curve(
                    name=codec,
                    label=complete[0][0].label,
                    psnr=_points(complete, "psnr"),
                    ms_ssim_db=_points(complete, "ms_ssim_db"),
                )
            )
    return curves


def published(path: Path, dataset: str = "kodak") -> list[Curve]:
    """Curves of a CSV with the columns dataset, codec, source_repo, metric, bpp, value.

    Metrics other than ``psnr_rgb``, ``ms_ssim`` and ``ms_ssim_db`` are left out.

    Raises
    ------
    InputError
        A column is missing or a value is no number.
    """
    scales: dict[str, tuple[Metric, bool]] = {
        "psnr_rgb": ("psnr", False),
        "ms_ssim_db": ("ms_ssim_db", False),
        "ms_ssim": ("ms_ssim_db", True),
    }
    points: dict[str, dict[Metric, list[Point]]] = defaultdict(lambda: defaultdict(list))
    sources: dict[str, str] = {}
    try:
        with path.open(newline="", encoding="utf-8") as file:
            for line in csv.DictReader(file):
                if line["dataset"] != dataset or line["metric"] not in scales:
                    continue
                metric, convert = scales[line["metric"]]
                value = float(line["value"])
                value = metrics.similarity_db(value) if convert else value
                points[line["codec"]][metric].append(Point(float(line["bpp"]), value))
                sources[line["codec"]] = line["source_repo"]
    except (KeyError, ValueError, OSError) as error:
        raise InputError(f"{path} is no table of published curves ({error!r}); see docs/bench.md") from None
    return [
        Curve(
            name=codec,
            label=PUBLISHED_LABELS.get(codec, codec),
            psnr=tuple(metrics.increasing(by_metric["psnr"])),
            ms_ssim_db=tuple(metrics.increasing(by_metric["ms_ssim_db"])),
            source=sources[codec],
        )
        for codec, by_metric in points.items()
    ]


def copy_published(source: Path, target: Path, names: Collection[str]) -> None:
    """The lines of the curves called `names`, unchanged, so that results can be checked without `source`."""
    with source.open(newline="", encoding="utf-8") as file:
        lines = list(csv.reader(file))
    column = lines[0].index("codec")
    with target.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([lines[0], *(x for x in lines[1:] if x[column] in names)])


KODAK = frozenset(f"kodim{n:02d}" for n in range(1, 25))
"""Names of Kodak's pictures."""


def is_kodak(rows: Sequence[Row]) -> bool:
    """Whether the pictures are the 24 of Kodak, by name and size: what published curves are means over."""
    whole = {row.picture for row in rows if {row.width, row.height} == {768, 512}}
    return whole == {row.picture for row in rows} == KODAK


def pairs(curves: Sequence[Curve]) -> list[Pair]:
    """BD-rate of every measured curve against every other curve that it overlaps, by both metrics."""
    return [
        Pair(test.name, anchor.name, metric, bd)
        for metric in METRICS
        for test in curves
        for anchor in curves
        if not test.source and test.name != anchor.name
        if (bd := metrics.bd_rate(anchor.points(metric), test.points(metric))) is not None
    ]


def default_anchor(curves: Sequence[Curve], metric: Metric) -> Curve:
    """The first of `ANCHORS` among `curves`, or the curve that needs most bits at its lowest quality."""
    by_name = {curve.name: curve for curve in curves if curve.points(metric)}
    for name in ANCHORS[metric]:
        if name in by_name:
            return by_name[name]
    return max(by_name.values() or curves, key=lambda curve: max(curve.points(metric), default=Point(0, 0)))


def ranking(curves: Sequence[Curve], anchors: dict[Metric, Curve]) -> list[Standing]:
    """Curves by BD-rate (PSNR) against their anchor, fewest bits first; those without one last."""
    standings = [
        Standing(
            curve,
            metrics.bd_rate(anchors["psnr"].psnr, curve.psnr),
            metrics.bd_rate(anchors["ms_ssim_db"].ms_ssim_db, curve.ms_ssim_db),
        )
        for curve in curves
    ]
    return sorted(standings, key=lambda s: s.psnr.percent if s.psnr else math.inf)


def ladders(curves: Sequence[Curve]) -> list[Ladder]:
    """What each of this project's models gains by effort, by what it is tuned for; needs its effort 0."""
    from nncodec import effort

    named = {own: curve for curve in curves if (own := codecs.variant(curve.name))}
    found = []
    for model, base in ((own.model, curve) for own, curve in named.items() if own.effort == 0):
        for tune, metric in TUNE_METRICS.items():
            rungs = [Rung(0, base, 0.0)]
            for own, curve in named.items():
                saved = metrics.bd_rate(base.points(metric), curve.points(metric))
                if own.model == model and own.effort != 0 and (own.tune or PSNR) == tune and saved:
                    rungs.append(Rung(effort.DEFAULT if own.effort is None else own.effort, curve, saved.percent))
            if len(rungs) > 1:
                found.append(Ladder(model, metric, tuple(sorted(rungs, key=lambda rung: rung.effort))))
    return found


def _points(groups: Sequence[Sequence[Row]], metric: Metric) -> tuple[Point, ...]:
    points = []
    for group in groups:
        rate = sum(row.bpp for row in group) / len(group)
        if metric == "psnr":
            quality = sum(row.psnr for row in group) / len(group)
        else:
            quality = metrics.similarity_db(sum(row.ms_ssim for row in group) / len(group))
        if math.isfinite(quality):
            points.append(Point(rate, quality))
    return tuple(sorted(points))
