"""The stage after the encoder: writes rows aside, and counts them.

A module of its own, because decoding loads torch and the processes that write need not.
"""

import time
from collections import Counter

import pyarrow as pa
import pyarrow.compute as pc

from motif import schemas
from motif.artefacts import staging
from motif.images.plan import Request
from motif.on_ray import metrics
from motif.on_ray.pulse import Pulse


class StageRows:
    """Actor: writes rows into the staging folders of their buckets; returns what it did."""

    def __init__(self, request: Request, pulse: Pulse) -> None:
        self._request = request
        self._pulse = pulse

    def __call__(self, rows: pa.Table) -> pa.Table:
        """Write one batch, at most two small files per bucket in it."""
        start = time.perf_counter()
        good = pc.is_valid(rows["embedding"])
        embedded, failed = rows.filter(good), rows.filter(pc.invert(good))
        for kind, table, schema in (
            ("embeddings", embedded, self._request.schema),
            ("failures", failed, schemas.FAILURES),
        ):
            for bucket in pc.unique(table["bucket"]).to_pylist():
                part = table.filter(pc.equal(table["bucket"], bucket))
                staging.append(self._request.staging, bucket, kind, schemas.conform(part, schema))
        classes = Counter(failed["error_class"].to_pylist())
        seconds = {
            stage: pc.sum(rows[f"{stage}_seconds"]).as_py()
            for stage in ("fetch", "decode", "encode")
        }
        seconds["write"] = time.perf_counter() - start
        _measure(rows, classes, seconds)
        self._pulse.beat("write", rows.num_rows, "")
        return pa.table(
            {
                "embedded": [embedded.num_rows],
                "classes": pa.array([list(classes)], pa.list_(pa.string())),
                "failed": pa.array([list(classes.values())], pa.list_(pa.int64())),
                "example": pa.array([_example(failed, classes)], pa.string()),
                "precisions": pa.array(
                    [pc.unique(rows["precision"]).to_pylist()], pa.list_(pa.string())
                ),
                **{stage: [value] for stage, value in seconds.items()},
            }
        )


def _example(failed: pa.Table, classes: Counter[str]) -> str | None:
    if not classes:
        return None
    commonest = classes.most_common(1)[0][0]
    row = failed.filter(pc.equal(failed["error_class"], commonest)).slice(0, 1).to_pylist()[0]
    return f"{row['uri']}: {row['message']}"


def _measure(rows: pa.Table, classes: Counter[str], seconds: dict[str, float]) -> None:
    """Add to what Prometheus and Ray's dashboard show."""
    metrics.add(metrics.IMAGES, rows.num_rows - classes.total(), outcome="embedded")
    metrics.add(metrics.IMAGES, classes.total(), outcome="failed")
    for name, count in classes.items():
        metrics.add(metrics.FAILURES, count, error_class=name)
    metrics.add(metrics.BYTES, pc.sum(rows["fetched_bytes"]).as_py() or 0)
    for stage, value in seconds.items():
        metrics.add(metrics.STAGE_SECONDS, value, stage=stage)
