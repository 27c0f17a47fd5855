"""Creator similarity (Duanis et al. 2023): does half of a creator's images find the other half?

Pure numpy: from image vectors to hit rates, with the uncertainty of each.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from motif import metrics

IMAGES_PER_SIDE = (1, 3, 5, 10)
KS = (1, 5, 10, 50)
DRAWS = 10


@dataclass(frozen=True, kw_only=True)
class SimilarityScore:
    """One way to make and compare creator vectors, at one number of images a side."""

    vectors: str
    """`mean`, `whitened` or `same`."""
    csls: bool
    images_per_side: int
    hit_rate: dict[str, float]
    """K -> share of creators whose twin is among the first K, in [0, 1]; only K < `creators`."""
    mrr: float
    standard_error: float
    """Of the hit rate at 1: standard deviation over creators of each creator's mean over draws, by
    the root of the number of creators. Creators are what is sampled; a draw is no new evidence."""
    draw_standard_deviation: float
    """Of the hit rate at 1, from draw to draw."""
    creators: int
    """Candidates, and as many queries."""
    draws: int


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One kind of vectors against another, paired by creator and draw."""

    vectors: str
    baseline: str
    csls: bool
    images_per_side: int
    difference: float
    """Of the hit rates at 1, in [-1, 1]."""
    standard_error: float
    mrr_difference: float
    mrr_standard_error: float
    creators: int


@dataclass(frozen=True)
class Similarity:
    """All that was measured on one set of creators."""

    scores: list[SimilarityScore]
    comparisons: list[Comparison]
    notes: list[str]

    def find(self, vectors: str, *, csls: bool, images_per_side: int) -> SimilarityScore | None:
        """Return one score, or None where it could not be measured."""
        wanted = (vectors, csls, images_per_side)
        for score in self.scores:
            if (score.vectors, score.csls, score.images_per_side) == wanted:
                return score
        return None

    def compare(
        self, vectors: str, baseline: str, *, csls: bool, images_per_side: int
    ) -> Comparison | None:
        """Return one comparison, or None where it could not be made."""
        wanted = (vectors, baseline, csls, images_per_side)
        for row in self.comparisons:
            if (row.vectors, row.baseline, row.csls, row.images_per_side) == wanted:
                return row
        return None


def unit(rows: Float[np.ndarray, "*rows dim"]) -> Float[np.ndarray, "*rows dim"]:
    """Return rows at unit length; a zero row stays zero and is similar to nothing."""
    length = np.linalg.norm(rows, axis=-1, keepdims=True)
    return rows / np.where(length > 0, length, 1)


def draw_images(
    offsets: Int[np.ndarray, " bounds"],
    chosen: Bool[np.ndarray, " creators"],
    size: int,
    *,
    draws: int,
    seed: int,
) -> Iterator[Int[np.ndarray, "candidates two size"]]:
    """Yield, per draw, the rows of two disjoint sets of `size` images of each chosen creator.

    The draws depend on nothing but the arguments, so that all kinds of vectors meet the same ones.
    """
    generator = np.random.default_rng([seed, size])
    index = np.flatnonzero(chosen)
    rows = np.concatenate([np.arange(offsets[i], offsets[i + 1]) for i in index])
    bounds = np.concatenate([[0], np.cumsum(np.diff(offsets)[index])])
    for _ in range(draws):
        yield rows[metrics.draw_halves(bounds, size, generator)]


def ranks_of_twins(
    images: Float[np.ndarray, "images dim"],
    halves: Int[np.ndarray, "candidates two size"],
    *,
    csls: bool,
) -> Float[np.ndarray, " candidates"]:
    """Return the rank of each creator's second half among all second halves, 1 the best."""
    queries, candidates = (unit(images[halves[:, side]].mean(axis=1)) for side in (0, 1))
    similarity = queries @ candidates.T
    return metrics.twin_ranks(metrics.csls(similarity) if csls else similarity)


def standard_error(per_creator: Float[np.ndarray, " creators"]) -> float:
    """Return the standard error of the mean over creators; 0 for fewer than two."""
    if len(per_creator) < 2:
        return 0.0
    return float(per_creator.std(ddof=1) / np.sqrt(len(per_creator)))


def measure(
    images: Mapping[str, Float[np.ndarray, "images _"]],
    offsets: Int[np.ndarray, " bounds"],
    *,
    sizes: Sequence[int] = IMAGES_PER_SIDE,
    draws: int = DRAWS,
    seed: int = 0,
) -> Similarity:
    """Measure every kind of vectors, with and without CSLS, on the same draws.

    Args:
        images: Kind of vectors -> one row per image, grouped by creator. A creator's vector is the
            direction of the mean of their rows.
        offsets: Creator i owns the rows [offsets[i], offsets[i + 1]).
        sizes: Images a side.
        draws: Random halves that each figure is the mean of.
        seed: Of the draws.

    Returns:
        Scores, paired comparisons of each kind with those named before it, and a note for each
        size at which fewer than two creators own enough images.
    """
    scores: list[SimilarityScore] = []
    comparisons: list[Comparison] = []
    notes: list[str] = []
    counts = np.diff(offsets)
    for size in sizes:
        chosen = counts >= 2 * size
        creators = int(chosen.sum())
        if creators < 2:
            notes.append(
                f"{size} images a side is left out: {creators} creators own {2 * size} images or"
                " more, and two are needed."
            )
            continue
        ranks: dict[tuple[str, bool], list[np.ndarray]] = {}
        for halves in draw_images(offsets, chosen, size, draws=draws, seed=seed):
            for kind, rows in images.items():
                for csls in (False, True):
                    found = ranks_of_twins(rows, halves, csls=csls)
                    ranks.setdefault((kind, csls), []).append(found)
        stacked = {key: np.stack(found) for key, found in ranks.items()}
        for (kind, csls), by_draw in stacked.items():
            scores.append(_score(kind, csls, size, by_draw))
        comparisons += _compare(list(images), size, stacked)
    return Similarity(scores, comparisons, notes)


def _score(
    kind: str, csls: bool, size: int, ranks: Float[np.ndarray, "draws creators"]
) -> SimilarityScore:
    draws, creators = ranks.shape
    first = ranks <= 1
    spread = float(first.mean(axis=1).std(ddof=1)) if draws > 1 else 0.0
    return SimilarityScore(
        vectors=kind,
        csls=csls,
        images_per_side=size,
        hit_rate={
            str(k): metrics.hit_rate(ranks.ravel(), k) for k in metrics.ks_below(creators, KS)
        },
        mrr=metrics.mean_reciprocal_rank(ranks.ravel()),
        standard_error=standard_error(first.mean(axis=0)),
        draw_standard_deviation=spread,
        creators=creators,
        draws=draws,
    )


def _compare(
    kinds: Sequence[str], size: int, ranks: Mapping[tuple[str, bool], np.ndarray]
) -> list[Comparison]:
    rows = []
    for csls in (False, True):
        hits = {kind: (ranks[kind, csls] <= 1).mean(axis=0) for kind in kinds}
        reciprocal = {kind: (1 / ranks[kind, csls]).mean(axis=0) for kind in kinds}
        for position, kind in enumerate(kinds):
            for baseline in kinds[:position]:
                gain = hits[kind] - hits[baseline]
                mrr_gain = reciprocal[kind] - reciprocal[baseline]
                rows.append(
                    Comparison(
                        vectors=kind,
                        baseline=baseline,
                        csls=csls,
                        images_per_side=size,
                        difference=float(gain.mean()),
                        standard_error=standard_error(gain),
                        mrr_difference=float(mrr_gain.mean()),
                        mrr_standard_error=standard_error(mrr_gain),
                        creators=len(gain),
                    )
                )
    return rows
