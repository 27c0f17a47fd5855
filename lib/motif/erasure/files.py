"""Rows, JSON values and folders, looked through for creators."""

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from motif import storage


def holds(rows: pa.Table, creators: pa.Array) -> bool:
    """Return whether rows of one of the creators are among a table's."""
    return bool(pc.any(_is_theirs(rows, creators)).as_py())


def without(rows: pa.Table, creators: pa.Array) -> pa.Table:
    """Return a table without the creators' rows; rows of nobody stay."""
    return rows.filter(pc.invert(_is_theirs(rows, creators)))


def _is_theirs(rows: pa.Table, creators: pa.Array) -> pa.ChunkedArray:
    column = rows["creator_id"]
    return pc.is_in(column, creators.cast(column.type))


def below(folder: str) -> Iterator[str]:
    """Yield the URIs of all files below a folder; an absent folder has none."""
    yield from storage.list_files(folder)
    for uri in storage.list_folders(folder):
        yield from below(uri)


def mentions(value: Any, creators: frozenset[str], *, theirs: bool = False) -> bool:
    """Return whether a JSON value names somebody.

    Args:
        value: Read from JSON.
        creators: Ids. They may be any text, such as that of an adjective or a column, so that one
            counts only below a key that speaks of creators.
        theirs: Whether the value is below such a key.
    """
    if isinstance(value, dict):
        return any(
            (theirs and key in creators) or mentions(one, creators, theirs=theirs or _tells(key))
            for key, one in value.items()
        )
    if isinstance(value, list):
        return any(mentions(one, creators, theirs=theirs) for one in value)
    return theirs and isinstance(value, str) and value in creators


def redacted(value: Any, creators: frozenset[str], *, theirs: bool = False) -> Any:
    """Return a JSON value that names nobody; what `mentions` finds becomes null, or is left out."""
    if isinstance(value, dict):
        return {
            key: redacted(one, creators, theirs=theirs or _tells(key))
            for key, one in value.items()
            if not (theirs and key in creators)
        }
    if isinstance(value, list):
        kept = [one for one in value if not (theirs and isinstance(one, str) and one in creators)]
        return [redacted(one, creators, theirs=theirs) for one in kept]
    return None if theirs and isinstance(value, str) and value in creators else value


def _tells(key: str) -> bool:
    return key in ("creator", "creator_id", "creator_ids")
