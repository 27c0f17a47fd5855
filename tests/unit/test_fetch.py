import multiprocessing
import os
import pickle
import random
import threading
import time
from pathlib import Path

import pytest

from motif.images import fetch as module
from motif.images.fetch import FetchLimits, fetch, fetch_all, fetch_stream
from motif.images.fetch_errors import FetchError


def files(folder: Path, sizes: list[int]) -> list[str]:
    """Write one file per size, each full of its own number."""
    paths = [folder / f"{number}.jpg" for number in range(len(sizes))]
    for number, (path, size) in enumerate(zip(paths, sizes, strict=True)):
        path.write_bytes(bytes([number % 256]) * size)
    return [str(path) for path in paths]


def failure(uri: str, limits: FetchLimits | None = None) -> FetchError:
    with pytest.raises(FetchError) as caught:
        fetch(uri, limits=limits or FetchLimits())
    assert "\n" not in caught.value.message
    return caught.value


@pytest.mark.parametrize("form", ["{}", "file://{}", "FILE://{}"])
def test_a_local_file(tmp_path, form):
    path = tmp_path / "ä b%20#?.jpg"
    path.write_bytes(b"0123456789")
    assert fetch(form.format(path)) == b"0123456789"
    (tmp_path / "empty.jpg").touch()
    assert fetch(form.format(tmp_path / "empty.jpg")) == b""


def test_the_classes_of_local_failures(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "file").touch()
    for name in ("gone", "", "pipe", "file/below", "loop", "x" * 300, "nul\0"):
        assert failure(f"{tmp_path}/{name}").error_class == "not_found", name
    assert failure("/dev/zero").error_class == "not_found"
    (tmp_path / "closed").touch(mode=0)
    if os.getuid() != 0:
        assert failure(str(tmp_path / "closed")).error_class == "denied"


def test_only_two_schemes_are_read_and_the_uri_is_not_repeated():
    for uri in ("https://user:secret@127.0.0.1:9/a.jpg", "gs://secret/a", "memory://secret"):
        error = failure(uri)
        assert error.error_class == "denied"
        assert "secret" not in str(error)


def test_a_file_of_the_limit_is_read_and_one_byte_more_is_too_large(tmp_path):
    small, large = files(tmp_path, [1000, 1001])
    limits = FetchLimits(max_bytes=1000)
    assert len(fetch(small, limits=limits)) == 1000
    error = failure(large, limits)
    assert (error.error_class, error.message, error.attempts) == (
        *("too_large", "more than 1,000 bytes"),
        1,
    )


def test_every_index_comes_once(tmp_path):
    uris = files(tmp_path, [50] * 300)
    uris[7] = uris[8]  # twice the same
    uris[9] = str(tmp_path / "gone")
    found = list(fetch_stream(uris, FetchLimits(in_flight=8)))
    assert sorted(index for index, _ in found) == list(range(300))
    assert fetch_all(uris)[7] == bytes([8]) * 50
    assert isinstance(fetch_all(uris)[9], FetchError)
    assert fetch_all([]) == []


def test_failures_pickle():
    error = pickle.loads(pickle.dumps(FetchError("throttled", "the store answered 503", 6)))
    assert (error.error_class, error.message, error.attempts) == (
        *("throttled", "the store answered 503"),
        6,
    )


def settled(count) -> int:
    """What a growing count has come to when it stands still."""
    before = -1
    while (now := count()) != before:
        before = now
        time.sleep(0.2)
    return now


@pytest.fixture
def reads(monkeypatch) -> list[int]:
    """The sizes of the files that were opened, as a list that grows."""
    opened: list[int] = []
    original = Path.open

    def counted(path: Path, *args, **options):
        opened.append(path.stat().st_size if path.exists() else 0)
        return original(path, *args, **options)

    monkeypatch.setattr(Path, "open", counted)
    return opened


@pytest.mark.parametrize("size", [100, 400])
def test_reading_ahead_stops_at_the_bytes_allowed(tmp_path, reads, size):
    uris = files(tmp_path, [size] * 40)
    reads.clear()
    stream = fetch_stream(uris, FetchLimits(buffered_bytes=1000, in_flight=32))
    for taken in range(1, 5):
        next(stream)
        assert settled(lambda: len(reads)) == taken + 1000 // size
    assert len(list(stream)) == 36


def test_objects_larger_than_the_buffer_are_read_one_by_one(tmp_path, reads):
    uris = files(tmp_path, [10, 5000, 10, 5000, 10])
    reads.clear()
    stream = fetch_stream(uris, FetchLimits(buffered_bytes=1000))
    next(stream)
    settled(lambda: len(reads))
    assert reads.count(5000) <= 1
    assert len(list(stream)) == 4


def test_failures_and_sizes_of_every_kind_end(tmp_path):
    sizes = random.Random(7).choices([0, 10, 400, 999, 1000, 1001, 3000, 5000], k=300)
    uris = files(tmp_path, sizes)
    for number in range(0, 300, 7):
        Path(uris[number]).unlink()
    limits = FetchLimits(buffered_bytes=1000, max_bytes=4000)
    for number, result in enumerate(fetch_all(uris, limits)):
        if isinstance(result, FetchError):
            expected = "not_found" if number % 7 == 0 else "too_large"
            assert result.error_class == expected
        else:
            assert len(result) == sizes[number] <= 4000
            assert number % 7


def test_the_consumer_may_fetch_while_a_stream_is_full(tmp_path):
    uris = files(tmp_path, [400] * 20)
    limits = FetchLimits(buffered_bytes=1000, in_flight=2)
    for index, data in fetch_stream(uris, limits):
        assert fetch(uris[index], limits=limits) == data


def test_streams_of_several_threads_share_the_slots(tmp_path, monkeypatch):
    uris = files(tmp_path, [10] * 30)
    lock, now, most = threading.Lock(), 0, 0
    original = Path.open

    def slow(path: Path, *args):
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        time.sleep(0.01)
        with lock:
            now -= 1
        return original(path, *args)

    monkeypatch.setattr(Path, "open", slow)
    threads = [
        threading.Thread(target=fetch_all, args=(uris, FetchLimits(in_flight=3))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 3


def test_a_file_that_hangs_is_a_timeout(tmp_path, monkeypatch):
    [uri] = files(tmp_path, [10])
    released = threading.Event()
    monkeypatch.setattr(Path, "open", lambda *_: released.wait(10))
    start = time.monotonic()
    error = failure(uri, FetchLimits(timeout_seconds=0.3))
    assert time.monotonic() - start < 2
    released.set()
    assert (error.error_class, error.attempts) == ("timeout", 1)


def test_a_file_that_was_given_up_takes_no_room_when_it_comes(tmp_path, monkeypatch):
    uris = files(tmp_path, [900] + [300] * 20)
    original, released = Path.stat, threading.Event()

    def hangs_at_the_first(path: Path, **options):
        if str(path) == uris[0]:
            released.wait(10)
        return original(path, **options)

    monkeypatch.setattr(Path, "stat", hangs_at_the_first)
    limits = FetchLimits(timeout_seconds=1, buffered_bytes=1000, in_flight=2)
    found = {}
    for index, result in fetch_stream(uris, limits):
        found[index] = result
        if len(found) == 1:
            time.sleep(1.5)  # the first is given up, while the last are not begun
        if index == 0:
            released.set()
            time.sleep(0.2)
    assert isinstance(found[0], FetchError)
    assert len(found) == 21


def test_a_disk_that_fails_in_passing_is_read_again(tmp_path, monkeypatch):
    [uri] = files(tmp_path, [10])
    original, broken = Path.open, [OSError(116, "Stale file handle"), OSError(5, "I/O error")]

    def fails_first(path: Path, *args):
        if broken:
            raise broken.pop()
        return original(path, *args)

    monkeypatch.setattr(Path, "open", fails_first)
    assert len(fetch(uri)) == 10
    broken += [OSError(5, "secret words of the mount")] * 2
    error = failure(uri, FetchLimits(attempts=2))
    assert (error.error_class, error.attempts) == ("unreachable", 2)
    assert error.message == "OSError: Input/output error"


def test_waits_are_jittered_and_bounded():
    class State:
        attempt_number = 1

    for number, window in ((1, 0.5), (2, 1), (3, 2), (20, 20)):
        State.attempt_number = number
        waits = [module.BACK_OFF(State) for _ in range(200)]  # type: ignore[arg-type]
        assert 0 <= min(waits) < 0.2 * window
        assert 0.8 * window < max(waits) <= window


def test_a_programming_error_is_raised_not_waited_for(monkeypatch):
    def broken(*_):
        raise ZeroDivisionError

    monkeypatch.setattr(module, "_reader", broken)
    with pytest.raises(ExceptionGroup):
        list(fetch_stream(["/a"]))


def _fetch_in_child(uri: str, answers) -> None:
    answers.put(fetch(uri))


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_works_in_a_process_that_was_started_after_a_fetch(tmp_path, method):
    [uri] = files(tmp_path, [10])
    expected = fetch(uri)
    context = multiprocessing.get_context(method)
    answers = context.Queue()
    process = context.Process(target=_fetch_in_child, args=(uri, answers))
    process.start()
    assert answers.get(timeout=30) == expected
    process.join(30)
    assert process.exitcode == 0
