"""The rows of a table that are nearest to a vector, by cosine, with or without hubs corrected.

Hubs are creators that are near to everybody. Cross-domain similarity local scaling (CSLS; Conneau
et al. 2018, arXiv:1710.04087, section 2.3) takes from twice the cosine how near each of the two is
to its own neighbours: 2 cos(q, x) - r(q) - r(x). r(x) is the column `hubness`; r(q) is the same for
all rows of an answer, so it is left out.
"""

from collections.abc import Collection, Sequence
from typing import Any

import lance
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from motif.table.filters import Filter

HUBNESS = "hubness"

# Chosen by benchmarks.query on a million creators, for the recall at 10 that it names. Partitions
# that a search through a vector index looks into, at first:
NPROBES = 12
# What a filter keeps may lie elsewhere than the nearest rows, such as all that is most vivid.
FILTERED_NPROBES = 70
AS_MANY_AS_IT_TAKES = 0  # where those hold too few rows that are wanted; three times as slow
# Rows read whole per row of the answer, so that similarities are exact; never below 1.
REFINE_FACTOR = 3

# Cosine neighbours that the correction may bring into the k best.
CANDIDATES_PER_ROW = 10
LEAST_CANDIDATES = 200
CANDIDATES_REFINED = 1
# Up to here every row is a candidate, where no index saves reading them all anyway.
SCANNED_ROWS = 100_000


def has_vector_index(dataset: lance.LanceDataset, column: str) -> bool:
    """Return whether a search in the column goes through an index."""
    return any(list(index.field_names) == [column] for index in dataset.describe_indices())


def nearest(
    dataset: lance.LanceDataset,
    column: str,
    vector: np.ndarray,
    *,
    k: int,
    chosen: Filter,
    columns: Sequence[str] = (),
    left_out: Collection[str] = (),
    correct_hubs: bool = False,
    exact: bool = False,
) -> pa.Table:
    """Return the k nearest rows.

    Args:
        dataset: At one version.
        column: Of vectors.
        vector: What to be near to.
        k: How many, if there are as many.
        chosen: What rows must be.
        columns: Others that the answer shall have.
        left_out: Ids that are not in the answer.
        correct_hubs: Order by `score`, not by `similarity`.
        exact: Look at every row. Without it, an index may miss some, and the correction takes its
            best from the nearest max(10 k, 200) where an index or more than 100,000 rows are.

    Returns:
        `creator_id`, `similarity` (cosine), `score` (2 cosine - hubness) if hubs are corrected,
        `columns`; best first, ties by id.

    Raises:
        InputError: From the filter.
    """
    indexed = not exact and has_vector_index(dataset, column)
    limit = k + len(left_out)
    if correct_hubs:
        rows = dataset.count_rows()
        every = not indexed and (exact or rows <= SCANNED_ROWS)
        limit = rows if every else max(CANDIDATES_PER_ROW * k, LEAST_CANDIDATES) + len(left_out)
    # Of many candidates few are in the answer, and only theirs are read.
    read = [HUBNESS] if correct_hubs else list(columns)

    def search(probes: int, most_probes: int) -> pa.Table:
        query: dict[str, Any] = {"column": column, "q": vector, "k": max(limit, 1)}
        query |= {"metric": "cosine", "use_index": indexed}
        if indexed:
            refined = CANDIDATES_REFINED if correct_hubs else REFINE_FACTOR
            query |= {"minimum_nprobes": probes, "refine_factor": refined}
            query |= {"maximum_nprobes": most_probes} if most_probes else {}
        names = list(dict.fromkeys(["creator_id", *read, "_distance"]))
        return chosen.scan(dataset, nearest=query, columns=names, with_row_id=correct_hubs)

    probes = FILTERED_NPROBES if chosen else NPROBES
    found = search(probes, probes)
    if indexed and found.num_rows < limit:
        found = search(probes, AS_MANY_AS_IT_TAKES)
    if left_out:
        out = pc.is_in(found["creator_id"], value_set=pa.array(list(left_out), pa.string()))
        found = found.filter(pc.invert(out))
    similarity = pc.subtract(1.0, found["_distance"].cast(pa.float64()))
    # Rounding takes a vector's cosine to itself beyond 1.
    similarity = pc.min_element_wise(pc.max_element_wise(similarity, -1.0), 1.0)
    answer = {"creator_id": found["creator_id"], "similarity": similarity}
    if not correct_hubs:
        shown = {name: found[name] for name in columns}
        return best(pa.table({**answer, **shown}), "similarity", k)
    terms = found[HUBNESS].cast(pa.float64())
    answer["score"] = pc.subtract(pc.multiply(similarity, 2.0), terms)
    answer["_rowid"] = found["_rowid"]
    return with_columns(dataset, best(pa.table(answer), "score", k), columns)


def highest(
    dataset: lance.LanceDataset, column: str, *, k: int, chosen: Filter, columns: Sequence[str]
) -> pa.Table:
    """Return the k rows with the highest scores in a column.

    Returns:
        `creator_id`, `score`, `percentile` where the table has it, `columns`; best first, ties by
        id.
    """
    # One narrow column of all rows, since ids are wide, and vectors wider.
    scores = chosen.scan(dataset, columns=[column], with_row_id=True)
    values = scores[column].to_numpy()
    if len(values) > k:
        # And what ties with the last of them.
        least = np.partition(values, len(values) - k)[len(values) - k]
        scores = scores.filter(pa.array(values >= least))
    percentile = f"{column}_pct"
    names = {"creator_id": "creator_id", column: "score", percentile: "percentile"}
    names = {name: shown for name, shown in names.items() if name in dataset.schema.names}
    found = with_columns(
        dataset, scores.select(["_rowid"]), list(dict.fromkeys([*names, *columns]))
    )
    answer = pa.table({shown: found[name] for name, shown in names.items()})
    return best(_appended(answer, found, columns), "score", k)


def products(
    dataset: lance.LanceDataset,
    column: str,
    vector: np.ndarray,
    *,
    k: int,
    chosen: Filter,
    columns: Sequence[str],
) -> pa.Table:
    """Return the k highest dot products with a column of vectors, as `highest` does."""
    # Of every row: an index, if there is one, is of cosines.
    query = {"column": column, "q": vector, "k": k, "metric": "dot", "use_index": False}
    names = list(dict.fromkeys(["creator_id", "_distance", *columns]))
    found = chosen.scan(dataset, nearest=query, columns=names)
    score = pc.subtract(1.0, found["_distance"].cast(pa.float64())).cast(pa.float32())
    answer = pa.table({"creator_id": found["creator_id"], "score": score})
    return best(_appended(answer, found, columns), "score", k)


def best(rows: pa.Table, column: str, k: int) -> pa.Table:
    """Return the k rows with the highest values, highest first, ties by id."""
    keys = [(column, "descending"), ("creator_id", "ascending")]
    return rows.take(pc.select_k_unstable(rows, k, sort_keys=keys))


def with_columns(dataset: lance.LanceDataset, rows: pa.Table, columns: Sequence[str]) -> pa.Table:
    """Return rows with columns of the table in place of `_rowid`."""
    ids = rows["_rowid"].to_pylist()
    if not ids:
        found = dataset.schema.empty_table()
    else:
        # Numbers that Lance gave, so that no user's text is in the filter.
        wanted = f"_rowid IN ({', '.join(map(str, ids))})"
        found = dataset.scanner(columns=list(columns), filter=wanted, with_row_id=True).to_table()
        found = found.take(pc.index_in(rows["_rowid"], value_set=found["_rowid"]))
    return _appended(rows.drop_columns(["_rowid"]), found, columns)


def _appended(rows: pa.Table, found: pa.Table, columns: Sequence[str]) -> pa.Table:
    for name in columns:
        if name not in rows.column_names:
            rows = rows.append_column(found.schema.field(name), found[name])
    return rows
