"""Theme over object: is another thing by the same creator nearer than the same thing by another?

Pure numpy: from image vectors, and what the images show, to rates with the uncertainty of each.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from motif.evaluation.similarity import standard_error, unit

TRIPLES = 20_000
# Triples compared at a time: 3,072 rows in double precision, 60 MB at 2,560 dimensions.
CHUNK = 1024


@dataclass(frozen=True, kw_only=True)
class ThemeScore:
    """How one kind of vectors weighs theme against object."""

    rate: float
    """How often the image of another object by the same creator is nearer to the anchor than that
    of the same object by another creator, ties half, in [0, 1]: the mean over the creators of the
    anchors. At .5 theme and object weigh the same."""
    standard_error: float
    """Of `rate`, over those creators: they are what is sampled, a triple is no new evidence."""
    triples: int
    creators: int


@dataclass(frozen=True, kw_only=True)
class ThemeComparison:
    """One kind of vectors against another, on the same triples, paired by the anchor's creator."""

    vectors: str
    baseline: str
    difference: float
    """Of the rates, in [-1, 1]."""
    standard_error: float
    creators: int


@dataclass(frozen=True, kw_only=True)
class ThemeOverObject:
    """All that was measured on one set of triples; no scores where too few could be drawn."""

    scores: dict[str, ThemeScore]
    comparisons: list[ThemeComparison]
    triples: Int[np.ndarray, "creators each 3"]
    """Rows of the anchor, of its creator's other object, and of its object by another creator."""
    images_without_object: int
    notes: list[str]


def draw_triples(
    creator: Int[np.ndarray, " images"],
    objects: Int[np.ndarray, " images"],
    picture: Int[np.ndarray, " images"],
    *,
    triples: int = TRIPLES,
    seed: int = 0,
) -> Int[np.ndarray, "creators each 3"]:
    """Draw equally many triples for each creator who has any.

    The anchor is drawn among the creator's images that are part of a triple at all, then each of
    the other two, independently, among the images that may stand there.

    Args:
        creator: Number of each image's creator.
        objects: Number of what each image shows; negative where that is not known, which leaves
            the image out.
        picture: Images with equal numbers are copies, of which no pair is made with the anchor.
        triples: At most so many in all, but one for each creator.
        seed: Of the draws, which depend on nothing but the arguments.

    Returns:
        Rows of the anchor, of another object by its creator, and of its object by another creator;
        creators in rising order, those without a triple absent.
    """
    known = np.flatnonzero(objects >= 0)
    who, what, which = creator[known], objects[known], picture[known]
    # By inclusion and exclusion, never by lists: half of all images may show one object.
    copies, own = _sharing(who, what, which), _sharing(who, what)
    others_of_creator = _sharing(who) - own - _sharing(who, which) + copies
    others_of_object = _sharing(what) - own - _sharing(what, which) + copies
    anchors = np.flatnonzero((others_of_creator > 0) & (others_of_object > 0))
    anchors = anchors[np.argsort(who[anchors], kind="stable")]
    counts = np.unique(who[anchors], return_counts=True)[1]
    each = max(1, triples // max(1, len(counts)))
    generator = np.random.default_rng([seed, triples])
    place = generator.integers(0, counts[:, None], (len(counts), each))
    anchor = anchors[(np.cumsum(counts) - counts)[:, None] + place].ravel()
    of_creator = _draw_partners(anchor, who, what, which, generator)
    of_object = _draw_partners(anchor, what, who, which, generator)
    drawn = known[np.stack([anchor, of_creator, of_object], axis=1)]
    return drawn.reshape(len(counts), each, 3)


def cosines(
    rows: Float[np.ndarray, "images dim"], triples: Int[np.ndarray, "triples 3"]
) -> Float[np.ndarray, "triples 2"]:
    """Return the anchor's cosine to the image of its creator and to the image of its object."""
    found = np.empty((len(triples), 2))
    for start in range(0, len(triples), CHUNK):
        chunk = slice(start, start + CHUNK)
        anchor, of_creator, of_object = unit(rows[triples[chunk].T].astype(np.float64))
        found[chunk, 0] = (anchor * of_creator).sum(axis=1)
        found[chunk, 1] = (anchor * of_object).sum(axis=1)
    return found


def measure(
    images: Mapping[str, Float[np.ndarray, "images _"]],
    creator: Int[np.ndarray, " images"],
    objects: Int[np.ndarray, " images"],
    picture: Int[np.ndarray, " images"],
    *,
    triples: int = TRIPLES,
    seed: int = 0,
) -> ThemeOverObject:
    """Measure every kind of vectors on the same triples.

    Args:
        images: Kind of vectors -> one row per image.
        creator: As in `draw_triples`, and so are the others.
        objects: See there.
        picture: See there.
        triples: See there.
        seed: See there.

    Returns:
        Scores, paired comparisons of each kind with those named before it, and notes on what is
        left out; a note alone where fewer than two creators have a triple.
    """
    drawn = draw_triples(creator, objects, picture, triples=triples, seed=seed)
    unknown = int((objects < 0).sum())
    notes = _notes(len(objects), unknown, len(np.unique(creator)), len(drawn))
    rates = {}
    if len(drawn) >= 2:
        for kind, rows in images.items():
            theme, object_ = cosines(rows, drawn.reshape(-1, 3)).T
            nearer = (theme > object_) + 0.5 * (theme == object_)
            rates[kind] = nearer.reshape(drawn.shape[:2]).mean(axis=1)
    return ThemeOverObject(
        scores={
            kind: ThemeScore(
                rate=float(rate.mean()),
                standard_error=standard_error(rate),
                triples=drawn.shape[0] * drawn.shape[1],
                creators=len(rate),
            )
            for kind, rate in rates.items()
        },
        comparisons=_compare(list(rates), rates),
        triples=drawn,
        images_without_object=unknown,
        notes=notes,
    )


def _sharing(*codes: Int[np.ndarray, " images"]) -> Int[np.ndarray, " images"]:
    """Return how many images agree with each one in all codes, itself among them."""
    key = np.zeros(len(codes[0]), np.int64)
    for code in codes:
        # Dense again after each step: a product of three codes could overflow.
        key = np.unique(key * (code.max(initial=0) + 1) + code, return_inverse=True)[1]
    return np.bincount(key)[key]


def _draw_partners(
    anchor: Int[np.ndarray, " triples"],
    shared: Int[np.ndarray, " images"],
    different: Int[np.ndarray, " images"],
    picture: Int[np.ndarray, " images"],
    generator: np.random.Generator,
) -> Int[np.ndarray, " triples"]:
    """Draw, for each anchor, an image that shares one code, not the other, and is no copy.

    Every anchor must have one: what does not fit is drawn again until it does.
    """
    _, group, sizes = np.unique(shared, return_inverse=True, return_counts=True)
    members, starts = np.argsort(group, kind="stable"), np.cumsum(sizes) - sizes
    partner = np.empty_like(anchor)
    pending = np.arange(len(anchor))
    while len(pending):
        own = anchor[pending]
        drawn = members[starts[group[own]] + generator.integers(0, sizes[group[own]])]
        fits = (different[drawn] != different[own]) & (picture[drawn] != picture[own])
        partner[pending[fits]] = drawn[fits]
        pending = pending[~fits]
    return partner


def _compare(
    kinds: Sequence[str], rates: Mapping[str, Float[np.ndarray, " creators"]]
) -> list[ThemeComparison]:
    rows = []
    for position, kind in enumerate(kinds):
        for baseline in kinds[:position]:
            gain = rates[kind] - rates[baseline]
            rows.append(
                ThemeComparison(
                    vectors=kind,
                    baseline=baseline,
                    difference=float(gain.mean()),
                    standard_error=standard_error(gain),
                    creators=len(gain),
                )
            )
    return rows


def _notes(images: int, unknown: int, creators: int, with_triples: int) -> list[str]:
    notes = []
    if unknown:
        notes.append(
            f"{unknown:,} of {images:,} images have no `object` (text or a whole number): theme"
            " over object leaves them out."
        )
    if with_triples < 2:
        notes.append(
            f"Theme over object is left out: {with_triples:,} of {creators:,} creators have an"
            " image that another object of theirs and the same object by another creator can stand"
            " beside, and two are needed."
        )
    elif with_triples < creators:
        notes.append(
            f"{creators - with_triples:,} of {creators:,} creators are left out of theme over"
            " object: no image of theirs has both another object of theirs and the same object by"
            " another creator to stand beside it."
        )
    return notes
