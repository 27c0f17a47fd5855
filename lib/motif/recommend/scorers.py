"""Scores of creators for brands, in blocks: there is never a matrix of all brands and creators."""

import warnings
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.sparse import csr_array
from torch import Tensor

NEIGHBOURS, TEMPERATURE = 100, 0.2
POPULARITY_NEIGHBOURS = 50


@runtime_checkable
class Scorer(Protocol):
    """Says how well creators suit brands."""

    def scores(
        self, brands: Int[np.ndarray, " brands"], creators: Int[np.ndarray, " creators"]
    ) -> Float[Tensor, "brands creators"]:
        """Return a score for each pair; the higher, the better, comparable within a brand."""
        ...


class Nearest:
    """KNN: a creator suits a brand that has worked with creators like them.

    The score is the soft maximum t log(sum w exp(cos / t) / sum w) over the `neighbours` creators
    nearest to the candidate among those whom the brand has worked with; t a temperature, w the
    interactions' weights. It is a cosine, in [-1, 1]: near the mean of the neighbours' for a high t
    and the nearest one's for a low t.
    """

    def __init__(
        self,
        content: Float[np.ndarray, "all_creators dim"],
        history: csr_array,
        *,
        neighbours: int = NEIGHBOURS,
        temperature: float = TEMPERATURE,
    ) -> None:
        """Prepare.

        Args:
            content: Unit rows.
            history: Weights, brands x creators, of whom each brand has worked with.
            neighbours: At most so many of a brand's creators count.
            temperature: Of the soft maximum, in units of cosine; at least .03, below which float32
                ends before the farthest creators do.
        """
        self._content = torch.from_numpy(content)
        self._history = history
        self._neighbours, self._temperature = neighbours, temperature

    def scores(
        self, brands: Int[np.ndarray, " brands"], creators: Int[np.ndarray, " creators"]
    ) -> Float[Tensor, "brands creators"]:
        """Return cosines; brands without a creator of theirs get zeros."""
        own = self._history[brands]
        known, columns = np.unique(own.indices, return_inverse=True)
        if not len(known):
            return torch.zeros(len(brands), len(creators))
        near = self._take(known) @ self._take(creators).T  # (known, creators)
        near.sub_(1).div_(self._temperature).exp_()  # at most 1, so that nothing overflows
        counts = np.diff(own.indptr)
        few = np.repeat(counts <= self._neighbours, counts)
        sums = self._sparse(own, columns, few, len(known)) @ near
        totals = np.add.reduceat(np.append(own.data, 0.0), own.indptr[:-1]) * (counts > 0)
        totals = torch.from_numpy(totals.astype(np.float32))
        for row in np.flatnonzero(counts > self._neighbours):
            places = slice(own.indptr[row], own.indptr[row + 1])
            sums[row], totals[row] = self._of_nearest(near[columns[places]], own.data[places])
        mean = sums / totals.clamp_min(1e-37)[:, None]
        told = 1 + self._temperature * mean.clamp_min(1e-37).log()
        return torch.where((totals > 0)[:, None], told, torch.zeros_like(told))

    def _take(self, rows: Int[np.ndarray, " rows"]) -> Float[Tensor, "rows dim"]:
        return self._content[torch.from_numpy(rows)]

    def _sparse(self, own: csr_array, columns: np.ndarray, kept: np.ndarray, known: int) -> Tensor:
        kept_before = np.concatenate([[0], np.cumsum(kept)])
        warnings.filterwarnings("ignore", message="Sparse ", category=UserWarning)  # of its beta
        return torch.sparse_csr_tensor(
            torch.from_numpy(kept_before[own.indptr].astype(np.int64)),
            torch.from_numpy(columns[kept].astype(np.int64)),
            torch.from_numpy(own.data[kept].astype(np.float32)),
            size=(len(own.indptr) - 1, known),
        )

    def _of_nearest(
        self, near: Float[Tensor, "own creators"], weights: np.ndarray
    ) -> tuple[Tensor, Tensor]:
        """Return the weighted sum over each candidate's nearest, and the mean of their weights."""
        top, places = near.topk(self._neighbours, dim=0)
        if (weights == weights[0]).all():
            total = float(weights[0])
            return total * top.sum(dim=0), torch.tensor(total * self._neighbours)
        chosen = torch.from_numpy(weights.astype(np.float32))[places]
        # As if all candidates' neighbours weighed the same in sum, so that one total does.
        return (chosen * top).sum(dim=0) / chosen.sum(dim=0), torch.tensor(1.0)


@dataclass(frozen=True)
class Products:
    """Scores that are dot products of a vector of the brand and one of the creator."""

    brands: Float[Tensor, "all_brands dim"]
    creators: Float[Tensor, "all_creators dim"]

    def scores(
        self, brands: Int[np.ndarray, " brands"], creators: Int[np.ndarray, " creators"]
    ) -> Float[Tensor, "brands creators"]:
        """Return the products."""
        return self.brands[torch.from_numpy(brands)] @ self.creators[torch.from_numpy(creators)].T


@dataclass(frozen=True)
class SameForAll:
    """One score of each creator, whatever the brand."""

    of: Float[Tensor, " all_creators"]

    @classmethod
    def of_array(cls, values: Float[np.ndarray, " all_creators"]) -> "SameForAll":
        """Take the scores from an array."""
        return cls(torch.from_numpy(values))

    def scores(
        self, brands: Int[np.ndarray, " brands"], creators: Int[np.ndarray, " creators"]
    ) -> Float[Tensor, "brands creators"]:
        """Return it once for each brand."""
        return self.of[torch.from_numpy(creators)].expand(len(brands), len(creators))


def mean_content(content: Float[np.ndarray, "creators dim"], history: csr_array) -> Products:
    """Return the plain baseline: cosine to the mean content of a brand's creators."""
    means = torch.from_numpy((history @ content).astype(np.float32))
    return Products(torch.nn.functional.normalize(means), torch.from_numpy(content))


def popularity(
    content: Float[np.ndarray, "all_creators dim"],
    history: csr_array,
    creators: Int[np.ndarray, " creators"],
    *,
    neighbours: int = POPULARITY_NEIGHBOURS,
    block: int = 1024,
) -> Float[np.ndarray, " creators"]:
    """Return how popular creators are to be expected to be, which no history can say of a new one.

    The mean of log(1 + brands) over the `neighbours` known creators nearest by content; not the
    creator's own.
    """
    brands = np.bincount(history.indices, minlength=len(content))
    known = np.flatnonzero(brands)
    popular = np.log1p(brands[known]).astype(np.float32)
    of_known = torch.from_numpy(content[known])
    found = np.zeros(len(creators), np.float32)
    for start in range(0, len(creators), block):
        some = creators[start : start + block]
        near = torch.from_numpy(content[some]) @ of_known.T
        itself = torch.from_numpy(some[:, None] == known[None, :])
        near.masked_fill_(itself, -torch.inf)
        places = near.topk(min(neighbours, len(known)), dim=1).indices.numpy()
        found[start : start + block] = popular[places].mean(axis=1)
    return found


def best(
    scorer: Scorer,
    brands: Int[np.ndarray, " brands"],
    creators: Int[np.ndarray, " creators"],
    k: int,
    *,
    left_out: csr_array | None = None,
    block: int = 4096,
) -> tuple[Int[np.ndarray, "brands k"], Float[np.ndarray, "brands k"]]:
    """Return the creators with the highest scores of each brand, best first, ties by their order.

    Args:
        scorer: Of all brands and creators.
        brands: Rows of its brands; so few that a block of scores fits into memory.
        creators: To choose from, ascending.
        k: How many; fewer where there are fewer creators.
        left_out: Brands x creators; pairs that are there are not chosen.
        block: Creators at once.

    Returns:
        Creators, and their scores; -inf where a brand has no more.
    """
    held_scores = torch.empty(len(brands), 0)
    held = torch.empty(len(brands), 0, dtype=torch.int64)
    for start in range(0, len(creators), block):
        part = creators[start : start + block]
        scores = scorer.scores(brands, part)
        if left_out is not None:
            scores = _without(scores, left_out[brands], part)
        top = scores.topk(min(k, len(part)), dim=1)
        numbers = torch.from_numpy(part)[top.indices]
        held_scores = torch.cat([held_scores, top.values], dim=1)
        held = torch.cat([held, numbers], dim=1)
        order = held.argsort(dim=1)  # so that the stable sort leaves ties in this order
        held_scores, held = held_scores.gather(1, order), held.gather(1, order)
        order = held_scores.argsort(dim=1, descending=True, stable=True)[:, :k]
        held_scores, held = held_scores.gather(1, order), held.gather(1, order)
    return held.numpy(), held_scores.numpy()


def _without(
    scores: Float[Tensor, "brands creators"], pairs: csr_array, creators: np.ndarray
) -> Float[Tensor, "brands creators"]:
    rows = np.repeat(np.arange(len(pairs.indptr) - 1), np.diff(pairs.indptr))
    places = np.searchsorted(creators, pairs.indices)
    there = places < len(creators)
    there[there] = creators[places[there]] == pairs.indices[there]
    scores = scores.clone()
    scores[torch.from_numpy(rows[there]), torch.from_numpy(places[there])] = -torch.inf
    return scores


def because(
    content: Float[np.ndarray, "creators dim"],
    history: csr_array,
    brand: int,
    creators: Int[np.ndarray, " chosen"],
    count: int,
) -> Int[np.ndarray, "chosen nearest"]:
    """Return, for each creator, those of the brand's who are nearest to them, nearest first."""
    own = history.indices[history.indptr[brand] : history.indptr[brand + 1]]
    near = content[creators] @ content[own].T
    return own[np.argsort(-near, axis=1, kind="stable")[:, :count]]
