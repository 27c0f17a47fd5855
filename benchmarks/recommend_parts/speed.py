"""How fast brands are ranked for, against a bare loop over the same creators."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.measurement import Measurement, spread
from benchmarks.peak_memory import PeakMemory
from benchmarks.publish_parts import creators as tables
from motif.recommend import contents, interactions
from motif.recommend.scorers import TEMPERATURE

REPOSITORY = Path(__file__).resolve().parents[2]
PAIRS_PER_BRAND, KEPT, BAR = 20, 100, 0.7
LOOP_BRANDS = 1000
BRANDS_AT_ONCE = 50


def make(cache: Path, brands: int, creators: int) -> tuple[str, Path]:
    """Return a table of creators, and interactions with the more popular half of them."""
    table = tables.make(cache, creators).uri
    path = cache / f"interactions-{brands}-{creators}.parquet"
    if not path.exists():
        generator = np.random.default_rng(0)
        known = generator.permutation(creators)[: creators // 2]
        # As likely as 1 / rank.
        ranks = np.exp(generator.random(brands * PAIRS_PER_BRAND) * np.log(len(known))) - 1
        chosen = known[ranks.astype(np.int64)]
        ids = pa.array([tables.creator_id(i) for i in range(creators)])
        names = pa.array([f"brand-{i:07d}" for i in range(brands)])
        rows = {
            "brand_id": names.take(np.repeat(np.arange(brands), PAIRS_PER_BRAND)),
            "creator_id": ids.take(chosen),
        }
        pq.write_table(pa.table(rows), path)
    return table, path


def measure(cache: Path, *, brands: int, creators: int, repeats: int) -> Iterator[Measurement]:
    """Compare ranking and writing, in tasks, with the loop on as many threads."""
    table, pairs = make(cache, brands, creators)
    loops, ranks, wholes, peaks, records = [], [], [], [], []
    for _ in range(repeats):
        loops.append(_loop(table, pairs))
        record, whole, peak = _run(table, pairs, cache / "outputs" / "recommend.lance")
        ranks.append(record["seconds"]["rank"])
        wholes.append(whole)
        peaks.append(peak)
        records.append(record)
    yield Measurement(
        part="speed",
        name="seconds of a bare numpy loop / of ranking and writing",
        value=spread(loops)["median"] / spread(ranks)["median"],
        at_least=BAR,
        figures={
            "counts": records[-1]["counts"],
            "loop_seconds": spread(loops),
            "rank_seconds": spread(ranks),
            "whole_command_seconds": spread(wholes),
            "seconds_by_step": records[-1]["seconds"],
            "peak_gb": spread(peaks),
        },
    )


def _run(table: str, pairs: Path, output: Path) -> tuple[dict[str, Any], float, float]:
    shutil.rmtree(output, ignore_errors=True)
    command = [sys.executable, "-m", "jobs.recommend", "--json", "--interactions", str(pairs)]
    command += ["--table", table, "--output", str(output)]
    own = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    began = time.perf_counter()
    with PeakMemory() as memory:
        done = subprocess.run(
            command,
            cwd=REPOSITORY,
            env={**own, "RAY_AUTH_MODE": "disabled"},
            check=True,
            stdout=subprocess.PIPE,
        )
    return json.loads(done.stdout), time.perf_counter() - began, memory.bytes / 1e9


def _loop(table: str, pairs: Path) -> float:
    """Return what all brands would take at the rate of the first thousand."""
    creators = contents.of_table(table, contents.SAME)
    found = interactions.read(str(pairs), creators.ids)
    candidates = np.ascontiguousarray(creators.vectors[found.cold].T)
    indices, bounds = found.weights.indices, found.weights.indptr
    count = min(LOOP_BRANDS, len(found.brand_ids))
    began = time.perf_counter()
    for start in range(0, count, BRANDS_AT_ONCE):
        stop = min(start + BRANDS_AT_ONCE, count)
        # As anybody would write it: one product for some brands, then brand by brand.
        near = creators.vectors[indices[bounds[start] : bounds[stop]]] @ candidates
        near = np.exp((near - 1) / np.float32(TEMPERATURE))
        for brand in range(start, stop):
            own = slice(bounds[brand] - bounds[start], bounds[brand + 1] - bounds[start])
            scores = np.log(near[own].mean(axis=0))
            top = np.argpartition(-scores, KEPT)[:KEPT]
            top[np.argsort(-scores[top])]
    return (time.perf_counter() - began) * len(found.brand_ids) / count
