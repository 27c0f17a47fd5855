"""Small EMBEDDINGS, checkpoints and tables, made by the artefacts' own functions, no encoder."""

import dataclasses
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import nn

from motif import adjectives, schemas, storage
from motif import space as spaces
from motif.artefacts import checkpoint, embeddings, run
from motif.artefacts.checkpoint import Checkpoint, CheckpointConfig
from motif.artefacts.embeddings import Embeddings
from motif.artefacts.snapshot import Bucket, Snapshot
from motif.artefacts.training_set import Counts, TrainingSet
from motif.images.manifest import buckets_of
from motif.model import WhitenedEmbedding
from motif.publishing import commit, population
from motif.publishing import rows as publishing
from motif.publishing.directions import Directions
from motif.publishing.rows import Completion, HeldOut
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
    bucket_of = buckets_of(rows["creator_id"], buckets) if ids else np.zeros(0, int)
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


def grow_embeddings(
    output: str | Path, added: pa.Table | None = None, removed: Sequence[str] = ()
) -> None:
    """Commit a snapshot with further images, and with some, by image_id, marked as removed."""
    output = str(output)
    opened = Embeddings.open(output)
    recorder = run.Recorder(embeddings.ARTEFACT, MadeBy(opened.encoder))
    states = []
    for bucket, state in enumerate(opened.snapshot.buckets):
        names = {
            kind: embeddings.part_name(kind, bucket, opened.buckets, recorder.run_id)
            for kind in ("embeddings", "removed")
        }
        if added is not None and added.num_rows:
            mine = added.filter(pa.array(buckets_of(added["creator_id"], opened.buckets) == bucket))
            if mine.num_rows:
                part = embeddings.write_part(output, names["embeddings"], mine)
                state = dataclasses.replace(state, embeddings=(*state.embeddings, part))
        there = embeddings.read_parts(output, state.embeddings, opened.schema, embeddings.IDS)
        leave = there.filter(pc.is_in(there["image_id"], pa.array(removed, pa.string())))
        if leave.num_rows:
            assert not state.removed, "this leaves images once"
            when = pa.array([recorder.started_at] * leave.num_rows, pa.timestamp("us", tz="UTC"))
            leave = schemas.conform(leave.append_column("removed_at", when), schemas.REMOVED)
            part = embeddings.write_part(output, names["removed"], leave)
            state = dataclasses.replace(state, removed=(part,))
        left = there.filter(pc.invert(pc.is_in(there["image_id"], pa.array(removed, pa.string()))))
        creators = len(pc.unique(left["creator_id"]))
        states.append(dataclasses.replace(state, creators=creators))
    after = Snapshot(run_id=recorder.run_id, schema=opened.schema, buckets=tuple(states))
    recorder.finish(
        output,
        snapshot=after.write(output),
        counts=after.counts(),
        space=opened.space.to_json(),
        encoder=opened.encoder,
    )


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
    vectors = unit(np.random.default_rng(len(words)).normal(size=(len(words), dim)))
    return Directions(tuple(words), vectors)


def publish(
    table: str | Path,
    rows: pa.Table,
    model: str,
    *,
    words: Sequence[str] = ("vivid", "calm"),
    attributes: pa.Table | None = None,
    updated_at: datetime = datetime(2026, 1, 1, tzinfo=UTC),
    run_id: str = "made-up",
) -> dict[str, Any]:
    """Publish all rows in this process, with random directions; return `version` and `rows`.

    `attributes` has `creator_id` and further columns.
    """
    opened = Checkpoint.open(model)
    directions = make_directions(words, opened.encoder_space.dim)
    where = TableUri.parse(str(table))
    commit.require_ours(where)
    held_out = HeldOut("all", 1.0)
    drafts = publishing.draft([rows], opened, held_out, updated_at=updated_at, device="cpu")
    means = schemas.matrix(drafts.creators["mean_embedding"])
    scores = adjectives.scores(means, directions.vectors)
    fitted = population.fit(
        iter([drafts.creators]),
        {word: scores[:, i] for i, word in enumerate(words)},
        opened.config.dim,
    )
    record = publishing.record_of(
        opened,
        run_id=run_id,
        adjective_names=words,
        attributes=attributes.column_names[1:] if attributes else [],
        population=fitted.write(where),
        directions=directions.write(where, opened.encoder_space),
        encoder_source="made-up",
    )
    schema = publishing.with_record(publishing.schema_of(opened, words, attributes), record)
    completion = Completion(fitted, directions, attributes, schema)
    fragments = commit.write_rows(where, completion.rows(drafts.creators))
    planned = len(set(rows["creator_id"].to_pylist()))
    commit.overwrite(where, schema, fragments, planned=planned)
    commit.index(where)
    version = commit.require_still_ours(where, run_id)
    storage.write_parquet(where.beside("halves", f"{run_id}.parquet"), drafts.halves)
    told = {"run_id": run_id, "table_version": version.version, "embeddings": "/nowhere"}
    storage.write_json(
        commit.publish_uri(where, run_id),
        {**told, "counts": {"creators": planned}, "model": opened.uri, "parts": []},
    )
    commit.tag(where, "live", version.version)
    return {"version": version.version, "rows": planned}


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
            buckets=1,
            train_creators=len(training),
            validation_creators=len(validation),
            test_creators=0,
            copies=0,
            shared=0,
            single=0,
        ),
    )
