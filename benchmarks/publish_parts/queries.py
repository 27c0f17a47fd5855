"""Queries of a million creators through CreatorTable: milliseconds, and recall against numpy."""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lance
import numpy as np
import pyarrow as pa

from benchmarks.measurement import Measurement
from benchmarks.publish_parts import creators
from benchmarks.publish_parts.vectors import DIM, World
from motif import schemas
from motif.table import CreatorTable

K = 10
WARM_UP = 50
RECALL_BAR = 0.95
SEEDS_AT_ONCE = 100


@dataclass(frozen=True)
class Columns:
    """What the right answers are computed from, in memory."""

    ids: np.ndarray
    same: np.ndarray
    table: pa.Table
    """Columns of one value a row."""

    @classmethod
    def read(cls, uri: str) -> "Columns":
        """Read them."""
        version = lance.dataset(uri).checkout_version("live")
        plain = [
            field.name
            for field in version.schema
            if not pa.types.is_nested(field.type) and field.name != "creator_id"
        ]
        ids = version.to_table(columns=["creator_id"])["creator_id"]
        same = np.empty((len(ids), DIM), np.float32)
        done = 0
        for batch in version.scanner(columns=["same"], batch_size=65_536).to_batches():
            part = schemas.matrix(pa.Table.from_batches([batch])["same"])
            same[done : done + len(part)] = part
            done += len(part)
        return cls(ids.to_numpy(), same, version.to_table(columns=plain))

    def nearest(
        self,
        seeds: np.ndarray,
        *,
        keep: np.ndarray | None = None,
        left_out: np.ndarray | None = None,
        correct_hubs: bool = False,
    ) -> list[set[str]]:
        """Return the ids of each seed's K best, by all rows.

        Args:
            seeds: Unit rows.
            keep: Rows that meet a filter.
            left_out: A row for each seed that is not in its answer.
            correct_hubs: By 2 cosine - hubness.
        """
        rows = np.arange(len(self.ids)) if keep is None else np.flatnonzero(keep)
        same = self.same if keep is None else self.same[rows]
        terms = self.table["hubness"].to_numpy()[rows] if correct_hubs else None
        found = []
        for start in range(0, len(seeds), SEEDS_AT_ONCE):
            scores = seeds[start : start + SEEDS_AT_ONCE] @ same.T
            if terms is not None:
                scores = 2 * scores - terms
            for i, row in enumerate(scores):
                if left_out is not None:
                    row[rows == left_out[start + i]] = -np.inf
                best = np.argpartition(-row, K - 1)[:K]
                found.append(set(self.ids[rows[best]]))
        return found


@dataclass(frozen=True)
class Timed:
    """Some queries of one kind."""

    milliseconds: list[float]
    answers: list[pa.Table]

    @property
    def p50(self) -> float:
        """Median."""
        return statistics.median(self.milliseconds)

    @property
    def p99(self) -> float:
        """99th percentile."""
        return float(np.percentile(self.milliseconds, 99))

    def recall(self, truth: Sequence[set[str]]) -> float:
        """Return the share of the right creators that the answers have, over all queries."""
        hits = [
            len(right & set(answer["creator_id"].to_pylist()))
            for right, answer in zip(truth, self.answers, strict=True)
        ]
        return sum(hits) / sum(len(right) for right in truth)


def time_each(ask: Callable[[Any], pa.Table], seeds: Sequence[Any], *, warm_up: int) -> Timed:
    """Ask for each seed, one after the other; the first ones again before the clock runs."""
    for seed in seeds[:warm_up]:
        ask(seed)
    milliseconds, answers = [], []
    for seed in seeds:
        began = time.perf_counter()
        answers.append(ask(seed))
        milliseconds.append(1e3 * (time.perf_counter() - began))
    return Timed(milliseconds, answers)


def judge(
    name: str,
    timed: Timed,
    *,
    p50: float | None = None,
    p99: float | None = None,
    truth: Sequence[set[str]] | None = None,
    **figures: Any,
) -> Iterator[Measurement]:
    """Yield the median with its bar, and the 99th percentile where that has one too."""
    recall = timed.recall(truth) if truth is not None else None
    shown = {
        "p50_ms": round(timed.p50, 2),
        "p99_ms": round(timed.p99, 2),
        "mean_ms": round(statistics.mean(timed.milliseconds), 2),
        "queries": len(timed.milliseconds),
        **({"recall_at_10": round(recall, 4)} if recall is not None else {}),
        **figures,
    }
    holds = recall is None or recall >= RECALL_BAR
    for quantile, value, bar in (("p50", timed.p50, p50), ("p99", timed.p99, p99)):
        if bar is not None or quantile == "p50":
            yield Measurement(
                part="query",
                name=f"{name}: {quantile}",
                value=value,
                unit="ms",
                at_most=bar,
                holds=holds,
                figures=shown,
            )


def measure(cache: Path, *, rows: int, queries: int) -> Iterator[Measurement]:
    """Measure each kind of query."""
    made = creators.make(cache, rows)
    columns = Columns.read(made.uri)
    table = CreatorTable.open(made.uri)
    generator = np.random.default_rng(7)
    world = World.of(creators.SEED)
    places = generator.choice(rows, queries, replace=False)
    ids = columns.ids[places].tolist()
    fresh = world.creators(queries, generator)
    few = world.creators(queries, generator, images=5)

    def plain(seed: Any, **options: Any) -> pa.Table:
        return table.lookalikes(seed, K, **{"correct_hubs": False, **options})

    def timed(seeds: Sequence[Any], **options: Any) -> Timed:
        return time_each(lambda seed: plain(seed, **options), seeds, warm_up=WARM_UP)

    truth = columns.nearest(fresh)
    yield from judge(
        *("nearest to a vector", timed(list(fresh))), p50=10, p99=40, truth=truth, made=made.seconds
    )
    yield from judge(
        "nearest to a vector of 5 images", timed(list(few)), truth=columns.nearest(few)
    )
    own = columns.same[places]
    yield from judge(
        *("nearest to a creator, its row fetched", timed(ids)),
        p50=10,
        p99=40,
        truth=columns.nearest(own, left_out=places),
    )
    yield from judge(
        "nearest to a creator, hubs corrected",
        timed(ids, correct_hubs=True),
        truth=columns.nearest(own, left_out=places, correct_hubs=True),
    )
    for name, terms, keep in filters(columns):
        yield from judge(
            f"nearest to a vector, {name}",
            timed(list(fresh), where=terms),
            p50=20,
            truth=columns.nearest(fresh, keep=keep),
            kept=round(float(keep.mean()), 5),
            where=terms,
        )
    words = [creators.ADJECTIVES[i % len(creators.ADJECTIVES)] for i in range(queries)]
    ranked = time_each(lambda word: table.rank(word, K), words, warm_up=WARM_UP // 2)
    yield from judge("rank by a column", ranked, p50=20, truth=_highest(columns, words))
    exact = time_each(lambda seed: plain(seed, exact=True), list(fresh[:20]), warm_up=3)
    yield from judge("nearest to a vector, exact", exact, truth=truth[:20])


def filters(columns: Columns) -> Iterator[tuple[str, list[str], np.ndarray]]:
    """Yield filters that keep about 1 %: name, terms, the rows that meet them."""
    followers = columns.table["followers"].to_numpy()
    least = int(np.quantile(followers, 0.99))
    yield "1 % by a number", [f"followers>={least}"], followers >= least
    country = columns.table["country"].to_numpy()
    names, counts = np.unique(country, return_counts=True)
    rare = str(names[np.argmin(np.abs(counts / len(country) - 0.01))])
    yield "1 % by a text", [f"country={rare}"], country == rare
    percentile = columns.table["oaar_vivid_pct"].to_numpy()
    yield "1 % by a percentile", ["oaar_vivid_pct>=99"], percentile >= 99


def _highest(columns: Columns, words: Sequence[str]) -> list[set[str]]:
    best = {}
    for word in dict.fromkeys(words):
        scores = columns.table[schemas.oaar_column(word)].to_numpy()
        best[word] = set(columns.ids[np.argpartition(-scores, K)[:K]])
    return [best[word] for word in words]
