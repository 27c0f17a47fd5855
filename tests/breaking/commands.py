"""Jobs in processes of their own: started, watched, killed, and what they left checked."""

import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from motif import schemas
from motif.artefacts import run, snapshot
from motif.artefacts.embeddings import Embeddings

ROOT = Path(__file__).parents[2]
GIVE_UP_SECONDS = 200.0
"""Of a run that takes a fifth of that on two busy cores."""
POLL_SECONDS = 0.005
RAYS_AGENTS = {"ray::DashboardAgent", "ray::RuntimeEnvAgent"}
CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_DEFAULT_REGION": "us-east-1",
}


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    text: str
    """Of both its outputs."""
    seconds: float

    @property
    def errors(self) -> list[str]:
        """Our own lines about what is wrong."""
        return [line for line in self.text.splitlines() if line.startswith("error: ")]

    def require_success(self) -> "Ended":
        assert self.code == 0, self.text
        assert "Traceback" not in self.text, self.text
        return self

    def require_refusal(self, code: int, *words: str) -> str:
        """Return the one line that says why it was refused."""
        assert self.code == code, self.text
        assert "Traceback" not in self.text, self.text
        assert len(self.errors) == 1, self.text
        [line] = self.errors
        assert self.text.splitlines()[-1] == line, self.text
        for word in words:
            assert word in line, line
        return line


class Job:
    """A running command; made by `running`."""

    def __init__(self, process: subprocess.Popen, log: Path) -> None:
        self._process = process
        self._log = log
        self._started = time.monotonic()

    @property
    def text(self) -> str:
        """What it has said so far."""
        return self._log.read_text(errors="replace")

    def family(self) -> list[psutil.Process]:
        """Return its process and all below it, among them a Ray of its own."""
        try:
            own = psutil.Process(self._process.pid)
            return [own, *own.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def wait_until(self, reached: Callable[[], object], *, timeout: float = 240.0) -> bool:
        """Wait; returns whether it came so far before it ended."""
        deadline = time.monotonic() + timeout
        while not reached():
            if self._process.poll() is not None:
                return False
            assert time.monotonic() < deadline, self.text
            time.sleep(POLL_SECONDS)
        return True

    def sigkill(self) -> list[psutil.Process]:
        """SIGKILL the driver alone; return the processes that it had started."""
        family = self.family()[1:]
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        return family

    def wait(self, *, timeout: float = GIVE_UP_SECONDS) -> Ended:
        """Wait for its end."""
        try:
            code = self._process.wait(timeout=timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {timeout:.0f} s:\n{self.text}") from None
        return Ended(code, self.text, time.monotonic() - self._started)


def encoding(images: Path, output: Path, encoder: str, *flags: str) -> list[str]:
    """Return the command that encodes."""
    command = [sys.executable, "-m", "jobs.encode_images", "--images", str(images)]
    return [*command, "--output", str(output), "--encoder", encoder, *flags]


@contextmanager
def running(command: Iterable[str], *, environment: dict[str, str], log: Path) -> Iterator[Job]:
    """Run a command while the block runs; what is left of it afterwards is killed by id."""
    with log.open("wb") as file:
        process = subprocess.Popen(
            list(command),
            **{"cwd": ROOT, "env": environment, "stdout": file, "stderr": file},
            start_new_session=True,
        )
        job = Job(process, log)
        try:
            yield job
        finally:
            kill_all(job.family())
            process.wait()


def kill_all(processes: Iterable[psutil.Process]) -> None:
    """SIGKILL processes of ours, and wait until they are gone."""
    processes = list(processes)
    for process in processes:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    _, alive = psutil.wait_procs(processes, timeout=30)
    assert not alive, alive


def write_manifest(uris: list[str], path: Path) -> Path:
    """Write a manifest of images whose folder is their creator."""
    creators = [uri.rsplit("/", 2)[-2] for uri in uris]
    pq.write_table(pa.table({"creator_id": creators, "uri": uris}), path)
    return path


def require_gone(orphans: Iterable[psutil.Process]) -> None:
    """Require that what a killed driver had started ends by itself; kill Ray's agents.

    For a minute they do nothing but try to tell the driver that its Ray is gone.
    """
    alive = list(orphans)
    deadline = time.monotonic() + 60
    while names := {_title(process) for process in alive} - {"", *RAYS_AGENTS}:
        assert time.monotonic() < deadline, names
        _, alive = psutil.wait_procs(alive, timeout=0.5)
    kill_all(alive)


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline()).strip()
    except psutil.NoSuchProcess:
        return ""


def staged_parts(output: Path) -> list[Path]:
    """Return the files of rows that a run has encoded so far."""
    return list(output.glob("_staging/*/bucket-*/embeddings-*.parquet"))


def staged_uris(output: Path) -> set[str]:
    """Return the images that a run has encoded so far."""
    return {uri for part in staged_parts(output) for uri in pq.read_table(part)["uri"].to_pylist()}


def require_once(
    output: Path, uris: Iterable[str], *, failed: Iterable[str] = ()
) -> tuple[pa.Table, pa.Table]:
    """Require a finished artefact that has each image once, here or there, and nothing else.

    Args:
        output: Of a run that has ended.
        uris: Of all images.
        failed: Of those that must be in FAILURES.

    Returns:
        EMBEDDINGS and FAILURES.
    """
    artefact = Embeddings.open(str(output))
    rows, failures = artefact.read(), artefact.read_failures()
    failed = Counter(failed)
    assert Counter(failures["uri"].to_pylist()) == failed
    assert Counter(rows["uri"].to_pylist()) + failed == Counter(uris)
    assert len(set(rows["image_id"].to_pylist())) == rows.num_rows
    assert artefact.counts["embedded"] == rows.num_rows
    assert artefact.counts["failed"] == failures.num_rows
    assert bool((abs((schemas.matrix(rows["embedding"]) ** 2).sum(axis=1) - 1) < 1e-3).all())
    names = {path.name for path in output.iterdir()}
    assert names <= {*(*snapshot.KINDS, "ids", snapshot.FOLDER), run.RUN_FILE}, names
    return rows, failures


def contents(folder: Path) -> dict[str, bytes]:
    """Return all files of a folder, to compare."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
