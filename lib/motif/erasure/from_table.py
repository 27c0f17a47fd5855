"""Taking creators out of a CREATORS table and of what lies beside it.

A new version is derived from the live one: rows deleted, the fragments that held them written anew
(also where an update had marked an older row of theirs as deleted), every index trained anew. The
tag `live` moves to it, and then every version goes that shares a file with one that holds them.
Lance writes the condition of a delete, and so the ids, into the version's manifest and transaction:
that version, too, is dropped. Cut off at any point, the same erasure completes.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import lance
import pyarrow as pa
import pyarrow.compute as pc
from lance.file import LanceFileReader

from motif import storage
from motif.artefacts.lock import GUARD_FILE, LOCK_FILE, Held
from motif.erasure.files import below, holds, mentions, redacted, without
from motif.errors import ContractError
from motif.table import versions
from motif.table.layout import LIVE, TableUri, is_unfinished, metadata_of

log = logging.getLogger(__name__)

DATA, INDEX, NOTES = "data file", "index file", ("manifest", "transaction file")
# Of the rows, and of an index over ids (a B-tree's pages and their bounds).
_ID_COLUMNS = ("creator_id", "values", "min", "max")


@dataclass(frozen=True)
class Holding:
    """Who is in which file of a table."""

    files: frozenset[str]
    """That hold somebody, or belong to a version that does; below the table's folder."""
    versions: frozenset[int]
    """That use one of them."""


def is_begun(table: TableUri) -> bool:
    """Return whether all that is there is of a first publish that was cut off."""
    if storage.exists(table.uri):
        return is_unfinished(table)
    return storage.exists(table.beside())


def find(table: TableUri, dataset: lance.LanceDataset, creators: pa.Array) -> Holding:
    """Find the versions that hold somebody, in rows, in rows marked as deleted, or in an index.

    An index over vectors does not name whom it holds: one that a version with somebody uses counts
    as holding them, wherever it is used.
    """
    tracked = dataset.tracked_files().read_all().select(["version", "path", "type"]).to_pylist()
    files = {(one["path"], one["type"]) for one in tracked}
    conditions = _in_conditions(creators)
    held = {
        path
        for path, kind in files
        if (kind in (DATA, INDEX) and file_holds(storage.join(table.uri, path), creators))
        or (kind in NOTES and _conditions_name(storage.join(table.uri, path), conditions))
    }
    found = {one["version"] for one in tracked if one["path"] in held}
    held |= {o["path"] for o in tracked if o["version"] in found and o["type"] == INDEX}
    found |= {one["version"] for one in tracked if one["path"] in held}
    return Holding(frozenset(held), frozenset(found))


def file_holds(uri: str, creators: pa.Array) -> bool:
    """Return whether one of Lance's files has a row of somebody, deleted or not."""
    reader = LanceFileReader(uri, storage_options=storage.lance_options(uri) or None)
    names = [f.name for f in reader.metadata().schema if f.name in _ID_COLUMNS]
    names = [n for n in names if pa.types.is_string(reader.metadata().schema.field(n).type)]
    if not names:
        return False
    reader = LanceFileReader(uri, storage_options=storage.lance_options(uri) or None, columns=names)
    return any(
        pc.any(pc.is_in(column, creators)).as_py()
        for batch in reader.read_all(batch_size=65_536).to_batches()
        for column in batch.columns
    )


def _conditions_name(uri: str, conditions: list[bytes]) -> bool:
    """Return whether a manifest or transaction, which Lance does not compress, has a condition."""
    data = storage.read_bytes(uri)
    return any(condition in data for condition in conditions)


def _in_conditions(creators: pa.Array) -> list[bytes]:
    """Return the ids as Lance writes them down in the condition of a delete."""
    forms = [
        form
        for creator in creators.to_pylist()
        for form in (f'Utf8("{creator}")', "'" + creator.replace("'", "''") + "'")
    ]
    return [form.encode("utf-8", "surrogatepass") for form in forms]


def erase(
    table: TableUri,
    creators: pa.Array,
    *,
    run_id: str,
    held: Held,
    record: Callable[[dict[str, Any]], None],
) -> dict[str, Any]:
    """Take the creators out; the table's lock must be held.

    Args:
        table: Whose.
        creators: Their ids.
        run_id: Of the erasure.
        held: The lock.
        record: Is told what will be dropped, before it is.

    Returns:
        `rows`, `held` (whether any version held them), `from_version` and `live_version` (equal
        when the live version held nobody; None without one), `dropped_versions`, `removed_tags`,
        `sidecar_rows`, `bytes_removed`.

    Raises:
        ContractError: The new version is not what was planned; `live` has not moved.
    """
    done: dict[str, Any] = {
        "rows": 0,
        "held": False,
        "from_version": None,
        "live_version": None,
        "dropped_versions": [],
        "removed_tags": [],
    }
    storage.remove(table.beside(versions.STAGING))
    done["sidecar_rows"] = _clean_beside(table, creators, held)
    if is_begun(table):
        storage.remove(table.uri)  # fragments that no version holds
        return done
    dataset = versions.open_latest(table)
    listed = {version.version: version for version in versions.list_versions(table)}
    live = next((number for number, version in listed.items() if version.live), None)
    latest = max(listed)
    base = live or latest
    holding = find(table, dataset, creators).versions
    done["held"] = bool(holding)
    now = base
    if {base, latest} & holding:  # the latest is the one that Lance never drops
        now, done["rows"] = _derive(table, base, creators, has_live=bool(live), held=held)
    done["from_version"], done["live_version"] = live, now if live else None
    tags = versions.open_version(table, None).tags
    done["removed_tags"] = sorted(
        name for name, tag in tags.list().items() if name != LIVE and tag["version"] in holding
    )
    created = set(range(latest + 1, now))
    unchecked = {number for number, version in listed.items() if not version.published}
    gone = (set(holding) | unchecked | created) - {now, max(now, latest)}
    done["dropped_versions"] = sorted(gone - created)
    record(done)
    held.check()
    for name in done["removed_tags"]:
        tags.delete(name)
    stats = versions.drop(table, sorted(gone), held=held)
    _amend_record(table, now, run_id)
    return {**done, "bytes_removed": stats["bytes_removed"]}


def _derive(
    table: TableUri, base: int, creators: pa.Array, *, has_live: bool, held: Held
) -> tuple[int, int]:
    """Make a version of `base` without the creators, and move `live` to it.

    Returns:
        Its number, and how many rows it is short of.
    """
    held.check()
    dataset = versions.open_version(table, base)
    before, schema = dataset.count_rows(), dataset.schema
    dataset.restore()
    dataset = versions.open_version(table, None)
    # An expression, never SQL: an id may be any text.
    is_theirs = pc.field("creator_id").isin(creators)
    if theirs := dataset.count_rows(filter=is_theirs):
        dataset.delete(is_theirs)
    clean = [
        fragment.fragment_id
        for fragment in dataset.get_fragments()
        if not fragment.num_deletions
        and not any(
            file_holds(storage.join(table.uri, "data", file.path), creators)
            for file in fragment.data_files()
        )
    ]
    dataset.optimize.compact_files(
        materialize_deletions=True,
        materialize_deletions_threshold=0.0,
        excluded_fragment_ids=clean,
    )
    indices = _indices(dataset)
    _index_anew(dataset)
    dataset = versions.open_version(table, None)
    rows = dataset.count_rows()
    if rows != before - theirs or dataset.schema != schema or _indices(dataset) != indices:
        raise ContractError(
            f"{table.uri} version {dataset.version}: {rows} rows with the indices"
            f" {_indices(dataset)}, expected {before - theirs} with {indices} and the same columns;"
            f" `{LIVE}` stays where it was: run the same command again"
        )
    if dataset.version in find(table, dataset, creators).versions:
        raise ContractError(
            f"{table.uri} version {dataset.version} still shares a file with one that holds"
            f" somebody; `{LIVE}` stays where it was: this is a bug of ours"
        )
    held.check()
    if has_live:
        dataset.tags.update(LIVE, dataset.version)
    return dataset.version, theirs


def _index_anew(dataset: lance.LanceDataset) -> None:
    """Replace every file of every index, also where no row of theirs was left to remap."""
    indices = list(dataset.describe_indices())
    vectors = [index.name for index in indices if not _is_scalar(index)]
    # Lance trains nothing on no rows, and would keep the index that holds them.
    if vectors and dataset.count_rows():
        dataset.optimize.optimize_indices(index_names=vectors, retrain=True)
    for index in indices:
        (column,) = index.field_names
        if _is_scalar(index):
            kind: Any = index.index_type.upper()
            dataset.create_scalar_index(column, kind, name=index.name, replace=True)
        elif not dataset.count_rows():
            dataset.drop_index(index.name)


def _is_scalar(index: Any) -> bool:
    return not index.index_type.upper().startswith("IVF")


def _indices(dataset: lance.LanceDataset) -> list[str]:
    """Return the names of the indices that there must be, which on no rows are the scalar ones."""
    found = dataset.describe_indices()
    return sorted(i.name for i in found if _is_scalar(i) or dataset.count_rows())


def _amend_record(table: TableUri, live: int, run_id: str) -> None:
    """Let the publish's record name the version that its rows are in now, to go back to it."""
    dataset = versions.open_version(table, live)
    there = {one["version"] for one in dataset.versions()}
    told = (metadata_of(dataset.schema) or {}).get("run_id")
    uri = table.beside(versions.PUBLISHES, f"{told}.json")
    if not told or not storage.exists(uri):
        return
    record = storage.read_json(uri)
    if record.get("table_version") not in there:
        before = record.get("table_version")
        erasures = [*record.get("erasures", ()), {"run_id": run_id, "from_version": before}]
        storage.write_json(uri, {**record, "table_version": live, "erasures": erasures})


def _clean_beside(table: TableUri, creators: pa.Array, held: Held) -> int:
    """Take creators out of every file beside the table; returns how many rows."""
    rows, ids = 0, frozenset(creators.to_pylist())
    for uri in below(table.beside()):
        held.check()
        if uri.rsplit("/", 1)[-1] in (LOCK_FILE, GUARD_FILE):
            continue
        if uri.endswith(".tmp"):
            storage.remove(uri)  # of a writer that was killed
        elif uri.endswith(".parquet"):
            found = storage.read_parquet(uri, ["creator_id"])
            if "creator_id" in found.column_names and holds(found, creators):
                whole = storage.read_parquet(uri)
                kept = without(whole, creators)
                rows += whole.num_rows - kept.num_rows
                storage.write_parquet(uri, kept)
        elif uri.endswith(".json") and mentions(value := storage.read_json(uri), ids):
            storage.write_json(uri, redacted(value, ids))
    return rows
