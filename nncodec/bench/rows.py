"""Measured points: one row a picture, codec and quality, and their CSV.

Knows the columns and what makes two rows the same measurement; knows no codec.
"""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Iterable
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import NamedTuple

from nncodec.errors import InputError


class Key(NamedTuple):
    """What a row was measured on; a stored row with the same key is not measured again."""

    picture_sha256: str
    codec: str
    settings: str
    quality: float


@dataclass(frozen=True)
class Row:
    """One file: its size and how near its decoded 8-bit RGB comes to the picture.

    `picture_sha256` is over the RGB pixels, first 12 hex digits; `bytes` counts the whole file; `psnr` in
    dB; `ssim` and `ms_ssim` are nan where the picture is too small for them.
    """

    picture: str
    picture_sha256: str
    width: int
    height: int
    codec: str
    label: str
    settings: str
    quality: float
    bytes: int
    bpp: float
    psnr: float
    ssim: float
    ms_ssim: float

    @property
    def key(self) -> Key:
        return Key(self.picture_sha256, self.codec, self.settings, self.quality)


COLUMNS = tuple(field.name for field in fields(Row))
_TYPES = {"int": int, "float": float, "str": str}


def read(path: Path) -> list[Row]:
    """Rows of a CSV that `write` or `append` made; none where there is no file.

    Raises
    ------
    InputError
        The columns are others, or a value is no number. A last line that an interruption cut short is
        left out instead.
    """
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        lines = list(csv.reader(file))
    if not lines:
        return []
    if tuple(lines[0]) != COLUMNS:
        raise InputError(f"{path}: its columns are not those of this version; delete it or write elsewhere")
    rows: list[Row] = []
    for number, line in enumerate(lines[1:], start=2):
        try:
            values = [_TYPES[str(f.type)](text) for f, text in zip(fields(Row), line, strict=True)]
        except ValueError as error:
            if number == len(lines):
                break
            raise InputError(f"{path}, line {number}: {error}; delete the line or the file") from None
        rows.append(Row(*values))
    return rows


def append(path: Path, new: Iterable[Row]) -> None:
    """Adds rows at the end, the header first where there is no file yet."""
    fresh = not path.exists() or path.stat().st_size == 0
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        if fresh:
            writer.writerow(COLUMNS)
        writer.writerows(_texts(row) for row in new)


def write(path: Path, rows: Iterable[Row]) -> None:
    """Replaces the file by `rows`, sorted, at once: a reader sees the old file or the new one."""
    temporary = path.with_name(path.name + ".part")
    temporary.unlink(missing_ok=True)
    append(temporary, sorted(rows, key=lambda row: (row.codec, row.settings, row.bpp, row.picture)))
    os.replace(temporary, path)


def _texts(row: Row) -> list[str]:
    """Six significant digits past what a table shows, and no more: the file stays readable in a diff."""
    return [
        f"{value:.6f}".rstrip("0").rstrip(".") if isinstance(value, float) and math.isfinite(value) else str(value)
        for value in astuple(row)
    ]
