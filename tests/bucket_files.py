"""An artefact of one bucket, file by file, for tests of planning and settling."""

import dataclasses
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from motif import schemas, storage
from motif.artefacts import embeddings, partitions, staging
from motif.artefacts.snapshot import Bucket, Part
from motif.images import plan, settle
from motif.images.plan import Decision, Request
from motif.images.settle import Settled

SCHEMA = schemas.embeddings(2)
NOW = datetime(2024, 5, 6, tzinfo=UTC)

Row = dict[str, Any]


def row(image: str, version: str | None = None, creator: str = "ana", **more: Any) -> Row:
    """Return an IMAGES row."""
    return {
        "image_id": image,
        "creator_id": creator,
        "uri": f"/{image}.jpg",
        "version": version,
        **more,
    }


def embedded(*rows: Row, at: float = 0.0) -> pa.Table:
    """Return EMBEDDINGS rows, all with the vector (at, 1)."""
    more = {"embedding": [at, 1.0], "content_hash": "c", "perceptual_hash": "p"}
    return pa.Table.from_pylist([{**one, **more} for one in rows], schema=SCHEMA)


def failures(*rows: Row, error_class: str = "timeout", attempts: int = 1) -> pa.Table:
    """Return FAILURES rows."""
    more = {"stage": "fetch", "error_class": error_class, "message": "m", "attempts": attempts}
    table = pa.Table.from_pylist([{**one, **more} for one in rows], schema=schemas.FAILURES)
    return table


def removed(*images: str, creator: str = "ana") -> pa.Table:
    """Return REMOVED rows."""
    rows = [{"image_id": i, "creator_id": creator, "removed_at": NOW} for i in images]
    return pa.Table.from_pylist(rows, schema=schemas.REMOVED)


@dataclasses.dataclass
class BucketFiles:
    """The files of one bucket under a folder of its own."""

    folder: Path
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    state: Bucket = dataclasses.field(default_factory=Bucket)

    @property
    def request(self) -> Request:
        """Of the run, with what `options` change."""
        defaults: dict[str, Any] = {
            "images": "m.csv",
            "output": str(self.folder / "out"),
            "scratch": str(self.folder / "scratch"),
            "staging": str(self.folder / "out" / "_staging" / "settings"),
            "run_id": "run",
            "buckets": 1,
            "schema": SCHEMA,
        }
        return Request(**{**defaults, **self.options})

    def path(self, part: Part) -> Path:
        """Return where a file is."""
        return Path(self.request.output) / part.name

    def add(self, kind: str, table: pa.Table) -> Part:
        """Add a file that a run before wrote."""
        parts = getattr(self.state, kind)
        name = embeddings.part_name(kind, 0, self.request.buckets, f"before-{len(parts)}")
        part = embeddings.write_part(self.request.output, name, table)
        self.state = dataclasses.replace(self.state, **{kind: (*parts, part)})
        return part

    def stage(self, kind: str, table: pa.Table) -> None:
        """Stage rows, as a task of the pipeline does."""
        staging.append(self.request.staging, 0, kind, table)

    def manifest(self, *rows: Row) -> list[str]:
        """Write the partition file of a manifest."""
        uri = storage.join(self.request.scratch, "images", "00000-000.arrow")
        table = pa.Table.from_pylist(list(rows), schema=schemas.IMAGES)
        partitions.write(uri, table, np.zeros(len(rows), np.int32), 1)
        return [uri]

    def decide(self, *rows: Row) -> Decision:
        """Compare a manifest with the bucket."""
        return plan.decide(self.request, 0, self.state, self.manifest(*rows))

    def todo(self, decision: Decision) -> list[Row]:
        """Return the rows to settle, in their order."""
        return partitions.read_all(self.request.todo(0)).to_pylist() if decision.settle else []

    def marks(self) -> dict[str, str]:
        """Return the mark of each image."""
        rows = partitions.read_all(self.request.marks(0)).to_pylist()
        return {one["image_id"]: one["mark"] for one in rows}

    def settle(self, decision: Decision) -> Settled:
        """Settle the bucket; the new state is the one that the next manifest meets."""
        one = settle.settle(self.request, decision, self.state, NOW)
        self.state = one.state
        return one

    def read(self, kind: str) -> list[Row]:
        """Return all rows of a kind."""
        schema = {"embeddings": SCHEMA, "failures": schemas.FAILURES, "removed": schemas.REMOVED}
        parts: Sequence[Part] = getattr(self.state, kind)
        return embeddings.read_parts(self.request.output, parts, schema[kind]).to_pylist()


def ids(rows: Sequence[Row]) -> list[str]:
    """Return the image ids."""
    return [one["image_id"] for one in rows]


def flip_column_byte(path: Path, column: str) -> None:
    """Damage the last byte of a column's data, which leaves the file's size as it was."""
    import pyarrow.parquet as pq

    group = pq.read_metadata(path).row_group(0)
    for index in range(group.num_columns):
        chunk = group.column(index)
        if chunk.path_in_schema.split(".")[0] == column:
            data = bytearray(path.read_bytes())
            begin = chunk.dictionary_page_offset or chunk.data_page_offset
            data[begin + chunk.total_compressed_size - 1] ^= 0xFF
            path.write_bytes(data)
            return
    raise KeyError(column)
