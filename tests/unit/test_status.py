"""`motif status`: what ran, what is running, how fast, what failed; for people and Prometheus."""

import json
import re
from datetime import UTC, datetime
from pathlib import Path

import pytest

from motif import cli, status
from motif.artefacts import lock
from motif.errors import InputError
from tests.synthetic import (
    make_space,
    publish,
    rows_of,
    themed,
    write_checkpoint,
    write_embeddings,
)

DIM = 8
PROGRESS = {
    "planned": 2000,
    "embedded": 1200,
    "failed_by_class": {"not_found": 3},
    "images_per_second": 41.5,
    "seconds_left": 19,
}


@pytest.fixture
def archive(tmp_path) -> Path:
    folder = tmp_path / "archive"
    write_embeddings(folder / "embeddings", rows_of(*themed(5, 3, DIM)), make_space(DIM))
    write_checkpoint(folder / "models" / "on-x", make_space(DIM))
    for day, code in ((1, 3), (2, 0)):
        summary = {
            "run_id": f"run-{day}",
            "started_at": f"2026-01-0{day}T02:00:00+00:00",
            "outcome": "failed" if code else "done",
            "exit_code": code,
            "seconds": 60.0,
            "error": None,
            "text": f"motif refresh run-{day}: {'FAILED' if code else 'done in 1 min'}",
        }
        path = folder / "refreshes" / f"run-{day}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(summary))
    return folder


@pytest.fixture
def table(tmp_path) -> str:
    uri = str(tmp_path / "db" / "creators.lance")
    model = write_checkpoint(tmp_path / "same", make_space(DIM))
    publish(uri, rows_of(*themed(5, 3, DIM)), model)
    return uri


def text(uri) -> str:
    return status.as_text(status.status_of(str(uri)))


def test_an_archive(archive):
    told = text(archive)
    assert told.startswith(f"{archive}\nrunning: nothing\n")
    assert "holds: 15 embedded, 0 failed, 0 removed, 5 creators" in told
    lines = told.splitlines()
    assert lines[-2].endswith("motif refresh run-2: done in 1 min")
    assert lines[-1].endswith("motif refresh run-1: FAILED")
    assert sum(line.startswith("model ") for line in lines) == 1


def test_who_works_and_how_fast(archive):
    with lock.hold(str(archive / "embeddings"), run_id="night", lease_seconds=0.4) as held:
        held.tell(PROGRESS)
        held._renew()
        told = text(archive / "embeddings")
        found = status.status_of(str(archive / "embeddings"))
    assert re.search(r"running: run night on \S+ since 20", told)
    assert "1,200 of 2,000 images encoded, 3 failed (not_found 3), 41.5 images/s, 19 s left" in told
    assert (found["running"]["state"], found["running"]["progress"]) == ("alive", PROGRESS)
    assert "running: nothing" in text(archive / "embeddings")


def test_a_run_that_was_killed_and_one_that_waits(archive):
    path = archive / "_lock.json"
    with lock.hold(str(archive), run_id="backfill") as held:
        held.tell({"paused_for": "run night (host a, pid 1)"})
        held._renew()
        assert "paused for run night (host a, pid 1)" in text(archive)
        record = json.loads(path.read_text())
    path.write_text(json.dumps({**record, "pid": 2**22 + 1}))
    assert "but its process is gone: the next run takes over" in text(archive)
    path.write_text(json.dumps({**record, "host": "elsewhere"}))
    assert f"last heard of at {record['heartbeat_at']}" in text(archive)


def test_a_table(table):
    told = text(table)
    assert re.search(r"live: version \d with 5 creators, published \d+ s ago; \d versions", told)
    assert "(live): 5 creators" in told
    found = status.status_of(table)
    assert found["live"]["rows"] == 5
    age = datetime.now(UTC) - datetime.fromisoformat(found["live_published_at"])
    assert 0 <= age.total_seconds() < 60


def test_metrics_that_go_on_between_jobs(table, archive):
    told = status.as_prometheus(status.status_of(table))
    values = dict(re.findall(r"^(\w+)\{uri=\"[^\"]+\"\} (\S+)$", told, re.MULTILINE))
    assert values["motif_live_creators"] == "5"
    assert values["motif_running"] == "0"
    assert (
        abs(float(values["motif_live_published_timestamp_seconds"]) - datetime.now().timestamp())
        < 60
    )
    told = status.as_prometheus(status.status_of(str(archive)))
    assert f'motif_refresh_exit_code{{uri="{archive}"}} 0' in told
    for line in told.splitlines():
        assert re.fullmatch(r"# (HELP|TYPE) \w+ .+|\w+\{uri=\".*\"\} [0-9.e+-]+", line), line


@pytest.mark.parametrize("name", ["nowhere", "empty", "nowhere.lance"])
def test_what_is_nothing_of_ours_is_refused(tmp_path, name):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"is no archive, artefact or table|does not exist"):
        status.status_of(str(tmp_path / name))


def test_the_command(archive, monkeypatch, capsys):
    for flags, wanted in (
        ((), "running: nothing"),
        (("--json",), '"kind": "archive"'),
        (("--prometheus",), "# TYPE motif_running gauge"),
    ):
        monkeypatch.setattr("sys.argv", ["motif", "status", "--output", str(archive), *flags])
        cli.main()
        assert wanted in capsys.readouterr().out
    monkeypatch.setattr(
        "sys.argv", ["motif", "status", "--output", str(archive), "--json", "--prometheus"]
    )
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 2
