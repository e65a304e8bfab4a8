"""Streams of tiles: their least length, and what fills them up to it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from reference_decoder import decode_symbols as reference_symbols
from reference_decoder import read_weights
from safetensors.torch import load_file

from nncodec import codec, container, weights
from nncodec.config import TINY
from nncodec.container import SectionType
from nncodec.errors import CorruptError
from nncodec.weights import Model


@pytest.fixture(scope="module")
def quiet_path(tiny_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that codes nothing but the z of one channel: its streams are shorter than the least length."""
    tensors = load_file(tiny_path)
    tensors["scale.index_bias"] = torch.full_like(tensors["scale.index_bias"], -(1 << 30))
    tensors["scale.z_index"][:, 1:] = 0
    tensors["scale.z_index"][:, 0] = 1
    path = tmp_path_factory.mktemp("quiet") / "quiet.safetensors"
    weights.save(tensors, "quiet", TINY, path)
    return path


@pytest.fixture(scope="module")
def quiet(quiet_path: Path) -> Model:
    return weights.load(weights.describe(quiet_path))


def test_a_stream_has_a_word_for_each_position_of_z(quiet: Model, quiet_path: Path) -> None:
    picture = np.full((200, 260, 3), 90, np.uint8)
    data = codec.compress(picture, 40, quiet, effort=0, tile_log2=7)
    header, sections = container.parse(data)
    assert [len(s.payload) for s in sections] == list(header.tile_floors()) == [16, 16, 8, 16, 16, 8]
    assert codec.decompress(data, model=quiet).color.shape == picture.shape
    found = [s for _, s in codec.decode_symbols(quiet, header, [s.payload for s in sections])]
    tensors, _ = read_weights(quiet_path)
    for (z_hat, r_hat, taps), symbols in zip(reference_symbols(data, tensors), found, strict=True):
        assert (symbols.z_hat == z_hat).all()
        assert (symbols.r_hat == r_hat).all()
        assert (symbols.taps == taps).all()


def test_a_shorter_stream_is_corrupt(quiet: Model) -> None:
    with pytest.raises(CorruptError, match="stream of 12 bytes where at least 16 are needed"):
        quiet.entropy.decode(bytes(12), 40, 8, 8)


def test_words_beyond_the_least_length_must_be_read(quiet: Model) -> None:
    nothing = quiet.entropy.nothing(8, 8)
    ((stream, _),) = quiet.entropy.encode(nothing.z_hat[None], 40, lambda k, index: np.zeros(index.shape, np.int32))
    assert (quiet.entropy.decode(stream, 40, 8, 8).z_hat == 0).all()
    for longer in (stream + b"word", stream + bytes(4), stream[:12] + b"word"):
        with pytest.raises(CorruptError, match="longer than its symbols"):
            quiet.entropy.decode(longer, 40, 8, 8)


def test_grey_tiles_are_well_above_the_least_length(tiny: Model) -> None:
    """The least length costs an ordinary model nothing, not even where there is nothing to code."""
    data = codec.compress(np.full((256, 256), 128, np.uint8), 1, tiny)
    header, sections = container.parse(data)
    (floor,) = header.tile_floors()
    (stream,) = (s.payload for s in sections if s.type is SectionType.TILE)
    assert len(stream) > 2 * floor
