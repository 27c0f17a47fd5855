"""EMBEDDINGS as training reads them: one matrix, sorted by creator, mapped into memory.

FOLDER/rows.npy         float16 unit rows of the training creators, grouped by creator
FOLDER/validation.npy   the same for the validation creators, of bounded size
FOLDER/index.json       last: where each creator's rows begin, and what was counted

Workers of one node share it, and with it the page cache. It is scratch: it can be made again.
"""

import errno
import hashlib
import json
import logging
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from filelock import FileLock
from jaxtyping import Bool, Float, Int, UInt64

from motif import schemas, splits, storage
from motif.artefacts import partitions
from motif.artefacts.embeddings import Embeddings
from motif.errors import InputError, OutputError
from motif.pictures import pictures_of, repeats
from motif.triplets import offsets_of

log = logging.getLogger(__name__)

# With so many, some 200,000 creators, a node's disk holds them (61 GB of a ViT-B's features).
MAX_IMAGES = 10_000_000
# Bounds what validation costs; with so many, the standard error of a hit rate is below .016.
VALIDATION_CREATORS = 1000
VALIDATION_IMAGES = 40
_INDEX = "index.json"
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True, kw_only=True)
class Split:
    """How creators are divided; see `motif.splits`."""

    test_fraction: float
    validation_fraction: float
    test_fold: int

    def of(self, creator_id: str) -> str:
        """Return a creator's split."""
        return splits.split_of(creator_id, **asdict(self))


@dataclass(frozen=True, kw_only=True)
class Counts:
    """What became of the images and creators that were read."""

    images: int
    buckets: int
    """That were read; creators are in buckets by a hash, so that some buckets are a sample."""
    train_creators: int
    validation_creators: int
    test_creators: int
    copies: int
    """Images of train and validation creators whose picture the same creator has already."""
    shared: int
    """Images of these whose picture another creator has, too; they say nothing about either."""
    single: int
    """Train and validation creators that are left with fewer than two images."""


@dataclass(frozen=True, kw_only=True)
class TrainingSet:
    """Unit rows of the creators to learn from, at least two each, and of those to stop by."""

    rows: Float[np.ndarray, "images dim"]
    offsets: Int[np.ndarray, " bounds"]
    """Training creator i owns the rows [offsets[i], offsets[i + 1])."""
    validation: Float[np.ndarray, "validation_images dim"]
    validation_offsets: Int[np.ndarray, " validation_bounds"]
    counts: Counts


def load(
    embeddings: Embeddings,
    column: str,
    split: Split,
    folder: Path,
    *,
    max_images: int = MAX_IMAGES,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> TrainingSet:
    """Open the training set in `folder`; the first process of a node to come makes it.

    Args:
        embeddings: To read from.
        column: `embedding` or `features`.
        split: Which creators are for what.
        folder: On a disk of this node; its name must change with the other arguments.
        max_images: Of larger EMBEDDINGS only so many buckets are read that they hold about so many.
        report: Called with the buckets read so far and all there are to read, each read twice.

    Raises:
        InputError: EMBEDDINGS has no such column, or a row that is zero or not finite.
        OutputError: The disk has no room for the rows.
    """
    if column not in embeddings.schema.names:
        raise InputError(
            f"{embeddings.uri} has no column {column!r}; encode again without --no-features, or"
            " train with --input embedding"
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not (folder / _INDEX).exists():
            storage.remove(str(folder))
            folder.mkdir()
            try:
                _write(embeddings, column, split, folder, sample(embeddings, max_images), report)
            except BaseException as error:
                storage.remove(str(folder))
                if not isinstance(error, OSError) or error.errno not in _NO_ROOM:
                    raise
                raise OutputError(
                    f"{folder.parent} has no room for the training set ({error.strerror}); name"
                    " another disk of the nodes with --scratch"
                ) from error
    index = json.loads((folder / _INDEX).read_text())
    return TrainingSet(
        rows=np.load(folder / "rows.npy", mmap_mode="r", allow_pickle=False),
        offsets=np.load(folder / "offsets.npy", allow_pickle=False),
        validation=np.load(folder / "validation.npy", mmap_mode="r", allow_pickle=False),
        validation_offsets=np.load(folder / "validation_offsets.npy", allow_pickle=False),
        counts=Counts(**index),
    )


def sample(embeddings: Embeddings, max_images: int) -> list[int]:
    """Return the buckets to read, in order: all, or a sample of at least one."""
    images, buckets = embeddings.counts["embedded"], embeddings.buckets
    wanted = buckets if images <= max_images else max(1, buckets * max_images // images)
    return sorted(np.random.default_rng(0).permutation(buckets)[:wanted].tolist())


def folder_name(
    embeddings: Embeddings, column: str, split: Split, output: str, max_images: int = MAX_IMAGES
) -> str:
    """Return a folder's name that no other training set, nor another job's, has."""
    told = [embeddings.uri, embeddings.snapshot.run_id, column, asdict(split), output, max_images]
    digest = hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16]
    return f"motif-training-{digest}"


@dataclass(frozen=True)
class _Images:
    """All images of the buckets that are read, in their order."""

    creator_ids: list[str]
    split: Int[np.ndarray, " creators"]
    """Place in `_SPLITS` of each creator's."""
    creator: Int[np.ndarray, " images"]
    content: UInt64[np.ndarray, " images"]
    perceptual: UInt64[np.ndarray, " images"]


_SPLITS = (splits.TRAIN, splits.VALIDATION, splits.TEST)


def _write(
    embeddings: Embeddings,
    column: str,
    split: Split,
    folder: Path,
    buckets: list[int],
    report: Callable[[int, int], None],
) -> None:
    images = _survey(embeddings, buckets, split, lambda done: report(done, 2 * len(buckets)))
    seen = images.split[images.creator] != _SPLITS.index(splits.TEST)
    pictures = pictures_of(images.content[seen], images.perceptual[seen])
    copies, shared = repeats(images.creator[seen], pictures)
    usable = seen.copy()
    usable[seen] = ~(copies | shared)
    left = np.bincount(images.creator[usable], minlength=len(images.creator_ids))
    usable &= left[images.creator] >= 2
    usable &= _bounded_validation(images, usable)
    # Creators in the order of their ids, whatever their buckets are.
    order = np.argsort(np.array(images.creator_ids, dtype=object), kind="stable")
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    targets = np.full(len(usable), -1)
    bounds = {}
    for place, name in enumerate(_SPLITS[:2]):
        own = np.flatnonzero(usable & (images.split[images.creator] == place))
        own = own[np.argsort(rank[images.creator[own]], kind="stable")]
        targets[own] = np.arange(len(own))
        bounds[name] = offsets_of(images.creator[own])
    dim = embeddings.schema.field(column).type.list_size
    files = {
        name: _reserve(folder / file, (int(bounds[name][-1]), dim))
        for name, file in ((splits.TRAIN, "rows.npy"), (splits.VALIDATION, "validation.npy"))
    }
    start = 0
    for done, bucket in enumerate(buckets, start=1):
        rows = embeddings.read_bucket(bucket, ["creator_id", "image_id", column])
        stop = start + rows.num_rows
        target = targets[start:stop]
        place = images.split[images.creator[start:stop]]
        start = stop
        for number, name in enumerate(_SPLITS[:2]):
            chosen = np.flatnonzero((target >= 0) & (place == number))
            if len(chosen):
                files[name][target[chosen]] = _unit_rows(rows.take(pa.array(chosen)), column)
        report(len(buckets) + done, 2 * len(buckets))
    np.save(folder / "offsets.npy", bounds[splits.TRAIN])
    np.save(folder / "validation_offsets.npy", bounds[splits.VALIDATION])
    by_split = np.bincount(images.split, minlength=len(_SPLITS)).tolist()
    counts = Counts(
        images=len(images.creator),
        buckets=len(buckets),
        **{f"{name}_creators": n for name, n in zip(_SPLITS, by_split, strict=True)},
        copies=int(copies.sum()),
        shared=int(shared.sum()),
        single=int((left < 2)[images.split != _SPLITS.index(splits.TEST)].sum()),
    )
    storage.write_json(str(folder / _INDEX), asdict(counts))


def _survey(
    embeddings: Embeddings, buckets: list[int], split: Split, report: Callable[[int], None]
) -> _Images:
    creator_ids: list[str] = []
    parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for done, bucket in enumerate(buckets, start=1):
        rows = embeddings.read_bucket(bucket, ["creator_id", "content_hash", "perceptual_hash"])
        # A creator is in one bucket, and its rows are side by side.
        ids = pc.dictionary_encode(rows["creator_id"]).combine_chunks()
        creator = ids.indices.to_numpy() + len(creator_ids)
        creator_ids += ids.dictionary.to_pylist()
        parts.append(
            (
                creator,
                partitions.hashes(rows["content_hash"]),
                partitions.hashes(rows["perceptual_hash"]),
            )
        )
        report(done)
    if not creator_ids:
        raise InputError(f"{embeddings.uri} holds no images")
    creator, content, perceptual = (np.concatenate(part) for part in zip(*parts, strict=True))
    places = [_SPLITS.index(split.of(creator_id)) for creator_id in creator_ids]
    return _Images(creator_ids, np.array(places), creator, content, perceptual)


def _bounded_validation(
    images: _Images, usable: Bool[np.ndarray, " images"]
) -> Bool[np.ndarray, " images"]:
    """Return the images that may stay: of validation, only so many, chosen by hashes."""
    validation = images.split == _SPLITS.index(splits.VALIDATION)
    keep = ~validation
    present = np.unique(images.creator[usable & validation[images.creator]])
    by_hash = sorted(present.tolist(), key=lambda i: splits.position(images.creator_ids[i]))
    keep[by_hash[:VALIDATION_CREATORS]] = True
    stay = keep[images.creator]
    rows = np.flatnonzero(usable & stay & validation[images.creator])
    rows = rows[np.lexsort((images.content[rows], images.creator[rows]))]
    bounds = offsets_of(images.creator[rows])
    place = np.arange(len(rows)) - np.repeat(bounds[:-1], np.diff(bounds))
    stay[rows[place >= VALIDATION_IMAGES]] = False
    return stay


def _reserve(path: Path, shape: tuple[int, int]) -> Float[np.ndarray, "images dim"]:
    """Make a file of float16 with all its blocks: a disk that fills up later kills by SIGBUS."""
    if not shape[0]:
        np.save(path, np.zeros(shape, np.float16))
        return np.zeros(shape, np.float16)
    rows = np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=shape)
    with path.open("r+b") as file:
        os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return rows


def _unit_rows(rows: pa.Table, column: str) -> Float[np.ndarray, "images dim"]:
    matrix = schemas.matrix(rows[column]).astype(np.float32, copy=False)
    lengths = np.linalg.norm(matrix, axis=1, keepdims=True)
    bad = np.flatnonzero(~(np.isfinite(lengths) & (lengths > 0)))
    if len(bad):
        first = rows.slice(int(bad[0]), 1).to_pylist()[0]
        raise InputError(
            f"{len(bad)} vectors in {column!r} are zero or not finite (first: image"
            f" {first['image_id']!r:.80} of creator {first['creator_id']!r:.80}); encode those"
            " images again, or leave their creator out"
        )
    return matrix / lengths
