"""Training pictures: decoded once into one uint8 file, then cropped at random where the model runs.

Knows folders, tar and IDX files and pixels; nothing of networks or losses.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import os
import sys
import tarfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from nncodec import picture
from nncodec.config import Z_STRIDE
from nncodec.errors import InputError
from nncodec.picture import SUFFIXES
from nncodec.train import idx

TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
SCALE_MAX = 2.0
"""Crops are area-downscaled by at most this factor."""
RELIT_GAMMA = 1.5
"""Exponents of levels lie between this and its inverse where crops are relit."""


def find_pictures(source: Path) -> list[Path]:
    """Every picture, tar and IDX file below `source` (or `source` itself, a tar or IDX file), sorted.

    Raises InputError when there is none. Subfolders mean nothing: class folders are as good as any.
    """
    inside = source.rglob("*")
    paths = [source] if source.is_file() else sorted(p for p in inside if p.is_file() and _is_known(p.name))
    if not paths:
        known = ", ".join(sorted(SUFFIXES))
        raise InputError(f"{source}: no pictures ({known}, tar, idx3-ubyte); name a folder that has some")
    return paths


def _is_picture(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() in SUFFIXES


def _is_known(name: str) -> bool:
    return _is_picture(name) or _is_tar(name) or idx.is_idx(name)


def _is_tar(name: str) -> bool:
    return name.lower().endswith(TAR_SUFFIXES)


Content = bytes | Path | NDArray[np.uint8]


def _contents(paths: list[Path]) -> Iterator[Content]:
    """Each picture: a path, the bytes of a member of a tar file, or pixels [H, W] of an IDX file.

    Raises InputError for broken tar and IDX files.
    """
    for path in paths:
        if idx.is_idx(path.name):
            yield from idx.read(path)
            continue
        if not _is_tar(path.name):
            yield path
            continue
        try:
            with tarfile.open(path) as tar:
                for member in tar:
                    if member.isfile() and _is_picture(member.name):
                        file = tar.extractfile(member)
                        assert file is not None
                        yield file.read()
        except (tarfile.TarError, OSError, EOFError) as error:
            raise InputError(f"{path}: not a readable tar file: {error}") from None


def _decode(content: Content, grey: bool) -> NDArray[np.uint8] | None:
    """RGB u8 [H, W, 3] as the codec reads it, 16 bits made 8, alpha over white; with `grey` three times the luma."""
    if isinstance(content, np.ndarray):
        return np.repeat(content[..., None], 3, axis=2)
    try:
        with Image.open(io.BytesIO(content) if isinstance(content, bytes) else content) as opened:
            plain = opened.mode in ("L", "RGB") and "transparency" not in opened.info
            image = opened if plain else _flat(content)  # which takes longer
            return np.asarray((image.convert("L") if grey else image).convert("RGB"))
    except (InputError, OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None


def _flat(content: bytes | Path) -> Image.Image:
    """Image of 8 bits a sample over white. Raises InputError."""
    found = picture.read(content).to_8_bits()
    image = found.to_pil()
    if not found.has_alpha:
        return image
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))


def _decoded(paths: list[Path], grey: bool) -> Iterator[NDArray[np.uint8] | None]:
    """Every picture, in order, None for what cannot be read; decoded by as many threads as there are cores."""
    contents = _contents(paths)
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        while chunk := list(itertools.islice(contents, 64)):
            spread = map if isinstance(chunk[0], np.ndarray) else threads.map
            yield from spread(partial(_decode, grey=grey), chunk)


@dataclass(frozen=True)
class PictureStore:
    """Decoded RGB pictures in one flat uint8 file; `shapes` are (height, width), `offsets` in pixels.

    `digest` names the pictures by path, size and date.
    """

    path: Path
    offsets: tuple[int, ...]
    shapes: tuple[tuple[int, int], ...]
    digest: str

    def __len__(self) -> int:
        return len(self.shapes)

    @property
    def pixels(self) -> Tensor:
        """u8 [total, 3], mapped from the file."""
        total = self.offsets[-1] + self.shapes[-1][0] * self.shapes[-1][1]
        return torch.from_file(str(self.path), shared=False, size=3 * total, dtype=torch.uint8).view(total, 3)

    def picture(self, index: int) -> NDArray[np.uint8]:
        """One picture [H, W, 3]."""
        height, width = self.shapes[index]
        return np.memmap(self.path, np.uint8, "r", 3 * self.offsets[index], (height, width, 3))

    def split(self, share: float) -> tuple[PictureStore, PictureStore]:
        """Two stores, the second with about `share` of the pictures, chosen evenly by position."""
        count = max(1, round(share * len(self)))
        chosen = {round((i + 0.5) * len(self) / count) for i in range(count)}
        if len(chosen) >= len(self):
            few = f"{len(self)} pictures are too few to keep {count} of them for validation"
            raise InputError(f"{few}; add some, or give --val-share 0")
        return self._part(set(range(len(self))) - chosen), self._part(chosen)

    def parts(self, shares: tuple[float, float], seed: int) -> tuple[PictureStore, PictureStore, PictureStore]:
        """Three stores, the second and third with these shares of the pictures.

        They are drawn in the order of a hash over seed and pixels: the same wherever and in whatever order the
        pictures lie, and of equal pictures all are in one part. Raises InputError when a part would be empty.
        """
        pixels = self.pixels.numpy()
        salt = seed.to_bytes(8, "little", signed=True)
        hashes = []
        for start, (height, width) in zip(self.offsets, self.shapes, strict=True):
            hashes.append(hashlib.sha256(salt + pixels[start : start + height * width].tobytes()).digest())
        order = sorted(range(len(self)), key=hashes.__getitem__)
        ends = [0, round(shares[0] * len(self)), round(sum(shares) * len(self)), len(self)]
        for i in (1, 2):
            while 0 < ends[i] < len(self) and hashes[order[ends[i]]] == hashes[order[ends[i] - 1]]:
                ends[i] += 1
        chosen = [set(order[start:end]) for start, end in pairwise(ends)]
        if not all(chosen):
            raise InputError(f"{len(self)} pictures are too few to keep {shares[0]} and {shares[1]} of them apart")
        validation, test, rest = (self._part(part) for part in chosen)
        return rest, validation, test

    def _part(self, keep: set[int]) -> PictureStore:
        rows = sorted(keep)
        return PictureStore(
            self.path, tuple(self.offsets[i] for i in rows), tuple(self.shapes[i] for i in rows), self.digest
        )


def load_pictures(source: Path, cache: Path, side_min: int, side: int = 0) -> PictureStore:
    """Decode every picture of `source` into `cache` (once) and map it into memory.

    Pictures that cannot be read or are smaller than `side_min` are skipped and counted on stderr. With `side`
    all are made grey, and those that are not of side x side pixels are skipped.
    """
    paths = find_pictures(source)
    root = source if source.is_dir() else source.parent
    listing = [(str(p.relative_to(root)), p.stat().st_size, p.stat().st_mtime_ns) for p in paths]
    kind = [side_min] if not side else [side, "grey"]
    key = hashlib.sha256(json.dumps([listing, *kind]).encode()).hexdigest()[:16]
    data, index = cache / f"{key}.u8", cache / f"{key}.json"
    if not index.exists():
        cache.mkdir(parents=True, exist_ok=True)
        partial = data.with_suffix(f".partial{os.getpid()}")  # several runs may share the folder
        shapes, seen = [], 0
        with partial.open("wb") as out:
            pictures = _decoded(paths, side > 0)
            for array in tqdm(pictures, desc="decode", unit=" pictures", file=sys.stderr, mininterval=2):
                seen += 1
                fits = array is not None and min(array.shape[:2]) >= side_min
                if array is not None and (array.shape[:2] == (side, side) if side else fits):
                    shapes.append(array.shape[:2])
                    out.write(array.tobytes())
        if len(shapes) < seen:
            skipped = seen - len(shapes)
            why = f"unreadable or {'of another size' if side else 'small'}"
            print(f"{source}: skipped {skipped} of {seen} pictures ({why})", file=sys.stderr)
        partial.replace(data)
        index.write_text(json.dumps(shapes))
    shapes_read: list[Any] = json.loads(index.read_text())
    shapes_all = tuple((int(h), int(w)) for h, w in shapes_read)
    if not shapes_all:
        size = f"{side}x{side} pixels" if side else f"at least {side_min} pixels on each side"
        raise InputError(f"{source}: no picture is readable and {size}")
    offsets = tuple(int(v) for v in np.cumsum([0, *(h * w for h, w in shapes_all[:-1])]))
    return PictureStore(data, offsets, shapes_all, key)


class Crops:
    """Random crops with flips and quarter turns.

    Of them the share `downscaled` is area-downscaled by 1 to SCALE_MAX, and `relit` given other light and colors.
    Pictures, random numbers and crops stay on `device`; nothing waits for the host.
    """

    def __init__(
        self,
        store: PictureStore,
        device: torch.device | str,
        generator: torch.Generator,
        downscaled: float = 0.3,
        relit: float = 0.0,
    ) -> None:
        self.device = torch.device(device)
        self.generator = generator
        self.downscaled, self.relit = downscaled, relit
        self.pixels = store.pixels.to(self.device)
        self.offsets = torch.tensor(store.offsets, device=self.device)
        self.heights, self.widths = torch.tensor(store.shapes, device=self.device).unbind(1)
        areas = (self.heights * self.widths).double()
        self.cumulative = (areas / areas.sum()).cumsum(0)

    def batch(self, count: int, size: int) -> Tensor:
        """`count` crops, f32 [count, 3, size, size] in [0, 1], levels of 8 bits, channels last."""
        u = torch.rand(count, 7, generator=self.generator, device=self.device)
        picture = torch.searchsorted(self.cumulative, u[:, 0].double()).clamp(max=len(self.offsets) - 1)
        scaled = round(self.downscaled * count)
        parts = [self._scaled(u[:scaled], picture[:scaled], size)] if scaled else []
        if scaled < count:
            whole = torch.full((count - scaled,), size, device=self.device)
            parts.append(self._window(u[scaled:], picture[scaled:], whole, size))
        crops = torch.cat(parts) if len(parts) > 1 else parts[0]
        crops = torch.where((u[:, 5] < 0.5)[:, None, None, None], crops.transpose(1, 2), crops)
        x = (crops.float() / 255.0).permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)
        return self._relit(x) if self.relit else x

    def _relit(self, x: Tensor) -> Tensor:
        """x f32 [n, 3, size, size] in [0, 1] as other light, white balance and saturation would show it."""
        u = torch.rand(len(x), 6, 1, 1, generator=self.generator, device=self.device)
        gamma, saturation, balance = RELIT_GAMMA ** (2 * u[:, :1] - 1), 0.5 + u[:, 1:2], 1.1 ** (2 * u[:, 2:5] - 1)
        light = x**gamma * balance
        grey = light.mean(1, keepdim=True)
        changed = ((grey + saturation * (light - grey)).clamp(0.0, 1.0) * 255.0).round() / 255.0
        return torch.where(u[:, 5:] < self.relit, changed, x)

    def _window(self, u: Tensor, picture: Tensor, source: Tensor, size: int) -> Tensor:
        """u8 [n, size, size, 3]: `source` [n] pixels a side somewhere in each picture, then its last row and column."""
        at = torch.arange(size, device=self.device)[None]
        lines = []
        for side, place, flip in ((self.heights[picture], u[:, 1], u[:, 3]), (self.widths[picture], u[:, 2], u[:, 4])):
            start = (place * (side - source + 1)).long()
            step = torch.minimum(at, source[:, None] - 1)
            step = torch.where((flip < 0.5)[:, None], source[:, None] - 1 - step, step)
            lines.append(start[:, None] + step)
        rows, columns = lines
        index = self.offsets[picture][:, None, None] + rows[:, :, None] * self.widths[picture][:, None, None]
        return self.pixels[index + columns[:, None, :]]

    def _scaled(self, u: Tensor, picture: Tensor, size: int) -> Tensor:
        """u8 [n, size, size, 3]: windows of up to SCALE_MAX times the size, averaged over their pixels' shares."""
        side = torch.minimum(self.heights[picture], self.widths[picture])
        factor = torch.minimum(1.0 + u[:, 6] * (SCALE_MAX - 1.0), side / size)
        edges = torch.arange(size + 1, device=self.device) * factor[:, None]
        source = (size * factor).ceil().long()
        wide = int(SCALE_MAX * size)
        pixel = torch.arange(wide, device=self.device)
        upper = torch.minimum(edges[:, 1:, None], pixel + 1.0)
        lower = torch.maximum(edges[:, :-1, None], pixel.float())
        share = (upper - lower).clamp(min=0) / factor[:, None, None]  # [n, size, wide]
        window = self._window(u, picture, source, wide).float()
        rows = torch.einsum("nsw,nwxc->nsxc", share, window)
        return torch.einsum("ntx,nsxc->nstc", share, rows).round().clamp(0, 255).to(torch.uint8)


class WholePictures:
    """Random pictures, all of one size and grey, as they are: in such sets every shoe points one way."""

    def __init__(self, store: PictureStore, device: torch.device | str, generator: torch.Generator) -> None:
        self.device = torch.device(device)
        self.generator = generator
        self.planes = grey_planes(store, self.device)

    def batch(self, count: int, size: int) -> Tensor:
        """`count` pictures, f32 [count, 3, size, size] in [0, 1], the last row and column repeated."""
        chosen = torch.randint(len(self.planes), (count,), generator=self.generator, device=self.device)
        return on_plane(self.planes[chosen], size)


def grey_planes(store: PictureStore, device: torch.device) -> Tensor:
    """u8 [n, height, width]: grey pictures of a store that was loaded with their `side`."""
    height, width = store.shapes[0]
    rows = torch.tensor(store.offsets) // (height * width)
    return store.pixels.view(-1, height * width, 3)[rows, :, 0].view(-1, height, width).to(device)


def on_plane(planes: Tensor, size: int = Z_STRIDE) -> Tensor:
    """u8 [B, h, w] -> f32 [B, 3, size, size] in [0, 1], equal channels, padded as the codec does it."""
    x = planes[:, None].float() / 255.0
    padding = (0, size - planes.shape[2], 0, size - planes.shape[1])
    return F.pad(x, padding, mode="replicate").expand(-1, 3, -1, -1)


def noisy(x: Tensor, deviations: tuple[float, float], generator: torch.Generator) -> Tensor:
    """x [B, 3, H, W] in 0..1 with white Gaussian noise of a deviation (255 scale) drawn for each of B, clipped."""
    low, high = deviations
    sigma = (low + (high - low) * torch.rand(len(x), 1, 1, 1, generator=generator, device=x.device)) / 255.0
    noise = torch.randn(x.shape, generator=generator, device=x.device).contiguous(memory_format=torch.channels_last)
    return (x + sigma * noise).clamp(0.0, 1.0)
