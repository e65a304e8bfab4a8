"""Figures: rate-distortion curves, and bits saved against time to decode; PNG and SVG.

Knows curves and standings; draws nothing that a table does not say too.
"""

from __future__ import annotations

import io
import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nncodec.bench.codecs import OURS
from nncodec.bench.speed import Speed
from nncodec.bench.summary import METRIC_LABELS, Curve, Ladder, Metric, Standing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, FAINT, GRID = "#1c2024", "#80868d", "#e4e7ea"
OUR_COLORS = ("#d6336c", "#f06595", "#a61e4d", "#e8590c")
"""One hue for this project's codecs; the eye finds it first."""
COLORS = {
    "jpeg": "#868e96",
    "jpeg2000": "#a0793d",
    "webp": "#2b8a3e",
    "jxl": "#7048e8",
    "heic": "#0b7285",
    "avif": "#4dabf7",
    "avif-444": "#1864ab",
}
PUBLISHED_DASHES = ((0, (1.2, 1.6)), (0, (5, 1.6)), (0, (5, 1.6, 1.2, 1.6)), (0, (9, 3)))
DRAWN_PUBLISHED = ("vtm18.0", "compressai:vtm", "mlic++", "cool-chic v5.0", "shallow-ntc 2-layer_syn")
"""Published curves in rate-distortion figures; more would hide the measured ones."""
NARROW = (4.6, 4.8)
"""Inches; on a phone a point of it is about a CSS pixel."""
BPP_RANGE = (0.08, 2.2)
BPP_TICKS = (0.1, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2)
AXIS_LABELS: dict[Metric, str] = {"psnr": "PSNR, dB (RGB)", "ms_ssim_db": "MS-SSIM, dB"}


def color(curve: Curve, ours: Sequence[str]) -> str:
    """Fixed for a codec whatever else is drawn; published curves are gray."""
    if curve.source:
        return FAINT
    if curve.name in ours:
        return OUR_COLORS[list(ours).index(curve.name) % len(OUR_COLORS)]
    return COLORS.get(curve.name, INK)


def rate_distortion(curves: Sequence[Curve], metric: Metric, subtitle: str, narrow: bool = False) -> Figure:
    """Quality over bits a pixel, logarithmic; published curves dashed; the legend in the order of `curves`.

    The axes show `BPP_RANGE` and the qualities that measured curves reach in it: where people use codecs.
    `narrow` is for a phone.
    """
    from matplotlib.ticker import FuncFormatter, NullLocator

    figure, axes = _canvas(*(NARROW if narrow else (7.6, 5.4)))
    ours = sorted(curve.name for curve in curves if _is_ours(curve))
    drawn = [
        curve
        for curve in curves
        if len(curve.points(metric)) > 1 and (not curve.source or curve.name in DRAWN_PUBLISHED)
        if (curve.name, metric) != ("compressai:vtm", "psnr")  # VTM 18 is there
    ]
    dashes = itertools.cycle(PUBLISHED_DASHES)
    for curve in drawn:
        x, y = zip(*curve.points(metric), strict=True)
        strong = _is_ours(curve)
        axes.plot(
            x,
            y,
            label=curve.label,
            color=color(curve, ours),
            linewidth=2.4 if strong else 1.3,
            linestyle=next(dashes) if curve.source else "-",
            marker=None if curve.source else "o",
            markersize=4.2 if strong else 2.8,
            zorder=4 if strong else 3 if not curve.source else 2,
        )
    axes.set_xscale("log")
    axes.set_xlim(*BPP_RANGE)
    low, high = _visible(drawn, metric)
    axes.set_ylim(low - 0.3, high + 0.3)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(BPP_TICKS[1::2] if narrow else BPP_TICKS)
    axes.set_xlabel("bits per pixel, whole file (logarithmic)")
    _title(axes, f"{AXIS_LABELS[metric]}, higher is better", subtitle)
    legend = axes.legend(
        loc="upper left",
        frameon=True,
        framealpha=0.75,
        edgecolor="none",
        fontsize=8.5 if narrow else 9,
        handlelength=2.6,
    )
    for name, curve in zip(legend.get_texts(), drawn, strict=True):
        name.set_color(color(curve, ours))
        name.set_fontweight("bold" if _is_ours(curve) else "normal")
    return figure


def trade(
    standings: Sequence[Standing], speeds: Sequence[Speed], anchor: Curve, subtitle: str, narrow: bool = False
) -> Figure:
    """Bits needed over time to decode, both better towards the lower left; one dot a codec."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    figure, axes = _canvas(*(NARROW if narrow else (7.6, 4.6)))
    ours = sorted(s.curve.name for s in standings if _is_ours(s.curve))
    times = {speed.codec: speed.decode_ms_mp for speed in speeds}
    shown = [(times[s.curve.name], s.psnr.percent, s.curve) for s in standings if s.psnr and s.curve.name in times]
    for x, y, curve in shown:
        size = 90 if _is_ours(curve) else 46
        axes.scatter([x], [y], s=size, color=color(curve, ours), zorder=3, linewidths=0)
    axes.set_xscale("log")
    if shown:
        axes.set_xlim(min(x for x, _, _ in shown) / 1.5, max(x for x, _, _ in shown) * 4)
    axes.axhline(0, color=INK, linewidth=0.8, zorder=1)
    axes.xaxis.set_major_locator(LogLocator(subs=(1,) if narrow else (1, 2, 5)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _signed(value)))
    axes.set_xlabel("decoding, milliseconds per megapixel (logarithmic)")
    title = f"Bits vs {anchor.label}" if narrow else f"Bits relative to {anchor.label} at equal PSNR"
    _title(axes, f"{title}, lower is better", subtitle)
    figure.draw_without_rendering()  # settles the layout, in which names are placed
    _label_dots(axes, shown, ours)
    return figure


def effort(ladders: Sequence[Ladder], speeds: Sequence[Speed], subtitle: str, narrow: bool = False) -> Figure:
    """Bits saved by effort over time to encode; one line a model and tuning, one dot an effort."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

    figure, axes = _canvas(*(NARROW if narrow else (7.6, 4.2)))
    times = {speed.codec: speed.encode_ms_mp for speed in speeds}
    for ladder, hue in zip(ladders, itertools.cycle(OUR_COLORS[::3])):
        dots = [(times[r.curve.name], r.percent, r.effort) for r in ladder.rungs if r.curve.name in times]
        xs, ys = [dot[0] for dot in dots], [dot[1] for dot in dots]
        axes.plot(xs, ys, color=hue, marker="o", markersize=8, linewidth=1.8)
        for x, y, level in dots:
            axes.annotate(str(level), (x, y), xytext=(0, 9), textcoords="offset points", ha="center", color=hue)
        name = f"{ladder.model}, at equal {METRIC_LABELS[ladder.metric]}"
        axes.annotate(
            name, (xs[-1], ys[-1]), xytext=(-4, -14), textcoords="offset points", ha="right", va="center",
            color=hue, fontweight="bold", fontsize=10,
        )  # fmt: skip
    axes.set_xscale("log")
    axes.margins(x=0.08, y=0.14)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _signed(value)))
    axes.set_xlabel("encoding, ms per megapixel" if narrow else "encoding, milliseconds per megapixel (logarithmic)")
    title = "Bits vs effort 0" if narrow else "What --effort buys: bits against effort 0"
    _title(axes, f"{title}, lower is better", subtitle)
    return figure


def write(figure: Figure, path: Path) -> None:
    """`path` with the suffixes .png (two pixels a point) and .svg, the same bytes for the same figure."""
    import matplotlib

    figure.savefig(path.with_suffix(".png"), dpi=160)
    with matplotlib.rc_context({"svg.hashsalt": "nncodec", "svg.fonttype": "path"}):
        figure.savefig(path.with_suffix(".svg"), metadata={"Date": None})


def svg(figure: Figure) -> str:
    """The figure as an element to stand in a page, text as text and scaled by its width."""
    import matplotlib

    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "nncodec", "svg.fonttype": "none"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def _is_ours(curve: Curve) -> bool:
    return curve.name.split(":")[0] == OURS and not curve.source


def _canvas(width: float, height: float) -> tuple[Figure, Axes]:
    # Figure and not pyplot: no global state, no display, nothing to close.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_axisbelow(True)
    axes.grid(True, color=GRID, linewidth=0.8)
    axes.tick_params(length=0, labelsize=9.5, colors=INK)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(FAINT)
    axes.xaxis.label.set_color(INK)
    axes.xaxis.label.set_fontsize(10)
    return figure, axes


def _signed(value: float) -> str:
    return f"{value:+.0f} %".replace("-", "\N{MINUS SIGN}") if round(value) else "0 %"


def _title(axes: Axes, title: str, subtitle: str) -> None:
    axes.set_title(title, loc="left", fontsize=12, fontweight="bold", color=INK, pad=24)
    axes.annotate(
        subtitle, (0, 1), xycoords="axes fraction", xytext=(0, 9), textcoords="offset points",
        fontsize=9, color=FAINT,
    )  # fmt: skip


def _visible(curves: Sequence[Curve], metric: Metric) -> tuple[float, float]:
    """Lowest and highest quality of measured curves within BPP_RANGE."""
    inside = [
        point.quality
        for curve in curves
        for point in curve.points(metric)
        if not curve.source and BPP_RANGE[0] <= point.bpp <= BPP_RANGE[1]
    ]
    inside = inside or [point.quality for curve in curves for point in curve.points(metric)] or [0, 1]
    return min(inside), max(inside)


def _label_dots(axes: Axes, dots: Sequence[tuple[float, float, Curve]], ours: Sequence[str]) -> None:
    """Names beside dots, each on the first side on which it hides neither a dot nor another name."""
    places = [(9, 0), (9, 9), (9, -9), (-9, 0), (-9, 9), (-9, -9)]
    places += [(side, dy) for dy in (18, -18, 28, -28) for side in (9, -9)]
    points = [axes.transData.transform((x, y)) * 72 / axes.figure.dpi for x, y, _ in dots]
    taken = [(px - 5, py - 5, px + 5, py + 5) for px, py in points]
    zero = axes.transData.transform((1, 0))[1] * 72 / axes.figure.dpi
    taken.append((-math.inf, zero - 1, math.inf, zero + 1))  # the anchor's line
    left, right = (axes.transData.transform((x, 0))[0] * 72 / axes.figure.dpi for x in axes.get_xlim())
    taken += [(right + 12, -math.inf, math.inf, math.inf), (-math.inf, -math.inf, left, math.inf)]
    for (x, y, curve), (px, py) in sorted(zip(dots, points, strict=True), key=lambda item: not _is_ours(item[0][2])):
        size = 10.5 if _is_ours(curve) else 9.5
        width = 0.62 * size * len(curve.label)
        boxes = {}
        for dx, dy in places:
            left = px + dx if dx > 0 else px + dx - width
            boxes[dx, dy] = (left, py + dy - size / 2, left + width, py + dy + size / 2)
        place = next((at for at, box in boxes.items() if not any(_overlap(box, t) for t in taken)), places[0])
        taken.append(boxes[place])
        axes.annotate(
            curve.label,
            (x, y),
            xytext=place,
            textcoords="offset points",
            ha="left" if place[0] > 0 else "right",
            va="center",
            fontsize=size,
            fontweight="bold" if _is_ours(curve) else "normal",
            color=color(curve, ours),
            in_layout=False,  # or the axes would shrink and the dots move
        )


def _overlap(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
