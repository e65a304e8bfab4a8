"""Weights files: find, check and load them (safetensors only).

A file holds the float networks, the integer scale net and the frequency tables, and in its metadata
the ModelConfig and the model id. Finding and describing files needs no torch.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nncodec import atomic
from nncodec.config import CODEC, MS_SSIM, PSNR, TUNES, ModelConfig
from nncodec.errors import ModelMismatchError, ModelNotFoundError

if TYPE_CHECKING:
    import torch

    from nncodec.entropy import EntropyModel
    from nncodec.nets.model import CodecNet

FORMAT = "nncodec-weights-1"
DEFAULTS = {PSNR: "fast", MS_SSIM: "fast-ssim"}
"""The weights that are taken where none are named, by what is tuned for."""
DENOISE = "denoise"
"""The weights that noise is taken off with where none are named."""
ENCODER_ONLY = ("g_a.", "h_a.")
"""Tensors a decoder never reads: they are left out of the model id."""
_HEADER_MAX = 1 << 22
NAME_MAX = 100
"""Characters, or bytes where a file is called so, of the name of weights."""


@dataclass(frozen=True)
class Description:
    """What a weights file says of itself; `tune` is what it was trained for, `noise` what its encoder leaves out."""

    path: Path
    name: str
    id: bytes
    config: ModelConfig
    tune: str = PSNR
    noise: str = ""


@dataclass(frozen=True)
class Model:
    """Loaded weights: float networks in evaluation mode and the exact entropy model."""

    name: str
    id: bytes
    config: ModelConfig
    net: CodecNet
    entropy: EntropyModel
    tune: str = PSNR
    noise: str = ""


def folders() -> list[Path]:
    """Where weights are looked for: NNCODEC_WEIGHTS, the installed package, the source tree."""
    here = Path(__file__).resolve().parent
    places = [Path(p) for p in os.environ.get("NNCODEC_WEIGHTS", "").split(os.pathsep) if p]
    return [p for p in (*places, here / "weights", here.parent / "weights") if p.is_dir()]


def describe(path: Path) -> Description:
    """Name, id and configuration of a weights file. Raises ModelMismatchError."""
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > _HEADER_MAX:
                raise ValueError(f"header of {length} bytes")
            metadata = json.loads(file.read(length))["__metadata__"]
        if metadata["format"] != FORMAT:
            raise ValueError(f"format {metadata['format']!r}, not {FORMAT!r}")
        config = ModelConfig.from_dict(json.loads(metadata["config"]))
        name: str = metadata["name"]
        if not name.isprintable() or not 1 <= len(name) <= NAME_MAX:  # it is shown on terminals
            raise ValueError(f"name {name[:NAME_MAX]!a}")
        tune = metadata.get("tune", PSNR)
        if tune not in TUNES:
            raise ValueError(f"tuned for {tune[:NAME_MAX]!a}")
        noise = metadata.get("noise", "")
        if not (isinstance(noise, str) and noise.isprintable() and len(noise) <= NAME_MAX):
            raise ValueError(f"noise {noise!a:.100}")
        return Description(path, name, bytes.fromhex(metadata["id"]), config, tune, noise)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, struct.error) as error:
        raise ModelMismatchError(f"{path}: not a usable weights file ({error})") from None


def survey() -> tuple[list[Description], dict[Path, ModelMismatchError]]:
    """Every weights file of `folders`, in their order, and what is wrong with other .safetensors there."""
    usable, unusable = [], {}
    for folder in folders():
        for path in sorted(folder.glob("*.safetensors")):
            try:
                usable.append(describe(path))
            except ModelMismatchError as error:
                unusable[path] = error
    return usable, unusable


def by_id(usable: Sequence[Description]) -> dict[bytes, Description]:
    """The first weights of each id; before those that leave noise out plain ones, which may share id and decoder."""
    found: dict[bytes, Description] = {}
    for description in sorted(usable, key=lambda d: bool(d.noise)):
        found.setdefault(description.id, description)
    return found


def installed() -> list[str]:
    """Names of the installed weights but those that leave noise out."""
    return list(dict.fromkeys(d.name for d in survey()[0] if not d.noise))


def find(name: str | Path | None = None, model_id: bytes | None = None, tune: str | None = None) -> Description:
    """The weights of that name, path or id (default: those of DEFAULTS for `tune`).

    Of two files with one name the first found counts; an id is looked for in all. Files that cannot be used are
    passed over. Raises ModelNotFoundError, ModelMismatchError for a file of that name that cannot be used.
    """
    wanted = str(name or DEFAULTS[tune or PSNR])
    if model_id is None and wanted.endswith(".safetensors"):
        return describe(Path(wanted))
    usable, unusable = survey()
    if model_id is None:
        for path, error in unusable.items():
            if path.stem == wanted:  # or other weights of that name would be taken in silence
                raise error
    listing = ", ".join(f"{d.name} ({d.id.hex()})" for d in usable) or "none"
    others = "".join(f"; {error}" for error in unusable.values())
    if model_id is not None:
        if found := by_id(usable).get(model_id):
            return found
        raise ModelNotFoundError(
            f"the file needs model {model_id.hex()}, installed are {listing}; "
            f"put its .safetensors into a folder that NNCODEC_WEIGHTS names{others}"
        )
    for description in usable:
        if description.name == wanted:
            return description
    raise ModelNotFoundError(f"no model {wanted!r}; installed are {listing}{others}")


def fingerprint(description: Description) -> str:
    """The id that files carry, and a digest of the whole weights file, which covers the encoder too."""
    digest = hashlib.sha256(description.path.read_bytes()).hexdigest()
    return f"{description.id.hex()} (file sha256 {digest[:8]})"


def load(description: Description, device: str | torch.device = "cpu") -> Model:
    """Read, check and build a model. The entropy model stays on the CPU whatever `device` is.

    Raises ModelMismatchError when the file's tensors do not match its id or configuration.
    """
    import safetensors
    import safetensors.torch
    import torch

    from nncodec.entropy import EntropyModel, chroma_channels
    from nncodec.freqs import Tables, validate
    from nncodec.intnet import IntScaleNet, ScaleTensors, expected_shapes
    from nncodec.nets.model import CodecNet, placed
    from nncodec.rangecoder import CodingTables

    try:
        tensors = safetensors.torch.load_file(description.path)
    except (OSError, safetensors.SafetensorError) as error:
        raise ModelMismatchError(f"{description.path}: {error}") from None
    odd = [name for name, tensor in tensors.items() if tensor.dtype not in (torch.float32, torch.float16, torch.int32)]
    if odd:
        raise ModelMismatchError(f"{description.path}: tensor {odd[0]!a} is {tensors[odd[0]].dtype}")
    found = model_id(tensors, description.config)
    if found != description.id:
        raise ModelMismatchError(
            f"{description.path}: tensors hash to {found.hex()}, the file says {description.id.hex()}; "
            "it is damaged, install it again"
        )
    with torch.device("meta"):
        net = CodecNet(description.config)
    del net.scale_net
    scale = {n.removeprefix("scale."): t for n, t in tensors.items() if n.startswith("scale.")}
    try:
        networks = {name: tuple(t.shape) for name, t in net.state_dict().items()}
        names = [f"scale.{n}" for n in expected_shapes(description.config)]
        _check_shapes(tensors, networks, [n for n in names if n in tensors or n != "scale.z_around"])
        tables = Tables.stored(tensors["tables.reach"].numpy(), tensors["tables.half"].numpy())
        validate(tables)
        net.load_state_dict({n: tensors[n].float() for n in networks}, assign=True)
        scale_net = IntScaleNet(ScaleTensors.from_dict(scale, description.config))
        chroma = None
        if description.config.arch == CODEC:
            chroma = chroma_channels(tensors["g_s.linear.weight"].float().flatten(1).numpy())
    except ModelMismatchError as error:
        raise ModelMismatchError(f"{description.path}: {error}") from None
    net = placed(net, device).eval().requires_grad_(False)
    entropy = EntropyModel(scale_net, tables, CodingTables(tables), chroma)
    return Model(
        description.name, description.id, description.config, net, entropy, description.tune, description.noise
    )


def _check_shapes(
    tensors: Mapping[str, torch.Tensor], networks: Mapping[str, tuple[int, ...]], others: Sequence[str]
) -> None:
    wrong = {*networks, *others, "tables.reach", "tables.half"} ^ set(tensors)
    if wrong:
        name = min(wrong)
        raise ModelMismatchError(f"tensor {name!a} is {'unknown' if name in tensors else 'missing'}")
    for name, shape in networks.items():
        if tuple(tensors[name].shape) != shape:
            raise ModelMismatchError(f"tensor {name} is {tuple(tensors[name].shape)} where {shape} is needed")
        if not tensors[name].is_floating_point():
            raise ModelMismatchError(f"tensor {name} is {tensors[name].dtype} where floating point is needed")


def model_id(tensors: Mapping[str, torch.Tensor], config: ModelConfig) -> bytes:
    """First 8 bytes of a SHA-256 over the configuration and every tensor a decoder reads."""
    digest = hashlib.sha256(json.dumps(config.to_dict(), sort_keys=True).encode())
    for name in sorted(tensors):
        if not name.startswith(ENCODER_ONLY):
            tensor = tensors[name].contiguous()
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.numpy().tobytes())
    return digest.digest()[:8]


def save(
    tensors: Mapping[str, torch.Tensor],
    name: str,
    config: ModelConfig,
    path: Path,
    facts: Mapping[str, str] | None = None,
) -> bytes:
    """Write a weights file, whole or not at all; returns its id. `facts` go into its metadata. Raises InputError."""
    import safetensors.torch

    identity = model_id(tensors, config)
    metadata = {
        **(facts or {}),
        "format": FORMAT,
        "name": name,
        "id": identity.hex(),
        "config": json.dumps(config.to_dict()),
    }
    atomic.write(path, safetensors.torch.save({n: t.contiguous() for n, t in tensors.items()}, metadata))
    return identity
