import json
import logging
from dataclasses import dataclass
from datetime import datetime

import botocore.exceptions
import pytest

from motif import command, errors
from motif.artefacts.run import Recorder


@dataclass(frozen=True, kw_only=True)
class Config:
    """Add up."""

    number: int = 1
    """What to add."""
    json: bool = False
    """Print run.json on standard output."""


def run(monkeypatch, main, *flags: str) -> int:
    monkeypatch.setattr("sys.argv", ["job", *flags])
    try:
        command.run_job(main, Config, name="job")
    except SystemExit as stop:
        return stop.code
    return 0


def test_json_prints_the_record_and_nothing_else(monkeypatch, capsys):
    record = {"z": 1, "a": "Москва"}
    assert run(monkeypatch, lambda config: record, "--json") == 0
    out = capsys.readouterr().out
    assert json.loads(out) == record
    assert "Москва" in out
    assert run(monkeypatch, lambda config: record) == 0
    assert capsys.readouterr().out == ""


def refuse(error: BaseException):
    def main(config: Config) -> dict:
        raise error

    return main


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.InputError("bad\n  value 7"), 2),
        (errors.ContractError("bad value 7"), 2),
        (errors.TooManyFailures("bad value 7"), 4),
        (PermissionError(13, "bad value 7"), 2),
        (botocore.exceptions.NoCredentialsError(), 2),
        (botocore.exceptions.EndpointConnectionError(endpoint_url="http://bad value 7"), 2),
        (KeyboardInterrupt(), 130),
    ],
)
def test_refusal_is_one_line_and_an_exit_code(monkeypatch, capsys, error, code):
    assert run(monkeypatch, refuse(error)) == code
    captured = capsys.readouterr()
    assert len(captured.err.splitlines()) == 1
    assert captured.out == ""


def test_bugs_keep_their_traceback(monkeypatch):
    with pytest.raises(ZeroDivisionError):
        run(monkeypatch, refuse(ZeroDivisionError()))


def test_help_explains_every_flag(monkeypatch, capsys):
    assert run(monkeypatch, lambda config: {}, "--help") == 0
    out = capsys.readouterr().out
    assert "What to add." in out
    assert "--number" in out


def test_unknown_flag_is_a_usage_error(monkeypatch):
    assert run(monkeypatch, lambda config: {}, "--nonsense", "1") == 2


def test_names_of_a_flag():
    assert command.split_names(" a, b,,c ") == ["a", "b", "c"]
    assert command.split_names("") == []


def test_structured_logs_name_the_run_and_the_job(monkeypatch, capsys):
    monkeypatch.setenv("MOTIF_LOG_FORMAT", "json")

    def main(config: Config) -> dict:
        Recorder("outer", config, run_id="run-1")
        Recorder("inner", config, run_id="run-2")  # a job within it
        logging.getLogger("motif.x").info("did %d", 3)
        raise errors.ChecksFailed("no\n good")

    command.begin_run("of a job before in this process")
    assert run(monkeypatch, main) == 3
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [(one["level"], one["message"]) for one in lines] == [
        ("INFO", "did 3"),
        ("ERROR", "no good"),
    ]
    assert {(one["run_id"], one["job"]) for one in lines} == {("run-1", "job")}
    assert all(datetime.fromisoformat(one["time"]).tzinfo for one in lines)


def test_an_unknown_form_of_logs_is_refused(monkeypatch, capsys):
    monkeypatch.setenv("MOTIF_LOG_FORMAT", "xml")
    assert run(monkeypatch, refuse(errors.InputError("never"))) == 2
    assert "MOTIF_LOG_FORMAT='xml': expected text or json" in capsys.readouterr().err


@pytest.mark.parametrize(
    "error",
    [
        OSError("LanceError(IO): Generic S3 error: 503"),
        ConnectionResetError("by peer"),
        TimeoutError("late"),
    ],
)
def test_a_store_that_fails_is_one_line(monkeypatch, capsys, error):
    assert run(monkeypatch, refuse(error)) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("error: the storage cannot be used: ")
    assert line.endswith("run the same command again once it can")


@pytest.mark.parametrize("error", [FileNotFoundError("x"), ZeroDivisionError(), KeyError("x")])
def test_a_mistake_of_ours_keeps_its_traceback(monkeypatch, error):
    with pytest.raises(type(error)):
        run(monkeypatch, refuse(error))
