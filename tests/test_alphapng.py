"""Alpha's PNG may hold what the specification allows and nothing else."""

from __future__ import annotations

import io

import hostile
import numpy as np
import pytest
from PIL import Image

from nncodec import picture
from nncodec.errors import CorruptError

ALPHA = np.arange(35 * 20, dtype=np.uint8).reshape(20, 35)
CHUNKS = hostile.png_chunks(picture.encode_alpha(ALPHA))


def decode(chunks: list[tuple[bytes, bytes]]) -> np.ndarray:
    return picture.decode_alpha(hostile.png(chunks), 35, 20)


def test_plain_png_is_decoded() -> None:
    assert [kind for kind, _ in CHUNKS] == [b"IHDR", b"IDAT", b"IEND"]
    assert (decode(CHUNKS) == ALPHA).all()
    data = CHUNKS[1][1]
    split = [CHUNKS[0], (b"IDAT", data[:9]), (b"IDAT", data[9:]), CHUNKS[2]]
    assert (decode(split) == ALPHA).all()


@pytest.mark.parametrize("kind", [b"acTL", b"tRNS", b"iTXt", b"zTXt", b"iCCP", b"eXIf", b"PLTE", b"xyZw", b"IHDR"])
@pytest.mark.parametrize("place", [0, 1, 2, 3])
def test_other_chunks_are_refused(kind: bytes, place: int) -> None:
    with pytest.raises(CorruptError, match="IHDR, IDAT and IEND are allowed"):
        decode([*CHUNKS[:place], (kind, bytes(13)), *CHUNKS[place:]])


def test_other_pictures_are_refused() -> None:
    for image in (
        Image.new("L", (34, 20)),
        Image.new("L", (20, 35)),
        Image.new("RGB", (35, 20)),
        Image.new("1", (35, 20)),
    ):
        out = io.BytesIO()
        image.save(out, "PNG")
        with pytest.raises(CorruptError, match="alpha"):
            picture.decode_alpha(out.getvalue(), 35, 20)
    for body in (b"", b"\x89PNG\r\n\x1a\n", hostile.png(CHUNKS)[:-1], hostile.png(CHUNKS) + b"\0"):
        with pytest.raises(CorruptError, match="alpha"):
            picture.decode_alpha(body, 35, 20)


def test_missing_pixels_are_corrupt() -> None:
    with pytest.raises(CorruptError, match="alpha: not a readable PNG"):
        decode([CHUNKS[0], (b"IDAT", CHUNKS[1][1][:8]), CHUNKS[2]])


def test_big_alpha_is_not_a_bomb(monkeypatch: pytest.MonkeyPatch) -> None:
    """The container's pixel limit has been checked; Pillow's own would warn of sound files."""
    body = picture.encode_alpha(ALPHA)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert (picture.decode_alpha(body, 35, 20) == ALPHA).all()
