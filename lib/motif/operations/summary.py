"""What a scheduled job did, step by step: written where its archive is, and posted to a webhook."""

import contextlib
import logging
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import motif
from motif import storage
from motif.artefacts.run import Recorder
from motif.command import REFUSALS, is_refusal
from motif.errors import MotifError
from motif.operations import notify
from motif.progress import duration

log = logging.getLogger(__name__)

DONE, NOTHING_NEW, FAILED = "done", "nothing new", "failed"


class Summary:
    """Collects what is told at the end."""

    def __init__(self, recorder: Recorder, uri: str, webhook: str = "") -> None:
        """Begin.

        Args:
            recorder: Of the job: its run id, start and configuration, without secrets.
            uri: Of the file to write.
            webhook: Where to post it; empty for nowhere.
        """
        self._recorder, self._uri, self._webhook = recorder, uri, webhook
        self._began = time.monotonic()
        self.steps: dict[str, dict[str, Any]] = {}
        self.outcome = NOTHING_NEW
        self.sentences: list[str] = []
        """For a person: what was done."""

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[dict[str, Any]]:
        """Time a step; what the block puts into the dictionary is told as well."""
        told = self.steps.setdefault(name, {})
        began = time.monotonic()
        try:
            yield told
            told.setdefault("outcome", DONE)
        except BaseException:
            told["outcome"] = FAILED
            raise
        finally:
            told["seconds"] = round(time.monotonic() - began, 3)

    def did(self, sentence: str) -> None:
        """Say that the run changed something."""
        self.outcome = DONE
        self.sentences.append(sentence)

    @contextlib.contextmanager
    def told(self) -> Iterator[None]:
        """Write and post the summary at the block's end, however it ends."""
        error: BaseException | None = None
        try:
            yield
        except BaseException as caught:
            error = caught
            raise
        finally:
            self._finish(error)

    def _finish(self, error: BaseException | None) -> None:
        seconds = time.monotonic() - self._began
        record: dict[str, Any] = {
            "artefact": self._recorder.artefact,
            "motif_version": motif.__version__,
            "run_id": self._recorder.run_id,
            "started_at": self._recorder.started_at.isoformat(timespec="seconds"),
            "finished_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "config": self._recorder.told_config(),
            "outcome": self.outcome if error is None else FAILED,
            "exit_code": exit_code_of(error),
            "error": None,
            "seconds": round(seconds, 3),
            "steps": self.steps,
        }
        if error is not None:
            failed = [name for name, told in self.steps.items() if told.get("outcome") == FAILED]
            record["error"] = {
                "step": failed[-1] if failed else None,
                "class": type(error).__name__,
                "message": " ".join(str(error).split())[:2000],
            }
        record["text"] = self._text(record, seconds)
        try:
            storage.write_json(self._uri, record)
        except REFUSALS as refusal:
            # The run's own error says more, if there is one.
            log.error("the summary cannot be written: %s", refusal)
            if error is None:
                raise
        if self._webhook:
            notify.send(self._webhook, record)

    def _text(self, record: dict[str, Any], seconds: float) -> str:
        what = f"motif {record['artefact']} {record['run_id']}"
        took = duration(seconds)
        done = "; ".join(self.sentences)
        if record["error"] is None:
            return f"{what}: {record['outcome']} in {took}{f': {done}' if done else ''}"
        at = f" in {record['error']['step']}" if record["error"]["step"] else ""
        return (
            f"{what}: FAILED{at} after {took}, exit code {record['exit_code']}:"
            f" {record['error']['message'][:500]}{f' (before that: {done})' if done else ''}"
        )


def exit_code_of(error: BaseException | None) -> int:
    """Return the exit code of a process that ends with an error."""
    if error is None:
        return 0
    if isinstance(error, MotifError):
        return error.exit_code
    if is_refusal(error):
        return MotifError.exit_code
    if isinstance(error, KeyboardInterrupt):
        return 130
    return 1
