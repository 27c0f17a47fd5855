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


class FetchAndDecode:
    """Task: adds `pixels` (uint8, null where it failed), the hashes and the error columns."""

    def __init__(self, preprocess: Preprocess) -> None:
        self._preprocess = preprocess

    def __call__(self, rows: pa.Table) -> pa.Table:
        """Fetch all objects at once, then decode one after the other."""
        start = time.perf_counter()
        fetched = fetch_all(rows["uri"].to_pylist())
        fetch_seconds = (time.perf_counter() - start) / max(rows.num_rows, 1)
        records = [self._decode(data) for data in fetched]
        decode_seconds = (time.perf_counter() - start) / max(rows.num_rows, 1) - fetch_seconds
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

    def __init__(self, output: str, schema: pa.Schema) -> None:
        self._output = output
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
                embeddings.stage(self._output, bucket, kind, schemas.conform(part, schema))
        return pa.table(
            {
                "embedded": [kinds["embeddings"][0].num_rows],
                "failed": [kinds["failures"][0].num_rows],
                "fetch": [pc.sum(rows["fetch_seconds"]).as_py()],
                "decode": [pc.sum(rows["decode_seconds"]).as_py()],
                "encode": [pc.sum(rows["encode_seconds"]).as_py()],
                "write": [time.perf_counter() - start],
            }
        )
