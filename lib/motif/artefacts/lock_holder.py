"""Who holds a lock, as its record tells, and whether that process lives."""

import contextlib
import json
import math
import os
import socket
import time
from enum import Enum
from pathlib import Path
from typing import Any

from motif.artefacts.lock_file import LOCK_FILE, Seen, open_store

LOOK_SECONDS = 15.0


class Holder(Enum):
    """What can be known of the process that holds a lock."""

    ALIVE = "alive"
    GONE = "gone"
    UNKNOWN = "unknown"


def parse(found: Seen) -> dict[str, Any]:
    """Return the record; one that is damaged is empty, and only ever watched."""
    try:
        record = json.loads(found.text)
    except (ValueError, RecursionError):
        return {}
    return record if isinstance(record, dict) else {}


def lease_of(found: Seen) -> float:
    """Return the seconds after which a silent holder is taken for dead."""
    lease = parse(found).get("lease_seconds")
    return lease if isinstance(lease, int | float) and math.isfinite(lease) else 0.0


def describe(found: Seen) -> str:
    """Name the run that holds a lock."""
    record = parse(found)
    if not record:
        return f"an unknown run ({LOCK_FILE} is damaged)"
    run_id, host, pid, started = (
        str(record.get(key, "unknown"))[:80] for key in ("run_id", "host", "pid", "started_at")
    )
    return f"run {run_id} (host {host}, pid {pid}, started {started})"


def holder_of(found: Seen) -> Holder:
    """Say whether the lock's process lives, if it ran on this machine and that can be known."""
    record, here = parse(found), this_process()
    for key in ("host", "boot_id", "pid_namespace"):
        if here[key] is None or record.get(key) != here[key]:
            return Holder.UNKNOWN
    pid, started = record.get("pid"), record.get("process_started")
    if not isinstance(started, int) or not isinstance(pid, int) or not 0 < pid < 2**31:
        return Holder.UNKNOWN
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return Holder.GONE
    except PermissionError:
        pass  # another user's
    try:
        state, start = _state_and_start(pid)
    except OSError:
        return Holder.UNKNOWN  # hidden from us (hidepid), or ended just now
    # A restarted container may get the number of its predecessor's namespace, and its pids.
    return Holder.GONE if state in "ZX" or start != started else Holder.ALIVE


def this_process() -> dict[str, Any]:
    """Name this process so that another on the same machine can tell whether it lives.

    The last three are null where there is no Linux /proc that numbers processes as we do: it
    may be another pid namespace's, mounted into a container.
    """
    boot_id = namespace = started = None
    with contextlib.suppress(OSError):
        if str(Path("/proc/self").readlink()) == str(os.getpid()):
            boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
            namespace = str(Path("/proc/self/ns/pid").readlink())
            _, started = _state_and_start(os.getpid())
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "boot_id": boot_id,
        "pid_namespace": namespace,
        "process_started": started,
    }


def _state_and_start(pid: int) -> tuple[str, int]:
    """Return a process's state letter and its start in clock ticks since the boot."""
    text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    fields = text.rpartition(")")[2].split()  # the name before may hold spaces and brackets
    return fields[0], int(fields[19])


def look(output: str) -> dict[str, Any] | None:
    """Return the record of the run that writes an output, and `state`; None where nobody does.

    `state` is `alive`, `gone` (killed; the next run takes over) or `unknown` (another machine's).
    """
    found = open_store(output, timeout_seconds=LOOK_SECONDS).read()
    if found is None:
        return None
    return {**parse(found), "state": holder_of(found).value}


class Watch:
    """Tells, looked at again and again, whether a live run holds an output."""

    def __init__(self, output: str) -> None:
        self._store = open_store(output, timeout_seconds=LOOK_SECONDS)
        self._seen: Seen | None = None
        self._since = 0.0

    def holder(self) -> str | None:
        """Return who holds it now; a record that is not rewritten for a whole lease is nobody's."""
        found = self._store.read()
        if found is None or holder_of(found) is Holder.GONE:
            self._seen = None
            return None
        if found != self._seen:
            self._seen, self._since = found, time.monotonic()
        silent = time.monotonic() - self._since
        if holder_of(found) is Holder.UNKNOWN and silent > max(lease_of(found), 1.0):
            return None
        return describe(found)
