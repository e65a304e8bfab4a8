"""What a run found, whole: the form in which tables, figures, page and results.json are made from it.

Knows how the parts belong together; measures and draws nothing.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nncodec.bench import codecs, summary
from nncodec.bench.codecs import Codec, Missing
from nncodec.bench.speed import Conditions, Speed
from nncodec.bench.summary import Curve, Metric, Pair, Standing


@dataclass(frozen=True)
class Results:
    """One run.

    `curves` are measured here, `published` are not; `standings` rank the measured ones and those of the
    published that have a name in `summary.PUBLISHED_LABELS`; `pairs` has everything. `conditions` is None
    and `speeds` empty where no times were taken.
    """

    created: str
    command: str
    pictures: tuple[str, ...]
    chosen: tuple[Codec, ...]
    missing: tuple[Missing, ...]
    curves: tuple[Curve, ...]
    published: tuple[Curve, ...]
    anchors: dict[Metric, Curve]
    standings: tuple[Standing, ...]
    pairs: tuple[Pair, ...]
    speeds: tuple[Speed, ...]
    conditions: Conditions | None

    @property
    def ours(self) -> list[Curve]:
        names = {codec.name for codec in self.chosen if codec.ours}
        return [curve for curve in self.curves if curve.name in names]

    @property
    def metrics(self) -> list[Metric]:
        """Those that measured curves have: small pictures have no MS-SSIM."""
        return [metric for metric in summary.METRICS if any(curve.points(metric) for curve in self.curves)]

    @property
    def shown(self) -> list[Curve]:
        """Measured curves and the published ones that tables name, by rank."""
        return [standing.curve for standing in self.standings]

    @property
    def drawn(self) -> list[Standing]:
        """Standings for figures: of each model of this project its default alone, if it was measured."""
        names = {curve.name for curve in self.curves}

        def is_drawn(curve: Curve) -> bool:
            own = codecs.variant(curve.name)
            return own is None or own.usual or f"{codecs.OURS}:{own.model}" not in names

        return [standing for standing in self.standings if is_drawn(standing.curve)]


def rank(curves: list[Curve], published: list[Curve], anchor: str | None) -> tuple[dict[Metric, Curve], list[Standing]]:
    """Anchors and ranking of measured curves and named published ones.

    `anchor` is the name of the curve to compare with, for the metrics it has; None for the default.
    """
    named = [curve for curve in published if curve.name in summary.PUBLISHED_LABELS]
    everything = curves + published
    anchors: dict[Metric, Curve] = {}
    for metric in summary.METRICS:
        asked = [c for c in everything if c.name == anchor and c.points(metric)]
        anchors[metric] = asked[0] if asked else summary.default_anchor(everything, metric)
    named += [c for c in anchors.values() if c.source and c not in named]
    return anchors, summary.ranking(curves + named, anchors)


def to_json(results: Results) -> str:
    """The run as JSON; numbers that are not finite become null."""
    document = {
        "created": results.created,
        "command": results.command,
        "pictures": results.pictures,
        "codecs": [{"name": c.name, "label": c.label, "settings": c.settings} for c in results.chosen],
        "missing": [asdict(missing) for missing in results.missing],
        "curves": [_curve(curve) for curve in results.curves],
        "anchors": {metric: curve.name for metric, curve in results.anchors.items()},
        "bd_rate": [{"test": p.test, "anchor": p.anchor, "metric": p.metric, **p.bd._asdict()} for p in results.pairs],
        "conditions": asdict(results.conditions) if results.conditions else None,
        "speed": [asdict(speed) for speed in results.speeds],
    }
    return json.dumps(_finite(document), indent=1, ensure_ascii=False) + "\n"


def read_speeds(path: Path) -> tuple[list[Speed], Conditions | None]:
    """Timings that `to_json` wrote."""

    def read(stored: dict[str, Any]) -> dict[str, Any]:
        return {key: math.nan if value is None else value for key, value in stored.items()}

    document = json.loads(path.read_text(encoding="utf-8"))
    speeds = [Speed(**read(speed)) for speed in document["speed"]]
    stored = document["conditions"]
    if stored is None:
        return speeds, None
    return speeds, Conditions(**{**read(stored), "pictures": tuple(stored["pictures"])})


def _curve(curve: Curve) -> dict[str, Any]:
    return {
        "codec": curve.name,
        "psnr": [point._asdict() for point in curve.psnr],
        "ms_ssim_db": [point._asdict() for point in curve.ms_ssim_db],
    }


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 6) if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(inner) for inner in value]
    return value
