"""IMAGES -> staged EMBEDDINGS and FAILURES: fetch and decode in tasks, encode in actors, write.

Fetch and decode are one task, so that the plan reserves one CPU beside the encoder's sliver of
one and runs on two CPUs. Errors are caught per row; a row that failed travels on without pixels.
"""

import logging
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray
import ray.data
import torch

from motif import schemas
from motif.artefacts import embeddings
from motif.encoder.encoder import Encoder, resolve
from motif.errors import MotifError, SpaceError
from motif.images.manifest import bucket_of
from motif.images.plan import Plan
from motif.on_ray import image_rows, session
from motif.space import Space

log = logging.getLogger(__name__)

ENCODER_CPUS = 0.01  # a whole one would starve decoding on two CPUs
WRITER_CPUS = 0.1
ROWS_PER_PART = 128
LOG_EVERY_SECONDS = 5.0


@dataclass
class Progress:
    """What has been staged so far; logs a line every few seconds."""

    planned: int
    embedded: int = 0
    failed: int = 0
    busy_seconds: dict[str, float] = field(
        default_factory=lambda: dict.fromkeys(("fetch", "decode", "encode", "write"), 0.0)
    )
    """Of each stage, summed over its workers."""
    precisions: set[str] = field(default_factory=set)
    """That the encoders worked in."""
    started: float = field(default_factory=time.perf_counter)
    _first: tuple[float, int] | None = None
    _logged: float = 0.0

    def add(self, row: dict[str, Any]) -> None:
        """Count one staged part."""
        now = time.perf_counter()
        self.embedded += row["embedded"]
        self.failed += row["failed"]
        self.precisions.update(row["precisions"])
        for stage in self.busy_seconds:
            self.busy_seconds[stage] += row[stage]
        # Steady state: from the first part on, so that start-up does not count as slowness.
        self._first = self._first or (now, self.done)
        if now - self._logged > LOG_EVERY_SECONDS or self.done == self.planned:
            self._logged = now
            rate = self.images_per_second(now)
            left = f", {(self.planned - self.done) / rate:.0f} s left" if rate else ""
            log.info(
                "encoded %d of %d images, %d failed, %.1f images/s%s",
                *(self.done, self.planned, self.failed, rate, left),
            )

    @property
    def done(self) -> int:
        """Images that were encoded or failed."""
        return self.embedded + self.failed

    def images_per_second(self, now: float) -> float:
        """Return the rate, without start-up where there is enough to tell."""
        since, before = self._first or (self.started, 0)
        if now - since < 1.0 or self.done == before:
            since, before = self.started, 0
        return (self.done - before) / max(now - since, 1e-9)

    def summary(self) -> dict[str, Any]:
        """Return rates per stage and the stage that takes the most of a machine's time."""
        rates = {
            stage: round(self.done / seconds, 1) if seconds else None
            for stage, seconds in self.busy_seconds.items()
        }
        return {
            "images_per_busy_second": rates,
            "images_per_second": round(self.images_per_second(time.perf_counter()), 1),
            "bottleneck": max(self.busy_seconds, key=lambda stage: self.busy_seconds[stage]),
        }


class EncodeImages:
    """Actor: pixels -> `embedding` and perhaps `features`; loads the model where the GPU is."""

    def __init__(
        self,
        *,
        encoder: str,
        float32: bool,
        space: Space,
        with_features: bool,
    ) -> None:
        if not ray.get_gpu_ids():
            # Ray gives one OpenMP thread to an actor with a fraction of a CPU.
            torch.set_num_threads(session.cpus_of_this_node())
        self._with_features = with_features
        # Raised with the first batch: of an actor that dies at birth, Ray passes on only the text.
        self._refusal: MotifError | None = None
        try:
            # By name: files and caches are elsewhere on this node, and so may be its precision.
            precision = torch.float32 if float32 else None
            self._encoder = Encoder(resolve(encoder), precision=precision)
        except MotifError as error:
            self._refusal = error
            return
        if self._encoder.space != space:
            self._refusal = SpaceError(
                f"this node's {space.encoder} has fingerprint {self._encoder.space.fingerprint},"
                f" the driver's {space.fingerprint}: give all nodes the same weights"
            )

    def __call__(self, rows: pa.Table) -> pa.Table:
        """Encode one batch; an error of the device propagates, so that Ray retries or fails."""
        if self._refusal is not None:
            raise self._refusal
        start = time.perf_counter()
        usable = pc.is_valid(rows["pixels"])
        size = self._encoder.space.preprocess.size
        pixels = np.zeros((rows.num_rows, size, size, 3), np.uint8)
        index = np.flatnonzero(usable.to_numpy(zero_copy_only=False))
        for i in index:
            pixels[i] = np.frombuffer(rows["pixels"][int(i)].as_buffer(), np.uint8).reshape(
                size, size, 3
            )
        # Failed rows are encoded as black squares and then nulled: batches keep one shape.
        encoded = self._encoder.encode_images(pixels)
        finite = np.asarray(np.isfinite(encoded.embedding).all(axis=1))
        valid = np.zeros(rows.num_rows, bool)
        valid[index] = finite[index]
        bad = pa.array(~finite) if not finite.all() else None
        rows = rows.drop_columns(["pixels"])
        if bad is not None:
            rows = _mark(rows, pc.and_(bad, usable))
        rows = rows.append_column("embedding", schemas.vector_array(encoded.embedding, valid))
        if self._with_features:
            rows = rows.append_column("features", schemas.vector_array(encoded.features, valid))
        precision = str(self._encoder.precision).removeprefix("torch.")
        rows = rows.append_column("precision", pa.array([precision] * rows.num_rows, pa.string()))
        seconds = (time.perf_counter() - start) / max(rows.num_rows, 1)
        return rows.append_column(
            "encode_seconds", pa.array([seconds] * rows.num_rows, pa.float32())
        )


def _mark(rows: pa.Table, bad: pa.ChunkedArray) -> pa.Table:
    """Class rows whose embedding is not finite as failures of the encoder."""
    failure = image_rows.failure("encode", "encoder", "the embedding is not finite")
    for name, value in failure.items():
        column = pc.if_else(bad, value, rows[name])
        rows = rows.set_column(rows.schema.get_field_index(name), name, column)
    return rows


def run_pipeline(
    images: pa.Table,
    plan: Plan,
    staging: str,
    *,
    encoder: str,
    batch_size: int,
    float32: bool,
) -> Progress:
    """Encode the `images` of a plan that are still to do into the staging folders.

    Returns:
        What was staged, and where the time went.

    Raises:
        MotifError: A worker refused to go on.
    """
    session.configure_data()
    slices = [images.slice(i, batch_size) for i in range(0, images.num_rows, batch_size)]
    gpus = int(ray.cluster_resources().get("GPU", 0))
    # Without GPUs, one encoder on every node: its threads take all cores.
    actors = gpus or session.cpu_nodes()
    session.require(cpus=1 + WRITER_CPUS + actors * ENCODER_CPUS, what="encoding")
    dataset = (
        ray.data.from_arrow(slices)
        .map_batches(
            image_rows.FetchAndDecode(plan.space.preprocess).__call__,
            batch_format="pyarrow",
            batch_size=None,
            zero_copy_batch=True,
        )
        .map_batches(
            EncodeImages,
            fn_constructor_kwargs={
                "encoder": encoder,
                "float32": float32,
                "space": plan.space,
                "with_features": "features" in plan.schema.names,
            },
            batch_format="pyarrow",
            batch_size=None,
            zero_copy_batch=True,
            num_gpus=1 if gpus else 0,
            num_cpus=ENCODER_CPUS,
            compute=ray.data.ActorPoolStrategy(size=actors),
        )
        .map_batches(
            image_rows.StageRows(staging, plan.schema).__call__,
            batch_format="pyarrow",
            batch_size=ROWS_PER_PART,
            num_cpus=WRITER_CPUS,
        )
    )
    progress = Progress(planned=images.num_rows)
    with session.refusals():
        for row in dataset.iter_rows():
            progress.add(row)
    return progress


def finish_buckets(plan: Plan, output: str, staging: str) -> dict[str, Any]:
    """Make every bucket whole, in parallel, and add up the counts.

    Returns:
        Counts that add up: rows = embedded + failed + duplicates.

    Raises:
        ContractError: A bucket's rows are not those of the plan.
    """
    # Ray types no keyword arguments of remote functions.
    merge: Any = ray.remote(num_cpus=1)(embeddings.finish_bucket)  # type: ignore[call-overload]
    rejected = np.array(
        [bucket_of(c or "", plan.buckets) for c in plan.rejected["creator_id"].to_pylist()], int
    )
    pending = [
        merge.remote(
            output,
            staging,
            bucket,
            plan.buckets,
            expected_ids=plan.images.filter(pc.equal(plan.images["bucket"], bucket))["image_id"],
            rejected=plan.rejected.filter(pa.array(rejected == bucket)),
            schema=plan.schema,
        )
        for bucket in range(plan.buckets)
    ]
    with session.refusals():
        finished = ray.get(pending)
    by_class: Counter[str] = Counter()
    for counts in finished:
        by_class.update(counts["by_class"])
    return {
        "rows": plan.rows,
        "embedded": sum(counts["embedded"] for counts in finished),
        "failed": sum(counts["failed"] for counts in finished),
        "duplicates": plan.duplicates,
        "creators": sum(counts["creators"] for counts in finished),
        "failed_by_class": dict(sorted(by_class.items())),
    }
