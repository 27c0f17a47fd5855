"""run.json: the record that a job writes last, and without which nobody reads its output.

While a job works, its folder holds `_unfinished.json` instead. A folder that holds neither, and
is not empty, is not ours and is never touched.
"""

import dataclasses
import logging
import re
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from enum import Enum
from typing import Any

import motif
from motif import command, schemas, storage
from motif.artefacts.lock_file import GUARD_FILE, LOCK_FILE
from motif.errors import InputError, OutputError

log = logging.getLogger(__name__)

RUN_FILE = "run.json"
CHECKPOINT = "same_checkpoint"
"""The kind of artefact that a SAME checkpoint is."""
UNFINISHED_FILE = "_unfinished.json"
STAGING_FOLDER = "_staging"
_HALF_WRITTEN = re.compile(r"\.(run|_unfinished)\.json\.[0-9a-f]{8}\.tmp")


class State(Enum):
    """What is at an output's place."""

    FREE = "free"
    UNFINISHED = "unfinished"
    FINISHED = "finished"


def state(output: str, artefact: str) -> State:
    """Say what is at `output`, and refuse what is not ours.

    Args:
        output: Folder of the artefact.
        artefact: Its kind, such as `embeddings`.

    Raises:
        OutputError: Something is there that is not this kind of artefact.
    """
    fs, path = storage.open_filesystem(output)
    fs.invalidate_cache()
    if not fs.exists(path):
        return State.FREE
    if not fs.isdir(path):
        raise OutputError(f"--output {output} is a file; name a folder")
    for name, found in ((RUN_FILE, State.FINISHED), (UNFINISHED_FILE, State.UNFINISHED)):
        if storage.exists(storage.join(output, name)):
            kind = storage.read_json(storage.join(output, name)).get("artefact")
            if kind != artefact:
                raise OutputError(
                    f"--output {output} holds {kind or 'something'}, not {artefact}; name another"
                )
            return found
    entries = [*storage.list_files(output), *storage.list_folders(output)]
    found = {name.rstrip("/").rsplit("/", 1)[-1] for name in entries}
    # A run that has just begun holds the lock, and plans in a folder of its own.
    found -= {LOCK_FILE, GUARD_FILE, STAGING_FOLDER}
    if not all(is_half_written(name) for name in found):
        raise OutputError(
            f"--output {output} is not empty and was not made by Motif; it is left as it is:"
            " name another folder"
        )
    return State.FREE


def is_half_written(name: str) -> bool:
    """Return whether a file is a record of ours that a killed process did not finish."""
    return _HALF_WRITTEN.fullmatch(name) is not None


def require_replaceable(output: str, artefact: str, *, overwrite: bool) -> State:
    """Refuse early, before any work, an output that `claim` would refuse.

    Raises:
        OutputError: A finished artefact is there, or something that is not ours.
    """
    found = state(output, artefact)
    if found is State.FINISHED and not overwrite:
        record = storage.read_json(storage.join(output, RUN_FILE))
        raise OutputError(
            f"--output {output} holds finished {artefact} of {record.get('finished_at')}"
            f" ({_describe(record)}); pass --overwrite to replace it, or name another folder"
        )
    return found


def claim(
    output: str,
    artefact: str,
    *,
    overwrite: bool,
    owned: Sequence[str],
    plan: dict[str, Any] | None = None,
) -> bool:
    """Make `output` ours, or continue what an earlier run of the same plan left unfinished.

    Args:
        output: Folder of the artefact.
        artefact: Its kind.
        overwrite: Replace what is there, if it is ours.
        owned: Names in the folder that belong to the artefact; nothing else is ever removed.
        plan: What must be equal for an unfinished run to be continued; None starts anew.

    Returns:
        True when unfinished work is there to be continued.

    Raises:
        OutputError: A finished artefact, or an unfinished one of another plan, is in the way.
    """
    found = require_replaceable(output, artefact, overwrite=overwrite)
    unfinished = storage.join(output, UNFINISHED_FILE)
    if found is State.UNFINISHED:
        begun = storage.read_json(unfinished).get("plan")
        if plan is not None and begun == plan:
            # Also with --overwrite: what it was to replace is gone, this is its own work.
            return True
        # Without a plan it was cut off before its first result, in the lines below.
        if plan is not None and begun is not None and not overwrite:
            raise OutputError(
                f"--output {output} holds an unfinished run with other input or settings;"
                " repeat that run's command to finish it, or pass --overwrite to discard it"
            )
    # In this order, a run cut off in between leaves a folder that is still known to be ours.
    storage.write_json(unfinished, {"artefact": artefact, "plan": None})
    for name in (RUN_FILE, *owned):
        storage.remove(storage.join(output, name))
    storage.write_json(unfinished, {"artefact": artefact, "plan": plan})
    return False


def _describe(record: dict[str, Any]) -> str:
    counts = record.get("counts", {})
    parts = [f"{value:,} {key}" for key, value in counts.items() if isinstance(value, int)]
    return ", ".join([*parts[:3], f"space {record.get('space', {}).get('fingerprint', '?')}"])


def read(uri: str, artefact: str) -> dict[str, Any]:
    """Return the run.json of a finished artefact.

    Raises:
        InputError: It is absent, unfinished, of another kind, or of a newer schema.
    """
    path = storage.join(uri, RUN_FILE)
    if not storage.exists(path):
        if storage.exists(storage.join(uri, UNFINISHED_FILE)):
            raise InputError(
                f"{uri} is unfinished: run the job that writes it again to complete it"
            )
        there = "is no artefact of Motif (no run.json)" if storage.exists(uri) else "does not exist"
        raise InputError(f"{artefact} {uri} {there}")
    record = storage.read_json(path)
    if record.get("artefact") != artefact:
        raise InputError(f"{uri} holds {record.get('artefact')!r}, expected {artefact}")
    if record.get("schema_version", 0) > schemas.SCHEMA_VERSION:
        raise InputError(f"{uri} was written by a newer Motif ({record.get('motif_version')})")
    return record


@dataclasses.dataclass
class Recorder:
    """Collects what run.json says."""

    artefact: str
    config: Any
    run_id: str = dataclasses.field(default_factory=lambda: uuid.uuid4().hex[:12])
    started_at: datetime = dataclasses.field(default_factory=lambda: datetime.now(UTC))
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        """Let log lines name the run."""
        command.begin_run(self.run_id)

    def told_config(self) -> dict[str, Any]:
        """Return the configuration as it is on record, and as it will be read back: no tuples."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in dataclasses.asdict(self.config).items()
        }

    @contextmanager
    def timed(self, step: str) -> Iterator[None]:
        """Time one step of the job, in wall-clock seconds; what comes again is added."""
        start = time.perf_counter()
        try:
            yield
        finally:
            spent = time.perf_counter() - start
            self.seconds[step] = round(self.seconds.get(step, 0.0) + spent, 3)

    def finish(
        self, output: str, *, counts: dict[str, Any], space: dict[str, Any], **more: Any
    ) -> dict[str, Any]:
        """Write run.json, the last file of the artefact, and return it."""
        record = self.write(storage.join(output, RUN_FILE), counts=counts, space=space, **more)
        storage.remove(storage.join(output, UNFINISHED_FILE))
        return record

    def write(
        self, uri: str, *, counts: dict[str, Any], space: dict[str, Any], **more: Any
    ) -> dict[str, Any]:
        """Write the record to a file of any name and return it."""
        finished = datetime.now(UTC)
        self.seconds["total"] = round((finished - self.started_at).total_seconds(), 3)
        record = {
            "artefact": self.artefact,
            "motif_version": motif.__version__,
            "schema_version": schemas.SCHEMA_VERSION,
            "run_id": self.run_id,
            "started_at": self.started_at.isoformat(timespec="seconds"),
            "finished_at": finished.isoformat(timespec="seconds"),
            "config": self.told_config(),
            "space": space,
            "counts": counts,
            "seconds": self.seconds,
            **more,
        }
        storage.write_json(uri, record)
        return record
