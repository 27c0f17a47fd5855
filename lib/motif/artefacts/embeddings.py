"""EMBEDDINGS and FAILURES: one Parquet file per bucket, made whole from staged parts.

    OUTPUT/embeddings/bucket-00002-of-00004.parquet
    OUTPUT/failures/bucket-00002-of-00004.parquet
    OUTPUT/_staging/PLAN/bucket-00002/{embeddings,failures}-TIME-ID.parquet   while the job works
    OUTPUT/run.json                                                 last

Parts are appended as images are encoded, and may hold an image twice when Ray repeats a task.
`finish_bucket` is where exactly-once is made: it keeps one row per image and refuses a bucket
whose rows are not those of the plan.
"""

import hashlib
import json
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from motif import schemas, storage
from motif.artefacts import run
from motif.errors import ContractError, InputError
from motif.space import Space

ARTEFACT = "embeddings"
OWNED = ("embeddings", "failures", "_staging")


def bucket_name(bucket: int, buckets: int) -> str:
    """Return the file name of a bucket."""
    return f"bucket-{bucket:05d}-of-{buckets:05d}.parquet"


def staging_of(output: str, plan: dict[str, Any]) -> str:
    """Return the folder of a plan's parts; a worker left over from another writes elsewhere."""
    text = json.dumps(plan, sort_keys=True)
    return storage.join(output, "_staging", hashlib.sha256(text.encode()).hexdigest()[:12])


def stage(staging: str, bucket: int, kind: str, rows: pa.Table) -> None:
    """Append rows of one bucket; `kind` is `embeddings` or `failures`."""
    name = f"{kind}-{time.time_ns():020d}-{uuid.uuid4().hex}.parquet"
    storage.write_parquet(storage.join(staging, f"bucket-{bucket:05d}", name), rows)


def staged_ids(staging: str, bucket: int) -> set[str]:
    """Return the images of a bucket that are encoded already."""
    folder = storage.join(staging, f"bucket-{bucket:05d}")
    ids: set[str] = set()
    for uri in storage.list_files(folder, ".parquet"):
        if uri.rsplit("/", 1)[-1].startswith("embeddings-"):
            ids.update(storage.read_parquet(uri, ["image_id"])["image_id"].to_pylist())
    return ids


def staged_failures(staging: str, buckets: int) -> Iterator[dict[str, Any]]:
    """Yield the FAILURES rows that an unfinished run has staged."""
    for bucket in range(buckets):
        folder = storage.join(staging, f"bucket-{bucket:05d}")
        for uri in storage.list_files(folder, ".parquet"):
            if uri.rsplit("/", 1)[-1].startswith("failures-"):
                yield from storage.read_parquet(uri).to_pylist()


def finish_bucket(
    output: str,
    staging: str,
    bucket: int,
    buckets: int,
    *,
    expected_ids: pa.ChunkedArray,
    rejected: pa.Table,
    schema: pa.Schema,
) -> dict[str, Any]:
    """Merge a bucket's parts into its two files, one row per image, sorted.

    Args:
        output: Folder of EMBEDDINGS.
        staging: Folder of the plan's parts.
        bucket: Which one.
        buckets: Of how many.
        expected_ids: Image ids that the plan puts into this bucket.
        rejected: FAILURES rows of the manifest itself that belong here.
        schema: Of EMBEDDINGS.

    Returns:
        Counts: `embedded`, `failed`, `by_class`, `creators`.

    Raises:
        ContractError: The rows are not exactly those of the plan.
    """
    folder = storage.join(staging, f"bucket-{bucket:05d}")
    parts: dict[str, list[pa.Table]] = {
        "embeddings": [schema.empty_table()],
        "failures": [schemas.FAILURES.empty_table()],
    }
    # Newest first: an image that failed twice is recorded as it failed last.
    for uri in reversed(storage.list_files(folder, ".parquet")):
        parts[uri.rsplit("/", 1)[-1].split("-")[0]].append(storage.read_parquet(uri))
    embedded = _one_per_image(pa.concat_tables(parts["embeddings"]))
    failed = _with_attempts(pa.concat_tables(parts["failures"]))
    # A failure of an earlier attempt is void once the image has been encoded.
    failed = failed.filter(pc.invert(pc.is_in(failed["image_id"], embedded["image_id"])))
    found = pa.concat_tables([embedded.select(["image_id"]), failed.select(["image_id"])])
    if sorted(found["image_id"].to_pylist()) != sorted(expected_ids.to_pylist()):
        raise ContractError(
            f"bucket {bucket} of {output}: {len(found)} images accounted for,"
            f" {len(expected_ids)} planned; repeat the run"
        )
    failed = pa.concat_tables([failed, rejected])
    name = bucket_name(bucket, buckets)
    order = [("creator_id", "ascending"), ("image_id", "ascending")]
    storage.write_parquet(
        storage.join(output, "embeddings", name),
        schemas.conform(embedded, schema).sort_by(order),
    )
    storage.write_parquet(
        storage.join(output, "failures", name),
        schemas.conform(failed, schemas.FAILURES).sort_by(order),
    )
    classes = failed["error_class"].value_counts().to_pylist()
    return {
        "embedded": embedded.num_rows,
        "failed": failed.num_rows,
        "by_class": {item["values"]: item["counts"] for item in classes},
        "creators": pc.count_distinct(embedded["creator_id"]).as_py(),
    }


def _with_attempts(rows: pa.Table) -> pa.Table:
    """Return one row per image with the number of times that it failed."""
    times = Counter(rows["image_id"].to_pylist())
    unique = _one_per_image(rows)
    attempts = pa.array([times[image] for image in unique["image_id"].to_pylist()], pa.int32())
    index = unique.schema.get_field_index("attempts")
    return unique.set_column(index, schemas.FAILURES.field("attempts"), attempts)


def _one_per_image(rows: pa.Table) -> pa.Table:
    seen: set[str] = set()
    keep = [
        index
        for index, image in enumerate(rows["image_id"].to_pylist())
        if not (image in seen or seen.add(image))
    ]
    return rows if len(keep) == rows.num_rows else rows.take(keep)


@dataclass(frozen=True)
class Embeddings:
    """A finished EMBEDDINGS artefact, opened for reading."""

    uri: str
    space: Space
    encoder: str
    """The `--encoder` that made it."""
    buckets: int
    counts: dict[str, Any]
    schema: pa.Schema

    @classmethod
    def open(cls, uri: str) -> "Embeddings":
        """Open it.

        Raises:
            InputError: Absent, unfinished or damaged.
        """
        uri = storage.absolute(uri)
        record = run.read(uri, ARTEFACT)
        if missing := {"buckets", "space", "config", "counts"} - set(record):
            raise InputError(f"{uri}/run.json lacks {sorted(missing)}: it was edited; encode again")
        first = storage.join(uri, "embeddings", bucket_name(0, record["buckets"]))
        return cls(
            uri=uri,
            space=Space.from_json(record["space"]),
            encoder=record.get("encoder", record["config"]["encoder"]),
            buckets=record["buckets"],
            counts=record["counts"],
            schema=storage.read_parquet_schema(first),
        )

    @property
    def carried(self) -> list[str]:
        """Names of the manifest columns that travelled along."""
        known = {*schemas.embeddings(1, features_dim=1).names}
        return [name for name in self.schema.names if name not in known]

    def read_bucket(self, bucket: int, columns: Sequence[str] | None = None) -> pa.Table:
        """Return the rows of one bucket, sorted by creator and image.

        Raises:
            InputError: The file is damaged or gone.
        """
        uri = storage.join(self.uri, "embeddings", bucket_name(bucket, self.buckets))
        try:
            return storage.read_parquet(uri, list(columns) if columns is not None else None)
        except FileNotFoundError as error:
            raise InputError(f"{uri} is gone though run.json names it; encode again") from error

    def read(self, columns: Sequence[str] | None = None) -> pa.Table:
        """Return all rows; for sets that fit in memory."""
        return pa.concat_tables([self.read_bucket(b, columns) for b in range(self.buckets)])
