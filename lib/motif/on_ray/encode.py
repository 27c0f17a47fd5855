"""The pipeline IMAGES -> staged EMBEDDINGS and FAILURES: fetch and decode, encode, write.

Fetch and decode are one task, so that bytes never travel, and what a plan reserves leaves room for
the encoder's and the writer's slivers of a CPU. Errors are caught per row; a row that failed
travels on without pixels.
"""

import contextlib
import functools
import json
import logging
import queue
import threading
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray
import ray.data
import torch

from motif import schemas
from motif.encoder.encoder import Encoder
from motif.encoder.source import resolve
from motif.errors import MotifError, NoProgress, SpaceError
from motif.images.fetch import FetchLimits
from motif.images.plan import Request
from motif.on_ray import fetch_and_decode, growth, metrics, run_ahead, session, stage_rows
from motif.on_ray.plan import Segment
from motif.on_ray.pulse import Pulse
from motif.on_ray.throttle import Throttle
from motif.progress import Progress, StageCounts
from motif.space import Space

log = logging.getLogger(__name__)

ENCODER_PLACE = "motif_encoder"
"""Ray resource that nodes without GPUs may offer, as many as encoders they shall have: only so is
there one on a node that comes later, and never two on one while another has none."""
DECODE_CPUS = 0.9  # with two CPUs, two of them leave room for what follows
ENCODER_CPUS = 0.01
# Actors, not tasks: Ray kills idle workers beyond the CPUs that are free, of which decoding leaves
# none, and starting a process for every part took a fifth of two cores.
WRITER_CPUS = 0.01
WRITERS_PER_GPU_ENCODER = 2  # one is enough but for a slow store
MOST_WRITERS = 8  # times as many, when the cluster has grown
CPU_BATCH, GPU_BATCH = 64, 256
# One under way and some that have been fetched, of which one may have been lost with a node.
BATCHES_IN_FLIGHT = 4
MIN_CHUNK, MAX_CHUNK = 64, 1024
CHUNKS_PER_CPU = 8
MIN_PART, MAX_PART = 64, 2048
LONGEST_PART = 10  # times --stall-seconds


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What the cluster has for a run, and how the run shares it out."""

    cpus: int
    gpus: int
    encoders: int
    writers: int
    gpus_per_encoder: float
    places: int = 0
    """Of encoders without GPUs; 0 where nodes offer none."""
    share: float = 1.0
    """Of the cluster, in (0, 1]: what is left is for other jobs."""

    @classmethod
    def of_cluster(cls, *, encoders_per_gpu: int, share: float = 1.0) -> "Resources":
        """Look at the cluster as it is now.

        Args:
            encoders_per_gpu: Processes on each.
            share: Of its CPUs and GPUs that the run may take, in (0, 1]; at least one of each.

        Raises:
            InputError: It cannot hold the plan; Ray would wait for ever.
        """
        have = ray.cluster_resources()
        gpus = _part(int(have.get("GPU", 0)), share)
        places = 0 if gpus else _part(int(have.get(ENCODER_PLACE, 0)), share)
        # Without GPUs, one encoder on every node: its threads take all cores.
        encoders = gpus * encoders_per_gpu or places or _part(session.cpu_nodes(), share)
        writers = encoders * (WRITERS_PER_GPU_ENCODER if gpus else 1)
        session.require(
            cpus=DECODE_CPUS + encoders * ENCODER_CPUS + writers * WRITER_CPUS, what="encoding"
        )
        return cls(
            cpus=max(1, _part(int(have.get("CPU", 1)), share)),
            gpus=gpus,
            encoders=encoders,
            writers=writers,
            gpus_per_encoder=1 / encoders_per_gpu if gpus else 0,
            places=places,
            share=share,
        )

    @property
    def may_grow(self) -> bool:
        """Whether nodes that come later get encoders: those that have a GPU or a place for one."""
        return bool(self.gpus or self.places) and self.share == 1

    @property
    def decoders(self) -> int | None:
        """Tasks that decode at once; None for as many as there is room for, now or later."""
        return None if self.share == 1 else max(1, int(self.cpus / DECODE_CPUS))

    def batch_size(self, wanted: int) -> int:
        """Return the images of a batch; `wanted` 0 chooses."""
        return wanted or (GPU_BATCH if self.gpus else CPU_BATCH)

    def chunk_rows(self, images: int, batch: int) -> int:
        """Return the images of a task: many tasks for each CPU, but whole batches."""
        rows = min(max(images // (CHUNKS_PER_CPU * self.cpus), MIN_CHUNK), MAX_CHUNK)
        return max(rows // batch, 1) * batch

    def part_rows(self, images: int) -> int:
        """Return the images of a staged file: small ones lose little when a run is cut off."""
        return min(max(images // 64, MIN_PART), MAX_PART)


def _part(count: int, share: float) -> int:
    """Return a share of some, at least one where there is one."""
    return max(min(count, 1), int(count * share + 1e-9))


@dataclass(frozen=True, kw_only=True)
class EncoderSettings:
    """How each actor loads its encoder."""

    encoder: str
    """`--encoder`, absolute."""
    space: Space
    float32: bool = False
    compile: bool = False
    features: bool = False


class EncodeImages:
    """Actor: pixels -> `embedding` and perhaps `features`; loads the model where the GPU is."""

    def __init__(self, settings: EncoderSettings, pulse: Pulse) -> None:
        if not ray.get_gpu_ids():
            # Ray gives one OpenMP thread to an actor with a fraction of a CPU.
            torch.set_num_threads(session.cpus_of_this_node())
        self._pulse = pulse
        # Raised with the first batch: of an actor that dies at birth, Ray passes on only the text.
        self._refusal: MotifError | None = None
        space = settings.space
        try:
            # By name: files and caches are elsewhere on this node, and so may be its precision.
            self._encoder = Encoder(
                resolve(settings.encoder),
                precision=torch.float32 if settings.float32 else None,
                compile=settings.compile,
                features=settings.features,
            )
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
        usable = pc.is_valid(rows["pixels"]).to_numpy()
        encoded = self._encoder.encode_images(self._pixels(rows))
        finite = np.asarray(np.isfinite(encoded.embedding).all(axis=1))
        valid = usable & finite
        rows = rows.drop_columns(["pixels"])
        if not finite[usable].all():
            rows = _mark(rows, pa.array(usable & ~finite))
        rows = rows.append_column("embedding", schemas.vector_array(encoded.embedding, valid))
        if encoded.features is not None:
            features = schemas.vector_array(encoded.features, valid, item=schemas.HALF)
            rows = rows.append_column("features", features)
        precision = str(self._encoder.precision).removeprefix("torch.")
        seconds = (time.perf_counter() - start) / max(rows.num_rows, 1)
        self._pulse.beat("encode", rows.num_rows, "")
        return rows.append_column(
            "precision", pa.array([precision] * rows.num_rows, pa.string())
        ).append_column("encode_seconds", pa.array([seconds] * rows.num_rows, pa.float32()))

    def _pixels(self, rows: pa.Table) -> np.ndarray:
        """Return the batch's pixels; failed rows are black, so that batches keep one shape."""
        size = self._encoder.space.preprocess.size
        pixels = np.zeros((rows.num_rows, size, size, 3), np.uint8)
        for index, value in enumerate(v for c in rows["pixels"].chunks for v in c):
            if value.is_valid:
                flat = np.frombuffer(value.as_buffer(), np.uint8)
                pixels[index] = flat.reshape(size, size, 3)
        return pixels


def _mark(rows: pa.Table, bad: pa.Array) -> pa.Table:
    """Class rows whose embedding is not finite as failures of the encoder."""
    failure = fetch_and_decode.failure("encode", "encoder", "the embedding is not finite")
    for name, value in failure.items():
        column = pc.if_else(bad, pa.scalar(value, rows[name].type), rows[name])
        rows = rows.set_column(rows.schema.get_field_index(name), name, column)
    return rows


def run_pipeline(
    request: Request,
    chunks: list[list[Segment]],
    progress: Progress,
    *,
    settings: EncoderSettings,
    resources: Resources,
    batch_size: int,
    part_rows: int,
    limits: FetchLimits,
    full_decode: bool,
    reads_per_second: float | None,
    stall_seconds: float,
    between: Callable[[], None],
) -> None:
    """Encode what the chunks name into the staging folders.

    Raises:
        MotifError: A worker refused to go on.
        TooManyFailures: The storage or the manifest is broken.
        NoProgress: Nothing moved for `stall_seconds`.
    """
    pulse = Pulse.start()
    preprocess = settings.space.preprocess
    encoders = f"MapBatches({EncodeImages.__name__})"  # as Ray Data calls the operator
    session.configure_data(
        block_bytes=batch_size * preprocess.size**2 * 3,
        callbacks=[_growth(resources, encoders)] if resources.may_grow else [],
        policies=run_ahead.policies(
            encoders=encoders, batch_size=batch_size, cpus_per_task=DECODE_CPUS
        ),
    )
    dataset = (
        # Not `range`, whose tasks take a whole CPU each: a node with one, of which the encoder has
        # a sliver, could never run them.
        ray.data.from_items([json.dumps(c) for c in chunks], override_num_blocks=len(chunks))
        .map_batches(
            fetch_and_decode.FetchAndDecode(
                request=request,
                preprocess=preprocess,
                batch_size=batch_size,
                limits=limits,
                full_decode=full_decode,
                pulse=pulse,
                throttle=Throttle.start(reads_per_second) if reads_per_second else None,
            ).__call__,
            batch_format="pyarrow",
            batch_size=None,
            num_cpus=DECODE_CPUS,
            compute=ray.data.TaskPoolStrategy(size=resources.decoders),
        )
        .map_batches(
            EncodeImages,
            fn_constructor_args=(settings, pulse),
            batch_format="pyarrow",
            # Blocks are batches already; for GPUs, Ray wants to be told all the same.
            batch_size=batch_size if resources.gpus else None,
            zero_copy_batch=True,
            num_gpus=resources.gpus_per_encoder,
            num_cpus=ENCODER_CPUS,
            resources={ENCODER_PLACE: 1} if resources.places else None,
            compute=ray.data.ActorPoolStrategy(
                min_size=resources.encoders,
                max_size=None if resources.may_grow else resources.encoders,
                max_tasks_in_flight_per_actor=BATCHES_IN_FLIGHT,
            ),
        )
        .map_batches(
            stage_rows.StageRows,
            fn_constructor_args=(request, pulse),
            batch_format="pyarrow",
            batch_size=part_rows,
            num_cpus=WRITER_CPUS,
            compute=ray.data.ActorPoolStrategy(
                min_size=resources.writers,
                max_size=resources.writers * (MOST_WRITERS if resources.may_grow else 1),
            ),
        )
    )

    metrics.show(metrics.PLANNED, progress.planned)
    metrics.show(metrics.ENCODERS, resources.encoders)

    def each_second() -> None:
        progress.tick()
        metrics.show(metrics.WAITING, progress.planned - progress.done)
        between()

    with contextlib.closing(_watched(dataset, pulse, stall_seconds, each_second)) as rows:
        for row in rows:
            progress.add(_counts(row))


def _growth(resources: Resources, encoders: str) -> Callable[[], growth.GrowIntoPlaces]:
    places = (
        growth.Places(resource="GPU", encoders=round(1 / resources.gpus_per_encoder))
        if resources.gpus
        else growth.Places(resource=ENCODER_PLACE, encoders=1)
    )
    return functools.partial(growth.GrowIntoPlaces, encoders, places)


def _watched(
    dataset: Any, pulse: Pulse, stall_seconds: float, each_second: Callable[[], None]
) -> Generator[dict[str, Any], None, None]:
    """Yield the rows of a dataset; a thread waits for them, so that nobody waits for ever.

    Closing the generator ends the pipeline with the next row.
    """
    results: queue.Queue[Any] = queue.Queue()
    end = object()
    closed = threading.Event()

    def consume() -> None:
        try:
            with session.refusals():
                for row in dataset.iter_rows():
                    if closed.is_set():
                        return
                    results.put(row)
            results.put(end)
        except BaseException as error:  # noqa: BLE001 (raised again where it is waited for)
            results.put(error)

    threading.Thread(target=consume, name="motif-pipeline", daemon=True).start()
    try:
        moved = time.monotonic()
        while True:
            try:
                result = results.get(timeout=1.0)
            except queue.Empty:
                each_second()
                silent = time.monotonic() - moved
                # Parts are large, so that a slow store may move and finish none; but what is done
                # again and again, because it dies before it is written, has no end either.
                if silent > stall_seconds and (
                    silent > LONGEST_PART * stall_seconds or pulse.idle_seconds() > stall_seconds
                ):
                    raise NoProgress(
                        f"no image was finished for {stall_seconds:.0f} s: {pulse.report()};"
                        f" {session.resources_in_words()}; what was encoded is kept: see Ray's"
                        " logs, raise --stall-seconds, or run the same command again"
                    ) from None
                continue
            moved = time.monotonic()
            if result is end:
                return
            if isinstance(result, BaseException):
                raise result
            yield result
            each_second()
    finally:
        closed.set()


def _counts(row: dict[str, Any]) -> StageCounts:
    return StageCounts(
        embedded=row["embedded"],
        failed=dict(zip(row["classes"], row["failed"], strict=True)),
        seconds={stage: row[stage] for stage in ("fetch", "decode", "encode", "write")},
        precisions=set(row["precisions"]),
        example=row["example"],
    )
