"""Every awkward file either round-trips by its mode's rule or is refused with its name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import SHARED

from nncodec import codec, picture
from nncodec.errors import CorruptError, InputError
from nncodec.picture import Picture
from nncodec.weights import Model

REFUSED = {"bomb_header.gif", "jpeg_12bit.jpg", "pngsuite_xdtn0g01.png", "pngsuite_xs1n0g01.png", "truncated.png"}
LARGEST = 200_000
"""Bytes of the largest file tried here, to keep the suite quick."""


def awkward(folder: str) -> list[Path]:
    files = sorted((SHARED / "data" / folder).rglob("*")) if SHARED.is_dir() else []
    return [f for f in files if f.is_file() and f.suffix.lower() not in ("", ".md", ".txt", ".license")]


@pytest.mark.shared
@pytest.mark.filterwarnings("ignore")  # Pillow's remarks on odd files
@pytest.mark.parametrize("folder", ["odd", "pngsuite"])
def test_awkward_files_round_trip_or_are_refused(folder: str, tiny: Model) -> None:
    done, refused = 0, set()
    for path in awkward(folder):
        if path.stat().st_size > LARGEST:
            continue
        try:
            source = picture.read(path)
        except InputError as error:
            assert str(path) in str(error)  # noqa: PT017
            refused.add(path.name)
            continue
        decoded = codec.decompress(codec.compress(source, 30, tiny), model=tiny)
        assert decoded.color.shape == source.color.shape, path
        assert (decoded.icc, decoded.exif, decoded.xmp) == (source.icc, source.exif, source.xmp), path
        assert (decoded.alpha is None) == (source.alpha is None), path
        assert decoded.alpha is None or (decoded.alpha == source.alpha).all(), path
        done += 1
    assert done > 60
    if folder == "odd":
        assert refused == REFUSED
    else:
        assert all(name.startswith("x") for name in refused)  # the suite's broken files


def test_alpha_of_the_wrong_size_is_corrupt() -> None:
    body = picture.encode_alpha(np.zeros((4, 5), np.uint8))
    assert picture.decode_alpha(body, 5, 4).shape == (4, 5)
    with pytest.raises(CorruptError, match="not L 4x5"):
        picture.decode_alpha(body, 4, 5)
    with pytest.raises(CorruptError, match="not a readable PNG"):
        picture.decode_alpha(body[:20], 5, 4)


def test_alpha_cannot_become_jpeg() -> None:
    levels = np.zeros((4, 5), np.uint8)
    with pytest.raises(InputError, match="alpha"):
        picture.encode_file(Picture(levels, levels), ".jpg")
