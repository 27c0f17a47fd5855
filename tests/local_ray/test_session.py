"""A Ray of the job's own."""

import os
import time

import pytest
import ray

AT_ONCE = 4  # more than the two CPUs, as many processes as which Ray keeps anyway

pytestmark = pytest.mark.usefixtures("ray_local")


def test_processes_wait_for_the_next_step():
    """Ray's own settings end them after a second: the next step would load torch again."""

    @ray.remote(num_cpus=2 / AT_ONCE)
    def process() -> int:
        time.sleep(1)
        return os.getpid()

    def processes() -> set[int]:
        return set(ray.get([process.remote() for _ in range(AT_ONCE)]))

    for _ in range(10):  # where the machine is busy, some start while others take a second task
        if len(before := processes()) == AT_ONCE:
            break
    time.sleep(4)
    assert len(before) == AT_ONCE
    assert processes() == before
