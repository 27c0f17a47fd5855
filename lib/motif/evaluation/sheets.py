"""Which images stand side by side: nearest to a query image, and first for an adjective."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from motif.adjectives import plain_prompt
from motif.evaluation.adjective_truth import creator_means
from motif.evaluation.evaluate import Result
from motif.evaluation.theme_over_object import cosines

QUERIES = 8
NEIGHBOURS = 7
TRIPLES = 6
TOP_CREATORS = 6


@dataclass(frozen=True)
class Tile:
    """One image on a sheet."""

    image: int
    """Row of the sample."""
    creator_id: str
    score: float
    """Cosine to the query, or the creator's score."""
    marked: bool
    """The query's own creator, or a creator for whom the adjective is known to hold."""


@dataclass(frozen=True)
class QuerySheet:
    """The images nearest to one image, one per creator, by the encoder and by SAME."""

    query: Tile
    by_encoder: list[Tile]
    by_same: list[Tile]
    own_by_encoder: int | None
    """Place of the query's own creator among all, 1 the first; None without another image."""
    own_by_same: int | None
    creators: int


@dataclass(frozen=True)
class TripleSheet:
    """One triple of theme over object, and how near each of its two images is to the anchor."""

    anchor: Tile
    of_creator: Tile
    """Another object by the anchor's creator."""
    of_object: Tile
    """The anchor's object by another creator."""
    objects: tuple[str, str, str]
    """What the three show, in that order."""
    by_encoder: tuple[float, float]
    """Cosines to the anchor, of the image of its creator and of that of its object."""
    by_same: tuple[float, float]


@dataclass(frozen=True)
class AdjectiveSheet:
    """The first creators for one adjective, by the plain prompt and by OAAR."""

    adjective: str
    prompt: str
    known: bool
    """Whether there is a truth to mark creators by."""
    by_plain: list[Tile]
    by_oaar: list[Tile]


def best_per_creator(
    scores: Float[np.ndarray, " images"],
    creator: Int[np.ndarray, " images"],
    allowed: Bool[np.ndarray, " images"],
) -> Int[np.ndarray, " creators"]:
    """Return each creator's best allowed image, best first; creators without one are absent."""
    order = np.argsort(-scores, kind="stable")
    order = order[allowed[order]]
    _, first = np.unique(creator[order], return_index=True)
    return order[np.sort(first)]


def query_sheets(result: Result) -> list[QuerySheet]:
    """Choose query images of different evaluated creators, by the seed, and find their nearest."""
    sample = result.sample
    rows = np.flatnonzero(sample.evaluated_rows)
    creator = sample.creator_of[rows]
    picture = sample.pictures[rows]
    embedding = sample.embedding[rows]
    generator = np.random.default_rng([result.seed, QUERIES])
    creators = np.flatnonzero(sample.evaluated)
    sheets = []
    for chosen in generator.permutation(creators)[:QUERIES]:
        query = int(generator.choice(np.flatnonzero(creator == chosen)))
        allowed = picture != picture[query]
        found = []
        for vectors in (embedding, result.same):
            cosine = vectors @ vectors[query]
            best = best_per_creator(cosine, creator, allowed)
            own = np.flatnonzero(creator[best] == chosen)
            tiles = [
                Tile(
                    int(rows[i]),
                    sample.creator_ids[creator[i]],
                    float(cosine[i]),
                    bool(creator[i] == chosen),
                )
                for i in best[:NEIGHBOURS]
            ]
            found.append((tiles, int(own[0]) + 1 if len(own) else None))
        tile = Tile(int(rows[query]), sample.creator_ids[chosen], 1.0, True)
        (by_encoder, own_encoder), (by_same, own_same) = found
        sheets.append(QuerySheet(tile, by_encoder, by_same, own_encoder, own_same, len(creators)))
    return sheets


def triple_sheets(result: Result) -> list[TripleSheet]:
    """Choose triples of different creators, by the seed, from those that were measured."""
    sample, theme = result.sample, result.theme_over_object
    if theme is None or not theme.scores or sample.objects is None:
        return []
    generator = np.random.default_rng([result.seed, TRIPLES])
    chosen = theme.triples[generator.permutation(len(theme.triples))[:TRIPLES], 0]
    rows = np.flatnonzero(sample.evaluated_rows)
    creator_of = sample.creator_of
    sheets = []
    for triple, by_encoder, by_same in zip(
        rows[chosen],
        cosines(sample.embedding, rows[chosen]),
        cosines(result.same, chosen),
        strict=True,
    ):
        creators = [sample.creator_ids[creator_of[image]] for image in triple]
        anchor, of_creator, of_object = (
            Tile(int(image), creator, 0.0, creator == creators[0])
            for image, creator in zip(triple, creators, strict=True)
        )
        shown = [sample.object_names[sample.objects[image]] for image in triple]
        sheets.append(
            TripleSheet(
                anchor,
                of_creator,
                of_object,
                (shown[0], shown[1], shown[2]),
                (float(by_encoder[0]), float(by_encoder[1])),
                (float(by_same[0]), float(by_same[1])),
            )
        )
    return sheets


def adjective_sheets(result: Result) -> list[AdjectiveSheet]:
    """Rank creators for each adjective that is supported, or about which nothing is known.

    An adjective that failed its test has no sheet: its ranking would mislead.
    """
    vectors, sample = result.adjective_vectors, result.sample
    if vectors is None:
        return []
    supported = {score.adjective for score in result.adjectives if score.supported}
    sheets = []
    for index, name in enumerate(vectors.adjectives):
        known = name in sample.truth
        if known and name not in supported:
            continue
        by_plain, by_oaar = (
            _top_creators(result, row, sample.truth.get(name))
            for row in (vectors.plain[index], vectors.oaar[index])
        )
        sheets.append(AdjectiveSheet(name, plain_prompt(name), known, by_plain, by_oaar))
    return sheets


def _top_creators(
    result: Result, direction: Float[np.ndarray, " dim"], truth: np.ndarray | None
) -> list[Tile]:
    sample = result.sample
    scores = sample.embedding @ direction
    means = creator_means(scores, sample.offsets)
    unknown = np.full(len(means), np.nan)
    share = unknown if truth is None else creator_means(truth, sample.offsets)
    tiles = []
    for creator in np.argsort(-means, kind="stable")[:TOP_CREATORS]:
        own = slice(sample.offsets[creator], sample.offsets[creator + 1])
        # The most typical image, not the best: one lucky picture says little of a creator.
        image = int(own.start + np.argmin(np.abs(scores[own] - means[creator])))
        name = sample.creator_ids[creator]
        tiles.append(Tile(image, name, float(means[creator]), bool(share[creator] > 0.5)))
    return tiles
