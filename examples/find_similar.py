"""Find a picture by a small, recompressed crop of it among vectors; those of .aec files need no pixels."""

import io
import sys
from pathlib import Path

from PIL import Image

import nncodec
from nncodec import codec
from nncodec.analysis import embed

path = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).with_name("coffee.png"))
model = codec.load_model()

found = []
for picture in {path, *Path(__file__).parent.glob("*.png")}:
    packed = nncodec.compress(picture, quality=40, model=model)  # what a store of .aec files would hold
    found.append((picture.name, embed.embed(packed, model)))
index = embed.index_of(model, "all", found)

copy = Image.open(path).convert("RGB")
copy = copy.crop((copy.width // 10, copy.height // 10, copy.width, copy.height)).reduce(2)
out = io.BytesIO()
copy.save(out, "JPEG", quality=30)
query = embed.embed(out.getvalue(), model)
for match in embed.nearest(index, query.vector, 3):
    print(f"{match.similarity:.3f}  {match.name}")
