"""Tidying EMBEDDINGS: one file per bucket, no removed images, another number of buckets.

Plain functions of files, which may be repeated. What they write is nobody's until a snapshot names
it, and they leave what is there alone. With another number of buckets every image moves by way of
files that one attempt has for itself:

    SCRATCH/embeddings/bucket-00002.arrow  of an old bucket, one share per new bucket
    SCRATCH/failures/bucket-00002.arrow    likewise
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from motif import schemas, storage
from motif.artefacts import embeddings, partitions, run, staging, update
from motif.artefacts.embeddings import Embeddings
from motif.artefacts.snapshot import Bucket, Part, Snapshot
from motif.errors import ContractError, InputError
from motif.images import manifest
from motif.images.plan import MAX_BUCKETS
from motif.images.settle import ORDER


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is the same for all tasks of a run."""

    output: str
    scratch: str
    run_id: str
    schema: pa.Schema
    """Of EMBEDDINGS."""
    buckets_before: int
    buckets: int

    def shares(self, kind: str, bucket: int) -> str:
        """Return the URI of an old bucket's rows, on their way to the new ones."""
        return storage.join(self.scratch, kind, f"bucket-{bucket:05d}.arrow")

    def sources(self, bucket: int) -> range:
        """Return the old buckets that can hold rows of a new one.

        A creator is in bucket `hash % buckets`, so that both of its numbers leave the same rest
        by any common divisor.
        """
        divisor = math.gcd(self.buckets_before, self.buckets)
        return range(bucket % divisor, self.buckets_before, divisor)


@dataclass(frozen=True)
class Plan:
    """What is to be done, known from the snapshot alone."""

    record: dict[str, Any]
    """run.json."""
    before: Snapshot
    buckets: int
    """How many there will be."""

    @property
    def moves(self) -> bool:
        """Whether creators change their bucket."""
        return self.buckets != len(self.before.buckets)

    @property
    def rewritten(self) -> list[int]:
        """The buckets whose files are read and replaced."""
        states = enumerate(self.before.buckets)
        return [bucket for bucket, state in states if self.moves or is_untidy(state)]

    @property
    def is_idle(self) -> bool:
        """Whether there is nothing to do."""
        return not self.moves and not self.rewritten

    def describe(self) -> dict[str, Any]:
        """Return the figures that `--dry-run` prints."""
        states = self.before.buckets
        old = [states[bucket] for bucket in self.rewritten]
        files = sum(len(list(state.parts)) for state in states)
        images, failures = sum(s.embedded for s in old), sum(_failures(s) for s in old)
        if self.moves:
            creators = sum(state.creators for state in old)
            most = min(self.buckets, creators) + min(self.buckets, failures)
        else:
            most = sum((state.embedded > 0) + (_failures(state) > 0) for state in old)
        return {
            "buckets_before": len(states),
            "buckets_after": self.buckets,
            "buckets_to_rewrite": len(old),
            "files_before": files,
            "files_after_at_most": files - sum(len(list(s.parts)) for s in old) + most,
            "images_to_rewrite": images,
            "failures_to_rewrite": failures,
            "removed_images_to_leave_out": sum(state.removed_rows for state in old),
            "bytes_to_rewrite": sum(
                part.bytes for state in old for part in (*state.embeddings, *state.failures)
            ),
        }


def make_plan(output: str, buckets: int) -> Plan:
    """Look at a finished artefact.

    Args:
        output: Folder of EMBEDDINGS, absolute.
        buckets: How many there shall be; 0 for as many as there are.

    Raises:
        InputError: It is absent, unfinished or damaged; `buckets` makes no sense; or a run that
            was cut off has encoded images that another number of buckets would lose.
    """
    if not 0 <= buckets <= MAX_BUCKETS:
        raise InputError(f"--buckets {buckets}: expected 1 to {MAX_BUCKETS}, or 0 to keep them")
    record = run.read(output, embeddings.ARTEFACT)
    plan = Plan(record, Embeddings.open(output).snapshot, buckets)
    if not buckets:
        plan = replace(plan, buckets=len(plan.before.buckets))
    if storage.exists(storage.join(output, run.UNFINISHED_FILE)):
        raise InputError(
            f"{output} is being replaced by encode_images --overwrite, and unfinished: repeat that"
            " run's command to finish it first, or leave --overwrite out to keep what is there"
        )
    if plan.moves and (cut_off := _staged_folders(output)):
        raise InputError(
            f"--buckets {buckets}: {cut_off[0]} holds images that a run of encode_images encoded"
            " before it was cut off; run its command again to finish it first, or delete that"
            " folder to encode them again"
        )
    return plan


def is_untidy(state: Bucket) -> bool:
    """Return whether a bucket has more files than it needs, or images that are removed."""
    return len(state.embeddings) > 1 or len(state.failures) > 1 or bool(state.removed)


def rewrite(request: Request, bucket: int, state: Bucket) -> tuple[int, Bucket]:
    """Write a bucket's images and failures as one file each; returns its number and new state.

    Raises:
        InputError: A file is damaged or gone.
        ContractError: An image is there twice, or in the wrong bucket.
    """
    return bucket, _write(request, bucket, *_read(request, state))


def share_out(request: Request, bucket: int, state: Bucket) -> int:
    """Write an old bucket's images and failures by new bucket; returns the old bucket's number.

    Raises:
        InputError: A file is damaged or gone.
    """
    rows, failures = _read(request, state)
    for kind, table in (("embeddings", rows), ("failures", failures)):
        share = manifest.buckets_of(table["creator_id"], request.buckets)
        partitions.write(request.shares(kind, bucket), table, share, request.buckets)
    return bucket


def gather(request: Request, bucket: int) -> tuple[int, Bucket]:
    """Write a new bucket out of its shares of the old ones; returns its number and state.

    Raises:
        ContractError: An image is there twice.
    """
    rows, failures = (
        pa.concat_tables(
            partitions.read(request.shares(kind, source), bucket)
            for source in request.sources(bucket)
        )
        for kind in ("embeddings", "failures")
    )
    return bucket, _write(request, bucket, rows, failures)


def snapshot_after(plan: Plan, run_id: str, states: Sequence[Bucket], output: str) -> Snapshot:
    """Return the new snapshot, if it holds all that the old one does.

    Raises:
        ContractError: Images, failures or creators were lost or doubled.
    """
    after = replace(plan.before, run_id=run_id, buckets=tuple(states), superseded=())
    expected = {**plan.before.counts(), "removed": 0}
    if after.counts() != expected:
        raise ContractError(
            f"{output} would hold {_words(after.counts())}, not {_words(expected)} as its snapshot"
            " says; nothing was changed: this is a bug of ours, or another program's work"
        )
    return after


def _read(request: Request, state: Bucket) -> tuple[pa.Table, pa.Table]:
    """Return a bucket's images that are not removed, and its failures."""
    rows = embeddings.read_parts(request.output, state.embeddings, request.schema)
    removed = embeddings.read_parts(request.output, state.removed, schemas.REMOVED)
    failures = embeddings.read_parts(request.output, state.failures, schemas.FAILURES)
    return embeddings.live_rows(rows, removed), failures


def _write(request: Request, bucket: int, rows: pa.Table, failures: pa.Table) -> Bucket:
    files = _write_part(request, "embeddings", bucket, rows, request.schema)
    # Out of the file itself: it is what will be read when its rows are nowhere else.
    ids = embeddings.read_parts(request.output, files, request.schema, embeddings.IDS)
    if pc.count_distinct(ids["image_id"]).as_py() != ids.num_rows:
        raise ContractError(
            f"bucket {bucket} of {request.output} would hold an image twice; nothing was changed:"
            " this is a bug of ours, or another program's work"
        )
    strays = manifest.buckets_of(ids["creator_id"], request.buckets) != bucket
    if strays.any():
        stray = ids["creator_id"][int(strays.argmax())].as_py()
        raise ContractError(
            f"{request.output} holds creator {stray!r} in bucket {bucket}, where it does not"
            " belong; nothing was changed: this is a bug of ours, or another program's work"
        )
    return Bucket(
        embeddings=files,
        failures=_write_part(request, "failures", bucket, failures, schemas.FAILURES),
        creators=pc.count_distinct(ids["creator_id"]).as_py(),
        failed_by_class=dict(Counter(failures["error_class"].to_pylist())),
    )


def _write_part(
    request: Request, kind: str, bucket: int, rows: pa.Table, schema: pa.Schema
) -> tuple[Part, ...]:
    if not rows.num_rows:
        return ()
    name = embeddings.part_name(kind, bucket, request.buckets, request.run_id)
    rows = schemas.conform(rows.sort_by(ORDER), schema)
    return (embeddings.write_part(request.output, name, rows),)


def _staged_folders(output: str) -> list[str]:
    """Return the folders of rows that runs which were cut off have encoded."""
    found = storage.list_folders(storage.join(output, staging.FOLDER))
    return [uri for uri in found if not update.is_scratch(uri)]


def _failures(state: Bucket) -> int:
    return sum(part.rows for part in state.failures)


def _words(counts: dict[str, Any]) -> str:
    return ", ".join(f"{value:,} {key}" for key, value in counts.items() if isinstance(value, int))
