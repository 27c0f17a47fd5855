"""The driver is killed, or a second one comes along."""

import pytest

from motif.artefacts.lock import LOCK_FILE
from tests.breaking import commands


def test_a_killed_driver_is_resumed_and_leaves_no_process(start, server, pictures, tmp_path):
    server.delay_seconds = 0.1
    output = tmp_path / "out"
    with start(output, "--in-flight", "2") as job:
        assert job.wait_until(lambda: len(commands.staged_parts(output)) >= 8), job.text
        orphans = job.sigkill()
    staged = commands.staged_uris(output)
    assert 0 < len(staged) < len(pictures.uris)
    assert (output / LOCK_FILE).exists()
    server.delay_seconds = 0
    server.reads.clear()
    with start(output) as job:
        ended = job.wait().require_success()
    commands.require_once(output, pictures.uris)
    again = len(staged & {f"s3://pictures/{key}" for key in server.reads})
    assert f"{len(staged)} encoded by a run cut off" in ended.text
    assert again == 0
    commands.require_gone(orphans)


@pytest.mark.soak
def test_a_second_run_is_refused_and_the_first_one_ends(start, server, pictures, tmp_path):
    server.delay_seconds = 1.0
    output = tmp_path / "out"
    with start(output, "--in-flight", "1") as first:
        assert first.wait_until((output / LOCK_FILE).exists), first.text
        with start(output) as second:
            ended = second.wait()
        server.delay_seconds = 0
        first.wait().require_success()
    line = ended.require_refusal(5, str(output), "is held by run", "wait until it ends")
    assert len(ended.text.splitlines()) == 1, line
    commands.require_once(output, pictures.uris)
