"""A CREATORS table for tests of queries, written by plain LanceDB: no images, no publish."""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import lancedb
import numpy as np
import pyarrow as pa

from motif import schemas
from motif.table.layout import LIVE, METADATA_KEY, TableUri
from tests.synthetic import unit

WORDS = ("vivid", "black-and-white")


def hubness_of(same: np.ndarray, nearest: int = 10) -> np.ndarray:
    """Mean cosine of each row to its nearest others, by definition."""
    cosines = same.astype(np.float64) @ same.T.astype(np.float64)
    np.fill_diagonal(cosines, -np.inf)
    nearest = min(nearest, len(same) - 1)
    return np.sort(cosines, axis=1)[:, -nearest:].mean(axis=1).astype(np.float32)


def write(
    path: str | Path,
    ids: Sequence[str],
    *,
    dim: int = 12,
    same_dim: int = 8,
    words: Sequence[str] = WORDS,
    attributes: Mapping[str, pa.Array] | None = None,
    same: np.ndarray | None = None,
    without: Sequence[str] = (),
    seed: int = 0,
    **recorded: Any,
) -> pa.Table:
    """Write a table at `path`, tagged `live`, and return its rows.

    Args:
        path: DATABASE/TABLE.lance.
        ids: Of the creators.
        dim: Length of `mean_embedding`.
        same_dim: Length of `same`.
        words: Published adjectives.
        attributes: Column name -> values.
        same: Unit vectors, in place of random ones.
        without: Columns to leave out, as an older table does.
        seed: Of the random vectors.
        **recorded: Beside what every table's metadata say.
    """
    generator = np.random.default_rng(seed)
    same = unit(generator.normal(size=(len(ids), same_dim))) if same is None else same
    mean = 0.8 * unit(generator.normal(size=(len(ids), dim)))
    columns: dict[str, Any] = {
        "creator_id": pa.array(ids, pa.string()),
        "same": schemas.vector_array(same),
        "mean_embedding": schemas.vector_array(mean),
        "image_count": pa.array(generator.integers(1, 30, len(ids)), pa.int32()),
        "theme_consistency": pa.array(
            [None if i % 5 == 0 else 0.5 + i / 1000 for i in range(len(ids))], pa.float32()
        ),
        "theme_reliability": pa.array(generator.random(len(ids)), pa.float32()),
        "hubness": hubness_of(same) if len(ids) > 1 else pa.array([0.0] * len(ids), pa.float32()),
        "representative_uris": [[f"/pictures/{i}.jpg"] for i in range(len(ids))],
        "images_digest": [f"{i:016x}" for i in range(len(ids))],
        "updated_at": pa.array(
            [datetime(2026, 1, 1 + i % 28, tzinfo=UTC) for i in range(len(ids))],
            pa.timestamp("us", tz="UTC"),
        ),
    }
    directions = directions_of(words, dim)
    for word, direction in zip(words, directions, strict=True):
        score = mean @ direction
        columns[schemas.oaar_column(word)] = score.astype(np.float32)
        places = np.argsort(np.argsort(score))
        columns[schemas.percentile_column(word)] = (100 * places / max(len(ids) - 1, 1)).astype(
            np.float32
        )
    given = attributes or {}
    fields = [pa.field(name, values.type) for name, values in given.items()]
    full = schemas.creators(same.shape[1], dim, words, fields)
    kept = [field for field in full if field.name not in without]
    record = {
        "artefact": "creators",
        "schema_version": schemas.CREATORS_VERSION,
        "run_id": "made-up",
        "space": {"fingerprint": "0" * 16, "encoder": {"fingerprint": "1" * 16}},
        "adjectives": {word: schemas.oaar_column(word) for word in words},
        "attributes": list(given),
        **recorded,
    }
    rows = pa.table({**columns, **given}).select([field.name for field in kept])
    schema = pa.schema(kept, {METADATA_KEY: json.dumps(record).encode()})
    where = TableUri.parse(str(path))
    made = lancedb.connect(where.database).create_table(where.name, rows.cast(schema))
    made.tags.create(LIVE, made.version)
    return rows


def directions_of(words: Sequence[str], dim: int) -> np.ndarray:
    """Unit directions for the words, made up but always the same."""
    return unit(np.stack([np.random.default_rng(list(w.encode())).normal(size=dim) for w in words]))
