"""The stages of encoding that need no torch: fetch and decode before it, write after it.

They run in processes of their own, which stay small because nothing here loads a model.
"""

import time
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from motif import schemas
from motif.artefacts import embeddings
from motif.images.decode import DecodeError, decode
from motif.images.fetch import FetchError, fetch_all
from motif.images.preprocess import to_pixels
from motif.space import Preprocess

# Bounds the bytes that a task holds: this many files of the largest size allowed.
FETCHED_AT_ONCE = 16


class FetchAndDecode:
    """Task: adds `pixels` (uint8, null where it failed), the hashes and the error columns."""

    def __init__(self, preprocess: Preprocess) -> None:
        self._preprocess = preprocess

    def __call__(self, rows: pa.Table) -> pa.Table:
        """Fetch some objects at once, decode them one after the other, and so on."""
        fetch_seconds = decode_seconds = 0.0
        records = []
        uris = rows["uri"].to_pylist()
        for first in range(0, len(uris), FETCHED_AT_ONCE):
            start = time.perf_counter()
            fetched = fetch_all(uris[first : first + FETCHED_AT_ONCE])
            between = time.perf_counter()
            records += [self._decode(data) for data in fetched]
            fetch_seconds += (between - start) / max(len(uris), 1)
            decode_seconds += (time.perf_counter() - between) / max(len(uris), 1)
        pixel_type = pa.binary(self._preprocess.size**2 * 3)
        added = pa.schema(
            [
                ("pixels", pixel_type),
                *((name, pa.string()) for name in ("content_hash", "perceptual_hash")),
                *((name, pa.string()) for name in ("stage", "error_class", "message")),
            ]
        )
        for name, column in zip(
            added.names, pa.Table.from_pylist(records, schema=added).columns, strict=True
        ):
            rows = rows.append_column(name, column)
        for name, seconds in (("fetch_seconds", fetch_seconds), ("decode_seconds", decode_seconds)):
            rows = rows.append_column(name, pa.array([seconds] * rows.num_rows, pa.float32()))
        return rows

    def _decode(self, data: bytes | FetchError) -> dict[str, Any]:
        if isinstance(data, FetchError):
            return failure("fetch", data.error_class, data.message)
        try:
            decoded = decode(data)
        except DecodeError as error:
            return failure("decode", error.error_class, error.message)
        return {
            "pixels": to_pixels(decoded.image, self._preprocess).tobytes(),
            "content_hash": decoded.content_hash,
            "perceptual_hash": decoded.perceptual_hash,
        }


def failure(stage: str, error_class: str, message: str) -> dict[str, Any]:
    """Return the error columns of a row that failed."""
    return {"stage": stage, "error_class": error_class, "message": message[:500]}


class StageRows:
    """Task: writes rows into the staging folders of their buckets; returns what it did."""

    def __init__(self, staging: str, schema: pa.Schema) -> None:
        self._staging = staging
        self._schema = schema

    def __call__(self, rows: pa.Table) -> pa.Table:
        """Write one batch, at most two small files per bucket in it."""
        start = time.perf_counter()
        good = pc.is_valid(rows["embedding"])
        attempts = pa.array([1] * rows.num_rows, pa.int32())
        kinds = {
            "embeddings": (rows.filter(good), self._schema),
            "failures": (
                rows.append_column("attempts", attempts).filter(pc.invert(good)),
                schemas.FAILURES,
            ),
        }
        for kind, (table, schema) in kinds.items():
            for bucket in pc.unique(table["bucket"]).to_pylist():
                part = table.filter(pc.equal(table["bucket"], bucket))
                embeddings.stage(self._staging, bucket, kind, schemas.conform(part, schema))
        return pa.table(
            {
                "precisions": pa.array(
                    [pc.unique(rows["precision"]).to_pylist()], pa.list_(pa.string())
                ),
                "embedded": [kinds["embeddings"][0].num_rows],
                "failed": [kinds["failures"][0].num_rows],
                "fetch": [pc.sum(rows["fetch_seconds"]).as_py()],
                "decode": [pc.sum(rows["decode_seconds"]).as_py()],
                "encode": [pc.sum(rows["encode_seconds"]).as_py()],
                "write": [time.perf_counter() - start],
            }
        )
