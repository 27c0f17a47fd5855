"""publish_creators killed, raced and read all the while: readers see whole versions alone."""

import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import lance
import pyarrow as pa
import pytest

from motif.artefacts.lock import LOCK_FILE
from motif.encoder.encoder import Encoder
from motif.encoder.source import resolve
from motif.errors import OutputHeld
from motif.table import LIVE, CreatorTable
from tests.breaking import commands
from tests.synthetic import grow_embeddings, rows_of, themed, write_checkpoint, write_embeddings

LITE_DIM = 384
CREATORS = 150
PHASES = {
    "drafting": "creators.motif/staging/*/creators-*.parquet",
    "writing": "creators.lance/data/*.lance",
    "committing": "creators.lance/_versions/*.manifest",
    "indexing": "creators.lance/_indices/*/*",
    "recording": "creators.motif/publishes/*.json",
}
"""What a publish writes first in each of its phases."""


class Place:
    """EMBEDDINGS, a model and a table in one folder; attributes mark all rows of a version."""

    def __init__(self, folder: Path, space) -> None:
        self.folder = folder
        ids, vectors = themed(CREATORS, 3, LITE_DIM)
        self.rows = rows_of(ids, vectors)
        self.embeddings = write_embeddings(folder / "embeddings", self.rows, space, buckets=8)
        self.model = write_checkpoint(folder / "same", space)
        self.table = folder / "creators.lance"
        (folder / "words.txt").write_text("vivid\n")
        self._started = 0

    def mark(self, number: int) -> None:
        """Give every creator, and those to come, this number."""
        ids = [f"creator-{i:03d}" for i in range(CREATORS)] + [f"new-{i:03d}" for i in range(200)]
        text = "".join(f"{creator},{number}\n" for creator in ids)
        (self.folder / "marks.csv").write_text(f"creator_id,mark\n{text}")

    def grow(self, number: int) -> None:
        """Add an image to two creators, and two creators."""
        ids = ["creator-003", "creator-004", f"new-{2 * number:03d}", f"new-{2 * number + 1:03d}"]
        added = rows_of(ids, themed(4, 1, LITE_DIM, seed=number)[1])
        names = pa.array([f"{name}-{number}" for name in added["image_id"].to_pylist()])
        grow_embeddings(self.embeddings, added.set_column(0, added.schema.field("image_id"), names))

    def start(self, *flags: str) -> AbstractContextManager[commands.Job]:
        self._started += 1
        command = [sys.executable, "-m", "jobs.publish_creators", "--embeddings", self.embeddings]
        command += ["--model", self.model, "--table", str(self.table)]
        command += ["--adjectives", str(self.folder / "words.txt")]
        command += ["--attributes", str(self.folder / "marks.csv"), *flags]
        environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_AD")}
        log = self.folder / f"log-{self._started}.txt"
        return commands.running(command, environment=environment, log=log)

    def publish(self, *flags: str) -> commands.Ended:
        with self.start(*flags) as job:
            return job.wait()

    def live(self) -> pa.Table:
        return lance.dataset(str(self.table), version=LIVE).to_table(
            columns=["creator_id", "image_count", "mark"]
        )

    def new_of(self, phase: str) -> Callable[[], bool]:
        """Return what says whether a publish has come to a phase."""
        before = set(self.folder.glob(PHASES[phase]))
        return lambda: bool(set(self.folder.glob(PHASES[phase])) - before)


@pytest.fixture(scope="session")
def lite_space():
    return Encoder(resolve("lite")).space


@pytest.fixture
def place(tmp_path, lite_space) -> Place:
    made = Place(tmp_path, lite_space)
    made.mark(0)
    made.publish().require_success()
    return made


def require_whole(place: Place, mark: int, creators: int) -> None:
    """Require every creator once, with one mark, and nothing of a publish that was cut off."""
    rows = place.live()
    assert rows.num_rows == len(set(rows["creator_id"].to_pylist())) == creators
    assert set(rows["mark"].to_pylist()) == {mark}
    beside = place.folder / "creators.motif"
    assert not (beside / "staging").exists()
    assert not (beside / LOCK_FILE).exists()


def kill_in(place: Place, phase: str, *flags: str) -> bool:
    """SIGKILL a publish as it comes to a phase; return whether it came so far."""
    with place.start(*flags) as job:
        reached = job.wait_until(place.new_of(phase))
        if reached:
            commands.require_gone(job.sigkill())
    return reached


@contextmanager
def reading(place: Place) -> Iterator[list[str]]:
    """Query `live` in a loop while the block runs; yields what was wrong, and one `read` each."""
    told: list[str] = []
    ended = threading.Event()

    def read() -> None:
        while not ended.is_set():
            try:
                table = CreatorTable.open(str(place.table))
                rows = lance.dataset(str(place.table), version=table.version).to_table(
                    columns=["creator_id", "mark"]
                )
                marks = set(rows["mark"].to_pylist())
                near = table.lookalikes("creator-007", k=20)
                if len(marks) != 1 or near.num_rows != 20:
                    told.append(f"a mixture: marks {marks}, {near.num_rows} lookalikes")
                if len(set(near["creator_id"].to_pylist())) != 20:
                    told.append("a lookalike came twice")
                told.append("read")
                ended.wait(0.2)
            except Exception as error:  # noqa: BLE001 (whatever it is, a reader must not see it)
                told.append(repr(error))

    thread = threading.Thread(target=read)
    thread.start()
    try:
        yield told
    finally:
        ended.set()
        thread.join()


def killed_between_commit_and_live(place: Place) -> int:
    """Grow, and kill a publish after it has committed; return how often that was tried.

    On a busy machine a publish may be through before this process has seen it commit.
    """
    for attempt in range(1, 5):
        before = place.live()
        place.mark(attempt)
        place.grow(attempt)
        kill_in(place, "committing")
        latest = lance.dataset(str(place.table)).version
        if latest > lance.dataset(str(place.table), version=LIVE).version:
            assert place.live().equals(before)
            return attempt
    raise AssertionError("it was always killed too early or too late")


def test_readers_see_whole_versions_whatever_is_killed_and_whoever_races(place):
    with reading(place) as told:
        grown = killed_between_commit_and_live(place)
        # Of two publishers one completes it, and the other is told; more races are in `soak`.
        with place.start() as first, place.start() as second:
            ended = [job.wait() for job in (first, second)]
        winner, loser = sorted(ended, key=lambda one: one.code)
        winner.require_success()
        if loser.code:  # where it came late, there was nothing left to do
            loser.require_refusal(OutputHeld.exit_code, "is held by run")
        else:
            assert sum("is up to date" in one.text for one in ended) == 1
        require_whole(place, grown, CREATORS + 2 * grown)
        place.mark(99)
        place.publish("--full").require_success()
    assert [one for one in told if one != "read"] == []
    assert len(told) > 10
    require_whole(place, 99, CREATORS + 2 * grown)
    rows = place.live()
    counts = dict(zip(*(rows[c].to_pylist() for c in ("creator_id", "image_count")), strict=True))
    assert (counts["creator-003"], counts["creator-005"], counts["new-002"]) == (
        *(3 + grown, 3, 1),
    )
