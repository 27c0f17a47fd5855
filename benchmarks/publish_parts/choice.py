"""Kinds of vector index and their settings, on the rows that the queries are measured on."""

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import lance
import lancedb
import numpy as np
import pyarrow as pa
from lancedb.index import HnswSq, IvfPq, IvfRq, IvfSq
from lancedb.table import Table

from benchmarks.measurement import Measurement
from benchmarks.publish_parts import creators, queries
from benchmarks.publish_parts.queries import RECALL_BAR, Columns, Timed
from benchmarks.publish_parts.vectors import World
from motif.command import split_names

COLUMNS = ["creator_id", "same", "followers"]
WARM_UP = 30
QUERIES = 200
"""Of each setting; with a filter, half as many."""


def _pq(sub_vectors: int, rows_per_partition: int) -> Callable[[int], Any]:
    return lambda rows: IvfPq(
        distance_type="cosine",
        num_partitions=max(1, rows // rows_per_partition),
        num_sub_vectors=sub_vectors,
    )


def _rq(bits: int, rows_per_partition: int) -> Callable[[int], Any]:
    return lambda rows: IvfRq(
        distance_type="cosine",
        num_partitions=max(1, rows // rows_per_partition),
        num_bits=bits,
    )


def _sq(rows_per_partition: int) -> Callable[[int], Any]:
    return lambda rows: IvfSq(
        distance_type="cosine", num_partitions=max(1, rows // rows_per_partition)
    )


def _hnsw(partitions: int) -> Callable[[int], Any]:
    return lambda rows: HnswSq(
        distance_type="cosine", num_partitions=partitions, ef_construction=150
    )


KINDS: dict[str, Callable[[int], Any]] = {
    "pq16/4096": _pq(16, 4096),
    "pq32/4096": _pq(32, 4096),
    "pq64/4096": _pq(64, 4096),
    "pq32/1024": _pq(32, 1024),
    "rq1/4096": _rq(1, 4096),
    "rq1/1024": _rq(1, 1024),
    "rq4/4096": _rq(4, 4096),
    "sq/4096": _sq(4096),
    "sq/1024": _sq(1024),
    "hnsw-sq/1": _hnsw(1),
}
"""Name and rows per partition; for HNSW, partitions."""

IVF_SETTINGS = [(probes, refine) for probes in (5, 10, 20) for refine in (1, 3, 10, 50)]
HNSW_SETTINGS = [(ef, refine) for ef in (50, 100, 200) for refine in (1, 2)]


def measure(cache: Path, *, rows: int, asked: int, only: str) -> Iterator[Measurement]:
    """Build each kind on a copy of a few columns; try its settings, with and without a filter."""
    columns = Columns.read(creators.make(cache, rows).uri)
    table = _copy(cache, rows)
    generator = np.random.default_rng(8)
    seeds = World.of(creators.SEED).creators(min(asked, QUERIES), generator)
    followers = columns.table["followers"].to_numpy()
    least = int(np.quantile(followers, 0.99))
    truth = columns.nearest(seeds)
    some = seeds[: len(seeds) // 2]
    filtered = columns.nearest(some, keep=followers >= least)
    del columns
    where = f"followers >= {least}"
    for name in split_names(only):
        began = time.perf_counter()
        table.create_index("same", config=KINDS[name](rows), replace=True)
        built = time.perf_counter() - began
        size = _index_bytes(cache, rows)
        hnsw = name.startswith("hnsw")
        found = []
        for setting in HNSW_SETTINGS if hnsw else IVF_SETTINGS:
            told = dict(zip(("ef" if hnsw else "nprobes", "refine_factor"), setting, strict=True))
            found.append(
                {
                    **told,
                    **_told("", _ask(table, list(seeds), told), truth),
                    **_told("filtered_", _ask(table, list(some), told, where), filtered),
                }
            )
        enough = [one["p50_ms"] for one in found if one["recall"] >= RECALL_BAR]
        yield Measurement(
            part="choice",
            name=f"{name}: least p50 of a query at recall@10 >= {RECALL_BAR}",
            value=min(enough, default=float("inf")),
            unit="ms",
            figures={"build_seconds": round(built, 1), "index_mb": size, "settings": found},
        )


def _copy(cache: Path, rows: int) -> Table:
    folder = cache / f"choice-{rows}-v1"
    name = "choice"
    if not (folder / "done").exists():
        shutil.rmtree(folder, ignore_errors=True)
        version = lance.dataset(creators.make(cache, rows).uri).checkout_version("live")
        lance.write_dataset(version.scanner(columns=COLUMNS).to_reader(), folder / f"{name}.lance")
        (folder / "done").touch()
    return lancedb.connect(str(folder)).open_table(name)


def _index_bytes(cache: Path, rows: int) -> int:
    """Return the megabytes of the newest index."""
    folders = (cache / f"choice-{rows}-v1" / "choice.lance" / "_indices").iterdir()
    newest = max(folders, key=lambda folder: folder.stat().st_mtime)
    return round(sum(file.stat().st_size for file in newest.rglob("*")) / 1e6)


def _ask(table: Table, seeds: Sequence[Any], told: dict[str, int], where: str = "") -> Timed:
    def ask(seed: np.ndarray) -> pa.Table:
        query: Any = table.search(seed, vector_column_name="same").distance_type("cosine")
        query = query.limit(queries.K).select(["creator_id", "_distance"])
        if "ef" in told:
            query = query.ef(told["ef"])
        else:
            query = query.minimum_nprobes(told["nprobes"]).maximum_nprobes(told["nprobes"])
        query = query.refine_factor(told["refine_factor"])
        return (query.where(where) if where else query).to_arrow()

    return queries.time_each(ask, seeds, warm_up=WARM_UP)


def _told(prefix: str, timed: Timed, truth: Sequence[set[str]]) -> dict[str, float]:
    return {
        f"{prefix}p50_ms": round(timed.p50, 2),
        f"{prefix}p99_ms": round(timed.p99, 2),
        f"{prefix}recall": round(timed.recall(truth), 4),
    }
