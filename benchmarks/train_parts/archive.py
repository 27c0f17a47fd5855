"""EMBEDDINGS of made-up creators, as many as asked for, with a theme each."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from motif import schemas
from motif.artefacts import embeddings, run
from motif.artefacts.snapshot import Bucket, Snapshot
from motif.space import Preprocess, Space

DIM = 512
IMAGES_PER_CREATOR = 100
EMBEDDING_DIM = 4  # nobody reads it
BUCKET_IMAGES = 50_000


@dataclass(frozen=True)
class MadeBy:
    """What a job's configuration leaves in run.json."""

    encoder: str = "made up"


def make(cache: Path, images: int) -> Path:
    """Return finished EMBEDDINGS with `features` of 512 float16; made once, in the cache."""
    output = cache / f"archive-{images}"
    if (output / run.RUN_FILE).exists():
        return output
    recorder = run.Recorder(embeddings.ARTEFACT, MadeBy())
    schema = schemas.embeddings(EMBEDDING_DIM, features_dim=DIM)
    buckets = max(1, images // BUCKET_IMAGES)
    creators = images // IMAGES_PER_CREATOR // buckets
    states = []
    for bucket in range(buckets):
        name = embeddings.part_name("embeddings", bucket, buckets, recorder.run_id)
        rows = _rows(bucket, creators).cast(schema)
        part = embeddings.write_part(str(output), name, rows)
        states.append(Bucket(embeddings=(part,), creators=creators))
    after = Snapshot(run_id=recorder.run_id, schema=schema, buckets=tuple(states))
    recorder.finish(
        str(output),
        snapshot=after.write(str(output)),
        counts={**after.counts(), "rows": after.counts()["embedded"]},
        space=_space().to_json(),
        encoder="made up",
    )
    return output


def _rows(bucket: int, creators: int) -> pa.Table:
    generator = np.random.default_rng(bucket)
    shape = (creators, IMAGES_PER_CREATOR, DIM)
    features = generator.standard_normal((creators, 1, DIM), np.float32)
    features = (features + 2 * generator.standard_normal(shape, np.float32)).reshape(-1, DIM)
    ids = [f"creator-{bucket:04d}-{i:05d}" for i in range(creators) for _ in range(shape[1])]
    names = [f"{creator}-{i % shape[1]:03d}" for i, creator in enumerate(ids)]
    digests = [hashlib.sha256(name.encode()).hexdigest()[:32] for name in names]
    embedding = np.full((len(ids), EMBEDDING_DIM), 0.5, np.float32)
    return pa.table(
        {
            "image_id": names,
            "creator_id": ids,
            "uri": names,
            "version": pa.nulls(len(ids), pa.string()),
            "posted_at": pa.nulls(len(ids), pa.timestamp("us", tz="UTC")),
            "embedding": schemas.vector_array(embedding),
            "features": schemas.vector_array(features, item=schemas.HALF),
            "content_hash": digests,
            "perceptual_hash": [digest[:16] for digest in digests],
        }
    )


def _space() -> Space:
    return Space(
        encoder="made-up",
        weights_sha256="0" * 64,
        preprocess=Preprocess(
            size=8,
            mean=(0.5, 0.5, 0.5),
            std=(0.5, 0.5, 0.5),
            interpolation="bicubic",
            resize_mode="shortest",
        ),
        dim=EMBEDDING_DIM,
    )
