"""The images and creators that an evaluation looks at, read from EMBEDDINGS."""

import hashlib
from collections import Counter
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from jaxtyping import Bool, Float, Int

from motif import schemas, splits
from motif.artefacts import partitions
from motif.artefacts.checkpoint import Checkpoint
from motif.artefacts.embeddings import Embeddings
from motif.errors import InputError
from motif.evaluation.adjective_truth import adjective_of
from motif.model import as_inputs
from motif.pictures import pictures_of

CREATORS = ("test", "all")
HASHES = ("content_hash", "perceptual_hash")
OBJECT = "object"
"""Carried column: what an image shows, as text or as a whole number."""
# Enough for every figure (20 at most are drawn), and a bound on memory.
MAX_IMAGES_PER_CREATOR = 100


@dataclass(frozen=True)
class Choice:
    """Which creators are looked at, before any vector is read."""

    evaluated: list[str]
    """Creators of the asked-for split with at least two images, at most `max_creators`."""
    others: list[str]
    """Further creators, for adjectives alone: those learn from no creator."""
    available: int
    """Creators of the asked-for split with at least two images."""
    in_embeddings: int


@dataclass(frozen=True)
class Sample:
    """Images of the chosen creators, grouped by creator."""

    creator_ids: list[str]
    offsets: Int[np.ndarray, " bounds"]
    """Creator i owns the rows [offsets[i], offsets[i + 1])."""
    evaluated: Bool[np.ndarray, " creators"]
    embedding: Float[np.ndarray, "images dim"]
    inputs: Float[np.ndarray, "images input"]
    """Unit rows of the column that the model reads."""
    uris: list[str]
    content_hashes: list[str]
    pictures: Int[np.ndarray, " images"]
    """Equal numbers are copies: the same file, or an equal perceptual hash."""
    objects: Int[np.ndarray, " images"] | None
    """Index into `object_names`, -1 where there is neither text nor a whole number; None without a
    column `object`."""
    object_names: list[str]
    truth: dict[str, np.ndarray]
    """Adjective -> 1, 0 or NaN per image, from boolean columns `is_<adjective>`."""
    duplicates: int
    """Images left out because the same creator has the same picture twice."""
    capped: int
    """Creators of whom only `MAX_IMAGES_PER_CREATOR` images are taken."""

    @property
    def creator_of(self) -> Int[np.ndarray, " images"]:
        """Index of each image's creator."""
        return np.repeat(np.arange(len(self.creator_ids)), np.diff(self.offsets))

    @property
    def evaluated_rows(self) -> Bool[np.ndarray, " images"]:
        """Images of the evaluated creators."""
        return self.evaluated[self.creator_of]


def choose(
    embeddings: Embeddings, checkpoint: Checkpoint, *, creators: str, max_creators: int
) -> Choice:
    """Choose creators by split and then by a hash of their id, the same ones every time.

    Raises:
        InputError: Fewer than two creators can be evaluated.
    """
    if creators not in CREATORS:
        raise InputError(f"--creators {creators}: expected test or all")
    if max_creators < 2:
        raise InputError(f"--max-creators {max_creators}: at least 2")
    counts: Counter[str] = Counter()
    for bucket in range(embeddings.buckets):
        found = embeddings.read_bucket(bucket, ["creator_id"])["creator_id"].value_counts()
        for value in found.to_pylist():
            counts[value["values"]] += value["counts"]
    order = sorted(counts, key=_hash)
    wanted = [
        creator
        for creator in order
        if counts[creator] >= 2
        and (creators == "all" or checkpoint.split_of(creator) == splits.TEST)
    ]
    if len(wanted) < 2:
        raise InputError(_too_few(embeddings, checkpoint, creators, len(wanted), len(counts)))
    evaluated = wanted[:max_creators]
    taken = set(evaluated)
    return Choice(
        evaluated=evaluated,
        others=[creator for creator in order[:max_creators] if creator not in taken],
        available=len(wanted),
        in_embeddings=len(counts),
    )


def read(
    embeddings: Embeddings, checkpoint: Checkpoint, choice: Choice, *, with_others: bool
) -> Sample:
    """Read the chosen creators' images, bucket by bucket.

    A creator's copies of one picture are reduced to one: else an image could meet its own copy in
    its twin.

    Args:
        embeddings: Of the space that the checkpoint was trained in.
        checkpoint: Names the column that its model reads.
        choice: From `choose`.
        with_others: Also take the creators that only adjectives are measured on.

    Raises:
        InputError: The column is missing, a vector is not finite, or fewer than two creators have
            two different images.
    """
    column = checkpoint.config.input_column
    if column not in embeddings.schema.names:
        raise InputError(
            f"{embeddings.uri} has no column {column!r}, which the model reads; encode again"
            " without --no-features, or train on `embedding`"
        )
    truths = truth_columns(embeddings)
    names = ["creator_id", "image_id", "uri", *HASHES, "embedding", column, *truths, OBJECT]
    columns = [name for name in dict.fromkeys(names) if name in embeddings.schema.names]
    wanted = pa.array([*choice.evaluated, *(choice.others if with_others else ())], pa.string())
    parts = []
    for bucket in range(embeddings.buckets):
        rows = embeddings.read_bucket(bucket, columns)
        parts.append(rows.filter(pc.is_in(rows["creator_id"], wanted)))
    table = pa.concat_tables(parts)
    table = table.sort_by([("creator_id", "ascending"), ("image_id", "ascending")])
    pictures = pictures_of(*(partitions.hashes(table[name]) for name in HASHES))
    keep, duplicates, capped = _choose_images(table, pictures)
    table = table.take(pa.array(keep))
    objects, object_names = _objects(table)
    ids = table["creator_id"].to_pylist()
    starts = [i for i, creator in enumerate(ids) if not i or ids[i - 1] != creator]
    offsets = np.array([*starts, len(ids)])
    creator_ids = [ids[start] for start in starts]
    asked = set(choice.evaluated)
    evaluated = np.array([creator in asked for creator in creator_ids]) & (np.diff(offsets) >= 2)
    if evaluated.sum() < 2:
        raise InputError(
            f"{embeddings.uri}: only {int(evaluated.sum())} of {len(asked)} creators have two"
            " different images; two such creators are needed"
        )
    inputs = as_inputs(torch.tensor(schemas.matrix(table[column]))).numpy()
    embedding = schemas.matrix(table["embedding"])
    for vectors in (inputs, embedding):
        _require_finite(vectors, table)
    return Sample(
        creator_ids=creator_ids,
        offsets=offsets,
        evaluated=evaluated,
        embedding=embedding,
        inputs=inputs,
        uris=table["uri"].to_pylist(),
        content_hashes=table["content_hash"].to_pylist(),
        pictures=pictures[keep],
        objects=objects,
        object_names=object_names,
        truth={name: _floats(table[source]) for source, name in truths.items()},
        duplicates=duplicates,
        capped=capped,
    )


def truth_columns(embeddings: Embeddings) -> dict[str, str]:
    """Return the boolean columns `is_<adjective>`, and the adjective of each."""
    found = {
        name: adjective_of(name)
        for name in embeddings.carried
        if pa.types.is_boolean(embeddings.schema.field(name).type)
    }
    unique: dict[str, str] = {}
    for column, adjective in found.items():
        if adjective is not None and adjective not in unique.values():
            unique[column] = adjective
    return unique


def _codes(column: pa.ChunkedArray) -> tuple[Int[np.ndarray, " images"], list[str]]:
    """Return an index into the different values for each row, -1 for nulls, and those values."""
    encoded = column.combine_chunks().dictionary_encode()
    return encoded.indices.fill_null(-1).to_numpy().astype(np.int64), encoded.dictionary.to_pylist()


def _objects(table: pa.Table) -> tuple[Int[np.ndarray, " images"] | None, list[str]]:
    if OBJECT not in table.column_names:
        return None, []
    column = table[OBJECT]
    if pa.types.is_integer(column.type):
        column = column.cast(pa.string())
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        return np.full(len(column), -1), []
    text = pc.utf8_trim_whitespace(column)
    # An empty field of a CSV is empty text.
    return _codes(pc.if_else(pc.equal(text, ""), pa.scalar(None, text.type), text))


def _choose_images(
    table: pa.Table, pictures: Int[np.ndarray, " images"]
) -> tuple[list[int], int, int]:
    """Return the rows to keep, in order, the copies left out, and the creators cut short."""
    contents = table["content_hash"].to_pylist()
    by_creator: dict[str, dict[int, int]] = {}
    keys = zip(table["creator_id"].to_pylist(), pictures.tolist(), strict=True)
    for row, (creator, picture) in enumerate(keys):
        by_creator.setdefault(creator, {}).setdefault(picture, row)
    keep: list[int] = []
    capped = 0
    for images in by_creator.values():
        chosen = list(images.values())
        if len(chosen) > MAX_IMAGES_PER_CREATOR:
            capped += 1
            by_hash = sorted(chosen, key=lambda row: _hash(contents[row]))
            chosen = sorted(by_hash[:MAX_IMAGES_PER_CREATOR])
        keep += chosen
    different = sum(len(images) for images in by_creator.values())
    return keep, table.num_rows - different, capped


def _floats(column: pa.ChunkedArray) -> Float[np.ndarray, " images"]:
    values = column.to_pylist()
    return np.array([np.nan if value is None else float(value) for value in values])


def _hash(text: str) -> str:
    # Not the hash of splits: its smallest values would be the test creators, all of them.
    return hashlib.sha256(b"motif evaluation\0" + text.encode()).hexdigest()


def _require_finite(inputs: Float[np.ndarray, "images input"], table: pa.Table) -> None:
    length = np.linalg.norm(inputs, axis=1)
    bad = np.flatnonzero(~np.isfinite(length) | (length == 0))
    if len(bad):
        raise InputError(
            f"{len(bad)} vectors are zero or not finite (first: image"
            f" {table['image_id'][int(bad[0])].as_py()!r:.80}); encode those images again"
        )


def _too_few(
    embeddings: Embeddings, checkpoint: Checkpoint, creators: str, found: int, total: int
) -> str:
    if creators == "all":
        return (
            f"{embeddings.uri}: {found} of {total} creators have two images or more, and two such"
            " creators are needed; encode more images"
        )
    return (
        f"{embeddings.uri}: {found} of {total} creators are test creators of {checkpoint.uri} with"
        f" two images or more, and two are needed (it was trained with --test-fraction"
        f" {checkpoint.config.test_fraction}); train with a larger --test-fraction, or pass"
        " --creators all if the model was trained on other creators"
    )
