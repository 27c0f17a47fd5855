"""Decoding waits for encoders, and ends what it has begun."""

import time
from pathlib import Path

import pyarrow as pa
import pytest
import ray.data

from motif.on_ray import run_ahead, session

TASKS, BATCHES, BATCH = 60, 2, 4

pytestmark = pytest.mark.usefixtures("ray_local")


def times(folder: Path, what: str) -> list[tuple[float, int]]:
    sign = 1 if what == "decoded" else -1
    return [(float(line), sign * BATCH) for line in (folder / what).read_text().splitlines()]


def test_images_wait_for_encoders_and_not_all_of_them(tmp_path):
    def note(what: str) -> None:
        with (tmp_path / what).open("a") as file:
            file.write(f"{time.time()}\n")

    def decode(block):
        """Each task yields two batches, as fast as it can."""
        for _ in range(BATCHES):
            note("decoded")
            yield pa.table({"image": list(range(BATCH))})

    class SlowEncoder:
        """One batch takes 30 ms. Within the test, as workers cannot import its module."""

        def __call__(self, rows):
            time.sleep(0.03)
            note("encoded")
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
    # While the encoder starts and nothing else is under way, Ray Data begins a task all the same.
    ahead, most, started = 0, 0, False
    for _, change in sorted(times(tmp_path, "decoded") + times(tmp_path, "encoded")):
        started = started or change < 0
        if started and change > 0:
            most = max(most, ahead)
        ahead += change
    # Beside what waits: three tasks under way on two CPUs, and what the driver has yet to hear of.
    under_way = 3 * BATCHES * BATCH
    assert 0 < most <= run_ahead.BATCHES_AHEAD * BATCH + 2 * under_way
