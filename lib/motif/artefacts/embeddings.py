"""EMBEDDINGS and FAILURES: Parquet files by bucket, the ones that the snapshot names.

OUTPUT/embeddings/bucket-00002-of-00004-RUN.parquet   one or more a bucket; one row per image
OUTPUT/failures/bucket-00002-of-00004-RUN.parquet     images that could not be used
OUTPUT/removed/bucket-00002-of-00004-RUN.parquet      images that left a full manifest
OUTPUT/ids/embeddings-bucket-00002-...-RUN.parquet    the ids once more, in case of damage
OUTPUT/snapshots/RUN.json                             which of these files count
OUTPUT/run.json                                       last: names the snapshot
OUTPUT/_staging/                                      what a run that works has done so far

Who reads these files without Motif takes the names from the snapshot, and leaves out the images
that the bucket's `removed` lists.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from motif import schemas, storage
from motif.artefacts import run, snapshot
from motif.artefacts.snapshot import Bucket, Part, Snapshot
from motif.errors import InputError
from motif.space import Space

ARTEFACT = "embeddings"
IDS = ("image_id", "creator_id")
# Rows are sorted by creator: whoever wants one in a hundred reads few of these.
ROW_GROUP_BYTES = 1024 * 1024


def part_name(kind: str, bucket: int, buckets: int, run_id: str) -> str:
    """Return a file's name below the artefact's folder; none is ever used twice."""
    return f"{kind}/bucket-{bucket:05d}-of-{buckets:05d}-{run_id}.parquet"


def write_part(output: str, name: str, rows: pa.Table) -> Part:
    """Write a file that a snapshot will name."""
    uri = storage.join(output, name)
    if snapshot.has_ids(name):
        storage.write_parquet(
            storage.join(output, snapshot.ids_name(name)), rows.select(["image_id"])
        )
    storage.write_parquet(uri, rows, row_group_bytes=ROW_GROUP_BYTES)
    return Part(name=name, rows=rows.num_rows, bytes=storage.size_bytes(uri))


def read_part(
    output: str,
    part: Part,
    columns: Sequence[str] | None = None,
    *,
    creators: Sequence[str] | None = None,
) -> pa.Table:
    """Read a file that a snapshot names.

    Args:
        output: Folder of the artefact.
        part: Which file.
        columns: Names; None for all.
        creators: Sorted ids; rows of others are left out, and mostly not read.

    Raises:
        InputError: It is gone or damaged; the message names it and what to do.
    """
    uri = storage.join(output, part.name)
    try:
        rows = storage.read_parquet(
            uri,
            list(columns) if columns is not None else None,
            holding=None if creators is None else ("creator_id", creators),
        )
    except FileNotFoundError as error:
        raise InputError(
            f"{uri} is gone though the snapshot names it; open it again if another run has just"
            " finished, else run encode_images again to mend it"
        ) from error
    except InputError as error:
        raise InputError(f"{error}; run encode_images with --verify to mend it") from error
    if creators is not None:
        return rows.filter(pc.is_in(rows["creator_id"], pa.array(creators, pa.string())))
    if rows.num_rows != part.rows:
        raise InputError(
            f"{uri} holds {rows.num_rows:,} rows, the snapshot says {part.rows:,}; run"
            " encode_images with --verify to mend it"
        )
    return rows


def read_ids_of_damaged(output: str, part: Part) -> pa.Table | None:
    """Return the `image_id`s of a damaged file; None if they are lost, too."""
    try:
        rows = storage.read_parquet(storage.join(output, snapshot.ids_name(part.name)))
    except (FileNotFoundError, InputError):
        return None
    return rows if rows.num_rows == part.rows else None


def read_parts(
    output: str,
    parts: Sequence[Part],
    schema: pa.Schema,
    columns: Sequence[str] | None = None,
    *,
    creators: Sequence[str] | None = None,
) -> pa.Table:
    """Read several files of one schema, or only some columns or creators (sorted) of them."""
    wanted = schema.names if columns is None else columns
    empty = schema.empty_table().select(list(wanted))
    found = (read_part(output, part, wanted, creators=creators) for part in parts)
    return pa.concat_tables([empty, *found])


def live_rows(rows: pa.Table, removed: pa.Table) -> pa.Table:
    """Return rows without those that are marked as removed."""
    if not removed.num_rows:
        return rows
    marked = removed["image_id"].combine_chunks()
    return rows.filter(pc.invert(pc.is_in(rows["image_id"], marked)))


@dataclass(frozen=True)
class Embeddings:
    """A finished EMBEDDINGS artefact, opened for reading."""

    uri: str
    space: Space
    encoder: str
    """The `--encoder` that made it."""
    snapshot: Snapshot
    counts: dict[str, Any]
    """What it holds: `embedded`, `failed`, `removed`, `creators`, `failed_by_class`."""

    @classmethod
    def open(cls, uri: str) -> "Embeddings":
        """Open it.

        Raises:
            InputError: Absent, unfinished or damaged.
        """
        uri = storage.absolute(uri)
        record = run.read(uri, ARTEFACT)
        if missing := {"snapshot", "space", "encoder", "counts"} - set(record):
            raise InputError(f"{uri}/run.json lacks {sorted(missing)}: it was edited; encode again")
        return cls(
            uri=uri,
            space=Space.from_json(record["space"]),
            encoder=record["encoder"],
            snapshot=Snapshot.read(uri, record["snapshot"]),
            counts=record["counts"],
        )

    @property
    def schema(self) -> pa.Schema:
        """Of the rows."""
        return self.snapshot.schema

    @property
    def buckets(self) -> int:
        """Number of buckets."""
        return len(self.snapshot.buckets)

    @property
    def carried(self) -> list[str]:
        """Names of the manifest columns that travelled along."""
        known = {*schemas.embeddings(1, features_dim=1).names}
        return [name for name in self.schema.names if name not in known]

    def read_bucket(
        self,
        bucket: int,
        columns: Sequence[str] | None = None,
        *,
        creators: Iterable[str] | None = None,
    ) -> pa.Table:
        """Return the images of one bucket that are not removed, sorted by creator and image.

        Args:
            bucket: Which.
            columns: Names; None for all.
            creators: Whose; None for all.

        Raises:
            InputError: A file is damaged or gone.
        """
        state: Bucket = self.snapshot.buckets[bucket]
        wanted = list(self.schema.names if columns is None else columns)
        # Sorting and leaving out need the ids.
        read = list(dict.fromkeys([*wanted, *IDS]))
        whose = None if creators is None else sorted(creators)
        rows = read_parts(self.uri, state.embeddings, self.schema, read, creators=whose)
        rows = live_rows(rows, read_parts(self.uri, state.removed, schemas.REMOVED))
        if len(state.embeddings) > 1:
            rows = rows.sort_by([("creator_id", "ascending"), ("image_id", "ascending")])
        return rows.select(wanted)

    def read_by_creators(
        self,
        bucket: int,
        columns: Sequence[str],
        *,
        images: int,
        creators: Iterable[str] | None = None,
    ) -> Iterator[pa.Table]:
        """Yield the images of one bucket as `read_bucket` does, some whole creators at a time.

        Args:
            bucket: Which.
            columns: Names.
            images: At most so many, if each creator has fewer.
            creators: Whose; None for all.
        """
        ids = self.read_bucket(bucket, ["creator_id"], creators=creators)["creator_id"]
        counted = ids.combine_chunks().value_counts()
        names, ends = counted.field("values"), np.cumsum(counted.field("counts").to_numpy())
        begun = done = 0
        while begun < len(names):
            stop = max(int(np.searchsorted(ends, done + images, side="right")), begun + 1)
            some = names[begun:stop].to_pylist()
            yield self.read_bucket(bucket, columns, creators=some)
            begun, done = stop, int(ends[stop - 1])

    def read(self, columns: Sequence[str] | None = None) -> pa.Table:
        """Return all rows; for sets that fit in memory."""
        return pa.concat_tables([self.read_bucket(b, columns) for b in range(self.buckets)])

    def read_failures(self) -> pa.Table:
        """Return all FAILURES rows; for sets that fit in memory."""
        parts = [part for bucket in self.snapshot.buckets for part in bucket.failures]
        return read_parts(self.uri, [*parts, *self.snapshot.rejected], schemas.FAILURES)
