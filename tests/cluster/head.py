"""A real head node, as `ray start` makes it, with the Jobs API and with a token."""

import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import requests

from tests.breaking.commands import kill_all

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
START_SECONDS = 90.0


@dataclass(frozen=True)
class Head:
    """Where it answers."""

    address: str
    """Of the Jobs API."""
    gcs: str
    """Of the cluster, for drivers."""
    metrics: str
    """URL that Prometheus would read."""
    environment: dict[str, str]
    """Of whoever submits: with the token."""
    log: Path


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


@contextmanager
def running(
    folder: Path, *flags: str, gcs: int = 0, jobs: bool = True, **environment: str
) -> Iterator[Head]:
    """Run a head while the block runs; all its processes are killed by id afterwards.

    Args:
        folder: For its log.
        flags: Of `ray start`.
        gcs: Port of the cluster; by default a free one.
        jobs: Wait until it takes jobs; else until it is there.
        environment: Of its processes.
    """
    token = secrets.token_hex(32)
    own = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "PYTHONPATH"))}
    own |= {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": token,
        "PATH": f"{BIN}:{os.environ['PATH']}",  # the jobs' `python`
        **environment,
    }
    dashboard, metrics, gcs = free_port(), free_port(), gcs or free_port()
    # Unix sockets lie in it, whose paths may have 107 characters.
    scratch = tempfile.mkdtemp(prefix="ray-", dir="/tmp")
    command = [str(BIN / "ray"), "start", "--head", "--block", "--disable-usage-stats"]
    command += ["--node-ip-address=127.0.0.1"]
    command += [f"--port={gcs}", "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}"]
    command += [f"--metrics-export-port={metrics}", f"--temp-dir={scratch}", *flags]
    # Ports that every head has by default, and so another one on this machine.
    command += [f"--dashboard-agent-listen-port={free_port()}"]
    command += [f"--ray-client-server-port={free_port()}"]
    log = folder / "head.txt"
    with log.open("wb") as file:
        process = subprocess.Popen(command, env=own, stdout=file, stderr=file)
    head = Head(
        f"http://127.0.0.1:{dashboard}",
        f"127.0.0.1:{gcs}",
        f"http://127.0.0.1:{metrics}/metrics",
        {**own, "RAY_ADDRESS": f"http://127.0.0.1:{dashboard}"},
        log,
    )
    try:
        _wait_until_it_answers(head, process, jobs=jobs)
        yield head
    finally:
        ours = [psutil.Process(process.pid)] if process.poll() is None else []
        family = [*ours, *(child for one in ours for child in one.children(recursive=True))]
        family += [p for p in psutil.process_iter() if _mentions(p, scratch)]
        kill_all({p.pid: p for p in family}.values())
        process.wait()
        shutil.rmtree(scratch, ignore_errors=True)


def _mentions(process: psutil.Process, folder: str) -> bool:
    try:
        return any(folder in part for part in process.cmdline())
    except psutil.Error:
        return False


def _wait_until_it_answers(head: Head, process: subprocess.Popen, *, jobs: bool) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        assert process.poll() is None, head.log.read_text()
        assert time.monotonic() < deadline, head.log.read_text()
        try:
            # The Jobs API answers before there is an agent that could run a job.
            submitted = requests.post(
                f"{head.address}/api/jobs/",
                json={"entrypoint": "true"},
                headers={"Authorization": f"Bearer {head.environment['RAY_AUTH_TOKEN']}"},
                timeout=30,
            )
            if submitted.ok or not jobs:
                return
        except requests.RequestException:
            pass
        time.sleep(0.5)
