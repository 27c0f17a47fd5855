"""The stage before the encoder: fetch and decode, in one task, so that bytes never travel."""

import json
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from motif.artefacts import partitions
from motif.images import plan
from motif.images.decode import DecodeError, decode
from motif.images.fetch import FetchLimits, fetch_stream
from motif.images.fetch_errors import FetchError
from motif.images.plan import Request
from motif.images.preprocess import to_pixels, wanted_side
from motif.on_ray.plan import Segment
from motif.on_ray.pulse import Pulse
from motif.on_ray.throttle import Throttle
from motif.space import Preprocess

# On a machine that also encodes, the encoder goes first: decoding fills the time that it leaves.
# Ray's workers start at 15.
NICENESS = 19


@dataclass(frozen=True, kw_only=True)
class FetchAndDecode:
    """Task: a chunk's segments, as JSON -> batches with `pixels`, hashes and errors.

    Pixels are null where something failed.
    """

    request: Request
    preprocess: Preprocess
    batch_size: int
    limits: FetchLimits
    full_decode: bool
    pulse: Pulse
    throttle: Throttle | None = None

    def __call__(self, block: pa.Table) -> Iterator[pa.Table]:
        """Decode what has arrived while the next objects are on their way."""
        os.nice(NICENESS - os.nice(0))
        for segments in block["item"].to_pylist():
            of_chunk = [tuple(segment) for segment in json.loads(segments)]
            yield from self._batches(read_segments(self.request, of_chunk))

    def _batches(self, rows: pa.Table) -> Iterator[pa.Table]:
        """Yield the rows in their order, whatever the order in which objects arrive.

        Where a node dies, Ray runs the task again for those of its batches that were lost. If these
        held other rows than before, some rows would be encoded twice and others never.
        """
        uris = rows["uri"].to_pylist()
        records: dict[int, dict[str, Any]] = {}
        first = 0  # of the batch that is yielded next
        waited = decoded = 0.0
        self.pulse.beat("decode", 0, uris[0])
        start = time.perf_counter()
        permit = self.throttle.take if self.throttle is not None else None
        for place, data in fetch_stream(uris, self.limits, permit):
            arrived = time.perf_counter()
            records[place] = self._decode(data)
            waited += arrived - start
            start = time.perf_counter()
            decoded += start - arrived
            while first < len(uris):
                batch = range(first, min(first + self.batch_size, len(uris)))
                if not all(place in records for place in batch):
                    break
                self.pulse.beat("decode", len(batch), uris[place])
                taken = [records.pop(place) for place in batch]
                yield self._batch(rows.slice(first, len(batch)), taken, waited, decoded)
                first = batch.stop
                waited = decoded = 0.0
                start = time.perf_counter()

    def _batch(
        self, rows: pa.Table, records: list[dict[str, Any]], waited: float, decoded: float
    ) -> pa.Table:
        pixel_type = pa.binary(self.preprocess.size**2 * 3)
        added = pa.schema(
            [
                ("pixels", pixel_type),
                *((name, pa.string()) for name in ("content_hash", "perceptual_hash")),
                *((name, pa.string()) for name in ("stage", "error_class", "message")),
                ("attempts", pa.int32()),
                ("fetched_bytes", pa.int64()),
            ]
        )
        for field, column in zip(
            added, pa.Table.from_pylist(records, schema=added).columns, strict=True
        ):
            rows = rows.append_column(field, column)
        for name, seconds in (("fetch_seconds", waited), ("decode_seconds", decoded)):
            each = pa.array([seconds / rows.num_rows] * rows.num_rows, pa.float32())
            rows = rows.append_column(name, each)
        return rows

    def _decode(self, data: bytes | FetchError) -> dict[str, Any]:
        if isinstance(data, FetchError):
            return failure("fetch", data.error_class, data.message, attempts=data.attempts)
        side = None if self.full_decode else wanted_side(self.preprocess)
        try:
            decoded = decode(data, shortest_side=side)
        except DecodeError as error:
            found = failure("decode", error.error_class, error.message)
            return {**found, "fetched_bytes": len(data)}
        return {
            "fetched_bytes": len(data),
            "pixels": to_pixels(decoded.image, self.preprocess).tobytes(),
            "content_hash": decoded.content_hash,
            "perceptual_hash": decoded.perceptual_hash,
        }


def read_segments(request: Request, segments: Sequence[Segment]) -> pa.Table:
    """Return rows to encode, with their `bucket`."""
    tables = []
    for bucket, start, stop in segments:
        first, last = start // plan.TODO_BATCH, (stop - 1) // plan.TODO_BATCH
        table = partitions.read_shares(request.todo(bucket), range(first, last + 1))
        tables.append(table.slice(start - first * plan.TODO_BATCH, stop - start))
    return pa.concat_tables(tables).drop_columns(["staged"])


def failure(stage: str, error_class: str, message: str, *, attempts: int = 1) -> dict[str, Any]:
    """Return the error columns of a row that failed."""
    return {
        "stage": stage,
        "error_class": error_class,
        "message": message[:500],
        "attempts": attempts,
    }
