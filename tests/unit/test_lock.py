import contextlib
import errno
import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import pytest

from motif.artefacts import lock_file, lock_holder
from motif.artefacts.lock import GUARD_FILE, LOCK_FILE, hold
from motif.errors import InputError, OutputError, OutputHeld

# Says "ready", waits for a line, takes the lock, says "in", answers each "check", and leaves at
# any other line; with `elsewhere` it passes for a process of another machine.
HOLDER = """
import signal, sys
from motif.artefacts import lock, lock_holder
from motif.errors import MotifError

output, run_id, lease, where = sys.argv[1:]
if where == "elsewhere":
    here = lock_holder.this_process
    lock_holder.this_process = lambda: {**here(), "boot_id": "another machine's"}
# A shell's background jobs, and so these, would ignore it.
signal.signal(signal.SIGINT, signal.default_int_handler)
print("ready", flush=True)
sys.stdin.readline()
try:
    with lock.hold(output, run_id=run_id, lease_seconds=float(lease)) as held:
        print("in", flush=True)
        while sys.stdin.readline() == "check\\n":
            held.check()
            print("ours", flush=True)
except MotifError as error:
    print(error, flush=True)
    sys.exit(error.exit_code)
"""

# Goes in once, whatever it takes; inside it must be alone. Odd ones are killed in there.
RACER = """
import os, signal, sys, time
from motif.artefacts import lock
from motif.errors import OutputHeld

output, inside, number = sys.argv[1], sys.argv[2], int(sys.argv[3])
print("ready", flush=True)
sys.stdin.readline()
while True:
    try:
        with lock.hold(output, run_id=f"racer-{number}", lease_seconds=5) as held:
            os.close(os.open(inside, os.O_CREAT | os.O_EXCL))
            time.sleep(0.02)
            held.check()
            os.unlink(inside)
            print("was in", flush=True)
            if number % 2:
                os.kill(os.getpid(), signal.SIGKILL)
        break
    except OutputHeld:
        time.sleep(0.002)
"""

Start = Callable[..., subprocess.Popen]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start a script; it is ready when this returns, and killed when the test ends."""
    started: list[subprocess.Popen] = []

    def start(script: str, *arguments: object) -> subprocess.Popen:
        process = subprocess.Popen(
            [sys.executable, "-c", script, *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        started.append(process)
        assert said(process) == "ready"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def said(process: subprocess.Popen) -> str:
    assert process.stdout
    return process.stdout.readline().rstrip("\n")


def tell(process: subprocess.Popen, line: str) -> None:
    assert process.stdin
    process.stdin.write(f"{line}\n")
    process.stdin.flush()


def enter(
    start: Start, output: Path | str, run_id: str, *, lease: float = 60, where: str = "here"
) -> subprocess.Popen:
    process = start(HOLDER, output, run_id, lease, where)
    tell(process, "go")
    assert said(process) == "in"
    return process


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def record_of(folder: Path) -> dict:
    return json.loads((folder / LOCK_FILE).read_bytes())


def plant(folder: Path, **changes: object) -> bytes:
    """Write the lock of a run of a process that has ended, with some fields changed."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        pass
    folder.mkdir(parents=True, exist_ok=True)
    record = {
        **lock_holder.this_process(),
        "run_id": "planted",
        "hold_id": "h",
        "pid": process.pid,
        "started_at": "2020-01-01T00:00:00+00:00",
        "lease_seconds": 1,
        **changes,
    }
    text = json.dumps(record).encode()
    (folder / LOCK_FILE).write_bytes(text)
    return text


def test_the_record_says_who_holds_it_and_goes_with_the_block(tmp_path):
    output = tmp_path / "new" / "out"
    with hold(str(output), run_id="r1", lease_seconds=0.4) as held:
        first = record_of(output)
        assert names(output) == [LOCK_FILE]
        assert (first["run_id"], first["pid"], first["heartbeat"]) == ("r1", os.getpid(), 1)
        assert first["boot_id"] == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        assert set(first) == {
            "run_id", "hold_id", "host", "pid", "boot_id", "pid_namespace", "process_started",
            "started_at", "lease_seconds", "heartbeat", "heartbeat_at",
        }  # fmt: skip
        time.sleep(0.5)
        held.check()
        later = record_of(output)
        assert later["heartbeat"] >= 3
        changed = {key for key in first if first[key] != later[key]}
        assert changed <= {"heartbeat", "heartbeat_at"}
    assert names(output) == []


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt, SystemExit])
def test_released_whatever_ends_the_block(tmp_path, error):
    with pytest.raises(error), hold(str(tmp_path), run_id="r"):
        raise error
    assert names(tmp_path) == []


def test_released_at_control_c(tmp_path, start):
    holder = enter(start, tmp_path, "r")
    holder.send_signal(signal.SIGINT)
    assert holder.wait(60) == -signal.SIGINT
    assert names(tmp_path) == []


def test_two_at_once_one_is_refused_at_once_and_may_come_later(tmp_path, start):
    first = enter(start, tmp_path, "run-1")
    began = time.monotonic()
    with pytest.raises(OutputHeld) as caught, hold(str(tmp_path), run_id="run-2"):
        pass
    assert time.monotonic() - began < 1
    assert caught.value.exit_code == 5
    who = rf"run run-1 \(host {re.escape(os.uname().nodename)}, pid {first.pid}, started 20"
    assert re.search(who, str(caught.value))
    assert "\n" not in str(caught.value)
    tell(first, "check")
    assert said(first) == "ours"
    tell(first, "leave")
    assert first.wait(10) == 0
    assert names(tmp_path) == []
    with hold(str(tmp_path), run_id="run-2"):
        pass


def test_the_same_process_cannot_hold_it_twice(tmp_path):
    with hold(str(tmp_path), run_id="r"):
        with pytest.raises(OutputHeld), hold(str(tmp_path), run_id="r"):
            pass
        assert record_of(tmp_path)["run_id"] == "r"


def test_a_killed_holder_is_followed_at_once(tmp_path, start):
    holder = enter(start, tmp_path, "killed")
    holder.kill()
    # Not reaped yet: a zombie still has its pid, and is dead all the same.
    os.waitid(os.P_PID, holder.pid, os.WEXITED | os.WNOWAIT)
    began = time.monotonic()
    with hold(str(tmp_path), run_id="next") as held:
        assert time.monotonic() - began < 1
        held.check()
    holder.wait()
    assert names(tmp_path) == []


def test_a_pid_that_was_given_again_does_not_hold(tmp_path):
    plant(tmp_path, pid=os.getpid())
    assert record_of(tmp_path)["process_started"] == lock_holder.this_process()["process_started"]
    with pytest.raises(OutputHeld, match="run planted"), hold(str(tmp_path), run_id="next"):
        pass
    plant(tmp_path, pid=os.getpid(), process_started=1)
    began = time.monotonic()
    with hold(str(tmp_path), run_id="next"):
        assert time.monotonic() - began < 1


def test_eight_that_race_for_a_dead_lock_are_in_it_one_at_a_time(tmp_path, start):
    output, inside = tmp_path / "out", tmp_path / "inside"
    plant(output)
    racers = [start(RACER, output, inside, number) for number in range(8)]
    for racer in racers:
        tell(racer, "go")
    for number, racer in enumerate(racers):
        out, _ = racer.communicate(timeout=60)
        assert out == "was in\n"
        assert racer.returncode == (-signal.SIGKILL if number % 2 else 0)
    with hold(str(output), run_id="last"):
        pass
    assert names(output) == []


def test_of_many_changes_at_once_none_is_lost(tmp_path):
    """Every compare-and-swap that says it won did: the count in the file is that of the wins."""
    script = """
import sys
from motif.artefacts.lock_file import open_store
store = open_store(sys.argv[1], timeout_seconds=5)
won = 0
while won < 50:
    seen = store.read()
    won += store.replace(seen, str(int(seen.text) + 1).encode()) is not None
"""
    (tmp_path / LOCK_FILE).write_bytes(b"0")
    processes = [subprocess.Popen([sys.executable, "-c", script, str(tmp_path)]) for _ in range(4)]
    assert [process.wait(60) for process in processes] == [0] * 4
    assert (tmp_path / LOCK_FILE).read_bytes() == b"200"
    assert names(tmp_path) == [LOCK_FILE]


@pytest.mark.parametrize("text", [None, b"", b"\xff{half", b"[" * 100_000])
def test_a_lock_from_elsewhere_or_damaged_is_watched_for_a_lease(tmp_path, caplog, text):
    caplog.set_level("INFO", logger="motif")
    plant(tmp_path, boot_id="another machine's")
    if text is not None:
        (tmp_path / LOCK_FILE).write_bytes(text)
    began = time.monotonic()
    with hold(str(tmp_path), run_id="next", lease_seconds=1):
        assert 1 <= time.monotonic() - began < 4
        assert record_of(tmp_path)["run_id"] == "next"
    waiting, took = caplog.messages
    assert "waiting 1 s" in waiting
    who = "run planted (host" if text is None else "damaged"
    assert who in waiting
    assert who in took
    assert names(tmp_path) == []


def test_the_longer_of_the_two_leases_counts(tmp_path):
    plant(tmp_path, boot_id="another machine's", lease_seconds=1.5)
    began = time.monotonic()
    with hold(str(tmp_path), run_id="next", lease_seconds=0.2):
        assert time.monotonic() - began >= 1.5


@pytest.mark.parametrize(
    "changes",
    [{"boot_id": None}, {"host": "other"}, {"pid_namespace": "pid:[1]"}, {"pid": -1}, {"pid": "x"}],
)
def test_only_this_machines_own_processes_are_looked_up(tmp_path, changes):
    plant(tmp_path, **{"lease_seconds": 0.3, **changes})
    began = time.monotonic()
    with hold(str(tmp_path), run_id="next", lease_seconds=0.3):
        assert time.monotonic() - began >= 0.3


def test_one_elsewhere_that_renews_is_not_waited_out(tmp_path, start):
    holder = enter(start, tmp_path, "far", lease=1, where="elsewhere")
    began = time.monotonic()
    with (
        pytest.raises(OutputHeld, match=rf"run far \(host .*pid {holder.pid}"),
        hold(str(tmp_path), run_id="next", lease_seconds=1),
    ):
        pass
    assert time.monotonic() - began < 0.9


def test_a_lock_that_is_released_while_it_is_watched_is_free(tmp_path, start):
    holder = enter(start, tmp_path, "far", lease=20, where="elsewhere")
    watcher = start(HOLDER, tmp_path, "watcher", 1, "here")
    tell(watcher, "go")
    time.sleep(0.5)
    tell(holder, "leave")
    assert said(watcher) == "in"
    assert record_of(tmp_path)["run_id"] == "watcher"


def test_a_stopped_holder_learns_that_it_lost_the_lock(tmp_path, start):
    holder = enter(start, tmp_path, "far", lease=1, where="elsewhere")
    holder.send_signal(signal.SIGSTOP)
    with hold(str(tmp_path), run_id="next", lease_seconds=1) as held:
        holder.send_signal(signal.SIGCONT)
        tell(holder, "check")
        assert "this run lost its lock, which is held by run next" in said(holder)
        assert holder.wait(10) == OutputHeld.exit_code
        held.check()
        assert record_of(tmp_path)["run_id"] == "next"


@pytest.mark.parametrize("loss", ["other", "removed", "folder"])
def test_a_lost_lock_is_told_and_never_touched_again(tmp_path, loss):
    output = tmp_path / "out"
    with hold(str(output), run_id="mine", lease_seconds=0.4) as held:
        text = plant(output) if loss == "other" else b""
        if loss != "other":
            (output / LOCK_FILE).unlink()
        if loss == "folder":
            wait_for(lambda: not (output / GUARD_FILE).exists())
            output.rmdir()
        time.sleep(0.1)
        now = "held by run planted" if loss == "other" else "somebody removed"
        for _ in range(2):
            with pytest.raises(OutputHeld, match=now):
                held.check()
        time.sleep(0.3)
    left = {"other": [LOCK_FILE], "removed": [], "folder": None}[loss]
    assert (names(output) if output.exists() else None) == left
    assert not text or (output / LOCK_FILE).read_bytes() == text


def wait_for(condition: Callable[[], bool]) -> None:
    while not condition():
        time.sleep(0.001)


def test_a_store_that_fails_is_forgiven_for_one_lease(tmp_path, caplog):
    with hold(str(tmp_path), run_id="r", lease_seconds=2) as held:
        (tmp_path / GUARD_FILE).mkdir()  # no guard can be opened
        time.sleep(0.6)
        held.check()
        assert "could not renew the lock" in caplog.text
        time.sleep(1.6)
        with pytest.raises(OutputHeld, match="could not renew its lock for 2 s"):
            held.check()
        (tmp_path / GUARD_FILE).rmdir()
        held.check()
    assert names(tmp_path) == []


def test_a_guard_that_a_kill_left_is_no_obstacle(tmp_path):
    (tmp_path / GUARD_FILE).write_bytes(b"half of a rec")
    with hold(str(tmp_path), run_id="r"):
        assert names(tmp_path) == [LOCK_FILE]
    assert names(tmp_path) == []


def test_a_guard_that_is_removed_before_it_is_locked_does_not_count(tmp_path, monkeypatch):
    """Its name may be another's by then, who would be inside too."""
    flock, removed = fcntl.flock, []

    def late_flock(guard: IO[bytes], operation: int) -> None:
        if not removed:
            removed.append(True)
            (tmp_path / GUARD_FILE).unlink()
        flock(guard, operation)

    monkeypatch.setattr(lock_file.fcntl, "flock", late_flock)
    with lock_file._LocalStore(tmp_path)._guarded() as guard:
        assert os.fstat(guard.fileno()).st_nlink == 1
    assert names(tmp_path) == []


def test_a_guard_that_became_the_lock_leaves_the_next_ones_guard_alone(tmp_path):
    with lock_file._LocalStore(tmp_path)._guarded():
        (tmp_path / GUARD_FILE).rename(tmp_path / LOCK_FILE)
        (tmp_path / GUARD_FILE).touch()
    assert names(tmp_path) == [GUARD_FILE, LOCK_FILE]


def test_the_store_changes_only_what_it_was_told_of(tmp_path):
    store = lock_file.open_store(str(tmp_path), timeout_seconds=5)
    assert store.read() is None
    first = store.create(b"1")
    assert first
    assert store.create(b"x") is None
    second = store.replace(first, b"2")
    assert second
    assert store.replace(first, b"x") is None
    store.delete(first)
    assert store.read() == second
    store.delete(second)
    assert store.read() is store.replace(second, b"x") is None
    assert names(tmp_path) == []


def test_a_guard_that_is_kept_locked_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(lock_file, "GUARD_SECONDS", 0.2)
    store = lock_file._LocalStore(tmp_path)
    with (
        store._guarded(),
        pytest.raises(OutputError, match=r"another process keeps .*_lock.guard locked"),
        hold(str(tmp_path), run_id="r"),
    ):
        pass
    assert names(tmp_path) == []


def test_a_file_system_without_locks_asks_for_single_writer(tmp_path, monkeypatch):
    def flock(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(lock_file.fcntl, "flock", flock)
    with (
        pytest.raises(OutputError, match=r"No locks.*--single-writer"),
        hold(str(tmp_path), run_id="r"),
    ):
        pass
    assert names(tmp_path) == []
    with hold(str(tmp_path), run_id="r", single_writer=True):
        assert names(tmp_path) == [LOCK_FILE]
    assert names(tmp_path) == []


def test_places_that_cannot_be_written_are_one_line(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    for output in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/motif")):
        with pytest.raises(OutputError) as caught, hold(str(output), run_id="r"):
            pass
        assert str(output) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_read_only_folder_is_one_line(tmp_path, monkeypatch):
    output = tmp_path / "out"
    output.mkdir()
    output.chmod(0o555)
    with as_a_user_whom_permissions_bind(tmp_path):
        with (
            pytest.raises(OutputError, match=r"cannot be locked: .*Permission denied"),
            hold(str(output), run_id="r"),
        ):
            pass
        with (
            pytest.raises(OutputError, match=r"cannot be written: .*Permission denied"),
            hold(str(output), run_id="r", single_writer=True),
        ):
            pass
    assert names(output) == []


@contextlib.contextmanager
def as_a_user_whom_permissions_bind(folder: Path) -> Iterator[None]:
    if os.geteuid() != 0:
        yield
        return
    for parent in (folder, *folder.parents[:3]):  # pytest's own are closed to others
        parent.chmod(0o755)
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_single_writer_keeps_nobody_out_and_is_not_kept_out(tmp_path, caplog):
    with hold(str(tmp_path), run_id="locked", lease_seconds=0.4) as locked:
        with hold(str(tmp_path), run_id="free", single_writer=True, lease_seconds=0.4) as free:
            assert "may be in use by run locked" in caplog.text
            assert record_of(tmp_path)["run_id"] == "free"
            first = record_of(tmp_path)["heartbeat"]
            time.sleep(0.5)
            assert record_of(tmp_path)["heartbeat"] > first
            free.check()
            with pytest.raises(OutputHeld, match="held by run free"):
                locked.check()
            with pytest.raises(OutputHeld), hold(str(tmp_path), run_id="third"):
                pass
        assert names(tmp_path) == []
    assert names(tmp_path) == []


def test_a_lease_that_makes_no_sense(tmp_path):
    for lease in (0.0, -1.0, float("nan")):
        with pytest.raises(InputError), hold(str(tmp_path), run_id="r", lease_seconds=lease):
            pass


# -- looked at from outside ---------------------------------------------------------------------


def test_nobody_is_looked_at_without_a_trace(tmp_path):
    assert lock_holder.look(str(tmp_path / "nowhere")) is None
    assert lock_holder.Watch(str(tmp_path / "nowhere")).holder() is None
    assert list(tmp_path.iterdir()) == []


def test_a_watch_tells_the_living_from_the_dead(tmp_path):
    watch = lock_holder.Watch(str(tmp_path))
    with hold(str(tmp_path), run_id="night"):
        assert "run night" in (watch.holder() or "")
        assert lock_holder.look(str(tmp_path))["state"] == "alive"
    assert watch.holder() is None
    plant(tmp_path, pid=2**22 + 1)  # of this machine, and gone
    assert watch.holder() is None
    assert lock_holder.look(str(tmp_path))["state"] == "gone"


def test_a_watch_waits_a_lease_for_a_machine_that_it_cannot_see(tmp_path):
    plant(tmp_path, host="elsewhere", lease_seconds=1.0)
    watch = lock_holder.Watch(str(tmp_path))
    assert "run planted" in (watch.holder() or "")
    time.sleep(0.7)
    plant(tmp_path, host="elsewhere", lease_seconds=1.0, heartbeat=2)
    assert "run planted" in (watch.holder() or "")
    time.sleep(0.7)
    assert "run planted" in (watch.holder() or ""), "it was renewed within its lease"
    time.sleep(0.6)
    assert watch.holder() is None
