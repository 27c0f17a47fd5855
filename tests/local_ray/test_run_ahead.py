"""Decoding waits for encoders, and ends what it has begun."""

import time
from pathlib import Path

import pyarrow as pa
import pytest
import ray.data

from motif.on_ray import run_ahead, session

TASKS, BATCHES, BATCH = 60, 2, 4

pytestmark = pytest.mark.usefixtures("ray_local")


class Decode:
    """Each task yields two batches, as fast as it can."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __call__(self, block: pa.Table):
        for _ in range(BATCHES):
            note(self._folder, "decoded")
            yield pa.table({"image": list(range(BATCH))})


class SlowEncoder:
    """One batch takes 30 ms."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __call__(self, rows: pa.Table) -> pa.Table:
        time.sleep(0.03)
        note(self._folder, "encoded")
        return rows


def note(folder: Path, what: str) -> None:
    with (folder / what).open("a") as file:
        file.write(f"{time.time()}\n")


def times(folder: Path, what: str) -> list[tuple[float, int]]:
    sign = 1 if what == "decoded" else -1
    return [(float(line), sign * BATCH) for line in (folder / what).read_text().splitlines()]


def test_images_wait_for_encoders_and_not_all_of_them(tmp_path):
    session.configure_data(
        policies=run_ahead.policies(
            encoders="MapBatches(SlowEncoder)", batch_size=BATCH, cpus_per_task=1
        )
    )
    images = (
        ray.data.from_items(list(range(TASKS)), override_num_blocks=TASKS)
        .map_batches(Decode(tmp_path).__call__, batch_format="pyarrow", batch_size=None, num_cpus=1)
        .map_batches(
            SlowEncoder,
            fn_constructor_args=(tmp_path,),
            batch_format="pyarrow",
            batch_size=None,
            num_cpus=0.01,
            compute=ray.data.ActorPoolStrategy(size=1),
        )
        .count()
    )
    session.configure_data()
    assert images == TASKS * BATCHES * BATCH
    ahead = most = 0
    for _, change in sorted(times(tmp_path, "decoded") + times(tmp_path, "encoded")):
        ahead += change
        most = max(most, ahead)
    # Beside what waits: three tasks under way on two CPUs, and what the driver has yet to hear of.
    under_way = 3 * BATCHES * BATCH
    assert BATCHES * BATCH < most <= run_ahead.BATCHES_AHEAD * BATCH + 2 * under_way
