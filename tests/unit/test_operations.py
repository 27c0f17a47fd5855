"""What scheduled jobs need beside their steps: an end in time, a summary, word of it."""

import json
import logging
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from motif.artefacts.run import Recorder
from motif.errors import ChecksFailed, InputError, OutputHeld
from motif.operations import notify
from motif.operations.deadline import parse_duration
from motif.operations.summary import Summary

SECRET = "T000/very-secret"


@dataclass
class Webhook:
    """A server that answers with these codes, one after the other, then 200."""

    url: str
    codes: list[int]
    bodies: list[dict] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)


@pytest.fixture
def webhook() -> Iterator[Webhook]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            found.paths.append(self.path)
            body = self.rfile.read(int(self.headers["Content-Length"]))
            code = found.codes.pop(0) if found.codes else 200
            if code == 200:
                found.bodies.append(json.loads(body))
            self.send_response(code)
            if code == 302:
                self.send_header("Location", "/elsewhere")
            self.end_headers()

        do_GET = do_POST

        def log_message(self, *_: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found = Webhook(f"http://127.0.0.1:{server.server_port}/services/{SECRET}", [])
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield found
    server.shutdown()
    server.server_close()


# -- durations and deadlines --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("5h", 18000), ("90m", 5400), ("0.5h", 1800), ("30d", 2592000), ("1w", 604800), ("20s", 20)],
)
def test_durations(text, seconds):
    assert parse_duration(text, "--deadline") == timedelta(seconds=seconds)
    assert parse_duration(f" {text} ", "--deadline") == timedelta(seconds=seconds)


def test_no_duration_is_never():
    assert parse_duration("", "--x") is None
    assert parse_duration("never", "--x") is None


@pytest.mark.parametrize("text", ["5", "h", "-5h", "0h", "5 hours", "5h30m", "1e3s", "nan", "5y"])
def test_what_is_no_duration_is_refused(text):
    with pytest.raises(InputError, match=r"--deadline .*expected a number and s, m, h, d or w"):
        parse_duration(text, "--deadline")


def alone(script: str) -> subprocess.CompletedProcess[str]:
    """Run a script in a process of its own, whose signals and alarms are nobody else's."""
    head = """
import os, signal, time
from datetime import timedelta
from motif.command import exit_on_refusal
from motif.operations.deadline import ended_by
"""
    return subprocess.run([sys.executable, "-c", head + script], capture_output=True, text=True)


def test_a_deadline_ends_what_waits():
    began = time.monotonic()
    ended = alone("""
with exit_on_refusal(), ended_by(timedelta(seconds=0.2)):
    time.sleep(60)
""")
    assert ended.returncode == 7, ended
    assert ended.stderr == (
        "error: the deadline of 0:00:00.200000 passed;"
        " what was done is kept: the same command goes on\n"
    )
    assert time.monotonic() - began < 50


def test_whoever_catches_every_exception_does_not_catch_the_end():
    ended = alone("""
with exit_on_refusal(), ended_by(timedelta(seconds=0.2)):
    try:
        time.sleep(60)
    except Exception as error:
        raise ValueError("the checkpoint cannot be loaded") from error
""")
    assert ended.returncode == 7, ended
    assert ended.stderr.startswith("error: the deadline of 0:00:00.200000 passed;")


def test_an_end_that_was_lost_comes_again():
    ended = alone("""
from motif.operations import deadline
deadline.AGAIN_SECONDS = 0.5
class Deleted:
    def __del__(self): time.sleep(60)
with exit_on_refusal(), ended_by(timedelta(seconds=0.2)):
    Deleted()
    time.sleep(60)
""")
    assert ended.returncode == 7, ended
    assert "Exception ignored" in ended.stderr


def test_what_is_in_time_is_left_alone():
    ended = alone("""
def other(*_): raise AssertionError
signal.signal(signal.SIGALRM, other)
before = signal.getsignal(signal.SIGTERM)
try:
    with ended_by(timedelta(seconds=0.2)):
        raise KeyError
except KeyError:
    pass
assert signal.getitimer(signal.ITIMER_REAL)[0] == 0
assert signal.getsignal(signal.SIGALRM) is other
with ended_by(None):
    assert signal.getsignal(signal.SIGTERM) is not before
assert signal.getsignal(signal.SIGTERM) is before
time.sleep(0.5)
""")
    assert (ended.returncode, ended.stderr) == (0, "")


@pytest.mark.parametrize("deadline", ["None", "timedelta(seconds=300)"])
def test_another_s_alarm_is_kept(deadline):
    ended = alone(f"""
def other(*_): raise AssertionError
signal.signal(signal.SIGALRM, other)
signal.setitimer(signal.ITIMER_REAL, 600)
with ended_by({deadline}):
    pass
assert 500 < signal.getitimer(signal.ITIMER_REAL)[0] <= 600
assert signal.getsignal(signal.SIGALRM) is other
""")
    assert (ended.returncode, ended.stderr) == (0, "")


def test_sigterm_is_an_end_like_another():
    ended = alone("""
with exit_on_refusal(), ended_by(None):
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(60)
""")
    assert ended.returncode == 143
    assert ended.stderr == "error: told to stop; what was done is kept: the same command goes on\n"


# -- webhooks -----------------------------------------------------------------------------------


def test_a_summary_arrives(webhook, caplog):
    assert notify.send(webhook.url, {"text": "all is well", "exit_code": 0})
    assert webhook.bodies == [{"text": "all is well", "exit_code": 0}]
    assert caplog.text == ""


def test_a_webhook_that_fails_for_a_while_is_asked_again(webhook, monkeypatch):
    monkeypatch.setattr(notify, "LONGEST_WAIT_SECONDS", 0.01)
    webhook.codes = [503, 429]
    assert notify.send(webhook.url, {"text": "x"})
    assert len(webhook.paths) == 3


@pytest.mark.parametrize(("codes", "asked"), [([404], 1), ([302], 1), ([500] * 9, 4)])
def test_a_webhook_that_does_not_take_it_costs_nothing_and_is_not_named(
    webhook, monkeypatch, caplog, codes, asked
):
    monkeypatch.setattr(notify, "LONGEST_WAIT_SECONDS", 0.01)
    caplog.set_level(logging.DEBUG)
    webhook.codes = list(codes)
    assert notify.send(webhook.url, {"text": "x"}) is (codes == [302])
    assert len(webhook.paths) == asked
    assert "/elsewhere" not in webhook.paths
    ours = "".join(r.getMessage() for r in caplog.records if r.name.startswith("motif"))
    assert SECRET not in ours
    assert codes == [302] or "does not take the summary" in ours


def test_nobody_listens(monkeypatch, caplog):
    monkeypatch.setattr(notify, "LONGEST_WAIT_SECONDS", 0.01)
    assert not notify.send(f"http://127.0.0.1:9/{SECRET}", {"text": "x"})
    assert "http://127.0.0.1/... does not take the summary: ConnectionError" in caplog.text
    assert SECRET not in caplog.text


def test_the_webhook_is_the_flag_s_or_the_environment_s(monkeypatch):
    monkeypatch.setenv("MOTIF_WEBHOOK_URL", "https://hooks.example.com/b")
    assert notify.webhook_of("") == "https://hooks.example.com/b"
    assert notify.webhook_of("https://hooks.example.com/a") == "https://hooks.example.com/a"
    monkeypatch.delenv("MOTIF_WEBHOOK_URL")
    assert notify.webhook_of("") == ""
    for wrong in ("ftp://x/y", "secret-token", "file:///etc/passwd", "https:///x"):
        with pytest.raises(InputError) as told:
            notify.webhook_of(wrong)
        assert wrong not in str(told.value)


# -- summaries ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Config:
    webhook: str = ""


@pytest.fixture
def uri(tmp_path) -> str:
    return str(tmp_path / "refreshes" / "r.json")


def record(uri: str) -> dict:
    with open(uri) as file:  # noqa: PTH123 (a URI)
        return json.load(file)


def test_a_run_that_did_something_says_what(uri, webhook):
    config = Config(notify.redacted(webhook.url))
    summary = Summary(Recorder("refresh", config), uri, webhook.url)
    with summary.told():
        with summary.step("encode") as told:
            told["images"] = 3
            summary.did("3 images encoded")
        with summary.step("publish"):
            summary.did("version 2 is live")
    found = record(uri)
    assert (found["outcome"], found["exit_code"], found["error"]) == ("done", 0, None)
    assert found["steps"]["encode"]["images"] == 3
    assert found["steps"]["encode"]["outcome"] == "done"
    assert found["steps"]["publish"]["seconds"] >= 0
    assert found["text"].endswith(": 3 images encoded; version 2 is live")
    assert webhook.bodies == [found]
    assert SECRET not in json.dumps(found)


def test_a_run_with_nothing_to_do_says_so(uri):
    summary = Summary(Recorder("refresh", Config()), uri)
    with summary.told(), summary.step("encode"):
        pass
    assert record(uri)["outcome"] == "nothing new"
    assert "nothing new in" in record(uri)["text"]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ChecksFailed("version 3 does not go live"), 3),
        (InputError("no such bucket"), 2),
        (OutputHeld("by another"), 5),
        (OSError("LanceError(IO): Generic S3 error"), 2),
        (PermissionError("denied"), 2),
        (ZeroDivisionError("a bug"), 1),
        (KeyboardInterrupt(), 130),
    ],
)
def test_a_run_that_fails_says_where_and_why(uri, webhook, error, code):
    summary = Summary(Recorder("refresh", Config()), uri, webhook.url)
    with pytest.raises(type(error)), summary.told():
        with summary.step("encode"):
            summary.did("3 images encoded")
        with summary.step("publish"):
            raise error
    found = record(uri)
    assert (found["outcome"], found["exit_code"]) == ("failed", code)
    assert found["error"]["step"] == "publish"
    assert found["error"]["class"] == type(error).__name__
    assert str(error) in found["text"]
    assert f"FAILED in publish after 0 s, exit code {code}" in found["text"]
    assert "before that: 3 images encoded" in found["text"]
    assert webhook.bodies == [found]


def test_a_summary_that_cannot_be_written_does_not_hide_the_error(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    summary = Summary(Recorder("refresh", Config()), str(tmp_path / "file" / "r.json"))
    with pytest.raises(ChecksFailed), summary.told():
        raise ChecksFailed("no")
    assert "the summary cannot be written" in caplog.text
