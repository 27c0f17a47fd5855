"""A CREATORS table of made-up creators, with all columns, written and indexed as a publish does."""

import json
import shutil
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import lance
import numpy as np
import pyarrow as pa

from benchmarks.publish_parts.vectors import DIM, World
from motif import adjectives, schemas
from motif.publishing import commit, population, rows
from motif.publishing.directions import Directions
from motif.publishing.population import Population
from motif.publishing.rows import Completion
from motif.table import TableUri

ADJECTIVES = ("pleasing", "dramatic", "minimalist", "vivid")
EMBEDDING_DIM = 384
COUNTRIES = 60
ROWS_AT_ONCE = 50_000
SEED = 1


@dataclass(frozen=True)
class Made:
    """A table in the cache."""

    uri: str
    seconds: dict[str, float]
    """Of its parts, when it was made."""


def make(cache: Path, creators: int) -> Made:
    """Return a table that is live; made once, in the cache."""
    folder = cache / f"creators-{creators}-v2"
    table = TableUri.parse(str(folder / "creators.lance"))
    record = folder / "seconds.json"
    if not record.exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        record.write_text(json.dumps(_write(table, creators)))
    return Made(table.uri, json.loads(record.read_text()))


def _write(table: TableUri, creators: int) -> dict[str, float]:
    generator = np.random.default_rng(SEED)
    world = World.of(SEED)
    to_embedding = generator.standard_normal((DIM, EMBEDDING_DIM), np.float32) / DIM**0.5
    vectors = generator.standard_normal((len(ADJECTIVES), EMBEDDING_DIM), np.float32)
    directions = Directions(
        ADJECTIVES, vectors / np.linalg.norm(vectors, axis=1, keepdims=True), {}
    )
    began = time.perf_counter()
    first = _drafts(world, to_embedding, 0, min(creators, ROWS_AT_ONCE))
    fitted = _population(first, directions)
    attributes = _attributes(creators, generator)
    schema = schemas.creators(
        DIM, EMBEDDING_DIM, ADJECTIVES, [attributes.schema.field(n) for n in ATTRIBUTES]
    )
    record = {
        "artefact": "creators",
        "schema_version": schemas.CREATORS_VERSION,
        "run_id": "made-up",
        "space": {"fingerprint": "made-up", "encoder": {}},
        "adjectives": {a: schemas.oaar_column(a) for a in ADJECTIVES},
        "attributes": list(ATTRIBUTES),
        "population": fitted.write(table),
    }
    schema = rows.with_record(schema, record)
    fragments: list[str] = []
    for start in range(0, creators, ROWS_AT_ONCE):
        stop = min(start + ROWS_AT_ONCE, creators)
        drafts = first if not start else _drafts(world, to_embedding, start, stop)
        mine = attributes.slice(start, stop - start)
        fragments += commit.write_rows(
            table, Completion(fitted, directions, mine, schema).rows(drafts)
        )
    written = time.perf_counter()
    commit.overwrite(table, schema, fragments, planned=creators)
    commit.index(table)
    commit.tag(table, "live", lance.dataset(table.uri).version)
    return {"write": written - began, "index": time.perf_counter() - written}


def _drafts(world: World, to_embedding: np.ndarray, start: int, stop: int) -> pa.Table:
    generator = np.random.default_rng([SEED, start])
    count = stop - start
    same = world.creators(count, generator)
    noise = generator.standard_normal((count, EMBEDDING_DIM), np.float32) / EMBEDDING_DIM**0.5
    mean = 0.7 * same @ to_embedding + 0.3 * noise
    uris = [[f"s3://images/{i:07d}/{j}.jpg" for j in range(4)] for i in range(start, stop)]
    columns: dict[str, Any] = {
        "creator_id": [creator_id(i) for i in range(start, stop)],
        "same": schemas.vector_array(same),
        "mean_embedding": schemas.vector_array(mean.astype(np.float32)),
        "image_count": generator.integers(12, 41, count).astype(np.int32),
        "theme_consistency": generator.beta(2, 8, count).astype(np.float32),
        "representative_uris": uris,
        "images_digest": [f"{i:016x}" for i in range(start, stop)],
        "updated_at": pa.array([datetime(2026, 1, 1, tzinfo=UTC)] * count),
    }
    return schemas.conform(pa.table(columns), schemas.creator_drafts(DIM, EMBEDDING_DIM))


def creator_id(number: int) -> str:
    """Return an id that says nothing about the row's place."""
    return f"creator-{number * 2_654_435_761 % 2**32:010d}"


def _population(drafts: pa.Table, directions: Directions) -> Population:
    scores = adjectives.scores(schemas.matrix(drafts["mean_embedding"]), directions.vectors)
    by_word = {word: scores[:, i] for i, word in enumerate(directions.adjectives)}
    return population.fit(iter([drafts]), by_word, DIM)


ATTRIBUTES = ("country", "followers")


def _attributes(creators: int, generator: np.random.Generator) -> pa.Table:
    """Return countries of very different sizes, and followers over six orders of magnitude."""
    weights = 1 / np.arange(1, COUNTRIES + 1)
    country = generator.choice(COUNTRIES, creators, p=weights / weights.sum())
    followers = np.exp(generator.normal(9, 2, creators)).astype(np.int64)
    names = np.array([f"{chr(65 + i // 26)}{chr(65 + i % 26)}" for i in range(COUNTRIES)])
    return pa.table(
        {
            "creator_id": [creator_id(i) for i in range(creators)],
            "country": names[country],
            "followers": followers,
        }
    )
