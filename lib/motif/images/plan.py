"""What an encoding run will do, decided bucket by bucket; nobody holds the whole manifest.

First the pieces of the manifest are partitioned by bucket (`partition`), then each bucket is
compared with what is encoded already (`decide`). Both are plain functions of files, and may be
repeated: SCRATCH is a folder that one attempt has for itself.

    SCRATCH/images/00003-000.arrow      one share per bucket
    SCRATCH/rejected/00003-000.parquet  FAILURES rows of those without creator or URI
    SCRATCH/ids/00003-000.arrow         hashes of (image, creator), where the manifest gives ids
    SCRATCH/todo/bucket-00002.arrow     rows to settle: first those to encode, then staged ones
    SCRATCH/marks/bucket-00002.arrow    images that left the manifest or came back
"""

import functools
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from motif import schemas, storage
from motif.artefacts import embeddings, partitions, staging
from motif.artefacts.erased import NOBODY, Erased
from motif.artefacts.snapshot import Bucket, Part
from motif.errors import InputError
from motif.images import manifest, source

log = logging.getLogger(__name__)

ROWS_PER_BUCKET = 50_000  # with 512 dimensions a file of 100 MB, which one task can hold
MIN_BUCKETS = 4
MAX_BUCKETS = 100_000
TODO_BATCH = 256

MARKS = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("creator_id", pa.string()),
        pa.field("mark", pa.string(), nullable=False),
    ]
)
REMOVED, RESTORED, FORGOTTEN = "removed", "restored", "forgotten"
"""Left the manifest; came back unchanged; had failed, and left the manifest."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is the same for all tasks of a run."""

    images: str
    output: str
    scratch: str
    staging: str
    run_id: str
    buckets: int
    schema: pa.Schema
    """Of EMBEDDINGS."""
    carried: tuple[pa.Field, ...] = ()
    full: bool = False
    """The manifest is the whole truth: what it lacks is removed."""
    retry: tuple[str, ...] | None = None
    """Classes of failures to take up again; empty for all, None for none."""
    verify: bool = False
    """Read every finished file whole, not only its ids."""
    erased: Erased = NOBODY
    """Creators whose rows are left out, wherever the manifest names them."""

    def todo(self, bucket: int) -> str:
        """Return the URI of a bucket's rows to settle."""
        return storage.join(self.scratch, "todo", f"bucket-{bucket:05d}.arrow")

    def marks(self, bucket: int) -> str:
        """Return the URI of a bucket's marks."""
        return storage.join(self.scratch, "marks", f"bucket-{bucket:05d}.arrow")


@dataclass(frozen=True)
class Partitioned:
    """What one task made of its pieces."""

    rows: int
    rejected_rows: int
    """Of these, the ones without creator or URI."""
    images: tuple[str, ...]
    ids: tuple[str, ...]
    rejected: tuple[str, ...]
    erased_rows: int = 0
    """Of these, the ones of creators who were erased."""


@dataclass(frozen=True)
class Decision:
    """What a run will do with one bucket; all are numbers of images."""

    bucket: int
    duplicates: int = 0
    new: int = 0
    changed: int = 0
    retried: int = 0
    unchanged: int = 0
    failed_before: int = 0
    restored: int = 0
    """Of the unchanged ones, those that were marked as removed."""
    removed: int = 0
    forgotten: int = 0
    """Images that had failed and left a full manifest."""
    held: int = 0
    """Embedded and not removed, before this run."""
    staged: int = 0
    """Of those to settle, the ones that a run before has encoded already."""
    damaged: tuple[Part, ...] = ()
    lost: int = 0
    """Of the images in damaged files, those that the manifest does not name; nothing could bring
    them back, and a full manifest removes them."""

    @property
    def settle(self) -> int:
        """Images to settle: to encode, or encoded by a run that was cut off."""
        return self.new + self.changed + self.retried

    @property
    def pending(self) -> int:
        """Images to encode."""
        return self.settle - self.staged

    @property
    def marked(self) -> int:
        """Images that left the manifest or came back."""
        return self.removed + self.restored + self.forgotten

    @property
    def touched(self) -> bool:
        """Whether the bucket's files will change."""
        return bool(self.settle or self.marked or self.damaged)


def choose_buckets(rows: int, wanted: int) -> int:
    """Return the number of buckets of a new artefact; `wanted` 0 takes one per 50,000 rows.

    Raises:
        InputError: `wanted` makes no sense.
    """
    if not 0 <= wanted <= MAX_BUCKETS:
        raise InputError(f"--buckets {wanted}: expected 1 to {MAX_BUCKETS}, or 0 to choose")
    return wanted or min(max(MIN_BUCKETS, -(-rows // ROWS_PER_BUCKET)), MAX_BUCKETS)


def partition(request: Request, task: int, pieces: Sequence[source.Piece]) -> Partitioned:
    """Bring the rows of some pieces into the schema of IMAGES and share them out by bucket.

    Raises:
        InputError: The manifest breaks a rule.
    """
    images, ids, rejected = [], [], []
    rows = rejected_rows = erased_rows = 0
    for number, table in enumerate(_tables(request, pieces)):
        rows += table.rows
        erased_rows += table.erased
        name = f"{task:05d}-{number:03d}"
        uri = storage.join(request.scratch, "images", f"{name}.arrow")
        bucket = manifest.buckets_of(table.images["creator_id"], request.buckets)
        partitions.write(uri, table.images, bucket, request.buckets)
        images.append(uri)
        if table.rejected.num_rows:
            rejected.append(storage.join(request.scratch, "rejected", f"{name}.parquet"))
            storage.write_parquet(rejected[-1], table.rejected)
            rejected_rows += table.rejected.num_rows
        # An id of ours is a hash of the creator, too.
        if table.own_ids:
            ids.append(storage.join(request.scratch, "ids", f"{name}.arrow"))
            _write_ids(ids[-1], table.images, request.buckets)
    return Partitioned(rows, rejected_rows, tuple(images), tuple(ids), tuple(rejected), erased_rows)


def keep_rejected(request: Request, uri: str) -> Part:
    """Make a file of rejected rows one of EMBEDDINGS' own."""
    stem = uri.rsplit("/", 1)[-1].removesuffix(".parquet")
    name = f"failures/rejected-{stem}-{request.run_id}.parquet"
    return embeddings.write_part(request.output, name, storage.read_parquet(uri))


class _Table(NamedTuple):
    rows: int
    images: pa.Table
    rejected: pa.Table
    own_ids: bool
    erased: int


def _tables(request: Request, pieces: Sequence[source.Piece]) -> Iterator[_Table]:
    """Yield about `PIECE_ROWS` rows at a time, from one or more pieces."""
    kept: list[_Table] = []
    for piece in pieces:
        for first_row, table in source.read(piece):
            good, bad = manifest.to_images(
                table, piece.uri, carried=request.carried, first_row=first_row
            )
            good, of_good = _without_erased(request, good)
            bad, of_bad = _without_erased(request, bad)
            own_ids = "image_id" in table.column_names
            kept.append(_Table(table.num_rows, good, bad, own_ids, of_good + of_bad))
            if sum(one.rows for one in kept) >= source.PIECE_ROWS:
                yield _joined(kept)
                kept = []
    if kept:
        yield _joined(kept)


def _joined(tables: Sequence[_Table]) -> _Table:
    return _Table(
        sum(table.rows for table in tables),
        pa.concat_tables([table.images for table in tables]),
        pa.concat_tables([table.rejected for table in tables]),
        any(table.own_ids for table in tables),
        sum(table.erased for table in tables),
    )


def _without_erased(request: Request, rows: pa.Table) -> tuple[pa.Table, int]:
    """Return rows without those of erased creators, and how many these were."""
    if not request.erased:
        return rows, 0
    theirs = request.erased.among(rows["creator_id"])
    return rows.filter(pa.array(~theirs)), int(theirs.sum())


def _write_ids(uri: str, rows: pa.Table, shares: int) -> None:
    partitions.write_pairs(
        uri, partitions.hashes(rows["image_id"]), partitions.hashes(rows["creator_id"]), shares
    )


def ids_held(request: Request, bucket: int, state: Bucket) -> str:
    """Write the hashes of what a bucket holds, for `find_id_of_two` to compare."""
    uri = storage.join(request.scratch, "ids", f"held-{bucket:05d}.arrow")
    # What is damaged is for `decide` to mend or to refuse.
    parts, output = functools.partial(_readable, request), request.output
    rows = embeddings.read_parts(output, parts(state.embeddings), request.schema, embeddings.IDS)
    removed = embeddings.read_parts(output, parts(state.removed), schemas.REMOVED)
    failed = embeddings.read_parts(output, parts(state.failures), schemas.FAILURES, embeddings.IDS)
    known = [embeddings.live_rows(rows, removed), failed]
    _write_ids(uri, pa.concat_tables(known, promote_options="permissive"), request.buckets)
    return uri


def find_id_of_two(uris: Sequence[str], share: int) -> int | None:
    """Return the hash of an image id that two creators have, or None.

    One creator's rows meet in their bucket, where `decide` compares them; only two creators' are
    elsewhere.
    """
    key, value = partitions.read_pairs(uris, share)
    clash = (key[1:] == key[:-1]) & (value[1:] != value[:-1])
    return int(key[1:][clash][0]) if clash.any() else None


def name_id_of_two(request: Request, images: Sequence[str], wanted: int) -> str | None:
    """Return an error message that names the image id of a hash, and where it occurs.

    None if different ids have the hash, which happens to one of 2^64 pairs.
    """
    found: dict[str, set[str]] = {}
    for uri in images:
        rows = partitions.read_all(uri)
        rows = rows.filter(pa.array(partitions.hashes(rows["image_id"]) == np.uint64(wanted)))
        for row in rows.select(["image_id", "creator_id"]).to_pylist():
            found.setdefault(row["image_id"], set()).add(row["creator_id"])
    if len(found) != 1:
        return None
    ((image, creators),) = found.items()
    who = " and ".join(repr(c) for c in sorted(creators)[:2])
    if len(creators) == 1:
        who += " and of another one in EMBEDDINGS already"
    return (
        f"manifest {request.images}: image_id {image!r} is an image of creator {who}; give each"
        " image its own"
    )


def decide(request: Request, bucket: int, state: Bucket, images: Sequence[str]) -> Decision:
    """Compare a bucket's rows of the manifest with what is encoded, staged and failed.

    Args:
        request: Of the run.
        bucket: Which one.
        state: What the bucket's files are.
        images: Partition files of the manifest.

    Raises:
        InputError: Two different rows have one image id.
    """
    rows = pa.concat_tables([partitions.read(uri, bucket) for uri in images])
    unique = manifest.collapse(rows, request.images)
    damaged = tuple(part for part in state.parts if not _is_sound(request, part))
    sound = [part for part in state.embeddings if part not in damaged]
    held = embeddings.read_parts(
        request.output, sound, request.schema, ["image_id", "creator_id", "version"]
    )
    failures = embeddings.read_parts(
        request.output, [p for p in state.failures if p not in damaged], schemas.FAILURES
    )
    removed = embeddings.read_parts(
        request.output, [p for p in state.removed if p not in damaged], schemas.REMOVED
    )
    lost = _count_lost(request, damaged, removed, unique)
    removed = removed.filter(pa.array(_contains(held["image_id"], removed["image_id"])))
    is_held, held_differs = _compare(unique, held)
    has_failed, failure_differs = _compare(unique, failures)
    has_failed &= ~is_held
    changed = (is_held & held_differs) | (has_failed & failure_differs)
    retried = has_failed & ~failure_differs & _is_retried(unique, failures, request.retry)
    new = ~is_held & ~has_failed
    settle = unique.filter(pa.array(new | changed | retried))
    was_removed = _contains(removed["image_id"], unique["image_id"])
    restored = is_held & ~held_differs & was_removed
    staged = is_exactly_among(settle, _staged(request, bucket))
    marks = [_marks(unique.filter(pa.array(restored)), RESTORED)]
    if request.full:
        live = embeddings.live_rows(held, removed)
        marks.append(_marks(_without(live, unique), REMOVED))
        marks.append(_marks(_without(failures, unique), FORGOTTEN))
    all_marks = pa.concat_tables(marks)
    decision = Decision(
        bucket,
        duplicates=rows.num_rows - unique.num_rows,
        new=int(new.sum()),
        changed=int(changed.sum()),
        retried=int(retried.sum()),
        unchanged=int((is_held & ~held_differs).sum()),
        failed_before=int((has_failed & ~failure_differs & ~retried).sum()),
        restored=int(restored.sum()),
        removed=_count(all_marks, REMOVED),
        forgotten=_count(all_marks, FORGOTTEN),
        held=held.num_rows - removed.num_rows,
        staged=int(staged.sum()),
        damaged=damaged,
        lost=lost,
    )
    if settle.num_rows:
        # Those to encode come first, a creator's images together.
        order = [("staged", "ascending"), ("creator_id", "ascending")]
        settle = settle.append_column("staged", pa.array(staged)).sort_by(order)
        settle = settle.append_column("bucket", pa.array([bucket] * settle.num_rows, pa.int32()))
        partitions.write_batches(request.todo(bucket), settle, batch_rows=TODO_BATCH)
    if decision.marked:
        partitions.write_batches(request.marks(bucket), all_marks, batch_rows=all_marks.num_rows)
    return decision


def _is_sound(request: Request, part: Part) -> bool:
    """Check a finished file's size and ids, or all of it; name it in the log if it is damaged."""
    uri = storage.join(request.output, part.name)
    try:
        if storage.size_bytes(uri) != part.bytes:
            raise InputError(f"{uri} has another size than the {part.bytes:,} bytes it had")
        whole = request.verify or not part.name.startswith("embeddings/")
        embeddings.read_part(
            request.output, part, None if whole else ["image_id", "creator_id", "version"]
        )
    except FileNotFoundError:
        log.warning("%s is gone; its images are encoded again", uri)
        return False
    except InputError as error:
        log.warning("damaged, its images are encoded again: %s", error)
        return False
    return True


def _count_lost(
    request: Request, damaged: Sequence[Part], removed: pa.Table, named: pa.Table
) -> int:
    """Count images of damaged files that are not removed, and not in the manifest either.

    Of a damaged list of removed images all count: without it they would come back to life.
    """
    lost = 0
    for part in damaged:
        if request.full and not part.name.startswith("embeddings/"):
            continue  # what failed or was removed is found out anew
        ids = embeddings.read_ids_of_damaged(request.output, part)
        lost += part.rows if ids is None else _without(_without(ids, removed), named).num_rows
    return lost


def _readable(request: Request, parts: Sequence[Part]) -> list[Part]:
    return [part for part in parts if _is_sound(request, part)]


def _compare(rows: pa.Table, known: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    """Return which rows are known, and which of these have another version or creator there.

    A manifest without versions cannot say that a file changed.
    """
    at = pc.index_in(rows["image_id"], known["image_id"].combine_chunks()).combine_chunks()
    version, creator = (known[n].combine_chunks().take(at) for n in ("version", "creator_id"))
    equal = pc.fill_null(pc.equal(rows["version"], version), False)
    differs = pc.and_(pc.is_valid(rows["version"]), pc.invert(equal))
    # An image of the same id moved, within its bucket, to another creator.
    moved = pc.fill_null(pc.not_equal(rows["creator_id"], creator), False)
    is_known = at.is_valid().to_numpy(zero_copy_only=False)
    return is_known, is_known & pc.or_(differs, moved).to_numpy()


def is_exactly_among(rows: pa.Table, known: pa.Table) -> np.ndarray:
    """Return which rows have id, creator, and just the version, null or not, of a known one."""
    return _contains(_keys(known), _keys(rows))


def _keys(rows: pa.Table) -> pa.ChunkedArray:
    version = pc.fill_null(pc.binary_join_element_wise("v", rows["version"], ""), "")
    # A length before each id, so that no two rows make one text.
    sized = [
        column
        for name in ("image_id", "creator_id")
        for column in (pc.utf8_length(rows[name]).cast(pa.string()), rows[name])
    ]
    return pc.binary_join_element_wise(*sized, version, ":")


def _contains(known: pa.ChunkedArray, ids: pa.ChunkedArray) -> np.ndarray:
    return pc.is_in(ids, known.combine_chunks()).to_numpy()


def _without(rows: pa.Table, others: pa.Table) -> pa.Table:
    return rows.filter(pa.array(~_contains(others["image_id"], rows["image_id"])))


def _is_retried(rows: pa.Table, failures: pa.Table, classes: tuple[str, ...] | None) -> np.ndarray:
    if classes is None:
        return np.zeros(rows.num_rows, bool)
    if classes:
        wanted = pa.array(classes, pa.string())
        failures = failures.filter(pc.is_in(failures["error_class"], wanted))
    return _contains(failures["image_id"], rows["image_id"])


def _staged(request: Request, bucket: int) -> pa.Table:
    columns = ["image_id", "creator_id", "version"]
    return staging.read(request.staging, bucket, "embeddings", request.schema, columns)


def _count(marks: pa.Table, mark: str) -> int:
    return pc.sum(pc.equal(marks["mark"], mark)).as_py() or 0


def _marks(rows: pa.Table, mark: str) -> pa.Table:
    texts = pa.array([mark] * rows.num_rows, pa.string())
    return pa.table([rows["image_id"], rows["creator_id"], texts], schema=MARKS)
