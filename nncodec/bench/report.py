"""The report: one HTML page that needs no other file and no network.

Knows what stands where on the page; how it looks and moves stands in ``report.html``.
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from nncodec import metrics
from nncodec.bench import plots, summary, tables
from nncodec.bench.results import Results
from nncodec.bench.speed import Sample

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CROP = (384, 288)
"""Width and height of a crop in pixels; shown at twice the size where there is room."""
PUBLISHED_NOTE = "Rows marked * are figures as published, measured by others on the same pictures."


@dataclass(frozen=True)
class Shot:
    """One codec's crop of one picture; `bpp` and `psnr` are of the whole picture."""

    label: str
    name: str
    crop: Image.Image
    bpp: float
    psnr: float


def page(results: Results, samples: Sequence[Sample], target: float) -> str:
    """The whole page.

    Parameters
    ----------
    samples : sequence of Sample
        Files of each codec near `target` bits per pixel, for the crops; may be empty.
    """
    template = files("nncodec.bench").joinpath("report.html").read_text(encoding="utf-8")
    subtitle = f"mean of {len(results.pictures)} pictures"
    subtitle += ", gray dashes: as published" if results.published else ""
    curves = [standing.curve for standing in results.drawn]
    figures = "".join(_figures(partial(plots.rate_distortion, curves, metric, subtitle)) for metric in results.metrics)
    parts = {
        "TITLE": "nncodec bench",
        "LEDE": _lede(results),
        "FIGURES": figures,
        "RANKING": tables.html_table(tables.ranking(results.standings, results.anchors)),
        "PAIRS": "".join(
            _fold(table.title + " …", tables.html_table(table))
            for curve in results.ours
            if (table := tables.against(curve, results.pairs, [*results.curves, *results.published])).rows
        ),
        "SPEED": _speed(results),
        "VIEWERS": _viewers(samples, target),
        "VERSIONS": tables.html_table(tables.versions(results.chosen, results.missing)),
        "PUBLISHED": PUBLISHED_NOTE if results.published else "",
        "COMMAND": html.escape(results.command),
        "CREATED": html.escape(results.created),
    }
    for name, text in parts.items():
        template = template.replace("{{" + name + "}}", text)
    return template


def busiest(pixels: metrics.Pixels, size: tuple[int, int] = CROP) -> tuple[int, int, int, int]:
    """Left, upper, right, lower of the window of `size` with most detail in the original alone."""
    height, width = pixels.shape[:2]
    w, h = min(size[0], width), min(size[1], height)
    gray = pixels.astype(np.float32).mean(axis=2)  # [H,W]
    # The square root keeps one hard edge from outweighing a whole field of fine texture.
    steps = np.abs(np.diff(gray, axis=0, append=gray[-1:])) + np.abs(np.diff(gray, axis=1, append=gray[:, -1:]))
    detail = np.sqrt(steps)
    total = np.pad(detail, ((1, 0), (1, 0))).astype(np.float64).cumsum(0).cumsum(1)  # [H+1,W+1]
    sums = total[h:, w:] - total[:-h, w:] - total[h:, :-w] + total[:-h, :-w]
    top, left = (int(i) for i in np.unravel_index(int(sums.argmax()), sums.shape))
    return left, top, left + w, top + h


def _lede(results: Results) -> str:
    """The first of our curves against everything measured with it and the anchor, in words."""
    if not results.ours:
        return f"{len(results.curves)} codecs on {len(results.pictures)} pictures; nncodec is not among them."
    ours = results.ours[0]
    labels = {curve.name: curve.label for curve in (*results.curves, results.anchors["psnr"])}
    deltas = [
        (pair.bd.percent, labels[pair.anchor])
        for pair in results.pairs
        if pair.test == ours.name and pair.metric == "psnr" and pair.anchor in labels
        if pair.anchor not in {curve.name for curve in results.ours}
    ]
    fewer = [f"{-p:.0f}\N{NO-BREAK SPACE}% fewer bits than {label}" for p, label in sorted(deltas) if p < 0]
    more = [f"{p:.0f}\N{NO-BREAK SPACE}% more bits than {label}" for p, label in sorted(deltas) if p >= 0]
    if not deltas:
        return f"{ours.label} on {len(results.pictures)} pictures."
    said = "; ".join(filter(None, [", ".join(fewer), ", ".join(more)]))
    return html.escape(f"At equal PSNR {ours.label} needs {said} (BD-rate, {len(results.pictures)} pictures).")


def _speed(results: Results) -> str:
    if results.conditions is None:
        return "<p>No times were taken in this run.</p>"
    c = results.conditions
    subtitle = f"BD-rate on {len(results.pictures)} pictures"
    figure = partial(plots.trade, results.drawn, results.speeds, results.anchors["psnr"], subtitle)
    what = (
        f"{c.processor}, {c.cores} cores. {len(c.pictures)} picture(s), {c.megapixels:.2f} MP in all; warm times are "
        f"medians of {c.rounds} rounds in which the codecs take turns, ratios medians of the quotients within "
        f"a round; cold times are those of a fresh Python process with imports and weights; {c.note}."
    )
    ladders = summary.ladders(results.curves)
    efforts = _figures(partial(plots.effort, ladders, results.speeds, subtitle)) if ladders else ""
    return (
        _figures(figure)
        + efforts
        + tables.html_table(tables.speed(results.speeds, c.baseline))
        + f"<p class=note>{html.escape(what)}</p>"
    )


def _figures(draw: Callable[[bool], Figure]) -> str:
    """The figure for wide screens and for narrow ones, of which the page shows one."""
    return (
        f"<div class=figure><div class=wide>{plots.svg(draw(False))}</div>"
        f"<div class=narrow>{plots.svg(draw(True))}</div></div>"
    )


def _viewers(samples: Sequence[Sample], target: float) -> str:
    by_picture: dict[str, list[Sample]] = {}
    for sample in samples:
        by_picture.setdefault(sample.source.name, []).append(sample)
    return "".join(_viewer(group, target) for group in by_picture.values()) or "<p>No crops in this run.</p>"


def _viewer(samples: Sequence[Sample], target: float) -> str:
    source = samples[0].source
    box = busiest(source.pixels)
    shots = [Shot("Original", "original", source.picture.crop(box), 24.0, float("inf"))]
    for sample in samples:
        decoded = sample.codec.decode(sample.data, 1)
        closeness = metrics.psnr(source.pixels, np.asarray(decoded))
        shots.append(Shot(sample.codec.label, sample.codec.name, decoded.crop(box), sample.bpp, closeness))
    own = {sample.codec.name: i for i, sample in enumerate(samples, 1) if sample.codec.ours}
    ours = own[min(own)] if own else len(shots) - 1  # by name, so that the default effort comes first
    rival = next((i for i, sample in enumerate(samples, 1) if sample.codec.name == "avif"), min(1, ours))
    figures = "".join(_figure(shot, target) for shot in shots)
    width, height = shots[0].crop.size
    return (
        f'<section class=viewer data-left={rival} data-right={ours} style="--w:{width};--h:{height}">'
        f"<h3>{html.escape(source.name)}</h3>"
        "<div class=stage hidden></div>"
        f"<div class=shots>{figures}</div></section>"
    )


def _figure(shot: Shot, target: float) -> str:
    if shot.name == "original":
        caption = "as it is"
    else:
        far = abs(shot.bpp / target - 1) > 0.05
        caption = f"{shot.bpp:.3f} bpp{' (cannot come nearer)' if far else ''}, {shot.psnr:.2f} dB"
    return (
        f'<figure><img alt="{html.escape(shot.label)}" src="{_data_uri(shot.crop)}" width={shot.crop.width} '
        f"height={shot.crop.height}><figcaption><b>{html.escape(shot.label)}</b> "
        f"<span>{caption}</span></figcaption></figure>"
    )


def _data_uri(picture: Image.Image) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", lossless=True, method=4)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()


def _fold(title: str, inside: str) -> str:
    return f"<details><summary>{html.escape(title)}</summary>{inside}</details>"
