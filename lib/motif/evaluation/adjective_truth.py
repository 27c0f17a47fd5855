"""How well an adjective's scores find the creators that it is known to hold for.

The truth comes from the manifest: a boolean column `is_<adjective>` that travelled into EMBEDDINGS.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from motif import adjectives, metrics
from motif.adjectives import EncodeTexts
from motif.errors import InputError
from motif.evaluation.similarity import unit

SUPPORTED_AUC = 0.7
TRUTH_PREFIX = "is_"


@dataclass(frozen=True, kw_only=True)
class AdjectiveScore:
    """One adjective against its truth, both at the level of creators."""

    adjective: str
    creators_true: int
    creators: int
    auc_oaar: float
    """How often a creator for whom it holds scores higher than one for whom it does not."""
    auc_plain: float
    """The same for the plain prompt, such as `A vivid photo`."""
    supported: bool
    """Whether `auc_oaar` is at least `SUPPORTED_AUC`."""
    object_leak_oaar: float
    """Mean |cosine| between the direction and what sets one object's prompt apart from the mean of
    all, in [0, 1]; 0 is free of objects."""
    object_leak_plain: float


@dataclass(frozen=True)
class AdjectiveVectors:
    """What images are scored with, one row per adjective."""

    adjectives: list[str]
    oaar: Float[np.ndarray, "adjectives dim"]
    """Unit directions."""
    plain: Float[np.ndarray, "adjectives dim"]
    """Unit text embeddings of the plain prompts."""
    leak_oaar: Float[np.ndarray, " adjectives"]
    leak_plain: Float[np.ndarray, " adjectives"]


def adjective_of(column: str) -> str | None:
    """Return the adjective that a truth column is about: `is_black-and-white` -> black-and-white.

    None where the name has no such form, or holds no word that a prompt could use.
    """
    if not column.startswith(TRUTH_PREFIX):
        return None
    name = column.removeprefix(TRUTH_PREFIX).replace("_", " ")
    try:
        words = adjectives.parse(name, column)
    except InputError:
        return None
    return words[0] if len(words) == 1 else None


def creator_means(
    values: Float[np.ndarray, " images"], offsets: Int[np.ndarray, " bounds"]
) -> Float[np.ndarray, " creators"]:
    """Return the mean over each creator's images, of those that are not NaN; NaN if all are."""
    known = ~np.isnan(values)
    sums = np.add.reduceat(np.where(known, values, 0).astype(np.float64), offsets[:-1])
    counts = np.add.reduceat(known.astype(np.int64), offsets[:-1])
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)


def encode(names: Sequence[str], encode_texts: EncodeTexts) -> AdjectiveVectors:
    """Return the directions and the plain prompts of adjectives, and how much object is in each.

    Raises:
        InputError: An adjective makes no difference at all to the text encoder.
    """
    plain = encode_texts([adjectives.plain_prompt(name) for name in names])
    oaar = adjectives.directions(names, encode_texts)
    objects = encode_texts(adjectives.object_prompts())
    differences = unit(objects - objects.mean(axis=0))
    return AdjectiveVectors(
        adjectives=list(names),
        oaar=oaar,
        plain=plain,
        leak_oaar=np.abs(differences @ oaar.T).mean(axis=0),
        leak_plain=np.abs(differences @ plain.T).mean(axis=0),
    )


def measure(
    truth: Mapping[str, Float[np.ndarray, " images"]],
    vectors: AdjectiveVectors,
    embedding: Float[np.ndarray, "images dim"],
    offsets: Int[np.ndarray, " bounds"],
) -> tuple[list[AdjectiveScore], list[str]]:
    """Return each adjective's areas under the ROC curve, and notes on those without any.

    Args:
        truth: Adjective -> 1, 0 or NaN (unknown) per image. An adjective holds for a creator when
            it holds for more than half of their known images.
        vectors: Of these adjectives at least.
        embedding: Unit rows, grouped by creator.
        offsets: Creator i owns the rows [offsets[i], offsets[i + 1]).
    """
    scores: list[AdjectiveScore] = []
    notes: list[str] = []
    for name, values in truth.items():
        share = creator_means(values, offsets)
        known = ~np.isnan(share)
        holds = share[known] > 0.5
        if holds.all() or not holds.any():
            notes.append(
                f"{name!r} has a truth column but is left out: it holds for {int(holds.sum())} of"
                f" {len(holds)} creators."
            )
            continue
        index = vectors.adjectives.index(name)
        oaar, plain = (
            metrics.area_under_roc(creator_means(embedding @ row, offsets)[known], holds)
            for row in (vectors.oaar[index], vectors.plain[index])
        )
        scores.append(
            AdjectiveScore(
                adjective=name,
                creators_true=int(holds.sum()),
                creators=len(holds),
                auc_oaar=oaar,
                auc_plain=plain,
                supported=oaar >= SUPPORTED_AUC,
                object_leak_oaar=float(vectors.leak_oaar[index]),
                object_leak_plain=float(vectors.leak_plain[index]),
            )
        )
    return scores, notes
