"""One small file that several processes change by compare-and-swap, in a folder or on S3.

What is in the file, and who may change it, is for `lock` to say.
"""

import contextlib
import errno
import fcntl
import os
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol, runtime_checkable

from fsspec.asyn import sync

from motif import storage
from motif.errors import OutputError

LOCK_FILE = "_lock.json"
GUARD_FILE = "_lock.guard"
"""Local folders only: lives for the moment of one change; harmless when a kill leaves it."""

GUARD_SECONDS = 10.0


@dataclass(frozen=True)
class Seen:
    """The file as it was at one moment; two are equal when nobody wrote in between."""

    text: bytes
    etag: str = ""


@runtime_checkable
class Store(Protocol):
    """Where the file is. Every change says what it expects there, and fails if that is not so."""

    def read(self) -> Seen | None:
        """Return what is there, or None."""
        ...

    def create(self, text: bytes) -> Seen | None:
        """Write the file where none is; None when one is there."""
        ...

    def replace(self, seen: Seen, text: bytes) -> Seen | None:
        """Write the file over `seen`; None when something else is there, or nothing."""
        ...

    def delete(self, seen: Seen) -> None:
        """Delete the file if it is still `seen`."""
        ...

    def require_conditions(self, mine: Seen) -> None:
        """Refuse a place that does not keep those promises; `mine` is what was just written.

        Raises:
            OutputError: It does not.
        """
        ...


def open_store(output: str, *, timeout_seconds: float) -> Store:
    """Return the store of `OUTPUT/_lock.json`.

    Args:
        output: Folder of an artefact, local or `s3://`.
        timeout_seconds: For each request to S3, its retries included.
    """
    fs, path = storage.open_filesystem(output)
    if storage.scheme(output) == "s3":
        return _S3Store(fs, path, output, timeout_seconds=timeout_seconds)
    return _LocalStore(Path(path))


class _LocalStore:
    """A file in a folder, changed only while `GUARD_FILE` is locked with flock.

    The races, and what settles them:
    - Two find a dead record and both replace it: under the guard the second finds other text
      than it judged, and gives up. So do a late renewal and a late release of a former holder.
    - A killed process cannot leave the guard locked (flock ends with the process), only lying
      there, and a guard that lies there means nothing.
    - The guard is removed by whoever has it locked. One who had opened it before then locks a
      file without a name, while a third may lock a new one: so a lock counts only if the guard's
      name still leads to the file that was locked.
    - Where flock only works within one machine (some network file systems), O_EXCL still lets
      only one create the file; of two that take over a dead one at the same moment, the first
      to renew or check finds that it was overwritten.
    - Readers need no guard, since replacing renames a whole file into place. They may see a new
      file before its text: it looks damaged, so they wait, and see it change.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file = folder / LOCK_FILE
        self._guard = folder / GUARD_FILE

    def read(self) -> Seen | None:
        try:
            return Seen(self._file.read_bytes())
        except FileNotFoundError:
            return None

    def create(self, text: bytes) -> Seen | None:
        self._folder.mkdir(parents=True, exist_ok=True)
        with self._guarded():
            try:
                with self._file.open("xb", buffering=0) as file:
                    try:
                        file.write(text)
                    except BaseException:
                        self._file.unlink()  # a full disk must not leave the output locked too
                        raise
            except FileExistsError:
                return None
        return Seen(text)

    def replace(self, seen: Seen, text: bytes) -> Seen | None:
        if not self._folder.is_dir():
            return None  # removed while we held it; the guard must not fail over that
        with self._guarded() as guard:
            if self.read() != seen:
                return None
            guard.truncate(0)
            guard.write(text)
            self._guard.rename(self._file)
        return Seen(text)

    def delete(self, seen: Seen) -> None:
        with self._guarded():
            if self.read() == seen:
                self._file.unlink()

    def require_conditions(self, mine: Seen) -> None:
        """Nothing to ask: without flock, `create` has failed."""

    @contextlib.contextmanager
    def _guarded(self) -> Iterator[IO[bytes]]:
        """Have the guard locked while the block runs, and remove it, unless the block did."""
        deadline = time.monotonic() + GUARD_SECONDS
        while True:
            with self._guard.open("ab", buffering=0) as guard:
                if self._try_flock(guard):
                    try:
                        if self._is_named(guard):
                            yield guard
                            return
                    finally:
                        # After a rename the name may be another's guard by now.
                        if self._is_named(guard):
                            self._guard.unlink()
                        # Closing does not unlock if the process was forked meanwhile.
                        fcntl.flock(guard, fcntl.LOCK_UN)
                elif time.monotonic() > deadline:
                    raise TimeoutError(
                        f"another process keeps {self._guard} locked for {GUARD_SECONDS:.0f} s now"
                    )
                else:
                    time.sleep(0.01)

    def _try_flock(self, guard: IO[bytes]) -> bool:
        try:
            fcntl.flock(guard, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError as error:
            self._guard.unlink(missing_ok=True)
            if error.errno in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL):
                raise _unsupported(
                    str(self._folder), f"this file system has no file locks ({error})"
                ) from error
            raise
        return True

    def _is_named(self, guard: IO[bytes]) -> bool:
        try:
            return os.path.samestat(os.fstat(guard.fileno()), self._guard.stat())
        except FileNotFoundError:
            return False


class _S3Store:
    """An object, changed by conditional PUTs (`If-None-Match: *`, `If-Match: etag`).

    A PUT whose answer is lost is repeated by the client, and then refused because of itself: a
    caller that is told None must look whether what is there is its own.
    """

    def __init__(self, fs: Any, path: str, output: str, *, timeout_seconds: float) -> None:
        self._fs = fs
        self._output = output
        self._bucket, self._key, _ = fs.split_path(storage.join(path, LOCK_FILE))
        self._timeout = timeout_seconds

    def read(self) -> Seen | None:
        try:
            answer = self._call("get_object")
        except FileNotFoundError:
            return None
        # One request for both: the text of one moment and the etag of another would not match.
        text: Any = sync(self._fs.loop, answer["Body"].read, timeout=self._timeout)
        return Seen(text, answer["ETag"])

    def create(self, text: bytes) -> Seen | None:
        return self._put(text, IfNoneMatch="*")

    def replace(self, seen: Seen, text: bytes) -> Seen | None:
        return self._put(text, IfMatch=seen.etag)

    def delete(self, seen: Seen) -> None:
        try:
            self._call("delete_object", IfMatch=seen.etag)
        except PermissionError:
            raise  # some of them are 400 too
        except OSError as error:
            status, _ = _http_status(error)
            if status in (404, 409, 412):
                return  # no longer `seen`
            if status not in (400, 501):
                raise
            # Conditional DELETE is younger than conditional PUT.
            if self.read() == seen:
                self._call("delete_object")

    def require_conditions(self, mine: Seen) -> None:
        # Two that must fail, with the text that is there: one that succeeds changes nothing.
        for condition in ({"IfNoneMatch": "*"}, {"IfMatch": f'"{"0" * 32}"'}):
            if self._put(mine.text, **condition):
                raise self._unsupported("it ignores the condition")

    def _put(self, text: bytes, **condition: str) -> Seen | None:
        for attempt in range(6):
            try:
                return Seen(text, self._call("put_object", Body=text, **condition)["ETag"])
            except PermissionError:
                raise  # some of them are 400 too
            except OSError as error:
                status, code = _http_status(error)
                if status == 409:  # a write at the same moment; S3 asks to try again
                    time.sleep(random.uniform(0.5, 1) * 0.1 * 2**attempt)
                elif status == 412 or (status == 404 and "IfMatch" in condition):
                    return None
                elif status == 501 or (status == 400 and code != "RequestTimeout"):
                    raise self._unsupported(f"it answers {status} {code}") from error
                else:
                    raise
        return None

    def _call(self, method: str, **arguments: Any) -> Any:
        return self._fs.call_s3(
            method, Bucket=self._bucket, Key=self._key, timeout=self._timeout, **arguments
        )

    def _unsupported(self, reason: str) -> OutputError:
        return _unsupported(self._output, f"this endpoint has no conditional PUT ({reason})")


def _unsupported(output: str, reason: str) -> OutputError:
    return OutputError(
        f"--output {output} cannot be locked against a second run: {reason}; pass --single-writer"
        " if you make sure yourself that only one run writes there"
    )


def _http_status(error: OSError) -> tuple[int, str]:
    """Return the HTTP status and S3 error code behind an error that s3fs translated."""
    response = getattr(error.__cause__, "response", None) or {}
    return (
        response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0),
        str(response.get("Error", {}).get("Code", "")),
    )
