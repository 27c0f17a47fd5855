"""What is measured: twins among candidates, hubness correction, areas under the ROC curve."""

import itertools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.stats import rankdata

CSLS_NEIGHBOURS = 10


def twin_ranks(
    similarity: Float[np.ndarray, "creators creators"],
) -> Float[np.ndarray, " creators"]:
    """Return the rank of each query's twin among all candidates, 1 the best.

    Row i is query i, column i its twin. Candidates that tie with the twin count half, so that
    equal vectors earn what chance would.
    """
    own = np.diag(similarity)[:, None]
    better = (similarity > own).sum(axis=1)
    ties = (similarity == own).sum(axis=1) - 1
    return 1 + better + ties / 2


def csls(
    similarity: Float[np.ndarray, "queries candidates"], neighbours: int = CSLS_NEIGHBOURS
) -> Float[np.ndarray, "queries candidates"]:
    """Correct cosine similarities for hubs, which are near to everybody.

    2 s(q, c) - r(q) - r(c), r the mean similarity to the nearest `neighbours` on the other side
    (Conneau et al. 2018, section 2.3, arXiv:1710.04087). Fewer neighbours are taken where there
    are fewer candidates.
    """
    k_candidates = min(neighbours, similarity.shape[1])
    k_queries = min(neighbours, similarity.shape[0])
    to_candidates = np.partition(similarity, -k_candidates, axis=1)[:, -k_candidates:].mean(axis=1)
    to_queries = np.partition(similarity, -k_queries, axis=0)[-k_queries:].mean(axis=0)
    return 2 * similarity - to_candidates[:, None] - to_queries[None, :]


def hit_rate(ranks: Float[np.ndarray, " queries"], k: int) -> float:
    """Return the share of queries whose twin is among the first `k`, in [0, 1]."""
    return float((ranks <= k).mean())


def mean_reciprocal_rank(ranks: Float[np.ndarray, " queries"]) -> float:
    """Return the mean of 1 / rank, in (0, 1]."""
    return float((1 / ranks).mean())


def area_under_roc(
    scores: Float[np.ndarray, " items"], positive: Bool[np.ndarray, " items"]
) -> float:
    """Return how often a positive scores higher than a negative, ties counting half, in [0, 1].

    Raises:
        ValueError: There are no positives, or no negatives.
    """
    positives = int(positive.sum())
    negatives = len(positive) - positives
    if not positives or not negatives:
        raise ValueError(f"{positives} positives and {negatives} negatives: both are needed")
    rank_sum = rankdata(scores)[positive].sum()  # ties share their middle rank
    return float((rank_sum - positives * (positives + 1) / 2) / (positives * negatives))


def draw_halves(
    offsets: Int[np.ndarray, " bounds"], size: int, generator: np.random.Generator
) -> Int[np.ndarray, "creators two size"]:
    """Draw two disjoint sets of `size` images of each creator.

    Args:
        offsets: Creator i owns the rows [offsets[i], offsets[i + 1]).
        size: Images a side; every creator must own at least twice as many.
        generator: Source of randomness.

    Returns:
        Row indices.
    """
    rows = [
        generator.choice(np.arange(start, stop), 2 * size, replace=False).reshape(2, size)
        for start, stop in itertools.pairwise(offsets.tolist())
    ]
    return np.stack(rows)


def ks_below(candidates: int, ks: Sequence[int]) -> list[int]:
    """Return the Ks at which a hit is not certain: those below the number of candidates."""
    return [k for k in ks if k < candidates]
