"""A cluster of several nodes on this machine, and what is killed in it while a job runs."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator

import psutil
import pytest
from ray.cluster_utils import Cluster

from motif.on_ray.encode import ENCODER_PLACE
from tests.breaking import commands

ENCODER_TITLE = "ray::MapWorker(MapBatches(EncodeImages))"
SLOWLY = ("--in-flight", "2", "--stall-seconds", "240")
DELAY_SECONDS = 0.1
PLACE = {ENCODER_PLACE: 1}
COUNT_PLACES = """
import ray
from motif.on_ray.encode import ENCODER_PLACE
from motif.on_ray.growth import Places
ray.init(log_to_driver=False)
while True:
    alive = sum(node["Alive"] for node in ray.nodes())
    places = Places(resource=ENCODER_PLACE, encoders=2).count(more_than=0)
    print(alive, places, flush=True)
    input()
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A head and a worker of one CPU each; tests add the nodes that they kill."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in commands.CREDENTIALS.items():
            patch.setenv(name, value)
        made = Cluster(
            initialize_head=True,
            head_node_args={"num_cpus": 1, "include_dashboard": False},
            shutdown_at_exit=False,
        )
        made.add_node(num_cpus=1)
        yield made
        made.shutdown()


def encoders() -> list[psutil.Process]:
    """Return the encoders' processes: those below this one, which started the cluster."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if " ".join(process.cmdline()).startswith(ENCODER_TITLE):
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return found


def test_a_node_is_killed_with_all_its_processes(cluster, start, server, pictures, tmp_path):
    node = cluster.add_node(num_cpus=1)
    server.delay_seconds = DELAY_SECONDS
    output = tmp_path / "out"
    with start(output, *SLOWLY, address=cluster.address) as job:
        assert job.wait_until(lambda: len(commands.staged_parts(output)) >= 4), job.text
        cluster.remove_node(node, allow_graceful=False)
        ended = job.wait()
    ended.require_success()
    commands.require_once(output, pictures.uris)


@pytest.mark.soak
def test_an_encoder_is_killed(cluster, start, server, pictures, tmp_path):
    server.delay_seconds = DELAY_SECONDS
    output = tmp_path / "out"
    with start(output, *SLOWLY, address=cluster.address) as job:
        assert job.wait_until(lambda: len(commands.staged_parts(output)) >= 4), job.text
        victim, *_ = encoders()
        victim.kill()
        ended = job.wait()
    ended.require_success()
    commands.require_once(output, pictures.uris)


@pytest.mark.soak
def test_the_only_node_left_has_one_cpu(cluster, start, server, pictures, tmp_path):
    """A decoder, an encoder and a writer must find room on it together."""
    cluster.remove_node(next(iter(cluster.worker_nodes)), allow_graceful=False)
    output = tmp_path / "out"
    with start(output, address=cluster.address) as job:
        ended = job.wait()
    ended.require_success()
    commands.require_once(output, pictures.uris)


def told(process: subprocess.Popen) -> str:
    """Return its next line of two numbers; Ray says there too that a node is gone."""
    lines = (line.strip() for line in process.stdout)
    return next(line for line in lines if re.fullmatch(r"\d+ \d+", line))


def test_a_place_is_gone_before_its_node_is_missed(cluster):
    node = cluster.add_node(num_cpus=0, resources=PLACE)
    with subprocess.Popen(
        [sys.executable, "-c", COUNT_PLACES],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=commands.ROOT,
        env={**os.environ, "RAY_ADDRESS": cluster.address, "PYTHONPATH": "lib"},
        text=True,
    ) as counting:
        try:
            assert told(counting) == "3 2"
            cluster.remove_node(node, allow_graceful=False)
            counting.stdin.write("\n")
            counting.stdin.flush()
            assert told(counting) == "3 0"
        finally:
            counting.kill()


@pytest.mark.soak
def test_an_encoder_comes_back_in_the_place_of_a_node_that_was_killed(
    cluster, start, server, pictures, tmp_path
):
    """At once, though Ray Data would have had another one there."""
    places = [cluster.add_node(num_cpus=1, resources=PLACE) for _ in range(2)]
    server.delay_seconds = DELAY_SECONDS
    output = tmp_path / "out"
    with start(output, *SLOWLY, address=cluster.address) as job:
        assert job.wait_until(lambda: len(commands.staged_parts(output)) >= 4), job.text
        cluster.remove_node(places[0], allow_graceful=False)
        places[0] = cluster.add_node(num_cpus=1, resources=PLACE)
        ended = job.wait()
    for node in places:
        cluster.remove_node(node, allow_graceful=False)
    ended.require_success()
    commands.require_once(output, pictures.uris)
