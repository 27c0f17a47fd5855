"""What all commands share: flags from a dataclass, logging, and one clear line per refusal."""

import contextlib
import json
import logging
import sys
from collections.abc import Callable, Iterator
from typing import Any, Protocol, TypeVar

import tyro
from botocore.exceptions import BotoCoreError, ClientError

from motif.errors import MotifError

log = logging.getLogger("motif")


class JobConfig(Protocol):
    """What every job's configuration has."""

    @property
    def json(self) -> bool:
        """Print run.json on standard output."""
        ...


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
    config = tyro.cli(config_type, prog=name, description=config_type.__doc__)
    log_to_stderr()
    with exit_on_refusal():
        # On standard output Ray prints what its daemons warn of; with --json, that is the record's.
        with contextlib.redirect_stdout(sys.stderr if config.json else sys.stdout):
            record = main(config)
        if config.json:
            sys.stdout.write(json.dumps(record, indent=2, ensure_ascii=False) + "\n")
            if sys.stdout is sys.__stdout__:
                # It also prints as the interpreter ends.
                sys.stdout.flush()
                sys.stdout = sys.stderr


def log_to_stderr() -> None:
    """Send our log lines, and others' warnings, to standard error."""
    logging.basicConfig(
        level=logging.WARNING, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", force=True
    )
    logging.getLogger("motif").setLevel(logging.INFO)


@contextlib.contextmanager
def exit_on_refusal() -> Iterator[None]:
    """Turn a refusal inside the block into its exit code and one line on standard error."""
    try:
        yield
    except MotifError as error:
        sys.stderr.write(f"error: {printable(' '.join(str(error).split()))}\n")
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; run the same command again\n")
        sys.exit(130)
    except Exception as error:
        if not is_refusal(error):
            raise
        # The store says no: credentials, endpoint, permissions, or it fails for too long. A row's
        # own are caught before.
        text = printable(" ".join(f"{type(error).__name__}: {error}".split()))
        sys.stderr.write(
            f"error: the storage cannot be used: {text[:1000]}; run the same command again once it"
            " can\n"
        )
        sys.exit(MotifError.exit_code)


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
