"""How well creators are found whom nobody has worked with yet: they are left out, and ranked.

Figures 3b and 3c of Duanis et al. 2023: the history of some creators is hidden entirely, and all of
them are ranked for each brand that has worked with others.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.sparse import csr_array

from motif.errors import InputError
from motif.recommend.interactions import Interactions
from motif.recommend.scorers import Scorer, best

DEPTHS = (1, 2, 5, 10, 20, 50, 100)
MEASURES = ("hit_rate", "recall", "ndcg")
RESAMPLES = 1000
BRANDS_AT_ONCE = 256


@dataclass(frozen=True, kw_only=True)
class Holdout:
    """Interactions cut in two by creators."""

    history: csr_array
    """Brands x creators; nothing of the cold ones."""
    hidden: csr_array
    """The cold ones'."""
    cold: Int[np.ndarray, " cold"]
    brands: Int[np.ndarray, " brands"]
    """That are ranked for: with both history and something hidden."""
    kind: str
    """`by creators` or `by time`, for a person."""


def by_creators(interactions: Interactions, fraction: float, seed: int = 0) -> Holdout:
    """Hide a share of the creators whom somebody has worked with, by a hash of their ids.

    Raises:
        InputError: Too little is left to measure.
    """
    known = interactions.known
    places = [_place(interactions.creator_ids[i], seed) for i in known]
    cold = known[np.array(places) < fraction]
    return _cut(interactions, cold, interactions.weights.data > 0, f"{fraction:.0%} of creators")


def by_time(interactions: Interactions, fraction: float) -> Holdout:
    """Hide the last of all interactions; cold are creators whose first one is among them.

    Raises:
        InputError: No interaction has a time, or too little is left to measure.
    """
    if interactions.at is None:
        raise InputError("interactions have no times (`at`); hide creators instead")
    when = interactions.at.data
    since = np.quantile(when, 1 - fraction, method="higher")
    first = np.full(len(interactions.creator_ids), np.iinfo(np.int64).max)
    np.minimum.at(first, interactions.at.indices, when)
    known = interactions.known
    cold = known[first[known] >= since]
    told = np.datetime64(int(since), "us").astype("datetime64[s]")
    return _cut(interactions, cold, when < since, f"creators first seen since {told}")


def _place(creator_id: str, seed: int) -> float:
    digest = hashlib.sha256(f"motif cold {seed}\0{creator_id}".encode("utf-8", "surrogatepass"))
    return int.from_bytes(digest.digest()[:8], "big") / 2**64


def _cut(interactions: Interactions, cold: np.ndarray, early: np.ndarray, kind: str) -> Holdout:
    weights = interactions.weights
    is_cold = np.zeros(len(interactions.creator_ids), bool)
    is_cold[cold] = True
    of_cold = is_cold[weights.indices]
    history, hidden = only(weights, early & ~of_cold), only(weights, of_cold)
    brands = np.flatnonzero((np.diff(history.indptr) > 0) & (np.diff(hidden.indptr) > 0))
    if len(brands) < 2 or len(cold) < 2:
        raise InputError(
            f"{len(brands)} brands have both known and hidden creators, of whom there are"
            f" {len(cold)}: too few to measure; at least 2 of both"
        )
    return Holdout(history=history, hidden=hidden, cold=cold, brands=brands, kind=kind)


def only(matrix: csr_array, kept: Bool[np.ndarray, " values"]) -> csr_array:
    """Return a sparse matrix with some of its values."""
    before = np.concatenate([[0], np.cumsum(kept)])
    return csr_array(
        (matrix.data[kept], matrix.indices[kept], before[matrix.indptr]), shape=matrix.shape
    )


@dataclass(frozen=True)
class Chance:
    """Every order of creators is as likely as another."""

    seed: int = 0

    def scores(
        self, brands: Int[np.ndarray, " brands"], creators: Int[np.ndarray, " creators"]
    ) -> Float[torch.Tensor, "brands creators"]:
        """Return numbers that mean nothing, the same each time."""
        generator = np.random.default_rng([self.seed, int(brands[0]), int(creators[0])])
        drawn = generator.random((len(brands), len(creators)), np.float32)
        return torch.from_numpy(drawn)


Values = Mapping[str, Float[np.ndarray, "brands depths"]]
"""Of each measure, one value for each brand and depth."""


def measure(scorer: Scorer, holdout: Holdout, depths: tuple[int, ...] = DEPTHS) -> Values:
    """Rank all cold creators for each brand, and compare with whom it has worked with.

    Hit rate at k: is one of them among the first k? Recall: which share of them? NDCG: with
    1 / log2(1 + rank) for each, over what the best order would have (Jarvelin & Kekalainen 2002).
    """
    hits = np.concatenate(
        [
            _hits(scorer, holdout, holdout.brands[start : start + BRANDS_AT_ONCE], max(depths))
            for start in range(0, len(holdout.brands), BRANDS_AT_ONCE)
        ]
    )
    relevant = np.diff(holdout.hidden.indptr)[holdout.brands]
    discounts = 1 / np.log2(np.arange(hits.shape[1]) + 2)
    ideal = np.cumsum(discounts)
    found: dict[str, np.ndarray] = {name: np.empty((len(hits), len(depths))) for name in MEASURES}
    for place, depth in enumerate(depths):
        k = min(depth, hits.shape[1])
        first = hits[:, :k]
        found["hit_rate"][:, place] = first.any(axis=1)
        found["recall"][:, place] = first.sum(axis=1) / relevant
        best_possible = ideal[np.minimum(relevant, k) - 1]
        found["ndcg"][:, place] = (first * discounts[:k]).sum(axis=1) / best_possible
    return found


def _hits(scorer: Scorer, holdout: Holdout, brands: np.ndarray, depth: int) -> np.ndarray:
    chosen, _ = best(scorer, brands, holdout.cold, depth)
    hidden = holdout.hidden
    hits = np.zeros(chosen.shape, bool)
    for row, brand in enumerate(brands):
        wanted = hidden.indices[hidden.indptr[brand] : hidden.indptr[brand + 1]]
        hits[row] = np.isin(chosen[row], wanted)
    return hits


@dataclass(frozen=True)
class Interval:
    """A mean over brands with its 95 % interval."""

    mean: float
    low: float
    high: float


def interval(values: Float[np.ndarray, " brands"], seed: int = 0) -> Interval:
    """Return the mean, and percentiles of the means of bootstrap samples of brands (Efron 1979)."""
    means = _resampled(values[:, None], seed)[:, 0]
    low, high = np.percentile(means, [2.5, 97.5])
    return Interval(float(values.mean()), float(low), float(high))


def ratio(
    values: Float[np.ndarray, " brands"], base: Float[np.ndarray, " brands"], seed: int = 0
) -> Interval:
    """Return the ratio of two means over the same brands, with its interval; nan over 0."""
    if not base.mean():
        return Interval(float("nan"), float("nan"), float("nan"))
    means = _resampled(np.stack([values, base], axis=1), seed)
    with np.errstate(divide="ignore", invalid="ignore"):
        low, high = np.nanpercentile(means[:, 0] / means[:, 1], [2.5, 97.5])
    return Interval(float(values.mean() / base.mean()), float(low), float(high))


def _resampled(columns: Float[np.ndarray, "brands columns"], seed: int) -> np.ndarray:
    generator, count = np.random.default_rng(seed), len(columns)
    return np.stack(
        [columns[generator.integers(0, count, count)].mean(axis=0) for _ in range(RESAMPLES)]
    )
