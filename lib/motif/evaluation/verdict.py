"""The headline: what the comparison of SAME with its baselines allows one to say."""

from dataclasses import dataclass
from typing import Literal

from motif.evaluation.similarity import Comparison, Similarity
from motif.evaluation.theme_over_object import ThemeComparison

HEADLINE_IMAGES = 5
NETWORKS = ("same", "paper")
"""Architectures of a checkpoint that are more than a closed form."""
CLEAR = 2.0
"""Standard errors that a paired difference must exceed to be called one."""
FEWEST_CREATORS = 10
"""Fewer make a standard error that means nothing."""

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


def compare(row: Comparison | ThemeComparison) -> Outcome:
    """Name a paired difference; one that is not beyond `CLEAR` standard errors is none."""
    if abs(row.difference) <= CLEAR * row.standard_error or row.difference == 0:
        return "level"
    return "better" if row.difference > 0 else "worse"


def judge(similarity: Similarity, architecture: str) -> Verdict:
    """Say in plain words whether SAME beats the whitening and the mean.

    Args:
        similarity: What was measured.
        architecture: Of the checkpoint, one of `NETWORKS`, `whitening` or `mean`.
    """
    size = headline_size(similarity)
    to_mean = similarity.compare("same", "mean", csls=True, images_per_side=size)
    to_whitened = similarity.compare("same", "whitened", csls=True, images_per_side=size)
    if to_mean is None or to_whitened is None:
        return Verdict("unknown", "Nothing could be compared.", 0)
    if to_mean.creators < FEWEST_CREATORS:
        return Verdict(
            "unknown",
            f"With {to_mean.creators} creators to compare, the figures are an illustration: fewer"
            f" than {FEWEST_CREATORS} cannot tell one kind of vectors from another.",
            size,
        )
    mean = f"It {_against('the plain mean of the embeddings', to_mean)}."
    if architecture == "mean":
        return Verdict(
            "identical",
            "The checkpoint is the plain mean of the embeddings: in training, neither the network"
            " nor the whitening was better on the validation creators.",
            size,
        )
    if architecture == "whitening":
        return Verdict(
            "identical",
            f"The checkpoint is the whitening itself, with no network on it. {mean}",
            size,
        )
    outcome = compare(to_whitened)
    baseline = "the closed-form whitening"
    if architecture == "same":
        baseline += " that it starts from"
    parts = [f"With {_images(size)} a side, SAME {_against(baseline, to_whitened)}."]
    rows = [
        row
        for row in similarity.comparisons
        if row.csls
        and (row.vectors, row.baseline) == ("same", "whitened")
        and row.creators >= FEWEST_CREATORS
    ]
    for row in rows:
        if (named := compare(row)) not in ("level", outcome):
            parts.append(f"With {row.images_per_side}, it is {named} ({_points(row)}).")
    if all(compare(row) != "better" for row in rows):
        parts.append("On these creators the network earns nothing over the simpler map.")
    return Verdict(outcome, " ".join([*parts, mean]), size)


def signed(value: float, digits: int) -> str:
    """Return a number with its sign, and a minus for a minus rather than a hyphen."""
    return f"{value:+.{digits}f}".replace("-", "\N{MINUS SIGN}")


def _against(baseline: str, row: Comparison) -> str:
    match compare(row):
        case "better":
            return f"beats {baseline} ({_points(row)})"
        case "worse":
            return f"is worse than {baseline} ({_points(row)})"
        case _:
            return f"cannot be told apart from {baseline} ({_points(row)})"


def _points(row: Comparison) -> str:
    return f"{signed(100 * row.difference, 1)} ± {100 * row.standard_error:.1f} points"


def _images(size: int) -> str:
    return f"{size} image" if size == 1 else f"{size} images"
