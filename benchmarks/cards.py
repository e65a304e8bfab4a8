"""Fill in what model cards say of the benchmark: ``python benchmarks/cards.py benchmarks/results weights/fast.md ...``.

In each card, whose name is the model's: the rows below ``| quality | bpp |``, and the rates in tables that begin with
``| against |``, whose rows stay what they are. FAST is the line on efforts in the card of `fast`.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from nncodec import metrics
from nncodec.bench import rows, summary
from nncodec.bench.summary import METRIC_LABELS, Curve

ANCHORS = {
    "AVIF 4:2:0": "avif", "AVIF 4:4:4": "avif-444", "HEIC": "heic", "JPEG": "jpeg", "JPEG 2000": "jpeg2000",
    "JPEG XL": "jxl", "WebP": "webp", "VTM 9.1, as published": "compressai:vtm", "VTM 18, as published": "vtm18.0",
    "`fast`": "nncodec:fast", "`fast --tune ms-ssim`": "nncodec:fast:ms-ssim",
}  # fmt: skip
"""Names of curves by the words of a card; what is in brackets behind them is ignored."""
TABLE = re.compile(r"(?:^\|.*\n)+", re.M)
FAST = "Efforts 2 and 3: VTM 18 {} and {}. `--tune ms-ssim -m fast`: VTM 9.1 by MS-SSIM {}."
FAST_LINE = re.compile(r"Efforts 2 and 3: VTM 18 .*? by MS-SSIM [-+0-9.]+ %\.", re.S)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("cards", type=Path, nargs="+")
    arguments = parser.parse_args()
    measured = summary.measured(rows.read(arguments.results / "results.csv"))
    curves = {curve.name: curve for curve in [*summary.published(arguments.results / "reference.csv"), *measured]}
    for card in arguments.cards:
        card.write_text(filled(card.read_text(), f"nncodec:{card.stem}", curves, _qualities(arguments.results)))


def filled(card: str, name: str, curves: dict[str, Curve], qualities: dict[str, list[float]]) -> str:
    """The card of the curve `name` with its numbers; `qualities` are those of each curve's points."""

    def table(found: re.Match[str]) -> str:
        head, rule, *body = found.group().splitlines()
        first, *columns = _cells(head)
        if first == "quality":
            body = _points(curves[name], qualities[name])
        elif first == "against":
            body = [_rates(_cells(line)[0], curves, curves[name], columns) for line in body]
        return "\n".join([head, rule, *body]) + "\n"

    text = TABLE.sub(table, card)
    if "nncodec:fast:e3" in curves and FAST_LINE.search(text):
        vtm, vtm9 = _curve(curves, "vtm18.0"), _curve(curves, "compressai:vtm")
        rates = [_percent(vtm, curves[f"nncodec:fast:e{effort}"], "PSNR") for effort in (2, 3)]
        text = FAST_LINE.sub(FAST.format(*rates, _percent(vtm9, curves["nncodec:fast:ms-ssim"], "MS-SSIM")), text)
    return text


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def _rates(rival: str, curves: dict[str, Curve], curve: Curve, labels: list[str]) -> str:
    """The row of `curve` against a rival, by the metrics of these labels."""
    anchor = _curve(curves, ANCHORS[rival.split(" (")[0]])
    return "| " + " | ".join([rival, *(_percent(anchor, curve, label) for label in labels)]) + " |"


def _points(curve: Curve, qualities: list[float]) -> list[str]:
    return [
        f"| {quality:.0f} | {bpp:.3f} | {psnr:.2f} | {1 - 10 ** (-similarity / 10):.4f} |"
        for quality, (bpp, psnr), (_, similarity) in zip(qualities, curve.psnr, curve.ms_ssim_db, strict=True)
    ]


def _qualities(results: Path) -> dict[str, list[float]]:
    """Qualities of each measured codec, in order."""
    found: dict[str, set[float]] = {}
    for row in rows.read(results / "results.csv"):
        found.setdefault(row.codec, set()).add(row.quality)
    return {codec: sorted(each) for codec, each in found.items()}


def _curve(curves: dict[str, Curve], name: str) -> Curve:
    """The curve whose name begins so."""
    return curves.get(name) or next(curve for key, curve in curves.items() if key.startswith(name))


def _percent(anchor: Curve, test: Curve, label: str) -> str:
    metric = next(key for key, value in METRIC_LABELS.items() if value == label)
    found = metrics.bd_rate(anchor.points(metric), test.points(metric))
    return f"{found.percent:+.1f} %" if found else "-"


if __name__ == "__main__":
    main()
