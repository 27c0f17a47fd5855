"""encode_images with an encoder that sleeps.

Nodes of a cluster on one machine share its cores, but not their sleep, so that what is measured is
the pipeline and not the cores.

    python -m benchmarks.cluster_parts.sleeping --images URI --output URI ...
"""

import os
import time
from pathlib import Path

import pyarrow as pa
import ray

from jobs import encode_images
from motif import command
from motif.on_ray import encode

SECONDS_PER_IMAGE = 0.05
MARKS = "MOTIF_BENCHMARK_MARKS"
"""Variable that names the folder where encoders say since when a node has one, and how many images
they encode."""


class SleepingEncoder(encode.EncodeImages):
    """Actor that encodes 20 images a second, whatever the cores do meanwhile."""

    def __call__(self, rows: pa.Table) -> pa.Table:
        """Encode, and sleep for the rest of the time."""
        began = time.perf_counter()
        mark()
        encoded = super().__call__(rows)
        count(rows.num_rows)
        left = SECONDS_PER_IMAGE * rows.num_rows - (time.perf_counter() - began)
        time.sleep(max(left, 0.0))
        return encoded


def mark() -> None:
    """Leave a file that says when this node began to encode."""
    node = ray.get_runtime_context().get_node_id()
    path = Path(os.environ[MARKS]) / f"encode-{node}"
    if not path.exists():
        path.write_text(str(time.time()))


def count(images: int) -> None:
    """Add to what this process has encoded."""
    with (Path(os.environ[MARKS]) / f"images-{os.getpid()}").open("a") as file:
        file.write(f"{images}\n")


def encoded(marks: Path) -> int:
    """Return how many images all encoders have encoded."""
    texts = (path.read_text() for path in marks.glob("images-*"))
    return sum(int(line) for text in texts for line in text.split())


def main() -> None:
    """Run the job with this encoder in place of its own."""
    encode.EncodeImages = SleepingEncoder
    command.run_job(encode_images.main, encode_images.Config, name="python -m jobs.encode_images")


if __name__ == "__main__":
    # By its name, so that workers find the classes.
    from benchmarks.cluster_parts import sleeping

    sleeping.main()
