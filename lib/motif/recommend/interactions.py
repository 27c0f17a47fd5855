"""INTERACTIONS: which brand has worked with which creator, how much, and when.

Columns `brand_id`, `creator_id`, optional `weight` (above 0; else 1) and `at` (a date or time).
Rows of one brand and one creator are one: their weights add up, and the first of the times counts.
"""

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Int
from scipy.sparse import csr_array

from motif import storage
from motif.artefacts import table_files
from motif.errors import InputError

LIMIT_BYTES = 16 * 1024**3
COLUMNS = ("brand_id", "creator_id", "weight", "at")


@dataclass(frozen=True, kw_only=True)
class Counts:
    """What became of the rows."""

    rows: int
    pairs: int
    """Of a brand and a creator who is known; what is learned from."""
    repeated_rows: int
    """Of a pair that other rows have as well."""
    unmatched_rows: int
    """Whose creator is not known."""
    unmatched_creators: int
    brands: int
    brands_without_creators: int
    """None of whose creators is known."""


@dataclass(frozen=True, kw_only=True)
class Interactions:
    """Brands x creators, sparse."""

    brand_ids: list[str]
    """Of the rows, sorted; brands without a known creator are among them."""
    creator_ids: list[str]
    """Of the columns, as they were given."""
    weights: csr_array
    """float32, above 0."""
    at: csr_array | None
    """In the same places, microseconds since 1970 of the first time; None where no row has one."""
    counts: Counts
    digest: str
    """Of the file's content."""

    @property
    def known(self) -> Int[np.ndarray, " known"]:
        """Creators whom somebody has worked with."""
        return np.unique(self.weights.indices)

    @property
    def cold(self) -> Int[np.ndarray, " cold"]:
        """Creators whom nobody has worked with."""
        return np.setdiff1d(np.arange(len(self.creator_ids)), self.known)


def read(uri: str, creator_ids: list[str]) -> Interactions:
    """Read a file, or a folder of files, and join its creators to those who are known.

    Args:
        uri: `.parquet`, `.csv` or `.jsonl` (the last two also `.gz`), or a folder of `.parquet`.
        creator_ids: Of the known creators.

    Raises:
        InputError: It is absent or damaged, lacks a column, or a value is none.
    """
    tables, digest = _tables(uri)
    rows = pa.concat_tables(tables, promote_options="permissive").unify_dictionaries()
    return joined(rows, creator_ids, digest=digest, where=f"--interactions {uri}")


def joined(
    rows: pa.Table, creator_ids: list[str], *, digest: str = "", where: str = "interactions"
) -> Interactions:
    """Make them of a table; `where` is what refusals begin with.

    Raises:
        InputError: A column is missing, or a value is none.
    """
    brands, brand_ids = _codes(rows, "brand_id", where)
    creators, named = _codes(rows, "creator_id", where)
    places = pc.index_in(pa.array(named, pa.string()), pa.array(creator_ids, pa.string()))
    found = places.fill_null(-1).to_numpy(zero_copy_only=False)[creators]
    weights = _weights(rows, where)
    times = _times(rows, where)
    order = np.argsort(np.array(brand_ids, dtype=object), kind="stable")
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    kept = np.flatnonzero(found >= 0)
    shape = (len(brand_ids), len(creator_ids))
    pairs, first, inverse = np.unique(
        rank[brands[kept]] * max(shape[1], 1) + found[kept], return_index=True, return_inverse=True
    )
    at = None
    if times is not None:
        earliest = np.full(len(pairs), np.iinfo(np.int64).max)
        np.minimum.at(earliest, inverse, times[kept])
        at = _sparse(pairs, earliest, shape)
    summed = np.bincount(inverse, weights=weights[kept], minlength=len(pairs))
    matrix = _sparse(pairs, summed.astype(np.float32), shape)
    return Interactions(
        brand_ids=[brand_ids[i] for i in order],
        creator_ids=creator_ids,
        weights=matrix,
        at=at,
        counts=Counts(
            rows=rows.num_rows,
            pairs=len(pairs),
            repeated_rows=len(kept) - len(first),
            unmatched_rows=rows.num_rows - len(kept),
            unmatched_creators=int(places.null_count),
            brands=len(brand_ids),
            brands_without_creators=int((np.diff(matrix.indptr) == 0).sum()),
        ),
        digest=digest,
    )


def _sparse(pairs: np.ndarray, values: np.ndarray, shape: tuple[int, int]) -> csr_array:
    rows, columns = np.divmod(pairs, max(shape[1], 1))
    starts = np.searchsorted(rows, np.arange(shape[0] + 1))
    return csr_array((values, columns, starts), shape=shape)


def _codes(rows: pa.Table, name: str, where: str) -> tuple[np.ndarray, list[str]]:
    """Return each row's place among the different values, and these."""
    if name not in rows.column_names:
        raise InputError(f"{where} has no column {name}; it has {rows.column_names}")
    column = rows[name]
    if column.null_count:
        raise InputError(f"{where}: {column.null_count:,} rows have no {name}")
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if pa.types.is_integer(kind):
        column = column.cast(pa.string())
    elif not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        raise InputError(f"{where}: {name} is of type {kind}; expected text or whole numbers")
    if not pa.types.is_dictionary(column.type):
        column = column.dictionary_encode()
    whole = column.combine_chunks()
    if isinstance(whole, pa.ChunkedArray):  # of no rows
        return np.zeros(0, np.int64), []
    used, codes = np.unique(whole.indices.to_numpy(zero_copy_only=False), return_inverse=True)
    return codes.astype(np.int64), whole.dictionary.take(pa.array(used)).to_pylist()


def _weights(rows: pa.Table, where: str) -> np.ndarray:
    if "weight" not in rows.column_names:
        return np.ones(rows.num_rows)
    try:
        column = rows["weight"].cast(pa.float64())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise InputError(f"{where}: weight is no number: {error}") from error
    weights = column.to_numpy()
    bad = np.flatnonzero(~(np.isfinite(weights) & (weights > 0)))
    if len(bad):
        first = rows.slice(int(bad[0]), 1).to_pylist()[0]
        raise InputError(
            f"{where}: {len(bad):,} rows have a weight that is not a number above 0 (first: brand"
            f" {str(first['brand_id'])!r:.80}, creator {str(first['creator_id'])!r:.80}, weight"
            f" {first['weight']}); mend them or leave the column out"
        )
    return weights


def _times(rows: pa.Table, where: str) -> np.ndarray | None:
    if "at" not in rows.column_names or rows["at"].null_count == rows.num_rows:
        return None
    column = rows["at"]
    if column.null_count:
        raise InputError(f"{where}: {column.null_count:,} rows have no `at`; all or none must")
    try:
        if not pa.types.is_timestamp(column.type):
            column = column.cast(pa.timestamp("us"))
        return (
            column.cast(pa.timestamp("us", column.type.tz), safe=False).cast(pa.int64()).to_numpy()
        )
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise InputError(f"{where}: `at` holds no dates or times: {error}") from error


def _tables(uri: str) -> tuple[list[pa.Table], str]:
    """Return the tables of a file or folder, and a digest of their bytes."""
    fs, path = storage.open_filesystem(uri)
    fs.invalidate_cache()
    files = [uri]
    if fs.isdir(path):
        files = sorted(storage.list_files(uri, ".parquet"))
        if not files:
            raise InputError(f"--interactions {uri} is a folder without a .parquet file")
    flags: dict[str, Any] = {"flag": "--interactions", "texts": COLUMNS[:2], "only": COLUMNS}
    read_files = [table_files.read(file, limit_bytes=LIMIT_BYTES, **flags) for file in files]
    digest = hashlib.sha256("".join(digest for _, digest in read_files).encode())
    return [table for table, _ in read_files], digest.hexdigest()[:16]
