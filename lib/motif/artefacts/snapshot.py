"""Which files EMBEDDINGS are made of: a snapshot, named by run.json and never changed.

A run adds files under names of its own, writes a new snapshot, and only then run.json, which names
it. Until then readers see the files of the snapshot before; what no snapshot names is nobody's.
"""

import base64
import dataclasses
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from motif import storage
from motif.errors import InputError

KINDS = ("embeddings", "failures", "removed")
IDS = "ids"
FOLDER = "snapshots"


@dataclasses.dataclass(frozen=True)
class Part:
    """One Parquet file of one bucket."""

    name: str
    """Below the artefact's folder, such as `embeddings/bucket-00002-of-00004-RUN.parquet`."""
    rows: int
    bytes: int


@dataclasses.dataclass(frozen=True)
class Bucket:
    """The files of one bucket, and what is in them."""

    embeddings: tuple[Part, ...] = ()
    failures: tuple[Part, ...] = ()
    """At most one."""
    removed: tuple[Part, ...] = ()
    """At most one: images that left a full manifest, whose rows are still in `embeddings`."""
    creators: int = 0
    """With at least one image that is embedded and not removed."""
    failed_by_class: dict[str, int] = dataclasses.field(default_factory=dict)

    @property
    def parts(self) -> Iterator[Part]:
        """All files."""
        for kind in KINDS:
            yield from getattr(self, kind)

    @property
    def removed_rows(self) -> int:
        """Images that are marked as removed."""
        return sum(part.rows for part in self.removed)

    @property
    def embedded(self) -> int:
        """Images that are embedded and not removed."""
        return sum(part.rows for part in self.embeddings) - self.removed_rows


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """The files of an artefact."""

    run_id: str
    schema: pa.Schema
    """Of EMBEDDINGS."""
    buckets: tuple[Bucket, ...]
    rejected: tuple[Part, ...] = ()
    """FAILURES rows of the last manifest's own broken rows, which belong to no creator."""
    rejected_rows: int = 0
    superseded: tuple[str, ...] = ()
    """Files of the snapshot before that this one has no use for; the next run deletes them, so
    that who reads while a run commits is not disturbed."""

    def names(self) -> set[str]:
        """Return the names of all files that readers of this snapshot or the last may hold."""
        parts = [part.name for bucket in self.buckets for part in bucket.parts]
        return {
            *parts,
            *(ids_name(name) for name in parts if has_ids(name)),
            *(part.name for part in self.rejected),
            *self.superseded,
            name_of(self.run_id),
        }

    def counts(self) -> dict[str, Any]:
        """Return what the artefact holds: images, by state, and creators."""
        classes: Counter[str] = Counter()
        for bucket in self.buckets:
            classes.update(bucket.failed_by_class)
        if self.rejected_rows:
            classes["invalid_row"] += self.rejected_rows
        return {
            "embedded": sum(bucket.embedded for bucket in self.buckets),
            "failed": sum(classes.values()),
            "removed": sum(bucket.removed_rows for bucket in self.buckets),
            "creators": sum(bucket.creators for bucket in self.buckets),
            "failed_by_class": dict(sorted(classes.items())),
        }

    def write(self, output: str) -> str:
        """Write it; returns its name below the artefact's folder."""
        schema = base64.b64encode(self.schema.serialize().to_pybytes()).decode()
        value = {
            "run_id": self.run_id,
            "buckets": [dataclasses.asdict(bucket) for bucket in self.buckets],
            "rejected": [dataclasses.asdict(part) for part in self.rejected],
            "rejected_rows": self.rejected_rows,
            "superseded": self.superseded,
            "arrow_schema_base64": schema,
        }
        storage.write_json(storage.join(output, name_of(self.run_id)), value)
        return name_of(self.run_id)

    @classmethod
    def read(cls, output: str, name: str) -> "Snapshot":
        """Read it.

        Raises:
            InputError: It is gone or damaged.
        """
        value = storage.read_json(storage.join(output, name))
        try:
            schema = base64.b64decode(value["arrow_schema_base64"], validate=True)
            return cls(
                run_id=value["run_id"],
                schema=pa.ipc.read_schema(pa.py_buffer(schema)),
                buckets=tuple(_bucket(bucket) for bucket in value["buckets"]),
                rejected=_parts(value["rejected"]),
                rejected_rows=value["rejected_rows"],
                superseded=tuple(value["superseded"]),
            )
        except (KeyError, TypeError, ValueError, OSError) as error:
            raise InputError(f"{output}/{name} is damaged ({error!r}); encode again") from error


def has_ids(name: str) -> bool:
    """Return whether a file's ids are also kept apart."""
    return name.startswith(("embeddings/", "failures/bucket-"))


def ids_name(name: str) -> str:
    """Return the name of the file with the ids of a file, such as `ids/embeddings-bucket-...`."""
    return f"{IDS}/{name.replace('/', '-', 1)}"


def name_of(run_id: str) -> str:
    """Return the name of a run's snapshot."""
    return f"{FOLDER}/{run_id}.json"


def empty(buckets: int, schema: pa.Schema) -> Snapshot:
    """Return the snapshot of an artefact that holds nothing yet."""
    return Snapshot(run_id="", schema=schema, buckets=(Bucket(),) * buckets)


def _parts(values: list[dict[str, Any]]) -> tuple[Part, ...]:
    return tuple(Part(**value) for value in values)


def _bucket(value: dict[str, Any]) -> Bucket:
    return Bucket(
        **{kind: _parts(value[kind]) for kind in KINDS},
        creators=value["creators"],
        failed_by_class=value["failed_by_class"],
    )
