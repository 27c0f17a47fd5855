"""Word to a webhook of how a job went: a chat, a pager, or what starts the next job."""

import logging
import os
import urllib.parse
from typing import Any

import requests
from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_random_exponential

from motif.errors import InputError

log = logging.getLogger(__name__)

VARIABLE = "MOTIF_WEBHOOK_URL"
ATTEMPTS = 4
TIMEOUT_SECONDS = 10.0
LONGEST_WAIT_SECONDS = 10.0


def webhook_of(flag: str) -> str:
    """Return the webhook of a flag or of the environment; empty for none.

    Raises:
        InputError: It is no URL. What is refused is not shown: such URLs are secrets.
    """
    url = flag or os.environ.get(VARIABLE, "")
    if not url:
        return ""
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InputError(f"--webhook or {VARIABLE} is no http:// or https:// URL")
    return url


def redacted(url: str) -> str:
    """Return what of a webhook may be on record: where, but not the secret in its path."""
    parts = urllib.parse.urlsplit(url)
    return f"{parts.scheme}://{parts.hostname}/..." if url else ""


def send(url: str, summary: dict[str, Any]) -> bool:
    """Post a summary as JSON; its `text` is what chats show.

    What cannot be delivered is logged and costs the job nothing.

    Returns:
        Whether it arrived.
    """
    try:
        for attempt in Retrying(
            stop=stop_after_attempt(ATTEMPTS),
            wait=wait_random_exponential(max=LONGEST_WAIT_SECONDS),
            retry=retry_if_exception(_passes),
            reraise=True,
        ):
            with attempt:
                requests.post(
                    url, json=summary, timeout=TIMEOUT_SECONDS, allow_redirects=False
                ).raise_for_status()
    except requests.RequestException as error:
        # Its own text names the URL.
        status = f" {error.response.status_code}" if error.response is not None else ""
        log.warning("%s does not take the summary: %s%s", redacted(url), _kind(error), status)
        return False
    return True


def _passes(error: BaseException) -> bool:
    if isinstance(error, requests.HTTPError) and error.response is not None:
        return error.response.status_code in (408, 429) or error.response.status_code >= 500
    return isinstance(error, (requests.ConnectionError, requests.Timeout))


def _kind(error: Exception) -> str:
    return type(error).__name__
