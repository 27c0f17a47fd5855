"""Reading IMAGES: a manifest file (CSV, JSON lines, Parquet) or a folder of creators."""

import hashlib
import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.json

from motif import schemas, storage
from motif.errors import InputError

log = logging.getLogger(__name__)

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif")
_TEXT_COLUMNS = ("image_id", "creator_id", "uri", "version", "posted_at")


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
    """Read a manifest or a folder with one subfolder per creator.

    Args:
        uri: A `.csv`, `.jsonl`, `.ndjson`, `.json` or `.parquet` file, or a folder.
        carry: Further manifest columns that travel into EMBEDDINGS.

    Raises:
        InputError: Nothing there, a column is missing, no images, two different rows of one id.
    """
    fs, path = storage.open_filesystem(uri)
    if not fs.exists(path):
        raise InputError(f"--images {uri} does not exist")
    if fs.isdir(path):
        if carry:
            raise InputError(
                f"--carry {','.join(carry)}: {uri} is a folder, which has no columns to carry;"
                " pass a manifest file"
            )
        table = _read_folder(uri)
    else:
        table = _read_file(uri)
    names = table.schema.names
    if twice := [name for name in names if names.count(name) > 1]:
        raise InputError(f"manifest {uri} has the column {twice[0]!r} twice")
    if reserved := sorted(schemas.RESERVED.intersection(carry)):
        raise InputError(
            f"--carry {reserved[0]}: EMBEDDINGS has a column {reserved[0]!r} of its own; rename the"
            " manifest's"
        )
    if missing := [name for name in ("creator_id", "uri", *carry) if name not in names]:
        raise InputError(f"manifest {uri} lacks the column {missing[0]!r}; it has {names}")
    if not table.num_rows:
        raise InputError(f"{uri} names no images")
    return _to_manifest(table, uri, list(carry))


def bucket_of(creator_id: str, buckets: int) -> int:
    """Return the bucket in [0, buckets) of all of a creator's images."""
    digest = hashlib.sha256(creator_id.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") % buckets


def _read_file(uri: str) -> pa.Table:
    suffix = uri.rsplit(".", 1)[-1].lower()
    if suffix not in ("csv", "jsonl", "ndjson", "json", "parquet"):
        raise InputError(f"--images {uri}: expected a folder or a .csv, .jsonl or .parquet file")
    if suffix == "parquet":
        return storage.read_parquet(uri)
    source = pa.BufferReader(storage.read_bytes(uri))
    try:
        if suffix == "csv":
            return pyarrow.csv.read_csv(
                source,
                parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True),
                convert_options=pyarrow.csv.ConvertOptions(
                    column_types=dict.fromkeys(_TEXT_COLUMNS, pa.string()),
                    strings_can_be_null=False,
                ),
            )
        return _read_json(source)
    except pa.ArrowInvalid as error:
        raise InputError(f"manifest {uri} cannot be read: {error}") from error


def _read_json(source: pa.BufferReader) -> pa.Table:
    table = pyarrow.json.read_json(source)
    # Text that looks like a date is taken for one; an id must stay what it was.
    dates = [
        name
        for name in _TEXT_COLUMNS
        if name in table.schema.names and pa.types.is_timestamp(table.schema.field(name).type)
    ]
    if not dates:
        return table
    source.seek(0)
    return pyarrow.json.read_json(
        source,
        parse_options=pyarrow.json.ParseOptions(
            explicit_schema=pa.schema([(name, pa.string()) for name in dates])
        ),
    )


def _read_folder(uri: str) -> pa.Table:
    fs, root = storage.open_filesystem(uri)
    rows, ignored = [], 0
    found: dict[str, dict] = fs.find(root, detail=True)  # type: ignore[assignment]
    for path, info in sorted(found.items()):
        parts = path[len(root) :].strip("/").split("/")
        if any(part.startswith(".") for part in parts):
            continue
        if len(parts) < 2 or not path.lower().endswith(IMAGE_SUFFIXES):
            ignored += 1
            continue
        if not _is_unicode(path):
            log.warning("left out %a: its name is not UTF-8", path)
            continue
        full = fs.unstrip_protocol(path) if storage.scheme(uri) == "s3" else path
        rows.append({"creator_id": parts[0], "uri": full, "version": _version(info)})
    if ignored:
        log.info("ignored %d files of %s that are no images in a creator's subfolder", ignored, uri)
    if not rows:
        raise InputError(
            f"{uri} holds no images; expected one subfolder per creator with image files in it"
        )
    return pa.Table.from_pylist(rows)


def _is_unicode(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def _version(info: dict) -> str:
    if "ETag" in info:
        return str(info["ETag"]).strip('"')
    return f"{datetime.fromtimestamp(info['mtime'], tz=UTC).isoformat()}-{info['size']}"


def _to_manifest(table: pa.Table, uri: str, carry: list[str]) -> Manifest:
    columns = {name: _text_column(table, name, uri) for name in ("creator_id", "uri")}
    creators, uris = columns["creator_id"].to_pylist(), columns["uri"].to_pylist()
    valid = [bool(c and c.strip() and u and u.strip()) for c, u in zip(creators, uris, strict=True)]
    rejected = pa.Table.from_pylist(
        list(_rejections(valid, creators, uris, uri)), schema=schemas.FAILURES
    )
    resolved = _resolve(uris, uri)
    if "image_id" in table.schema.names:
        ids = _text_column(table, "image_id", uri).to_pylist()
        if any(ok and not i for ok, i in zip(valid, ids, strict=True)):
            raise InputError(f"manifest {uri}: an image_id is empty; fill it or drop the column")
    else:
        ids = [image_id(c or "", u or "") for c, u in zip(creators, resolved, strict=True)]
    full = {
        "image_id": pa.array(ids, pa.string()),
        "creator_id": columns["creator_id"],
        "uri": pa.array(resolved, pa.string()),
        "version": _text_column(table, "version", uri),
        "posted_at": _posted_at(table, uri),
        **{name: table[name] for name in carry if name not in schemas.IMAGES.names},
    }
    kept = pa.table(full).filter(pa.array(valid))
    unique = _collapse(kept, uri)
    fields = [kept.schema.field(name) for name in kept.schema.names[len(schemas.IMAGES) :]]
    return Manifest(
        images=schemas.conform(unique, schemas.images(fields)),
        rejected=rejected,
        duplicates=kept.num_rows - unique.num_rows,
        rows=table.num_rows,
    )


def image_id(creator_id: str, uri: str) -> str:
    """Return the default id: 32 hexadecimal digits of the hash of (creator_id, uri)."""
    text = json.dumps([creator_id, uri], ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _text_column(table: pa.Table, name: str, uri: str) -> pa.ChunkedArray:
    if name not in table.schema.names:
        return pa.chunked_array([pa.nulls(table.num_rows, pa.string())])
    column = _decoded(table[name])
    kind = column.type
    # Whole numbers have one spelling; floats, dates and the like have many.
    if not (_is_text(kind) or pa.types.is_null(kind) or pa.types.is_integer(kind)):
        raise InputError(f"manifest {uri}: column {name!r} is {kind}, expected text")
    return column.cast(pa.string())


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


def _resolve(uris: list[str | None], manifest: str) -> list[str | None]:
    folder = storage.absolute(manifest).rsplit("/", 1)[0]
    return [
        u if not u or "://" in u or u.startswith("/") else storage.join(folder, u) for u in uris
    ]


def _rejections(
    valid: list[bool], creators: list[str | None], uris: list[str | None], manifest: str
) -> Iterator[dict]:
    for row, ok in enumerate(valid):
        if not ok:
            lacking = "uri" if creators[row] and str(creators[row]).strip() else "creator_id"
            yield {
                "image_id": f"row-{row}",
                "creator_id": creators[row],
                "uri": uris[row],
                "stage": "manifest",
                "error_class": "invalid_row",
                "message": f"row {row} of {manifest} has an empty {lacking}",
                "attempts": 1,
            }


def _collapse(table: pa.Table, uri: str) -> pa.Table:
    """Drop rows that repeat another; refuse two different rows of one id."""
    if pc.count_distinct(table["image_id"]).as_py() == table.num_rows:
        return table
    first: dict[str, tuple[int, str]] = {}
    keep = []
    for index, row in enumerate(table.to_pylist()):
        text = json.dumps(row, default=str, sort_keys=True)
        known = first.setdefault(row["image_id"], (index, text))
        if known[0] == index:
            keep.append(index)
        elif known[1] != text:
            raise InputError(
                f"manifest {uri}: two different rows have one image_id {row['image_id']!r}"
                f" (creator {row['creator_id']!r}, uri {row['uri']!r}); give each image its own"
            )
    return table.take(keep)
