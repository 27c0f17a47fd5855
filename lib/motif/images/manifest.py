"""From the raw rows of a manifest to IMAGES: ids, text, times; rows without creator or URI."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from motif import schemas, storage
from motif.errors import InputError
from motif.images import source


@dataclass(frozen=True)
class Manifest:
    """What is to be encoded; `rows = len(images) + len(rejected) + duplicates`."""

    images: pa.Table
    """IMAGES rows plus the carried columns, one per image id, in the manifest's order."""
    rejected: pa.Table
    """FAILURES rows of the manifest's rows that name no creator or no URI."""
    duplicates: int
    """Rows that repeat another row exactly, and were collapsed into it."""
    rows: int

    @property
    def carried(self) -> list[pa.Field]:
        """The fields that travel into EMBEDDINGS, beyond those of IMAGES."""
        return list(self.images.schema)[len(schemas.IMAGES) :]


def read_images(uri: str, *, carry: Sequence[str] = ()) -> Manifest:
    """Read all of a manifest or folder at once, for sets that fit in memory.

    Args:
        uri: As for `source.find`.
        carry: Further manifest columns that travel into EMBEDDINGS.

    Raises:
        InputError: Nothing there, a column is missing, no images, two different rows of one id.
    """
    pieces = source.find(uri)
    fields = carried_fields(pieces, carry)
    images, rejected, rows = [], [], 0
    for piece in pieces:
        for first_row, table in source.read(piece):
            good, bad = to_images(table, piece.uri, carried=fields, first_row=first_row)
            images.append(good)
            rejected.append(bad)
            rows += table.num_rows
    require_rows(rows, uri)
    kept = pa.concat_tables(images)
    unique = collapse(kept, uri)
    return Manifest(
        images=unique,
        rejected=pa.concat_tables(rejected),
        duplicates=kept.num_rows - unique.num_rows,
        rows=rows,
    )


def require_rows(rows: int, uri: str) -> None:
    """Refuse a manifest or a listing with nothing in it.

    Raises:
        InputError: `rows` is 0.
    """
    if not rows:
        raise InputError(
            f"--images {uri} names no images: it holds no images in creators' folders, or no rows"
        )


def carried_fields(pieces: Sequence[source.Piece], carry: Sequence[str]) -> list[pa.Field]:
    """Return the types of the carried columns, as the first piece has them.

    Raises:
        InputError: A name is taken, or the manifest lacks it.
    """
    if reserved := sorted(schemas.RESERVED.intersection(carry)):
        raise InputError(
            f"--carry {reserved[0]}: EMBEDDINGS has a column {reserved[0]!r} of its own; rename the"
            " manifest's"
        )
    if carry and pieces[0].folders is not None:
        raise InputError(
            f"--carry {','.join(carry)}: {pieces[0].uri} is a folder, which has no columns to"
            " carry; pass a manifest file"
        )
    if not carry:
        return []
    _, table = next(source.read(pieces[0]))
    _require_columns(table, pieces[0].uri, carry)
    return [_plain(table.schema.field(name)) for name in carry if name not in schemas.IMAGES.names]


def _plain(field: pa.Field) -> pa.Field:
    """Return a field whose categories, such as pandas writes, are the values themselves."""
    kind = field.type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    # Few of Arrow's functions know views yet.
    return field.with_type(pa.string() if pa.types.is_string_view(kind) else kind)


def _require_columns(table: pa.Table, uri: str, carry: Sequence[str]) -> None:
    names = table.schema.names
    if twice := [name for name in names if names.count(name) > 1]:
        raise InputError(f"manifest {uri} has the column {twice[0]!r} twice")
    if missing := [name for name in ("creator_id", "uri", *carry) if name not in names]:
        raise InputError(f"manifest {uri} lacks the column {missing[0]!r}; it has {names}")


def bucket_of(creator_id: str, buckets: int) -> int:
    """Return the bucket in [0, buckets) of all of a creator's images."""
    digest = hashlib.sha256(creator_id.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") % buckets


def buckets_of(creator_ids: pa.ChunkedArray, buckets: int) -> np.ndarray:
    """Return the bucket of each row; every creator is hashed once."""
    codes = creator_ids.combine_chunks().dictionary_encode()
    if isinstance(codes, pa.ChunkedArray):
        codes = codes.combine_chunks()
    found = np.array([bucket_of(c, buckets) for c in codes.dictionary.to_pylist()], np.int32)
    return found[codes.indices.to_numpy(zero_copy_only=False)]


def to_images(
    table: pa.Table, uri: str, *, carried: Sequence[pa.Field], first_row: int = 0
) -> tuple[pa.Table, pa.Table]:
    """Bring raw rows into the schema of IMAGES.

    Args:
        table: As the file has them.
        uri: Of the file, for relative URIs and for refusals.
        carried: Fields that travel along.
        first_row: Number of the table's first row in the file.

    Returns:
        IMAGES rows with the carried columns, repeated rows among them, and the FAILURES rows of
        those that name no creator or no URI.

    Raises:
        InputError: A column is missing or of a type that cannot be meant.
    """
    _require_columns(table, uri, [field.name for field in carried])
    creators, uris = (_text_column(table, name, uri) for name in ("creator_id", "uri"))
    valid = pc.and_(_has_text(creators), _has_text(uris))
    rejected = pa.Table.from_pylist(
        list(_rejections(valid, creators, uris, uri, first_row)), schema=schemas.FAILURES
    )
    columns = {
        "creator_id": creators,
        "uri": _resolve(uris, uri),
        "version": _version(table, uri),
        "posted_at": _posted_at(table, uri),
        **{field.name: _carried(table[field.name], field, uri) for field in carried},
    }
    if own_ids := "image_id" in table.schema.names:
        columns["image_id"] = _text_column(table, "image_id", uri)
    rows = pa.table(columns).filter(valid)
    if own_ids:
        if pc.any(pc.fill_null(pc.equal(rows["image_id"], ""), True)).as_py():
            raise InputError(f"manifest {uri}: an image_id is empty; fill it or drop the column")
    else:
        pairs = zip(rows["creator_id"].to_pylist(), rows["uri"].to_pylist(), strict=True)
        ids = [image_id(creator, at) for creator, at in pairs]
        rows = rows.append_column("image_id", pa.array(ids, pa.string()))
    return schemas.conform(rows, schemas.images(carried)), rejected


def image_id(creator_id: str, uri: str) -> str:
    """Return the default id: 32 hexadecimal digits of the hash of (creator_id, uri)."""
    text = json.dumps([creator_id, uri], ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def collapse(rows: pa.Table, uri: str) -> pa.Table:
    """Drop rows that repeat another; refuse two different rows of one id.

    Raises:
        InputError: Names the id and both rows' creators and URIs.
    """
    codes = rows["image_id"].combine_chunks().dictionary_encode()
    if isinstance(codes, pa.ChunkedArray):
        codes = codes.combine_chunks()
    if len(codes.dictionary) == rows.num_rows:
        return rows
    code = codes.indices.to_numpy(zero_copy_only=False)
    _, first = np.unique(code, return_index=True)
    repeats = np.setdiff1d(np.arange(rows.num_rows), first, assume_unique=True)
    one, other = rows.take(repeats), rows.take(first[code[repeats]])
    if not one.equals(other):
        pairs = zip(one.to_pylist(), other.to_pylist(), strict=True)
        for a, b in pairs:
            if json.dumps(a, default=str) != json.dumps(b, default=str):
                raise InputError(
                    f"manifest {uri}: two different rows have one image_id {a['image_id']!r}"
                    f" (creator {b['creator_id']!r}, uri {b['uri']!r} and creator"
                    f" {a['creator_id']!r}, uri {a['uri']!r}); give each image its own"
                )
    return rows.take(np.sort(first))


def _carried(column: pa.ChunkedArray, field: pa.Field, uri: str) -> pa.ChunkedArray:
    try:
        return _decoded(column).cast(field.type)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise InputError(
            f"manifest {uri}: the carried column {field.name!r} is {column.type} here and"
            f" {field.type} in what was read before: {error}"
        ) from error


def _has_text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.fill_null(pc.not_equal(pc.utf8_trim_whitespace(column), ""), False)


def _text_column(table: pa.Table, name: str, uri: str) -> pa.ChunkedArray:
    if name not in table.schema.names:
        return pa.chunked_array([pa.nulls(table.num_rows, pa.string())])
    column = _decoded(table[name])
    kind = column.type
    # Whole numbers have one spelling; floats, dates and the like have many.
    if not (_is_text(kind) or pa.types.is_null(kind) or pa.types.is_integer(kind)):
        raise InputError(f"manifest {uri}: column {name!r} is {kind}, expected text")
    return column.cast(pa.string())


def _version(table: pa.Table, uri: str) -> pa.ChunkedArray:
    column = _text_column(table, "version", uri)
    return pc.if_else(pc.equal(column, ""), None, column)  # an empty field of a CSV


def _decoded(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return the values of a dictionary, such as pandas writes for its categories."""
    kind = column.type
    return column.cast(kind.value_type) if pa.types.is_dictionary(kind) else column


def _is_text(kind: pa.DataType) -> bool:
    return (
        pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    )


def _posted_at(table: pa.Table, uri: str) -> pa.ChunkedArray:
    target = schemas.IMAGES.field("posted_at").type
    if "posted_at" not in table.schema.names:
        return pa.chunked_array([pa.nulls(table.num_rows, target)])
    column = _decoded(table["posted_at"])
    kind = column.type
    try:
        if _is_text(kind):
            return _parse_times(column.cast(pa.string()))
        if pa.types.is_integer(kind):
            raise InputError(
                f"manifest {uri}: posted_at is {kind}, a number of no known unit; write times as"
                " text (2024-02-03T04:05:06Z) or as Arrow timestamps"
            )
        # Nanoseconds are cut; no other cast may lose anything.
        cut = pa.types.is_timestamp(kind) and kind.unit == "ns"
        zone = kind.tz if pa.types.is_timestamp(kind) else None
        column = column.cast(pa.timestamp("us", zone), safe=not cut)
        return pc.assume_timezone(column, "UTC") if zone is None else column.cast(target)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise InputError(f"manifest {uri}: posted_at is not a time: {error}") from error


def _parse_times(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Parse ISO 8601, with a zone or, in UTC, without; empty text is no time."""
    column = pc.if_else(pc.equal(column, ""), None, column)
    column = pc.replace_substring_regex(column, r"(\.\d{6})\d+", r"\1")
    zoned = pc.match_substring_regex(column, r"[T ].*(Z|[+-]\d\d(:?\d\d)?)$")
    with_zone = pc.if_else(zoned, column, None).cast(pa.timestamp("us", "UTC"))
    without = pc.if_else(zoned, None, column).cast(pa.timestamp("us"))
    return pc.coalesce(with_zone, pc.assume_timezone(without, "UTC"))


def _resolve(uris: pa.ChunkedArray, manifest: str) -> pa.ChunkedArray:
    """Take relative URIs from the manifest's own folder."""
    absolute = pc.or_(pc.match_substring(uris, "://"), pc.starts_with(uris, "/"))
    if not len(uris) or pc.all(absolute).as_py():
        return uris
    folder = storage.absolute(manifest).rsplit("/", 1)[0]
    return pc.if_else(absolute, uris, pc.binary_join_element_wise(folder, uris, "/"))


def _rejections(
    valid: pa.ChunkedArray,
    creators: pa.ChunkedArray,
    uris: pa.ChunkedArray,
    manifest: str,
    first_row: int,
) -> Iterator[dict]:
    for index in np.flatnonzero(~valid.to_numpy()):
        row = first_row + int(index)
        creator, uri = creators[int(index)].as_py(), uris[int(index)].as_py()
        lacking = "uri" if creator and creator.strip() else "creator_id"
        yield {
            "image_id": f"{manifest.rsplit('/', 1)[-1]}#{row}",
            "creator_id": creator,
            "uri": uri,
            "version": None,
            "stage": "manifest",
            "error_class": "invalid_row",
            "message": f"row {row} of {manifest} has an empty {lacking}",
            "attempts": 1,
        }
