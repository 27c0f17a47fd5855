"""train_same through its command line: two workers against one, and a set of 10 GB."""

import json
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.measurement import Measurement, spread
from benchmarks.peak_memory import PeakMemory, largest_unmapped
from benchmarks.train_parts import archive

REPOSITORY = Path(__file__).resolve().parents[2]
WORKERS_BAR = 1.5
MEMORY_BAR_GB = 2.0
WORKER_TITLE = "ray::RayTrainWorker"


@dataclass(frozen=True)
class Run:
    """What a run of the job came to."""

    steps_per_second: float
    seconds: float
    worker_gb: float
    """The most that one worker held which is not a mapped file."""


def train(cache: Path, images: int, *flags: str) -> Run:
    """Run the job on the archive."""
    output = cache / "outputs" / "train"
    shutil.rmtree(output, ignore_errors=True)
    command = [sys.executable, "-m", "jobs.train_same", "--output", str(output)]
    command += ["--embeddings", str(archive.make(cache, images)), "--scratch", str(cache)]
    command += ["--test-fraction", "0", "--validation-fraction", "0.01", *flags]
    began = time.monotonic()
    with PeakMemory(largest_unmapped(WORKER_TITLE), every_seconds=0.2) as memory:
        subprocess.run(command, cwd=REPOSITORY, check=True)
    metrics = json.loads((output / "metrics.json").read_text())
    rate = metrics["curve"][-1]["steps_per_second"]
    return Run(rate, time.monotonic() - began, memory.bytes / 1e9)


def measure_workers(cache: Path, *, images: int, repeats: int, steps: int) -> Iterator[Measurement]:
    """Compare steps per second, one thread each, validation left to the end."""
    flags = ("--steps", str(steps), "--validate-every", str(steps), "--creators-per-batch", "512")
    flags += ("--set-sizes", "2", "--architecture", "same")
    rates: dict[str, list[float]] = {"1": [], "2": []}
    for _ in range(repeats):
        for workers, found in rates.items():
            run = train(cache, images, *flags, "--num-workers", workers)
            found.append(run.steps_per_second)
    median = {workers: statistics.median(found) for workers, found in rates.items()}
    yield Measurement(
        part="workers",
        name="images/s of two workers / of one",
        value=median["2"] / median["1"],
        at_least=WORKERS_BAR,
        figures={
            "steps_per_second": {workers: spread(found) for workers, found in rates.items()},
            "images_per_step": 2048,
        },
    )


def measure_memory(cache: Path, *, images: int, steps: int) -> Iterator[Measurement]:
    """Train on a set that is larger than what a worker may hold."""
    flags = ("--steps", str(steps), "--validate-every", "20", "--num-workers", "2")
    run = train(cache, images, *flags)
    yield Measurement(
        part="memory",
        name=f"GB of a worker beside mapped files, {images:,} x {archive.DIM}",
        value=run.worker_gb,
        unit="gb",
        at_most=MEMORY_BAR_GB,
        figures={
            "set_gb": round(2 * archive.DIM * images / 1e9, 1),
            "seconds_of_the_job": round(run.seconds),
            "steps_per_second": run.steps_per_second,
            "steps": steps,
        },
    )
