"""nncodec bench and compare: adapters, rows, curves, tables, figures, page, README block, commands."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from conftest import seeded_net
from PIL import Image

pytest.importorskip("matplotlib")
pytest.importorskip("bjontegaard")

from nncodec import metrics, weights
from nncodec.bench import codecs, measure, plots, readme, report, results, rows, speed, summary, tables
from nncodec.bench.codecs import Codec, Missing
from nncodec.bench.command import bench, compare
from nncodec.bench.rows import Row
from nncodec.bench.summary import Curve
from nncodec.config import TINY
from nncodec.errors import InputError
from nncodec.metrics import BdRate, Point
from nncodec.train import export

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    """96 x 80 with smooth and busy parts."""
    y, x = np.mgrid[0:80, 0:96]
    rng = np.random.default_rng(0)
    planes = [128 + 70 * np.sin(x / 9 + k) * np.cos(y / (7 + k)) + rng.normal(0, 6, x.shape) for k in range(3)]
    return Image.fromarray(np.dstack(planes).clip(0, 255).astype(np.uint8))


@pytest.fixture
def folder(tmp_path: Path, picture: Image.Image) -> Path:
    """Two pictures, a.png and b.png."""
    inside = tmp_path / "pictures"
    inside.mkdir()
    picture.save(inside / "b.png")
    picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(inside / "a.png")
    return inside


def fake_codec(name: str = "fake", settings: str = "1") -> Codec:
    """Its file is `quality` times 100 bytes; it decodes to black."""
    return Codec(
        name=name,
        label=name.title(),
        settings=settings,
        ladder=(1, 2, 3, 4),
        quick=(1, 2),
        encode=lambda picture, quality, threads: bytes(int(100 * quality)),
        decode=lambda data, threads: Image.new("RGB", (96, 80)),
    )


def row(codec: str, quality: float, bpp: float, psnr: float, picture: str = "p", settings: str = "1") -> Row:
    return Row(picture, f"sha-{picture}", 768, 512, codec, codec.title(), settings, quality,
               int(bpp * 49152), bpp, psnr, 0.9, round(1 - 10 ** (-psnr / 20), 6))  # fmt: skip


def curve_rows(codec: str, factor: float, pictures: tuple[str, ...] = ("p",)) -> list[Row]:
    points = [(0.1, 28.0), (0.2, 30.5), (0.4, 33.0), (0.8, 36.0), (1.6, 39.5)]
    return [row(codec, i, factor * bpp, psnr, p) for p in pictures for i, (bpp, psnr) in enumerate(points)]


# Adapters


@pytest.mark.parametrize("name", codecs.RIVALS)
def test_rival_decodes_to_rgb_of_the_same_size_and_spends_bits_on_quality(name: str, picture: Image.Image) -> None:
    codec = codecs.find(name)
    if isinstance(codec, Missing):
        pytest.skip(codec.reason)
    sizes = []
    distances = []
    for quality in (codec.ladder[0], codec.ladder[-1]):
        data = codec.encode(picture, quality, 1)
        decoded = codec.decode(data, 1)
        assert (decoded.mode, decoded.size) == ("RGB", picture.size)
        sizes.append(len(data))
        distances.append(metrics.psnr(np.asarray(picture), np.asarray(decoded)))
    assert sizes[0] < sizes[1]
    assert distances[0] + 3 < distances[1]


@pytest.mark.parametrize("name", codecs.RIVALS)
def test_ladders_go_from_worst_to_best_within_bounds(name: str) -> None:
    codec = codecs.find(name)
    if isinstance(codec, Missing):
        pytest.skip(codec.reason)
    rising = codec.worst < codec.best
    for ladder in (codec.ladder, codec.quick):
        assert list(ladder) == sorted(ladder, reverse=not rising)
        assert all(min(codec.worst, codec.best) <= q <= max(codec.worst, codec.best) for q in ladder)
    assert len(codec.quick) == 4


def test_a_codec_that_cannot_run_is_named_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codecs.importlib.util, "find_spec", lambda name: None)
    chosen, missing = codecs.select(["jpeg", "jxl", "heic"], [], [0])
    assert [codec.name for codec in chosen] == ["jpeg"]
    assert {m.name: m.reason for m in missing} == {
        "jxl": "pip install pillow-jxl-plugin",
        "heic": "pip install pillow-heif",
    }


@pytest.mark.parametrize("name", ["bpg", "nncodec:", "nncodec:fast:ex", "nncodec:fast:vmaf", "jpeg:fast"])
def test_a_name_that_is_no_codec_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="is no codec; there are jpeg"):
        codecs.find(name)


def test_efforts_and_models_are_codecs_of_their_own(tiny_path: Path) -> None:
    chosen, missing = codecs.select(["nncodec"], ["tiny", "absent"], [0, 1, 99])
    assert [codec.name for codec in chosen] == ["nncodec:tiny:e0", "nncodec:tiny"]
    assert [codec.label for codec in chosen] == ["nncodec tiny, effort 0", "nncodec tiny"]
    assert [m.name for m in missing] == [
        "nncodec:tiny:e99", "nncodec:absent:e0", "nncodec:absent", "nncodec:absent:e99",
    ]  # fmt: skip
    assert "there is no effort 99" in missing[0].reason
    assert "tiny" in missing[1].reason
    assert chosen[0].settings != chosen[1].settings


def test_weights_that_are_not_installed_are_a_codec_by_their_path(
    tiny_path: Path, picture: Image.Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "mine.safetensors"
    weights.save(export.build(seeded_net(7), export.gaussian_tables()), "mine", TINY, path)
    (codec,), missing = codecs.select([f"nncodec:{path}:e0"], [], [])
    assert not missing
    assert codecs.require(codec.name).decode(codec.encode(picture, 50, 1), 1).size == picture.size
    chosen, (absent,) = codecs.select(["nncodec:nowhere.safetensors", "jpeg"], [], [])
    assert [codec.name for codec in chosen] == ["jpeg"]
    assert "nowhere.safetensors: not a usable weights file" in absent.reason


def test_models_that_leave_noise_out_are_measured_on_request(tiny_path: Path) -> None:
    path = tiny_path.with_name("clean.safetensors")
    tensors = export.build(seeded_net(0), export.gaussian_tables())
    weights.save(tensors, "clean", TINY, path, {"noise": "gauss:0-50"})
    try:
        names = {codec.name for codec in codecs.select(["nncodec"], [], [])[0]}
        asked = [codec.name for codec in codecs.select(["nncodec"], ["clean"], [])[0]]
    finally:
        path.unlink()
    assert "nncodec:tiny" in names
    assert not {"nncodec:clean", "nncodec:denoise"} & names
    assert asked == ["nncodec:clean"]


def test_bench_fails_where_a_codec_asked_for_by_name_cannot_run(folder: Path, tmp_path: Path) -> None:
    options = [str(folder), "-o", str(tmp_path / "out"), "-j", "1", "--no-speed", "--quick", "--codecs"]
    assert CliRunner().invoke(bench, [*options, "jpeg"], catch_exceptions=False).exit_code == 0
    done = CliRunner().invoke(bench, [*options, "jpeg,nncodec:absent"], catch_exceptions=False)
    assert done.exit_code == 1
    assert "not measured: nncodec:absent" in done.output
    assert "Bits at equal quality" in done.output


def test_a_tuning_is_a_codec_of_its_own(tiny_path: Path, picture: Image.Image) -> None:
    names = ["nncodec:tiny", "nncodec:tiny:ms-ssim", "nncodec:tiny:e0:ms-ssim"]
    plain, tuned, rounded = (codecs.require(name) for name in names)
    assert [codec.name for codec in (plain, tuned, rounded)] == names
    assert rounded.label == "nncodec tiny, effort 0, tuned for ms-ssim"
    assert "tuned for psnr" in plain.settings
    assert len({codec.encode(picture, 50, 1) for codec in (plain, tuned, rounded)}) == 3


def test_ladders_compare_efforts_with_effort_0_by_what_they_are_tuned_for(tmp_path: Path) -> None:
    factors = {"nncodec:a:e0": 1.0, "nncodec:a": 0.95, "nncodec:a:e3": 0.9, "nncodec:a:ms-ssim": 0.8, "nncodec:b": 0.5}
    curves = summary.measured([r for name, factor in factors.items() for r in curve_rows(name, factor)])
    eye, psnr = sorted(summary.ladders(curves), key=lambda ladder: ladder.metric)
    assert (eye.metric, psnr.metric) == ("ms_ssim_db", "psnr")
    assert [(rung.effort, round(rung.percent, 3)) for rung in psnr.rungs] == [(0, 0.0), (1, -5.0), (3, -10.0)]
    assert [(rung.effort, round(rung.percent, 3)) for rung in eye.rungs] == [(0, 0.0), (1, -20.0)]
    assert summary.ladders([curve for curve in curves if curve.name != "nncodec:a:e0"]) == []


def test_nncodec_is_measured_like_any_other(tiny_path: Path, picture: Image.Image) -> None:
    source = measure.Source("p", "sha", picture)
    measured = measure.measure_one(source, codecs.require("nncodec:tiny"), 60)
    assert measured.bpp == pytest.approx(8 * measured.bytes / (96 * 80))
    assert 5 < measured.psnr < 60


def test_nearest_rate_finds_the_quality_and_starts_from_what_is_known(picture: Image.Image) -> None:
    calls: list[float] = []

    def encode(picture: Image.Image, quality: float, threads: int) -> bytes:
        calls.append(quality)
        return bytes(int(20 * 1.07**quality))

    codec = Codec("c", "C", "", (), (), encode, lambda data, threads: picture)
    target = 8 * 20 * 1.07**37 / (96 * 80)
    quality, data = codecs.nearest_rate(codec, picture, target, {})
    assert quality == 37
    assert len(data) == int(20 * 1.07**37)
    calls.clear()
    known = {q: 8 * int(20 * 1.07**q) / (96 * 80) for q in (30.0, 40.0)}
    assert codecs.nearest_rate(codec, picture, target, known)[0] == 37
    assert all(30 < quality < 40 for quality in calls)


def test_nearest_rate_out_of_reach_is_the_nearest_end(picture: Image.Image) -> None:
    assert codecs.nearest_rate(fake_codec(), picture, 1e-6, {})[0] == 1
    assert codecs.nearest_rate(fake_codec(), picture, 1e6, {})[0] == 100


# Pictures and rows


def test_alpha_lies_over_white_and_orientation_is_applied(tmp_path: Path) -> None:
    transparent = Image.new("RGBA", (4, 2), (10, 20, 30, 0))
    transparent.save(tmp_path / "alpha.png")
    assert (measure.load(tmp_path / "alpha.png").pixels == 255).all()
    turned = Image.new("RGB", (4, 2))
    exif = Image.Exif()
    exif[0x0112] = 6
    turned.save(tmp_path / "turned.png", exif=exif)
    assert measure.load(tmp_path / "turned.png").picture.size == (2, 4)


def test_pictures_the_benchmark_cannot_take_are_refused_by_name(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((4, 4), np.uint16)).save(tmp_path / "deep.png")
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"deep\.png has mode I;16"):
        measure.load(tmp_path / "deep.png")
    with pytest.raises(InputError, match=r"text\.png cannot be read"):
        measure.load(tmp_path / "text.png")
    with pytest.raises(InputError, match="empty holds no pictures"):
        measure.find_pictures([tmp_path / "empty"])
    with pytest.raises(InputError, match="absent does not exist"):
        measure.find_pictures([tmp_path / "absent"])


def test_a_row_counts_the_bytes_of_the_whole_file(picture: Image.Image) -> None:
    measured = measure.measure_one(measure.Source("p", "sha", picture), fake_codec(), 3)
    assert (measured.bytes, measured.bpp) == (300, 8 * 300 / (96 * 80))
    assert measured.psnr == metrics.psnr(np.asarray(picture), np.zeros((80, 96, 3), np.uint8))
    assert math.isnan(measured.ms_ssim)


def test_rows_survive_the_csv(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    first = [row("a", 1, 0.125, 30.5), row("b", 2.5, 0.25, math.inf)]
    rows.append(path, first[:1])
    rows.append(path, first[1:])
    assert rows.read(path) == first
    rows.write(path, reversed(first))
    assert rows.read(path) == first
    assert rows.read(tmp_path / "absent.csv") == []


def test_a_line_cut_short_by_an_interruption_is_measured_again(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    rows.append(path, [row("a", 1, 0.125, 30.5), row("a", 2, 0.25, 33.5)])
    path.write_text(path.read_text()[:-12])
    assert [r.quality for r in rows.read(path)] == [1]


def test_a_damaged_table_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    rows.append(path, [row("a", 1, 0.125, 30.5), row("a", 2, 0.25, 33.5)])
    text = path.read_text()
    path.write_text(text.replace("30.5", "much"))
    with pytest.raises(InputError, match="line 2"):
        rows.read(path)
    path.write_text(text.replace("psnr", "quality_db"))
    with pytest.raises(InputError, match="its columns are not"):
        rows.read(path)


def test_only_what_lacks_is_planned(folder: Path) -> None:
    paths = measure.find_pictures([folder])
    assert [path.name for path in paths] == ["a.png", "b.png"]
    codec = fake_codec()
    tasks, wanted = measure.plan(paths, [codec], set(), quick=False)
    assert (len(tasks), len(wanted)) == (2, 8)
    done = {key for key in wanted if key.quality != 3}
    tasks, _ = measure.plan(paths, [codec], done, quick=False)
    assert [task.qualities for task in tasks] == [(3,), (3,)]
    tasks, _ = measure.plan(paths, [fake_codec(settings="2")], done, quick=True)
    assert [task.qualities for task in tasks] == [(1, 2), (1, 2)]


def test_a_picture_under_two_names_counts_once(folder: Path) -> None:
    (folder / "c.png").write_bytes((folder / "a.png").read_bytes())
    tasks, wanted = measure.plan(measure.find_pictures([folder]), [fake_codec()], set(), quick=False)
    assert (len(tasks), len(wanted)) == (2, 8)


# Curves


def test_a_curve_is_the_mean_over_pictures_of_complete_qualities() -> None:
    stored = [
        row("c", 1, 0.1, 30.0, "p"), row("c", 1, 0.3, 34.0, "q"), row("c", 2, 0.5, 36.0, "p"),
    ]  # fmt: skip
    (curve,) = summary.measured(stored)
    assert curve.psnr == (Point(pytest.approx(0.2), 32.0),)
    mean = (stored[0].ms_ssim + stored[1].ms_ssim) / 2
    assert curve.ms_ssim_db[0].quality == pytest.approx(metrics.similarity_db(mean))
    (alone,) = summary.measured(stored, {stored[2].key})
    assert alone.psnr == (Point(0.5, 36.0),)


def published_csv(path: Path) -> Path:
    lines = ["dataset,codec,source_repo,source_path,metric,bpp,value,note"]
    for r in curve_rows("x", 0.5):
        lines.append(f"kodak,vtm18.0,a/b,c,psnr_rgb,{r.bpp},{r.psnr},n")
        lines.append(f"kodak,compressai:vtm,a/b,c,ms_ssim,{r.bpp},{r.ms_ssim},n")
        lines.append(f"clic,vtm18.0,a/b,c,psnr_rgb,{r.bpp},99,n")
        lines.append(f"kodak,vtm18.0,a/b,c,psnr_y,{r.bpp},99,n")
    path.write_text("\n".join(lines) + "\n")
    return path


def test_published_curves_are_read_with_their_source(tmp_path: Path) -> None:
    vtm, other = summary.published(published_csv(tmp_path / "p.csv"))
    assert (vtm.label, vtm.source, len(vtm.psnr), vtm.ms_ssim_db) == ("VTM 18 (H.266)", "a/b", 5, ())
    assert vtm.psnr[0] == Point(0.05, 28.0)
    assert other.ms_ssim_db[0].quality == pytest.approx(14.0, abs=1e-3)  # row() makes 28 dB an MS-SSIM of 14 dB
    (tmp_path / "wrong.csv").write_text("codec,bpp\nx,1\n")
    with pytest.raises(InputError, match="no table of published curves"):
        summary.published(tmp_path / "wrong.csv")


def test_published_copies_are_the_same_curves(tmp_path: Path) -> None:
    source = published_csv(tmp_path / "p.csv")
    summary.copy_published(source, tmp_path / "copy.csv", {"vtm18.0"})
    assert summary.published(tmp_path / "copy.csv") == summary.published(source)[:1]


def test_kodak_is_all_24_pictures() -> None:
    names = [f"kodim{n:02d}" for n in range(1, 25)]
    assert summary.is_kodak([row("c", 1, 1, 30, name) for name in names])
    assert not summary.is_kodak([row("c", 1, 1, 30, name) for name in names[:3]])
    crops = [replace(row("c", 1, 1, 30, name), width=256) for name in names]
    assert not summary.is_kodak(crops)


def test_pairs_hold_both_directions_and_no_published_test(tmp_path: Path) -> None:
    curves = summary.measured(curve_rows("a", 1.0) + curve_rows("b", 0.8))
    curves += summary.published(published_csv(tmp_path / "p.csv"))
    found = {(p.test, p.anchor): p.bd.percent for p in summary.pairs(curves) if p.metric == "psnr"}
    assert found == {
        ("a", "b"): pytest.approx(25.0),
        ("b", "a"): pytest.approx(-20.0),
        ("a", "vtm18.0"): pytest.approx(100.0),
        ("b", "vtm18.0"): pytest.approx(60.0),
    }


def test_ranking_puts_fewest_bits_first_and_the_published_anchor_before_jpeg(tmp_path: Path) -> None:
    curves = summary.measured(curve_rows("jpeg", 1.0) + curve_rows("nncodec:t", 0.4))
    anchors, standings = results.rank(curves, [], None)
    assert {curve.name for curve in anchors.values()} == {"jpeg"}
    anchors, standings = results.rank(curves, summary.published(published_csv(tmp_path / "p.csv")), None)
    assert anchors["psnr"].name == "vtm18.0"
    assert anchors["ms_ssim_db"].name == "compressai:vtm"
    assert [s.curve.name for s in standings[:3]] == ["nncodec:t", "vtm18.0", "jpeg"]
    anchors, _ = results.rank(curves, [], "nncodec:t")
    assert anchors["psnr"].name == "nncodec:t"


# Tables, figures, page


TABLE = tables.Table(
    "T", ("codec", "bits", "over"), (("a<b", "-1.5 %", "28.0-39.5 dB"), ("c", "n/a", "")), frozenset({0})
)


def test_text_table_aligns_and_marks() -> None:
    assert tables.text(TABLE).split("\n") == [
        "T",
        "  codec    bits          over",
        "> a<b    -1.5 %  28.0-39.5 dB",
        "  c         n/a",
    ]


def test_markdown_and_html_are_typeset_and_escaped() -> None:
    assert tables.markdown(TABLE).split("\n")[1:3] == [
        "| --- | --: | --: |",
        "| **a<b** | **\N{MINUS SIGN}1.5 %** | **28.0\N{EN DASH}39.5 dB** |",
    ]
    text = tables.html_table(TABLE)
    assert "<tr class=ours><td>a&lt;b</td><td class=num>\N{MINUS SIGN}1.5 %</td>" in text


@pytest.mark.parametrize(
    ("value", "text"),
    [(1234.5, "1234"), (12.34, "12.3"), (0.04567, "0.0457"), (0.0, "0"), (math.nan, "n/a")],
)
def test_numbers_have_three_digits(value: float, text: str) -> None:
    assert tables.number(value) == text


def test_percent_and_range_of_a_bd_rate() -> None:
    bd = BdRate(-12.34, 28.04, 39.0)
    assert (tables.percent(bd), tables.span(bd)) == ("-12.3 %", "28.0-39.0 dB")
    assert (tables.percent(None), tables.span(None)) == ("n/a", "")


def a_speed(codec: str, decode: float) -> speed.Speed:
    return speed.Speed(codec, codec.title(), 0.4, 2, 10.0, decode, 1.0, 1.0, 0.5, math.nan, 10**8, 0)


@pytest.fixture
def run_results(tmp_path: Path) -> results.Results:
    """Three measured codecs and two published ones, with times."""
    names = tuple(f"kodim{n:02d}" for n in range(1, 25))
    stored = [r for c, f in (("jpeg", 1.0), ("webp", 0.8), ("nncodec:t", 0.4)) for r in curve_rows(c, f, names)]
    curves = summary.measured(stored)
    published = summary.published(published_csv(tmp_path / "p.csv"))
    anchors, standings = results.rank(curves, published, None)
    conditions = speed.Conditions(("kodim05",), 0.39, 5, "jpeg", "CPU", 2, 0.1, math.nan)
    return results.Results(
        created="2026-01-01 00:00 UTC",
        command="nncodec bench <x>",
        pictures=names,
        chosen=tuple(fake_codec(name) for name in ("jpeg", "webp", "nncodec:t")),
        missing=(Missing("heic", "pip install pillow-heif"),),
        curves=tuple(curves),
        published=tuple(published),
        anchors=anchors,
        standings=tuple(standings),
        pairs=tuple(summary.pairs(curves + published)),
        speeds=(a_speed("jpeg", 20.0), a_speed("webp", 30.0), a_speed("nncodec:t", 200.0)),
        conditions=conditions,
    )


def test_json_is_strict_and_gives_the_times_back(run_results: results.Results, tmp_path: Path) -> None:
    text = results.to_json(run_results)
    (tmp_path / "r.json").write_text(text)
    document = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert document["missing"] == [{"name": "heic", "reason": "pip install pillow-heif"}]
    assert {
        "test": "webp",
        "anchor": "jpeg",
        "metric": "psnr",
        "percent": -20.0,
        "low": 28.0,
        "high": 39.5,
    } in document["bd_rate"]
    speeds, conditions = results.read_speeds(tmp_path / "r.json")
    assert math.isnan(speeds[0].cold_decode_s)
    assert [s.decode_ms_mp for s in speeds] == [20.0, 30.0, 200.0]
    assert conditions is not None
    assert conditions.pictures == ("kodim05",)


def test_figures_are_written_the_same_each_time(run_results: results.Results, tmp_path: Path) -> None:
    for name in ("one", "two"):
        plots.write(plots.rate_distortion(run_results.shown, "psnr", "s"), tmp_path / name)
    assert (tmp_path / "one.png").read_bytes()[:4] == b"\x89PNG"
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()


def test_page_needs_no_other_file(run_results: results.Results, picture: Image.Image) -> None:
    source = measure.Source("kodim05", "sha", picture)
    samples = [speed.Sample(source, codec, 2, bytes(200)) for codec in run_results.chosen]
    text = report.page(run_results, samples, 0.2)
    assert "{{" not in text
    links = re.findall(r"""(?:src|href)=["']?([^"'> ]+)""", re.sub(r"<svg.*?</svg>", "", text, flags=re.S))
    assert links
    assert all(link.startswith("data:image/webp;base64,") for link in links if not link.startswith("$"))
    assert "url(http" not in text
    assert text.count("<figure>") == 4
    assert "60\N{NO-BREAK SPACE}% fewer bits than Jpeg" in text
    assert "nncodec bench &lt;x&gt;" in text
    assert "not measured: pip install pillow-heif" in text


def test_page_stands_without_ours_times_and_crops(run_results: results.Results) -> None:
    text = report.page(replace(run_results, chosen=run_results.chosen[:2], speeds=(), conditions=None), [], 0.4)
    assert "nncodec is not among them" in text
    assert "No times were taken" in text


def test_the_crop_is_where_the_detail_is() -> None:
    pixels = np.full((120, 160, 3), 90, np.uint8)
    pixels[70:110:2, 100:150] = 200
    left, top, right, bottom = report.busiest(pixels, (50, 40))
    assert (right - left, bottom - top) == (50, 40)
    assert abs(left - 100) <= 1
    assert abs(top - 70) <= 2
    assert report.busiest(pixels[:20, :30], (50, 40)) == (0, 0, 30, 20)


# Speed


def test_speed_takes_medians_of_rounds_and_ratios_to_jpeg(
    picture: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    spent = {"jpeg": iter([9, 1, 1, 1, 5, 1]), "slow": iter([9, 4, 4, 2, 4, 4])}
    monkeypatch.setattr(speed.time, "perf_counter", lambda: now[0])

    def codec(name: str) -> Codec:
        def encode(picture: Image.Image, quality: float, threads: int) -> bytes:
            now[0] += next(spent[name])
            return b""

        def decode(data: bytes, threads: int) -> Image.Image:
            now[0] += 0.5
            return picture

        return Codec(name, name, "", (), (), encode, decode, threaded=name == "slow")

    source = measure.Source("p", "sha", picture)
    samples = [speed.Sample(source, codec(name), 1, b"1234") for name in ("slow", "jpeg")]
    steps: list[int] = []
    slow, jpeg = speed.run(samples, rounds=5, threads=3, cold=0, progress=steps.append)
    assert sum(steps) == 12
    megapixels = 96 * 80 / 1e6
    assert (jpeg.encode_ms_mp, slow.encode_ms_mp) == (pytest.approx(1e3 / megapixels), pytest.approx(4e3 / megapixels))
    assert (slow.encode_ratio, slow.decode_ratio, jpeg.encode_ratio) == (4, 1, 1)
    assert (slow.threads, jpeg.threads) == (3, 1)
    assert math.isnan(slow.cold_encode_s)


def test_a_fresh_process_tells_time_and_memory(picture: Image.Image) -> None:
    codec = codecs.require("jpeg")
    sample = speed.Sample(measure.Source("p", "sha", picture), codec, 50, codec.encode(picture, 50, 1))
    (found,) = speed.run([sample], rounds=1, threads=1, cold=1, progress=lambda n: None)
    assert 0.01 < found.cold_encode_s < 60
    assert 0.01 < found.cold_decode_s < 60
    assert 5e6 < found.peak_decode < 1e9


def test_a_busy_machine_is_noted() -> None:
    quiet = speed.Conditions(("p",), 1.0, 5, "jpeg", "CPU", 2, 0.0, 0.01)
    busy = speed.Conditions(("p",), 1.0, 5, "jpeg", "CPU", 2, 3.0, 0.9)
    assert "BUSY" not in quiet.note
    assert "BUSY: others used 90%" in busy.note


# Commands


def invoke(*arguments: str | Path) -> str:
    done = CliRunner().invoke(bench, [str(a) for a in arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return str(done.output)


def test_bench_writes_everything_and_measures_nothing_twice(folder: Path, tmp_path: Path) -> None:
    out, page = tmp_path / "out", tmp_path / "page"
    options = [folder, "-o", out, "--codecs", "jpeg,webp", "-j", 1, "--no-speed", "--at", 2, "--report", page]
    said = invoke(*options)
    assert "Bits at equal quality" in said
    assert {path.name for path in out.iterdir()} == {
        "results.csv",
        "results.json",
        "rd_psnr.png",
        "rd_psnr.svg",
    }  # fmt: skip - no MS-SSIM: the pictures are too small for it
    assert (page / "index.html").stat().st_size > 50_000
    before = (out / "results.csv").read_bytes()
    again = invoke(*options)
    assert "34 of 34 rows are in" in again
    assert (out / "results.csv").read_bytes() == before
    assert "rows are in" not in invoke(*options[:-2], "--fresh")
    assert (out / "results.csv").read_bytes() == before


def test_bench_over_processes_gives_the_same_rows(folder: Path, tmp_path: Path) -> None:
    for jobs in (1, 2):
        invoke(folder, "-o", tmp_path / str(jobs), "--codecs", "jpeg", "-j", jobs, "--no-speed", "--quick")
    assert (tmp_path / "1" / "results.csv").read_bytes() == (tmp_path / "2" / "results.csv").read_bytes()


def test_bench_leaves_published_curves_out_unless_the_pictures_are_kodak(folder: Path, tmp_path: Path) -> None:
    reference = published_csv(tmp_path / "p.csv")
    said = invoke(folder, "-o", tmp_path / "out", "--codecs", "jpeg", "--no-speed", "--quick", "--reference", reference)
    assert "Kodak's 24 pictures, which this run is not" in said
    assert "VTM" not in said


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--codecs", "bpg"], "is no codec"),
        (["--codecs", "nncodec", "--model", "absent"], "none of the codecs asked for can run here"),
        (["--codecs", "jpeg", "--effort", "max"], "is no whole number"),
        (["--codecs", "jpeg", "--no-speed", "--look", "zebra"], "none of the pictures"),
        (["--codecs", "jpeg", "--no-speed", "--quick", "--anchor", "vtm"], "is no curve of this run"),
    ],
)
def test_bench_refuses_options_that_mean_nothing(
    options: list[str], message: str, folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message):
        invoke(folder, "-o", tmp_path / "out", "-j", 1, *options)
    assert not (tmp_path / "out").exists()  # nothing was measured


def test_two_pictures_of_one_name_are_two(folder: Path, tmp_path: Path) -> None:
    (folder / "more").mkdir()
    (folder / "b.png").rename(folder / "more" / "a.png")
    out = tmp_path / "out"
    invoke(folder, folder / "more", "-o", out, "--codecs", "jpeg", "-j", 1, "--no-speed", "--quick")
    assert json.loads((out / "results.json").read_text())["pictures"] == ["a", "a"]


def test_bench_says_which_extra_it_needs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'nncodec\[bench\]'"):
        CliRunner().invoke(bench, [str(folder)], catch_exceptions=False)


def test_compare_tells_distances_and_draws_the_difference(picture: Image.Image, tmp_path: Path) -> None:
    a, b, diff = (tmp_path / name for name in ("a.png", "b.png", "d.png"))
    picture.save(a)
    pixels = np.asarray(picture).astype(int)
    pixels[10:20, 10:20] += 3
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(b)
    done = CliRunner().invoke(compare, [str(a), str(b), "--diff", str(diff), "--gain", "10"], catch_exceptions=False)
    assert done.exit_code == 0
    expected = metrics.psnr(np.asarray(picture), pixels.clip(0, 255).astype(np.uint8))
    assert done.output.startswith(f"PSNR {expected:.3f} dB  SSIM 0.9")
    assert "MS-SSIM n/a  96x80" in done.output
    drawn = np.asarray(Image.open(diff))
    assert np.median(drawn[10:20, 10:20]) == 30
    assert not drawn[20:].any()
    with pytest.raises(InputError, match="add --force"):
        CliRunner().invoke(compare, [str(a), str(b), "--diff", str(diff)], catch_exceptions=False)


def test_compare_draws_over_neither_input_and_nothing_half(
    picture: Image.Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b, link = (tmp_path / name for name in ("a.png", "b.png", "link.png"))
    picture.save(a)
    picture.save(b)
    link.symlink_to(b)
    before = a.read_bytes()
    for diff in (a, b, link):
        with pytest.raises(InputError, match="is one of the pictures compared"):
            CliRunner().invoke(compare, [str(a), str(b), "--diff", str(diff), "--force"], catch_exceptions=False)
    assert a.read_bytes() == b.read_bytes() == before
    with pytest.raises(InputError, match=r"use \.png"):
        CliRunner().invoke(compare, [str(a), str(b), "--diff", str(tmp_path / "d.txt")], catch_exceptions=False)
    old = tmp_path / "d.png"
    old.write_bytes(b"old")
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(InputError, match="cannot be written: No space"):
        CliRunner().invoke(compare, [str(a), str(b), "--diff", str(old), "--force"], catch_exceptions=False)
    assert old.read_bytes() == b"old"


def test_compare_reads_aec_files(tiny_path: Path, picture: Image.Image, tmp_path: Path) -> None:
    import nncodec

    picture.save(tmp_path / "a.png")
    data = nncodec.compress(picture, quality=40, model="tiny")
    (tmp_path / "a.aec").write_bytes(data)
    done = CliRunner().invoke(compare, [str(tmp_path / "a.png"), str(tmp_path / "a.aec")], catch_exceptions=False)
    decoded = np.asarray(nncodec.decompress(data).to_pil())
    assert f"PSNR {metrics.psnr(np.asarray(picture), decoded):.3f} dB" in done.output
    assert f"a.aec  {len(data)} B" in done.output


def test_compare_refuses_pictures_of_different_sizes(picture: Image.Image, tmp_path: Path) -> None:
    picture.save(tmp_path / "a.png")
    picture.crop((0, 0, 50, 40)).save(tmp_path / "b.png")
    with pytest.raises(InputError, match="are 96x80 and 50x40"):
        CliRunner().invoke(compare, [str(tmp_path / "a.png"), str(tmp_path / "b.png")], catch_exceptions=False)


@pytest.mark.parametrize("gain", ["nan", "inf"])
def test_compare_refuses_a_gain_that_is_not_finite(gain: str, picture: Image.Image, tmp_path: Path) -> None:
    a = tmp_path / "a.png"
    picture.save(a)
    done = CliRunner().invoke(compare, [str(a), str(a), "--diff", str(tmp_path / "d.png"), "--gain", gain])
    assert done.exit_code == 2
    assert "give a number like 8" in done.output


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys, nncodec.bench.command; print({'torch', 'numpy', 'matplotlib', 'PIL', 'tqdm'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "set()"


# README


def store(run: results.Results, folder: Path, names: tuple[str, ...]) -> None:
    folder.mkdir()
    rows.write(folder / "results.csv", [r for c in run.curves for r in stored_rows(c, names)])
    (folder / "results.json").write_text(results.to_json(run), encoding="utf-8")
    published_csv(folder / "reference.csv")


def stored_rows(curve: Curve, names: tuple[str, ...]) -> list[Row]:
    return [row(curve.name, i, p.bpp, p.quality, name) for name in names for i, p in enumerate(curve.psnr)]


def test_readme_block_has_the_numbers_of_the_rows(run_results: results.Results, tmp_path: Path) -> None:
    store(run_results, tmp_path / "results", run_results.pictures)
    text = readme.block(tmp_path / "results", tmp_path)
    assert "![Quality over size of all codecs](results/rd_psnr.svg)" in text
    lines = [line for line in text.split("\n") if line.startswith("|")]
    both = "{0} % | {1}28.0\N{EN DASH}39.5 dB{1} | {0} % | {1}14.0\N{EN DASH}19.7 dB{1}"
    assert lines[2].replace("**", "") == f"| Nncodec:T | {both.format(chr(0x2212) + '20.0', '')} | 10.0 | 200 |"
    assert lines[2].count("**") == 14
    assert f"| Jpeg | {both.format('+100.0', '')} | 10.0 | 20.0 |" in lines
    assert "mean of 24 pictures" in text


def test_readme_changes_between_its_marks_only() -> None:
    text = f"before\n{readme.BEGIN}\nold\n{readme.END}\nafter\n"
    replaced = readme.replace(text, "new")
    assert replaced == f"before\n{readme.BEGIN}\nnew\n{readme.END}\nafter\n"
    assert readme.replace(replaced, "new") == replaced
    for broken in ("no marks", f"{readme.END} {readme.BEGIN}", text + text):
        with pytest.raises(InputError, match="once each"):
            readme.replace(broken, "new")


def test_readme_numbers_equal_the_stored_results() -> None:
    folder, path = ROOT / "benchmarks" / "results", ROOT / "README.md"
    if not (folder / "results.csv").exists():
        pytest.skip("benchmarks/results has no results.csv yet")
    text = path.read_text(encoding="utf-8")
    assert readme.replace(text, readme.block(folder, ROOT)) == text, (
        "README differs from benchmarks/results; run python -m nncodec.bench.readme benchmarks/results README.md"
    )
