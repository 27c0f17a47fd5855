"""The same again and again: `pytest tests/breaking/soak.py`, by `make soak`.

Not collected by `make test`; takes half an hour on two cores.
"""

import functools
import random
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from motif.artefacts import run
from motif.artefacts.embeddings import Embeddings
from motif.table import TableUri, versions
from tests.breaking import commands, test_publish_faults
from tests.breaking.test_cluster import DELAY_SECONDS, SLOWLY, cluster, encoders
from tests.breaking.test_publish_faults import place as place_in_bucket
from tests.breaking.test_publish_kills import (
    CREATORS,
    kill_in,
    lite_space,
    place,
    reading,
    require_whole,
)
from tests.breaking.test_publish_kills import PHASES as PUBLISHING
from tests.breaking.test_train_kills import (
    STEPS,
    embeddings,
    require_the_same,
    step_of,
    train,
    untouched,
    workers,
)

__all__ = [
    "cluster",
    "embeddings",
    "lite_space",
    "place",
    "place_in_bucket",
    "train",
    "untouched",
]

pytestmark = [pytest.mark.timeout(1800), pytest.mark.soak]

KILLS = 5
LONGEST_DELAY_SECONDS = 0.1


PHASES = {
    "planning": "_staging/plan-*",
    "encoding": "_staging/*/bucket-*/embeddings-*.parquet",
    "settling": "embeddings/bucket-*.parquet",
    "committing": "snapshots/*.json",
    "committed": run.RUN_FILE,
}
"""What a run writes first in each of its phases."""


@pytest.mark.parametrize("seed", range(3))
def test_the_driver_is_killed_at_five_random_points(seed, start, server, pictures, tmp_path):
    chance = random.Random(seed)
    server.delay_seconds = 0.02
    output = tmp_path / "out"
    for phase in chance.sample(sorted(PHASES), KILLS):
        with start(output, "--in-flight", "4") as job:
            reached = job.wait_until(new_of(phase, output))
            time.sleep(chance.uniform(0, LONGEST_DELAY_SECONDS))
            orphans = job.sigkill() if reached else []
            job.wait()
        commands.require_gone(orphans)
    with start(output) as job:
        job.wait().require_success()
    commands.require_once(output, pictures.uris)


def new_of(phase: str, output: Path) -> Callable[[], bool]:
    """Return a function that tells whether a run has come to a phase.

    What is there already was left by the run before.
    """

    before = set(output.glob(PHASES[phase]))
    return lambda: bool(set(output.glob(PHASES[phase])) - before)


def test_three_nodes_are_killed_in_one_run(cluster, start, server, pictures, tmp_path):
    server.delay_seconds = DELAY_SECONDS
    output = tmp_path / "out"
    uris = [f"s3://pictures/{key}" for key in pictures.keys]
    manifest = commands.write_manifest(uris, tmp_path / "all.parquet")
    node = cluster.add_node(num_cpus=1)
    with start(output, *SLOWLY, images=manifest, address=cluster.address) as job:
        for kill in range(3):
            wanted = 8 * (kill + 1)
            assert job.wait_until(lambda: len(commands.staged_parts(output)) >= wanted), job.text  # noqa: B023
            cluster.remove_node(node, allow_graceful=False)
            node = cluster.add_node(num_cpus=1)
        job.wait(timeout=600).require_success()
    cluster.remove_node(node)
    commands.require_once(output, uris)


def test_every_encoder_is_killed_in_one_run(cluster, start, server, pictures, tmp_path):
    server.delay_seconds = DELAY_SECONDS
    output = tmp_path / "out"
    with start(output, *SLOWLY, address=cluster.address) as job:
        assert job.wait_until(lambda: len(commands.staged_parts(output)) >= 4), job.text
        for process in encoders():
            process.kill()
        job.wait(timeout=600).require_success()
    commands.require_once(output, pictures.uris)


def test_the_artefact_of_a_killed_run_stays_readable(start, server, pictures, tmp_path):
    """A run that adds to a finished artefact is killed: readers see what was there before."""
    output = tmp_path / "out"
    first = commands.write_manifest(pictures.uris[:300], tmp_path / "first.parquet")
    with start(output, images=first) as job:
        job.wait().require_success()
    server.delay_seconds = 0.05
    for phase in ("encoding", "committing"):
        with start(output, "--in-flight", "2") as job:
            reached = job.wait_until(new_of(phase, output))
            commands.require_gone(job.sigkill() if reached else [])
        rows = Embeddings.open(str(output)).read(["uri"])
        assert set(rows["uri"].to_pylist()) in (set(pictures.uris[:300]), set(pictures.uris))
    with start(output) as job:
        job.wait().require_success()
    commands.require_once(output, pictures.uris)


def training_beyond(step: int, job: commands.Job, output: Path) -> bool:
    """Return whether both workers are there; the run before may have come so far already."""
    return step_of(output) >= step and len(workers(job)) == 2


@pytest.mark.parametrize("seed", range(3))
def test_training_is_killed_again_and_again(seed, train, untouched, tmp_path):
    """The driver, or one of two workers, whichever comes up, each time some way further on."""
    chance = random.Random(seed)
    output = tmp_path / "same"
    flags = ("--num-workers", "2", "--max-failures", "1")
    for until in sorted(chance.sample(range(10, STEPS - 30), KILLS)):
        with train(output, *flags) as job:
            if job.wait_until(functools.partial(training_beyond, until, job, output)):
                if chance.random() < 0.5:
                    workers(job)[-1].kill()
                    job.wait_until(lambda: len(workers(job)) == 2)
                commands.require_gone(job.sigkill())
    with train(output, *flags) as job:
        job.wait().require_success()
    require_the_same(output, untouched)


def test_a_publish_is_killed_at_ten_random_points(place):
    chance = random.Random(0)
    for kill in range(1, 11):
        before = place.live()
        place.mark(kill)
        place.grow(kill)
        phase = chance.choice(sorted(PUBLISHING))
        flags = ["--full"] if chance.random() < 0.5 else []
        kill_in(place, phase, *flags)
        after = place.live()
        if not after.equals(before):  # it was killed when all was done
            assert set(after["mark"].to_pylist()) == {kill}
        place.publish(*flags).require_success()
        require_whole(place, kill, CREATORS + 2 * kill)


def test_two_publishers_race_twenty_times(place):
    for race in range(1, 21):
        place.mark(race)
        place.grow(race)
        with place.start("--full") as first, place.start() as second:
            ended = [job.wait() for job in (first, second)]
        assert sorted(one.code for one in ended)[0] == 0, [one.text for one in ended]
        assert {one.code for one in ended} <= {0, 5}
        require_whole(place, race, CREATORS + 2 * race)


def test_a_reader_never_sees_a_mixture_during_twenty_publishes(place):
    """Nor while `live` goes back and forth, nor while older versions are cleaned away."""
    where = TableUri.parse(str(place.table))
    with reading(place) as told:
        for number in range(1, 21):
            place.mark(number)
            place.grow(number)
            place.publish(*(["--full"] if number % 4 == 0 else [])).require_success()
            if number % 5 == 0:
                now, before = [v.version for v in versions.list_versions(where) if v.published][:2]
                versions.rollback(where, before)
                versions.rollback(where, now)
            if number % 10 == 0:
                assert versions.cleanup(where, timedelta(0))["dropped_versions"]
    assert [one for one in told if one != "read"] == []
    assert len(told) > 100
    require_whole(place, 20, CREATORS + 40)


@pytest.mark.parametrize(
    "place_in_bucket",
    [{"seed": 1}, {"seed": 2}, {"seed": 3}, {"seed": 4, "slow_down": 0.25, "reset": 0.15}],
    indirect=True,
)
def test_a_store_that_fails_again_and_again(place_in_bucket, lite_space):
    test_publish_faults.publish_twice(place_in_bucket, lite_space)
