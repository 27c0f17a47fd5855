"""Which creators a publish must recompute: those whose images are not what `live` was made of."""

import hashlib
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from motif.artefacts import embeddings as artefact
from motif.artefacts.embeddings import Embeddings
from motif.artefacts.snapshot import Bucket
from motif.images.manifest import buckets_of

KINDS = ("embeddings", "removed")


@dataclass(frozen=True)
class BucketWork:
    """What to recompute of a bucket."""

    bucket: int
    creators: frozenset[str] | None
    """None for all."""


@dataclass(frozen=True)
class Changes:
    """What a publish has to do."""

    work: tuple[BucketWork, ...]
    gone: tuple[str, ...]
    """Creators that are published and have no images any more, sorted."""

    @property
    def creators(self) -> int | None:
        """Creators to recompute; None where that is all."""
        if any(work.creators is None for work in self.work):
            return None
        return sum(len(work.creators or ()) for work in self.work)


def parts_of(embeddings: Embeddings) -> list[list[str]]:
    """Return the names of each bucket's files, as a publish records them."""
    return [_names(bucket) for bucket in embeddings.snapshot.buckets]


def _names(bucket: Bucket) -> list[str]:
    return sorted(part.name for kind in KINDS for part in getattr(bucket, kind))


def everything(embeddings: Embeddings) -> Changes:
    """Return the work of a publish of everybody."""
    return Changes(tuple(BucketWork(bucket, None) for bucket in range(embeddings.buckets)), ())


def changed_buckets(embeddings: Embeddings, published: Sequence[Sequence[str]]) -> list[int]:
    """Return the buckets whose files are not those that were published."""
    now = parts_of(embeddings)
    if len(now) != len(published):
        return list(range(len(now)))
    return [b for b, names in enumerate(now) if names != list(published[b])]


def creators_to_compare(
    embeddings: Embeddings, bucket: int, published: Sequence[str] | None
) -> dict[str, Any]:
    """Return, in a task, what a changed bucket holds.

    Args:
        embeddings: To be published.
        bucket: Whose files changed.
        published: Its files then; None if the buckets were cut otherwise.

    Returns:
        `bucket`; `added`: creators of new files, where files were only added; else `digests`: id
        and digest of every creator.
    """
    state = embeddings.snapshot.buckets[bucket]
    before = set(published or ())
    kept = {part.name for part in state.embeddings}
    removed = {part.name for part in state.removed}
    only_added = published is not None and before <= kept | removed and removed <= before
    if only_added:
        new = [part for part in state.embeddings if part.name not in before]
        rows = artefact.read_parts(embeddings.uri, new, embeddings.schema, ["creator_id"])
        return {"bucket": bucket, "added": pc.unique(rows["creator_id"])}
    rows = embeddings.read_bucket(bucket, ["creator_id", "image_id", "content_hash"])
    ids = pc.dictionary_encode(rows["creator_id"]).combine_chunks()
    creator = ids.indices.to_numpy()
    texts = [rows[name].to_numpy(zero_copy_only=False) for name in ("image_id", "content_hash")]
    bounds = np.r_[0, np.flatnonzero(np.diff(creator)) + 1, len(creator)] if len(creator) else [0]
    digests = [
        images_digest(texts[0][start:stop].tolist(), texts[1][start:stop].tolist())
        for start, stop in itertools.pairwise(bounds)
    ]
    names = ids.dictionary.take(pa.array(creator[bounds[:-1]])) if len(creator) else ids.dictionary
    return {"bucket": bucket, "digests": pa.table({"creator_id": names, "images_digest": digests})}


def compare(found: Sequence[Mapping[str, Any]], live: pa.Table, buckets: int) -> Changes:
    """Return what must be recomputed, and who is gone.

    Args:
        found: From `creators_to_compare`, of all changed buckets.
        live: `creator_id` and `images_digest` of the published version.
        buckets: Of EMBEDDINGS.
    """
    work: list[BucketWork] = []
    gone: list[str] = []
    whole = [one for one in found if "digests" in one]
    bucket_of = buckets_of(live["creator_id"], buckets) if whole and live.num_rows else None
    for one in sorted(found, key=lambda one: one["bucket"]):
        bucket = one["bucket"]
        if "added" in one:
            creators = frozenset(one["added"].to_pylist())
        else:
            now = dict(zip(*(c.to_pylist() for c in one["digests"].columns), strict=True))
            before: dict[str, str] = {}
            if bucket_of is not None:
                mine = live.filter(pa.array(bucket_of == bucket))
                before = dict(zip(*(c.to_pylist() for c in mine.columns), strict=True))
            creators = frozenset(c for c, digest in now.items() if before.get(c) != digest)
            gone += sorted(set(before) - set(now))
        if creators:
            work.append(BucketWork(bucket, creators))
    return Changes(tuple(work), tuple(sorted(gone)))


def images_digest(image_ids: Sequence[str], content_hashes: Sequence[str]) -> str:
    """Return 16 hexadecimal digits that change when, and only when, a creator's images do."""
    digest = hashlib.sha256()
    for pair in sorted(zip(image_ids, content_hashes, strict=True)):
        digest.update("\0".join(pair).encode("utf-8", "surrogatepass") + b"\n")
    return digest.hexdigest()[:16]
