"""Judging a model by the creators that it did not learn from."""

import itertools
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import nn

from motif import metrics
from motif.artefacts.training_set import TrainingSet
from motif.model import embed

SIZES = (1, 3, 5)
"""Images a side of the comparisons."""
DRAWS = 10
# Draws say little where creators are many, and cost their square.
MOST_COMPARISONS = 2000
FEWEST_CREATORS = 3


@dataclass(frozen=True)
class Scores:
    """What each validation creator was found by, averaged over sizes and draws."""

    reciprocal_rank: Float[np.ndarray, " creators"]
    hit: Float[np.ndarray, " creators"]
    """Share of the comparisons in which the twin came first."""

    @property
    def mrr(self) -> float:
        """Mean reciprocal rank, in [0, 1]."""
        return float(self.reciprocal_rank.mean())

    @property
    def hit_rate(self) -> float:
        """Hit rate at 1, in [0, 1]."""
        return float(self.hit.mean())


class Judge:
    """Scores models on the same draws of the same validation creators."""

    def __init__(self, data: TrainingSet, seed: int) -> None:
        generator = np.random.default_rng(seed)
        self._inputs = torch.tensor(np.asarray(data.validation, dtype=np.float32))
        bounds = data.validation_offsets
        self.creators = len(bounds) - 1
        self.usable = self.creators >= FEWEST_CREATORS
        self._halves = []
        draws = max(1, min(DRAWS, MOST_COMPARISONS // max(self.creators, 1)))
        for size in SIZES if self.usable else ():
            for _ in range(draws):
                halves = []
                for start, stop in itertools.pairwise(bounds):
                    drawn = generator.permutation(np.arange(start, stop))
                    half = min(size, len(drawn) // 2)
                    halves.append((drawn[:half], drawn[half : 2 * half]))
                self._halves.append(halves)

    def scores(self, model: nn.Module) -> Scores:
        """Return what each validation creator's first half finds its second by.

        Zeros where too few creators make a judge.
        """
        nobody = np.zeros(max(self.creators, 1))
        if not self.usable:
            return Scores(nobody, nobody)
        device = next((p.device for p in model.parameters()), torch.device("cpu"))
        outputs = embed(model, self._inputs.to(device)).cpu().numpy()
        if not np.isfinite(outputs).all():
            return Scores(nobody, nobody)  # of a network that diverged; NaN would always win
        reciprocal, hit = np.zeros((2, self.creators))
        for halves in self._halves:
            sides = []
            for side in (0, 1):
                mean = np.stack([outputs[half[side]].mean(axis=0) for half in halves])
                lengths = np.linalg.norm(mean, axis=1, keepdims=True)
                sides.append(mean / np.where(lengths > 0, lengths, 1))
            ranks = metrics.twin_ranks(sides[0] @ sides[1].T)
            reciprocal += 1 / ranks
            hit += ranks <= 1
        return Scores(reciprocal / len(self._halves), hit / len(self._halves))
