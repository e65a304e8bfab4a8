"""Every file of shared/data/odd and shared/data/pngsuite is kept by its rule or refused with its name."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from conftest import SHARED

from nncodec import codec, picture
from nncodec.errors import InputError
from nncodec.picture import Picture
from nncodec.weights import Model

TABLE = {
    line.split()[0]: line.split(maxsplit=1)[1]
    for line in Path(__file__).with_name("odd_pictures.txt").read_text().splitlines()
    if not line.startswith("#")
}
PART = 512
"""Pixels a side that go through the codec: the rule is the same for the rest of a large picture."""


def pictures(folder: str) -> list[Path]:
    files = sorted((SHARED / "data" / folder).iterdir()) if SHARED.is_dir() else []
    return [f for f in files if f.suffix not in ("", ".md")]


def kind(of: Picture) -> str:
    return ("grey" if of.is_grey else "rgb") + ("a" if of.has_alpha else "")


def described(path: Path) -> str:
    """A file's line in the table."""
    try:
        found = picture.read(path)
    except InputError as error:
        return "refused: " + str(error).removeprefix(f"{path}: ")
    blocks = (f"{name}={len(block)}" for name in picture.BLOCKS if (block := getattr(found, name)))
    text = " ".join([f"{kind(found):5} {found.bit_depth:2} {found.width}x{found.height}", *blocks])
    return text + (f" | {'; '.join(found.remarks)}" if found.remarks else "")


@pytest.mark.shared
def test_every_odd_picture_is_what_the_table_says() -> None:
    assert {path.name: described(path) for path in pictures("odd")} == TABLE
    assert len(TABLE) == 100


def by_name(name: str) -> str | None:
    """What the PNG suite's naming says of a file; None for the broken ones."""
    match = re.fullmatch(r"(\w+?)[in]([02346])([gcpa])(\d\d)\.png", name)
    if name.startswith("x") or match is None:
        return None if name.startswith("x") else "rgb 8"
    test, color, _, bits = match.groups()
    transparent = color in "46" or test[:2] == "tb" or test in ("tm3", "tp1")
    return f"{'grey' if color in '04' else 'rgb'}{'a' if transparent else ''} {16 if bits == '16' else 8}"


@pytest.mark.shared
def test_every_file_of_the_png_suite_is_what_its_name_says() -> None:
    found = {}
    for path in pictures("pngsuite"):
        try:
            one = picture.read(path)
            found[path.name] = f"{kind(one)} {one.bit_depth}"
        except InputError as error:
            assert str(error).startswith(f"{path}: ")  # noqa: PT017
            found[path.name] = None
    assert found == {name: by_name(name) for name in found}
    assert sum(rule is None for rule in found.values()) == 14
    assert len(found) == 176


@pytest.mark.shared
@pytest.mark.parametrize("folder", ["odd", "pngsuite"])
def test_every_readable_picture_round_trips(folder: str, tiny: Model) -> None:
    done = 0
    for path in pictures(folder):
        try:
            whole = picture.read(path)
        except InputError:
            continue
        part = whole.rows(0, PART).columns(0, PART)
        source = Picture(part.color, part.alpha, whole.icc, whole.exif, whole.xmp)
        decoded = codec.decompress(codec.compress(source, 90, tiny), model=tiny)
        assert decoded.outline == source.outline, path
        assert decoded.color.dtype == source.color.dtype, path
        assert (decoded.alpha is None) == (source.alpha is None), path
        assert decoded.alpha is None or (decoded.alpha == source.alpha).all(), path
        if source.width * source.height > 10_000:  # in test graphics of few pixels the tiny model is far off
            drift = decoded.color.mean((0, 1), dtype=float) - source.color.mean((0, 1), dtype=float)
            assert np.abs(drift).max() < 0.1 * source.peak, path
        done += 1
    assert done == {"odd": 94, "pngsuite": 162}[folder]
