"""A job in a process of its own, as its command line starts it: its record, seconds and memory."""

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.peak_memory import PeakMemory

REPOSITORY = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Run:
    """What a run of the job came to."""

    record: dict[str, Any]
    seconds: float
    """Of the whole process."""
    memory_gb: float
    """The most that all its processes held together (PSS)."""


def run(module: str, *flags: str) -> Run:
    """Run a job on a Ray of its own.

    Raises:
        subprocess.CalledProcessError: It failed.
    """
    own = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    began = time.perf_counter()
    with PeakMemory() as memory:
        done = subprocess.run(
            [sys.executable, "-m", module, "--json", *flags],
            cwd=REPOSITORY,
            env={**own, "RAY_AUTH_MODE": "disabled"},
            check=True,
            stdout=subprocess.PIPE,
        )
    return Run(json.loads(done.stdout), time.perf_counter() - began, memory.bytes / 1e9)
