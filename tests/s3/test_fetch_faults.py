"""Reads from stores that throttle, break off, dawdle, or send what they should not."""

import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import boto3
import pytest

from motif.images.fetch import FetchLimits, fetch, fetch_all, fetch_stream
from motif.images.fetch_errors import FetchError
from tests.fault_proxy import FaultProxy

BUCKET = "motif-faults"
OBJECTS = {f"{number:03d}.jpg": bytes([number % 251]) * (1000 + number) for number in range(200)}
URIS = [f"s3://{BUCKET}/{name}" for name in OBJECTS]


@pytest.fixture(scope="module")
def store(s3_endpoint) -> str:
    """The endpoint of a store that holds `OBJECTS`."""
    client = boto3.client("s3")
    client.create_bucket(Bucket=BUCKET)
    for name, data in OBJECTS.items():
        client.put_object(Bucket=BUCKET, Key=name, Body=data)
    return s3_endpoint


@pytest.fixture
def faulty(store, monkeypatch) -> Callable:
    """Put a proxy with these faults, and no others, before the store."""

    @contextmanager
    def start(**faults: float) -> Iterator[FaultProxy]:
        with FaultProxy(store, **{"slow_down": 0, "reset": 0, "delay": 0, **faults}) as proxy:
            monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
            yield proxy

    return start


@pytest.fixture
def answering(s3_endpoint, monkeypatch) -> Callable:
    """Put a server in the store's place whose every GET is answered by a function."""

    @contextmanager
    def start(answer: Callable[[BaseHTTPRequestHandler], None]) -> Iterator[list[str]]:
        paths: list[str] = []

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                paths.append(self.path)
                answer(self)

            def log_message(self, format: str, *args: object) -> None:
                pass

        with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
            server.daemon_threads = True
            threading.Thread(target=server.serve_forever, daemon=True).start()
            monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
            yield paths
            server.shutdown()

    return start


def error_answer(status: int, code: str) -> Callable[[BaseHTTPRequestHandler], None]:
    def answer(request: BaseHTTPRequestHandler) -> None:
        body = f"<Error><Code>{code}</Code><Message>words</Message></Error>".encode()
        request.send_response(status)
        request.send_header("Content-Type", "application/xml")
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)

    return answer


def failure(uri: str = URIS[0], **limits) -> FetchError:
    with pytest.raises(FetchError) as caught:
        fetch(uri, limits=FetchLimits(**limits))
    error = caught.value
    assert error.__cause__ is None
    assert "http" not in error.message
    return error


def test_everything_arrives_from_a_store_that_fails_a_lot(faulty):
    # So late that no attempt waits for it: each fault costs one more read.
    with faulty(slow_down=0.15, reset=0.1, delay=0.03, delay_seconds=50, seed=1) as proxy:
        assert fetch_all(URIS, FetchLimits(attempts=10)) == list(OBJECTS.values())
    assert min(proxy.faults[kind] for kind in ("slow_down", "reset", "delay")) >= 3
    assert proxy.faults["reads"] >= len(URIS) + sum(
        proxy.faults[kind] for kind in ("slow_down", "reset", "delay")
    )


def test_a_late_answer_is_not_waited_for(faulty):
    with faulty(delay=0.1, delay_seconds=30) as proxy:
        start = time.monotonic()
        assert fetch_all(URIS[:40]) == list(OBJECTS.values())[:40]
        assert proxy.faults["delay"] >= 1
        assert time.monotonic() - start < 25


def test_always_throttled(faulty):
    with faulty(slow_down=1) as proxy:
        error = failure(attempts=3)
        assert proxy.faults["reads"] == 3  # nobody below tries again by himself
    assert (error.error_class, error.attempts) == ("throttled", 3)
    assert error.message == "the store answered 503 SlowDown"


def test_throttling_outlasts_the_time_limit(faulty):
    with faulty(slow_down=1):
        failure(attempts=1)  # makes the client, which takes a second
        start = time.monotonic()
        error = failure(attempts=50, timeout_seconds=1.5)
        assert time.monotonic() - start < 3
    assert error.error_class == "throttled"


def test_always_reset(faulty):
    with faulty(reset=1) as proxy:
        error = failure(attempts=3)
        # aiohttp asks once more, at once, on a new connection; nobody else does.
        assert proxy.faults["reads"] == 2 * 3
    assert (error.error_class, error.attempts) == ("unreachable", 3)


def test_nobody_listens(s3_endpoint, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    error = failure(attempts=2)
    assert (error.error_class, error.attempts) == ("unreachable", 2)


def test_answers_and_their_classes(answering):
    cases = [
        (503, "SlowDown", "throttled", 2),
        (503, "ServiceUnavailable", "throttled", 2),
        (429, "TooManyRequests", "throttled", 2),
        (400, "RequestLimitExceeded", "throttled", 2),
        (500, "InternalError", "unreachable", 2),
        (502, "", "unreachable", 2),
        (400, "RequestTimeout", "timeout", 2),
        (404, "NoSuchKey", "not_found", 1),
        (404, "NoSuchBucket", "not_found", 1),
        (403, "AccessDenied", "denied", 1),
        (403, "SignatureDoesNotMatch", "denied", 1),
        (403, "secret words", "denied", 1),
        (400, "ExpiredToken", "denied", 1),
        (400, "InvalidRequest", "unreachable", 1),
    ]

    def by_key(request: BaseHTTPRequestHandler) -> None:
        status, code, *_ = cases[int(request.path.rsplit("/")[-1])]
        error_answer(status, code)(request)

    with answering(by_key) as paths:
        errors = fetch_all(
            [f"s3://{BUCKET}/{n}" for n in range(len(cases))], FetchLimits(attempts=2)
        )
    for number, (status, code, error_class, attempts) in enumerate(cases):
        error = errors[number]
        assert isinstance(error, FetchError)
        assert (error.error_class, error.attempts) == (error_class, attempts), code
        assert paths.count(f"/{BUCKET}/{number}") == attempts, code
        shown = "" if "secret" in code else code or "None"
        assert error.message == f"the store answered {status} {shown}".strip()


def test_bytes_that_trickle_are_a_timeout(answering):
    def trickle(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.send_header("Content-Length", "1000")
        request.end_headers()
        try:
            for _ in range(100):
                request.wfile.write(b"x")
                time.sleep(0.1)
        except OSError:
            return

    with answering(trickle):
        start = time.monotonic()
        error = failure(timeout_seconds=1)
        assert time.monotonic() - start < 2
    assert (error.error_class, error.message) == ("timeout", "not read in time")


def test_no_answer_is_a_timeout(answering):
    with answering(lambda request: time.sleep(8)) as paths:
        start = time.monotonic()
        error = failure(timeout_seconds=5)
        assert time.monotonic() - start < 7
    assert error.error_class == "timeout"
    assert len(paths) == 2


def test_a_body_that_breaks_off_is_read_again(answering):
    def half_then_whole(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.send_header("Content-Length", "1000")
        request.end_headers()
        request.wfile.write(b"x" * (500 if len(paths) == 1 else 1000))
        request.close_connection = len(paths) == 1

    with answering(half_then_whole) as paths:
        assert fetch(URIS[0]) == b"x" * 1000
        assert len(paths) == 2


def test_too_large_is_told_before_it_is_read(faulty):
    with faulty() as proxy:
        error = failure(URIS[1], max_bytes=1000)
        assert proxy.faults["reads"] == 1
        assert fetch(URIS[0], limits=FetchLimits(max_bytes=1000)) == OBJECTS["000.jpg"]
    assert (error.error_class, error.message) == ("too_large", "more than 1,000 bytes")


def test_a_body_without_a_length_is_cut_at_the_limit(answering):
    sent = 0

    def endless(request: BaseHTTPRequestHandler) -> None:
        nonlocal sent
        request.send_response(200)
        request.send_header("Transfer-Encoding", "chunked")
        request.end_headers()
        try:
            while sent < 200_000_000:
                request.wfile.write(b"2710\r\n" + b"x" * 10_000 + b"\r\n")
                sent += 10_000
        except OSError:
            return

    with answering(endless):
        assert failure(max_bytes=100_000).error_class == "too_large"
    assert sent < 50_000_000  # what the sockets hold, not what the server has


def test_no_credentials_is_denied(store, monkeypatch, tmp_path):
    # Another port number, as connections that were signed in before are kept by the endpoint.
    with FaultProxy(store) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.delenv(name)
        for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
            monkeypatch.setenv(name, str(tmp_path / "none"))
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        error = failure()
    assert (error.error_class, error.attempts) == ("denied", 1)
    assert "NoCredentialsError" in error.message


def test_no_more_reads_at_once_than_allowed(faulty):
    with faulty(delay=1, delay_seconds=0.1) as proxy:
        threads = [
            threading.Thread(target=fetch_all, args=(URIS[:40], FetchLimits(in_flight=5)))
            for _ in range(3)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert proxy.faults["reads"] == 120
        assert proxy.most_at_once == 5


def test_a_stream_that_is_closed_early_leaves_no_read_under_way(faulty):
    with faulty(delay=0.5, delay_seconds=60, seed=2) as proxy:
        stream = fetch_stream(URIS, FetchLimits(in_flight=16))
        next(stream)
        assert proxy.at_once > 0
        stream.close()
        deadline = time.monotonic() + 2  # the proxy learns of it over the socket
        while proxy.at_once and time.monotonic() < deadline:
            time.sleep(0.02)
        assert proxy.at_once == 0
        reads = proxy.faults["reads"]
        time.sleep(0.5)
        assert proxy.faults["reads"] == reads < len(URIS)


def test_reading_ahead_stops_at_the_bytes_allowed(faulty):
    with faulty() as proxy:
        stream = fetch_stream(URIS, FetchLimits(buffered_bytes=10_000, in_flight=4))
        next(stream)
        time.sleep(1)
        # Up to four were begun, found no room after their first line, and wait for it.
        assert proxy.faults["reads"] <= 1 + 9 + 4
        assert len(list(stream)) == len(URIS) - 1


def test_nothing_secret_is_logged(faulty, caplog):
    caplog.set_level(logging.INFO)
    with faulty(slow_down=0.5, reset=0.2, seed=3):
        fetch_all(URIS[:10], FetchLimits(attempts=2))
    assert "testing" not in caplog.text
    assert "Signature" not in caplog.text
