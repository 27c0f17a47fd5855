"""Planning over a manifest of millions of rows, and a run over it that finds nothing to do.

The artefact that holds them all is written by the plain functions, with random vectors; the space
is the stub encoder's.
"""

import shutil
import statistics
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from benchmarks.encode_parts import encoders, pictures, processes
from benchmarks.encode_parts.job import encode_images
from benchmarks.measurement import Measurement, spread
from motif import schemas
from motif.artefacts import embeddings, partitions, run, update
from motif.artefacts.snapshot import Bucket, Snapshot
from motif.encoder.encoder import Encoder
from motif.encoder.source import resolve
from motif.images import plan, settle, source
from motif.images.plan import Request

PLAN_SECONDS, DRIVER_GB, NO_OP_SECONDS = 90, 2, 180
BATCH_ROWS = 250_000


@dataclass(frozen=True)
class _Config:
    """What run.json says about an artefact that no command made."""

    rows: int


def measure(cache: Path, *, rows: int, repeats: int) -> Iterator[Measurement]:
    """Plan anew with `--dry-run`, then run over an artefact that holds every row already."""
    manifest = _manifest(cache / f"manifest-{rows}.parquet", rows)
    flag = encoders.flag(encoders.STUB, cache)
    held = _artefact(cache, manifest, flag, rows)
    dry, no_op = [], []
    for _ in range(repeats):
        output = cache / "outputs" / "planning"
        dry.append(
            encode_images(
                *(manifest, output, flag, "--dry-run", "--sample", "1"), watch_memory=True
            )
        )
        no_op.append(encode_images(manifest, held, flag, anew=False, watch_memory=True))
    runs = {"dry run": dry, "no-op run": no_op}
    memory = {
        name: {
            "driver_gb": spread([one.driver_peak_bytes / 1e9 for one in these]),
            "all_processes_gb": spread([one.peak_bytes / 1e9 for one in these]),
        }
        for name, these in runs.items()
    }
    planned = [one.record["plan_seconds"] for one in dry]
    yield Measurement(
        part="planning",
        name=f"plan of {rows:,} rows",
        unit="seconds",
        value=statistics.median(planned),
        at_most=PLAN_SECONDS,
        holds=all(one.record["images_to_do"] == rows for one in dry),
        figures={
            "plan_seconds": spread(planned),
            "process_seconds": spread([one.seconds for one in dry]),
            "buckets": dry[0].record["buckets"],
        },
    )
    yield Measurement(
        part="planning",
        name=f"driver's memory over {rows:,} rows",
        unit="gb",
        value=max(one.driver_peak_bytes for these in runs.values() for one in these) / 1e9,
        at_most=DRIVER_GB,
        figures=memory,
    )
    yield Measurement(
        part="planning",
        name=f"no-op run over {rows:,} rows, whole command",
        unit="seconds",
        value=statistics.median(one.seconds for one in no_op),
        at_most=NO_OP_SECONDS,
        holds=all(one.record["manifest"]["unchanged"] == rows for one in no_op),
        figures={
            "process_seconds": spread([one.seconds for one in no_op]),
            "steps": [one.record["seconds"] for one in no_op],
        },
    )


def _manifest(path: Path, rows: int) -> Path:
    """Write a manifest a batch at a time; the images that it names do not exist."""
    if path.exists():
        return path
    schema = pa.schema([(name, pa.string()) for name in ("creator_id", "uri", "version")])
    half = path.with_suffix(".tmp")
    with pq.ParquetWriter(half, schema) as writer:
        for start in range(0, rows, BATCH_ROWS):
            number = np.arange(start, min(start + BATCH_ROWS, rows))
            creator = pa.array(number // pictures.PER_CREATOR).cast(pa.string())
            image = pa.array(number).cast(pa.string())
            columns = [
                pc.binary_join_element_wise("creator", creator, "-"),
                pc.binary_join_element_wise("s3://pictures", creator, image, "/"),
                pc.binary_join_element_wise("version", image, "-"),
            ]
            writer.write_table(pa.table(columns, schema=schema))
    half.rename(path)
    return path


def _artefact(cache: Path, manifest: Path, flag: str, rows: int) -> Path:
    """Return EMBEDDINGS that hold every row of the manifest; writes them unless they are there."""
    space = Encoder(resolve(flag)).space
    name = f"artefact-{rows}-{space.fingerprint}-v{schemas.SCHEMA_VERSION}"
    output, scratch = cache / name, cache / f"{name}-scratch"
    if (output / run.RUN_FILE).exists():
        return output
    shutil.rmtree(output, ignore_errors=True)
    request = Request(
        images=str(manifest),
        output=str(output),
        scratch=str(scratch),
        staging=str(scratch / "staging"),
        run_id=uuid.uuid4().hex[:12],
        buckets=plan.choose_buckets(rows, 0),
        schema=schemas.embeddings(space.dim),
    )
    groups = source.group(source.find(str(manifest)))
    with processes.pool() as workers:
        parts = workers.map(plan.partition, [request] * len(groups), range(len(groups)), groups)
        files = sorted(uri for part in parts for uri in part.images)
        every = range(request.buckets)
        buckets = workers.map(_bucket, [request] * len(every), every, [files] * len(every))
        after = Snapshot(run_id=request.run_id, schema=request.schema, buckets=tuple(buckets))
    update.commit(
        str(output),
        run.Recorder(embeddings.ARTEFACT, _Config(rows), run_id=request.run_id),
        after,
        None,
        check=lambda: None,
        counts={**after.counts(), "rows": rows},
        space=space.to_json(),
        encoder=flag,
    )
    shutil.rmtree(scratch)
    return output


def _bucket(request: Request, bucket: int, files: list[str]) -> Bucket:
    """Write one bucket's file with random unit vectors."""
    rows = pa.concat_tables([partitions.read(uri, bucket) for uri in files])
    dim = request.schema.field("embedding").type.list_size
    vectors = np.random.default_rng(bucket).standard_normal((rows.num_rows, dim), np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    rows = rows.append_column("embedding", schemas.vector_array(vectors))
    # Both hashes are as good as random, and nearly all differ, as those of real pictures do.
    rows = rows.append_column("content_hash", rows["image_id"])
    rows = rows.append_column("perceptual_hash", pc.utf8_slice_codeunits(rows["image_id"], 0, 16))
    rows = schemas.conform(rows, request.schema).sort_by(settle.ORDER)
    name = embeddings.part_name("embeddings", bucket, request.buckets, request.run_id)
    return Bucket(
        embeddings=(embeddings.write_part(request.output, name, rows),),
        creators=pc.count_distinct(rows["creator_id"]).as_py(),
    )
