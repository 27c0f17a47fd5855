"""Local folders and S3 buckets behind one set of verbs; every write is whole or absent."""

import contextlib
import errno
import json
import os
import stat
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem

from motif.errors import InputError

SCHEMES = ("file", "s3")


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
        return fsspec.filesystem("s3"), uri.partition("://")[2].rstrip("/")
    return LocalFileSystem(), os.path.abspath(uri[7:] if uri[:7].lower() == "file://" else uri)  # noqa: PTH100 (URIs)


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
    fs, path = open_filesystem(uri)
    fs.invalidate_cache()
    if not fs.isdir(path):
        return []
    found = sorted(entry for entry in fs.ls(path, detail=False) if str(entry).endswith(suffix))
    return [fs.unstrip_protocol(f) if scheme(uri) == "s3" else str(f) for f in found]


@contextlib.contextmanager
def atomic_writer(uri: str) -> Iterator[IO[bytes]]:
    """Open a file for writing that appears only when the block ends without an error.

    An S3 object appears when it is closed; a local file is renamed into place.
    """
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


def write_parquet(uri: str, table: pa.Table) -> None:
    """Write one Parquet file."""
    with atomic_writer(uri) as file:
        pq.write_table(table, file, compression="zstd")  # type: ignore[arg-type]


def read_parquet(uri: str, columns: list[str] | None = None) -> pa.Table:
    """Read one Parquet file, or only some of its columns.

    Raises:
        InputError: The file is damaged or lacks a column.
    """
    fs, path = open_filesystem(uri)
    try:
        with fs.open(path, "rb") as file:
            return pq.ParquetFile(file).read(columns=columns)
    except (pa.ArrowInvalid, pa.ArrowKeyError) as error:
        raise InputError(f"{uri} is not a Parquet file we can read: {error}") from error


def read_parquet_schema(uri: str) -> pa.Schema:
    """Read the schema of one Parquet file.

    Raises:
        InputError: The file is absent or damaged.
    """
    fs, path = open_filesystem(uri)
    try:
        with fs.open(path, "rb") as file:
            return pq.read_schema(file)
    except FileNotFoundError as error:
        raise InputError(f"{uri} does not exist") from error
    except pa.ArrowInvalid as error:
        raise InputError(f"{uri} is not a Parquet file we can read: {error}") from error


def lance_options(uri: str) -> dict[str, str]:
    """Return what Lance needs to be told of an S3 endpoint; credentials it finds by itself."""
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    if scheme(uri) != "s3" or not endpoint:
        return {}
    return {"endpoint": endpoint, "allow_http": str(endpoint.startswith("http://")).lower()}


def remove(uri: str) -> None:
    """Delete a file or folder, if it is there."""
    fs, path = open_filesystem(uri)
    if fs.exists(path):
        fs.rm(path, recursive=True)
