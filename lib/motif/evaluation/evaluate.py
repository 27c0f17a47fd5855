"""The evaluation of a SAME checkpoint on EMBEDDINGS: all numbers, no pictures."""

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from motif import adjectives
from motif.adjectives import EncodeTexts
from motif.artefacts.checkpoint import Checkpoint
from motif.artefacts.embeddings import Embeddings
from motif.encoder.encoder import Encoder
from motif.encoder.source import resolve
from motif.errors import InputError, MotifError
from motif.evaluation import adjective_truth, similarity, theme_over_object
from motif.evaluation.adjective_truth import AdjectiveScore, AdjectiveVectors
from motif.evaluation.sample import MAX_IMAGES_PER_CREATOR, Choice, Sample, choose, read
from motif.evaluation.similarity import Similarity
from motif.evaluation.theme_over_object import ThemeOverObject
from motif.evaluation.verdict import NETWORKS, judge
from motif.model import embed
from motif.space import require_same

log = logging.getLogger(__name__)

MAX_CREATORS = 5000
EMBEDDING, MEAN, WHITENED, SAME = "embedding", "mean", "whitened", "same"
WITHOUT_TRUTH = 6
"""Adjectives that are shown though nothing is known about them."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """What was measured, and what the report's pictures are chosen from."""

    embeddings: Embeddings
    checkpoint: Checkpoint
    creators: str
    """`test` or `all`."""
    seed: int
    choice: Choice
    sample: Sample
    same: Float[np.ndarray, "evaluated same"]
    """Outputs of the model for `sample.evaluated_rows`."""
    similarity: Similarity
    theme_over_object: ThemeOverObject | None
    """Its triples are rows of `same`, its notes its own; None without a column `object`."""
    adjectives: list[AdjectiveScore]
    adjective_vectors: AdjectiveVectors | None
    """None where the encoder's text side could not be had."""
    adjectives_note: str
    """Why adjectives are missing, or empty."""
    notes: list[str]
    """What a reader of the numbers must know."""


def evaluate(
    embeddings: Embeddings,
    checkpoint: Checkpoint,
    *,
    creators: str = "test",
    seed: int = 0,
    max_creators: int = MAX_CREATORS,
    encode_texts: EncodeTexts | None = None,
    adjectives_note: str = "no text encoder was given",
) -> Result:
    """Measure creator similarity; where objects are known, theme over object; and adjectives.

    Args:
        embeddings: Whose creators are evaluated.
        checkpoint: Trained in the same space.
        creators: `test` for those that the checkpoint held out, `all` for every one.
        seed: Of the random halves.
        max_creators: Take at most this many, chosen by a hash of the id.
        encode_texts: Texts to unit rows, by the encoder of `embeddings`; None leaves adjectives
            out.
        adjectives_note: Why there is no `encode_texts`.

    Raises:
        SpaceError: The checkpoint was trained in another space.
        InputError: Too few creators, a missing column, or vectors that are not finite.
    """
    require_same(
        embeddings.space,
        checkpoint.encoder_space,
        what=f"EMBEDDINGS {embeddings.uri}",
        needed_by=f"the model {checkpoint.uri}",
    )
    choice = choose(embeddings, checkpoint, creators=creators, max_creators=max_creators)
    sample = read(embeddings, checkpoint, choice, with_others=encode_texts is not None)
    rows = sample.evaluated_rows
    inputs = torch.from_numpy(sample.inputs[rows])
    same = embed(checkpoint.model, inputs).numpy()
    outputs = {
        MEAN: sample.inputs[rows],
        WHITENED: embed(checkpoint.whitening(), inputs).numpy(),
        SAME: same,
    }
    log.info("comparing %d creators by %d images", sample.evaluated.sum(), len(same))
    offsets = np.concatenate([[0], np.cumsum(np.diff(sample.offsets)[sample.evaluated])])
    found = similarity.measure(outputs, offsets, seed=seed)
    notes = [*_notes(checkpoint, creators, choice, sample, max_creators), *found.notes]
    theme = _theme_over_object(checkpoint, sample, outputs, seed)
    scores: list[AdjectiveScore] = []
    vectors = None
    if encode_texts is not None:
        untold = [a for a in adjectives.default_adjectives() if a not in sample.truth]
        names = [*sample.truth, *untold[:WITHOUT_TRUTH]]
        log.info("scoring %d adjectives, %d with a truth column", len(names), len(sample.truth))
        vectors = adjective_truth.encode(names, encode_texts)
        scores, more = adjective_truth.measure(
            sample.truth, vectors, sample.embedding, sample.offsets
        )
        notes += more
        adjectives_note = ""
    return Result(
        embeddings=embeddings,
        checkpoint=checkpoint,
        creators=creators,
        seed=seed,
        choice=choice,
        sample=sample,
        same=same,
        similarity=found,
        theme_over_object=theme,
        adjectives=scores,
        adjective_vectors=vectors,
        adjectives_note=adjectives_note,
        notes=notes,
    )


def open_text_encoder(embeddings: Embeddings, name: str = "") -> tuple[EncodeTexts | None, str]:
    """Load the encoder that made EMBEDDINGS, for its text side.

    Args:
        embeddings: Whose space the encoder must have.
        name: Where to load it from now; by default from where it was loaded then.

    Returns:
        Texts to unit rows, and an empty note; or None, and why not.
    """
    try:
        encoder = Encoder(resolve(name or embeddings.encoder))
        require_same(
            encoder.space,
            embeddings.space,
            what=f"the encoder {name or embeddings.encoder!r} as it loads today",
            needed_by=f"EMBEDDINGS {embeddings.uri}",
        )
    except MotifError as error:
        return None, " ".join(str(error).split())
    return encoder.encode_texts, ""


def to_metrics(result: Result) -> dict[str, Any]:
    """Return what metrics.json says."""
    checkpoint, sample, theme = result.checkpoint, result.sample, result.theme_over_object
    return {
        "verdict": judge(result.similarity, checkpoint.config.architecture).text,
        "creator_similarity": [asdict(score) for score in result.similarity.scores],
        "comparisons": [asdict(row) for row in result.similarity.comparisons],
        "theme_over_object": (
            {kind: asdict(score) for kind, score in theme.scores.items()} if theme else None
        ),
        "theme_over_object_comparisons": (
            [asdict(row) for row in theme.comparisons] if theme else None
        ),
        "adjectives": [asdict(score) for score in result.adjectives],
        "adjectives_note": result.adjectives_note or None,
        "notes": [*result.notes, *(theme.notes if theme else [])],
        "architecture": checkpoint.config.architecture,
        "input_column": checkpoint.config.input_column,
        "creators": result.creators,
        "seed": result.seed,
        "counts": counts_of(result),
        "embeddings": {
            "uri": result.embeddings.uri,
            "fingerprint": result.embeddings.space.fingerprint,
            "duplicates_left_out": sample.duplicates,
        },
        "model": {
            "uri": checkpoint.uri,
            "run_id": checkpoint.run_id,
            "fingerprint": checkpoint.fingerprint,
        },
    }


def counts_of(result: Result) -> dict[str, int]:
    """Return how many images and creators were looked at."""
    counts = {
        "evaluated_creators": int(result.sample.evaluated.sum()),
        "evaluated_images": len(result.same),
        "creators_in_embeddings": result.choice.in_embeddings,
    }
    if result.theme_over_object is not None:
        counts["images_without_object"] = result.theme_over_object.images_without_object
    return counts


def require_enough(result: Result) -> None:
    """Refuse to report on nothing.

    Raises:
        InputError: No number of images a side could be measured.
    """
    if not result.similarity.scores:
        raise InputError(f"nothing could be measured: {' '.join(result.notes)}")


def _theme_over_object(
    checkpoint: Checkpoint, sample: Sample, outputs: Mapping[str, np.ndarray], seed: int
) -> ThemeOverObject | None:
    if sample.objects is None:
        return None
    rows = sample.evaluated_rows
    # The rows that the model reads are the embeddings themselves, unless it reads another column.
    reads_embedding = checkpoint.config.input_column == EMBEDDING
    embedding = outputs[MEAN] if reads_embedding else sample.embedding[rows]
    return theme_over_object.measure(
        {EMBEDDING: embedding, **outputs},
        sample.creator_of[rows],
        sample.objects[rows],
        sample.pictures[rows],
        seed=seed,
    )


def _notes(
    checkpoint: Checkpoint, creators: str, choice: Choice, sample: Sample, max_creators: int
) -> list[str]:
    notes = []
    if creators == "all":
        notes.append(
            "All creators are compared, whatever their split: the figures are those of strangers"
            " only if the model was trained on other creators."
        )
    if checkpoint.config.architecture not in NETWORKS:
        notes.append(
            f"This checkpoint is the {checkpoint.config.architecture} itself, with no network on"
            " it: “SAME” and “whitened” are one and the same here."
        )
    if choice.available > max_creators:
        notes.append(
            f"{max_creators:,} of {choice.available:,} creators are compared, the first by a hash"
            " of their id. Hit rates fall as candidates are added: compare only figures with equal"
            " numbers of candidates."
        )
    if sample.capped:
        notes.append(
            f"{sample.capped:,} creators have more than {MAX_IMAGES_PER_CREATOR} images; that many"
            " of each are taken, by a hash of the file."
        )
    if sample.duplicates:
        notes.append(
            f"{sample.duplicates:,} images are left out because their creator has the same picture"
            " twice (the same file, or an equal perceptual hash): an image must not meet its own"
            " copy in its twin."
        )
    return notes
