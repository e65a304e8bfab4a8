"""Compress pictures on all machines of a Ray cluster: Ray Data, one model per actor, one JSON line a file."""

import json
import sys
from pathlib import Path

import ray

from nncodec import NncodecError, atomic, codec, picture
from nncodec.batch import jobs

ACTORS = 2


class Compress:
    """An actor: loads the model once, then compresses whatever row it is given."""

    def __init__(self) -> None:
        self.model = codec.load_model()

    def __call__(self, row: dict) -> dict:
        target = Path(row["target"])
        try:
            image = picture.read(row["path"])
            data = codec.compress(image, 50, self.model)
            target.parent.mkdir(parents=True, exist_ok=True)
            atomic.write(target, data)
        except NncodecError as error:  # one bad file does not stop the others
            return {**row, "bytes": 0, "bpp": 0.0, "status": str(error)}
        return {**row, "bytes": len(data), "bpp": 8 * len(data) / (image.width * image.height), "status": "done"}


source = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).with_name("coffee.png")).resolve()
output = Path(sys.argv[2] if len(sys.argv) > 2 else "packed").resolve()
plan = jobs.plan([source], output, ".aec", jobs.PICTURES, into_folder=True, recursive=True)
rows = ray.data.from_items([{"path": str(job.source), "target": str(job.target)} for job in plan.jobs])
for row in rows.map(Compress, compute=ray.data.ActorPoolStrategy(size=ACTORS)).iter_rows():
    print(json.dumps(row))
