"""What a run has encoded so far: small Parquet files by bucket, appended as rows come out.

    OUTPUT/_staging/SETTINGS/bucket-00002/{embeddings,failures}-TIME-ID.parquet

SETTINGS is a hash of the space and the columns, so that whatever run comes next can use the rows.
A row may be here twice when Ray repeats a task, and rows of a run that was cut off stay until a
run settles them.
"""

import hashlib
import json
import logging
import time
import uuid
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from motif import storage
from motif.artefacts import run
from motif.errors import InputError

log = logging.getLogger(__name__)

FOLDER = run.STAGING_FOLDER


def folder_of(output: str, settings: dict[str, Any]) -> str:
    """Return where rows of these settings are staged."""
    text = json.dumps(settings, sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:12]
    return storage.join(output, FOLDER, digest)


def append(staging: str, bucket: int, kind: str, rows: pa.Table) -> None:
    """Append rows of one bucket; `kind` is `embeddings` or `failures`."""
    name = f"{kind}-{time.time_ns():020d}-{uuid.uuid4().hex}.parquet"
    storage.write_parquet(storage.join(staging, f"bucket-{bucket:05d}", name), rows)


def read(
    staging: str,
    bucket: int,
    kind: str,
    schema: pa.Schema,
    columns: Sequence[str] | None = None,
    *,
    discard_damaged: bool = False,
) -> pa.Table:
    """Return the staged rows of one bucket, newest first.

    A damaged file is named in the log and left out, so that its images are encoded again. It is
    deleted on demand: one whose ids can still be read would count as done again and again.
    """
    wanted = list(schema.names if columns is None else columns)
    tables = [schema.empty_table().select(wanted)]
    folder = storage.join(staging, f"bucket-{bucket:05d}")
    for uri in reversed(storage.list_files(folder, ".parquet")):
        if not uri.rsplit("/", 1)[-1].startswith(f"{kind}-"):
            continue
        try:
            tables.append(storage.read_parquet(uri, wanted))
        except InputError as error:
            log.warning("%s; its images are encoded again", error)
            if discard_damaged:
                storage.remove(uri)
    return pa.concat_tables(tables)
