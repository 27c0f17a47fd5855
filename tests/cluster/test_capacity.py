"""A job asks for nodes on a cluster that has none yet, with Ray's own autoscaler at work."""

import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.cluster import autoscaled
from tests.cluster.head import ROOT, Head

NODES = 2
ASK = """
import sys
from motif import command
from motif.on_ray import capacity, session
from motif.on_ray.capacity import Capacity

import ray

command.log_to_stderr()
cpus, gpus, minutes = sys.argv[1:]
with command.exit_on_refusal():
    session.connect()
    capacity.wait_for(Capacity(cpus=int(cpus), gpus=int(gpus), wait_minutes=float(minutes)))
    print("has", ray.cluster_resources().get("CPU", 0))
"""


@pytest.fixture(scope="module")
def head(tmp_path_factory) -> Iterator[Head]:
    """Its autoscaler may start two nodes of one CPU."""
    with autoscaled.running(
        tmp_path_factory.mktemp("autoscaled"), {"cpu": ({"CPU": 1}, NODES)}
    ) as running:
        yield running


def ask(head: Head, cpus: int, gpus: int, minutes: float) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", ASK, str(cpus), str(gpus), str(minutes)],
        **{"cwd": ROOT, "capture_output": True, "text": True, "check": False},
        env={**head.environment, "RAY_ADDRESS": head.gcs},
        timeout=200,
    )


def test_nodes_come_when_they_are_asked_for(head):
    done = ask(head, NODES, 0, 2)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["has", f"{NODES:.1f}"]
    assert "asked the autoscaler for 2 CPUs; waiting for 2 CPUs" in done.stderr


def test_what_does_not_come_is_not_waited_for_for_ever(head):
    done = ask(head, 0, 1, 0.1)
    assert done.returncode == 2, done.stderr
    [line] = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "waited 0.1 minutes for 1 GPUs" in line
    assert "raise --wait-minutes" in line
    assert "Traceback" not in done.stderr
