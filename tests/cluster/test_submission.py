"""Jobs that are submitted to a head as the README says, token and all, and what Prometheus sees."""

import json
import re
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from motif.artefacts.embeddings import Embeddings
from motif.on_ray import metrics
from tests import tiny_encoder
from tests.cluster import head as heads
from tests.cluster.head import BIN, ROOT, Head


@pytest.fixture(scope="module")
def head(tmp_path_factory) -> Iterator[Head]:
    with heads.running(tmp_path_factory.mktemp("head"), "--num-cpus=2") as running:
        yield running


class Scrapes:
    """Reads the metrics again and again, as Prometheus does: a job's are gone soon after it."""

    def __init__(self, head: Head) -> None:
        self.samples: dict[str, set[str]] = {}
        self._url = head.metrics
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._read, daemon=True)

    def __enter__(self) -> "Scrapes":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _read(self) -> None:
        while not self._ended.wait(0.5):
            try:
                text = requests.get(self._url, timeout=5).text
            except requests.RequestException:
                continue
            for line in text.splitlines():
                if match := re.match(r"(\w+)(\{.*\})? ", line):
                    self.samples.setdefault(match[1], set()).add(match[2] or "")


def make_submit(head: Head, job: str, *flags: str) -> subprocess.CompletedProcess[str]:
    """`make submit`, with the environment in place of the set-up."""
    return subprocess.run(
        ["make", "--silent", "submit", f"JOB={job}", f"ARGS={' '.join(flags)}", f"BIN={BIN}"],
        **{"cwd": ROOT, "env": head.environment, "capture_output": True, "text": True},
        timeout=300,
        check=False,
    )


@pytest.fixture(scope="module")
def encoded(head, tmp_path_factory, picture) -> tuple[Path, Scrapes, str]:
    folder = tmp_path_factory.mktemp("submitted")
    for number in range(40):
        path = folder / "library" / f"creator-{number % 4}" / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(number).save(path)
    (folder / "library" / "creator-0" / "bad.jpg").write_bytes(b"no image")
    encoder = tiny_encoder.build(folder / "tiny")
    with Scrapes(head) as scrapes:
        done = make_submit(
            head,
            "encode_images",
            *("--images", str(folder / "library"), "--output", str(folder / "out")),
            *("--encoder", encoder),
        )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "out", scrapes, done.stdout


def test_a_job_runs_where_it_was_submitted_to(encoded):
    output, _, told = encoded
    assert Embeddings.open(str(output)).counts["embedded"] == 40
    assert "40 encoded, 1 failed (not_an_image 1)" in told


def test_drivers_and_workers_run_what_was_submitted(head):
    code = (
        "import motif, ray; ray.init(logging_level='ERROR');"
        "there = ray.remote(lambda: __import__('motif').__file__);"
        "print('at', motif.__file__, ray.get(there.remote()))"
    )
    environment = {"env_vars": {"PYTHONPATH": "lib"}, "excludes": ["/.venv", "/tests"]}
    command = [str(BIN / "ray"), "job", "submit", "--working-dir", "."]
    command += ["--runtime-env-json", json.dumps(environment), "--", "python", "-c", code]
    done = subprocess.run(
        command,
        **{"cwd": ROOT, "env": head.environment, "capture_output": True, "text": True},
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    [line] = [line for line in done.stdout.splitlines() if line.startswith("at ")]
    driver, worker = line.split()[1:]
    assert driver == worker
    assert "/working_dir_files/" in driver
    assert not driver.startswith(str(ROOT))


def test_a_refusal_is_the_job_s_exit_code_and_its_last_words(head, tmp_path):
    flags = ("--images", "/nowhere", "--output", str(tmp_path), "--encoder", "lite")
    done = make_submit(head, "encode_images", *flags)
    assert done.returncode != 0
    assert "error: --images /nowhere does not exist" in done.stdout
    assert "Traceback" not in done.stdout


def test_nobody_submits_without_the_token(head):
    for told in ({}, {"Authorization": "Bearer wrong"}):
        answer = requests.post(
            f"{head.address}/api/jobs/", json={"entrypoint": "id"}, headers=told, timeout=10
        )
        assert answer.status_code in (401, 403)


def test_prometheus_finds_what_the_code_says_there_is(encoded):
    _, scrapes, _ = encoded
    of_encoding = [m for m in metrics.ALL if m not in (metrics.VERSION, metrics.PUBLISHED)]
    assert [m.exported for m in of_encoding if m.exported not in scrapes.samples] == []
    assert any('outcome="failed"' in s for s in scrapes.samples[metrics.IMAGES.exported])
    assert any(
        'error_class="not_an_image"' in s for s in scrapes.samples[metrics.FAILURES.exported]
    )
