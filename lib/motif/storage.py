"""Local folders and S3 buckets behind one set of verbs; every write is whole or absent."""

import bisect
import contextlib
import errno
import json
import os
import stat
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem

from motif.errors import InputError, OutputError

SCHEMES = ("file", "s3")
DELETES_AT_ONCE = 16
WHOLE_BYTES = 4 * 1024 * 1024
FEWEST_ROWS_PER_GROUP = 64

# Seconds without a byte. How often a request is made again is left to botocore and s3fs.
S3_PATIENCE = {"connect_timeout": 5, "read_timeout": 30}


def scheme(uri: str) -> str:
    """Return the URI's scheme; a plain path is `file`."""
    head, separator, _ = uri.partition("://")
    return head.lower() if separator else "file"


def open_filesystem(uri: str) -> tuple[Any, str]:
    """Return the file system of a URI and the path in it.

    Raises:
        InputError: The scheme is not one of `SCHEMES`.
    """
    if scheme(uri) not in SCHEMES:
        raise InputError(
            f"{uri!r:.200}: scheme {scheme(uri)!r} is not allowed; use a local path or s3://"
        )
    if scheme(uri) == "s3":
        fs = fsspec.filesystem("s3", endpoint_url=s3_endpoint(), config_kwargs=S3_PATIENCE)
        return fs, uri.partition("://")[2].rstrip("/")
    return LocalFileSystem(), os.path.abspath(uri[7:] if uri[:7].lower() == "file://" else uri)  # noqa: PTH100 (URIs)


def s3_endpoint() -> str | None:
    """Return the S3 endpoint that the environment names; without one, AWS's own is meant."""
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or None


def s3_without_retries(*, connections: int) -> Any:
    """Return a new s3fs file system that makes each request once, for callers who try again.

    Args:
        connections: Sockets it may hold open.
    """
    fs = fsspec.filesystem(
        "s3",
        endpoint_url=s3_endpoint(),
        config_kwargs={
            **S3_PATIENCE,
            "max_pool_connections": connections,
            "retries": {"total_max_attempts": 1, "mode": "standard"},
        },
        skip_instance_cache=True,  # nobody else may be given one that never tries again
    )
    fs.retries = 1
    return fs


def absolute(uri: str) -> str:
    """Return the URI with a local path made absolute, for workers with other folders."""
    if scheme(uri) == "s3":
        return uri.rstrip("/")
    return open_filesystem(uri)[1]


def join(uri: str, *parts: str) -> str:
    """Return a URI below another."""
    return "/".join([uri.rstrip("/"), *parts])


def exists(uri: str) -> bool:
    """Return whether a file or folder is there."""
    fs, path = open_filesystem(uri)
    return fs.exists(path)


def list_files(uri: str, suffix: str = "") -> list[str]:
    """Return the URIs of the files directly in a folder, sorted; an absent folder is empty."""
    return [found for found in _entries(uri, "file") if found.endswith(suffix)]


def list_folders(uri: str) -> list[str]:
    """Return the URIs of the folders directly in a folder, sorted; an absent folder is empty."""
    return _entries(uri, "directory")


def _entries(uri: str, kind: str) -> list[str]:
    fs, path = open_filesystem(uri)
    fs.invalidate_cache()
    if not fs.isdir(path):
        return []
    # On S3 a folder may hold an empty object of its own name, which consoles and Hadoop make.
    names = sorted(
        str(entry["name"])
        for entry in fs.ls(path, detail=True)
        if entry["type"] == kind and str(entry["name"]).rstrip("/") != path
    )
    return [fs.unstrip_protocol(name) if scheme(uri) == "s3" else name for name in names]


@contextlib.contextmanager
def atomic_writer(uri: str) -> Iterator[IO[bytes]]:
    """Open a file for writing that appears only when the block ends without an error.

    An S3 object appears when it is closed; a local file is renamed into place.

    Raises:
        OutputError: The storage does not take it, such as a full disk.
    """
    try:
        with _whole_or_absent(uri) as file:
            yield file
    except OSError as error:
        raise OutputError(
            f"{uri} cannot be written: {error.strerror or error}; see to space and permission"
            " there, and run the same command again"
        ) from error


@contextlib.contextmanager
def _whole_or_absent(uri: str) -> Iterator[IO[bytes]]:
    fs, path = open_filesystem(uri)
    if not isinstance(fs, LocalFileSystem):
        buffer = pa.BufferOutputStream()
        yield buffer  # type: ignore[misc]
        fs.pipe_file(path, buffer.getvalue().to_pybytes())
        return
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        with scratch.open("wb") as file:
            yield file
        scratch.replace(target)
    finally:
        scratch.unlink(missing_ok=True)


def write_bytes(uri: str, data: bytes) -> None:
    """Write a whole file at once."""
    with atomic_writer(uri) as file:
        file.write(data)


def read_bytes(uri: str, *, limit_bytes: int | None = None) -> bytes:
    """Read a file, at most `limit_bytes + 1` of it, so that a caller can tell that it is larger."""
    fs, path = open_filesystem(uri)
    if limit_bytes is None:
        return fs.cat_file(path)
    if isinstance(fs, LocalFileSystem):
        if not stat.S_ISREG(Path(path).stat().st_mode):
            # A pipe or a device has no end, and would be waited for.
            raise IsADirectoryError(f"{path} is not a regular file")
        with Path(path).open("rb") as file:
            return file.read(limit_bytes + 1)
    try:
        return fs.cat_file(path, start=0, end=limit_bytes + 1)
    except OSError as error:
        if error.errno == errno.EINVAL:
            return b""  # S3 finds no range in an empty object
        raise


def write_json(uri: str, value: dict[str, Any]) -> None:
    """Write a JSON file, indented for people; the key order is the caller's."""
    write_bytes(uri, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())


def read_json(uri: str) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        InputError: The file is absent or holds something else.
    """
    try:
        value = json.loads(read_bytes(uri))
    except FileNotFoundError as error:
        raise InputError(f"{uri} does not exist") from error
    except (UnicodeDecodeError, ValueError) as error:
        raise InputError(f"{uri} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise InputError(f"{uri} holds a {type(value).__name__}, not a JSON object")
    return value


def open_random(uri: str) -> Any:
    """Open a file for reads here and there, without reading ahead."""
    fs, path = open_filesystem(uri)
    if isinstance(fs, LocalFileSystem):
        return fs.open(path, "rb")
    if fs.size(path) <= WHOLE_BYTES:
        return pa.BufferReader(fs.cat_file(path))  # one request in place of five
    return fs.open(path, "rb", cache_type="none")


def size_bytes(uri: str) -> int:
    """Return the size of a file."""
    fs, path = open_filesystem(uri)
    fs.invalidate_cache()
    return int(fs.size(path))


def write_parquet(uri: str, table: pa.Table, *, row_group_bytes: int | None = None) -> None:
    """Write one Parquet file, with a checksum for each page.

    Args:
        uri: Of the file.
        table: What to write.
        row_group_bytes: How much, about, a reader of a few rows must read; None for the library's
            million rows.
    """
    rows = None
    if row_group_bytes is not None and table.num_rows:
        rows = max(FEWEST_ROWS_PER_GROUP, row_group_bytes * table.num_rows // max(table.nbytes, 1))
    # No float occurs often: to look for it costs two thirds of the time, and space.
    texts = [f.name for f in table.schema if not pa.types.is_fixed_size_list(f.type)]
    with atomic_writer(uri) as file:
        pq.write_table(
            table,
            file,  # type: ignore[arg-type]
            compression="zstd",
            write_page_checksum=True,
            use_dictionary=texts,
            row_group_size=rows,
        )


def read_parquet(
    uri: str, columns: list[str] | None = None, *, holding: tuple[str, Sequence[str]] | None = None
) -> pa.Table:
    """Read one Parquet file, or only some of its columns, and check the pages' checksums.

    Args:
        uri: Of the file.
        columns: Names; None for all.
        holding: A column of texts and some values, sorted: row groups that can hold none of them
            are not read. Rows with other values are among the others.

    Raises:
        InputError: The file is damaged or lacks a column.
    """
    try:
        with open_random(uri) as source:
            file = pq.ParquetFile(source, page_checksum_verification=True, pre_buffer=True)
            if holding is None:
                return file.read(columns=columns)
            return file.read_row_groups(_groups_holding(file, *holding), columns=columns)
    except (pa.ArrowException, OSError) as error:
        if not _says_damaged(error):
            raise
        raise InputError(f"{uri} is not a Parquet file we can read: {error}") from error


def _groups_holding(file: pq.ParquetFile, column: str, values: Sequence[str]) -> list[int]:
    """Return the row groups whose least and greatest value leave room for one of the values."""
    found = []
    for number in range(file.metadata.num_row_groups):
        group = file.metadata.row_group(number)
        chunks = (group.column(i) for i in range(group.num_columns))
        chunk = next(chunk for chunk in chunks if chunk.path_in_schema == column)
        known = chunk.statistics
        if known is not None and known.has_min_max:
            first = bisect.bisect_left(values, known.min)
            if first == len(values) or values[first] > known.max:
                continue
        found.append(number)
    return found


def _says_damaged(error: BaseException) -> bool:
    """Tell damage that Arrow finds in a file from storage that does not answer."""
    if isinstance(error, pa.ArrowException):
        return True
    # Arrow's own; that of a file system has a number or a cause.
    return type(error) is OSError and error.errno is None and error.__cause__ is None


def lance_options(uri: str) -> dict[str, str]:
    """Return what Lance needs to be told of an S3 endpoint; credentials it finds by itself."""
    endpoint = s3_endpoint()
    if scheme(uri) != "s3" or not endpoint:
        return {}
    return {"endpoint": endpoint, "allow_http": str(endpoint.startswith("http://")).lower()}


def remove(uri: str) -> None:
    """Delete a file or folder, if it is there."""
    fs, path = open_filesystem(uri)
    if isinstance(fs, LocalFileSystem):
        if fs.exists(path):
            fs.rm(path, recursive=True)
        return
    # One by one: `rm` takes brackets and stars in a key for a pattern, which may match others'.
    fs.invalidate_cache()
    below = [key for key in fs.find(path) if key == path or key.startswith(f"{path}/")]
    with ThreadPoolExecutor(DELETES_AT_ONCE) as pool:
        list(pool.map(fs.rm_file, below))
