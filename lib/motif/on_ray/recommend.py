"""Recommendations: brands in tasks, their rows as Lance fragments, one commit.

A task takes some brands and all creators, block by block; what it holds does not grow with either.
"""

import json
import logging
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import lance
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray
import torch
from jaxtyping import Float, Int
from lance.fragment import write_fragments
from scipy.sparse import csr_array

from motif import schemas, storage
from motif.errors import ChecksFailed
from motif.on_ray import session, tasks
from motif.publishing import commit
from motif.recommend import bpr, cb2cf, scorers
from motif.recommend.bpr import BprSettings, Collaborative
from motif.recommend.cb2cf import NetworkSettings
from motif.recommend.scorers import Products, SameForAll, Scorer
from motif.table.layout import LIVE, METADATA_KEY, RECOMMENDATIONS, TableUri

log = logging.getLogger("motif.recommend")

STALL_SECONDS = 3600.0
TELL_SECONDS = 5.0
# A block of scores of so many brands takes 8 MB; of the creators of so many pairs, 256 MB.
BRANDS_AT_ONCE, PAIRS_AT_ONCE = 512, 16_384
BRANDS_PER_TASK, CREATORS_PER_TASK = 2048, 20_000
BECAUSE = 3
KNN, CB2CF, POPULAR = "knn", "cb2cf", "popular"


@dataclass(frozen=True, kw_only=True)
class Work:
    """What all tasks share."""

    table: TableUri
    brand_ids: pa.Array
    creator_ids: pa.Array
    content: Float[np.ndarray, "creators dim"]
    """Unit rows."""
    history: csr_array
    candidates: Int[np.ndarray, " candidates"]
    leave_out_known: bool
    """Whether candidates may be creators whom the brand has worked with."""
    k: int
    method: str
    popular: Float[np.ndarray, " creators"]
    """Of a method that needs a creator of the brand's, what takes its place without one."""
    products: (
        tuple[Float[np.ndarray, "brands factors"], Float[np.ndarray, "creators factors"]] | None
    )
    neighbours: int
    temperature: float

    @property
    def planned_rows(self) -> int:
        """Rows that the table is to have."""
        counts = np.full(len(self.brand_ids), len(self.candidates))
        if self.leave_out_known:
            counts -= np.diff(self.history.indptr)
        return int(np.minimum(counts, self.k).sum())

    def scorer(self) -> Scorer:
        """Return what ranks for brands with a history."""
        if self.method == KNN:
            return scorers.Nearest(
                _writable(self.content),
                self.history,
                neighbours=self.neighbours,
                temperature=self.temperature,
            )
        if self.products is not None:
            brands, creators = (torch.from_numpy(_writable(part)) for part in self.products)
            return Products(brands, creators)
        return self.by_popularity()

    def by_popularity(self) -> SameForAll:
        """Return what ranks for the others."""
        return SameForAll(torch.from_numpy(_writable(self.popular)))


def _writable(array: np.ndarray) -> np.ndarray:
    """Return an array as torch takes it: what Ray shares may be read alone, and torch warns."""
    warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
    return array


class _Passes:
    """Actor: how far the learning of collaborative vectors is."""

    def __init__(self) -> None:
        self.done = 0

    def tell(self, done: int) -> None:
        self.done = done

    def told(self) -> int:
        return self.done


def fit_collaborative(history: csr_array, settings: BprSettings) -> Collaborative:
    """Learn collaborative vectors on all cores of the largest node; log how far it is."""
    cpus = max(1, int(max(n["Resources"].get("CPU", 0) for n in ray.nodes() if n["Alive"])))
    passes: Any = ray.remote(num_cpus=0)(_Passes).remote()  # type: ignore[call-overload]
    remote: Any = ray.remote(num_cpus=cpus)(_fit)  # type: ignore[call-overload]
    answer, last = remote.remote(history, settings, passes), 0
    while not ray.wait([answer], timeout=TELL_SECONDS)[0]:
        done: Any = ray.get(passes.told.remote())
        if done > last:
            log.info("%d of %d passes on %d CPUs", done, settings.iterations, cpus)
            last = done
    with session.refusals():
        return ray.get(answer)


def _fit(history: csr_array, settings: BprSettings, passes: Any) -> Collaborative:
    return bpr.fit(history, settings, lambda done: passes.tell.remote(done))


def predict(
    content: np.ndarray,
    collaborative: Collaborative,
    known: np.ndarray,
    settings: NetworkSettings,
) -> tuple[np.ndarray, np.ndarray]:
    """Learn the network in a task; return brands' and creators' vectors."""
    remote: Any = ray.remote(num_cpus=1)(_predict)  # type: ignore[call-overload]
    with session.refusals():
        return ray.get(remote.remote(content, collaborative, known, settings))


def _predict(
    content: np.ndarray, collaborative: Collaborative, known: np.ndarray, settings: NetworkSettings
) -> tuple[np.ndarray, np.ndarray]:
    torch.set_num_threads(session.cpus_of_this_node())
    found = cb2cf.predict(_writable(content), collaborative, known, settings)
    return found.brands.numpy(), found.creators.numpy()


def popularity(
    content: np.ndarray, history: csr_array, creators: Int[np.ndarray, " creators"]
) -> Float[np.ndarray, " all_creators"]:
    """Return how popular some creators are expected to be, in tasks; zero for all others."""
    shared = (ray.put(content), ray.put(history))
    blocks = np.array_split(creators, max(1, len(creators) // CREATORS_PER_TASK))
    calls = ((*shared, block) for block in blocks)
    found = np.zeros(len(content), np.float32)
    for block, told in tasks.each(
        _popularity, calls, what="guessing popularity", stall_seconds=STALL_SECONDS
    ):
        found[block] = told
    return found


def _popularity(
    content: np.ndarray, history: csr_array, creators: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    return creators, scorers.popularity(_writable(content), history, creators)


def write_all(work: Work, check: Callable[[], None]) -> list[str]:
    """Rank for all brands; return the fragments that hold the rows."""
    shared = ray.put(work)
    starts = range(0, len(work.brand_ids), BRANDS_PER_TASK)
    calls = ((shared, start, start + BRANDS_PER_TASK) for start in starts)
    written: list[str] = []
    answers = tasks.each(
        write_some, calls, what="ranking", stall_seconds=STALL_SECONDS, between=check
    )
    for done, fragments in enumerate(answers, 1):
        written += fragments
        if done % max(1, len(starts) // 10) == 0:
            log.info("%d of %d blocks of brands", done, len(starts))
    return written


def write_some(work: Work, start: int, stop: int) -> list[str]:
    """Rank for some brands; return the fragments that hold their rows."""
    brands = np.arange(start, min(stop, len(work.brand_ids)))
    parts = [
        _rows_of(work, scorer, method, some) for scorer, method, some in _shared_out(work, brands)
    ]
    rows = pa.concat_tables(parts) if parts else schemas.RECOMMENDATIONS.empty_table()
    if not rows.num_rows:
        return []
    fragments = write_fragments(
        rows.sort_by([("brand_id", "ascending"), ("rank", "ascending")]),
        work.table.uri,
        schema=schemas.RECOMMENDATIONS,
        mode="overwrite",
        storage_options=storage.lance_options(work.table.uri),
    )
    return [json.dumps(fragment.to_json()) for fragment in fragments]


def _shared_out(work: Work, brands: np.ndarray) -> Iterator[tuple[Scorer, str, np.ndarray]]:
    """Yield blocks of brands, with what ranks for them and its name."""
    pairs = np.diff(work.history.indptr)[brands]
    without = brands[pairs == 0]
    if len(without):
        yield work.by_popularity(), POPULAR, without
    scorer = work.scorer()
    with_some, pairs = brands[pairs > 0], pairs[pairs > 0]
    start = 0
    while start < len(with_some):
        room = int(np.searchsorted(np.cumsum(pairs[start:]), PAIRS_AT_ONCE, side="right"))
        stop = start + min(max(room, 1), BRANDS_AT_ONCE)
        yield scorer, work.method, with_some[start:stop]
        start = stop


def _rows_of(work: Work, scorer: Scorer, method: str, brands: np.ndarray) -> pa.Table:
    chosen, scores = scorers.best(
        scorer,
        brands,
        work.candidates,
        work.k,
        left_out=work.history if work.leave_out_known else None,
    )
    there = np.isfinite(scores)
    counts, creators = there.sum(axis=1), chosen[there]
    nearest: list[np.ndarray] = [np.zeros(0, np.int64)] * len(creators)
    if method != POPULAR:
        nearest = [
            row
            for brand, own in zip(brands, np.split(creators, np.cumsum(counts)[:-1]), strict=True)
            for row in scorers.because(work.content, work.history, brand, own, BECAUSE)
        ]
    bounds = np.concatenate([[0], np.cumsum([len(row) for row in nearest])])
    flat = np.concatenate([np.zeros(0, np.int64), *nearest])
    return pa.table(
        {
            "brand_id": work.brand_ids.take(pa.array(np.repeat(brands, counts))),
            "creator_id": work.creator_ids.take(pa.array(creators)),
            "rank": pa.array(np.concatenate([np.arange(n) + 1 for n in counts]), pa.int32()),
            "score": pa.array(scores[there], pa.float32()),
            "method": pa.array([method] * len(creators), pa.string()),
            "because": pa.ListArray.from_arrays(
                pa.array(bounds, pa.int32()), work.creator_ids.take(pa.array(flat))
            ),
        },
        schema=schemas.RECOMMENDATIONS,
    )


def make_version(work: Work, fragments: list[str], record: dict[str, Any]) -> lance.LanceDataset:
    """Commit the fragments as one version, index and check it; readers do not see it yet.

    Raises:
        ContractError: The fragments do not hold the rows that were planned.
        OutputError: Somebody else committed without taking the lock.
        ChecksFailed: A brand has a creator twice, or a score is none.
    """
    metadata = {METADATA_KEY: json.dumps({"artefact": RECOMMENDATIONS, **record})}
    schema = schemas.RECOMMENDATIONS.with_metadata(metadata)
    commit.overwrite(work.table, schema, fragments, planned=work.planned_rows)
    options = storage.lance_options(work.table.uri)
    dataset = lance.dataset(work.table.uri, storage_options=options)
    if dataset.count_rows():
        dataset.create_scalar_index("brand_id", "BTREE")
    version = commit.require_still_ours(work.table, record["run_id"], RECOMMENDATIONS)
    check(version, work.planned_rows)
    return version


def check(version: lance.LanceDataset, planned: int) -> None:
    """Refuse a version that is not what was planned.

    Raises:
        ChecksFailed: Says what is wrong.
    """
    if (rows := version.count_rows()) != planned:
        raise ChecksFailed(f"{version.uri}: {rows:,} rows, planned {planned:,}; `{LIVE}` stays")
    for batch in version.scanner(columns=["brand_id", "creator_id", "score"]).to_batches():
        if not pc.all(pc.is_finite(batch["score"])).as_py():
            raise ChecksFailed(f"{version.uri}: a score is not finite; `{LIVE}` stays")
        pairs = pa.table({name: batch[name] for name in ("brand_id", "creator_id")})
        if pairs.group_by(["brand_id", "creator_id"]).aggregate([]).num_rows < pairs.num_rows:
            raise ChecksFailed(f"{version.uri}: a brand has a creator twice; `{LIVE}` stays")
