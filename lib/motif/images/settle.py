"""Making a bucket whole again: what was staged becomes files that a snapshot can name.

This is where exactly-once is made. Staged rows may be there twice, or of images that the plan does
not know; the bucket leaves here with each image that the plan settles once, in EMBEDDINGS or in
FAILURES, or says which are missing.
"""

import dataclasses
import logging
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from motif import schemas
from motif.artefacts import embeddings, partitions, staging
from motif.artefacts.snapshot import Bucket, Part
from motif.errors import ContractError
from motif.images import plan
from motif.images.plan import Decision, Request

log = logging.getLogger(__name__)

ORDER = [("creator_id", "ascending"), ("image_id", "ascending")]


@dataclass(frozen=True)
class Settled:
    """A bucket after a run."""

    bucket: int
    state: Bucket
    embedded: int
    """Images that this run, or one that was cut off before it, encoded."""
    failed_by_class: dict[str, int]
    """Of this run."""
    examples: dict[str, str]
    """Of each class of failures, one `uri: message`."""
    missing: int
    """Images of the plan that were lost on the way, such as in a file that was damaged since; the
    state is then the old one."""


def settle(request: Request, decision: Decision, state: Bucket, now: datetime) -> Settled:
    """Write the files that a bucket gains; nothing reads them before a snapshot names them.

    Args:
        request: Of the run.
        decision: About this bucket.
        state: Its files before.
        now: When images count as removed.

    Raises:
        InputError: A finished file is damaged that was sound when the run was planned.
    """
    bucket = decision.bucket
    todo = (
        partitions.read_all(request.todo(bucket))
        if decision.settle
        else schemas.images(request.carried).empty_table()
    )
    embedded, failed = (
        _of_plan(staging.read(request.staging, bucket, kind, schema, discard_damaged=True), todo)
        for kind, schema in (("embeddings", request.schema), ("failures", schemas.FAILURES))
    )
    embedded = _one_per_image(embedded)
    # A failure of an earlier attempt is void once the image has been encoded.
    failed = _with_attempts(_without(failed, embedded))
    if missing := todo.num_rows - embedded.num_rows - failed.num_rows:
        return Settled(bucket, state, 0, {}, {}, missing)
    sound = dataclasses.replace(
        state,
        **{
            kind: tuple(part for part in getattr(state, kind) if part not in decision.damaged)
            for kind in ("embeddings", "failures", "removed")
        },
    )
    marks = (
        partitions.read_all(request.marks(bucket)) if decision.marked else plan.MARKS.empty_table()
    )
    return Settled(
        bucket,
        _new_state(request, sound, todo, embedded, failed, marks, bucket, now),
        embedded.num_rows,
        _by_class(failed),
        {row["error_class"]: f"{row['uri']}: {row['message']}" for row in failed.to_pylist()},
        0,
    )


def _new_state(
    request: Request,
    state: Bucket,
    todo: pa.Table,
    embedded: pa.Table,
    failed: pa.Table,
    marks: pa.Table,
    bucket: int,
    now: datetime,
) -> Bucket:
    files = _embedding_files(request, state, todo, embedded, bucket)
    before = _read(request, state.failures, schemas.FAILURES)
    failed = _with_earlier_attempts(failed, before)
    kept = _without(_without(before, todo), _marked(marks, plan.FORGOTTEN))
    failures = pa.concat_tables([kept, failed])
    before = _read(request, state.removed, schemas.REMOVED)
    gone = _marked(marks, plan.REMOVED).select(["image_id", "creator_id"])
    gone = gone.append_column(
        "removed_at", pa.array([now] * gone.num_rows, schemas.REMOVED[2].type)
    )
    kept = _without(_without(before, todo), _marked(marks, plan.RESTORED))
    removed = pa.concat_tables([kept, schemas.conform(gone, schemas.REMOVED)])
    ids = embeddings.read_parts(request.output, files, request.schema, embeddings.IDS)
    # A mark whose row was in a damaged file would be counted as an image less.
    removed = removed.filter(pc.is_in(removed["image_id"], ids["image_id"].combine_chunks()))
    live = embeddings.live_rows(ids, removed)
    if pc.count_distinct(ids["image_id"]).as_py() != ids.num_rows:
        raise ContractError(
            f"bucket {bucket} of {request.output} would hold an image twice; this is a bug of"
            " ours: nothing was changed"
        )
    return Bucket(
        embeddings=files,
        failures=_rewritten(request, "failures", state.failures, failures, bucket),
        removed=_rewritten(request, "removed", state.removed, removed, bucket),
        creators=pc.count_distinct(live["creator_id"]).as_py(),
        failed_by_class=_by_class(failures),
    )


def _embedding_files(
    request: Request, state: Bucket, todo: pa.Table, embedded: pa.Table, bucket: int
) -> tuple[Part, ...]:
    """Add a file of what is new; rewrite those that hold an older version of it."""
    kept, stale = [], []
    settled = todo["image_id"].combine_chunks()
    for part in state.embeddings:
        ids = embeddings.read_part(request.output, part, ["image_id"])["image_id"]
        holds = pc.any(pc.is_in(ids, settled)).as_py()
        (stale if holds else kept).append(part)
    rest = _without(embeddings.read_parts(request.output, stale, request.schema), todo)
    rows = pa.concat_tables([rest, embedded])
    if not rows.num_rows:
        return tuple(kept)
    name = embeddings.part_name("embeddings", bucket, request.buckets, request.run_id)
    rows = schemas.conform(rows, request.schema).sort_by(ORDER)
    return (*kept, embeddings.write_part(request.output, name, rows))


def _rewritten(
    request: Request, kind: str, before: tuple[Part, ...], rows: pa.Table, bucket: int
) -> tuple[Part, ...]:
    """Write the one file of a kind anew, if there is anything in it."""
    if not rows.num_rows:
        return ()
    schema = schemas.FAILURES if kind == "failures" else schemas.REMOVED
    rows = schemas.conform(rows, schema).sort_by(ORDER)
    if before and rows.equals(_read(request, before, schema)):
        return before
    name = embeddings.part_name(kind, bucket, request.buckets, request.run_id)
    return (embeddings.write_part(request.output, name, rows),)


def _read(request: Request, parts: tuple[Part, ...], schema: pa.Schema) -> pa.Table:
    return embeddings.read_parts(request.output, parts, schema)


def _of_plan(rows: pa.Table, todo: pa.Table) -> pa.Table:
    """Return staged rows of just the images and versions that the plan settles."""
    return rows.filter(pa.array(plan.is_exactly_among(rows, todo)))


def _without(rows: pa.Table, others: pa.Table) -> pa.Table:
    if not others.num_rows or not rows.num_rows:
        return rows
    known = others["image_id"].combine_chunks()
    return rows.filter(pc.invert(pc.is_in(rows["image_id"], known)))


def _marked(marks: pa.Table, mark: str) -> pa.Table:
    return marks.filter(pc.equal(marks["mark"], mark))


def _one_per_image(rows: pa.Table) -> pa.Table:
    """Keep the first row of each image."""
    codes = rows["image_id"].combine_chunks().dictionary_encode()
    code = codes.indices.to_numpy(zero_copy_only=False)
    if len(codes.dictionary) == rows.num_rows:
        return rows
    _, first = np.unique(code, return_index=True)
    return rows.take(np.sort(first))


def _with_attempts(rows: pa.Table) -> pa.Table:
    """Return one row per image, the newest, with the attempts of all."""
    sums = rows.group_by("image_id").aggregate([("attempts", "sum")])
    unique = _one_per_image(rows)
    at = pc.index_in(unique["image_id"], sums["image_id"].combine_chunks())
    return _set_attempts(unique, sums["attempts_sum"].take(at))


def _with_earlier_attempts(failed: pa.Table, before: pa.Table) -> pa.Table:
    """Add the attempts at an image that had failed in the same version already."""
    if not failed.num_rows or not before.num_rows:
        return failed
    same = before.filter(pa.array(plan.is_exactly_among(before, failed)))
    at = pc.index_in(failed["image_id"], same["image_id"].combine_chunks())
    earlier = pc.fill_null(same["attempts"].take(at), 0)
    return _set_attempts(failed, pc.add(failed["attempts"], earlier))


def _set_attempts(rows: pa.Table, attempts: pa.ChunkedArray) -> pa.Table:
    field = schemas.FAILURES.field("attempts")
    return rows.set_column(
        rows.schema.get_field_index("attempts"), field, attempts.cast(field.type)
    )


def _by_class(failures: pa.Table) -> dict[str, int]:
    counts = failures["error_class"].value_counts().to_pylist()
    return {item["values"]: item["counts"] for item in counts}
