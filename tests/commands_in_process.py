"""Running a job in this process as its command would, and looking at what it left."""

import logging
from pathlib import Path

import pytest

from motif import command


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def refused(monkeypatch, capfd, job, *flags: str) -> str:
    """Run a job as its command would; return what is on standard error."""
    monkeypatch.setattr("sys.argv", ["job", *flags])
    # Its handler would write to this test's standard error for the rest of the session.
    monkeypatch.setattr(logging.root, "handlers", [])
    with pytest.raises(SystemExit) as stop:
        command.run_job(job.main, job.Config, name="job")
    assert stop.value.code == 2
    told = capfd.readouterr()
    assert told.out == ""
    return told.err
