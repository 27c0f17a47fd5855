"""One erasure: all locks, the lists, every artefact named, and the proof."""

import contextlib
import logging
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from motif import storage
from motif.artefacts import erased, lock, run
from motif.artefacts.lock import Held
from motif.artefacts.run import State
from motif.erasure import from_embeddings, from_table, proof
from motif.errors import InputError
from motif.table import versions
from motif.table.layout import TableUri

log = logging.getLogger(__name__)

EVALUATION = "evaluation"
_REPORT = ("metrics.json", "report.html")


@dataclass(frozen=True, kw_only=True)
class Request:
    """Whom to erase from what."""

    creators: tuple[str, ...]
    """Their ids."""
    tables: tuple[TableUri, ...] = ()
    embeddings: tuple[str, ...] = ()
    """Folders, absolute."""
    evaluations: tuple[str, ...] = ()
    """Folders, absolute."""
    key: bytes | None = None
    """Of the lists, from `erased.read_key`; a new list without it has its key in it."""
    single_writer: bool = False
    """Do without the locks."""

    def check(self) -> None:
        """Refuse what is not there, before anything is changed.

        Raises:
            InputError: Nobody or nothing is named, or something is no artefact of ours.
        """
        if not self.creators:
            raise InputError("--creator: name somebody to erase")
        if not self.tables and not self.embeddings:
            raise InputError("name what to erase from: --embeddings, --table or both")
        for folder in self.embeddings:
            from_embeddings.require(folder)
        for folder in self.evaluations:
            if run.state(folder, EVALUATION) is State.FREE:
                raise InputError(f"--evaluations {folder} holds no evaluation")
        for table in self.tables:
            if not from_table.is_begun(table):
                versions.open_latest(table)

    @property
    def listing(self) -> tuple[str, ...]:
        """The folders that keep a list and are locked, each once."""
        folders = (*self.embeddings, *(table.beside() for table in self.tables))
        return tuple(dict.fromkeys(folders))


def erase(request: Request) -> dict[str, Any]:
    """Erase creators from every artefact named, and prove it by reading all of it again.

    Returns:
        What was taken out of which artefact; without ids.

    Raises:
        InputError: Something named is not there, or is damaged.
        OutputHeld: A job writes to one of them.
        ContractError: Somebody is still there; the message names the file.
    """
    request.check()
    run_id = uuid.uuid4().hex[:12]
    creators = pa.array(sorted(set(request.creators)), pa.string())
    done: dict[str, Any] = {
        "run_id": run_id,
        "started_at": _now(),
        "finished_at": None,
        "creators": len(creators),
        "embeddings": {},
        "evaluations": {},
        "tables": {},
    }
    with contextlib.ExitStack() as stack:
        held = {
            folder: stack.enter_context(
                lock.hold(folder, run_id=run_id, single_writer=request.single_writer)
            )
            for folder in request.listing
        }
        # First of all: a job that begins when this is cut off must not take them in again.
        for folder in held:
            erased.add(folder, creators.to_pylist(), key=request.key)
        for folder in dict.fromkeys(request.embeddings):
            found = from_embeddings.erase(folder, creators, run_id=run_id, check=held[folder].check)
            done["embeddings"][folder] = found
            log.info("%s: %d rows erased", folder, sum(found.values()))
        for folder in dict.fromkeys(request.evaluations):
            done["evaluations"][folder] = _erase_evaluation(folder, creators)
        for table in dict.fromkeys(request.tables):
            _erase_table(table, creators, done, held[table.beside()])
        done["files_read_back"] = prove(request, creators)
        done["was_somewhere"] = _was_somewhere(done)
        done["finished_at"] = _now()
        for table in dict.fromkeys(request.tables):
            _record(table, done)
    return done


def prove(request: Request, creators: pa.Array) -> int:
    """Read back all that was named; returns the number of files.

    Raises:
        ContractError: Somebody is still there; the message names the file.
    """
    files = 0
    for folder in {*request.listing, *request.evaluations}:
        files += proof.of_folder(folder, creators)
    for table in set(request.tables):
        files += proof.of_table(table, creators)
    return files


def _erase_table(table: TableUri, creators: pa.Array, done: dict[str, Any], held: Held) -> None:
    def record(found: dict[str, Any]) -> None:
        done["tables"][table.uri] = found
        _record(table, done)

    found = from_table.erase(table, creators, run_id=done["run_id"], held=held, record=record)
    done["tables"][table.uri] = found
    log.info(
        "%s: %d rows erased, %d versions dropped",
        *(table.uri, found["rows"], len(found["dropped_versions"])),
    )


def _record(table: TableUri, done: dict[str, Any]) -> None:
    """Leave what was done beside the table; `rollback` reads which versions are gone."""
    dropped = done["tables"][table.uri]["dropped_versions"]
    uri = table.beside(versions.ERASURES, f"{done['run_id']}.json")
    storage.write_json(uri, {**done, "dropped_versions": dropped})


def _erase_evaluation(folder: str, creators: pa.Array) -> str:
    """Delete an evaluation that shows somebody: its pictures cannot be taken out of its page.

    Returns:
        `kept` where nobody is shown, `deleted`, or `deleted before` where it is unfinished.
    """
    finished = run.state(folder, EVALUATION) is State.FINISHED
    files = [
        uri
        for uri in (storage.join(folder, name) for name in (*_REPORT, run.RUN_FILE))
        if storage.exists(uri)
    ]
    if finished and not any(proof.file_mentions(uri, creators) for uri in files):
        return "kept"
    if not files:
        return "deleted before"
    # Its folder stays ours: unfinished, until the job writes it again.
    run.claim(folder, EVALUATION, overwrite=True, owned=_REPORT, plan=None)
    log.info("%s is deleted: run jobs.evaluate again to write it without them", folder)
    return "deleted"


def _was_somewhere(done: dict[str, Any]) -> bool:
    return bool(
        any(sum(found.values()) for found in done["embeddings"].values())
        or "deleted" in done["evaluations"].values()
        or any(t["rows"] or t["sidecar_rows"] or t["held"] for t in done["tables"].values())
    )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
