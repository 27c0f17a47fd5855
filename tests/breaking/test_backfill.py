"""jobs.backfill beside a live archive: it gives way, goes on, keeps to its limits, and switches."""

import os
import re
import sys
import time

import pytest

from motif.artefacts import lock
from motif.artefacts.archive import Archive
from motif.artefacts.embeddings import Embeddings
from motif.table import CreatorTable, TableUri, versions
from tests.breaking import commands
from tests.synthetic import make_space, publish, rows_of, themed, write_checkpoint, write_embeddings

CREATORS = 20
READS_PER_SECOND = 20.0
BUSY_SECONDS = 6.0


@pytest.fixture
def beside(tmp_path) -> Archive:
    """The live archive: its EMBEDDINGS and model, of the same creators in another space."""
    archive = Archive.at(str(tmp_path / "live"))
    ids, vectors = themed(CREATORS, 4, 8)
    ids = [f"creator-{int(name[-3:]):02d}" for name in ids]
    space = make_space(8)
    write_embeddings(archive.embeddings, rows_of(ids, vectors), space)
    model = write_checkpoint(archive.model_on("x"), space, test_fraction=0.5)
    publish(tmp_path / "db" / "creators.lance", rows_of(ids, vectors), model)
    return archive


def most_within(times: list[float], seconds: float) -> int:
    return max(sum(t <= other < t + seconds for other in times) for t in times)


def test_it_gives_way_and_goes_on_and_is_switched_to(pictures, server, beside, tmp_path, encoder):
    output, table = tmp_path / "new", tmp_path / "db" / "creators.lance"
    live = next(v.version for v in versions.list_versions(TableUri.parse(str(table))) if v.live)
    (tmp_path / "words.txt").write_text("vivid\n")
    command = [sys.executable, "-m", "jobs.backfill", "--images", str(pictures.manifest)]
    command += ["--output", str(output), "--beside", beside.uri, "--table", str(table)]
    command += ["--encoder", encoder, "--allow", "s3://pictures", "--endpoint-url", server.url]
    command += ["--reads-per-second", str(READS_PER_SECOND), "--test-fraction", "0.5"]
    command += ["--adjectives", str(tmp_path / "words.txt")]
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_AD", "AWS_"))}
    environment |= commands.CREDENTIALS

    with commands.running(command, environment=environment, log=tmp_path / "log.txt") as job:
        assert job.wait_until(lambda: commands.staged_parts(output / "embeddings")), job.text
        with lock.hold(beside.uri, run_id="nightly"):  # as a refresh does
            assert job.wait_until(lambda: "paused for run nightly" in job.text), job.text
            time.sleep(BUSY_SECONDS)
        ended = job.wait(timeout=300)
    ended.require_success()
    assert "gives way to run nightly" in ended.text
    assert set(re.findall(r"on (\d+) CPUs and 0 GPUs", ended.text)) == {"1"}, "half of two"
    assert re.search(r"\d+\.\d% of the archive", ended.text), ended.text

    rows = Embeddings.open(str(output / "embeddings")).read(["uri"])
    assert sorted(rows["uri"].to_pylist()) == sorted(pictures.uris)
    # Turns are evenly spaced; what waits for its first connection then comes at once.
    assert most_within(server.times, 5) <= 1.3 * 5 * READS_PER_SECOND
    # What was staged before it gave way was not read again, but for what was under way.
    assert sum(server.reads.values()) < 1.6 * len(pictures.uris)

    [summary] = Archive.at(str(output)).summaries()
    assert summary["steps"]["encode"]["paused_seconds"] >= 5
    assert summary["steps"]["compare"]["outcome"] in ("done", "left out")
    where = TableUri.parse(str(table))
    listed = {tag: v.version for v in versions.list_versions(where) for tag in v.tags}
    assert listed["live"] == live
    assert len(CreatorTable.open(str(table), "candidate")) == CREATORS
    versions.promote(where)
    assert CreatorTable.open(str(table)).space["encoder"]["encoder"].startswith("custom-")
    versions.rollback(where, "previous")
    assert CreatorTable.open(str(table)).version == live
