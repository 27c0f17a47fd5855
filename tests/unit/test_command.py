import json
from dataclasses import dataclass

import botocore.exceptions
import pytest

from motif import command, errors


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
