"""Vectors of pictures: an index file of them, and what in it is nearest to a query.

Knows vectors and files of vectors; how a picture becomes one is `describe`'s.
"""

from __future__ import annotations

import importlib
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nncodec import codec
from nncodec.analysis import describe, latents
from nncodec.analysis.describe import DEFAULT, Vector
from nncodec.container import PIXELS_MAX
from nncodec.errors import InputError
from nncodec.weights import Model

FORMAT = "nncodec-embedding-1"
NPZ, PARQUET = ".npz", ".parquet"
SUFFIXES = (NPZ, PARQUET)
QUALITY = 50
"""What pictures that are not .aec files are compressed to."""


class Embedded(NamedTuple):
    """Size in pixels and unit vector f32 [D] of a picture."""

    width: int
    height: int
    vector: Vector


@dataclass(frozen=True, eq=False)
class Index:
    """Vectors f32 [n, D] of unit length, whose they are, and what they were made with.

    model
        Id of the weights. Vectors of another model cannot be compared with these.
    pool
        One of `describe.POOLS`.
    names, sizes
        Of each picture its path as given, and (width, height).
    """

    model: bytes
    pool: str
    names: tuple[str, ...]
    sizes: tuple[tuple[int, int], ...]
    vectors: NDArray[np.float32]


class Match(NamedTuple):
    """A picture of an index and the cosine between its vector and the query's, at most 1."""

    name: str
    similarity: float


def embed(
    source: Path | bytes, model: str | Model | None = None, pool: str = DEFAULT, max_pixels: int = PIXELS_MAX
) -> Embedded:
    """Vector of a picture or of an .aec file, which is not decoded to pixels.

    Raises InputError, FormatError, ModelError.
    """
    if pool not in describe.POOLS:
        raise InputError(f"pool is {pool!r}; there are {', '.join(describe.POOLS)}")
    loaded = model if isinstance(model, Model) else codec.load_model(model)
    with latents.opened(loaded, source, QUALITY, max_pixels) as found:
        raw = describe.pooled(loaded, found, pool)
        return Embedded(found.width, found.height, describe.whitened(raw, pool))


def nearest(index: Index, vector: Vector, count: int) -> list[Match]:
    """The `count` pictures of the index most like the one with this vector, best first; of equals the first."""
    similarity = index.vectors @ vector
    best = np.argsort(-similarity, kind="stable")[:count]
    return [Match(index.names[i], float(similarity[i])) for i in best]


def index_of(model: Model, pool: str, found: Sequence[tuple[str, Embedded]]) -> Index:
    """The index of some pictures, at least one, with their names."""
    names = tuple(name for name, _ in found)
    sizes = tuple((one.width, one.height) for _, one in found)
    return Index(model.id, pool, names, sizes, np.stack([one.vector for _, one in found]))


def check_suffix(path: Path) -> None:
    """Raises InputError unless an index can be written to `path` here."""
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(f"{path}: an index ends in {' or '.join(SUFFIXES)}")
    if path.suffix.lower() == PARQUET:
        _pyarrow()


def check_name(name: str, path: Path) -> None:
    """Raises InputError unless the index `path` can hold a picture's name: Parquet's text is UTF-8."""
    if path.suffix.lower() == PARQUET and name != name.encode("utf-8", "replace").decode():
        raise InputError(f"{name}: the name is not UTF-8, which {PARQUET} needs; rename it or write {NPZ}")


def save(index: Index, file: IO[bytes], suffix: str) -> None:
    """Write an index as `suffix` says: .npz, or .parquet with a column of vectors, for which it needs pyarrow."""
    facts = {"format": FORMAT, "model": index.model.hex(), "pool": index.pool}
    widths, heights = np.array(index.sizes, np.int64).reshape(-1, 2).T
    if suffix.lower() == NPZ:
        # bytes: an array of strings is as wide as its longest
        names = np.frombuffer(json.dumps(index.names).encode(), np.uint8)
        np.savez(file, vectors=index.vectors, widths=widths, heights=heights, names=names,
                 facts=np.frombuffer(json.dumps(facts).encode(), np.uint8))  # fmt: skip
        return
    arrow = _pyarrow()
    flat = arrow.array(index.vectors.reshape(-1), arrow.float32())
    vectors = arrow.FixedSizeListArray.from_arrays(flat, index.vectors.shape[1])
    columns = {"name": arrow.array(index.names, arrow.string()), "width": widths, "height": heights, "vector": vectors}
    table = arrow.table(columns).replace_schema_metadata({"nncodec": json.dumps(facts)})
    importlib.import_module("pyarrow.parquet").write_table(table, file)


def load(path: Path) -> Index:
    """Read an index. Raises InputError for what is none."""
    check_suffix(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    try:
        index = _from_npz(data) if path.suffix.lower() == NPZ else _from_parquet(data)
        _check(index)
    except InputError:
        raise
    except Exception as error:  # zip, numpy, JSON and Arrow raise many kinds for what is not theirs
        raise InputError(f"{path}: not an index that `nncodec embed` wrote ({error})") from None
    return index


def _from_npz(data: bytes) -> Index:
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        facts, names = (json.loads(arrays[key].tobytes()) for key in ("facts", "names"))
        sizes = zip(arrays["widths"].tolist(), arrays["heights"].tolist(), strict=True)
        return _index(facts, names, tuple(sizes), arrays["vectors"])


def _from_parquet(data: bytes) -> Index:
    _pyarrow()
    table = importlib.import_module("pyarrow.parquet").read_table(io.BytesIO(data))
    facts = json.loads(table.schema.metadata[b"nncodec"])
    names, widths, heights = (table.column(name).to_pylist() for name in ("name", "width", "height"))
    column = table.column("vector").combine_chunks()
    vectors = np.asarray(column.flatten()).reshape(len(names), column.type.list_size)
    return _index(facts, names, tuple(zip(widths, heights, strict=True)), vectors)


def _index(facts: Any, names: Sequence[str], sizes: tuple[tuple[int, int], ...], vectors: NDArray[Any]) -> Index:
    if facts["format"] != FORMAT:
        raise ValueError(f"format {facts['format']!r}, not {FORMAT!r}")
    return Index(bytes.fromhex(facts["model"]), facts["pool"], tuple(names), sizes, vectors)


def _check(index: Index) -> None:
    describe.dimensions(index.pool)  # raises for a pool that is none
    shape = (len(index.names), describe.VECTOR)
    if index.vectors.shape != shape or index.vectors.dtype != np.float32 or len(index.sizes) != shape[0]:
        raise ValueError(f"vectors {index.vectors.dtype} {index.vectors.shape} where f32 {shape} are needed")
    if not all(isinstance(name, str) for name in index.names) or not np.isfinite(index.vectors).all():
        raise ValueError("its names or vectors are not such")


def _pyarrow() -> Any:
    try:
        return importlib.import_module("pyarrow")
    except ImportError:
        raise InputError(
            "pyarrow is not installed, which .parquet needs; pip install 'nncodec[parquet]', or write .npz"
        ) from None
