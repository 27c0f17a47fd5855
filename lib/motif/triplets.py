"""Which images a training step sees: a function of (seed, step) alone.

Every worker can compute the whole batch, and takes its share of it; so the batches do not depend
on the number of workers.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int


@dataclass(frozen=True)
class CreatorImages:
    """Rows of images grouped by creator: creator i owns rows[offsets[i] : offsets[i + 1]]."""

    rows: Int[np.ndarray, " images"]
    offsets: Int[np.ndarray, " bounds"]

    @classmethod
    def group(cls, creator: Int[np.ndarray, " images"], at_least: int = 1) -> "CreatorImages":
        """Group row numbers by creator index, leaving out creators with fewer images."""
        order = np.argsort(creator, kind="stable")
        _, starts, counts = np.unique(creator[order], return_index=True, return_counts=True)
        kept = [
            order[start : start + count]
            for start, count in zip(starts, counts, strict=True)
            if count >= at_least
        ]
        offsets = np.cumsum([0, *(len(rows) for rows in kept)])
        return cls(np.concatenate(kept) if kept else np.zeros(0, int), offsets)

    def __len__(self) -> int:
        """Return the number of creators."""
        return len(self.offsets) - 1


def sample_batch(
    images: CreatorImages,
    *,
    creators: int,
    set_sizes: Sequence[int],
    seed: int,
    step: int,
) -> Int[np.ndarray, "creators two size"]:
    """Draw creators and, of each, two disjoint sets of images.

    A creator with too few images for two full sets repeats images within a set, never across the
    two: an image is not its own positive.

    Args:
        images: Training images; every creator must own at least two.
        creators: How many creators; fewer when there are fewer.
        set_sizes: The size of the sets is drawn from these, one for the whole batch.
        seed: Of the run.
        step: Of the run.

    Returns:
        Row numbers.
    """
    generator = np.random.default_rng([seed, step])
    size = int(generator.choice(np.asarray(set_sizes)))
    chosen = generator.choice(len(images), min(creators, len(images)), replace=False)
    batch = np.empty((len(chosen), 2, size), dtype=np.int64)
    for i, creator in enumerate(chosen):
        own = images.rows[images.offsets[creator] : images.offsets[creator + 1]]
        own = generator.permutation(own)[: 2 * size]
        half = len(own) // 2
        batch[i] = np.resize(own[:half], size), np.resize(own[half:], size)
    return batch
