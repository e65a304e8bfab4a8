"""Learn what is normal from parts of one picture, then score a part that was tampered with."""

import io
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from nncodec import codec
from nncodec.analysis import anomaly

SIDE = 96
path = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).with_name("coffee.png"))
image = Image.open(path).convert("RGB")
model = codec.load_model()


def ppm(part: Image.Image) -> bytes:
    out = io.BytesIO()
    part.save(out, "PPM")
    return out.getvalue()


rng = np.random.default_rng(0)
corners = zip(rng.integers(0, image.width - SIDE, 25), rng.integers(0, image.height - SIDE, 25), strict=True)
parts = [image.crop((x, y, x + SIDE, y + SIDE)) for x, y in corners]
normal = [anomaly.measure(ppm(part), model) for part in parts[:24]]  # a hundred and more make a good threshold
calibration = anomaly.calibrate(normal, model, anomaly.QUALITY, looked_at="rate")

tampered = np.array(parts[24])
tampered[24:72, 24:72] = rng.integers(0, 256, (48, 48, 3))
for name, part in (("as it was", parts[24]), ("tampered", Image.fromarray(tampered))):
    measured = anomaly.measure(ppm(part), model)
    verdict = calibration.verdict(measured)
    heat = calibration.heatmap(measured)
    row, column = np.unravel_index(heat.argmax(), heat.shape)
    word = "ANOMALY" if verdict.anomalous else "normal"
    where = f"hottest at x {16 * column}, y {16 * row}"
    print(f"{name:9}  {word:7}  above {verdict.percentile:.0f} % of normal parts; {where}")
