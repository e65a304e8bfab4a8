"""Pages of text to train on: ``python benchmarks/text_pages.py FOLDER [--pages 66] [--fonts FOLDER ...]``.

PNGs of 768x768 pixels: words of this project's documents, 9 to 28 pixels high, in DejaVu fonts and all those of the
folders given, in black or in color, on light or dark grounds, some over boxes. Seeded, for documents and fonts as
they stand. What they do: docs/training.md.
With ``--unseen`` FOLDER gets a page to judge by instead, unseen.png, 640x400 in Pillow's own font.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

import matplotlib
from PIL import Image, ImageDraw, ImageFont

ROOT = Path(__file__).resolve().parent.parent
SIDE = 768
SIZES = (9, 10, 11, 12, 13, 14, 16, 18, 20, 24, 28)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pages", type=int, default=66)
    parser.add_argument("--fonts", type=Path, nargs="*", default=[])
    parser.add_argument("--unseen", action="store_true")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    if options.unseen:
        unseen().save(options.folder / "unseen.png")
        return
    words = [word for path in ("README.md", "docs/design.md") for word in (ROOT / path).read_text().split()]
    fonts = sorted((Path(matplotlib.get_data_path()) / "fonts" / "ttf").glob("DejaVuS*.ttf"))
    fonts = [font for font in fonts if "Display" not in font.name]
    fonts += sorted(font for folder in options.fonts for font in folder.rglob("*.[to]tf"))
    rng = random.Random(1)
    for number in range(options.pages):
        page(words, fonts, rng).save(options.folder / f"text-{number:03d}.png")


def page(words: list[str], fonts: list[Path], rng: random.Random) -> Image.Image:
    dark = rng.random() < 0.25
    shown = Image.new("RGB", (SIDE, SIDE), tuple(rng.randint(0, 40) if dark else rng.randint(225, 255) for _ in "RGB"))
    draw = ImageDraw.Draw(shown)
    for _ in range(rng.randint(0, 6)):
        x, y = rng.randint(0, SIDE - 60), rng.randint(0, SIDE - 60)
        box = (x, y, x + rng.randint(20, 300), y + rng.randint(10, 120))
        shape = rng.choice((draw.rectangle, draw.ellipse))
        shape(box, fill=color(rng) if rng.random() < 0.5 else None, outline=color(rng), width=rng.randint(1, 3))
    y = 4
    while y < SIDE:
        size = rng.choice(SIZES)
        font = ImageFont.truetype(str(rng.choice(fonts)), size)
        for _ in range(rng.randint(1, 5)):
            plain = (255, 255, 255) if dark else (0, 0, 0)
            fill = plain if rng.random() < 0.6 else color(rng)
            draw.text((rng.randint(2, 30), y), " ".join(rng.choices(words, k=30)), fill=fill, font=font)
            y += int(1.35 * size)
    return shown


def unseen() -> Image.Image:
    shown = Image.new("RGB", (640, 400), "white")
    draw = ImageDraw.Draw(shown)
    text = 4 * "Files decode anywhere, exactly, and damage never passes silently. 0123456789 "
    black, red, blue = (0, 0, 0), (180, 20, 20), (20, 60, 180)
    y = 8
    for number, size in enumerate(3 * (10, 12, 14, 16, 20, 24)):
        line = text[7 * number : 7 * number + 1100 // size]
        fill = (black, black, red, black, blue)[number % 5]
        draw.text((8, y), line, fill=fill, font=ImageFont.load_default(size=size))
        y += size + 6
    return shown


def color(rng: random.Random) -> tuple[int, int, int]:
    return rng.randint(0, 255), rng.randint(0, 255), rng.randint(0, 255)


if __name__ == "__main__":
    main()
