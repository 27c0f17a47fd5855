"""Which creators a model may learn from: decided by a hash of the id alone, for ever.

A creator keeps its split however the archive grows and in whatever order it is read.
"""

import hashlib
from collections.abc import Sequence

import numpy as np

TRAIN, VALIDATION, TEST = "train", "validation", "test"


def position(creator_id: str) -> float:
    """Return the creator's place in [0, 1), uniform over ids."""
    digest = hashlib.sha256(b"motif split\0" + creator_id.encode("utf-8", "surrogatepass"))
    return int.from_bytes(digest.digest()[:8], "big") / 2**64


def split_of(
    creator_id: str, *, test_fraction: float, validation_fraction: float, test_fold: int = 0
) -> str:
    """Return `train`, `validation` or `test`.

    Args:
        creator_id: The creator.
        test_fraction: Share of all creators held out for testing, in [0, 1).
        validation_fraction: Share of the others that training is stopped by, in [0, 1).
        test_fold: Which stretch of the hash is the test split, for cross-validation: with a
            fraction of 0.5, folds 0 and 1 test on each half in turn.
    """
    at = (position(creator_id) - test_fold * test_fraction) % 1.0
    if at < test_fraction:
        return TEST
    rest = (at - test_fraction) / (1 - test_fraction)
    return VALIDATION if rest < validation_fraction else TRAIN


def indices(
    creator_ids: Sequence[str],
    split: str,
    *,
    test_fraction: float,
    validation_fraction: float,
    test_fold: int = 0,
) -> np.ndarray:
    """Return the indices of the creators that are in a split."""
    wanted = [
        split_of(
            creator,
            test_fraction=test_fraction,
            validation_fraction=validation_fraction,
            test_fold=test_fold,
        )
        == split
        for creator in creator_ids
    ]
    return np.flatnonzero(wanted)
