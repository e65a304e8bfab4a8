"""README's benchmark block, made from stored results: ``python -m nncodec.bench.readme RESULTS README.md``.

Knows the block's wording and its marks. Every number comes from results.csv, reference.csv and results.json
in RESULTS; a test holds README to that.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from nncodec.bench import results, rows, summary, tables
from nncodec.bench.codecs import OURS
from nncodec.bench.speed import Conditions, Speed
from nncodec.bench.summary import METRIC_LABELS, METRICS, Curve, Metric, Standing
from nncodec.errors import InputError

BEGIN, END = "<!-- bench:begin -->", "<!-- bench:end -->"
PUBLISHED = (
    "hpcm-large", "cool-chic v5.0", "vtm18.0", "compressai:vtm", "c3repo:EVC-S", "compressai:bpg_444_x265_ycbcr",
    "shallow-ntc 2-layer_syn",
)  # fmt: skip
"""Published curves in README: the best, the anchors, and those that are meant for small decoders."""


def block(folder: Path, base: Path) -> str:
    """Markdown between the marks, for results in `folder`, linked as seen from the folder `base`."""
    stored = rows.read(folder / "results.csv")
    if not stored:
        raise InputError(f"{folder / 'results.csv'} has no rows; run nncodec bench with -o {folder} first")
    curves = summary.measured(stored)
    reference = folder / "reference.csv"
    published = summary.published(reference) if reference.exists() else []
    anchors, standings = results.rank(curves, published, None)
    document = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    speeds, conditions = results.read_speeds(folder / "results.json")
    link = folder.resolve().relative_to(base.resolve()).as_posix()
    pictures = len({row.picture_sha256 for row in stored})
    parts = [
        f"![Quality over size of all codecs]({link}/rd_psnr.svg)",
        _table(standings, anchors, speeds),
        _note(pictures, conditions, document["created"], link, bool(published)),
    ]
    if summary.ladders(curves) and speeds:
        parts.append(f"![Bits saved by effort over encoding time]({link}/effort.svg)")
    return "\n\n".join(parts)


def replace(readme: str, inside: str) -> str:
    """`readme` with `inside` between its marks; raises InputError where they are not there once each."""
    if readme.count(BEGIN) != 1 or readme.count(END) != 1 or readme.index(BEGIN) > readme.index(END):
        raise InputError(f"README needs {BEGIN} and then {END}, once each")
    head, _, rest = readme.partition(BEGIN)
    return f"{head}{BEGIN}\n{inside}\n{END}{rest.partition(END)[2]}"


def _table(standings: Sequence[Standing], anchors: dict[Metric, Curve], speeds: Sequence[Speed]) -> str:
    """Measured codecs and some published ones by rank, with warm times."""
    times = {speed.codec: speed for speed in speeds}
    shown = [s for s in standings if not s.curve.source or s.curve.name in PUBLISHED]
    lines = []
    for standing in shown:
        speed = times.get(standing.curve.name)
        line = [standing.curve.label + (" *" if standing.curve.source else "")]
        for metric in METRICS:
            bd = standing.bd(metric)
            anchor = standing.curve.name == anchors[metric].name
            line += ["anchor", ""] if anchor else [tables.percent(bd), tables.span(bd)]
        line += [tables.number(speed.encode_ms_mp) if speed else "", tables.number(speed.decode_ms_mp) if speed else ""]
        lines.append(tuple(line))
    strong = frozenset(i for i, s in enumerate(shown) if s.curve.name.split(":")[0] == OURS)
    columns = ["codec"]
    for metric in METRICS:
        columns += [f"bits vs {anchors[metric].label} at equal {METRIC_LABELS[metric]}", "over"]
    columns += ["encode ms/MP", "decode ms/MP"]
    return tables.markdown(tables.Table("", tuple(columns), tuple(lines), strong))


def _note(pictures: int, conditions: Conditions | None, created: str, link: str, published: bool) -> str:
    text = f"BD-rate over the range stated, RGB, whole files, mean of {pictures} pictures; negative is fewer bits."
    if published:
        text += " Rows with * are as published, not measured here."
    if conditions:
        text += (
            f" Times are warm medians of {conditions.rounds} rounds on {conditions.processor}, "
            f"{conditions.cores} cores; {conditions.note}."
        )
    return text + f" Measured {created}; versions, every point and the command are in [{link}]({link})."


def main(arguments: Sequence[str]) -> None:
    if len(arguments) != 2:
        raise SystemExit("usage: python -m nncodec.bench.readme RESULTS README.md")
    folder, readme = Path(arguments[0]), Path(arguments[1])
    try:
        text = replace(readme.read_text(encoding="utf-8"), block(folder, readme.parent))
    except InputError as error:
        raise SystemExit(f"nncodec: error: {error}") from None
    readme.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
