"""Files written by released versions decode to the same symbols for ever."""

from __future__ import annotations

import json

import numpy as np
import pytest
from conftest import GOLDEN
from golden.make import symbols_digest
from PIL import Image

from nncodec import codec, container, weights
from nncodec.errors import FormatError
from nncodec.weights import Model

EXPECTED = json.loads((GOLDEN / "expected.json").read_text())
INVALID = sorted((GOLDEN.parent / "invalid").glob("*.aec"))


@pytest.fixture(scope="module")
def models() -> dict[str, Model]:
    return {
        "tiny": weights.load(weights.describe(GOLDEN / "tiny.safetensors")),
        "fast": codec.load_model("fast", "cpu"),
        "fast-ssim": codec.load_model("fast-ssim", "cpu"),
    }


@pytest.mark.weights
@pytest.mark.parametrize("name", EXPECTED)
def test_golden_file_decodes_to_its_symbols_and_pixels(name: str, models: dict[str, Model]) -> None:
    data = (GOLDEN / f"{name}.aec").read_bytes()
    model = models[EXPECTED[name]["model"]]
    assert symbols_digest(model, data) == EXPECTED[name]["symbols"]
    with Image.open(GOLDEN / f"{name}.png") as image:
        expected = np.asarray(image).astype(int)
    decoded = codec.decompress(data, model=model)
    assert np.abs(np.asarray(decoded.to_pil()).astype(int) - expected).max() <= 1


def test_golden_metadata_is_whole() -> None:
    _, sections = container.parse((GOLDEN / "tiles_alpha_metadata.aec").read_bytes())
    blocks = {s.type.name: s.payload for s in sections}
    assert container.inflate(blocks["ICC"], "icc") == b"icc profile"
    assert container.inflate(blocks["EXIF"], "exif") == b"Exif\0\0data"
    assert container.inflate(blocks["XMP"], "xmp") == b"<xmp/>"
    assert sum(s.type.name == "TILE" for s in sections) == 12


@pytest.mark.parametrize("path", INVALID, ids=lambda p: p.stem)
def test_invalid_file_is_refused(path) -> None:
    with pytest.raises(FormatError):
        container.parse(path.read_bytes())


def test_there_are_invalid_files() -> None:
    assert len(INVALID) >= 10
