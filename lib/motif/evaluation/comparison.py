"""Two spaces side by side, on the same creators and images: what a switch would change."""

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from markupsafe import Markup
from scipy.stats import spearmanr

import motif
from motif import adjectives
from motif.adjectives import EncodeTexts
from motif.artefacts.checkpoint import Checkpoint
from motif.artefacts.embeddings import Embeddings
from motif.errors import InputError
from motif.evaluation import pages, plots, similarity, thumbnails
from motif.evaluation.adjective_truth import creator_means
from motif.evaluation.sample import Choice, Sample, choose, read
from motif.evaluation.similarity import Comparison, Similarity, unit
from motif.evaluation.verdict import compare as outcome_of
from motif.evaluation.verdict import headline_size
from motif.model import embed

log = logging.getLogger(__name__)

OLD, NEW = "old", "new"
COLOURS = {OLD: "#6b7280", NEW: "#d55e00"}
NEIGHBOURS = 10
SHEETS, TILES = 6, 5


@dataclass(frozen=True)
class Side:
    """One of the two spaces."""

    embeddings: Embeddings
    checkpoint: Checkpoint
    encode_texts: EncodeTexts | None
    """None leaves adjectives out."""


@dataclass(frozen=True)
class Neighbours:
    """One creator, and who is nearest to it in each space."""

    creator_id: str
    old: list[str]
    new: list[str]


@dataclass(frozen=True)
class Switch:
    """What was found."""

    creators: int
    images: int
    similarity: Similarity
    """Of the kinds `old` and `new`, on the same draws."""
    overlap: float
    """Share of a creator's ten nearest that stay among them, mean over creators, in [0, 1]."""
    adjectives: dict[str, float]
    """Adjective -> Spearman correlation of creators' scores in the two spaces, in [-1, 1]."""
    sheets: list[Neighbours]
    pictures: dict[str, tuple[str, str]]
    """Creator of a sheet -> URI and content hash of the image nearest to its mean."""

    def headline(self) -> Comparison | None:
        """Return new against old at five images a side, or as many as there are."""
        size = headline_size(self.similarity)
        return self.similarity.compare(NEW, OLD, csls=True, images_per_side=size)

    def verdict(self) -> str:
        """Say what a switch would change, in a sentence or two."""
        row = self.headline()
        if row is None:
            return "Nothing could be compared."
        words = {"better": "better", "worse": "worse", "level": "no different"}[outcome_of(row)]
        return (
            f"The new space is {words} at finding a creator again: hit rate at 1"
            f" {row.difference:+.3f} (standard error {row.standard_error:.3f}) with"
            f" {row.images_per_side} images a side of {row.creators:,} creators. Of a creator's ten"
            f" nearest, {self.overlap:.0%} stay among them."
        )

    def to_metrics(self) -> dict[str, Any]:
        """Return what metrics.json says."""
        return {
            "verdict": self.verdict(),
            "creators": self.creators,
            "images": self.images,
            "scores": [asdict(score) for score in self.similarity.scores],
            "comparisons": [asdict(row) for row in self.similarity.comparisons],
            "neighbour_overlap_at_10": self.overlap,
            "adjective_rank_correlation": self.adjectives,
            "notes": self.similarity.notes,
        }


def compare(old: Side, new: Side, *, max_creators: int, seed: int = 0) -> Switch:
    """Compare two spaces on creators that neither model has seen.

    Args:
        old: What is live.
        new: What may be.
        max_creators: At most so many, chosen by a hash of the id.
        seed: Of the random halves and of the creators that are shown.

    Raises:
        InputError: Fewer than two creators are held out by both and have images in both.
    """
    choices = [
        choose(side.embeddings, side.checkpoint, creators="test", max_creators=max_creators)
        for side in (old, new)
    ]
    shared = [c for c in choices[0].evaluated if c in set(choices[1].evaluated)]
    if len(shared) < 2:
        raise InputError(
            f"{len(shared)} creators are held out by both models and have two images in both"
            " archives; two are needed to compare"
        )
    wanted = Choice(shared, [], len(shared), choices[0].in_embeddings)
    samples = [read(s.embeddings, s.checkpoint, wanted, with_others=False) for s in (old, new)]
    rows, offsets, ids = _shared_images(*samples)
    log.info("comparing %d creators by %d images in both spaces", len(ids), len(rows[0]))
    vectors = {
        kind: embed(side.checkpoint.model, torch.from_numpy(sample.inputs[index])).numpy()
        for kind, side, sample, index in zip((OLD, NEW), (old, new), samples, rows, strict=True)
    }
    found = similarity.measure(vectors, offsets, seed=seed)
    means = {
        kind: unit(np.add.reduceat(matrix, offsets[:-1], axis=0))
        for kind, matrix in vectors.items()
    }
    nearest = {kind: _nearest(matrix) for kind, matrix in means.items()}
    shown = np.random.default_rng([seed, SHEETS]).permutation(len(ids))[:SHEETS]
    sheets = [
        Neighbours(
            ids[i],
            *([ids[j] for j in nearest[kind][i, :TILES]] for kind in (OLD, NEW)),
        )
        for i in shown
    ]
    both = [
        (side, sample, index) for side, sample, index in zip((old, new), samples, rows, strict=True)
    ]
    return Switch(
        creators=len(ids),
        images=len(rows[0]),
        similarity=found,
        overlap=_overlap(nearest[OLD], nearest[NEW]),
        adjectives=_adjectives(both, offsets),
        sheets=sheets,
        pictures=_pictures(sheets, samples[0], rows[0], offsets, ids, vectors[OLD], means[OLD]),
    )


def _shared_images(
    old: Sample, new: Sample
) -> tuple[
    tuple[Int[np.ndarray, " images"], Int[np.ndarray, " images"]],
    Int[np.ndarray, " bounds"],
    list[str],
]:
    """Return the rows of images that both have, in one order, and where each creator's begin."""
    place = {key: row for row, key in enumerate(_keys(new))}
    pairs = [(row, place[key], key[0]) for row, key in enumerate(_keys(old)) if key in place]
    creators = np.array([creator for _, _, creator in pairs])
    starts = np.flatnonzero(np.r_[True, creators[1:] != creators[:-1]]) if len(pairs) else []
    bounds = np.r_[starts, len(pairs)].astype(np.int64)
    enough: Bool[np.ndarray, " creators"] = np.diff(bounds) >= 2
    if enough.sum() < 2:
        raise InputError(
            f"{int(enough.sum())} creators have two images that are in both archives; two are"
            " needed to compare"
        )
    kept = np.concatenate([np.arange(bounds[i], bounds[i + 1]) for i in np.flatnonzero(enough)])
    index = tuple(np.array([pair[side] for pair in pairs])[kept] for side in (0, 1))
    offsets = np.r_[0, np.cumsum(np.diff(bounds)[enough])]
    return (index[0], index[1]), offsets, creators[bounds[:-1][enough]].tolist()


def _keys(sample: Sample) -> Sequence[tuple[str, str]]:
    creators = [sample.creator_ids[i] for i in sample.creator_of]
    return list(zip(creators, sample.uris, strict=True))


def _nearest(vectors: Float[np.ndarray, "creators dim"]) -> Int[np.ndarray, "creators k"]:
    """Return each creator's nearest others, nearest first."""
    cosine = vectors @ vectors.T
    np.fill_diagonal(cosine, -np.inf)
    count = min(NEIGHBOURS, len(vectors) - 1)
    return np.argsort(-cosine, axis=1, kind="stable")[:, :count]


def _overlap(old: Int[np.ndarray, "creators k"], new: Int[np.ndarray, "creators k"]) -> float:
    shared = [len(set(a) & set(b)) for a, b in zip(old.tolist(), new.tolist(), strict=True)]
    return float(np.mean(shared)) / old.shape[1]


def _adjectives(
    both: Sequence[tuple[Side, Sample, Int[np.ndarray, " images"]]],
    offsets: Int[np.ndarray, " bounds"],
) -> dict[str, float]:
    if any(side.encode_texts is None for side, _, _ in both):
        return {}
    words = adjectives.default_adjectives()
    scores = []
    for side, sample, index in both:
        assert side.encode_texts is not None
        directions = adjectives.directions(words, side.encode_texts)
        by_image = sample.embedding[index] @ directions.T
        scores.append(np.stack([creator_means(column, offsets) for column in by_image.T]))
    return {
        word: float(spearmanr(scores[0][i], scores[1][i])[0])  # type: ignore[arg-type]
        for i, word in enumerate(words)
    }


def _pictures(
    sheets: Sequence[Neighbours],
    sample: Sample,
    rows: Int[np.ndarray, " images"],
    offsets: Int[np.ndarray, " bounds"],
    ids: Sequence[str],
    vectors: Float[np.ndarray, "images dim"],
    means: Float[np.ndarray, "creators dim"],
) -> dict[str, tuple[str, str]]:
    """Return the most typical image, by the old space, of every creator that is shown."""
    place = {creator: i for i, creator in enumerate(ids)}
    found = {}
    for sheet in sheets:
        for creator in (sheet.creator_id, *sheet.old, *sheet.new):
            i = place[creator]
            own = slice(offsets[i], offsets[i + 1])
            best = rows[own][int(np.argmax(vectors[own] @ means[i]))]
            found[creator] = (sample.uris[best], sample.content_hashes[best])
    return found


def render(switch: Switch, old: Side, new: Side, *, run_id: str, created_at: datetime) -> str:
    """Return the page: figures, tables and sheets, with everything it shows in it."""
    images = thumbnails.make_thumbnails(switch.pictures.values())
    sizes = sorted({score.images_per_side for score in switch.similarity.scores})
    return (
        pages.environment()
        .get_template("comparison.html.j2")
        .render(
            switch=switch,
            sides={OLD: old, NEW: new},
            sizes=sizes,
            scores={
                (kind, size): switch.similarity.find(kind, csls=True, images_per_side=size)
                for kind in (OLD, NEW)
                for size in sizes
            },
            differences={
                size: switch.similarity.compare(NEW, OLD, csls=True, images_per_side=size)
                for size in sizes
            },
            headline=switch.headline(),
            tiles=TILES,
            figure=_figure(switch.similarity, sizes),
            thumbnail=lambda creator: images[switch.pictures[creator][0]],
            by_correlation=sorted(switch.adjectives.items(), key=lambda pair: -pair[1]),
            run_id=run_id,
            date=created_at,
            motif_version=motif.__version__,
        )
    )


def _figure(found: Similarity, sizes: Sequence[int]) -> Markup:
    with plots.drawn("two-spaces", "hit rate at 1 by images a side", 5.6, 3.6) as (figure, done):
        axes = figure.subplots()
        for kind, shift in ((OLD, -0.04), (NEW, 0.04)):
            rows = [found.find(kind, csls=True, images_per_side=size) for size in sizes]
            points = [row for row in rows if row is not None]
            axes.errorbar(
                [sizes.index(row.images_per_side) + shift for row in points],
                [row.hit_rate["1"] for row in points],
                [row.standard_error for row in points],
                color=COLOURS[kind],
                marker="o",
                capsize=2,
                elinewidth=1,
            )
            last = points[-1]
            axes.annotate(
                kind,
                (len(points) - 1 + shift, last.hit_rate["1"]),
                xytext=(8, 0),
                textcoords="offset points",
                color=COLOURS[kind],
                va="center",
                fontweight="bold",
            )
        axes.set_xticks(range(len(sizes)), [str(size) for size in sizes])
        axes.set_xlim(-0.3, len(sizes) - 0.4)
        plots.percent_axis(axes)
        axes.grid(axis="x", visible=False)
        axes.set_xlabel("images on each side", loc="left")
        axes.set_title("Twin found at first place, hubs corrected")
    return done[0]
