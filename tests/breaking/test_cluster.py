"""A cluster of several nodes on this machine, and what is killed in it while a job runs."""

from collections.abc import Iterator

import psutil
import pytest
from ray.cluster_utils import Cluster

from tests.breaking import commands

ENCODER_TITLE = "ray::MapWorker(MapBatches(EncodeImages))"
SLOWLY = ("--in-flight", "2", "--stall-seconds", "240")
DELAY_SECONDS = 0.1


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
