"""What a publish that works has done so far: drafts by bucket, beside the table.

A publish that was cut off finds the buckets that it had finished, when it is run again with the
same input.
"""

import hashlib
import json
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from motif import storage
from motif.publishing.rows import Drafts
from motif.table.layout import TableUri

FOLDER = "staging"


def folder_of(table: TableUri, plan: dict[str, Any]) -> str:
    """Return the folder of a plan, and clear away those of others; the lock must be held."""
    text = json.dumps(plan, sort_keys=True).encode()
    name = hashlib.sha256(text).hexdigest()[:16]
    for found in storage.list_folders(table.beside(FOLDER)):
        if found.rstrip("/").rsplit("/", 1)[-1] != name:
            storage.remove(found)
    return table.beside(FOLDER, name)


def clear(table: TableUri) -> None:
    """Remove all of it."""
    storage.remove(table.beside(FOLDER))


def write(folder: str, bucket: int, drafts: Drafts) -> None:
    """Write a bucket's drafts; the creators last, since they say that it is done."""
    storage.write_parquet(_uri(folder, "halves", bucket), drafts.halves)
    storage.write_parquet(_uri(folder, "creators", bucket), drafts.creators)


def done(folder: str) -> set[int]:
    """Return the buckets that are finished."""
    names = [uri.rsplit("/", 1)[-1] for uri in storage.list_files(folder, ".parquet")]
    return {
        int(name.removesuffix(".parquet").rpartition("-")[2])
        for name in names
        if name.startswith("creators-")
    }


def read_creators(folder: str, bucket: int, columns: list[str] | None = None) -> pa.Table:
    """Return a bucket's drafts, or only some columns of them."""
    return storage.read_parquet(_uri(folder, "creators", bucket), columns)


def read_halves(folder: str, buckets: list[int]) -> Iterator[pa.Table]:
    """Yield the held-out creators of each bucket."""
    for bucket in buckets:
        yield storage.read_parquet(_uri(folder, "halves", bucket))


def _uri(folder: str, kind: str, bucket: int) -> str:
    return storage.join(folder, f"{kind}-{bucket:05d}.parquet")
