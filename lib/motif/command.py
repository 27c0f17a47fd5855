"""What all commands share: flags from a dataclass, logging, and one clear line per refusal."""

import contextlib
import json
import logging
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any, Protocol, TypeVar

import tyro
from botocore.exceptions import BotoCoreError, ClientError

from motif.errors import InputError, MotifError

log = logging.getLogger("motif")


class JobConfig(Protocol):
    """What every job's configuration has."""

    @property
    def json(self) -> bool:
        """Print run.json on standard output."""
        ...


LOG_FORMAT = "MOTIF_LOG_FORMAT"
"""Environment variable: `text`, for a person, or `json`, a line a record."""

# Of the process, not of a context: threads log as well.
_run_id = ""

Config = TypeVar("Config", bound=JobConfig)

REFUSALS = (MotifError, BotoCoreError, ClientError, PermissionError)
"""What a user can mend; the last three are the storage's own words."""


def is_refusal(error: BaseException) -> bool:
    """Return whether it is the user's or the storage's to mend, and no mistake of ours.

    Lance and s3fs say with a plain OSError that a store failed; its subclasses, such as a file that
    is not there, are told apart where files are read.
    """
    plain = type(error) is OSError or isinstance(error, (ConnectionError, TimeoutError))
    return plain or isinstance(error, REFUSALS)


def run_job(
    main: Callable[[Config], dict[str, Any]], config_type: Callable[..., Config], *, name: str
) -> None:
    """Parse the command line, run the job, and exit with its code.

    A `MotifError` becomes one line on standard error; anything else is a bug of ours and keeps its
    traceback.

    Args:
        main: The job; returns its run.json.
        config_type: Dataclass of its flags.
        name: Command line to show in `--help`.
    """
    global _run_id
    _run_id = ""
    config = tyro.cli(config_type, prog=name, description=config_type.__doc__)
    with exit_on_refusal():
        log_to_stderr(job=name.rpartition(".")[2])
        # On standard output Ray prints what its daemons warn of; with --json, that is the record's.
        with contextlib.redirect_stdout(sys.stderr if config.json else sys.stdout):
            record = main(config)
        if config.json:
            sys.stdout.write(json.dumps(record, indent=2, ensure_ascii=False) + "\n")
            if sys.stdout is sys.__stdout__:
                # It also prints as the interpreter ends.
                sys.stdout.flush()
                sys.stdout = sys.stderr


def log_to_stderr(*, job: str = "motif") -> None:
    """Send our log lines, and others' warnings, to standard error.

    Args:
        job: Names the process in structured logs.

    Raises:
        InputError: MOTIF_LOG_FORMAT is neither `text` nor `json`.
    """
    wanted = os.environ.get(LOG_FORMAT, "text")
    if wanted not in ("text", "json"):
        raise InputError(f"{LOG_FORMAT}={wanted!r:.80}: expected text or json")
    logging.basicConfig(
        level=logging.WARNING, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", force=True
    )
    if wanted == "json":
        for handler in logging.root.handlers:
            handler.setFormatter(_json_formatter(job))
    logging.getLogger("motif").setLevel(logging.INFO)


def _json_formatter(job: str) -> logging.Formatter:
    # Here, since most who run a command read its log themselves.
    from pythonjsonlogger.json import JsonFormatter

    class WithRun(JsonFormatter):
        def process_log_record(self, log_data: dict[str, Any]) -> dict[str, Any]:
            return {**log_data, "job": job, "run_id": _run_id}

    return WithRun(
        "{levelname}{name}{message}",
        style="{",
        timestamp="time",
        rename_fields={"levelname": "level", "name": "logger"},
    )


def begin_run(run_id: str) -> None:
    """Name the run in structured logs; a job within a job goes by the outer one's name."""
    global _run_id
    _run_id = _run_id or run_id


@contextlib.contextmanager
def exit_on_refusal() -> Iterator[None]:
    """Turn a refusal inside the block into its exit code and one line on standard error."""
    try:
        yield
    except MotifError as error:
        _refuse(str(error))
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; run the same command again\n")
        sys.exit(130)
    except Exception as error:
        if not is_refusal(error):
            raise
        # The store says no: credentials, endpoint, permissions, or it fails for too long. A row's
        # own are caught before.
        text = " ".join(f"{type(error).__name__}: {error}".split())[:1000]
        _refuse(f"the storage cannot be used: {text}; run the same command again once it can")
        sys.exit(MotifError.exit_code)


def _refuse(text: str) -> None:
    text = printable(" ".join(text.split()))
    if os.environ.get(LOG_FORMAT) == "json":
        log.error("%s", text)
    else:
        sys.stderr.write(f"error: {text}\n")


def printable(text: str) -> str:
    """Return text that cannot move the cursor or colour the terminal, whoever wrote it."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def split_names(text: str) -> list[str]:
    """Return the names in a comma-separated flag."""
    return [name.strip() for name in text.split(",") if name.strip()]


def show_plan(plan: dict[str, Any], *, as_json: bool) -> dict[str, Any]:
    """Print what `--dry-run` found, for a person, unless `--json` will print it all."""
    if not as_json:
        for key, value in plan.items():
            shown = value.get("fingerprint", value) if isinstance(value, dict) else value
            if isinstance(shown, bool):
                shown = "yes" if shown else "no"
            text = f"{shown:,}" if isinstance(shown, int) else shown
            sys.stdout.write(f"{key.replace('_', ' '):40} {text}\n")
    return plan
