"""Where IMAGES come from: manifest files, a folder of them, or a listing; read piece by piece.

A manifest of any size is never in one place: a `Piece` is what one task reads, and it reads it as
tables of about `PIECE_ROWS` rows.
"""

import logging
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet as pq

from motif import storage
from motif.errors import InputError

log = logging.getLogger(__name__)

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif")
MANIFEST_SUFFIX = re.compile(r"\.(parquet|(csv|jsonl|ndjson|json)(\.gz|\.zst)?)$", re.IGNORECASE)
TEXT_COLUMNS = ("image_id", "creator_id", "uri", "version", "posted_at")
CREATOR = "{creator_id}"

PIECE_ROWS = 262_144
PIECE_BYTES = 64 * 1024 * 1024  # of text; also what column types are inferred from
ROWS_PER_FOLDER = 100  # a guess, for the number of buckets
LISTED_FOLDERS = 256  # by one task
FOOTER_READERS = 16


@dataclass(frozen=True)
class Piece:
    """What one task reads: some row groups of a Parquet file, a text file, or some folders."""

    uri: str
    """A manifest file, or the template that is listed."""
    row_groups: tuple[int, ...] = ()
    first_row: int = 0
    """Number, in the file, of the piece's first row."""
    folders: tuple[str, ...] | None = None
    """To list; None for a manifest file."""
    weight_rows: int = PIECE_ROWS
    """About how many rows it has, to put small pieces together."""


def find(uri: str) -> list[Piece]:
    """Lay out what `--images` names, without reading its rows.

    Args:
        uri: A manifest file (`.parquet`, `.csv`, `.jsonl`; text also as `.gz` or `.zst`), a folder
            of manifest files, a path template with `{creator_id}` in it, or a folder with one
            subfolder per creator, which is the template `FOLDER/{creator_id}/**`.

    Raises:
        InputError: Nothing is there, or nothing that we know.
    """
    if CREATOR in uri:
        return _listing(uri)
    fs, path = storage.open_filesystem(uri)
    fs.invalidate_cache()
    if not fs.exists(path):
        raise InputError(f"--images {uri} does not exist")
    if fs.isdir(path):
        entries = [entry for entry in fs.ls(path, detail=True) if not _hidden(entry["name"])]
        files = sorted(e["name"] for e in entries if e["type"] == "file")
        manifests = [name for name in files if MANIFEST_SUFFIX.search(name)]
        if manifests and not any(entry["type"] == "directory" for entry in entries):
            names = [_as_uri(fs, name, uri) for name in manifests]
        else:
            if re.search(r"[*?]", uri):
                raise InputError(
                    f"--images {uri}: a folder with * or ? in its name is no folder"
                    " that can be listed; rename it, or pass a manifest"
                )
            return _listing(storage.join(uri, CREATOR, "**"))
    elif MANIFEST_SUFFIX.search(uri):
        names = [uri]
    else:
        raise InputError(f"--images {uri}: expected a folder or a .csv, .jsonl or .parquet file")
    with ThreadPoolExecutor(FOOTER_READERS) as pool:
        return [piece for found in pool.map(_pieces_of_file, names) for piece in found]


def group(pieces: Sequence[Piece]) -> list[list[Piece]]:
    """Put small pieces together, in order, into tasks of about `PIECE_ROWS` rows."""
    tasks: list[list[Piece]] = []
    rows = PIECE_ROWS
    for piece in pieces:
        if rows + piece.weight_rows > PIECE_ROWS:
            tasks.append([])
            rows = 0
        tasks[-1].append(piece)
        rows += piece.weight_rows
    return tasks


def read(piece: Piece) -> Iterator[tuple[int, pa.Table]]:
    """Yield (number of the first row, raw rows) of a piece, a table at a time.

    Raises:
        InputError: The file cannot be read.
    """
    if piece.folders is not None:
        yield 0, _list(piece)
        return
    tables = _read_parquet(piece) if _is_parquet(piece.uri) else _read_text(piece.uri)
    row = piece.first_row
    try:
        for table in tables:
            yield row, table
            row += table.num_rows
    except (pa.ArrowInvalid, pa.ArrowKeyError, pa.ArrowNotImplementedError) as error:
        raise InputError(f"manifest {piece.uri} cannot be read: {error}") from error
    except OSError as error:
        if isinstance(error, PermissionError):
            raise
        raise InputError(f"manifest {piece.uri} cannot be read: {error}") from error


def _hidden(path: str) -> bool:
    return path.rstrip("/").rsplit("/", 1)[-1].startswith((".", "_"))


def _as_uri(fs: Any, path: str, like: str) -> str:
    return fs.unstrip_protocol(path) if storage.scheme(like) == "s3" else path


def _is_parquet(uri: str) -> bool:
    return uri.lower().endswith(".parquet")


def _pieces_of_file(uri: str) -> list[Piece]:
    if not _is_parquet(uri):
        fs, path = storage.open_filesystem(uri)
        # A row is taken to have some 64 bytes of text; compressed text grows.
        return [Piece(uri, weight_rows=int(fs.size(path)) // 64 + 1)]
    fs, path = storage.open_filesystem(uri)
    try:
        with fs.open(path, "rb") as file:
            footer = pq.read_metadata(file)
    except (pa.ArrowInvalid, OSError) as error:
        if isinstance(error, PermissionError):
            raise
        raise InputError(f"manifest {uri} is not a Parquet file we can read: {error}") from error
    pieces, groups, rows, first = [], [], 0, 0
    for index in range(footer.num_row_groups):
        groups.append(index)
        rows += footer.row_group(index).num_rows
        if rows >= PIECE_ROWS or index == footer.num_row_groups - 1:
            pieces.append(Piece(uri, tuple(groups), first, weight_rows=rows))
            first, groups, rows = first + rows, [], 0
    return pieces or [Piece(uri, weight_rows=0)]


def _read_parquet(piece: Piece) -> Iterator[pa.Table]:
    fs, path = storage.open_filesystem(piece.uri)
    with fs.open(path, "rb") as opened:
        file = pq.ParquetFile(opened)
        if not piece.weight_rows:  # none, or only empty row groups
            yield file.schema_arrow.empty_table()
        for batch in file.iter_batches(PIECE_ROWS, row_groups=list(piece.row_groups)):
            yield pa.Table.from_batches([batch])


def _read_text(uri: str) -> Iterator[pa.Table]:
    fs, path = storage.open_filesystem(uri)
    with fs.open(path, "rb") as opened:
        compression = {"gz": "gzip", "zst": "zstd"}.get(uri.lower().rsplit(".", 1)[-1])
        source = pa.PythonFile(opened, "r")
        stream = pa.CompressedInputStream(source, compression) if compression else source
        plain = uri.lower().rsplit(".", 2 if compression else 1)[1]
        yield from _read_csv(stream) if plain == "csv" else _read_json(stream)


def _read_csv(stream: pa.NativeFile) -> Iterator[pa.Table]:
    reader = pyarrow.csv.open_csv(
        stream,
        read_options=pyarrow.csv.ReadOptions(block_size=PIECE_BYTES),
        parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True),
        convert_options=pyarrow.csv.ConvertOptions(
            column_types=dict.fromkeys(TEXT_COLUMNS, pa.string()), strings_can_be_null=False
        ),
    )
    yielded = False
    for batch in reader:
        yielded = True
        yield pa.Table.from_batches([batch])
    if not yielded:
        yield reader.schema.empty_table()


def _read_json(stream: pa.NativeFile) -> Iterator[pa.Table]:
    """Read whole lines, about `PIECE_BYTES` of them at a time."""
    rest = b""
    yielded = False
    while block := stream.read(PIECE_BYTES):
        head, newline, tail = block.rpartition(b"\n")
        if not newline:
            rest += block
            continue
        yield _parse_json(rest + head + newline)
        yielded, rest = True, tail
    if rest.strip() or not yielded:
        yield _parse_json(rest)


def _parse_json(lines: bytes) -> pa.Table:
    # A block must hold the longest line.
    read = pyarrow.json.ReadOptions(block_size=max(len(lines), 1))
    source = pa.BufferReader(lines)
    table = pyarrow.json.read_json(source, read_options=read)
    # Text that looks like a date is taken for one; an id must stay what it was.
    dates = [
        name
        for name in TEXT_COLUMNS
        if name in table.schema.names and pa.types.is_timestamp(table.schema.field(name).type)
    ]
    if not dates:
        return table
    source.seek(0)
    explicit = pa.schema([(name, pa.string()) for name in dates])
    return pyarrow.json.read_json(
        source,
        read_options=read,
        parse_options=pyarrow.json.ParseOptions(explicit_schema=explicit),
    )


def _listing(template: str) -> list[Piece]:
    """Share out the creators' folders of a template, which many tasks then list."""
    template = storage.absolute(template)
    pattern(template)
    root, level = root_of(template)
    if storage.scheme(template) == "s3" and not root.startswith("s3://"):
        raise InputError(f"--images {template}: name the bucket, without {CREATOR} or wildcards")
    fs, path = storage.open_filesystem(root)
    fs.invalidate_cache()
    if not fs.exists(path):
        raise InputError(f"--images {template}: {root} does not exist")
    if level != CREATOR:
        return [Piece(template, folders=(root,))]
    entries = fs.ls(path, detail=True)
    folders = sorted(
        _as_uri(fs, entry["name"], root)
        for entry in entries
        if entry["type"] == "directory" and not _name(entry["name"]).startswith(".")
    )
    if strays := len(entries) - len(folders):
        log.info("ignored what is no creator's folder in %s: %d entries", root, strays)
    if not folders:
        raise InputError(
            f"--images {root} holds no images; expected one subfolder per creator with image"
            " files in it"
        )
    step = max(LISTED_FOLDERS, -(-len(folders) // 256))
    return [
        Piece(
            template,
            folders=tuple(folders[start : start + step]),
            weight_rows=ROWS_PER_FOLDER * len(folders[start : start + step]),
        )
        for start in range(0, len(folders), step)
    ]


def _name(path: str) -> str:
    return path.rstrip("/").rsplit("/", 1)[-1]


def root_of(template: str) -> tuple[str, str]:
    """Return the folder above a template's first wildcard, and the part that holds that."""
    parts = template.split("/")
    first = next(i for i, part in enumerate(parts) if re.search(r"[*?]|\{creator_id\}", part))
    return "/".join(parts[:first]) or "/", parts[first]


def pattern(template: str) -> re.Pattern[str]:
    """Return the expression that a listed URI must match; its group is the creator.

    Raises:
        InputError: The template names the creator twice.
    """
    if template.count(CREATOR) != 1:
        raise InputError(f"--images {template}: expected {CREATOR} once")
    tokens = {
        CREATOR: r"(?P<creator_id>[^/]+?)",
        "**/": r"(?:.*/)?",
        "**": r".*",
        "*": r"[^/]*",
        "?": r"[^/]",
    }
    parts = re.split(r"(\{creator_id\}|\*\*/|\*\*|\*|\?)", template)
    return re.compile("".join(tokens.get(part) or re.escape(part) for part in parts), re.DOTALL)


def _list(piece: Piece) -> pa.Table:
    expression = pattern(piece.uri)
    # A template that names a suffix is taken at its word; `**` alone takes pictures.
    takes_any = "." in piece.uri.rsplit("/", 1)[-1]
    rows, ignored = [], 0
    for folder in piece.folders or ():
        fs, path = storage.open_filesystem(folder)
        found: dict[str, dict] = fs.find(path, detail=True)
        for name, info in sorted(found.items()):
            uri = _as_uri(fs, name, folder)
            match = expression.fullmatch(uri)
            if any(part.startswith(".") for part in name[len(path) :].split("/")):
                continue
            if not match or not (takes_any or uri.lower().endswith(IMAGE_SUFFIXES)):
                ignored += 1
                continue
            if not _is_unicode(uri):
                log.warning("left out %a: its name is not UTF-8", uri)
                continue
            creator = match["creator_id"]
            rows.append({"creator_id": creator, "uri": uri, "version": _version(info)})
    if ignored:
        log.info("ignored %d files that are no images of %s", ignored, piece.uri)
    schema = pa.schema([(name, pa.string()) for name in ("creator_id", "uri", "version")])
    return pa.Table.from_pylist(rows, schema=schema)


def _is_unicode(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def _version(info: dict[str, Any]) -> str:
    if "ETag" in info:
        return str(info["ETag"]).strip('"')
    return f"{datetime.fromtimestamp(info['mtime'], tz=UTC).isoformat()}-{info['size']}"
