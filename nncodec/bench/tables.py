"""The tables people read, once as data and then as terminal text, Markdown or HTML.

Knows columns and number formats; computes nothing.
"""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass

from nncodec.bench.codecs import OURS, Codec, Missing
from nncodec.bench.speed import Speed
from nncodec.bench.summary import METRIC_LABELS, METRICS, Curve, Metric, Pair, Standing
from nncodec.metrics import BdRate

MISSING = "n/a"
MINUS = "\N{MINUS SIGN}"


@dataclass(frozen=True)
class Table:
    """`rows` of texts under `columns`; rows numbered in `strong` are this project's."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    strong: frozenset[int] = frozenset()


def ranking(standings: Sequence[Standing], anchors: dict[Metric, Curve]) -> Table:
    """Every curve against one anchor a metric: who needs how many bits."""
    columns = ["codec"]
    for metric in METRICS:
        columns += [f"{METRIC_LABELS[metric]}: vs {anchors[metric].label}", "over"]
    rows = []
    for standing in standings:
        line = [standing.curve.label + (" *" if standing.curve.source else "")]
        for metric in METRICS:
            if standing.curve.name == anchors[metric].name:
                line += ["anchor", ""]
            else:
                bd = standing.bd(metric)
                line += [percent(bd), span(bd)]
        rows.append(tuple(line))
    strong = frozenset(i for i, standing in enumerate(standings) if _ours(standing.curve.name))
    title = "Bits at equal quality (BD-rate; negative is fewer"
    title += "; * as published)" if any(s.curve.source for s in standings) else ")"
    return Table(title, tuple(columns), tuple(rows), strong)


def against(test: Curve, pairs: Sequence[Pair], others: Sequence[Curve]) -> Table:
    """What `test` needs relative to each of `others`."""
    by = {(pair.anchor, pair.metric): pair.bd for pair in pairs if pair.test == test.name}
    rows = []
    for other in others:
        if other.name == test.name or not any((other.name, metric) in by for metric in METRICS):
            continue
        line = [other.label + (" *" if other.source else "")]
        for metric in METRICS:
            bd = by.get((other.name, metric))
            line += [percent(bd), span(bd)]
        rows.append(tuple(line))
    return Table(f"{test.label}: bits relative to", ("codec", "PSNR", "over", "MS-SSIM", "over"), tuple(rows))


def speed(speeds: Sequence[Speed], baseline: str) -> Table:
    """Warm times and ratios, cold times, memory."""
    label = next((s.label for s in speeds if s.codec == baseline), baseline)
    columns = (
        "codec", "bpp", "threads", "encode ms/MP", f"x {label}", "decode ms/MP", f"x {label}",
        "cold encode s", "cold decode s", "encode MB", "decode MB",
    )  # fmt: skip
    rows = tuple(
        (
            s.label,
            f"{s.bpp:.2f}",
            str(s.threads),
            number(s.encode_ms_mp),
            number(s.encode_ratio),
            number(s.decode_ms_mp),
            number(s.decode_ratio),
            number(s.cold_encode_s),
            number(s.cold_decode_s),
            megabytes(s.peak_encode),
            megabytes(s.peak_decode),
        )
        for s in speeds
    )
    strong = frozenset(i for i, s in enumerate(speeds) if _ours(s.codec))
    return Table("Speed and memory", columns, rows, strong)


def versions(chosen: Sequence[Codec], missing: Sequence[Missing]) -> Table:
    """What was run, in which version and with which options, and what could not be."""
    rows = [(codec.name, codec.label, codec.settings) for codec in chosen]
    rows += [(codec.name, MISSING, f"not measured: {codec.reason}") for codec in missing]
    strong = frozenset(i for i, codec in enumerate(chosen) if codec.ours)
    return Table("Codecs", ("name", "codec", "version and settings"), tuple(rows), strong)


def percent(bd: BdRate | None) -> str:
    return MISSING if bd is None else f"{bd.percent:+.1f} %"


def span(bd: BdRate | None) -> str:
    return "" if bd is None else f"{bd.low:.1f}-{bd.high:.1f} dB"


def number(value: float) -> str:
    """Three significant digits, without an exponent."""
    if not math.isfinite(value):
        return MISSING
    if value == 0:
        return "0"
    return f"{value:.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"


def megabytes(value: int) -> str:
    return f"{value / 1e6:.0f}" if value else MISSING


def text(table: Table) -> str:
    """For a terminal: columns aligned, this project's rows marked by ``>``."""
    lines = [table.columns, *table.rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(table.columns))]
    shown = [table.title]
    for number_of, line in enumerate(lines):
        mark = "> " if number_of - 1 in table.strong else "  "
        cells = [
            cell.ljust(width) if _is_text(table, i) else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        shown.append((mark + "  ".join(cells)).rstrip())
    return "\n".join(shown)


def markdown(table: Table) -> str:
    """A GitHub table without its title; this project's rows in bold."""
    rule = ["---" if _is_text(table, i) else "--:" for i in range(len(table.columns))]
    lines = [table.columns, tuple(rule)]
    for index, row in enumerate(table.rows):
        lines.append(tuple(f"**{cell}**" if index in table.strong and cell else cell for cell in row))
    return "\n".join("| " + " | ".join(typeset(cell) for cell in line) + " |" for line in lines)


def html_table(table: Table) -> str:
    """An element ``<table>`` in a box that scrolls sideways on a narrow screen."""

    def cells(line: Sequence[str], tag: str) -> str:
        return "".join(
            f"<{tag}{'' if _is_text(table, i) else ' class=num'}>{html.escape(typeset(cell))}</{tag}>"
            for i, cell in enumerate(line)
        )

    body = "".join(
        f"<tr{' class=ours' if i in table.strong else ''}>{cells(row, 'td')}</tr>" for i, row in enumerate(table.rows)
    )
    head = f"<thead><tr>{cells(table.columns, 'th')}</tr></thead>"
    return f"<div class=scroll><table>{head}<tbody>{body}</tbody></table></div>"


def typeset(cell: str) -> str:
    """Minus signs, en dashes and multiplication signs in place of their ASCII stand-ins, in numbers only."""
    plain = cell.strip("*")
    if cell == "---" or cell == "--:":
        return cell
    if plain[:1] == "-" and plain[1:2].isdigit():
        return cell.replace("-", MINUS, 1)
    if plain.endswith(" dB") and plain[:1].isdigit():
        return cell.replace("-", "\N{EN DASH}")
    return "\N{MULTIPLICATION SIGN}" + cell[1:] if cell.startswith("x ") else cell


def _is_text(table: Table, column: int) -> bool:
    return column == 0 or table.columns[column] in ("codec", "version and settings")


def _ours(name: str) -> bool:
    return name.split(":")[0] == OURS
