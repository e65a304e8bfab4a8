"""Search latents, widths and learning rate on pictures of one's own; here for seconds, on parts of one photo."""

import sys
import tempfile
from pathlib import Path

from PIL import Image

from nncodec.train import tune
from nncodec.train.recipe import Recipe

TRIALS, SECONDS = 2, 3.0  # hours for a result that means something
path = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).with_name("coffee.png"))

with tempfile.TemporaryDirectory() as name:
    folder = Path(name)
    pictures = folder / "pictures"
    pictures.mkdir()
    photo = Image.open(path).convert("RGB").resize((640, 576))
    for i, (x, y) in enumerate((x, y) for x in (0, 320) for y in (0, 288)):
        photo.crop((x, y, x + 320, y + 288)).save(pictures / f"{i}.png")

    base = Recipe(
        data=str(pictures), validation_share=0.25, size="tiny", seconds=SECONDS, batch=4, bfloat16=False,
        decoder_share=0.0, fit_pictures=0,
    )  # fmt: skip
    tune.search(base, folder / "study", TRIALS, max_kmac=None, report=print)
    print((folder / "study" / "trials.csv").read_text())
    print((folder / "study" / "best.toml").read_text().splitlines()[0])
