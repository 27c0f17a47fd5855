"""Collaborative vectors of brands and creators, by Bayesian Personalized Ranking.

Rendle et al., UAI 2009 (arXiv:1205.2618), as the library `implicit` has it: stochastic gradient
descent on -log sigmoid(x_bi - x_bj) over pairs of a creator i whom brand b has worked with and one,
j, with whom it has not; on all cores, without locks, so that only one thread gives the same numbers
every time.
"""

from collections.abc import Callable
from dataclasses import dataclass

import implicit.cpu.bpr
import numpy as np
from jaxtyping import Float
from scipy.sparse import csr_array, csr_matrix


@dataclass(frozen=True, kw_only=True)
class BprSettings:
    """How they are learned."""

    factors: int = 64
    iterations: int = 100
    learning_rate: float = 0.05
    regularization: float = 0.01
    threads: int = 0
    """0 takes all cores."""
    seed: int = 0


@dataclass(frozen=True)
class Collaborative:
    """A brand's score of a creator is the dot product of their vectors."""

    brands: Float[np.ndarray, "brands dim"]
    creators: Float[np.ndarray, "creators dim"]
    """Of those whom nobody has worked with, noise."""


def fit(
    history: csr_array,
    settings: BprSettings,
    report: Callable[[int], None] = lambda done: None,
) -> Collaborative:
    """Learn from who has worked with whom; weights play no part.

    Args:
        history: Brands x creators.
        settings: How.
        report: Called with the passes that are done, after each.
    """
    model = implicit.cpu.bpr.BayesianPersonalizedRanking(
        factors=settings.factors,
        iterations=settings.iterations,
        learning_rate=settings.learning_rate,
        regularization=settings.regularization,
        num_threads=settings.threads,
        random_state=settings.seed,
    )
    model.fit(
        csr_matrix(history.astype(np.float32)),
        show_progress=False,
        callback=lambda iteration, *told: report(iteration + 1),
    )
    # The last column of a creator's is its bias, and of a brand's 1.
    return Collaborative(np.asarray(model.user_factors), np.asarray(model.item_factors))
