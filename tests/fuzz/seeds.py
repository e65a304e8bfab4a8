"""Write the seed corpus: small files of every kind the format has. `python tests/fuzz/seeds.py`"""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
import numpy as np  # noqa: E402

from fuzz import check  # noqa: E402
from nncodec import codec  # noqa: E402
from nncodec.picture import Picture  # noqa: E402


def pictures() -> dict[str, tuple[Picture, int, int]]:
    """Name: picture, quality, tile_log2."""
    rng = np.random.default_rng(5)
    y, x = np.mgrid[0:100, 0:130]
    color = np.stack([120 + 60 * np.sin(x / 9 + c) * np.cos(y / 13) for c in range(3)], -1).astype(np.uint8)
    noise = rng.integers(0, 256, (40, 50, 3)).astype(np.uint8)
    alpha = (x[:64, :64] * 3).astype(np.uint8)
    icc, exif, xmp = b"profile" * 9, b"II*\0\x08\0\0\0\0\0", b"<x:xmpmeta xmlns:x='adobe:ns:meta/'/>"
    return {
        "rgb": (Picture(color[:64, :64]), 5, 10),
        "grey": (Picture(color[:20, :30, 0]), 30, 10),
        "tiles": (Picture(color), 1, 6),
        "alpha_metadata": (Picture(color[:64, :64], alpha, icc, exif, xmp), 1, 6),
        "grey_alpha_tiles": (Picture(color[:60, :90, 1], alpha[:60, :1].repeat(90, 1)), 1, 6),
        "noise": (Picture(noise), 90, 10),
        "deep": (Picture(color[:64, :64].astype(np.uint16) * 257, alpha.astype(np.uint16) * 200), 1, 6),
        "one_pixel": (Picture(color[:1, :1], alpha[:1, :1]), 50, 12),
    }


def files() -> dict[str, bytes]:
    return {n: codec.compress(p, q, check.model(), tile_log2=t) for n, (p, q, t) in pictures().items()}


if __name__ == "__main__":
    (HERE / "corpus").mkdir(exist_ok=True)
    for name, data in files().items():
        (HERE / "corpus" / f"{name}.aec").write_bytes(data)
        print(f"{name:20} {len(data)} B")
