"""What a version must pass before `live` moves to it."""

from dataclasses import asdict, dataclass
from typing import Any

import lance
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool, Float

from motif import metrics, schemas

DRIFT_SAMPLE = 10_000
# Arithmetic may differ by machine and batch; images, model and population are the same.
MIN_COSINE_UNCHANGED = 0.999
MIN_HALVES = 20
LOOK_AT = 20


@dataclass(frozen=True, kw_only=True)
class Check:
    """One check of a version."""

    name: str
    passed: bool
    told: str
    figures: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Return what the publish's record says."""
        return asdict(self)


def rows_and_ids(version: lance.LanceDataset, planned: int) -> Check:
    """Check that each planned creator is there once."""
    ids = version.to_table(columns=["creator_id"])["creator_id"]
    unique = pc.count_distinct(ids).as_py()
    return Check(
        name="rows",
        passed=len(ids) == unique == planned,
        told=f"{len(ids):,} rows of {unique:,} creators, planned {planned:,}",
        figures={"rows": len(ids), "creators": unique, "planned": planned},
    )


def vectors(version: lance.LanceDataset, fragments: list[Any]) -> Check:
    """Check that vectors are finite, and `same` of unit length, in fragments that are new."""
    bad = 0
    first: str | None = None
    rows = 0
    scanner = version.scanner(
        columns=["creator_id", "same", "mean_embedding"], fragments=fragments, batch_size=8192
    )
    for batch in scanner.to_batches() if fragments else ():
        table = pa.Table.from_batches([batch])
        same, mean = schemas.matrix(table["same"]), schemas.matrix(table["mean_embedding"])
        wrong = ~(np.abs(np.linalg.norm(same, axis=1) - 1) < 1e-3) | ~np.isfinite(mean).all(axis=1)
        rows += len(wrong)
        if wrong.any() and first is None:
            first = table["creator_id"][int(np.argmax(wrong))].as_py()
        bad += int(wrong.sum())
    named = f" (first: {first!r:.80})" if first is not None else ""
    return Check(
        name="vectors",
        passed=not bad,
        told=f"{bad:,} of {rows:,} new vectors are not finite or not of unit length{named}",
        figures={"new_rows": rows, "bad": bad},
    )


def indices(version: lance.LanceDataset) -> Check:
    """Check that no index lacks rows."""
    lacking = {}
    for index in version.describe_indices():
        statistics = version.stats.index_stats(index.name)
        if missing := statistics.get("num_unindexed_rows", 0):
            lacking[index.name] = missing
    return Check(
        name="indices",
        passed=not lacking,
        told=f"rows that an index lacks: {lacking or 'none'}",
        figures={"unindexed": lacking},
    )


def queries(version: lance.LanceDataset, ids: list[str]) -> Check:
    """Check that searches find creators at their own vectors, each once (lance#7370)."""
    wrong: list[str] = []
    chosen = ids[:: max(1, len(ids) // LOOK_AT)][:LOOK_AT]
    rows = version.to_table(
        columns=["creator_id", "same"],
        filter=pc.field("creator_id").isin(chosen) if chosen else None,
        limit=None if chosen else 0,
    )
    same = schemas.matrix(rows["same"])
    for creator, vector in zip(rows["creator_id"].to_pylist(), same, strict=True):
        found = version.to_table(
            columns=["creator_id", "_distance"],
            nearest={
                "column": "same",
                "q": vector,
                "k": 10,
                "metric": "cosine",
                "refine_factor": 4,
                "minimum_nprobes": 20,
            },
        )["creator_id"].to_pylist()
        if creator not in found or len(set(found)) < len(found):
            wrong.append(creator)
    told = f"{len(wrong)} of {rows.num_rows} creators are not found at their own vector, or twice"
    # An approximate index may miss one; equal vectors may hide one behind ten others.
    return Check(
        name="queries",
        passed=len(wrong) <= max(1, rows.num_rows // 10) and rows.num_rows == len(chosen),
        told=told,
        figures={"asked": rows.num_rows, "wrong": len(wrong)},
    )


def quality(new: pa.Table, live: pa.Table | None, *, tolerance: float) -> Check:
    """Check that held-out creators' twins are found as often as in the live version.

    Both versions answer for the creators that both hold out, each in its own space, so that the
    difference is paired.

    Args:
        new: `motif.publishing.rows.halves_schema`.
        live: The same of the live version, if there is one.
        tolerance: How much the hit rate at 1 may fall, beyond twice the standard error of the
            difference.
    """
    own = _hits(new)
    figures: dict[str, Any] = {"creators": len(own), "hit_rate": _mean(own)}
    if live is None:
        return _quality("no live version to compare with", figures, passed=True)
    known = live["creator_id"].combine_chunks()
    both = pc.unique(new["creator_id"].filter(pc.is_in(new["creator_id"], known)))
    if len(both) < MIN_HALVES:
        told = f"{len(both)} held-out creators are in both versions, {MIN_HALVES} are needed"
        return _quality(told, {**figures, "compared": len(both)}, passed=True)
    hits = [
        _hits(halves.filter(pc.is_in(halves["creator_id"], both))).astype(float)
        for halves in (new, live)
    ]
    difference = hits[0] - hits[1]
    error = float(difference.std(ddof=1) / np.sqrt(len(difference)))
    figures |= {
        "compared": len(both),
        "hit_rate_compared": _mean(hits[0]),
        "hit_rate_live": _mean(hits[1]),
        "difference": _mean(difference),
        "standard_error": error,
        "tolerance": tolerance,
    }
    told = (
        f"hit rate at 1 of {len(both)} held-out creators {_mean(hits[0]):.3f}, live"
        f" {_mean(hits[1]):.3f} (difference {_mean(difference):+.3f}, standard error {error:.3f},"
        f" tolerated -{tolerance:g})"
    )
    return _quality(told, figures, passed=bool(difference.mean() >= -max(tolerance, 2 * error)))


def drift(new: pa.Table, live: pa.Table) -> Check:
    """Check, within one space, that creators whose images are the same have the same vectors.

    Args:
        new: `creator_id`, `images_digest`, `same` of some rows.
        live: The same creators' of the live version.
    """
    place = {creator: i for i, creator in enumerate(live["creator_id"].to_pylist())}
    digests = live["images_digest"].to_pylist()
    pairs = [
        (i, place[creator])
        for i, (creator, digest) in enumerate(
            zip(new["creator_id"].to_pylist(), new["images_digest"].to_pylist(), strict=True)
        )
        if creator in place and digests[place[creator]] == digest
    ]
    if not pairs:
        return Check(
            name="drift",
            passed=True,
            told="no creator's images are the same",
            figures={"compared": 0},
        )
    mine, theirs = (np.array(side) for side in zip(*pairs, strict=True))
    cosine = (schemas.matrix(new["same"])[mine] * schemas.matrix(live["same"])[theirs]).sum(axis=1)
    return Check(
        name="drift",
        passed=bool(cosine.min() >= MIN_COSINE_UNCHANGED),
        told=(
            f"{len(pairs):,} creators with the same images: lowest cosine to their live vectors"
            f" {cosine.min():.6f}, at least {MIN_COSINE_UNCHANGED} is expected"
        ),
        figures={"compared": len(pairs), "lowest_cosine": float(cosine.min())},
    )


def _quality(told: str, figures: dict[str, Any], *, passed: bool) -> Check:
    return Check(name="quality", passed=passed, told=told, figures=figures)


def _hits(halves: pa.Table) -> Bool[np.ndarray, " creators"]:
    """Return for each creator, in the order of ids, whether its twin is the first with CSLS."""
    if not halves.num_rows:
        return np.zeros(0, bool)
    halves = halves.sort_by("creator_id")
    first, second = (schemas.matrix(halves[name]) for name in ("first", "second"))
    return metrics.twin_ranks(metrics.csls(first @ second.T)) <= 1


def _mean(values: Float[np.ndarray, " creators"] | Bool[np.ndarray, " creators"]) -> float:
    return float(values.mean()) if len(values) else 0.0
