"""Decoding waits for encoders, and ends what it has begun."""

import os
import time
from pathlib import Path

import pyarrow as pa
import pytest
import ray.data

from motif.on_ray import run_ahead, session

TASKS, BATCHES, BATCH = 60, 2, 4

pytestmark = pytest.mark.usefixtures("ray_local")


def changes(folder: Path) -> list[tuple[float, int]]:
    """Return when how many images were decoded, or encoded (less than none)."""
    lines = [line.split() for path in folder.iterdir() for line in path.read_text().splitlines()]
    return [(float(when), int(images)) for when, images in lines]


def test_images_wait_for_encoders_and_not_all_of_them(tmp_path):
    def note(images: int) -> None:
        with (tmp_path / f"{os.getpid()}").open("a") as file:
            file.write(f"{time.time()} {images}\n")

    def decode(block):
        """Each task yields two batches; all of them together take half of the encoder's time."""
        for _ in range(BATCHES):
            time.sleep(0.05)
            note(BATCH)
            yield pa.table({"image": list(range(BATCH))})

    class SlowEncoder:
        """One batch takes 100 ms. Within the test, as workers cannot import its module."""

        def __call__(self, rows):
            time.sleep(0.1)
            note(-rows.num_rows)
            return rows

    session.configure_data(
        policies=run_ahead.policies(
            encoders="MapBatches(SlowEncoder)", batch_size=BATCH, cpus_per_task=1
        )
    )
    images = (
        ray.data.from_items(list(range(TASKS)), override_num_blocks=TASKS)
        .map_batches(decode, batch_format="pyarrow", batch_size=None, num_cpus=1)
        .map_batches(
            SlowEncoder,
            batch_format="pyarrow",
            batch_size=None,
            num_cpus=0.01,
            compute=ray.data.ActorPoolStrategy(size=1),
        )
        .count()
    )
    session.configure_data()
    assert images == TASKS * BATCHES * BATCH
    # While the encoder starts and nothing else is under way, Ray Data begins task after task
    # all the same; so the second half is looked at.
    ahead, encoded, most = 0, 0, 0
    for _, change in sorted(changes(tmp_path)):
        ahead += change
        encoded -= min(change, 0)
        if encoded >= images / 2:
            most = max(most, ahead)
    # Beside what waits: three tasks under way on two CPUs, and what the driver has yet to hear of.
    under_way = 3 * BATCHES * BATCH
    assert 0 < most <= run_ahead.BATCHES_AHEAD * BATCH + 2 * under_way < images / 2
