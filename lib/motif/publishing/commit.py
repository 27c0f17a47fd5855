"""Versions of the table: begun from `live`, indexed, checked, and only then named `live`.

Only one publisher works at a time (the lock beside the table), and readers open the tag, so that
no reader sees the versions on the way. A run that is cut off leaves such versions; the next one
begins from `live` again, not from the latest.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import lance
import pyarrow as pa
import pyarrow.compute as pc
from lance.dataset import batch_udf
from lance.fragment import FragmentMetadata, write_fragments

from motif import schemas, storage
from motif.errors import ContractError, OutputError
from motif.publishing.directions import Directions
from motif.publishing.population import Population
from motif.publishing.rows import Completion, score_columns
from motif.table.layout import (
    CREATORS,
    LIVE,
    METADATA_KEY,
    TABLES,
    TableUri,
    is_unfinished,
    metadata_of,
)

# Below it, LanceDB's own advice is to search without an index.
INDEX_FROM_ROWS = 100_000
MOST_FRAGMENTS = 256
_ROWS_PER_PARTITION = 4096
# Of one merge: each is a version, and looks every row's key up anew.
_ROWS_PER_MERGE = 20_000
# Of texts: up to so many different ones, a bitmap of rows for each is quickest.
_MOST_BITMAPS = 1000


@dataclass(frozen=True)
class Tagged:
    """A published version: the one that readers see, or a candidate."""

    dataset: lance.LanceDataset
    metadata: dict[str, Any]
    publish: dict[str, Any] | None
    """The record of the publish that made it, where it is still there."""

    @property
    def version(self) -> int:
        """Lance's number."""
        return self.dataset.version


def require_ours(table: TableUri, artefact: str = CREATORS) -> None:
    """Refuse to write where something else is.

    Raises:
        OutputError: The place holds something that is no such table of ours.
    """
    flag = "--table" if artefact == CREATORS else "--output"
    fs, path = storage.open_filesystem(table.uri)
    fs.invalidate_cache()
    if not fs.exists(path):
        return
    try:
        schema = _open(table).schema
    except (ValueError, OSError) as error:
        if is_unfinished(table):
            return
        raise OutputError(
            f"{flag} {table.uri} is there and is no Lance table; it is left as it is: name another"
        ) from error
    if metadata_of(schema, (artefact,)) is None:
        what = f"holds no {artefact}" if metadata_of(schema, TABLES) else "Motif did not make"
        raise OutputError(
            f"{flag} {table.uri} is a Lance table that {what}; it is left as it is: name another"
        )


def open_tagged(table: TableUri, tag: str = LIVE) -> Tagged | None:
    """Return the version of a tag; None before the first publish to it has finished."""
    fs, path = storage.open_filesystem(table.uri)
    fs.invalidate_cache()
    if not fs.exists(path) or is_unfinished(table):
        return None
    latest = _open(table)
    if tag not in latest.tags.list():
        return None
    dataset = latest.checkout_version(tag)
    metadata = metadata_of(dataset.schema)
    if metadata is None:
        return None
    uri = publish_uri(table, metadata["run_id"])
    return Tagged(dataset, metadata, storage.read_json(uri) if storage.exists(uri) else None)


def publish_uri(table: TableUri, run_id: str) -> str:
    """Return where a publish is recorded."""
    return table.beside("publishes", f"{run_id}.json")


def _open(table: TableUri) -> lance.LanceDataset:
    return lance.dataset(table.uri, storage_options=storage.lance_options(table.uri))


def write_rows(table: TableUri, rows: pa.Table) -> list[str]:
    """Write rows as Lance fragments that no version holds yet; return them for `overwrite`."""
    if not rows.num_rows:
        return []
    fragments = write_fragments(
        rows,
        table.uri,
        schema=rows.schema,
        mode="overwrite",
        storage_options=storage.lance_options(table.uri),
    )
    return [json.dumps(fragment.to_json()) for fragment in fragments]


def overwrite(
    table: TableUri, schema: pa.Schema, fragments: Sequence[str], *, planned: int
) -> lance.LanceDataset:
    """Make one version of all fragments.

    Raises:
        ContractError: They do not hold the rows that were planned; nothing was committed.
    """
    parts = [FragmentMetadata.from_json(fragment) for fragment in fragments]
    # Before the commit as well as after it: a client that ignores the tag reads the latest version.
    if (written := sum(part.physical_rows for part in parts)) != planned:
        raise ContractError(
            f"{table.uri}: workers wrote {written} rows, planned {planned}; nothing was"
            " committed: repeat the run"
        )
    return lance.LanceDataset.commit(
        table.uri,
        lance.LanceOperation.Overwrite(schema, parts),
        storage_options=storage.lance_options(table.uri),
    )


def begin_from(table: TableUri, base: Tagged) -> lance.LanceDataset:
    """Return the latest version, which is made equal to `base` if others came after it."""
    latest = _open(table)
    if latest.version == base.version:
        return latest
    latest.checkout_version(base.version).restore()  # on a handle of its own, which it moves
    return _open(table)


def change_columns(
    dataset: lance.LanceDataset, completion: Completion, *, renew_attributes: bool
) -> None:
    """Bring the columns of all rows to a schema; nothing else is read or written.

    Args:
        dataset: The latest version; changed in place.
        completion: With the schema that is to be.
        renew_attributes: Join the attributes again, though the columns are the same.
    """
    schema, directions, attributes = (
        completion.schema,
        completion.directions,
        completion.attributes,
    )
    base = set(schemas.creators(1, 1, []).names)
    had = [name for name in dataset.schema.names if name not in base]
    scored = [
        n
        for a in directions.adjectives
        for n in (schemas.oaar_column(a), schemas.percentile_column(a))
    ]
    joined = set(attributes.column_names[1:] if attributes is not None else ())
    drop = [
        name
        for name in had
        if name not in schema.names or (renew_attributes and name not in scored)
    ]
    if drop:
        dataset.drop_columns(drop)
    missing = [name for name in schema.names if name not in dataset.schema.names]
    words = [a for a in directions.adjectives if schemas.oaar_column(a) in missing]
    if words:
        _add_scores(dataset, schema, directions.select(words), completion.population)
    if attributes is not None and (names := [n for n in missing if n in joined]):
        _add_attributes(dataset, schema, attributes.select(["creator_id", *names]))


def _add_scores(
    dataset: lance.LanceDataset, schema: pa.Schema, directions: Directions, population: Population
) -> None:
    fields = [
        schema.field(name)
        for a in directions.adjectives
        for name in (schemas.oaar_column(a), schemas.percentile_column(a))
    ]

    @batch_udf(output_schema=pa.schema(fields))
    def score(batch: pa.RecordBatch) -> pa.RecordBatch:
        mean = schemas.matrix(pa.Table.from_batches([batch])["mean_embedding"])
        columns = score_columns(mean, directions, population)
        return pa.RecordBatch.from_arrays(
            [pa.array(columns[field.name], field.type) for field in fields],
            schema=pa.schema(fields),
        )

    dataset.add_columns(score, read_columns=["mean_embedding"])


def _add_attributes(dataset: lance.LanceDataset, schema: pa.Schema, rows: pa.Table) -> None:
    names = rows.column_names[1:]
    fields = pa.schema([schema.field(name) for name in names])
    known = rows["creator_id"].combine_chunks()

    @batch_udf(output_schema=fields)
    def join(batch: pa.RecordBatch) -> pa.RecordBatch:
        places = pc.index_in(batch["creator_id"], known)
        columns = [rows[name].combine_chunks().take(places) for name in names]
        return pa.RecordBatch.from_arrays(columns, schema=fields)

    dataset.add_columns(join, read_columns=["creator_id"])


def merge(
    dataset: lance.LanceDataset, rows: Iterator[pa.Table], gone: Sequence[str]
) -> dict[str, int]:
    """Put rows in place of those of the same creators, and drop those who are gone.

    By the first column, by one committer, and with the counts looked at: anything else has lost
    or doubled rows (lancedb#3177, #3377).

    Returns:
        Rows `inserted`, `updated`, `deleted`.
    """
    counts = {"inserted": 0, "updated": 0, "deleted": 0}
    for table in _gathered(rows, _ROWS_PER_MERGE):
        did = (
            dataset.merge_insert("creator_id")
            .when_matched_update_all()
            .when_not_matched_insert_all()
            .execute(table)
        )
        inserted, updated = did["num_inserted_rows"], did["num_updated_rows"]
        if inserted + updated != table.num_rows:
            raise ContractError(
                f"{dataset.uri}: a merge of {table.num_rows} rows inserted {inserted} and updated"
                f" {updated}; `{LIVE}` stays where it was"
            )
        counts["inserted"] += inserted
        counts["updated"] += updated
    if gone:
        ids = pa.table({"creator_id": pa.array(gone, pa.string())})
        did = dataset.merge_insert("creator_id").when_matched_delete().execute(ids)
        counts["deleted"] = did["num_deleted_rows"]
    return counts


def _gathered(tables: Iterable[pa.Table], rows: int) -> Iterator[pa.Table]:
    """Yield the rows of tables, so many at a time or a few more."""
    held: list[pa.Table] = []
    for table in tables:
        held.append(table)
        if sum(one.num_rows for one in held) >= rows:
            yield pa.concat_tables(held)
            held = []
    if any(one.num_rows for one in held):
        yield pa.concat_tables(held)


def set_record(dataset: lance.LanceDataset, record: dict[str, Any]) -> None:
    """Replace what readers find in the schema's metadata."""
    text = json.dumps(record)
    dataset.update_schema_metadata({METADATA_KEY.decode(): text}, replace=True)


def index(table: TableUri) -> None:
    """Make the indices that a version should have, or bring those that are there up to date."""
    dataset = _open(table)
    if len(dataset.get_fragments()) > MOST_FRAGMENTS:
        # Each merge adds one; queries and plans open them all.
        dataset.optimize.compact_files()
    there = {index.name for index in dataset.describe_indices()}
    if there:
        dataset.optimize.optimize_indices()

    def missing(columns: Iterable[str]) -> list[str]:
        return [column for column in columns if f"{column}_idx" not in there]

    for column in missing(["creator_id"]):
        dataset.create_scalar_index(column, "BTREE")
    rows = dataset.count_rows()
    if rows < INDEX_FROM_ROWS:
        return
    for column in missing(["same"]):
        # One byte per dimension: IVF_PQ and IVF_RQ are smaller, and miss half of what is nearest
        # (benchmarks.query --only choice).
        partitions = max(1, rows // _ROWS_PER_PARTITION)
        dataset.create_index(column, "IVF_SQ", metric="cosine", num_partitions=partitions)
    metadata = metadata_of(dataset.schema) or {}
    percentiles = [schemas.percentile_column(word) for word in metadata["adjectives"]]
    for column in missing([*percentiles, *metadata["attributes"]]):
        if kind := _scalar_index_of(dataset, column):
            dataset.create_scalar_index(column, kind)


def _scalar_index_of(dataset: lance.LanceDataset, column: str) -> Any:
    """Return the kind of index that makes filters by a column quick; None where there is none."""
    of_type = dataset.schema.field(column).type
    if pa.types.is_decimal(of_type):
        return None
    few = pa.types.is_boolean(of_type)
    if pa.types.is_string(of_type):
        values = dataset.to_table(columns=[column])[column]
        few = pc.count_distinct(values).as_py() <= _MOST_BITMAPS
    return "BITMAP" if few else "BTREE"


def require_still_ours(
    table: TableUri, run_id: str, artefact: str = CREATORS
) -> lance.LanceDataset:
    """Return the latest version, if nobody committed after this run.

    Raises:
        OutputError: Somebody did, without taking the lock.
    """
    latest = _open(table)
    if (metadata_of(latest.schema, (artefact,)) or {}).get("run_id") != run_id:
        raise OutputError(
            f"{table.uri}: another publish committed at the same time; `{LIVE}` is left to it"
        )
    return latest


def tag(table: TableUri, name: str, version: int) -> None:
    """Move a tag; if it is `live`, readers see the version from here on."""
    tags = _open(table).tags
    (tags.update if name in tags.list() else tags.create)(name, version)
