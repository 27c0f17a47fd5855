"""Taking creators out of EMBEDDINGS: new files without them, and the old ones gone at once.

Cut off at any point, the same erasure completes: what is committed holds nobody, and what no
snapshot names is deleted each time.
"""

import dataclasses
import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from motif import schemas, storage
from motif.artefacts import embeddings, run, snapshot, staging, update
from motif.artefacts.run import State
from motif.artefacts.snapshot import Bucket, Part, Snapshot
from motif.erasure.files import below, holds, without
from motif.errors import InputError

log = logging.getLogger(__name__)

_SORTED = [("creator_id", "ascending"), ("image_id", "ascending")]
_SCHEMAS = {"failures": schemas.FAILURES, "removed": schemas.REMOVED}


@dataclass
class Erasure:
    """Rows that were taken out of one artefact."""

    images: int = 0
    """Embedded ones, those marked as removed included."""
    failures: int = 0
    marks: int = 0
    """Marks of removal."""
    staged: int = 0


def require(output: str) -> State:
    """Refuse what is no artefact of EMBEDDINGS; one that is unfinished will do.

    Raises:
        InputError: It is absent, damaged, or something else.
        OutputError: It is something that Motif did not make.
    """
    found = run.state(output, embeddings.ARTEFACT)
    if found is State.FREE:
        raise InputError(f"--embeddings {output} holds no EMBEDDINGS")
    if found is State.FINISHED and "snapshot" not in run.read(output, embeddings.ARTEFACT):
        raise InputError(f"{output} was written by an older Motif; encode again with --overwrite")
    return found


def erase(
    output: str, creators: pa.Array, *, run_id: str, check: Callable[[], None]
) -> dict[str, int]:
    """Rewrite whatever holds the creators; the artefact's lock must be held.

    Args:
        output: Folder of the artefact.
        creators: Their ids.
        run_id: Of the erasure; names the new files.
        check: Raises if the lock was lost.

    Returns:
        `images`, `failures`, `marks` and `staged`: rows that were taken out.

    Raises:
        InputError: A file is damaged: it cannot be seen whom it holds.
    """
    done = Erasure()
    before = update.current(output)
    if before is not None:
        after = _without(output, before, creators, run_id, done)
        if after != before:
            record = {
                **run.read(output, embeddings.ARTEFACT),
                "snapshot": after.write(output),
            }
            record["counts"] = {**record["counts"], **after.counts()}
            # It counted pictures that are gone; the next run of encode_images that changes
            # something counts anew.
            record.pop("reposts", None)
            erasures = [*record.get("erasures", ()), {"run_id": run_id, **dataclasses.asdict(done)}]
            check()
            # Not by a recorder: run.json goes on to tell of the run that encoded, and a run that
            # is to overwrite it goes on being unfinished.
            storage.write_json(storage.join(output, run.RUN_FILE), {**record, "erasures": erasures})
            before = after
    check()
    # Also what readers of the snapshot before may hold: it must not stay until a next run.
    update.sweep(output, before)
    _clean_staging(output, creators, done)
    return dataclasses.asdict(done)


def _without(
    output: str, before: Snapshot, creators: pa.Array, run_id: str, done: Erasure
) -> Snapshot:
    """Write the files that replace those which hold somebody; return the snapshot of all."""
    states = []
    for number, state in enumerate(before.buckets):
        changed = {
            kind: _parts_without(output, before, number, state, kind, creators, run_id, done)
            for kind in snapshot.KINDS
        }
        after = dataclasses.replace(state, **changed)
        states.append(state if after == state else _counted(output, before.schema, after))
    rejected = []
    for number, part in enumerate(before.rejected):
        rows = embeddings.read_part(output, part)
        if not holds(rows, creators):
            rejected.append(part)
            continue
        kept = without(rows, creators)
        done.failures += rows.num_rows - kept.num_rows
        if kept.num_rows:
            name = f"failures/rejected-{number:05d}-{run_id}.parquet"
            rejected.append(embeddings.write_part(output, name, kept))
    if tuple(states) == before.buckets and tuple(rejected) == before.rejected:
        return before
    return dataclasses.replace(
        before,
        run_id=run_id,
        buckets=tuple(states),
        rejected=tuple(rejected),
        rejected_rows=sum(part.rows for part in rejected),
        superseded=(),
    )


def _parts_without(
    output: str,
    before: Snapshot,
    bucket: int,
    state: Bucket,
    kind: str,
    creators: pa.Array,
    run_id: str,
    done: Erasure,
) -> tuple[Part, ...]:
    """Return a bucket's files of a kind, one new one in the place of those with somebody in."""
    kept, stale = [], []
    for part in getattr(state, kind):
        ids = embeddings.read_part(output, part, ["creator_id"])
        (stale if holds(ids, creators) else kept).append(part)
    if not stale:
        return getattr(state, kind)
    schema = _SCHEMAS.get(kind, before.schema)
    rows = embeddings.read_parts(output, stale, schema)
    rest = without(rows, creators)
    name = {"embeddings": "images", "failures": "failures", "removed": "marks"}[kind]
    setattr(done, name, getattr(done, name) + rows.num_rows - rest.num_rows)
    if rest.num_rows:
        file = embeddings.part_name(kind, bucket, len(before.buckets), run_id)
        rest = schemas.conform(rest.sort_by(_SORTED), schema)
        kept.append(embeddings.write_part(output, file, rest))
    return tuple(kept)


def _counted(output: str, schema: pa.Schema, state: Bucket) -> Bucket:
    """Return a bucket with its counts as its files are now."""
    ids = embeddings.read_parts(output, state.embeddings, schema, embeddings.IDS)
    removed = embeddings.read_parts(output, state.removed, schemas.REMOVED)
    failures = embeddings.read_parts(output, state.failures, schemas.FAILURES, ["error_class"])
    return dataclasses.replace(
        state,
        creators=pc.count_distinct(embeddings.live_rows(ids, removed)["creator_id"]).as_py(),
        failed_by_class=dict(Counter(failures["error_class"].to_pylist())),
    )


def _clean_staging(output: str, creators: pa.Array, done: Erasure) -> None:
    """Take creators out of rows that a run which was cut off has staged."""
    for uri in below(storage.join(output, staging.FOLDER)):
        if uri.endswith(".tmp"):
            storage.remove(uri)  # of a writer that was killed
        elif uri.endswith(".parquet"):
            try:
                ids = storage.read_parquet(uri, ["creator_id"])
            except InputError:
                log.warning("%s is damaged and deleted; its images are encoded again", uri)
                storage.remove(uri)
                continue
            if holds(ids, creators):
                rows = storage.read_parquet(uri)
                kept = without(rows, creators)
                done.staged += rows.num_rows - kept.num_rows
                storage.write_parquet(uri, kept) if kept.num_rows else storage.remove(uri)
