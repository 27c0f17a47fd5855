"""How fast brands are ranked for, against a bare loop over the same creators."""

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks import whole_command
from benchmarks.measurement import Measurement, spread
from benchmarks.publish_parts import creators as tables
from benchmarks.whole_command import Run
from motif.recommend import contents, interactions
from motif.recommend.scorers import TEMPERATURE

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
    loops: list[float] = []
    runs: list[Run] = []
    for _ in range(repeats):
        loops.append(_loop(table, pairs))
        runs.append(_run(table, pairs, cache / "outputs" / "recommend.lance"))
    ranks = [run.record["seconds"]["rank"] for run in runs]
    yield Measurement(
        part="speed",
        name="seconds of a bare numpy loop / of ranking and writing",
        value=spread(loops)["median"] / spread(ranks)["median"],
        at_least=BAR,
        figures={
            "counts": runs[-1].record["counts"],
            "loop_seconds": spread(loops),
            "rank_seconds": spread(ranks),
            "whole_command_seconds": spread([run.seconds for run in runs]),
            "seconds_by_step": runs[-1].record["seconds"],
            "peak_gb": spread([run.memory_gb for run in runs]),
        },
    )


def _run(table: str, pairs: Path, output: Path) -> Run:
    shutil.rmtree(output, ignore_errors=True)
    flags = ("--interactions", str(pairs), "--table", table, "--output", str(output))
    return whole_command.run("jobs.recommend", *flags)


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
