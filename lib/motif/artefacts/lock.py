"""The lock that lets one run at a time write an output: `OUTPUT/_lock.json`.

The lock is a lease. Its record names the run that holds it, and is rewritten by that run every
quarter of the lease; every change is a compare-and-swap against what the writer last saw there.
A record that is not rewritten is taken over: at once when its process ran on this machine and
is gone, otherwise after it was watched unchanged for a whole lease. Nobody compares the clocks
of two machines.

A holder that stands still for longer than the lease (a suspended machine, a cut network) loses
the lock without being told, so a job asks `Held.check` before it commits. What it had sent off
before that and what arrives late, no lock can stop: a commit must do no harm if it is late.
"""

import contextlib
import json
import logging
import math
import threading
import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from botocore.exceptions import BotoCoreError

from motif import storage
from motif.artefacts import lock_holder
from motif.artefacts.lock_file import GUARD_FILE, LOCK_FILE, Seen, open_store
from motif.errors import InputError, MotifError, OutputError, OutputHeld

__all__ = ["GUARD_FILE", "LOCK_FILE", "Held", "hold"]

log = logging.getLogger(__name__)


class Held:
    """A lock that this run holds; made by `hold`."""

    def __init__(self, output: str, *, run_id: str, lease_seconds: float) -> None:
        self._output = output
        self._lease = lease_seconds
        self._store = open_store(output, timeout_seconds=max(lease_seconds / 4, 5.0))
        self._record = _Record(run_id, lease_seconds)
        self._seen: Seen | None = None
        self._confirmed = -math.inf
        self._lost: str | None = None
        self._mutex = threading.Lock()

    def check(self) -> None:
        """Ask the store whether the lock is still ours: one small write, at most once a second.

        A store that cannot be reached is forgiven until the lease has run out.

        Raises:
            OutputHeld: The lock was lost, or could not be renewed in time.
        """
        # The background thread's word is not enough: it was paused whenever this one was.
        if self._age() > min(1.0, self._lease / 8):
            self._renew()
        if self._lost:
            raise OutputHeld(self._lost)
        if (age := self._age()) > self._lease:
            raise OutputHeld(
                f"--output {self._output}: this run could not renew its lock for {age:.0f} s, so"
                " another may have begun; run the same command again to continue"
            )

    def tell(self, progress: dict[str, Any]) -> None:
        """Say how it goes: with its next heartbeat the lock tells it to `motif status`."""
        self._record.progress = progress

    def _acquire(self) -> None:
        while self._seen is None:
            found = self._store.read()
            if found and self._record.is_in(found):
                self._seen = found  # a write of ours that arrived although its answer did not
                break
            if found:
                self._wait_until_abandoned(found)
            self._confirmed = _clock()
            text = self._record.next_text()
            if found is None:
                self._seen = self._store.create(text)
            elif taken := self._store.replace(found, text):
                self._seen = taken
                log.info("%s: took over the lock of %s", self._output, lock_holder.describe(found))
        self._store.require_conditions(self._seen)

    def _wait_until_abandoned(self, found: Seen) -> None:
        """Return when `found` may be taken over, or is no longer there.

        Raises:
            OutputHeld: Its run lives.
        """
        holder = lock_holder.holder_of(found)
        if holder is lock_holder.Holder.GONE:
            return
        if holder is lock_holder.Holder.ALIVE:
            raise self._refusal(found)
        lease = max(self._lease, lock_holder.lease_of(found))
        log.info(
            "%s is locked by %s; waiting %.0f s to see whether it still renews the lock",
            self._output,
            lock_holder.describe(found),
            lease,
        )
        # This clock stops while the machine is suspended, and with it a holder in another
        # container, which must get its chance to renew.
        deadline = time.monotonic() + lease
        while time.monotonic() < deadline:
            time.sleep(min(1.0, self._lease / 8))
            now = self._store.read()
            if now is None:
                return
            if now != found:
                raise self._refusal(now)

    def _refusal(self, found: Seen) -> OutputHeld:
        return OutputHeld(
            f"--output {self._output} is held by {lock_holder.describe(found)}:"
            " wait until it ends, stop it, or name another folder"
        )

    def _renew(self) -> None:
        """Rewrite the record and note the time, or that it was lost, or log why neither."""
        with self._mutex:
            if self._lost or self._seen is None:
                return
            asked = _clock()
            try:
                for _ in range(2):
                    if mine := self._store.replace(self._seen, self._record.next_text()):
                        self._seen, self._confirmed = mine, asked
                        return
                    found = self._store.read()
                    if found is None or not self._record.is_in(found):
                        self._note_loss(found)
                        return
                    self._seen = found  # an earlier write arrived although its answer did not
            except (OSError, BotoCoreError, MotifError) as error:
                log.warning("%s: could not renew the lock: %s", self._output, _words(error))

    def _note_loss(self, found: Seen | None) -> None:
        now = f"is held by {lock_holder.describe(found)} now" if found else "somebody removed"
        self._lost = (
            f"--output {self._output}: this run lost its lock, which {now}; it commits nothing"
            " more: run the same command again to continue"
        )
        log.error("%s", self._lost)

    def _release(self) -> None:
        found = self._store.read()
        if found and self._record.is_in(found):
            self._store.delete(found)

    def _age(self) -> float:
        return _clock() - self._confirmed


class _Unlocked(Held):
    """What `--single-writer` asks for: the record tells who writes, and keeps nobody out."""

    def check(self) -> None:
        """Do nothing: there is no lock to lose."""

    def _acquire(self) -> None:
        found = self._store.read()
        if found and lock_holder.holder_of(found) is not lock_holder.Holder.GONE:
            log.warning(
                "--single-writer: %s may be in use by %s", self._output, lock_holder.describe(found)
            )
        self._write()

    def _renew(self) -> None:
        try:
            self._write()
        except (OSError, BotoCoreError, MotifError) as error:
            log.warning("%s: could not write %s: %s", self._output, LOCK_FILE, _words(error))

    def _write(self) -> None:
        storage.write_bytes(storage.join(self._output, LOCK_FILE), self._record.next_text())

    def _release(self) -> None:
        found = self._store.read()
        if found and self._record.is_in(found):
            fs, path = storage.open_filesystem(storage.join(self._output, LOCK_FILE))
            fs.rm_file(path)


@contextlib.contextmanager
def hold(
    output: str, *, run_id: str, single_writer: bool = False, lease_seconds: float = 60.0
) -> Iterator[Held]:
    """Hold `OUTPUT/_lock.json` while the block runs; the folder is made if it is absent.

    Args:
        output: Folder of the artefact, local or `s3://`.
        run_id: Names this run to whoever is refused.
        single_writer: Do not lock: the user says that no other run writes here. The record is
            still written, for information, but nobody is refused and `check` does nothing.
        lease_seconds: A holder elsewhere that does not renew for this long is taken for dead;
            at least 0.1. A holder's own lease counts when it is longer.

    Yields:
        The lock, to be checked before every commit.

    Raises:
        OutputHeld: Another live run holds the output.
        OutputError: The lock cannot be written there, or cannot be relied on there.
    """
    if not lease_seconds >= 0.1:
        raise InputError(f"the lock's lease must be at least 0.1 s, got {lease_seconds}")
    held = (_Unlocked if single_writer else Held)(
        output, run_id=run_id, lease_seconds=lease_seconds
    )
    stop = threading.Event()

    def keep_alive() -> None:
        while not held._lost and not stop.wait(lease_seconds / 4):
            held._renew()

    heartbeat = threading.Thread(target=keep_alive, name="motif-lock", daemon=True)
    try:
        # In here, so that an interrupt while acquiring leaves no lock either.
        try:
            held._acquire()
        except OSError as error:
            raise OutputError(f"--output {output} cannot be locked: {_words(error)}") from error
        heartbeat.start()
        yield held
    finally:
        stop.set()
        if heartbeat.ident is not None:
            heartbeat.join(timeout=30)
        try:
            if held._record.was_written:
                held._release()
        except (OSError, BotoCoreError, MotifError) as error:
            # The block's own error, if there is one, says more.
            log.warning("%s: could not remove %s: %s", output, LOCK_FILE, _words(error))


class _Record:
    """What one run writes into the lock; it knows its own from any other's."""

    def __init__(self, run_id: str, lease_seconds: float) -> None:
        self._hold_id = uuid.uuid4().hex  # a run id may be given twice
        self._beats = 0
        self.progress: dict[str, Any] = {}
        self._fixed = {
            "run_id": run_id,
            "hold_id": self._hold_id,
            **lock_holder.this_process(),
            "started_at": _now(),
            "lease_seconds": lease_seconds,
        }

    def next_text(self) -> bytes:
        """Return the record with the next heartbeat, so that no two texts are equal."""
        self._beats += 1
        record = {**self._fixed, "heartbeat": self._beats, "heartbeat_at": _now()}
        if self.progress:
            record["progress"] = self.progress
        return (json.dumps(record, indent=2) + "\n").encode()

    @property
    def was_written(self) -> bool:
        """Return whether a text was asked for, and so may lie in the folder."""
        return self._beats > 0

    def is_in(self, found: Seen) -> bool:
        """Return whether the lock that was found is ours."""
        return lock_holder.parse(found).get("hold_id") == self._hold_id


def _words(error: Exception) -> str:
    return str(error) or type(error).__name__  # a time-out of fsspec says nothing


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _clock() -> float:
    """Return seconds that go on, where the system can, while the machine is suspended."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))
