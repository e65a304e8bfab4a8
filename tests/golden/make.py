"""Write the golden files anew. Only after a bitstream change; CHANGELOG and docs/bitstream.md go with it.

Run as ``python tests/golden/make.py`` with the shipped weights in place.
"""

import hashlib
import json
import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from conftest import ROOT, seeded_net  # noqa: E402
from PIL import Image  # noqa: E402
from test_container import DATA, with_header  # noqa: E402

from nncodec import codec, container, weights  # noqa: E402
from nncodec.config import TINY  # noqa: E402
from nncodec.picture import Picture  # noqa: E402
from nncodec.train import export  # noqa: E402
from nncodec.weights import Model  # noqa: E402


def symbols_digest(model: Model, data: bytes) -> str:
    header, sections = container.parse(data)
    streams = [s.payload for s in sections if s.type is container.SectionType.TILE]
    digest = hashlib.sha256()
    for _, symbols in codec.decode_symbols(model, header, streams):
        digest.update(symbols.z_hat.astype("<i4").tobytes() + symbols.r_hat.astype("<i4").tobytes())
    return digest.hexdigest()


def main() -> None:
    v1 = HERE / "v1"
    path = v1 / "tiny.safetensors"
    if not path.exists():
        weights.save(export.build(seeded_net(), export.gaussian_tables()), "tiny", TINY, path)
    tiny = weights.load(weights.describe(path))
    cat = np.asarray(Image.open(ROOT / "examples" / "chelsea.png").convert("RGB"))[60:190, 80:280]
    alpha = np.add.outer(np.arange(130), np.arange(200)).astype(np.uint8)
    files = {
        "rgb": (Picture(cat), 70, 10, tiny),
        "grey_1x1": (Picture(cat[:1, :1, 0]), 100, 10, tiny),
        "tiles_alpha_metadata": (Picture(cat, alpha, b"icc profile", b"Exif\0\0data", b"<xmp/>"), 30, 6, tiny),
        "fast_q20": (Picture(cat), 20, 10, codec.load_model("fast", "cpu")),
        "fast_q80": (Picture(cat), 80, 10, codec.load_model("fast", "cpu")),
        "fast-ssim_q40": (Picture(cat), 40, 10, codec.load_model("fast-ssim", "cpu")),
    }
    expected = {}
    for name, (picture, quality, tile_log2, model) in files.items():
        data = codec.compress(picture, quality, model, tile_log2=tile_log2)
        (v1 / f"{name}.aec").write_bytes(data)
        decoded = codec.decompress(data, model=model)
        decoded.to_pil().save(v1 / f"{name}.png")
        expected[name] = {"model": model.name, "symbols": symbols_digest(model, data)}
    (v1 / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")
    invalid = {
        "truncated": DATA[:-1],
        "trailing_byte": DATA + b"\0",
        "payload_bit_flipped": DATA[:-1] + bytes([DATA[-1] ^ 1]),
        "header_bit_flipped": DATA[:11] + bytes([DATA[11] ^ 1]) + DATA[12:],
        "text_mode_transfer": DATA.replace(b"\r\n", b"\n"),
        "newer_version": DATA[:6] + b"\x02" + DATA[7:],
        "quality_zero": with_header(quality=0),
        "claims_too_many_pixels": with_header(width=2**24, height=2**24),
        "no_tiles": with_header(count=0),
        "empty": b"",
    }
    for name, data in invalid.items():
        (HERE / "invalid" / f"{name}.aec").write_bytes(data)


if __name__ == "__main__":
    main()
