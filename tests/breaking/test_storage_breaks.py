"""The store of the images, or the disk of the output, breaks in the middle of a run."""

import contextlib
import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.breaking import commands
from tests.breaking.object_server import Mood

NAMESPACE = ("unshare", "--user", "--map-root-user", "--mount")


@pytest.mark.soak
def test_a_store_that_never_answers(start, server, tmp_path):
    """The run ends by itself, although every image might take an hour."""
    server.delay_seconds = 0.1
    output = tmp_path / "out"
    with start(
        output, *("--in-flight", "2", "--object-seconds", "3600"), *("--stall-seconds", "60")
    ) as job:
        assert job.wait_until(lambda: commands.staged_parts(output)), job.text
        server.mood = Mood.HANG
        family = job.family()
        ended = job.wait(timeout=150)
    ended.require_refusal(6, "decode did", "a process near s3://pictures/creator-", "60 s")
    _, alive = psutil.wait_procs(family, timeout=30)
    assert not alive, alive


@pytest.mark.soak
def test_a_store_that_denies_everything_and_is_mended(start, server, pictures, tmp_path):
    uris = [f"s3://pictures/{key}" for key in pictures.keys]
    manifest = commands.write_manifest(uris, tmp_path / "all.parquet")
    server.mood = Mood.DENY
    output = tmp_path / "out"
    with start(output, images=manifest) as job:
        ended = job.wait()
    line = ended.require_refusal(4, "denied", "such as s3://pictures/creator-", "403")
    # Judged by what was written: the decoders are ahead by as much as the encoder takes to start.
    judged = re.search(r"(\d+) of the first (\d+) images failed, of 2,000 planned", line)
    assert judged, line
    assert int(judged[1]) == int(judged[2]) <= 500
    server.mood = Mood.SERVE
    with start(output, images=manifest) as job:
        job.wait().require_success()
    commands.require_once(output, uris)


@contextlib.contextmanager
def write_protected(folder: Path) -> Iterator[None]:
    """Let nothing be created or deleted in a folder, whoever we are."""
    folders = [folder, *(path for path in folder.rglob("*") if path.is_dir())]
    if os.geteuid():
        for path in folders:
            path.chmod(0o555)
        yield
        for path in folders:
            path.chmod(0o755)
        return
    # Permission bits do not bind root.
    names = [str(path) for path in folders]
    done = subprocess.run(["chattr", "+i", *names], capture_output=True, text=True, check=False)
    try:
        if done.returncode:
            pytest.skip(f"root, and no immutable folders here: {done.stderr.strip()}")
        yield
    finally:
        subprocess.run(["chattr", "-i", *names], capture_output=True, check=False)


@pytest.mark.soak
def test_write_permission_is_taken_away(start, server, pictures, tmp_path):
    server.delay_seconds = 0.1
    output = tmp_path / "out"
    with start(output, "--in-flight", "2") as job:
        assert job.wait_until(lambda: len(commands.staged_parts(output)) >= 4), job.text
        with write_protected(output):
            server.delay_seconds = 0
            ended = job.wait()
    ended.require_refusal(2, str(output), "run the same command again")
    with start(output) as job:
        job.wait().require_success()
    commands.require_once(output, pictures.uris)


@pytest.mark.soak
def test_the_disk_of_the_output_is_full(start, server, pictures, tmp_path):
    """On a small file system in a mount namespace, which is gone with its last process."""
    if subprocess.run([*NAMESPACE, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no mount namespaces here")
    output, kept = tmp_path / "out", tmp_path / "kept"
    output.mkdir()
    script = f"""
        mount -t tmpfs -o size=200k none {shlex.quote(str(output))} || exit 99
        "$@"
        echo "exit code $?" >&2
        mount -o remount,size=100m {shlex.quote(str(output))}
        "$@" || exit
        cp -r {shlex.quote(str(output))} {shlex.quote(str(kept))}
    """
    with start(output, prefix=(*NAMESPACE, "sh", "-c", script, "sh")) as job:
        ended = job.wait()
    if ended.code == 99:
        pytest.skip(f"cannot mount a small file system here: {ended.text}")
    first, _, second = ended.text.partition("exit code ")
    code, _, second = second.partition("\n")
    commands.Ended(int(code), first, 0).require_refusal(
        2, str(output), "No space left on device", "run the same command again"
    )
    commands.Ended(ended.code, second, 0).require_success()
    commands.require_once(kept, pictures.uris)
