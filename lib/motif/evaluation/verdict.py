"""The headline: what the comparison of SAME with its baselines allows one to say."""

from dataclasses import dataclass
from typing import Literal

from motif.evaluation.similarity import Comparison, Similarity

HEADLINE_IMAGES = 5
CLEAR = 2.0
"""Standard errors that a paired difference must exceed to be called one."""

Outcome = Literal["better", "level", "worse", "identical", "unknown"]


@dataclass(frozen=True)
class Verdict:
    """SAME against the whitening, in a word and in a sentence."""

    outcome: Outcome
    text: str
    images_per_side: int
    """At which the headline figures are taken; 0 where there are none."""


def headline_size(similarity: Similarity) -> int:
    """Return the images a side of the headline: 5, or the nearest below it that was measured."""
    sizes = {score.images_per_side for score in similarity.scores}
    return max((size for size in sizes if size <= HEADLINE_IMAGES), default=0)


def compare(row: Comparison) -> Outcome:
    """Name a paired difference; one that is not beyond `CLEAR` standard errors is none."""
    if abs(row.difference) <= CLEAR * row.standard_error or row.difference == 0:
        return "level"
    return "better" if row.difference > 0 else "worse"


def judge(similarity: Similarity, architecture: str) -> Verdict:
    """Say in plain words whether SAME beats the whitening and the mean.

    Args:
        similarity: What was measured.
        architecture: Of the checkpoint, `same` or `whitening`.
    """
    size = headline_size(similarity)
    to_mean = similarity.compare("same", "mean", csls=True, images_per_side=size)
    to_whitened = similarity.compare("same", "whitened", csls=True, images_per_side=size)
    if to_mean is None or to_whitened is None:
        return Verdict("unknown", "There are too few creators to say anything.", 0)
    mean = _against("the plain mean of the embeddings", to_mean)
    if architecture == "whitening":
        return Verdict(
            "identical",
            "The checkpoint is the whitening itself: in training, the network was no better, and"
            f" the simpler map was kept. It {mean}.",
            size,
        )
    outcome = compare(to_whitened)
    text = f"SAME {_against('the closed-form whitening that it starts from', to_whitened)}"
    if outcome != "better":
        text += ", so on these creators the network earns nothing over the simpler map"
    return Verdict(outcome, f"{text}. It {mean}.", size)


def _against(baseline: str, row: Comparison) -> str:
    points = f"{100 * row.difference:+.1f} ± {100 * row.standard_error:.1f} points"
    match compare(row):
        case "better":
            return f"beats {baseline} ({points})"
        case "worse":
            return f"is worse than {baseline} ({points})"
        case _:
            return f"cannot be told apart from {baseline} ({points})"
