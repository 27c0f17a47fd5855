"""One run of compact_embeddings on the cluster: rewrite the buckets, check the counts, commit."""

import dataclasses
import logging
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any, TypeVar

import ray

from motif import storage
from motif.artefacts import run, staging, update
from motif.artefacts.lock import Held
from motif.artefacts.snapshot import Bucket, Snapshot
from motif.images import compact
from motif.images.compact import Plan, Request
from motif.on_ray import session, tasks

log = logging.getLogger(__name__)

Answer = TypeVar("Answer")

# Of run.json, these are the writer's own; the rest tells of the run that encoded.
WRITER = {"artefact", "motif_version", "schema_version", "snapshot", "buckets"}


def perform(
    output: str, *, buckets: int, recorder: run.Recorder, held: Held, stall_seconds: float
) -> dict[str, Any]:
    """Tidy a finished artefact, and return its run.json.

    Args:
        output: Folder of EMBEDDINGS, absolute.
        buckets: How many there shall be; 0 for as many as there are.
        recorder: Of the run.
        held: The output's lock.
        stall_seconds: Without an answer for so long, the run ends.

    Raises:
        MotifError: What the user can mend; the artefact is then as it was.
    """
    plan = compact.make_plan(output, buckets)
    update.sweep(output, plan.before)
    if plan.is_idle:
        log.info("%s is tidy: one file per bucket, no removed images; nothing is changed", output)
        return plan.record
    session.connect()
    scratch = storage.join(output, staging.FOLDER, f"plan-compact-{recorder.run_id}")
    request = Request(
        output=output,
        scratch=scratch,
        run_id=recorder.run_id,
        schema=plan.before.schema,
        buckets_before=len(plan.before.buckets),
        buckets=plan.buckets,
    )
    watched = {"stall_seconds": stall_seconds, "between": held.check}
    try:
        with recorder.timed("rewrite"):
            states = (_move if plan.moves else _rewrite)(request, plan, watched)
    finally:
        storage.remove(scratch)
    after = compact.snapshot_after(plan, recorder.run_id, states, output)
    told = plan.describe()
    files = sum(len(list(state.parts)) for state in states)
    log.info(
        "%s: %d files in %d buckets became %d in %d; %d images are there as before, %d that were"
        " removed are gone for good; the next run deletes the old files",
        *(output, told["files_before"], told["buckets_before"], files, plan.buckets),
        *(after.counts()["embedded"], told["removed_images_to_leave_out"]),
    )
    return _commit(output, plan, after, recorder, files, held)


def _rewrite(request: Request, plan: Plan, watched: dict[str, Any]) -> list[Bucket]:
    """Write anew the buckets that are not tidy; returns the state of all."""
    states = list(plan.before.buckets)
    shared = ray.put(request)
    calls = [(shared, bucket, states[bucket]) for bucket in plan.rewritten]
    for bucket, state in _each(compact.rewrite, calls, "rewriting buckets", watched):
        states[bucket] = state
    return states


def _move(request: Request, plan: Plan, watched: dict[str, Any]) -> list[Bucket]:
    """Write all buckets anew, in another number; returns their states."""
    shared = ray.put(request)
    calls = [(shared, bucket, state) for bucket, state in enumerate(plan.before.buckets)]
    for _ in _each(compact.share_out, calls, "sharing out the old buckets", watched):
        pass
    states = [Bucket()] * request.buckets
    calls = [(shared, bucket) for bucket in range(request.buckets)]
    for bucket, state in _each(compact.gather, calls, "writing the new buckets", watched):
        states[bucket] = state
    return states


def _each(
    function: Callable[..., Answer],
    calls: list[tuple[Any, ...]],
    what: str,
    watched: dict[str, Any],
) -> Iterator[Answer]:
    """Yield the answers, and say in the log ten times how far it is."""
    step = max(1, len(calls) // 10)
    for done, answer in enumerate(tasks.each(function, calls, what=what, **watched), 1):
        if done % step == 0 or done == len(calls):
            log.info("%s: %d of %d", what, done, len(calls))
        yield answer


def _commit(
    output: str, plan: Plan, after: Snapshot, recorder: run.Recorder, files: int, held: Held
) -> dict[str, Any]:
    """Make the new snapshot the artefact; run.json goes on to tell of the run that encoded."""
    told = plan.describe()
    kept = {name: value for name, value in plan.record.items() if name not in WRITER}
    kept["counts"] = {**plan.record["counts"], **after.counts()}
    kept["compacted_at"] = datetime.now(UTC).isoformat(timespec="seconds")
    kept["compaction"] = {
        "run_id": recorder.run_id,
        "started_at": recorder.started_at.isoformat(timespec="seconds"),
        "config": dataclasses.asdict(recorder.config),
        "seconds": recorder.seconds,
        **{name: told[name] for name in ("buckets_before", "files_before")},
        "files_after": files,
        "images_left_out": told["removed_images_to_leave_out"],
        "bytes_rewritten": told["bytes_to_rewrite"],
    }
    # What a run that was cut off has staged is by bucket, and counts as long as these do.
    return update.commit(
        output, recorder, after, plan.before, check=held.check, keep_staged=not plan.moves, **kept
    )
