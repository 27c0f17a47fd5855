"""publish_creators through its command line: everybody, and then one creator in a hundred."""

import json
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks import whole_command
from benchmarks.measurement import Measurement, spread
from benchmarks.publish_parts import archive, model
from benchmarks.whole_command import REPOSITORY, Run

ADJECTIVES = ("pleasing", "dramatic", "minimalist", "vivid")
MEMORY_BAR_GB = 4.0
RATE_BAR = 0.7
CHANGED = 0.01
INCREMENTAL_BAR = 0.05


def figures(run: Run) -> dict[str, Any]:
    """Return what explains the rest."""
    return {
        "mode": run.record["mode"],
        "seconds_by_step": run.record["seconds"],
        "seconds_of_the_process": round(run.seconds, 1),
        "counts": run.record["counts"],
        "peak_gb": round(run.memory_gb, 2),
    }


def publish(cache: Path, images: int, *flags: str) -> Run:
    """Run the job on the archive."""
    embeddings = archive.make(cache, images)
    words = cache / "publish-adjectives.txt"
    words.write_text("\n".join(ADJECTIVES) + "\n")
    return whole_command.run(
        "jobs.publish_creators",
        *("--embeddings", str(embeddings), "--model", str(model.make(cache, embeddings))),
        *("--table", str(table_of(cache, images)), "--adjectives", str(words), *flags),
    )


def table_of(cache: Path, images: int) -> Path:
    """Return where the table is published."""
    return cache / "outputs" / f"publish-{images}" / "creators.lance"


def bare(cache: Path, images: int) -> dict[str, float]:
    """Run the bare loop on the archive."""
    embeddings = archive.make(cache, images)
    command = [sys.executable, "-m", "benchmarks.publish_parts.bare", str(embeddings)]
    command += [str(model.make(cache, embeddings))]
    done = subprocess.run(command, cwd=REPOSITORY, check=True, stdout=subprocess.PIPE)
    return json.loads(done.stdout)


def start_up(cache: Path, images: int) -> Run:
    """Publish after one creator has changed: what a publish takes before it has work to do."""
    archive.grow(archive.make(cache, images), creators=1)
    return publish(cache, images)


def measure_full(cache: Path, *, images: int, repeats: int) -> Iterator[Measurement]:
    """Publish everybody, in turns with the bare loop."""
    runs: list[Run] = []
    loops: list[dict[str, float]] = []
    for _ in range(repeats):
        loops.append(bare(cache, images))
        shutil.rmtree(table_of(cache, images).parent, ignore_errors=True)
        runs.append(publish(cache, images))
    fixed = start_up(cache, images).seconds
    rates = {
        "bare_loop": [one["images"] / one["total"] for one in loops],
        "draft_alone": [images / run.record["seconds"]["draft"] for run in runs],
        "without_start_up": [
            images / (run.seconds - run.record["seconds"]["directions"] - fixed) for run in runs
        ],
        "whole_process": [images / run.seconds for run in runs],
    }
    median = {name: statistics.median(values) for name, values in rates.items()}
    yield Measurement(
        part="full",
        name="images/s of a publish without start-up / of a bare loop",
        value=median["without_start_up"] / median["bare_loop"],
        at_least=RATE_BAR,
        figures={
            "images_per_second": {name: spread(values) for name, values in rates.items()},
            "ratio_with_start_up": round(median["whole_process"] / median["bare_loop"], 3),
            "bare_loop_seconds": {name: round(s, 1) for name, s in loops[-1].items()},
            "seconds_of_start_up": round(fixed, 1),
            **figures(runs[-1]),
        },
    )
    yield Measurement(
        part="full",
        name=f"GB of all processes of a publish of {images:,} images",
        value=max(run.memory_gb for run in runs),
        unit="gb",
        at_most=MEMORY_BAR_GB,
        figures={},
    )


def measure_incremental(cache: Path, *, images: int, repeats: int) -> Iterator[Measurement]:
    """Change one creator in a hundred at random and publish again."""
    embeddings = archive.make(cache, images)
    if not table_of(cache, images).exists():
        publish(cache, images)
    fixed = start_up(cache, images)
    runs: list[Run] = []
    for _ in range(repeats):
        creators = images // archive.IMAGES_PER_CREATOR
        archive.grow(embeddings, creators=max(1, round(CHANGED * creators)))
        runs.append(publish(cache, images))
    full = publish(cache, images, "--full")
    seconds = statistics.median(run.seconds for run in runs)
    yield Measurement(
        part="incremental",
        name=f"(seconds after {CHANGED:.0%} changed - start-up) / seconds of a full publish",
        value=(seconds - fixed.seconds) / full.seconds,
        at_most=INCREMENTAL_BAR,
        holds=all(run.record["mode"] == "incremental" for run in runs),
        figures={
            "incremental_seconds": spread([run.seconds for run in runs]),
            "ratio_of_whole_processes": round(seconds / full.seconds, 3),
            "start_up": figures(fixed),
            "incremental": figures(runs[-1]),
            "full": figures(full),
        },
    )
