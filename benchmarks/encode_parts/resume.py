"""Going on after a kill at 90 %, and what bookkeeping costs.

Start-up is the whole command over one image (Ray's start, imports, loading the encoder twice, one
task of each kind). Resuming is judged by (seconds of the second command - start-up) / (seconds of
a command that nobody killed - start-up).

Bookkeeping is what does not fetch, decode or encode: the steps `plan`, `settle` and `reposts`, less
the same steps over one image, plus the writers' busy seconds shared by the cores. It is judged
against the step `encode` without `stages.startup_seconds`.
"""

import contextlib
import shutil
import statistics
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.encode_parts import encoders, pictures, processes
from benchmarks.encode_parts.job import Finished, Job, encode_images
from benchmarks.measurement import Measurement, spread
from motif.artefacts import staging

BAR, BOOKKEEPING_BAR = 0.2, 0.05
KILL_AT = 0.9
LOOK_SECONDS = 0.1
STEPS = ("plan", "settle", "reposts")


def measure(
    cache: Path, *, images: int, small_images: int, names: Sequence[str], repeats: int
) -> Iterator[Measurement]:
    """Measure each encoder over JPEGs of 1,080 px, the stub over small ones: its worst case."""
    for name in names:
        is_stub = name == encoders.STUB
        draw = pictures.small if is_stub else pictures.photographs
        files = draw(cache, small_images if is_stub else images)
        yield from _measure_one(cache, name, files, repeats)


def _measure_one(
    cache: Path, name: str, files: Sequence[Path], repeats: int
) -> Iterator[Measurement]:
    flag = encoders.flag(name, cache)
    manifest = pictures.write_manifest(cache / f"resume-{len(files)}.parquet", files)
    one_image = pictures.write_manifest(cache / "resume-1.parquet", files[:1])
    output = cache / "outputs" / "resume"
    seconds: dict[str, list[float]] = {"start_up": [], "full": [], "resume": []}
    bookkeeping: list[dict[str, float]] = []
    kills: list[dict[str, Any]] = []
    for _ in range(repeats):
        least = encode_images(one_image, output, flag)
        full = encode_images(manifest, output, flag)
        kept = _kill_at(KILL_AT, manifest, output, flag, len(files))
        resumed = encode_images(manifest, output, flag, anew=False)
        for key, run in (("start_up", least), ("full", full), ("resume", resumed)):
            seconds[key].append(run.seconds)
        used = resumed.record["manifest"]["encoded_by_a_run_cut_off"]
        whole = resumed.record["counts"]["embedded"] == len(files)
        kills.append({"staged": kept, "not_encoded_again": used, "whole": whole})
        bookkeeping.append(_bookkeeping(full, least))
    median = {key: statistics.median(values) for key, values in seconds.items()}
    yield Measurement(
        part="resume",
        name=f"{name}: resumed / full, start-up apart, {len(files):,} images",
        value=(median["resume"] - median["start_up"]) / (median["full"] - median["start_up"]),
        at_most=BAR,
        holds=all(kill["whole"] for kill in kills),
        figures={
            "seconds": {key: spread(values) for key, values in seconds.items()},
            "kills": kills,
        },
    )
    yield Measurement(
        part="resume",
        name=f"{name}: bookkeeping / encoding, {len(files):,} images",
        value=statistics.median(one["fraction"] for one in bookkeeping),
        at_most=BOOKKEEPING_BAR,
        figures={key: spread([one[key] for one in bookkeeping]) for key in bookkeeping[0]},
    )


def _bookkeeping(full: Finished, least: Finished) -> dict[str, float]:
    took: dict[str, float] = full.record["seconds"]
    stages: dict[str, Any] = full.record["stages"]
    steps = sum(took[step] for step in STEPS)
    fixed = sum(least.record["seconds"][step] for step in STEPS)
    writing = stages["stages"]["write"]["busy_seconds"] / processes.cores()
    encoding = took["encode"] - stages["startup_seconds"]
    return {
        **{f"{step}_seconds": took[step] for step in STEPS},
        "steps_over_one_image_seconds": fixed,
        "write_seconds_by_cores": writing,
        "encode_seconds_without_startup": encoding,
        "fraction": (max(steps - fixed, 0) + writing) / encoding,
        "fraction_with_what_one_image_takes": (steps + writing) / encoding,
    }


def _kill_at(fraction: float, manifest: Path, output: Path, flag: str, images: int) -> int:
    """Start anew and SIGKILL all processes once so much is staged; return the staged rows."""
    shutil.rmtree(output, ignore_errors=True)
    footers: dict[Path, int] = {}
    with Job(manifest, output, flag) as job:
        while _staged_rows(output, footers) < fraction * images:
            if not job.running:
                raise RuntimeError(f"the run over {images} images ended before it was killed")
            time.sleep(LOOK_SECONDS)
        job.kill()
    return _staged_rows(output, footers)


def _staged_rows(output: Path, footers: dict[Path, int]) -> int:
    """Count what is staged; a footer is read once."""
    for path in output.glob(f"{staging.FOLDER}/*/bucket-*/embeddings-*.parquet"):
        if path not in footers:
            with contextlib.suppress(OSError, pa.ArrowInvalid):
                footers[path] = pq.read_metadata(path).num_rows
    return sum(footers.values())
