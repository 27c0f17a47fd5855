"""What an error of a read means: a class, one line, and whether to try again.

Nothing of an error but its class and the store's error code gets into a message: the text of an
error can hold a signed URL.
"""

import errno
import os
import re
from typing import NamedTuple

from botocore.exceptions import (
    ClientError,
    ConnectTimeoutError,
    CredentialRetrievalError,
    NoCredentialsError,
    ParamValidationError,
    PartialCredentialsError,
    ProfileNotFound,
    ReadTimeoutError,
    SSOError,
)

THROTTLED = {
    "BandwidthLimitExceeded",
    "RequestLimitExceeded",
    "RequestThrottled",
    "SlowDown",
    "SlowDownRead",
    "Throttling",
    "ThrottlingException",
    "TooManyRequests",
}
DENIED = {"ExpiredToken", "InvalidToken", "TokenRefreshRequired"}  # these come with a 400
NO_CREDENTIALS = (
    CredentialRetrievalError,
    NoCredentialsError,
    PartialCredentialsError,
    ProfileNotFound,
    SSOError,
)


class FetchError(Exception):
    """An object that cannot be read.

    Attributes:
        error_class: `not_found`, `denied`, `throttled`, `timeout`, `too_large` or `unreachable`.
        message: One line, without anything secret.
        attempts: How often it was tried.
    """

    def __init__(self, error_class: str, message: str, attempts: int = 1) -> None:
        super().__init__(error_class, message, attempts)
        self.error_class = error_class
        self.message = message
        self.attempts = attempts


class Failure(NamedTuple):
    """What is known of an error that a read ended with."""

    error_class: str
    message: str
    passing: bool
    """Whether another attempt may go better."""


def classify(error: Exception) -> Failure:
    """Return what an error of fsspec, botocore, aiohttp or the file system means."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ClientError):
            return _classify_answer(cause)
        cause = cause.__cause__
    name = type(error).__name__
    match error:
        case FetchError():
            return Failure(error.error_class, error.message, passing=False)
        case FileNotFoundError() | NotADirectoryError() | IsADirectoryError():
            return Failure("not_found", "no such file", passing=False)
        case ParamValidationError():
            return Failure("not_found", "not the name of a bucket and a key", passing=False)
        case PermissionError():
            return Failure("denied", "permission denied", passing=False)
        case OSError(errno=errno.ENAMETOOLONG | errno.ELOOP as number):
            return Failure("not_found", os.strerror(number), passing=False)
        case _ if isinstance(error, NO_CREDENTIALS):
            return Failure("denied", f"no AWS credentials ({name})", passing=False)
        case TimeoutError() | ConnectTimeoutError() | ReadTimeoutError():
            return Failure("timeout", "not read in time", passing=True)
        case OSError(errno=int(number)):
            return Failure("unreachable", f"{name}: {os.strerror(number)}", passing=True)
    return Failure("unreachable", name, passing=True)


def _classify_answer(error: ClientError) -> Failure:
    status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    code = str(error.response.get("Error", {}).get("Code", ""))
    # The server's own words otherwise; S3's codes are single words.
    shown = code if re.fullmatch(r"[A-Za-z.]{1,64}", code) else ""
    message = f"the store answered {status} {shown}".rstrip()
    if code in THROTTLED or status in (429, 503):
        return Failure("throttled", message, passing=True)
    if code == "RequestTimeout" or status == 408:
        return Failure("timeout", message, passing=True)
    if status == 404:
        return Failure("not_found", message, passing=False)
    if status in (401, 403) or code in DENIED:
        return Failure("denied", message, passing=False)
    return Failure("unreachable", message, passing=status == 409 or status >= 500)
