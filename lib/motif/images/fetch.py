"""Bytes of images from wherever their URI points, or a class of failure."""

from concurrent.futures import ThreadPoolExecutor

from botocore.exceptions import BotoCoreError, ClientError

from motif import storage
from motif.errors import InputError

MAX_BYTES = 64 * 1024 * 1024


class FetchError(Exception):
    """An object that cannot be read.

    Attributes:
        error_class: `not_found`, `denied`, `timeout`, `too_large` or `unreachable`.
    """

    def __init__(self, error_class: str, message: str) -> None:
        super().__init__(error_class, message)
        self.error_class = error_class
        self.message = message


def fetch(uri: str, *, limit_bytes: int = MAX_BYTES) -> bytes:
    """Read one object.

    Raises:
        FetchError: With the class of the failure; nothing else leaves.
    """
    try:
        data = storage.read_bytes(uri, limit_bytes=limit_bytes)
    except InputError as error:
        raise FetchError("denied", str(error)) from error
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise FetchError("not_found", "no such file or object") from error
    except PermissionError as error:
        raise FetchError("denied", "permission denied") from error
    except TimeoutError as error:
        raise FetchError("timeout", str(error) or "timed out") from error
    except (OSError, ValueError, BotoCoreError, ClientError) as error:
        # ValueError: a NUL in a path. Others: connections refused or reset, DNS, credentials.
        raise FetchError("unreachable", f"{type(error).__name__}: {error}") from error
    if len(data) > limit_bytes:
        raise FetchError("too_large", f"more than {limit_bytes:,} bytes")
    return data


def fetch_all(uris: list[str], *, threads: int = 16) -> list[bytes | FetchError]:
    """Read many objects at once; a failure stands in its object's place, in order."""

    def attempt(uri: str) -> bytes | FetchError:
        try:
            return fetch(uri)
        except FetchError as error:
            return error

    if len(uris) == 1:
        return [attempt(uris[0])]
    with ThreadPoolExecutor(max_workers=min(threads, max(len(uris), 1))) as pool:
        return list(pool.map(attempt, uris))
