"""Counting reposts: the same picture at two creators, or twice at one.

The same picture is the same file (`content_hash`) or an equal perceptual hash, which also finds 8
or 9 of 10 copies that were saved again or made smaller (pooling.NEAR_DUPLICATE_BITS has figures).
The hashes of all buckets are shared out by value, so that equal ones meet in one task.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt64

from motif import schemas, storage
from motif.artefacts import embeddings, partitions
from motif.artefacts.snapshot import Bucket
from motif.images.plan import Request

HASHES = ("content_hash", "perceptual_hash")


@dataclass(frozen=True)
class Reposts:
    """Images whose picture occurs more than once."""

    same_creator: int = 0
    """Beyond the first of their picture at their creator."""
    other_creators: int = 0
    """Whose picture is also at another creator."""

    def __add__(self, other: "Reposts") -> "Reposts":
        """Add up the counts of two shares."""
        return Reposts(
            self.same_creator + other.same_creator, self.other_creators + other.other_creators
        )


def write_hashes(request: Request, bucket: int, state: Bucket) -> tuple[str, str]:
    """Write the hashes of a bucket's live images; returns one URI per kind of HASHES."""
    columns = ["image_id", "creator_id", *HASHES]
    rows = embeddings.read_parts(request.output, state.embeddings, request.schema, columns)
    removed = embeddings.read_parts(request.output, state.removed, schemas.REMOVED)
    rows = embeddings.live_rows(rows, removed)
    creator = partitions.hashes(rows["creator_id"])
    uris = []
    for name in HASHES:
        uris.append(storage.join(request.scratch, name, f"bucket-{bucket:05d}.arrow"))
        key = partitions.hashes(rows[name])
        partitions.write_pairs(uris[-1], key, creator, request.buckets)
    content, perceptual = uris
    return content, perceptual


def count_share(uris: Iterable[str], share: int) -> Reposts:
    """Count the reposts of one share of the pictures."""
    return count(*partitions.read_pairs(uris, share))


def count(
    picture: UInt64[np.ndarray, " images"], creator: UInt64[np.ndarray, " images"]
) -> Reposts:
    """Count reposts among images that are sorted by picture and then by creator."""
    if not len(picture):
        return Reposts()
    new_picture = np.concatenate([[True], picture[1:] != picture[:-1]])
    new_pair = new_picture | np.concatenate([[True], creator[1:] != creator[:-1]])
    group = np.cumsum(new_picture) - 1
    creators = np.bincount(group, weights=new_pair)
    images = np.bincount(group)
    return Reposts(
        same_creator=int((~new_pair).sum()), other_creators=int(images[creators > 1].sum())
    )
