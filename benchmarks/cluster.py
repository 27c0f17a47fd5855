"""The bars of a cluster whose nodes come and go: several nodes of one logical CPU on this machine.

    .venv/bin/python -m benchmarks.cluster --cache FOLDER

Prints one JSON object per measurement, as benchmarks.encode does. An encoder of this benchmark's
own sleeps 50 ms an image, so that nodes do not compete for the machine's cores. Nodes offer a
place for one encoder each. `workers` compares three workers with one; `kills` lets a worker die
every 20 seconds, with another in its place; `added` adds a node in mid-run and waits until it
encodes, once with a place for an encoder and once with a (logical) GPU; `grown` begins without a
node, and Ray's autoscaler adds up to three with a (logical) GPU when it is asked to.
"""

import logging
import os
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import tyro
from ray.cluster_utils import Cluster

from benchmarks.cluster_parts import sleeping
from benchmarks.encode_parts import encoders, pictures
from benchmarks.encode_parts.job import Finished, Job
from benchmarks.measurement import Measurement, show_parts, spread
from motif.on_ray.encode import ENCODER_PLACE
from tests.breaking.commands import require_once
from tests.cluster import autoscaled

SPEEDUP_BAR, KILLS_BAR, ADDED_BAR_SECONDS, GROWN_BAR_SECONDS = 2.5, 1.6, 15.0, 60.0
KILL_EVERY_SECONDS = 20.0
# As cluster.yaml has them: by Ray's own settings a node is missed after 15 seconds, and a process
# that has loaded torch waits one second for its next task.
SETTINGS = {
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_failure_threshold": "5",
    "RAY_idle_worker_killing_time_threshold_ms": "60000",
}
WORKERS = 3
BATCH = 16  # .8 s; a GPU's batch takes less
MODULE = "benchmarks.cluster_parts.sleeping"


@dataclass(frozen=True, kw_only=True)
class Config:
    """Measure encode_images on clusters on this machine."""

    cache: Path
    """Folder for what is made once, and for outputs."""
    only: str = "workers,kills,added,grown"
    """Parts, separated by commas."""
    images: int = 6000
    repeats: int = 3


class Nodes:
    """A head that does no work, and workers of one CPU."""

    def __init__(self, cluster: Cluster, gpus: int) -> None:
        self._cluster, self._gpus = cluster, gpus
        self.workers = []

    @property
    def address(self) -> str:
        """What RAY_ADDRESS names."""
        return self._cluster.address

    def add(self) -> str:
        """Add a worker; return its id."""
        place = {} if self._gpus else {ENCODER_PLACE: 1}
        node = self._cluster.add_node(num_cpus=1, num_gpus=self._gpus, resources=place)
        self.workers.append(node)
        return node.node_id

    def kill(self, index: int) -> None:
        """SIGKILL all processes of a worker."""
        self._cluster.remove_node(self.workers.pop(index), allow_graceful=False)


@contextmanager
def nodes(workers: int, *, marks: Path, gpus: int = 0) -> Iterator[Nodes]:
    """Start a cluster, and end it."""
    empty(marks)
    os.environ[sleeping.MARKS] = str(marks)  # nodes take it from here
    os.environ["RAY_AUTH_MODE"] = "disabled"
    os.environ |= SETTINGS
    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 0, "include_dashboard": False},
        shutdown_at_exit=False,
    )
    try:
        found = Nodes(cluster, gpus)
        for _ in range(workers):
            found.add()
        yield found
    finally:
        cluster.shutdown()


def empty(folder: Path) -> None:
    """Make it anew."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


class Library:
    """Small pictures, and the command over them."""

    def __init__(self, cache: Path, images: int) -> None:
        self._files = pictures.small(cache, images)
        self._manifest = pictures.write_manifest(cache / f"cluster-{images}.parquet", self._files)
        self._encoder = encoders.flag(encoders.STUB, cache)
        self._output = cache / "outputs" / "cluster"
        self.marks = cache / "outputs" / "cluster-marks"

    @contextmanager
    def encoding(
        self, address: str, *flags: str, environment: Mapping[str, str] | None = None
    ) -> Iterator[Job]:
        """Start the command."""
        shutil.rmtree(self._output, ignore_errors=True)
        with Job(
            *(self._manifest, self._output, self._encoder, "--batch-size", str(BATCH), *flags),
            environment={**(environment or {}), "RAY_ADDRESS": address},
            module=MODULE,
        ) as job:
            yield job

    def require_once(self) -> None:
        """Require each picture once."""
        require_once(self._output, [str(file) for file in self._files])


def seconds_of(run: Finished) -> float:
    """Return how long encoding took, from the start of the actors to the last file."""
    return run.record["seconds"]["encode"]


def measure_workers(library: Library, images: int, repeats: int) -> Iterator[Measurement]:
    """Compare three workers with one, in turns."""
    rates: dict[int, list[float]] = {1: [], WORKERS: []}
    whole: dict[int, list[float]] = {1: [], WORKERS: []}
    for _ in range(repeats):
        for count in (1, WORKERS):
            with (
                nodes(count, marks=library.marks) as cluster,
                library.encoding(cluster.address) as job,
            ):
                run = job.wait()
                library.require_once()
            seconds, start = seconds_of(run), run.record["stages"]["startup_seconds"]
            rates[count].append(images / (seconds - start))
            whole[count].append(images / seconds)
    one, three = spread(rates[1]), spread(rates[WORKERS])
    with_start = spread(whole[WORKERS])["median"] / spread(whole[1])["median"]
    yield Measurement(
        part="workers",
        name=f"images/s of {WORKERS} workers / of one, once encoders are loaded",
        value=three["median"] / one["median"],
        at_least=SPEEDUP_BAR,
        figures={
            "images": images,
            "one": one,
            "three": three,
            "with_loading": {
                "ratio": round(with_start, 3),
                "one": whole[1],
                "three": whole[WORKERS],
            },
        },
    )


def measure_kills(library: Library, images: int, repeats: int) -> Iterator[Measurement]:
    """Compare a run whose nodes are killed with a calm one; each image must be there once."""
    for gpus in (0, 1):
        calm, killed, kills, again = [], [], [], []
        for seed in range(repeats):
            with nodes(WORKERS, marks=library.marks, gpus=gpus) as cluster:
                with library.encoding(cluster.address) as job:
                    calm.append(seconds_of(job.wait()))
                before = sleeping.encoded(library.marks)
                with library.encoding(cluster.address) as job:
                    kills.append(_kill_while_it_runs(cluster, job, random.Random(seed)))
                    killed.append(seconds_of(job.wait()))
                library.require_once()
                again.append(sleeping.encoded(library.marks) - before - images)
        yield Measurement(
            part="kills",
            name=f"seconds with a node killed every {KILL_EVERY_SECONDS:.0f} s / without,"
            f" by {'GPU' if gpus else 'place'}",
            value=spread(killed)["median"] / spread(calm)["median"],
            at_most=KILLS_BAR,
            figures={
                "images": images,
                "seconds_calm": spread(calm),
                "seconds_killed": spread(killed),
                "kills": kills,
                "images_encoded_again": again,
            },
        )


def _kill_while_it_runs(cluster: Nodes, job: Job, rng: random.Random) -> int:
    """Kill a worker every so often, and put another in its place; return how many died."""
    count = 0
    while job.running:
        began = time.monotonic()
        while job.running and time.monotonic() - began < KILL_EVERY_SECONDS:
            time.sleep(0.2)
        if job.running:
            cluster.kill(rng.randrange(WORKERS))
            cluster.add()
            count += 1
    return count


def measure_added(library: Library, images: int, repeats: int) -> Iterator[Measurement]:
    """Add a node in mid-run, and wait until it encodes."""
    for gpus in (0, 1):
        waits = []
        for _ in range(repeats):
            with (
                nodes(1, marks=library.marks, gpus=gpus) as cluster,
                library.encoding(cluster.address) as job,
            ):
                while not list(library.marks.glob("encode-*")):
                    time.sleep(0.1)
                time.sleep(KILL_EVERY_SECONDS / 2)
                began = time.time()
                node = cluster.add()
                path = library.marks / f"encode-{node}"
                while job.running and not (path.exists() and path.read_text()):
                    time.sleep(0.1)
                waits.append(float(path.read_text()) - began if path.exists() else float("inf"))
        yield Measurement(
            part="added",
            name=f"seconds until a node that was added encodes, by {'GPU' if gpus else 'place'}",
            value=spread(waits)["median"],
            unit="seconds",
            at_most=ADDED_BAR_SECONDS,
            figures={"seconds": spread(waits)},
        )


def measure_grown(library: Library, images: int, repeats: int) -> Iterator[Measurement]:
    """Begin without a node; the autoscaler must be asked for more GPUs than the job waits for."""
    waits = []
    for _ in range(repeats):
        empty(library.marks)
        with (
            tempfile.TemporaryDirectory() as folder,
            autoscaled.running(
                Path(folder),
                {"gpu": ({"CPU": 1, "GPU": 1}, WORKERS)},
                **{**SETTINGS, sleeping.MARKS: str(library.marks)},
            ) as head,
            library.encoding(head.gcs, "--gpus", "1", environment=head.environment) as job,
        ):
            job.wait()
            library.require_once()
        began = sorted(float(path.read_text()) for path in library.marks.glob("encode-*"))
        waits.append([round(each - began[0], 1) for each in began[1:]])
    last = [each[-1] if len(each) == WORKERS - 1 else float("inf") for each in waits]
    yield Measurement(
        part="grown",
        name=f"seconds from the first of {WORKERS} GPU nodes that encodes to the last",
        value=spread(last)["median"],
        unit="seconds",
        at_most=GROWN_BAR_SECONDS,
        figures={"images": images, "seconds_after_the_first": waits},
    )


def main(config: Config) -> None:
    """Run the parts in the order in which they are named."""
    cache, images, repeats = config.cache.absolute(), config.images, config.repeats
    cache.mkdir(parents=True, exist_ok=True)
    library = Library(cache, images)
    parts: dict[str, Callable[[], Iterator[Measurement]]] = {
        "workers": lambda: measure_workers(library, images, repeats),
        "kills": lambda: measure_kills(library, images, repeats),
        "added": lambda: measure_added(library, images, repeats),
        "grown": lambda: measure_grown(library, images, repeats),
    }
    show_parts(parts, only=config.only, cache=cache)


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    main(tyro.cli(Config))
