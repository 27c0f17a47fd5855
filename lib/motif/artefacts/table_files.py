"""Tables that users hand in as one file: Parquet, CSV or JSON lines, the last two also gzipped."""

import gzip
import hashlib
import io
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet as pq

from motif import storage
from motif.errors import InputError


def read(
    uri: str, *, flag: str, texts: Sequence[str], limit_bytes: int, only: Sequence[str] = ()
) -> tuple[pa.Table, str]:
    """Read a `.parquet`, `.csv` or `.jsonl` file (the last two also `.gz`).

    Args:
        uri: Of the file.
        flag: What named it; refusals begin with it.
        texts: Columns of ids: texts even where they look like numbers, read once where they repeat.
        limit_bytes: Of the file, and of what it unpacks to.
        only: Columns to keep of those that are there; by default all.

    Returns:
        The table, and a hash of the file.

    Raises:
        InputError: It is absent, damaged, too large or of another kind.
    """
    where = f"{flag} {uri}"
    try:
        data = storage.read_bytes(uri, limit_bytes=limit_bytes)
    except (FileNotFoundError, IsADirectoryError) as error:
        raise InputError(f"{where} is not a file that is there") from error
    digest = hashlib.sha256(data).hexdigest()
    name = uri.lower()
    try:
        if name.endswith(".gz") and not name.endswith(".parquet.gz"):
            with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
                name, data = name.removesuffix(".gz"), file.read(limit_bytes + 1)
        if len(data) > limit_bytes:
            raise InputError(f"{where} holds more than {limit_bytes:,} bytes")
        table = _parse(name, data, texts, only)
    except (pa.ArrowException, OSError, EOFError) as error:
        raise InputError(f"{where} cannot be read: {str(error).splitlines()[0]}") from error
    if table is None:
        raise InputError(f"{where}: expected .parquet, .csv or .jsonl")
    return table.select([n for n in only if n in table.column_names]) if only else table, digest


def _parse(name: str, data: bytes, texts: Sequence[str], only: Sequence[str]) -> pa.Table | None:
    if name.endswith(".parquet"):
        file = pq.ParquetFile(io.BytesIO(data), read_dictionary=list(texts))
        return file.read([n for n in only if n in file.schema_arrow.names] if only else None)
    if name.endswith(".csv"):
        # An id such as 007 is a text.
        options = pyarrow.csv.ConvertOptions(
            column_types={column: pa.string() for column in texts}, strings_can_be_null=True
        )
        return pyarrow.csv.read_csv(io.BytesIO(data), convert_options=options)
    if name.endswith(".jsonl"):
        return pyarrow.json.read_json(io.BytesIO(data))
    return None
