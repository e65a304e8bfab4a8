"""The Pillow plugin, as somebody meets it who knows Pillow and not nncodec."""

from __future__ import annotations

import copy
import io
import os
import pickle
import subprocess
import sys
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import hostile
import numpy as np
import pytest
from PIL import Image, ImageFile, UnidentifiedImageError

import nncodec.pillow
from nncodec import codec, container
from nncodec.container import Header, Section, SectionType
from nncodec.errors import CorruptError, LimitError, ModelNotFoundError
from nncodec.picture import Picture
from nncodec.weights import Model

EXIF = Image.Exif()
EXIF[0x0112] = 6
XMP = b"<x:xmpmeta xmlns:x='adobe:ns:meta/'/>"
ICC = b"profile" * 20


@pytest.fixture(autouse=True)
def _tiny_weights(tiny_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NNCODEC_WEIGHTS", str(tiny_path.parent))


@pytest.fixture(scope="module")
def file(tiny: Model, photo: np.ndarray) -> bytes:
    alpha = np.add.outer(np.arange(160), np.arange(208)).astype(np.uint8)
    return codec.compress(
        Picture(photo, alpha, ICC, EXIF.tobytes().removeprefix(b"Exif\0\0"), XMP), 60, tiny, tile_log2=6
    )


@pytest.fixture
def path(file: bytes, tmp_path: Path) -> Path:
    path = tmp_path / "photo.aec"
    path.write_bytes(file)
    return path


def spoil(data: bytes, section: int) -> bytes:
    _, entries = container.parse_header(data)
    out = bytearray(data)
    out[entries[section].offset] ^= 4
    return bytes(out)


def fresh(code: str) -> str:
    """Output of a new process."""
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60).stdout


def test_importing_and_opening_load_no_torch(path: Path) -> None:
    code = (
        "import sys, nncodec.pillow\nfrom PIL import Image\n"
        f"with Image.open({str(path)!r}) as image: print(image.format, image.size, image.mode, sorted(image.info))\n"
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    )
    found = "AEC (208, 160) RGBA ['bit_depth', 'exif', 'icc_profile', 'model_id', 'quality', 'xmp']\n"
    assert fresh(code) == found


def test_pillow_knows_the_format_once() -> None:
    nncodec.pillow.register()
    assert Image.ID.count("AEC") == 1
    assert Image.registered_extensions()[".aec"] == "AEC"
    assert Image.MIME["AEC"] == "image/x-aec"
    assert [e for e, f in Image.registered_extensions().items() if f == "AEC"] == [".aec"]


def test_opening_reads_no_tile(path: Path, file: bytes, tiny: Model) -> None:
    _, entries = container.parse_header(file)
    path.write_bytes(file[: entries[3].offset])  # the tiles are not there
    with Image.open(path) as image:
        assert (image.size, image.mode, image.get_format_mimetype()) == ((208, 160), "RGBA", "image/x-aec")
        carried = {"icc_profile": ICC, "exif": EXIF.tobytes(), "xmp": XMP}
        assert image.info == {"bit_depth": 8, "quality": 60, "model_id": tiny.id.hex()} | carried
        assert image.getexif()[0x0112] == 6


def test_opening_takes_under_a_millisecond_or_so(path: Path) -> None:
    seconds = []
    for _ in range(20):
        begin = time.perf_counter()
        Image.open(path).close()
        seconds.append(time.perf_counter() - begin)
    assert min(seconds) < 2e-3


def test_loading_gives_what_decompress_gives(path: Path, file: bytes, tiny: Model) -> None:
    decoded = codec.decompress(file, model=tiny)
    with Image.open(path) as image:
        assert (np.asarray(image) == np.dstack([decoded.color, decoded.alpha])).all()
        assert image.fp is None  # closed as soon as it was read
        image.putpixel((3, 3), (1, 2, 3, 4))
        assert image.getpixel((3, 3)) == (1, 2, 3, 4)
    for source in (io.BytesIO(file), path.open("rb")):
        with source, Image.open(source) as image:
            assert (np.asarray(image)[..., :3] == decoded.color).all()
            assert not source.closed


def test_pipes_can_be_opened(file: bytes) -> None:
    read, write = os.pipe()
    with open(write, "wb") as end:
        end.write(file[:60000])
    with open(read, "rb") as end, Image.open(end) as image:
        assert image.size == (208, 160)


def test_copies_and_pickles_hold_the_pixels(path: Path) -> None:
    with Image.open(path) as image:
        pickled = pickle.loads(pickle.dumps(image))
        copies = [image.copy(), copy.deepcopy(image), pickled]
        for one in copies:
            assert one.tobytes() == image.tobytes()
            one.load()


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
def test_modes_come_back(photo: np.ndarray, mode: str) -> None:
    out = io.BytesIO()
    source = Image.fromarray(photo).convert(mode)
    source.save(out, "AEC", model="tiny", quality=90)
    with Image.open(out) as image:
        assert image.mode == mode
        image.load()
        assert image.mode == mode
        difference = np.abs(np.asarray(image).astype(int) - np.asarray(source))
    assert difference.mean() < 20  # the tiny model is no good; noise against the photo gives 80


@pytest.mark.parametrize(("mode", "becomes"), [("1", "L"), ("P", "RGB"), ("CMYK", "RGB"), ("YCbCr", "RGB")])
def test_other_modes_are_converted(photo: np.ndarray, mode: str, becomes: str) -> None:
    out = io.BytesIO()
    Image.fromarray(photo).convert(mode).save(out, "AEC", model="tiny")
    with Image.open(out) as decoded:
        assert decoded.mode == becomes


def test_save_takes_its_options(photo: np.ndarray, tmp_path: Path) -> None:
    image = Image.fromarray(photo)
    sizes = {}
    for quality, effort in ((20, 0), (20, 1), (80, 1)):
        path = tmp_path / f"{quality}{effort}.aec"
        image.save(path, quality=quality, effort=effort, model="tiny", exif=EXIF, icc_profile=ICC, xmp=XMP.decode())
        sizes[quality, effort] = path.stat().st_size
        with Image.open(path) as decoded:
            assert decoded.info["quality"] == quality
            assert (decoded.info["exif"], decoded.info["icc_profile"], decoded.info["xmp"]) == (
                EXIF.tobytes(),
                ICC,
                XMP,
            )
    assert sizes[20, 1] < sizes[20, 0] < sizes[80, 1]


def test_metadata_is_kept_unless_it_is_emptied(path: Path) -> None:
    with Image.open(path) as image:
        kept, stripped = io.BytesIO(), io.BytesIO()
        image.save(kept, "AEC", model="tiny")
        image.save(stripped, "AEC", model="tiny", exif=b"", icc_profile=None, xmp="")
    with Image.open(kept) as image:
        assert (image.info["exif"], image.info["icc_profile"], image.info["xmp"]) == (EXIF.tobytes(), ICC, XMP)
    with Image.open(stripped) as image:
        assert not {"exif", "icc_profile", "xmp"} & set(image.info)


@pytest.mark.parametrize("options", [{"quality": 0}, {"quality": 101}, {"quality": 50.0}, {"quality": "high"},
                                     {"quality": True}, {"effort": 99}, {"exif": 5}, {"xmp": [1]}])  # fmt: skip
def test_bad_options_are_value_errors(photo: np.ndarray, tmp_path: Path, options: dict) -> None:
    path = tmp_path / "out.aec"
    with pytest.raises(ValueError, match=next(iter(options))):
        Image.fromarray(photo).save(path, model="tiny", **options)
    assert not path.exists()


def test_what_cannot_be_written_is_an_oserror(photo: np.ndarray, tmp_path: Path) -> None:
    with pytest.raises(OSError, match="cannot write mode F as AEC"):
        Image.new("F", (5, 5)).save(tmp_path / "a.aec", model="tiny")
    with pytest.raises(OSError, match="no model 'absent'") as raised:
        Image.fromarray(photo).save(tmp_path / "b.aec", model="absent")
    assert isinstance(raised.value.__cause__, ModelNotFoundError)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_written_before_everything_is_encoded(photo: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    class Recorder(io.BytesIO):
        writes = 0

        def write(self, data) -> int:
            self.writes += 1
            return super().write(data)

    out = Recorder()
    with pytest.raises(OSError, match="cannot write"):
        Image.new("F", (5, 5)).save(out, "AEC", model="tiny")
    assert (out.writes, out.getvalue()) == (0, b"")
    Image.fromarray(photo).save(out, "AEC", model="tiny")
    assert out.writes == 1


def test_verify_checks_every_crc_without_decoding(path: Path, file: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codec, "decompress", lambda *_, **__: pytest.fail("verify decoded"))
    with Image.open(path) as image:
        image.verify()
    for section in range(27):
        path.write_bytes(spoil(file, section))
        with Image.open(path) as image, pytest.raises(OSError, match=r"photo\.aec: .*crc .* does not match") as raised:
            image.verify()
        assert isinstance(raised.value.__cause__, CorruptError)


def test_damage_is_an_oserror_with_its_cause(path: Path, file: bytes) -> None:
    for data, words in ((spoil(file, 13), "tile 5: crc"), (file[:-1], "truncated"), (file + b"x", "followed by")):
        path.write_bytes(data)
        with Image.open(path) as image, pytest.raises(OSError, match=words) as raised:
            image.load()
        assert isinstance(raised.value.__cause__, CorruptError)


def test_every_cut_is_an_oserror(file: bytes) -> None:
    end = container.table_end(file)
    for length in range(end):
        with pytest.raises(UnidentifiedImageError):
            Image.open(io.BytesIO(file[:length]))
    for length in range(end, len(file), 97):
        with Image.open(io.BytesIO(file[:length])) as image, pytest.raises(OSError, match="truncated"):
            image.load()


def test_broken_headers_say_why(path: Path, file: bytes) -> None:
    for at, words in ((6, "version 0.*update nncodec"), (12, "header: crc")):
        path.write_bytes(file[:at] + bytes([file[at] ^ 1]) + file[at + 1 :])
        with pytest.raises(UnidentifiedImageError, match=rf"photo\.aec.*{words}"):
            Image.open(path)


@pytest.mark.parametrize(("shape", "mode"), [((70, 90), "I;16"), ((70, 90, 3), "RGB"), ((70, 90, 4), "RGBA")])
def test_sixteen_bits_are_kept_where_pillow_has_a_mode(tiny: Model, shape: tuple[int, ...], mode: str) -> None:
    levels = np.linspace(0, 65535, int(np.prod(shape))).astype(np.uint16).reshape(shape)
    data = codec.compress(levels, 90, tiny)
    decoded = codec.decompress(data, model=tiny)
    with Image.open(io.BytesIO(data)) as image:
        assert (image.mode, image.info["bit_depth"]) == (mode, 16)
        image.load()
        assert image.mode == mode
        assert (np.asarray(image) == np.asarray(decoded.to_pil())).all()


def test_truncated_files_load_if_pillow_is_told_so(file: bytes, tiny: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    with Image.open(io.BytesIO(spoil(file, 13))) as image:
        assert (np.asarray(image)[..., :3] == codec.decompress(spoil(file, 13), model=tiny, partial=True).color).all()


def test_damaged_metadata_is_not_shown(file: bytes) -> None:
    with Image.open(io.BytesIO(spoil(file, 0))) as image:
        assert "icc_profile" not in image.info
        assert "exif" in image.info
        with pytest.raises(OSError, match="icc: crc"):
            image.load()


def test_bombs_are_refused_by_pillow() -> None:
    header = Header(20_000, 20_000, 50, b"modelid!", tile_log2=12)
    data = container.pack(header, [Section(SectionType.TILE, bytes(n)) for n in header.tile_floors()])
    with pytest.raises(Image.DecompressionBombError):
        Image.open(io.BytesIO(data))
    header = Header(10_000, 10_000, 50, b"modelid!", tile_log2=12)
    data = container.pack(header, [Section(SectionType.TILE, bytes(n)) for n in header.tile_floors()])
    with pytest.warns(Image.DecompressionBombWarning), Image.open(io.BytesIO(data)) as image:
        assert image.size == (10_000, 10_000)


def test_metadata_bombs_are_left_packed(file: bytes) -> None:
    parts = hostile.take_apart(file)
    assert parts is not None
    parts.sections[0] = (1, zlib.compress(bytes(container.METADATA_MAX + 1)))
    with Image.open(io.BytesIO(parts.bytes())) as image:
        assert "icc_profile" not in image.info
        with pytest.raises(OSError, match="more than 16777216 bytes") as raised:
            image.load()
    assert isinstance(raised.value.__cause__, LimitError)


def test_missing_weights_are_an_oserror() -> None:
    data = container.pack(Header(64, 64, 50, b"\xee" * 8), [Section(SectionType.TILE, bytes(4))])
    with Image.open(io.BytesIO(data)) as image, pytest.raises(OSError, match="ee" * 8):
        image.load()


def test_other_files_are_none_of_its_business(tmp_path: Path) -> None:
    with pytest.raises(UnidentifiedImageError):
        Image.open(io.BytesIO(b"\x8bAEC\n" + bytes(50)))
    assert not nncodec.pillow._accept(b"\x89PNG\r\n\x1a\n")


def test_sixteen_threads_load_the_same(file: bytes) -> None:
    def load(_: int) -> bytes:
        with Image.open(io.BytesIO(file)) as image:
            return image.tobytes()

    with ThreadPoolExecutor(16) as pool:
        assert len(set(pool.map(load, range(16)))) == 1
