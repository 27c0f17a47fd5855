"""Bytes of images from wherever their URI points, or a class of failure.

All reads run on fsspec's event loop, in its own thread, so that a read that is given up is really
ended.
"""

import asyncio
import errno
import functools
import queue
import stat
import threading
from collections.abc import Awaitable, Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fsspec.asyn import get_loop
from tenacity import (
    AsyncRetrying,
    retry_if_exception,
    stop_after_attempt,
    stop_before_delay,
    wait_random_exponential,
)

from motif import storage
from motif.images.allowed import Allowed
from motif.images.fetch_errors import FetchError, classify

# Full jitter: a wait is uniform between 0 and 0.5 s, then 1 s, 2 s, ...
BACK_OFF = wait_random_exponential(multiplier=0.5, max=20)

# AWS advises to ask again for a small object that has not been answered after 2 s. Each attempt
# waits twice as long as the one before, so that a store that is slow at everything is served too.
FIRST_ANSWER_SECONDS = 2.0

Permit = Callable[[], Awaitable[None]]
"""Awaited before each object of a store is read for the first time."""


@dataclass(frozen=True, kw_only=True)
class FetchLimits:
    """What one object, and one process, may take."""

    max_bytes: int = 64 * 1024 * 1024
    """A larger object is `too_large`; at most one byte more of it is read."""
    timeout_seconds: float = 60.0
    """Time for one object, all its attempts and the waits between them together."""
    attempts: int = 6
    """How often a throttled, reset, failed or late read is tried in all."""
    in_flight: int = 32
    """Reads at once, per process."""
    buffered_bytes: int = 128 * 1024 * 1024
    """Bytes of a stream that are under way or wait to be consumed; reading ahead stops there.

    An object larger than this is read while nothing else is.
    """
    allowed: Allowed | None = None
    """What may be read; None for all, where a person names each image."""


DEFAULT_LIMITS = FetchLimits()
OUTSIDE = "outside the manifest's own folder or bucket: name its place with --allow to read it"


def fetch(uri: str, *, limits: FetchLimits = DEFAULT_LIMITS) -> bytes:
    """Read one object.

    Raises:
        FetchError: With the class of the failure; nothing else leaves.
    """
    [result] = fetch_all([uri], limits)
    if isinstance(result, FetchError):
        raise result
    return result


def fetch_all(
    uris: Sequence[str], limits: FetchLimits = DEFAULT_LIMITS
) -> list[bytes | FetchError]:
    """Read many objects at once; a failure stands in its object's place, in order."""
    results = dict(fetch_stream(uris, limits))
    return [results[index] for index in range(len(uris))]


def fetch_stream(
    uris: Sequence[str], limits: FetchLimits = DEFAULT_LIMITS, permit: Permit | None = None
) -> Generator[tuple[int, bytes | FetchError], None, None]:
    """Read many objects at once, and ahead of the consumer.

    Args:
        uris: What to read.
        limits: Bounds.
        permit: Holds reading of a store back, so that it is not asked for more than it may be.

    Yields:
        Index into `uris`, and the bytes or the failure, as they complete; each index once. Reading
        starts with the first one asked for. Closing the generator ends what is under way.
    """
    loop = get_loop()
    done: queue.SimpleQueue[tuple[int, bytes | FetchError] | None] = queue.SimpleQueue()
    ended = threading.Event()
    room = _Room(limits.buffered_bytes, loop)

    async def read_all() -> None:
        try:
            async with asyncio.TaskGroup() as group:
                remaining = iter(enumerate(uris))
                for _ in range(min(limits.in_flight, len(uris))):
                    group.create_task(_read_some(remaining, limits, permit, room, done.put))
        finally:
            done.put(None)
            ended.set()

    reading = asyncio.run_coroutine_threadsafe(read_all(), loop)
    try:
        while (item := done.get()) is not None:
            room.release(item[0])
            yield item
        reading.result()
    finally:
        reading.cancel()
        # Bounded: a garbage collection in the loop's own thread could have closed the generator.
        ended.wait(timeout=1)


async def _read_some(
    remaining: Iterator[tuple[int, str]],
    limits: FetchLimits,
    permit: Permit | None,
    room: "_Room",
    put: Callable[[tuple[int, bytes | FetchError]], None],
) -> None:
    reader = _reader(asyncio.get_running_loop(), limits.in_flight, storage.s3_endpoint())
    for index, uri in remaining:
        await room.until_open()
        if permit is not None and storage.scheme(uri) == "s3":
            await permit()  # not within the time that an object may take
        while True:
            try:
                result = await reader.read(uri, limits, functools.partial(room.hold, index))
                break
            except _NoRoom as full:
                # Without a slot or a connection meanwhile: the consumer may need one to go on.
                await room.until_held(index, full.size)
        room.hold(index, len(result) if isinstance(result, bytes) else 0)
        put((index, result))


class _NoRoom(Exception):
    """The object does not fit beside what is held now."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.size = size


class _Room:
    """The bytes that a stream holds, by index; a thread of any kind may hold and release."""

    def __init__(self, limit: int, loop: asyncio.AbstractEventLoop) -> None:
        self._limit = limit
        self._loop = loop
        self._lock = threading.Lock()
        self._held: dict[int, int] = {}
        self._released: set[int] = set()
        self._total = 0
        self._in_line = 0  # objects that wait for room
        self._waiting = 0  # coroutines that wait for any change
        self._changed = asyncio.Event()

    def hold(self, index: int, size: int) -> None:
        """Hold `size` bytes for an object, instead of what it held before.

        Raises:
            _NoRoom: Not beside the others, so that it holds nothing now; alone, an object of any
                size has room, and to hold less is never refused. Or it was released: a thread that
                hung, and was given up, comes too late.
        """
        with self._lock:
            held = self._held.get(index, 0)
            others = self._total - held
            refused = size > held and others and others + size > self._limit
            if index in self._released:
                raise _NoRoom(size)
            # Two that each kept a part and waited for the rest would wait for ever.
            self._held[index] = 0 if refused else size
            self._total = others + self._held[index]
        if refused:
            raise _NoRoom(size)

    def release(self, index: int) -> None:
        """Hold nothing for an object ever after."""
        with self._lock:
            self._total -= self._held.pop(index)
            self._released.add(index)
        if self._waiting:
            self._loop.call_soon_threadsafe(self._changed.set)

    async def until_held(self, index: int, size: int) -> None:
        """Wait for room and hold it; until then no other object is begun."""

        def held() -> bool:
            try:
                self.hold(index, size)
            except _NoRoom:
                return False
            return True

        self._in_line += 1
        try:
            await self._until(held)
        finally:
            self._in_line -= 1
            self._changed.set()

    async def until_open(self) -> None:
        """Wait until another object may be begun."""
        await self._until(lambda: self._total < self._limit and not self._in_line)

    async def _until(self, reached: Callable[[], bool]) -> None:
        self._waiting += 1  # before the first look, or a release after it would wake nobody
        try:
            while not reached():
                self._changed.clear()
                await self._changed.wait()
        finally:
            self._waiting -= 1


@functools.cache
def _reader(loop: asyncio.AbstractEventLoop, in_flight: int, endpoint: str | None) -> "_Reader":
    # By the loop, as a forked process has another: its parent's connections are not its own.
    return _Reader(in_flight)


class _Reader:
    """What all streams of a process share: slots, connections, and threads for local files."""

    def __init__(self, in_flight: int) -> None:
        self._slots = asyncio.Semaphore(in_flight)
        self._threads = ThreadPoolExecutor(in_flight, "motif-fetch")
        self._in_flight = in_flight

    @functools.cached_property
    def _s3(self) -> Any:
        return storage.s3_without_retries(connections=self._in_flight)

    async def read(
        self, uri: str, limits: FetchLimits, hold: Callable[[int], None]
    ) -> bytes | FetchError:
        """Read one object, in as many attempts as it takes.

        Args:
            uri: What to read.
            limits: Its bounds.
            hold: Called with its size before it is read; raises _NoRoom to leave it for later.
        """
        if storage.scheme(uri) not in storage.SCHEMES:
            return FetchError("denied", "only local paths and s3:// are read")
        if limits.allowed is not None and not limits.allowed.holds(uri):
            return FetchError("denied", OUTSIDE)
        tries = 0
        async with self._slots:
            try:
                async with asyncio.timeout(limits.timeout_seconds):
                    async for attempt in AsyncRetrying(
                        retry=retry_if_exception(_passes),
                        wait=BACK_OFF,
                        stop=stop_after_attempt(limits.attempts)
                        | stop_before_delay(limits.timeout_seconds),
                        reraise=True,
                    ):
                        with attempt:
                            tries += 1
                            if storage.scheme(uri) == "s3":
                                answer_seconds = FIRST_ANSWER_SECONDS * 2 ** (tries - 1)
                                return await self._read_s3(uri, limits, hold, answer_seconds)
                            return await self._read_local(uri, limits, hold)
                raise AssertionError("the last attempt returns or raises")
            except _NoRoom:
                raise
            except Exception as error:  # noqa: BLE001 (three libraries parse what a server sends)
                failure = classify(error)
                return FetchError(failure.error_class, failure.message, tries)

    async def _read_local(
        self, uri: str, limits: FetchLimits, hold: Callable[[int], None]
    ) -> bytes:
        def read() -> bytes:
            try:
                path = Path(storage.absolute(uri))
                status = path.stat()
            except ValueError:
                raise FileNotFoundError(errno.ENOENT, "a NUL in a path") from None
            if not stat.S_ISREG(status.st_mode):
                # A pipe or a device has no end, and would be waited for.
                raise FileNotFoundError(errno.ENOENT, "not a regular file")
            if status.st_size > limits.max_bytes:
                raise _too_large(limits)
            hold(status.st_size)
            with path.open("rb") as file:
                return file.read(status.st_size)

        return await asyncio.get_running_loop().run_in_executor(self._threads, read)

    async def _read_s3(
        self, uri: str, limits: FetchLimits, hold: Callable[[int], None], answer_seconds: float
    ) -> bytes:
        bucket, key, _ = self._s3.split_path(uri.partition("://")[2])
        await self._s3.set_session()  # looks for credentials, which may take longer than an answer
        async with asyncio.timeout(answer_seconds):
            # Without a range, an empty object is no error, and the size comes with the answer.
            answer = await self._s3._call_s3("get_object", Bucket=bucket, Key=key)
        body = answer["Body"]
        try:
            size = answer.get("ContentLength", limits.max_bytes)
            if size > limits.max_bytes:
                raise _too_large(limits)
            hold(size)
            chunks, unread = [], size
            # Also after the last byte: the empty read compares length and checksum.
            while chunk := await body.read(unread + 1):
                chunks.append(chunk)
                unread -= len(chunk)
                if unread < 0:
                    raise _too_large(limits)
            return b"".join(chunks)
        finally:
            body.close()


def _too_large(limits: FetchLimits) -> FetchError:
    return FetchError("too_large", f"more than {limits.max_bytes:,} bytes")


def _passes(error: BaseException) -> bool:
    return (
        isinstance(error, Exception) and not isinstance(error, _NoRoom) and classify(error).passing
    )
