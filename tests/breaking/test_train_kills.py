"""train_same while its driver, a worker or a node is killed: it ends as if nothing had happened."""

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from ray.cluster_utils import Cluster
from safetensors.torch import load_file

from motif.artefacts.checkpoint import Checkpoint
from motif.errors import TooManyFailures
from motif.training.state import State
from tests.breaking import commands
from tests.synthetic import make_space, rows_of, unit, write_embeddings

STEPS = 120
WORKER_TITLE = "ray::RayTrainWorker"
# `paper`, so that the network is kept whatever came of it.
SETTINGS = (
    *("--architecture", "paper", "--hidden-dim", "512", "--steps", str(STEPS)),
    *("--validate-every", "10", "--patience", "1000", "--save-minutes", "0"),
    *("--set-sizes", "4", "--learning-rate", "2e-5", "--margin", "1"),
)
Start = Callable[..., AbstractContextManager[commands.Job]]


@pytest.fixture(scope="module")
def embeddings(tmp_path_factory) -> str:
    generator = np.random.default_rng(0)
    # Hard enough, with so large a margin, for most triplets to be active to the end.
    rows = unit(generator.normal(size=(120, 1, 64)) + 3 * generator.normal(size=(120, 9, 64)))
    ids = [f"creator-{i:03d}" for i in range(120) for _ in range(9)]
    folder = tmp_path_factory.mktemp("training")
    return write_embeddings(
        folder / "embeddings", rows_of(ids, rows.reshape(-1, 64)), make_space(64)
    )


@pytest.fixture
def train(embeddings, tmp_path) -> Start:
    count = 0

    def start(
        output: Path, *flags: str, address: str | None = None
    ) -> AbstractContextManager[commands.Job]:
        nonlocal count
        count += 1
        environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_AD")}
        if address:
            environment["RAY_ADDRESS"] = address
        # Ray waits so long, by default a minute, for workers on a node that it believes alive.
        environment["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = "20"
        command = [sys.executable, "-m", "jobs.train_same", "--embeddings", embeddings]
        command += ["--output", str(output), "--scratch", str(tmp_path / "scratch")]
        return commands.running(
            [*command, *SETTINGS, *flags],
            environment=environment,
            log=tmp_path / f"log-{count}.txt",
        )

    return start


@pytest.fixture(scope="module")
def untouched(embeddings, tmp_path_factory) -> Path:
    """What a run comes to that nothing happens to."""
    folder = tmp_path_factory.mktemp("untouched")
    command = [sys.executable, "-m", "jobs.train_same", "--embeddings", embeddings]
    command += ["--output", str(folder / "same"), *SETTINGS]
    with commands.running(command, environment=dict(os.environ), log=folder / "log.txt") as job:
        job.wait().require_success()
    return folder / "same"


def step_of(output: Path) -> int:
    """Return the step of the state that is kept."""
    path = output / "_train" / "state.safetensors"
    if not path.exists():
        return 0
    state = State.from_bytes(path.read_bytes())
    assert state is not None, "half a state was seen"
    return state.told["step"]


def curve(output: Path) -> list[dict[str, float]]:
    return json.loads((output / "metrics.json").read_text())["curve"]


def require_the_same(output: Path, expected: Path) -> None:
    """Require a finished checkpoint with every step once, and the weights of the other run."""
    Checkpoint.open(str(output))
    assert sorted(path.name for path in output.iterdir()) == [
        *("config.json", "metrics.json", "model.safetensors", "run.json"),
    ]
    assert [row["step"] for row in curve(output)] == list(range(10, STEPS + 1, 10))
    for row, other in zip(curve(output), curve(expected), strict=True):
        assert row["loss"] == pytest.approx(other["loss"], abs=2e-3)
    found, wanted = (load_file(folder / "model.safetensors") for folder in (output, expected))
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, atol=5e-3, rtol=5e-2)


def test_a_killed_driver_is_taken_up_where_it_was(train: Start, untouched, tmp_path):
    output = tmp_path / "same"
    with train(output) as job:
        # The first state: where the machine is busy, the rest has been done before the kill came.
        assert job.wait_until(lambda: step_of(output) >= 10), job.text
        orphans = job.sigkill()
    commands.require_gone(orphans)
    stood = step_of(output)
    assert 10 <= stood < STEPS
    assert not (output / "run.json").exists()
    with train(output) as job:
        ended = job.wait().require_success()
    assert "going on from the state that was kept" in ended.text
    require_the_same(output, untouched)
    # On one machine with one worker, the same to the last bit.
    assert (output / "model.safetensors").read_bytes() == (
        untouched / "model.safetensors"
    ).read_bytes()
    assert list((tmp_path / "scratch").iterdir()) == []


def workers(job: commands.Job) -> list[psutil.Process]:
    found = []
    for process in job.family():
        try:
            if " ".join(process.cmdline()).startswith(WORKER_TITLE):
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return found


@pytest.mark.soak
def test_a_killed_worker_costs_what_came_after_the_last_state(train: Start, untouched, tmp_path):
    output = tmp_path / "same"
    with train(output, "--num-workers", "2") as job:
        assert job.wait_until(lambda: step_of(output) >= 40), job.text
        victim, *others = workers(job)
        assert len(others) == 1
        victim.kill()
        ended = job.wait()
    ended.require_success()
    require_the_same(output, untouched)


@pytest.mark.soak
def test_workers_that_die_too_often_end_it_with_one_line(train: Start, untouched, tmp_path):
    output = tmp_path / "same"
    with train(output, "--max-failures", "0") as job:
        assert job.wait_until(lambda: step_of(output) >= 20), job.text
        (victim,) = workers(job)
        victim.kill()
        ended = job.wait()
    ended.require_refusal(
        TooManyFailures.exit_code, "worker 0 died", "--max-failures 0", "run the same command again"
    )
    with train(output) as job:
        job.wait().require_success()
    require_the_same(output, untouched)


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    made = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 1, "include_dashboard": False},
        shutdown_at_exit=False,
    )
    yield made
    made.shutdown()


@pytest.mark.soak
def test_with_a_node_lost_it_goes_on_with_fewer_workers(
    train: Start, cluster: Cluster, untouched, tmp_path
):
    node = cluster.add_node(num_cpus=1)
    output = tmp_path / "same"
    flags = ("--num-workers", "2", "--min-workers", "1")
    with train(output, *flags, address=cluster.address) as job:
        assert job.wait_until(lambda: step_of(output) >= 40), job.text
        cluster.remove_node(node, allow_graceful=False)
        ended = job.wait()
    ended.require_success()
    require_the_same(output, untouched)
