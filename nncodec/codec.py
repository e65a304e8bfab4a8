"""compress and decompress: Picture <-> .aec bytes. The only composer of the layers below."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from functools import partial as partial_
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from nncodec import container, picture, quadtree, tiling, weights
from nncodec.config import PASSES, QUALITIES, Y_STRIDE, Z_MAX
from nncodec.container import Color, Entry, Header, Section, SectionType
from nncodec.effort import DEFAULT, LEVELS, prices, rounded
from nncodec.entropy import Indices, Integers, Symbols, take
from nncodec.errors import CorruptError, InputError
from nncodec.nets.model import quadtree_pass
from nncodec.partial import Salvage
from nncodec.picture import Levels, Picture
from nncodec.rangecoder import RESIDUAL_MAX
from nncodec.tiling import Rect
from nncodec.weights import Model

WINDOW = 2048
"""Pixels a side of what g_s sees at once, without halo. Bounds memory, not the result."""

Image_ = Image.Image | Picture | Levels | str | Path
Progress = Callable[[int, int], None]


@lru_cache(maxsize=4)
def _load(path: Path, device: str) -> Model:
    return weights.load(weights.describe(path), device)


_loading = threading.Lock()


def load_model(name: str | None = None, device: str | None = None, model_id: bytes | None = None) -> Model:
    """Installed weights by name, path or id, loaded once a process. Default device: CUDA if present."""
    chosen = device or ("cuda" if torch.cuda.is_available() else "cpu")
    with _loading:  # threads that start together load one model, not one each
        return _load(weights.find(name, model_id).path, chosen)


def as_picture(image: Image_) -> Picture:
    """A Picture of whatever the caller has: file, Pillow image, u8 array [H, W] or [H, W, 3 or 4]."""
    if isinstance(image, Picture):
        return image
    if isinstance(image, (str, Path)):
        return picture.read(image)
    if isinstance(image, Image.Image):
        return picture.from_pil(image)
    if isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.size:
        if image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3):
            return Picture(image)
        if image.ndim == 3 and image.shape[2] == 4:
            return Picture(image[..., :3], image[..., 3])
    what = f"array {image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
    raise InputError(f"{what} is not a picture; give a path, a Pillow image or u8 [H, W, 3]")


@contextmanager
def _inference(device: torch.device) -> Iterator[None]:
    """No autograd, and no TF32: pixels must agree between devices to one level."""
    with torch.inference_mode(), _full_precision:
        yield


class _FullPrecision:
    """torch's process-wide precision at its highest while any thread is inside; then as it was."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._restore = ExitStack()

    def __enter__(self) -> None:
        with self._lock:
            self._inside += 1
            if self._inside == 1:
                self._restore.callback(torch.set_float32_matmul_precision, torch.get_float32_matmul_precision())
                self._restore.enter_context(torch.backends.cudnn.flags(enabled=True, allow_tf32=False))
                torch.set_float32_matmul_precision("highest")

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                self._restore.close()


_full_precision = _FullPrecision()


def compress(
    image: Image_,
    quality: int = 50,
    model: str | Model | None = None,
    *,
    effort: int = DEFAULT,
    device: str | None = None,
    tile_log2: int = 10,
    progress: Progress | None = None,
) -> bytes:
    """Encode a picture into the bytes of an .aec file.

    Parameters
    ----------
    image
        Path, Pillow image, Picture or u8 array [H, W], [H, W, 3] or [H, W, 4].
    quality
        1 (smallest) to 100.
    model
        Name or path of weights, or a loaded Model; default the shipped 'fast'.
    effort
        0 rounds, 1 (default) weighs bits against error; see `nncodec.effort`.
    device
        'cpu', 'cuda', ...; default CUDA if there is one.
    tile_log2
        Tiles are ``1 << tile_log2`` pixels a side.
    progress
        Called with (tiles done, tiles in all).

    Raises
    ------
    InputError, ModelError
    """
    if isinstance(quality, bool) or not isinstance(quality, int) or not 1 <= quality <= QUALITIES:
        raise InputError(f"quality is {quality!r}; it must be a whole number from 1 to {QUALITIES}")
    if effort not in LEVELS:
        raise InputError(f"effort is {effort!r}; the levels are {', '.join(map(str, LEVELS))}")
    source = as_picture(image)
    loaded = model if isinstance(model, Model) else load_model(model, device)
    header = Header(
        source.width,
        source.height,
        quality,
        loaded.id,
        Color.GREY if source.is_grey else Color.RGB,
        tile_log2=tile_log2,
    )
    sections = [
        Section(kind, container.deflate(block))
        for kind, block in (
            (SectionType.ICC, source.icc),
            (SectionType.EXIF, source.exif),
            (SectionType.XMP, source.xmp),
        )
        if block
    ]
    if source.alpha is not None:
        sections.append(Section(SectionType.ALPHA, picture.encode_alpha(source.alpha)))
    price = prices(loaded.entropy.tables).to(_device(loaded)) if effort else None
    for tile in tiles(header):
        y = analyze(loaded, source.color, tile, quality)
        sections.append(Section(SectionType.TILE, encode_tile(loaded, y, quality, price)[0]))
        if progress:
            progress(sum(s.type is SectionType.TILE for s in sections), header.tiles)
    try:
        return container.pack(header, sections)
    except ValueError as error:
        raise InputError(str(error)) from None


def decompress(
    data: bytes,
    *,
    model: Model | None = None,
    device: str | None = None,
    window: int = WINDOW,
    max_pixels: int = container.PIXELS_MAX,
    progress: Progress | None = None,
    partial: bool = False,
) -> Picture:
    """Decode the bytes of an .aec file.

    Every CRC is checked before the entropy coder sees a byte. `model` overrides the installed weights
    that the file names; `window` bounds memory and does not change the result beyond float rounding.

    With `partial` a damaged section is no error: a tile's area is filled from what surrounds it, metadata
    and alpha are left out, and `Picture.damage` says so. Header and section table must be intact, and one tile.

    Raises
    ------
    FormatError, ModelError
    """
    salvage = Salvage(partial)
    header, entries = container.parse_header(data, max_pixels, whole=False)
    salvage.read("end of file", partial_(container.check_end, data, entries))
    if model is None:
        model = load_model(device=device, model_id=header.model_id)
    elif model.id != header.model_id:
        raise InputError(f"the file needs model {header.model_id.hex()}, not {model.name} ({model.id.hex()})")
    others = len(entries) - header.tiles
    areas = [None] * others + tiles(header)
    bodies = [
        salvage.read(container.section_name(entries, i), partial_(container.payload, data, entries, i), areas[i])
        for i in range(len(entries))
    ]
    y_hat = decode_latents(model, header, bodies[others:], progress, salvage)
    color = synthesize(model, y_hat, header, window)
    salvage.fill(color)
    return Picture(color, *_carried(header, entries, bodies[:others], salvage), tuple(salvage.damage))


def _carried(
    header: Header, entries: list[Entry], bodies: list[bytes | None], salvage: Salvage
) -> tuple[Levels | None, bytes | None, bytes | None, bytes | None]:
    """Alpha, ICC, EXIF and XMP of the sections before the tiles."""
    blocks = {entry.type: body for entry, body in zip(entries, bodies, strict=False) if body is not None}
    alpha = blocks.get(SectionType.ALPHA)
    plane = (
        None
        if alpha is None
        else salvage.read("alpha", partial_(picture.decode_alpha, alpha, header.width, header.height))
    )
    icc, exif, xmp = (
        salvage.read(kind.name.lower(), partial_(container.inflate, blocks[kind], kind.name.lower()))
        if kind in blocks
        else None
        for kind in (SectionType.ICC, SectionType.EXIF, SectionType.XMP)
    )
    return plane, icc, exif, xmp


def tiles(header: Header) -> list[Rect]:
    """Tiles of the padded plane, in file order."""
    plane = tiling.padded(header.height), tiling.padded(header.width)
    return list(tiling.grid(*plane, 1 << header.tile_log2))


def _device(model: Model) -> torch.device:
    return next(model.net.parameters()).device


def _quality(model: Model, quality: int) -> Tensor:
    return torch.full((1,), float(quality), device=_device(model))


def _window(color: Levels, rect: Rect) -> NDArray[np.uint8]:
    """u8 [h, w, 3] of the padded plane: beyond the picture its last row and column repeat."""
    rows = np.minimum(np.arange(rect.top, rect.bottom), color.shape[0] - 1)
    columns = np.minimum(np.arange(rect.left, rect.right), color.shape[1] - 1)
    part = color[rows][:, columns]
    return part if part.ndim == 3 else np.repeat(part[..., None], 3, axis=2)


def analyze(model: Model, color: Levels, tile: Rect, quality: int) -> Tensor:
    """Latents y f32 [1, N, h/16, w/16] of one tile, as the full frame would give them."""
    plane = tiling.padded(color.shape[0]), tiling.padded(color.shape[1])
    window = tiling.with_halo(tile, model.config.analysis_halo, *plane)
    device = _device(model)
    with _inference(device):
        x = torch.from_numpy(_window(color, window)).to(device)
        x = (x.permute(2, 0, 1)[None].float() / 255.0).contiguous(memory_format=torch.channels_last)
        y: Tensor = model.net.g_a(x, _quality(model, quality))
        rows, columns = tiling.inside(tile, window, Y_STRIDE)
        return y[:, :, rows, columns]


def encode_tile(model: Model, y: Tensor, quality: int, price: Tensor | None = None) -> tuple[bytes, Symbols]:
    """Range-coded stream and symbols of one tile's latents y [1, N, h, w].

    With `price` (`effort.prices`) bits are weighed against error; without, residuals are rounded.
    """
    device = _device(model)
    with _inference(device):
        q = _quality(model, quality)
        z = model.net.h_a(y, q)[0].round().clamp(-Z_MAX, Z_MAX)
        z_hat = z.to("cpu", torch.int32).numpy()
        z_hat[model.entropy.z_index(quality, *z_hat.shape[1:]) == 0] = 0
        features = model.net.mean_net.features(torch.from_numpy(z_hat)[None].float().to(device))
        gain = model.net.gain(q)
        context = torch.zeros_like(y)

        def choose(k: int, index: Indices) -> Integers:
            means = model.net.mean_net.means(features, context, q, k)
            residual = ((quadtree_pass(y, k) - means) * gain).clamp(-RESIDUAL_MAX, RESIDUAL_MAX)
            scale_index = torch.from_numpy(index)[None].to(device)
            if price is None:
                r = residual.round().masked_fill_(scale_index == 0, 0)
            else:
                r = rounded(residual, scale_index, price)
            quadtree.put(context, k, means + r / gain)
            return r[0].to("cpu", torch.int32).numpy()

        return model.entropy.encode(z_hat, quality, choose)


def reconstruct(model: Model, symbols: Symbols, quality: int) -> Tensor:
    """y_hat f32 [1, N, h, w]: residuals plus means, pass by pass."""
    device = _device(model)
    with _inference(device):
        q = _quality(model, quality)
        gain = model.net.gain(q)
        features = model.net.mean_net.features(torch.from_numpy(symbols.z_hat)[None].float().to(device))
        y_hat = torch.zeros(1, *symbols.r_hat.shape, device=device)
        for k in range(PASSES):
            means = model.net.mean_net.means(features, y_hat, q, k)
            r = torch.from_numpy(take(symbols.r_hat, k))[None].to(device)
            quadtree.put(y_hat, k, means + r / gain)
        return y_hat


def decode_symbols(
    model: Model, header: Header, streams: Sequence[bytes | None], salvage: Salvage | None = None
) -> Iterator[tuple[Rect, Symbols]]:
    """Symbols of every tile, in file order. Exact: the same on every machine. Raises CorruptError.

    A stream of None, or one that `salvage` misses, gives zeros.
    """
    keep = salvage or Salvage(False)
    for number, (tile, stream) in enumerate(zip(tiles(header), streams, strict=True)):
        size = tile.height // Y_STRIDE, tile.width // Y_STRIDE
        found = keep.read(f"tile {number}", partial_(_decode_tile, model, header, number, stream, size), tile)
        yield tile, found or model.entropy.nothing(*size)


def _decode_tile(model: Model, header: Header, number: int, stream: bytes | None, size: tuple[int, int]) -> Symbols:
    if stream is None:
        return model.entropy.nothing(*size)
    try:
        return model.entropy.decode(stream, header.quality, *size)
    except CorruptError as error:
        raise CorruptError(f"tile {number}: {error}") from None


def decode_latents(
    model: Model,
    header: Header,
    streams: Sequence[bytes | None],
    progress: Progress | None = None,
    salvage: Salvage | None = None,
) -> Tensor:
    """y_hat f32 [1, N, H/16, W/16] of the padded plane; see `decode_symbols`."""
    plane = Rect(0, 0, tiling.padded(header.height), tiling.padded(header.width))
    shape = (1, model.config.y_channels, plane.height // Y_STRIDE, plane.width // Y_STRIDE)
    y_hat = torch.zeros(shape, device=_device(model)).contiguous(memory_format=torch.channels_last)
    for number, (tile, symbols) in enumerate(decode_symbols(model, header, streams, salvage)):
        rows, columns = tiling.inside(tile, plane, Y_STRIDE)
        y_hat[:, :, rows, columns] = reconstruct(model, symbols, header.quality)
        if progress:
            progress(number + 1, header.tiles)
    return y_hat


def synthesize(model: Model, y_hat: Tensor, header: Header, window: int = WINDOW) -> Levels:
    """u8 picture [H, W, 3] (or [H, W] grey) of y_hat, window by window, without seams.

    `window` is a multiple of Y_STRIDE.
    """
    if window < Y_STRIDE or window % Y_STRIDE:
        raise InputError(f"window is {window}; it must be a positive multiple of {Y_STRIDE}")
    plane = Rect(0, 0, tiling.padded(header.height), tiling.padded(header.width))
    grey = header.color is Color.GREY
    out = np.empty((header.height, header.width) + (() if grey else (3,)), np.uint8)
    device = _device(model)
    for core in tiling.grid(plane.height, plane.width, window):
        if core.top >= header.height or core.left >= header.width:
            continue
        outer = tiling.with_halo(core, model.config.synthesis_halo, plane.height, plane.width)
        with _inference(device):
            rows, columns = tiling.inside(outer, plane, Y_STRIDE)
            x_hat = model.net.g_s(y_hat[:, :, rows, columns], _quality(model, header.quality))
            rows, columns = tiling.inside(core, outer)
            x = x_hat[0, :, rows, columns]
            x = x.mean(0) if grey else x.permute(1, 2, 0)
            levels = (x * 255.0).round().clamp(0, 255).to(torch.uint8).cpu().numpy()
        bottom, right = min(core.bottom, header.height), min(core.right, header.width)
        out[core.top : bottom, core.left : right] = levels[: bottom - core.top, : right - core.left]
    return out
