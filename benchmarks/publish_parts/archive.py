"""EMBEDDINGS of made-up creators in the lite encoder's space, with `features`; and how they grow.

Images of a creator are its theme and a stretch of a pool of noise, so that ten million of them are
written in minutes; every value still has all its digits, so that files are as large as real ones.
"""

import dataclasses
import hashlib
import itertools
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from motif import schemas
from motif.artefacts import embeddings, run
from motif.artefacts.embeddings import Embeddings
from motif.artefacts.snapshot import Bucket, Snapshot
from motif.encoder.encoder import Encoder
from motif.encoder.source import LITE, resolve
from motif.images.manifest import bucket_of
from motif.space import Space

FEATURES_DIM = 512
IMAGES_PER_CREATOR = 50
BUCKET_IMAGES = 50_000
NOISE_ROWS = 100_000
ADDED_IMAGES = 5
"""To each creator that changes."""


@dataclass(frozen=True)
class MadeBy:
    """What a job's configuration leaves in run.json."""

    encoder: str = LITE


class Pictures:
    """Makes rows of EMBEDDINGS."""

    def __init__(self, embedding_dim: int) -> None:
        """Draw the pools of noise."""
        generator = np.random.default_rng(0)
        self._dims = {"embedding": embedding_dim, "features": FEATURES_DIM}
        self._noise = {
            name: generator.standard_normal((NOISE_ROWS, dim), np.float32)
            for name, dim in self._dims.items()
        }
        self.schema = schemas.embeddings(embedding_dim, features_dim=FEATURES_DIM)

    def rows(self, creator_ids: list[str], images: int, *, first: int = 0, seed: int) -> pa.Table:
        """Return so many images of each creator, sorted as a bucket is.

        Args:
            creator_ids: Sorted.
            images: Of each.
            first: Number of a creator's first one.
            seed: Of the themes and of the noise's place.
        """
        generator = np.random.default_rng(seed)
        count = len(creator_ids) * images
        columns = {}
        for name, dim in self._dims.items():
            theme = generator.standard_normal((len(creator_ids), dim), np.float32)
            places = (generator.integers(NOISE_ROWS) + np.arange(count)) % NOISE_ROWS
            values = self._noise[name][places]
            values *= 2
            values.reshape(len(creator_ids), images, dim)[:] += theme[:, None]
            values /= np.linalg.norm(values, axis=1, keepdims=True)
            item = schemas.HALF if name == "features" else schemas.FLOAT
            columns[name] = schemas.vector_array(values, item=item)
        ids = list(itertools.chain.from_iterable([one] * images for one in creator_ids))
        names = [f"{one}-{first + i % images:03d}" for i, one in enumerate(ids)]
        digests = [hashlib.sha256(name.encode()).hexdigest() for name in names]
        table = pa.table(
            {
                "image_id": names,
                "creator_id": ids,
                "uri": [f"s3://bucket/images/{name}.jpg" for name in names],
                "version": pa.nulls(count, pa.string()),
                "posted_at": pa.nulls(count, pa.timestamp("us", tz="UTC")),
                **columns,
                "content_hash": digests,
                "perceptual_hash": [digest[:16] for digest in digests],
            }
        )
        return table.select(self.schema.names).cast(self.schema)


def lite_space() -> Space:
    """Return the space of the lite encoder, whose text tower a publish asks for adjectives."""
    return Encoder(resolve(LITE), features=True).space


def make(cache: Path, images: int) -> Path:
    """Return finished EMBEDDINGS; made once, in the cache."""
    output = cache / f"publish-archive-{images}"
    if (output / run.RUN_FILE).exists():
        return output
    shutil.rmtree(output, ignore_errors=True)
    space = lite_space()
    pictures = Pictures(space.dim)
    recorder = run.Recorder(embeddings.ARTEFACT, MadeBy())
    buckets = max(1, images // BUCKET_IMAGES)
    states = []
    for bucket, ids in enumerate(_by_bucket(images // IMAGES_PER_CREATOR, buckets)):
        name = embeddings.part_name("embeddings", bucket, buckets, recorder.run_id)
        rows = pictures.rows(ids, IMAGES_PER_CREATOR, seed=bucket)
        part = embeddings.write_part(str(output), name, rows)
        states.append(Bucket(embeddings=(part,), creators=len(ids)))
    _finish(str(output), recorder, Snapshot(recorder.run_id, pictures.schema, tuple(states)), space)
    return output


def _by_bucket(creators: int, buckets: int) -> Iterator[list[str]]:
    """Yield the sorted ids of each bucket."""
    found: list[list[str]] = [[] for _ in range(buckets)]
    for number in range(creators):
        creator = f"creator-{number:07d}"
        found[bucket_of(creator, buckets)].append(creator)
    yield from found


def grow(output: Path, *, creators: int) -> None:
    """Commit a snapshot in which some creators, at random, have further images."""
    opened = Embeddings.open(str(output))
    pictures = Pictures(opened.space.dim)
    recorder = run.Recorder(embeddings.ARTEFACT, MadeBy())
    seed = len(list((output / "snapshots").iterdir()))  # no image is added twice
    generator = np.random.default_rng([1, seed])
    changed = generator.choice(opened.counts["creators"], creators, replace=False)
    of_bucket: dict[int, list[str]] = {}
    for number in sorted(changed.tolist()):
        creator = f"creator-{number:07d}"
        of_bucket.setdefault(bucket_of(creator, opened.buckets), []).append(creator)
    states = list(opened.snapshot.buckets)
    for bucket, ids in of_bucket.items():
        name = embeddings.part_name("embeddings", bucket, opened.buckets, recorder.run_id)
        first = IMAGES_PER_CREATOR + ADDED_IMAGES * seed
        rows = pictures.rows(ids, ADDED_IMAGES, first=first, seed=10**6 * seed + bucket)
        part = embeddings.write_part(opened.uri, name, rows)
        state = states[bucket]
        states[bucket] = dataclasses.replace(state, embeddings=(*state.embeddings, part))
    after = Snapshot(recorder.run_id, opened.schema, tuple(states))
    _finish(opened.uri, recorder, after, opened.space)


def _finish(output: str, recorder: run.Recorder, after: Snapshot, space: Space) -> None:
    recorder.finish(
        output,
        snapshot=after.write(output),
        counts={**after.counts(), "rows": after.counts()["embedded"]},
        space=space.to_json(),
        encoder=LITE,
    )
