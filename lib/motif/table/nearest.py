"""The rows of a table that are nearest to a vector, by cosine, with or without hubs corrected.

Hubs are creators that are near to everybody. Cross-domain similarity local scaling (CSLS; Conneau
et al. 2018, arXiv:1710.04087, section 2.3) takes from twice the cosine how near each of the two is
to its own neighbours: 2 cos(q, x) - r(q) - r(x). r(x) is the column `hubness`; r(q) is the same for
all rows of an answer, so it is left out.
"""

from collections.abc import Collection
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from lancedb.table import Table

from motif.table.filters import Filter

HUBNESS = "hubness"

# Chosen by benchmarks.query on a million creators: recall at 10 is 1.00 at 7 ms, and .99 among one
# in a hundred. Partitions that a search through a vector index looks into, at first:
NPROBES = 20
AS_MANY_AS_IT_TAKES = 0  # where those hold too few rows that are wanted; three times as slow
# Rows read whole per row of the answer, so that similarities are exact; never below 1.
REFINE_FACTOR = 3

# Cosine neighbours that the correction may bring into the k best.
CANDIDATES_PER_ROW = 10
LEAST_CANDIDATES = 200
# Up to here every row is a candidate, where no index saves reading them all anyway.
SCANNED_ROWS = 100_000


def has_vector_index(table: Table, column: str) -> bool:
    """Return whether a search in the column goes through an index."""
    return any(list(index.columns) == [column] for index in table.list_indices())


def nearest(
    table: Table,
    column: str,
    vector: Any,
    *,
    k: int,
    chosen: Filter,
    left_out: Collection[str] = (),
    correct_hubs: bool = False,
    exact: bool = False,
) -> pa.Table:
    """Return the k nearest rows.

    Args:
        table: At one version.
        column: Of vectors.
        vector: What to be near to.
        k: How many, if there are as many.
        chosen: What rows must be.
        left_out: Ids that are not in the answer.
        correct_hubs: Order by `score`, not by `similarity`.
        exact: Look at every row. Without it, an index may miss some, and the correction takes its
            best from the nearest max(10 k, 200) where an index or more than 100,000 rows are.

    Returns:
        `creator_id`, `similarity` (cosine), `score` (2 cosine - hubness) if hubs are corrected,
        `_rowid`; best first, ties by id.

    Raises:
        InputError: From the filter.
    """
    indexed = has_vector_index(table, column)
    limit = k + len(left_out)
    if correct_hubs:
        rows = table.count_rows()
        every = exact or (not indexed and rows <= SCANNED_ROWS)
        limit = rows if every else max(CANDIDATES_PER_ROW * k, LEAST_CANDIDATES) + len(left_out)
    hubness = [HUBNESS] if correct_hubs else []

    def search(most_probes: int) -> pa.Table:
        query: Any = table.search(vector, vector_column_name=column)
        query = query.distance_type("cosine").with_row_id(True).limit(max(limit, 1))
        if exact:
            query = query.bypass_vector_index()
        elif indexed:
            query = query.minimum_nprobes(NPROBES).maximum_nprobes(most_probes)
            query = query.refine_factor(REFINE_FACTOR)
        return chosen.run(query.select(["creator_id", *hubness, "_distance"]))

    found = search(NPROBES)
    if indexed and not exact and found.num_rows < limit:
        found = search(AS_MANY_AS_IT_TAKES)
    similarity = pc.subtract(1.0, found["_distance"].cast(pa.float64()))
    # Rounding takes a vector's cosine to itself beyond 1.
    similarity = pc.min_element_wise(pc.max_element_wise(similarity, -1.0), 1.0)
    answer = {"creator_id": found["creator_id"], "similarity": similarity}
    if correct_hubs:
        terms = found[HUBNESS].cast(pa.float64())
        answer["score"] = pc.subtract(pc.multiply(similarity, 2.0), terms)
    answer = pa.table({**answer, "_rowid": found["_rowid"]})
    if left_out:
        out = pc.is_in(answer["creator_id"], value_set=pa.array(list(left_out), pa.string()))
        answer = answer.filter(pc.invert(out))
    return best(answer, "score" if correct_hubs else "similarity", k)


def highest(table: Table, column: str, *, k: int, chosen: Filter) -> pa.Table:
    """Return the k highest scores in a column, and what ties with the last of them, in any order.

    Returns:
        `creator_id`, `score`, `percentile` where the table has it, `_rowid`.
    """
    # One narrow column of all rows, since ids are wide, and vectors wider.
    query: Any = table.search().with_row_id(True).limit(max(table.count_rows(), 1))
    scores = chosen.run(query.select([column]))
    values = scores[column].to_numpy()
    if len(values) > k:
        least = np.partition(values, len(values) - k)[len(values) - k]
        scores = scores.filter(pa.array(values >= least))
    names = {"creator_id": "creator_id", column: "score"}
    if f"{column}_pct" in table.schema.names:
        names[f"{column}_pct"] = "percentile"
    rows: Any = table.take_row_ids(scores["_rowid"].to_pylist()).with_row_id()
    found = rows.select(list(names)).to_arrow()
    return found.select([*names, "_rowid"]).rename_columns([*names.values(), "_rowid"])


def products(table: Table, column: str, vector: Any, *, k: int, chosen: Filter) -> pa.Table:
    """Return the k highest dot products with a column of vectors: as `highest`, in any order."""
    search: Any = table.search(vector, vector_column_name=column)
    # Every row's: an index, if there is one, is of cosines.
    query = search.distance_type("dot").bypass_vector_index().with_row_id(True).limit(k)
    found = chosen.run(query.select(["creator_id", "_distance"]))
    score = pc.subtract(1.0, found["_distance"].cast(pa.float64())).cast(pa.float32())
    return pa.table({"creator_id": found["creator_id"], "score": score, "_rowid": found["_rowid"]})


def best(rows: pa.Table, column: str, k: int) -> pa.Table:
    """Return the k rows with the highest values, highest first, ties by id."""
    keys = [(column, "descending"), ("creator_id", "ascending")]
    return rows.take(pc.select_k_unstable(rows, k, sort_keys=keys))
