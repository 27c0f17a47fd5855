"""From the images of a creator to the creator: vectors, consistency, representative images."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

REPRESENTATIVES = 4
# Two pictures are near copies when their 64-bit perceptual hashes differ in at most this many bits.
# On 4,827 paintings (benchmarks/decode.py --wikiart FOLDER) it finds 99.98 % of copies saved again
# at quality 70 and all at half the size, and takes 1 in 11.6 million pairs of files (8.6e-8) for a
# copy: two photographs of one painting. At 6 bits it is 3.4e-7, and portraits of different people
# begin. Equal hashes (0 bits) find 88 % and 89 % of the same copies, and no pair of different files
# (below 2.6e-7 with 95 % confidence).
NEAR_DUPLICATE_BITS = 4


@dataclass(frozen=True)
class CreatorVectors:
    """One row per creator."""

    same: Float[np.ndarray, "creators same"]
    """Unit: the direction of the mean of the images' SAME embeddings."""
    mean_embedding: Float[np.ndarray, "creators dim"]
    """Mean of the unit embeddings, not renormalised: its product with a direction is the mean
    score of the images."""
    image_count: Int[np.ndarray, " creators"]
    theme_consistency: Float[np.ndarray, " creators"]
    """Mean cosine between two different images' SAME embeddings, cut to [0, 1]; NaN for one
    image. Pairs, not distances to the mean, so that it does not rise with few images."""


def pool(
    same: Float[np.ndarray, "images same"],
    embedding: Float[np.ndarray, "images dim"],
    offsets: Int[np.ndarray, " bounds"],
) -> CreatorVectors:
    """Aggregate images by creator.

    Args:
        same: Unit SAME embeddings, grouped by creator.
        embedding: Unit embeddings of the same images.
        offsets: Creator i owns the rows [offsets[i], offsets[i + 1]); none is empty.

    Raises:
        ValueError: A creator's SAME embeddings cancel out to zero.
    """
    counts = np.diff(offsets)
    # In float64, so that the order of a creator's images does not show in the result.
    sums = np.add.reduceat(same.astype(np.float64), offsets[:-1], axis=0)
    lengths = np.linalg.norm(sums, axis=1)
    if not np.all(lengths > 0):
        raise ValueError(f"creator {int(np.argmin(lengths))} has images that cancel out")
    means = np.add.reduceat(embedding.astype(np.float64), offsets[:-1], axis=0) / counts[:, None]
    pairs = counts * (counts - 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        consistency = np.clip((lengths**2 - counts) / pairs, 0, 1)
    consistency[pairs == 0] = np.nan
    return CreatorVectors(
        same=(sums / lengths[:, None]).astype(np.float32),
        mean_embedding=means.astype(np.float32),
        image_count=counts.astype(np.int32),
        theme_consistency=consistency.astype(np.float32),
    )


def representatives(
    same: Float[np.ndarray, "images same"],
    vector: Float[np.ndarray, " same"],
    content_hashes: list[str],
    perceptual_hashes: list[str],
    *,
    keep: int = REPRESENTATIVES,
) -> list[int]:
    """Return the images nearest to the creator's vector, one per group of near duplicates.

    Args:
        same: Unit SAME embeddings of one creator.
        vector: The creator's.
        content_hashes: Of the images' files.
        perceptual_hashes: Of the pictures, as 16 hexadecimal digits.
        keep: At most this many.

    Returns:
        Indices, nearest first.
    """
    chosen: list[int] = []
    for index in np.argsort(-(same @ vector), kind="stable").tolist():
        if len(chosen) == keep:
            break
        if not any(
            content_hashes[index] == content_hashes[other]
            or hamming(perceptual_hashes[index], perceptual_hashes[other]) <= NEAR_DUPLICATE_BITS
            for other in chosen
        ):
            chosen.append(index)
    return chosen


def hamming(first: str, second: str) -> int:
    """Return in how many bits two hexadecimal hashes differ."""
    return (int(first, 16) ^ int(second, 16)).bit_count()
