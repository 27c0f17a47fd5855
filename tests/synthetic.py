"""Small EMBEDDINGS, checkpoints and tables, made by the artefacts' own functions, no encoder."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import nn

from motif import publishing, schemas
from motif import space as spaces
from motif.artefacts import checkpoint, embeddings, run
from motif.artefacts.checkpoint import Checkpoint, CheckpointConfig
from motif.artefacts.snapshot import Bucket, Snapshot
from motif.artefacts.training_set import Counts, TrainingSet
from motif.model import WhitenedEmbedding
from motif.publishing import Directions
from motif.space import Preprocess, Space
from motif.table import TableUri
from motif.whitening import Whitening


@dataclass(frozen=True)
class MadeBy:
    """What a job's configuration leaves in run.json."""

    encoder: str = "lite"


def make_space(dim: int, *, encoder: str = "made-up") -> Space:
    preprocess = Preprocess(
        size=8,
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        interpolation="bicubic",
        resize_mode="shortest",
    )
    return Space(encoder=encoder, weights_sha256="0" * 64, preprocess=preprocess, dim=dim)


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)


def themed(creators: int, images: int, dim: int, *, seed: int = 0, spread: float = 1.0):
    """Creator ids and unit embeddings of images that share their creator's theme."""
    generator = np.random.default_rng(seed)
    themes = generator.normal(size=(creators, 1, dim))
    rows = themes + spread * generator.normal(size=(creators, images, dim))
    ids = [f"creator-{i:03d}" for i in range(creators) for _ in range(images)]
    return ids, unit(rows.reshape(-1, dim))


def rows_of(creator_ids: Sequence[str], vectors: np.ndarray) -> pa.Table:
    """EMBEDDINGS rows, each image a picture of its own, sorted as a bucket is."""
    names = [f"image-{i:05d}" for i in range(len(creator_ids))]
    digests = [hashlib.sha256(name.encode()).hexdigest() for name in names]
    table = pa.table(
        {
            "image_id": names,
            "creator_id": pa.array(creator_ids, pa.string()),
            "uri": [f"/pictures/{name}.jpg" for name in names],
            "version": pa.nulls(len(names), pa.string()),
            "posted_at": pa.nulls(len(names), pa.timestamp("us", tz="UTC")),
            "embedding": schemas.vector_array(vectors),
            "content_hash": digests,
            "perceptual_hash": [digest[:16] for digest in digests],
        }
    )
    rows = schemas.conform(table, schemas.embeddings(vectors.shape[1]))
    return rows.sort_by([("creator_id", "ascending"), ("image_id", "ascending")])


def write_embeddings(
    output: str | Path, rows: pa.Table, space: Space, *, encoder: str = "lite", buckets: int = 3
) -> str:
    """Write finished EMBEDDINGS; a creator's bucket is a hash of its id."""
    output = str(output)
    ids = rows["creator_id"].to_pylist()
    bucket_of = np.array([hashlib.sha256(c.encode()).digest()[0] % buckets for c in ids], int)
    recorder = run.Recorder(embeddings.ARTEFACT, MadeBy(encoder))
    states = []
    for bucket in range(buckets):
        name = embeddings.part_name("embeddings", bucket, buckets, recorder.run_id)
        mine = rows.filter(pa.array(bucket_of == bucket))
        part = embeddings.write_part(output, name, mine)
        creators = len(set(mine["creator_id"].to_pylist()))
        states.append(Bucket(embeddings=(part,), creators=creators))
    after = Snapshot(run_id=recorder.run_id, schema=rows.schema, buckets=tuple(states))
    recorder.finish(
        output,
        snapshot=after.write(output),
        counts={**after.counts(), "rows": len(ids)},
        space=space.to_json(),
        encoder=encoder,
    )
    return output


def make_whitening(dim: int, kept: int, *, seed: int = 0) -> Whitening:
    generator = np.random.default_rng(seed)
    return Whitening(
        torch.tensor(0.1 * generator.normal(size=dim), dtype=torch.float32),
        torch.tensor(generator.normal(size=(dim, kept)), dtype=torch.float32),
    )


def write_checkpoint(
    output: str | Path, space: Space, model: nn.Module | None = None, **config: Any
) -> str:
    """Write a finished checkpoint: by default a whitening to 8 dimensions."""
    output = str(output)
    model = model or WhitenedEmbedding(make_whitening(space.dim, 8))
    whitened: Any = getattr(model, "whitened", model)
    settings: dict[str, Any] = {
        "architecture": "whitening" if whitened is model else "same",
        "input_column": "embedding",
        "input_dim": whitened.matrix.shape[0],
        "dim": whitened.matrix.shape[1],
        "hidden_dim": 16,
        "test_fraction": 0.1,
        "validation_fraction": 0.2,
        "test_fold": 0,
    }
    checkpoint.write_weights(
        output, model, CheckpointConfig(**{**settings, **config}), {"reason": "made up"}
    )
    digest = checkpoint.weights_sha256(output)
    run.Recorder(checkpoint.ARTEFACT, MadeBy()).finish(
        output,
        counts={},
        space={
            "fingerprint": spaces.same_fingerprint(space, digest),
            "same_sha256": digest,
            "encoder": space.to_json(),
        },
    )
    return output


def make_directions(words: Sequence[str], dim: int) -> Directions:
    return Directions(words, unit(np.random.default_rng(len(words)).normal(size=(len(words), dim))))


def publish(
    table: str | Path,
    rows: pa.Table,
    model: str,
    *,
    words: Sequence[str] = ("vivid", "calm"),
    updated_at: datetime = datetime(2026, 1, 1, tzinfo=UTC),
) -> dict[str, Any]:
    """Publish all rows as one bucket, with random directions for the adjectives."""
    opened = Checkpoint.open(model)
    directions = make_directions(words, opened.encoder_space.dim)
    schema = publishing.schema_of(opened, directions, "made-up")
    where = TableUri.parse(str(table))
    publishing.require_ours(where)
    creators = publishing.creators_of_bucket(
        rows, opened, directions, updated_at=updated_at, schema=schema, device="cpu"
    )
    fragments = publishing.write_rows(where, creators)
    expected = len(set(rows["creator_id"].to_pylist()))
    return publishing.commit(where, schema, fragments, expected_rows=expected)


def make_training_set(
    inputs: np.ndarray, creator: np.ndarray, training: Sequence[int], validation: Sequence[int]
) -> TrainingSet:
    """A training set in memory; creators with one image are left out, as when it is read."""

    def of(creators: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        found = [np.flatnonzero(creator == c) for c in creators]
        found = [rows for rows in found if len(rows) >= 2]
        index = np.concatenate([np.zeros(0, int), *found])
        return np.asarray(inputs)[index], np.cumsum([0, *(len(rows) for rows in found)])

    rows, offsets = of(training)
    validation_rows, validation_offsets = of(validation)
    return TrainingSet(
        rows=rows,
        offsets=offsets,
        validation=validation_rows,
        validation_offsets=validation_offsets,
        counts=Counts(
            images=len(creator),
            train_creators=len(training),
            validation_creators=len(validation),
            test_creators=0,
            copies=0,
            shared=0,
            single=0,
        ),
    )
