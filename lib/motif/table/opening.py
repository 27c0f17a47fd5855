"""Opening a version of a CREATORS table, or saying why it cannot be opened."""

from typing import Any

import lance

from motif import storage
from motif.errors import InputError
from motif.table.layout import LIVE, TableUri, is_unfinished, metadata_of


def open_version(uri: str, version: str | int) -> tuple[lance.LanceDataset, dict[str, Any], str]:
    """Return a table at a version, what the publish recorded in it, and its full URI.

    Raises:
        InputError: No such table or version, or not one of ours.
    """
    where = TableUri.parse(uri)
    if not storage.exists(where.uri):
        raise InputError(f"--table {uri} does not exist; jobs.publish_creators makes it")
    try:
        latest = lance.dataset(where.uri, storage_options=storage.lance_options(where.uri))
    except (ValueError, RuntimeError, OSError) as error:
        reason = f"is not a Lance table: {_first_line(error)}"
        if is_unfinished(where):
            reason = "holds no version yet: its first publish has not finished"
        raise InputError(f"--table {uri} {reason}") from error
    metadata = metadata_of(latest.schema)
    if metadata is None:
        raise InputError(f"--table {uri} is a Lance table, but not one of CREATORS")
    try:
        dataset = latest.checkout_version(version)
    except (ValueError, RuntimeError, OSError) as error:
        raise InputError(
            f"--table {uri} has no version {version!r}: its first publish has not finished"
            if version == LIVE
            else f"--table {uri} has no version {version!r}"
        ) from error
    return dataset, metadata_of(dataset.schema) or metadata, where.uri


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
