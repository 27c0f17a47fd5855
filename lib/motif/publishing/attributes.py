"""Attributes of creators, such as country and followers: columns of the publisher's own."""

import re
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from motif import schemas
from motif.artefacts import table_files
from motif.errors import InputError

LIMIT_BYTES = 4 * 1024**3
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")
_OURS = frozenset(schemas.creators(1, 1, []).names)


@dataclass(frozen=True)
class Attributes:
    """One row per creator: `creator_id` and the columns that readers filter by."""

    rows: pa.Table
    digest: str
    """Of the file: the same content needs no second join."""

    @property
    def names(self) -> list[str]:
        """Columns without `creator_id`."""
        return self.rows.column_names[1:]


def read(uri: str) -> Attributes:
    """Read a `.parquet`, `.csv` or `.jsonl` file (the last two also `.gz`).

    Raises:
        InputError: It is absent or damaged, lacks `creator_id`, names a creator twice, or has a
            column of a name or type that CREATORS cannot take.
    """
    rows, digest = table_files.read(
        uri, flag="--attributes", texts=["creator_id"], limit_bytes=LIMIT_BYTES
    )
    return Attributes(_checked(rows, uri), digest[:16])


def _checked(rows: pa.Table, uri: str) -> pa.Table:
    where = f"--attributes {uri}"
    if "creator_id" not in rows.column_names:
        raise InputError(f"{where} has no column creator_id; it has {rows.column_names}")
    if len(set(rows.column_names)) < len(rows.column_names):
        raise InputError(f"{where} has two columns of one name")
    names = [name for name in rows.column_names if name != "creator_id"]
    if not names:
        raise InputError(f"{where} has no column beside creator_id")
    for name in names:
        if name in _OURS or name.startswith(("oaar_", "_")) or not _NAME.fullmatch(name):
            raise InputError(
                f"{where}: a column cannot be named {name!r:.80}: letters, digits and `_`, and no"
                " name that CREATORS or Lance use"
            )
        kind = rows.schema.field(name).type
        if not (_is_text(kind) or pa.types.is_primitive(kind)) or pa.types.is_float16(kind):
            raise InputError(f"{where}: column {name} is of type {kind}; expected one value a row")
    ids = rows["creator_id"]
    if not _is_text(ids.type):
        raise InputError(f"{where}: creator_id is of type {ids.type}; expected text")
    ids = ids.cast(pa.string())
    if ids.null_count:
        raise InputError(f"{where}: {ids.null_count} rows have no creator_id")
    counts = pc.value_counts(ids.combine_chunks())
    twice = counts.filter(pc.greater(counts.field("counts"), 1))
    if len(twice):
        first = twice.field("values")[0].as_py()
        raise InputError(
            f"{where}: {len(twice)} creators have several rows (first: {first!r:.80}); keep one"
        )
    columns = {"creator_id": ids}
    for name in names:
        try:
            columns[name] = rows[name].cast(_published_type(rows.schema.field(name).type))
        except pa.ArrowInvalid as error:
            raise InputError(f"{where}: column {name} does not fit: {error}") from error
    return pa.table(columns).combine_chunks()


def _published_type(kind: pa.DataType) -> pa.DataType:
    """Return the type of a column in CREATORS: Lance filters by no unsigned or large type."""
    if _is_text(kind):
        return pa.string()
    signed = {pa.uint8(): pa.int16(), pa.uint16(): pa.int32()}
    if pa.types.is_unsigned_integer(kind):
        return signed.get(kind, pa.int64())
    return kind


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        return _is_text(kind.value_type)
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)
