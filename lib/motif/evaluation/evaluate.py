"""The evaluation of a SAME checkpoint on EMBEDDINGS: all numbers, no pictures."""

import logging
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
from motif.evaluation import adjective_truth, similarity
from motif.evaluation.adjective_truth import AdjectiveScore, AdjectiveVectors
from motif.evaluation.sample import MAX_IMAGES_PER_CREATOR, Choice, Sample, choose, read
from motif.evaluation.similarity import Similarity
from motif.evaluation.verdict import judge
from motif.model import embed
from motif.space import require_same

log = logging.getLogger(__name__)

MAX_CREATORS = 5000
MEAN, WHITENED, SAME = "mean", "whitened", "same"
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
    """Measure creator similarity and, with a text encoder, adjectives.

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
    checkpoint, sample = result.checkpoint, result.sample
    return {
        "verdict": judge(result.similarity, checkpoint.config.architecture).text,
        "creator_similarity": [asdict(score) for score in result.similarity.scores],
        "comparisons": [asdict(row) for row in result.similarity.comparisons],
        "adjectives": [asdict(score) for score in result.adjectives],
        "adjectives_note": result.adjectives_note or None,
        "notes": result.notes,
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
    return {
        "evaluated_creators": int(result.sample.evaluated.sum()),
        "evaluated_images": len(result.same),
        "creators_in_embeddings": result.choice.in_embeddings,
    }


def require_enough(result: Result) -> None:
    """Refuse to report on nothing.

    Raises:
        InputError: No number of images a side could be measured.
    """
    if not result.similarity.scores:
        raise InputError(f"nothing could be measured: {' '.join(result.notes)}")


def _notes(
    checkpoint: Checkpoint, creators: str, choice: Choice, sample: Sample, max_creators: int
) -> list[str]:
    notes = []
    if creators == "all":
        notes.append(
            "All creators are compared, whatever their split: the figures are those of strangers"
            " only if the model was trained on other creators."
        )
    if checkpoint.config.architecture != "same":
        notes.append(
            f"This checkpoint is the {checkpoint.config.architecture} itself, since the network was"
            " no better when it was trained: “SAME” and “whitened” are one and the same here."
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
            f"{sample.duplicates:,} images are left out because their creator has the same file"
            " twice: an image must not meet itself in its twin."
        )
    return notes
