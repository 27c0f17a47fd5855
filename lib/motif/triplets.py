"""Which images a training step sees: a function of (seed, step) alone.

A batch is cut into slices, and all that is random is drawn per slice; a worker owns some slices
and draws only those. So batches, and dropout, do not depend on how many workers there are.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

SLICES = 64
_CREATORS, _IMAGES, _DROPOUT = range(3)
"""What a generator is for, beside seed, step and slice."""


@dataclass(frozen=True)
class Share:
    """The creators of each batch that a worker works on."""

    slices: range
    counts: tuple[int, ...]
    """Creators of each worker."""
    rank: int

    @property
    def first(self) -> int:
        """Place of this worker's first creator in the batch."""
        return sum(self.counts[: self.rank])


@dataclass(frozen=True)
class Batches:
    """The batches of a run."""

    offsets: Int[np.ndarray, " bounds"]
    """Creator i owns the rows [offsets[i], offsets[i + 1]), at least two."""
    creators: int
    """In a batch; fewer when there are fewer."""
    set_sizes: Sequence[int]
    """The size of a batch's sets is drawn from these, one for the whole batch."""
    seed: int

    @property
    def width(self) -> int:
        """Creators in every batch."""
        return min(self.creators, len(self.offsets) - 1)

    @property
    def slices(self) -> int:
        """Slices that a batch is cut into, none of them empty."""
        return min(SLICES, self.width)

    def share(self, rank: int, workers: int) -> Share:
        """Return what one of some workers owns; nobody owns nothing while workers <= slices."""
        bounds = [self.slices * worker // workers for worker in range(workers + 1)]
        counts = [
            self._start(stop) - self._start(start) for start, stop in itertools.pairwise(bounds)
        ]
        return Share(range(bounds[rank], bounds[rank + 1]), tuple(counts), rank)

    def draw(self, step: int, slices: range) -> Int[np.ndarray, "creators two size"]:
        """Draw creators and, of each, two disjoint sets of images; return row numbers.

        A creator with too few images for two full sets repeats images within a set, never across
        the two: an image is not its own positive.

        Args:
            step: Of the run.
            slices: Neighbouring slices, whose part of the batch is drawn.
        """
        generator = np.random.default_rng([self.seed, step, _CREATORS])
        size = int(generator.choice(np.asarray(self.set_sizes)))
        chosen = generator.choice(len(self.offsets) - 1, self.width, replace=False)
        chosen = chosen[self._start(slices.start) : self._start(slices.stop)]
        random = np.concatenate(
            [
                np.random.default_rng([self.seed, step, _IMAGES, index]).random(
                    (self._start(index + 1) - self._start(index), 2, 2 * size)
                )
                for index in slices
            ]
        )
        first, counts = self.offsets[chosen], np.diff(self.offsets)[chosen]
        enough = counts >= 2 * size
        batch = np.empty((len(chosen), 2 * size), dtype=np.int64)
        batch[enough] = _subsets(counts[enough], random[enough])
        for row in np.flatnonzero(~enough):
            own = np.argsort(random[row].ravel()[: counts[row]])
            half = len(own) // 2
            batch[row, :size] = np.resize(own[:half], size)
            batch[row, size:] = np.resize(own[half:], size)
        return (first[:, None] + batch).reshape(len(chosen), 2, size)

    def dropout(
        self, step: int, slices: range, *, rows: int, width: int, rate: float, device: torch.device
    ) -> Float[Tensor, "all_rows width"]:
        """Return factors, 0 or 1 / (1 - rate), for the rows of some slices.

        Args:
            step: Of the run.
            slices: As for `draw`.
            rows: Images of each creator.
            width: Factors of each image.
            rate: Share of zeros, in [0, 1).
            device: Where they are drawn; another kind of device draws others.
        """
        parts = []
        for index in slices:
            seed = np.random.SeedSequence([self.seed, step, _DROPOUT, index]).generate_state(
                1, np.uint64
            )
            generator = torch.Generator(device).manual_seed(int(seed[0] >> np.uint64(1)))
            creators = self._start(index + 1) - self._start(index)
            parts.append(torch.rand((creators * rows, width), generator=generator, device=device))
        return torch.cat(parts).ge_(rate).mul_(1 / (1 - rate))

    def _start(self, index: int) -> int:
        return self.width * index // self.slices


def _subsets(
    counts: Int[np.ndarray, " creators"], random: Float[np.ndarray, "creators two size"]
) -> Int[np.ndarray, "creators size"]:
    """Draw, of each range(count), `size` different numbers in random order.

    By Floyd's algorithm (Bentley & Floyd 1987, CACM 30(9)), for all creators at once; its order
    is not random, so the result is shuffled.

    Args:
        counts: At least `size` each.
        random: Uniform in [0, 1): for the drawing, and for the shuffling.
    """
    size = random.shape[2]
    chosen = np.empty((len(counts), size), dtype=np.int64)
    for column in range(size):
        last = counts - size + column
        drawn = np.minimum((random[:, 0, column] * (last + 1)).astype(np.int64), last)
        taken = (chosen[:, :column] == drawn[:, None]).any(axis=1)
        chosen[:, column] = np.where(taken, last, drawn)
    return np.take_along_axis(chosen, np.argsort(random[:, 1], axis=1), axis=1)


def offsets_of(creator: Int[np.ndarray, " images"]) -> Int[np.ndarray, " bounds"]:
    """Return where each creator's rows begin, and the end of the last's; rows are grouped."""
    if not len(creator):
        return np.zeros(1, np.int64)
    starts = np.flatnonzero(np.r_[True, creator[1:] != creator[:-1]])
    return np.r_[starts, len(creator)]
