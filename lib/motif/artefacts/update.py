"""Changing EMBEDDINGS in place: begin under the lock, work aside, commit by run.json.

A finished artefact stays readable, as it was, until the commit; a new one holds `_unfinished.json`
until then.
"""

import dataclasses
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from motif import schemas, storage
from motif.artefacts import embeddings, run, snapshot, staging
from motif.artefacts.run import State
from motif.artefacts.snapshot import Snapshot
from motif.errors import InputError, OutputError, SpaceError
from motif.space import Space, require_same

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Settings:
    """What must not change while an artefact grows."""

    space: Space
    schema: pa.Schema
    buckets: int

    def to_json(self) -> dict[str, Any]:
        """Return the form that `_unfinished.json` carries."""
        return {
            "space": self.space.fingerprint,
            "columns": [f"{field.name}: {field.type}" for field in self.schema],
            "buckets": self.buckets,
        }

    def staging_folder(self, output: str, **variant: bool) -> str:
        """Return where rows of these settings are staged.

        Args:
            output: Folder of the artefact.
            variant: Further settings whose rows must not be mixed within a run.
        """
        return staging.folder_of(output, {**self.to_json(), **variant})


def look(output: str, *, overwrite: bool) -> tuple[State, dict[str, Any] | None]:
    """Say what is at `output`, with the run.json that a run would build on.

    Raises:
        OutputError: Something is there that is not ours.
        InputError: run.json is damaged, or of another version than this one writes.
    """
    found = run.state(output, embeddings.ARTEFACT)
    if found is not State.FINISHED or overwrite:
        return found, None
    record = run.read(output, embeddings.ARTEFACT)
    version = record.get("schema_version", 0)
    if version < schemas.SCHEMA_VERSION or "snapshot" not in record:
        raise InputError(
            f"--output {output} was written by Motif {record.get('motif_version')} in an older form"
            f" (schema {version}, here {schemas.SCHEMA_VERSION}); pass --overwrite to encode all"
            " anew, or name another folder"
        )
    return found, record


def planned_buckets(output: str) -> int | None:
    """Return the buckets of an unfinished first run, so that its rows can be used."""
    uri = storage.join(output, run.UNFINISHED_FILE)
    plan = storage.read_json(uri).get("plan") if storage.exists(uri) else None
    return plan["buckets"] if plan else None


def require_compatible(
    record: dict[str, Any], before: Snapshot, settings: Settings, output: str
) -> None:
    """Refuse to add rows of another space or with other columns.

    Raises:
        SpaceError: The encoder is another one.
        InputError: The columns are others.
    """
    try:
        require_same(
            Space.from_json(record["space"]),
            settings.space,
            what=f"--output {output}",
            needed_by="--encoder",
        )
    except SpaceError as error:
        raise SpaceError(f"{error}; or pass --overwrite to encode all anew") from error
    if before.schema != settings.schema:
        was = [name for name in before.schema.names if name not in settings.schema.names]
        new = [name for name in settings.schema.names if name not in before.schema.names]
        raise InputError(
            f"--output {output} has other columns (lacking here: {was or 'none'}, new:"
            f" {new or 'none'}, or a type changed): pass {_flags(was, new)}, or --overwrite to"
            " encode all anew"
        )


def _flags(was: list[str], new: list[str]) -> str:
    """Return the flags that make the columns of a run what they were."""
    flags = [
        flag for flag, names in (("--features", was), ("--no-features", new)) if "features" in names
    ]
    if {*was, *new} != {"features"}:
        flags.append("the same --carry as before")
    return " and ".join(flags)


def prepare(output: str, found: State, settings: Settings, *, overwrite: bool) -> None:
    """Check that a run may go on with what is at `output`; the lock must be held.

    Args:
        output: Folder of the artefact.
        found: From `look`.
        settings: Of this run.
        overwrite: Encode all anew; what is there stays readable until the commit.

    Raises:
        OutputError: An unfinished run with other settings is in the way.
    """
    unfinished = storage.join(output, run.UNFINISHED_FILE)
    if found is State.FINISHED and not overwrite:
        return
    begun = storage.read_json(unfinished) if storage.exists(unfinished) else {}
    mine = begun.get("plan") == settings.to_json()
    replaced = _replaced(output)
    if begun.get("plan") and not mine and not overwrite:
        raise OutputError(
            f"--output {output} holds an unfinished run with other settings; repeat that run's"
            " command to finish it, or pass --overwrite to discard it"
        )
    if overwrite and not (mine and begun.get("overwrite") and begun.get("replaces") == replaced):
        # Rows of an earlier run are what the user wants to be rid of; its own are not.
        storage.remove(storage.join(output, staging.FOLDER))


def claim(output: str, found: State, settings: Settings, *, overwrite: bool) -> None:
    """Make `output` ours until it is finished; the lock must be held.

    Raises:
        OutputError: It cannot be written.
    """
    if found is State.FINISHED and not overwrite:
        return
    record = {
        "artefact": embeddings.ARTEFACT,
        "plan": settings.to_json(),
        "overwrite": overwrite,
        "replaces": _replaced(output),
    }
    storage.write_json(storage.join(output, run.UNFINISHED_FILE), record)


def _replaced(output: str) -> str | None:
    """Return the run that readers see now: an overwrite of another one starts anew."""
    uri = storage.join(output, run.RUN_FILE)
    return storage.read_json(uri).get("run_id") if storage.exists(uri) else None


def discard_plan(output: str, scratch: str) -> None:
    """Delete the plan of a run that ends before it has done anything."""
    storage.remove(scratch)
    folder = storage.join(output, staging.FOLDER)
    if not storage.list_files(folder) and not storage.list_folders(folder):
        storage.remove(folder)


def sweep(output: str, current: Snapshot | None) -> None:
    """Delete what no snapshot names: files of runs that were cut off, plans, superseded files."""
    keep = (current.names() - set(current.superseded)) if current else set()
    for kind in (*snapshot.KINDS, snapshot.IDS, snapshot.FOLDER):
        for uri in storage.list_files(storage.join(output, kind)):
            name = f"{kind}/{uri.rsplit('/', 1)[-1]}"
            if name not in keep:
                storage.remove(uri)
    for uri in storage.list_files(output, ".tmp"):
        if run.is_half_written(uri.rsplit("/", 1)[-1]):
            storage.remove(uri)
    for uri in storage.list_folders(storage.join(output, staging.FOLDER)):
        if is_scratch(uri):
            storage.remove(uri)


def is_scratch(uri: str) -> bool:
    """Return whether a folder in staging is of use to the one attempt that wrote it only."""
    return uri.rstrip("/").rsplit("/", 1)[-1].startswith("plan-")


def current(output: str) -> Snapshot | None:
    """Return the snapshot that run.json names, if there is one.

    Raises:
        InputError: It is damaged.
    """
    uri = storage.join(output, run.RUN_FILE)
    name = storage.read_json(uri).get("snapshot") if storage.exists(uri) else None
    return Snapshot.read(output, name) if name else None


def commit(
    output: str,
    recorder: run.Recorder,
    after: Snapshot,
    replaced: Snapshot | None,
    *,
    check: Callable[[], None],
    keep_staged: bool = False,
    **record: Any,
) -> dict[str, Any]:
    """Write the snapshot and then run.json, which makes it the artefact; returns that.

    Args:
        output: Folder of the artefact.
        recorder: Of the run.
        after: The new snapshot.
        replaced: What readers see until now, whose files stay until the next run.
        check: Raises if the lock was lost; asked right before the last step.
        keep_staged: Rows that another run has staged are still of use.
        record: For run.json.
    """
    before = (replaced.names() - set(replaced.superseded)) if replaced else set()
    after = dataclasses.replace(after, superseded=tuple(sorted(before - after.names())))
    name = after.write(output)
    check()
    finished = recorder.finish(output, snapshot=name, buckets=len(after.buckets), **record)
    if not keep_staged:
        storage.remove(storage.join(output, staging.FOLDER))
    return finished
