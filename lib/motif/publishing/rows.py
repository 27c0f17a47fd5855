"""Rows of CREATORS: drafts from the creators' own images, completed by the population."""

import hashlib
import itertools
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from jaxtyping import Float, Int

from motif import adjectives, schemas, splits
from motif.artefacts.checkpoint import Checkpoint
from motif.errors import ContractError
from motif.model import as_inputs, embed
from motif.pooling import pool, representatives
from motif.publishing.changes import images_digest
from motif.publishing.directions import Directions
from motif.publishing.population import Population
from motif.table.layout import METADATA_KEY

HALF_IMAGES = 5
"""At most, of each half of a held-out creator."""
HELD_OUT_CREATORS = 1000
IMAGES_AT_ONCE = 4096
"""That go through the network, and that are in memory if no creator has more."""


def columns_needed(checkpoint: Checkpoint) -> list[str]:
    """Return what of EMBEDDINGS a draft needs."""
    column = checkpoint.config.input_column
    names = ["creator_id", "image_id", "uri", "embedding", "content_hash", "perceptual_hash"]
    return [*names, *({column} - set(names))]


@dataclass(frozen=True)
class Drafts:
    """What a creator's own images say."""

    creators: pa.Table
    """`schemas.creator_drafts`, sorted by id."""
    halves: pa.Table
    """`halves_schema`: the held-out creators among them."""


def halves_schema(dim: int) -> pa.Schema:
    """Return the columns of held-out creators, each as two unit vectors of disjoint images."""
    return pa.schema(
        [
            pa.field("creator_id", pa.string(), nullable=False),
            pa.field("first", schemas.vector(dim), nullable=False),
            pa.field("second", schemas.vector(dim), nullable=False),
        ]
    )


@dataclass(frozen=True)
class HeldOut:
    """Which creators the quality of a version is measured on."""

    split: str
    """`test`; or, where the model held out nobody, `all`."""
    below: float
    """Only creators whose place by hash is below it, so that there are not too many."""

    @classmethod
    def of(cls, checkpoint: Checkpoint, creators: int) -> "HeldOut":
        """Choose by what the model has not seen."""
        fraction = checkpoint.config.test_fraction
        expected = creators * (fraction or 1.0)
        share = min(1.0, HELD_OUT_CREATORS / max(expected, 1.0))
        return cls(splits.TEST if fraction else "all", share)

    def holds(self, creator_id: str, checkpoint: Checkpoint) -> bool:
        """Return whether a creator is one of them."""
        if self.split != "all" and checkpoint.split_of(creator_id) != self.split:
            return False
        # Not the hash of the split, of which these have all one stretch.
        digest = hashlib.sha256(b"motif held out\0" + creator_id.encode("utf-8", "surrogatepass"))
        return int.from_bytes(digest.digest()[:8], "big") / 2**64 < self.below


def draft(
    parts: Iterable[pa.Table],
    checkpoint: Checkpoint,
    held_out: HeldOut,
    *,
    updated_at: datetime,
    device: str,
) -> Drafts:
    """Aggregate the images of creators.

    Args:
        parts: `columns_needed` of EMBEDDINGS, sorted by creator and image; all images of a creator
            are in one part.
        checkpoint: SAME.
        held_out: Whom quality is measured on.
        updated_at: Of every row.
        device: Where the network runs.

    Raises:
        ContractError: A creator's images have no common direction.
    """
    dim, embedding_dim = checkpoint.config.dim, checkpoint.encoder_space.dim
    creators = [schemas.creator_drafts(dim, embedding_dim).empty_table()]
    halves = [halves_schema(dim).empty_table()]
    for part in parts:
        if part.num_rows:
            one = _draft(part, checkpoint, held_out, updated_at=updated_at, device=device)
            creators.append(one.creators)
            halves.append(one.halves)
    return Drafts(pa.concat_tables(creators), pa.concat_tables(halves))


def _starts(rows: pa.Table) -> Int[np.ndarray, " creators"]:
    ids = rows["creator_id"].combine_chunks()
    changes = pc.not_equal(ids[1:], ids[:-1]).to_numpy(zero_copy_only=False)
    return np.flatnonzero(np.r_[True, changes])


def _draft(
    rows: pa.Table,
    checkpoint: Checkpoint,
    held_out: HeldOut,
    *,
    updated_at: datetime,
    device: str,
) -> Drafts:
    starts = _starts(rows)
    offsets = np.r_[starts, rows.num_rows]
    ids = rows["creator_id"].take(pa.array(starts)).to_pylist()
    embedding = schemas.matrix(rows["embedding"])
    column = checkpoint.config.input_column
    inputs = embedding if column == "embedding" else schemas.matrix(rows[column])
    network = checkpoint.model.to(device)
    same = np.concatenate(
        [
            embed(network, as_inputs(torch.tensor(inputs[at : at + IMAGES_AT_ONCE])).to(device))
            .cpu()
            .numpy()
            for at in range(0, rows.num_rows, IMAGES_AT_ONCE)
        ]
    )
    lengths = np.linalg.norm(np.add.reduceat(same, starts, axis=0), axis=1)
    if lost := [ids[i] for i in np.flatnonzero(~(lengths > 0))]:
        raise ContractError(
            f"{len(lost)} creators have no direction in SAME's space (first: {lost[0]!r}): their"
            " embeddings are zero, not finite or cancel out; encode them again or leave them out"
        )
    vectors = pool(same, embedding, offsets)
    texts = {
        name: rows[name].to_pylist()
        for name in ("uri", "image_id", "content_hash", "perceptual_hash")
    }
    chosen, digests, halves = [], [], []
    for i, (start, stop) in enumerate(itertools.pairwise(offsets.tolist())):
        best = representatives(
            same[start:stop],
            vectors.same[i],
            texts["content_hash"][start:stop],
            texts["perceptual_hash"][start:stop],
        )
        chosen.append([texts["uri"][start + index] for index in best])
        digests.append(
            images_digest(texts["image_id"][start:stop], texts["content_hash"][start:stop])
        )
        if stop - start >= 4 and held_out.holds(ids[i], checkpoint):
            pair = _halves(same[start:stop], texts["image_id"][start:stop])
            halves.append((ids[i], *pair))
    consistency = vectors.theme_consistency
    dim, embedding_dim = checkpoint.config.dim, checkpoint.encoder_space.dim
    creators = pa.table(
        {
            "creator_id": pa.array(ids, pa.string()),
            "same": schemas.vector_array(vectors.same),
            "mean_embedding": schemas.vector_array(vectors.mean_embedding),
            "image_count": vectors.image_count,
            "theme_consistency": pa.array(consistency, mask=np.isnan(consistency)),
            "representative_uris": pa.array(chosen, pa.list_(pa.string())),
            "images_digest": digests,
            "updated_at": pa.array([updated_at] * len(ids), pa.timestamp("us", tz="UTC")),
        }
    )
    pairs = pa.table(
        {
            "creator_id": pa.array([half[0] for half in halves], pa.string()),
            **{
                name: schemas.vector_array(
                    np.array([half[side] for half in halves], np.float32).reshape(-1, dim)
                )
                for side, name in ((1, "first"), (2, "second"))
            },
        },
        schema=halves_schema(dim),
    )
    return Drafts(schemas.conform(creators, schemas.creator_drafts(dim, embedding_dim)), pairs)


def _halves(
    same: Float[np.ndarray, "images same"], image_ids: Sequence[str]
) -> tuple[Float[np.ndarray, " same"], Float[np.ndarray, " same"]]:
    """Return the directions of two disjoint sets of images, chosen by hashes of their ids."""
    order = sorted(
        range(len(image_ids)),
        key=lambda i: hashlib.sha256(image_ids[i].encode("utf-8", "surrogatepass")).digest(),
    )[: 2 * HALF_IMAGES]
    first, second = (same[order[side::2]].mean(axis=0) for side in (0, 1))
    return tuple(v / max(float(np.linalg.norm(v)), 1e-12) for v in (first, second))  # type: ignore[return-value]


@dataclass(frozen=True)
class Completion:
    """What turns drafts into rows of CREATORS."""

    population: Population
    """With all adjectives of `directions`."""
    directions: Directions
    attributes: pa.Table | None
    """`creator_id` and further columns; creators that it lacks get nulls."""
    schema: pa.Schema
    """Of CREATORS."""

    def rows(self, drafts: pa.Table) -> pa.Table:
        """Return the rows of `schemas.creator_drafts`.

        Raises:
            ContractError: A vector is not finite, or `same` not of unit length.
        """
        same, mean = schemas.matrix(drafts["same"]), schemas.matrix(drafts["mean_embedding"])
        _require_vectors(drafts, same, mean)
        consistency = pc.fill_null(drafts["theme_consistency"], 0.0).to_numpy()
        columns: dict[str, Any] = {
            "theme_reliability": self.population.reliability(
                consistency, drafts["image_count"].to_numpy()
            ),
            "hubness": self.population.hubness(drafts["creator_id"].to_pylist(), same),
            **score_columns(mean, self.directions, self.population),
        }
        rows = drafts
        for name, values in columns.items():
            rows = rows.append_column(name, pa.array(values, pa.float32()))
        if self.attributes is not None:
            places = pc.index_in(
                drafts["creator_id"], self.attributes["creator_id"].combine_chunks()
            )
            for name in self.attributes.column_names[1:]:
                rows = rows.append_column(name, self.attributes[name].take(places))
        return schemas.conform(rows, self.schema)


def score_columns(
    mean_embedding: Float[np.ndarray, "creators dim"],
    directions: Directions,
    population: Population,
) -> dict[str, Float[np.ndarray, " creators"]]:
    """Return OAAR scores and percentiles by column, in the order of the schema."""
    scores = adjectives.scores(mean_embedding, directions.vectors).astype(np.float32)
    found = {}
    for i, adjective in enumerate(directions.adjectives):
        found[schemas.oaar_column(adjective)] = scores[:, i]
        found[schemas.percentile_column(adjective)] = population.percentiles(
            adjective, scores[:, i]
        )
    return found


def _require_vectors(rows: pa.Table, same: np.ndarray, mean: np.ndarray) -> None:
    lengths = np.linalg.norm(same, axis=1)
    bad = ~(np.abs(lengths - 1) < 1e-3) | ~np.isfinite(mean).all(axis=1)
    if bad.any():
        first = rows["creator_id"][int(np.argmax(bad))].as_py()
        raise ContractError(
            f"{int(bad.sum())} creators have vectors that are not finite or not of unit length"
            f" (first: {first!r:.80})"
        )


def schema_of(
    checkpoint: Checkpoint, adjective_names: Sequence[str], attributes: pa.Table | None
) -> pa.Schema:
    """Return CREATORS, without the record that a publish adds."""
    fields = (
        []
        if attributes is None
        else [attributes.schema.field(n) for n in attributes.column_names[1:]]
    )
    return schemas.creators(
        checkpoint.config.dim, checkpoint.encoder_space.dim, adjective_names, fields
    )


def with_record(schema: pa.Schema, record: dict[str, Any]) -> pa.Schema:
    """Return the schema with what readers find in its metadata."""
    return schema.with_metadata({METADATA_KEY: json.dumps(record).encode()})


def record_of(
    checkpoint: Checkpoint,
    *,
    run_id: str,
    adjective_names: Sequence[str],
    attributes: Sequence[str],
    population: str,
    directions: str,
    encoder_source: str,
) -> dict[str, Any]:
    """Return what a publish tells readers: artefact, schema version, space, what made it."""
    return {
        "artefact": "creators",
        "schema_version": schemas.CREATORS_VERSION,
        "run_id": run_id,
        "space": {
            "fingerprint": checkpoint.fingerprint,
            "encoder": checkpoint.encoder_space.to_json(),
        },
        "adjectives": {a: schemas.oaar_column(a) for a in adjective_names},
        "attributes": list(attributes),
        "population": population,
        "directions": directions,
        "encoder_source": encoder_source,
        "model": checkpoint.uri,
    }
