import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import boto3
import pytest
import s3fs

from motif.artefacts import lock_holder
from motif.artefacts.lock import LOCK_FILE, hold
from motif.artefacts.lock_file import open_store
from motif.errors import OutputError, OutputHeld

BUCKET = "motif-lock"

RACER = """
import os, signal, sys, time
from motif.artefacts import lock
from motif.artefacts.lock_file import open_store
from motif.errors import OutputHeld

output, inside, number = sys.argv[1], sys.argv[2], int(sys.argv[3])
print("ready", flush=True)
sys.stdin.readline()
while True:
    try:
        with lock.hold(output, run_id=f"racer-{number}", lease_seconds=5) as held:
            os.close(os.open(inside, os.O_CREAT | os.O_EXCL))
            time.sleep(0.05)
            held.check()
            os.unlink(inside)
            print("was in", flush=True)
            if number % 2:
                os.kill(os.getpid(), signal.SIGKILL)
        break
    except OutputHeld:
        time.sleep(0.01)
"""


class Proxy:
    """Stands before moto, handles one request at a time, and does what `rule` says.

    `rule` gets the method and the headers, may change them, and returns None to pass the request
    on, "lose" to pass it on and drop the connection instead of answering, or an error's status
    and code. One at a time, because moto looks at a condition and acts on it in two steps.
    """

    def __init__(self, endpoint: str) -> None:
        self.rule: Callable[[str, dict[str, str]], str | tuple[int, str] | None] = (
            lambda method, headers: None
        )
        self.seen: list[tuple[str, str]] = []
        target, one = urlsplit(endpoint).netloc, threading.Lock()
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_request(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                headers = {k: v for k, v in self.headers.items() if k.lower() != "expect"}
                condition = next((k for k in headers if k.lower().startswith("if-")), "")
                with one:
                    proxy.seen.append((self.command, condition))
                    said = proxy.rule(self.command, headers)
                    if isinstance(said, tuple):
                        status, code = said
                        answer = f"<Error><Code>{code}</Code><Message>no</Message></Error>".encode()
                        kept = []
                    else:
                        upstream = http.client.HTTPConnection(target)
                        upstream.request(self.command, self.path, body, headers)
                        response = upstream.getresponse()
                        status, answer = response.status, response.read()
                        kept = [
                            (k, v)
                            for k, v in response.getheaders()
                            if k.lower() not in ("content-length", "connection", "date", "server")
                        ]
                        upstream.close()
                if said == "lose":
                    self.close_connection = True
                    self.connection.close()
                    return
                self.send_response(status)
                for name, value in kept:
                    self.send_header(name, value)
                if status != 204:
                    self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = handle_request

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()


@pytest.fixture(scope="module")
def s3(s3_endpoint):
    client = boto3.client("s3", endpoint_url=s3_endpoint)
    client.create_bucket(Bucket=BUCKET)
    return client


@pytest.fixture
def proxy(s3, s3_endpoint, monkeypatch) -> Iterator[Proxy]:
    proxy = Proxy(s3_endpoint)
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
    s3fs.S3FileSystem.clear_instance_cache()  # one that is cached keeps its endpoint
    yield proxy
    s3fs.S3FileSystem.clear_instance_cache()
    proxy.server.shutdown()
    proxy.server.server_close()


@pytest.fixture
def output(s3, request) -> str:
    return f"s3://{BUCKET}/{request.node.name}"


def key(output: str) -> str:
    return f"{output.removeprefix(f's3://{BUCKET}/')}/{LOCK_FILE}"


def keys(s3, output: str) -> list[str]:
    prefix = key(output).removesuffix(LOCK_FILE)
    found = s3.list_objects_v2(Bucket=BUCKET, Prefix=prefix).get("Contents", [])
    return [item["Key"].removeprefix(prefix) for item in found]


def record_of(s3, output: str) -> dict:
    return json.loads(s3.get_object(Bucket=BUCKET, Key=key(output))["Body"].read())


def plant(s3, output: str, **changes: object) -> bytes:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        pass
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
    s3.put_object(Bucket=BUCKET, Key=key(output), Body=text)
    return text


def test_the_store_changes_only_what_it_was_told_of(s3, output):
    store = open_store(output, timeout_seconds=5)
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


def test_held_renewed_and_released(s3, output):
    with hold(output, run_id="r1", lease_seconds=0.8) as held:
        first = record_of(s3, output)
        assert (first["run_id"], first["pid"]) == ("r1", os.getpid())
        assert "testing" not in json.dumps(first)  # the tests' credentials
        with pytest.raises(OutputHeld, match="run r1"), hold(output, run_id="r2"):
            pass
        time.sleep(1)
        held.check()
        assert record_of(s3, output)["heartbeat"] > first["heartbeat"] + 1
    assert keys(s3, output) == []


def test_released_after_an_error(s3, output):
    with pytest.raises(KeyboardInterrupt), hold(output, run_id="r"):
        raise KeyboardInterrupt
    assert keys(s3, output) == []


def test_a_dead_holder_of_this_machine_is_followed_at_once(s3, output):
    plant(s3, output)
    began = time.monotonic()
    with hold(output, run_id="next", lease_seconds=30) as held:
        assert time.monotonic() - began < 3
        held.check()
        assert record_of(s3, output)["run_id"] == "next"
    assert keys(s3, output) == []


@pytest.mark.parametrize("damaged", [False, True])
def test_one_from_elsewhere_is_watched_for_a_lease(s3, output, caplog, damaged):
    caplog.set_level("INFO", logger="motif")
    plant(s3, output, boot_id="another machine's")
    if damaged:
        s3.put_object(Bucket=BUCKET, Key=key(output), Body=b"{half")
    began = time.monotonic()
    with hold(output, run_id="next", lease_seconds=1):
        assert time.monotonic() - began >= 1
    ours = [record.getMessage() for record in caplog.records if record.name.startswith("motif")]
    assert ["waiting 1 s" in ours[0], "took over" in ours[1], len(ours)] == [True, True, 2]
    assert keys(s3, output) == []


def test_one_from_elsewhere_that_renews_is_not_waited_out(s3, output):
    plant(s3, output, boot_id="another machine's")
    again = threading.Timer(
        0.4, plant, (s3, output), {"boot_id": "another machine's", "heartbeat": 2}
    )
    again.start()
    began = time.monotonic()
    with (
        pytest.raises(OutputHeld, match="run planted"),
        hold(output, run_id="next", lease_seconds=10),
    ):
        pass
    again.join()
    assert time.monotonic() - began < 8
    assert record_of(s3, output)["run_id"] == "planted"


@pytest.mark.parametrize("loss", ["other", "removed"])
def test_a_lost_lock_is_told_and_left_as_it_is(s3, output, loss):
    with hold(output, run_id="mine", lease_seconds=2) as held:
        text = plant(s3, output)
        if loss == "removed":
            s3.delete_object(Bucket=BUCKET, Key=key(output))
        time.sleep(0.3)
        with pytest.raises(OutputHeld, match="this run lost its lock"):
            held.check()
    assert keys(s3, output) == ([LOCK_FILE] if loss == "other" else [])
    if loss == "other":
        assert s3.get_object(Bucket=BUCKET, Key=key(output))["Body"].read() == text


def test_four_that_race_for_a_dead_lock_are_in_it_one_at_a_time(s3, proxy, output, tmp_path):
    plant(s3, output)
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACER, output, str(tmp_path / "inside"), str(number)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(4)
    ]
    try:
        for racer in racers:
            assert racer.stdout
            assert racer.stdout.readline() == "ready\n"
        for racer in racers:
            assert racer.stdin
            racer.stdin.write("go\n")
            racer.stdin.flush()
        for number, racer in enumerate(racers):
            out, _ = racer.communicate(timeout=120)
            assert out == "was in\n"
            assert racer.returncode == (-signal.SIGKILL if number % 2 else 0)
    finally:
        for racer in racers:
            racer.kill()
            racer.communicate()


def without_conditions(method: str, headers: dict[str, str]) -> None:
    for name in [name for name in headers if name.lower() in ("if-match", "if-none-match")]:
        del headers[name]


def without_if_match(method: str, headers: dict[str, str]) -> None:
    headers.pop("If-Match", None)


def refusing(status: int, code: str, *, methods: tuple[str, ...] = ("PUT",)):
    def rule(method: str, headers: dict[str, str]) -> tuple[int, str] | None:
        conditional = any(name.lower() in ("if-match", "if-none-match") for name in headers)
        return (status, code) if conditional and method in methods else None

    return rule


@pytest.mark.parametrize("there", [False, True])
@pytest.mark.parametrize(
    ("rule", "words"),
    [
        (without_conditions, "it ignores the condition"),
        (without_if_match, "it ignores the condition"),
        (refusing(501, "NotImplemented"), "it answers 501 NotImplemented"),
        (refusing(400, "InvalidArgument"), "it answers 400 InvalidArgument"),
    ],
    ids=["ignores", "ignores-if-match", "501", "400"],
)
def test_an_endpoint_without_conditional_put_asks_for_single_writer(
    s3, proxy, output, rule, words, there
):
    if there:
        plant(s3, output)
    proxy.rule = rule
    with pytest.raises(OutputError) as caught, hold(output, run_id="r"):
        pass
    assert words in str(caught.value)
    assert "--single-writer" in str(caught.value)
    assert "\n" not in str(caught.value)
    # A dead run's record, that was not ours to remove, may stay.
    assert keys(s3, output) in ([], [LOCK_FILE] if there else [])
    with hold(output, run_id="r", single_writer=True, lease_seconds=0.4) as held:
        time.sleep(0.5)
        held.check()
        assert record_of(s3, output)["heartbeat"] > 1
    assert keys(s3, output) == []


def test_an_answer_that_is_lost_does_not_lose_the_lock(s3, proxy, output):
    """The client repeats the PUT, and the endpoint refuses it because of its first arrival."""
    lost: list[str] = []

    def rule(method: str, headers: dict[str, str]) -> str | None:
        kind = "If-None-Match" if "If-None-Match" in headers else "If-Match"
        if method != "PUT" or (kind in lost) or (kind == "If-Match" and not armed.is_set()):
            return None
        lost.append(kind)
        return "lose"

    armed = threading.Event()
    proxy.rule = rule
    with hold(output, run_id="r", lease_seconds=8) as held:
        armed.set()
        time.sleep(1.1)
        held.check()
        assert lost == ["If-None-Match", "If-Match"]
        assert held._age() < 1
    assert keys(s3, output) == []


def test_a_conflict_is_tried_again(s3, proxy, output):
    left = [3]

    def rule(method: str, headers: dict[str, str]) -> tuple[int, str] | None:
        if method == "PUT" and left[0]:
            left[0] -= 1
            return 409, "ConditionalRequestConflict"
        return None

    proxy.rule = rule
    with hold(output, run_id="r"):
        assert left == [0]


def test_an_endpoint_without_conditional_delete_is_released_all_the_same(s3, proxy, output):
    proxy.rule = refusing(501, "NotImplemented", methods=("DELETE",))
    with hold(output, run_id="r"):
        pass
    assert keys(s3, output) == []
    assert ("DELETE", "If-Match") in proxy.seen
    assert ("DELETE", "") in proxy.seen


def test_what_is_denied_is_one_line_and_no_matter_of_conditions(s3, proxy, output):
    for status, code in ((403, "AccessDenied"), (400, "ExpiredToken")):
        proxy.rule = refusing(status, code)
        with (
            pytest.raises(OutputError, match="cannot be locked: ") as caught,
            hold(output, run_id="r"),
        ):
            pass
        assert "single-writer" not in str(caught.value)
        assert "\n" not in str(caught.value)


def test_an_absent_bucket_is_one_line(s3):
    with (
        pytest.raises(OutputError, match=r"s3://no-such-bucket/x cannot be locked: .*bucket"),
        hold("s3://no-such-bucket/x", run_id="r"),
    ):
        pass


def test_an_outage_is_forgiven_for_one_lease(s3, proxy, output):
    with hold(output, run_id="r", lease_seconds=2) as held:
        proxy.rule = refusing(403, "AccessDenied")
        time.sleep(1)
        held.check()
        time.sleep(1.5)
        with pytest.raises(OutputHeld, match="could not renew its lock"):
            held.check()
        proxy.rule = lambda method, headers: None
        held.check()
    assert keys(s3, output) == []
