"""Rows on their way from many tasks to many others, each of which wants one share of them.

A partition file is an Arrow IPC file with one record batch per share, so that a reader finds its
share in any number of files without reading the rest of them.
"""

import itertools
from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Int, UInt64
from pandas.util import hash_array

from motif import storage

PAIRS = pa.schema([("key", pa.uint64()), ("value", pa.uint64())])
_LZ4 = pa.ipc.IpcWriteOptions(compression="lz4")


def write(uri: str, rows: pa.Table, share: Int[np.ndarray, " rows"], shares: int) -> None:
    """Write rows, in the order that they have, as `shares` record batches.

    Args:
        uri: Of the file.
        rows: Any schema without dictionaries.
        share: In [0, shares) for each row.
        shares: How many.
    """
    order = np.argsort(share, kind="stable")
    bounds = np.searchsorted(share[order], np.arange(shares + 1))
    rows = rows.take(order).combine_chunks()
    with (
        storage.atomic_writer(uri) as file,
        pa.ipc.new_file(file, rows.schema, options=_LZ4) as writer,
    ):
        for start, stop in itertools.pairwise(bounds):
            writer.write_batch(_one_batch(rows.slice(start, stop - start)))


def write_batches(uri: str, rows: pa.Table, *, batch_rows: int) -> None:
    """Write rows as record batches of `batch_rows`, the last one shorter."""
    with (
        storage.atomic_writer(uri) as file,
        pa.ipc.new_file(file, rows.schema, options=_LZ4) as writer,
    ):
        for start in range(0, rows.num_rows, batch_rows):
            writer.write_batch(_one_batch(rows.slice(start, batch_rows)))


def read(uri: str, share: int) -> pa.Table:
    """Return one share of a file."""
    return read_shares(uri, [share])


def read_shares(uri: str, shares: Iterable[int]) -> pa.Table:
    """Return some record batches of a file, one after the other."""
    with storage.open_random(uri) as file:
        reader = pa.ipc.open_file(file)
        return pa.Table.from_batches([reader.get_batch(s) for s in shares], reader.schema)


def read_all(uri: str) -> pa.Table:
    """Return all of a file."""
    with storage.open_random(uri) as file:
        return pa.ipc.open_file(file).read_all()


def hashes(column: pa.ChunkedArray) -> UInt64[np.ndarray, " rows"]:
    """Return a 64-bit hash of each text: the same in all processes, but not for ever."""
    hash_of: Any = hash_array  # pandas ships no types
    return hash_of(column.to_numpy(), categorize=False)


def write_pairs(
    uri: str, key: UInt64[np.ndarray, " rows"], value: UInt64[np.ndarray, " rows"], shares: int
) -> None:
    """Write pairs of hashes, shared out by their key: equal keys meet in one share."""
    pairs = pa.table([key, value], schema=PAIRS)
    write(uri, pairs, (key % np.uint64(shares)).astype(np.int64), shares)


def read_pairs(
    uris: Iterable[str], share: int
) -> tuple[UInt64[np.ndarray, " rows"], UInt64[np.ndarray, " rows"]]:
    """Return keys and values of one share of all files, sorted by key and value."""
    pairs = pa.concat_tables([PAIRS.empty_table(), *(read(uri, share) for uri in uris)])
    key, value = (pairs[name].to_numpy() for name in PAIRS.names)
    order = np.lexsort((value, key))
    return key[order], value[order]


def _one_batch(rows: pa.Table) -> pa.RecordBatch:
    batches = rows.combine_chunks().to_batches()
    if batches:
        return batches[0]
    return pa.RecordBatch.from_pylist([], schema=rows.schema)
