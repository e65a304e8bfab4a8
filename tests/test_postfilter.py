"""Filters are what docs/bitstream.md says, pay for themselves, and leave no seams."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from conftest import ROOT
from PIL import Image

from nncodec import codec, container, decoding, encoding, metrics, postfilter
from nncodec.config import TUNES
from nncodec.container import SectionType
from nncodec.errors import CorruptError
from nncodec.picture import Picture
from nncodec.postfilter import Taps
from nncodec.rangecoder import ResidualEncoder
from nncodec.weights import Model

LMBDA = 0.02
OWN = [(0, 1), (0, 2), (0, 3), (1, -2), (1, -1), (1, 0), (1, 1), (1, 2), (2, -1), (2, 0), (2, 1), (3, 0)]
CLIPPED = [(0, 1), (0, 2), (1, -1), (1, 0), (1, 1), (2, 0)]
CROSS = [(0, 1), (1, -1), (1, 0), (1, 1)]


def by_the_book(x: np.ndarray, taps: np.ndarray) -> np.ndarray:
    """docs/bitstream.md, section 8, pixel by pixel; x float64 [C, H, W] in 0..1."""
    planes, height, width = x.shape
    around = np.pad(x, ((0, 0), (3, 3), (3, 3)), mode="edge")
    limit = 1 / (255 * np.sqrt(LMBDA))
    out = x.copy()
    for c, i, j in itertools.product(range(planes), range(height), range(width)):

        def pair(plane, v, bound=np.inf, i=i, j=j):
            middle = around[plane, i + 3, j + 3]
            sides = (around[plane, i + 3 + s * v[0], j + 3 + s * v[1]] - middle for s in (1, -1))
            return sum(float(np.clip(side, -bound, bound)) for side in sides)

        terms = [pair(c, v) for v in OWN] + [pair(c, v, limit) for v in CLIPPED]
        terms += [pair(other, v) for other in range(planes) if other != c for v in CROSS]
        terms += [8 / 255] + [(x[other, i, j] - 0.5) / 4 for other in range(planes)]
        out[c, i, j] += np.dot(taps[c] / 64, terms)
    return out


def random_taps(planes: int, seed: int = 0, largest: int = 6) -> Taps:
    rng = np.random.default_rng(seed)
    return rng.integers(-largest, largest + 1, postfilter.none(planes).shape).astype(np.int32)


def through(x: torch.Tensor, taps: Taps) -> torch.Tensor:
    return postfilter.filtered(postfilter.padded(x), taps, LMBDA)


def smooth(planes: int, height: int, width: int, seed: int = 1) -> torch.Tensor:
    noise = torch.rand(1, planes, height, width, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.avg_pool2d(noise, 3, 1, 1)[0]


@pytest.mark.parametrize("planes", [1, 3])
def test_filter_is_the_one_of_the_document(planes: int) -> None:
    x = torch.rand(planes, 41, 7, generator=torch.Generator().manual_seed(0))  # more rows than a band
    taps = random_taps(planes)
    assert np.abs(through(x, taps).numpy() - by_the_book(x.double().numpy(), taps)).max() < 1e-5
    assert torch.equal(through(x, postfilter.none(planes)), x)


def systems(x_hat: torch.Tensor, x: torch.Tensor) -> list[postfilter.Equations]:
    return postfilter.equations(postfilter.padded(x_hat), x, postfilter.clip_at(LMBDA))


@pytest.mark.parametrize("planes", [1, 3])
def test_fit_finds_the_filter_that_was_applied(planes: int) -> None:
    x_hat = smooth(planes, 120, 150)
    x = through(x_hat, random_taps(planes, largest=3))
    found = postfilter.fit(systems(x_hat, x), 1e12, lambda taps: 0.0)
    before, after = ((x_hat - x).square().mean(), (through(x_hat, found) - x).square().mean())
    assert after < 1e-4 * before


def test_fit_weighs_bits_against_error() -> None:
    x_hat = smooth(3, 60, 80)
    known = systems(x_hat, through(x_hat, random_taps(3)))

    def size(pixels: int, cost: float = 4.0) -> int:
        worth = 255.0**2 * LMBDA * pixels / 3
        return int(np.abs(postfilter.fit(known, worth, lambda taps: cost * np.count_nonzero(taps))).sum())

    assert size(10**6) > size(2000) > size(300) > 0
    assert size(300, cost=1e6) == 0
    assert size(1) == 0


def test_flat_pictures_have_filters_too() -> None:
    flat, other = torch.full((3, 40, 40), 0.5), torch.full((3, 40, 40), 0.55)
    found = postfilter.fit(systems(flat, other), 255.0**2 * LMBDA * 1600 / 3, lambda taps: 0.0)
    assert (through(flat, found) - other).abs().max() < 0.01


def cost(model: Model, data: bytes, picture: np.ndarray, quality: int) -> tuple[float, float]:
    error = codec.decompress(data, model=model).color.astype(float) - picture
    return 8 * len(data), model.config.lmbda(quality) * float((error**2).mean()) * picture.shape[0] * picture.shape[1]


@pytest.mark.weights
@pytest.mark.parametrize("grey", [False, True])
def test_filters_pay(grey: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    model = codec.load_model("fast", "cpu")
    cup = np.asarray(Image.open(ROOT / "examples" / "coffee.png").convert("L" if grey else "RGB"))
    for quality in (20, 60):
        bits, error = cost(model, codec.compress(cup, quality, model), cup, quality)
        with monkeypatch.context() as patch:
            patch.setattr(encoding, "filters", lambda *_: False)
            plain_bits, plain_error = cost(model, codec.compress(cup, quality, model), cup, quality)
        assert bits + error < plain_bits + plain_error - 0.03 * plain_bits
        assert bits < plain_bits + 8 * 100


def header_of(data: bytes) -> container.Header:
    return container.parse_header(data)[0]


def taps_of(model: Model, data: bytes) -> list[Taps]:
    header, sections = container.parse(data)
    streams = [s.payload for s in sections if s.type is SectionType.TILE]
    return [symbols.taps for _, symbols in codec.decode_symbols(model, header, streams)]


@pytest.mark.parametrize("tune", TUNES)
def test_who_gets_filters(tiny: Model, photo: np.ndarray, tune: str) -> None:
    for effort in (0, 1, 2):
        data = codec.compress(photo, 60, tiny, effort=effort, tune=tune)
        assert header_of(data).filtered == (effort > 0)
        assert any(taps.any() for taps in taps_of(tiny, data)) == (effort > 0)
    assert not header_of(codec.compress(photo[:64, :64], 60, tiny, tune=tune)).filtered


@pytest.mark.weights
def test_noise_is_not_fitted(photo: np.ndarray) -> None:
    assert not header_of(codec.compress(photo, 60, "denoise")).filtered


def test_a_filter_suits_all_of_its_tile(tiny: Model) -> None:
    """Fitted to the black that depends on no other tile, it turned the white beside it dark: 8.6 dB."""
    halves = np.zeros((129, 200, 3), np.uint8)
    halves[:, 100:] = 255
    plain, fitted = (codec.compress(halves, 80, tiny, effort=level, tile_log2=7) for level in (0, 1))
    assert header_of(fitted).filtered
    psnr = [metrics.psnr(halves, codec.decompress(data, model=tiny).color) for data in (plain, fitted)]
    assert psnr[1] > psnr[0] - 0.5


@pytest.mark.parametrize("kind", ["rgb", "grey", "deep"])
def test_windows_tiles_and_crops_show_no_seams(tiny: Model, photo: np.ndarray, kind: str) -> None:
    wide = np.tile(photo, (4, 3, 1))[:500, :510]
    picture = {"rgb": wide, "grey": wide[..., 0], "deep": wide.astype(np.uint16) * 257}[kind]
    data = codec.compress(picture, 50, tiny, tile_log2=8)
    found = taps_of(tiny, data)
    assert len(found) == 4
    assert all(taps.any() for taps in found)
    assert len({taps.tobytes() for taps in found}) > 1
    whole = codec.decompress(data, model=tiny).color
    step = 257 if kind == "deep" else 1
    for window in (64, 160):
        other = codec.decompress(data, model=tiny, window=window).color
        assert np.abs(other.astype(int) - whole).max() <= step
    part = codec.decompress(data, model=tiny, crop=(101, 203, 190, 97)).color
    assert np.abs(part.astype(int) - whole[203:300, 101:291]).max() <= step


def test_filter_is_applied_over_the_edges_of_tiles(tiny: Model, photo: np.ndarray) -> None:
    """The decoded picture is g_s of all latents, through each tile's filter of the whole."""
    wide = np.tile(photo, (2, 2, 1))[:256, :320]
    data = codec.compress(wide, 50, tiny, tile_log2=8)
    header, sections = container.parse(data)
    plane = decoding.plane(header)
    y = torch.zeros(1, tiny.config.y_channels, plane.height // 16, plane.width // 16)
    taps = {}
    for tile, symbols in codec.decode_symbols(tiny, header, [s.payload for s in sections]):
        y[:, :, tile.top // 16 : tile.bottom // 16, tile.left // 16 : tile.right // 16] = decoding.reconstruct(
            tiny, symbols, 50
        )
        taps[tile] = symbols.taps
    with decoding.inference():
        x = decoding.decoded(tiny, y, header, plane)[1].clamp(0, 1)
    expected = np.empty(wide.shape)
    for tile, values in taps.items():
        seen = postfilter.padded(x)
        all_of_it = postfilter.filtered(seen, values, tiny.config.lmbda(50)).permute(1, 2, 0).numpy()
        place = slice(tile.top, tile.bottom), slice(tile.left, tile.right)
        expected[place] = (255 * all_of_it[place]).clip(0, 255)
    assert len(taps) == 2
    assert np.abs(codec.decompress(data, model=tiny).color - expected).max() < 0.51


def test_extreme_taps_still_make_pictures(tiny: Model, photo: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    wild = random_taps(3, largest=30000)
    monkeypatch.setattr(postfilter, "fit", lambda *_: wild)
    data = codec.compress(photo, 50, tiny)
    assert (taps_of(tiny, data)[0] == wild).all()
    assert codec.decompress(data, model=tiny).color.shape == photo.shape


@pytest.mark.parametrize("number", [-9, 8])
def test_rows_beyond_the_tables_are_refused(tiny: Model, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def put(self, coder: ResidualEncoder, taps: Taps) -> None:
        coder.put(np.full(4, number, np.int32), np.full(4, 32, np.uint8))

    monkeypatch.setattr(type(tiny.entropy), "_put_taps", put)
    data = codec.compress(np.zeros((130, 130, 3), np.uint8), 50, tiny)
    with pytest.raises(CorruptError, match="tile 0: taps of the filter"):
        codec.decompress(data, model=tiny)


def test_damaged_tiles_have_no_filter(tiny: Model, photo: np.ndarray) -> None:
    wide = np.tile(photo, (2, 2, 1))[:256, :320]
    data = bytearray(codec.compress(wide, 50, tiny, tile_log2=8))
    data[-1] ^= 1
    salvaged = codec.decompress(bytes(data), model=tiny, partial=True)
    assert isinstance(salvaged, Picture)
    assert len(salvaged.damage) == 1
