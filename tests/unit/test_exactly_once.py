"""Whatever the manifest, the failures and the moments of death: every row is accounted for once.

What runs leave is compared with a model: dictionaries that say in a few lines what a run means.
"""

import copy
import dataclasses
import json
import pathlib
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from motif.artefacts import embeddings, run
from motif.artefacts.embeddings import Embeddings
from motif.errors import InputError
from motif.images import manifest
from motif.images.plan import Decision
from tests.plain_run import (
    CLASSES,
    CREATORS,
    MISHAPS,
    PICTURES,
    Disk,
    Key,
    Kill,
    Killed,
    Row,
    Runner,
    Step,
    World,
    creator_name,
    vector_of,
)

Embedded = dict[Key, tuple[str, str | None, tuple[float, float]]]
"""Creator, version, vector."""
Failed = dict[Key, tuple[str, str | None, str]]
"""Creator, version, class."""


@dataclass
class Model:
    """What an artefact holds."""

    world: World
    live: Embedded = field(default_factory=dict)
    removed: Embedded = field(default_factory=dict)
    failed: Failed = field(default_factory=dict)
    rejected: list[str] = field(default_factory=list)

    def refuses(self, step: Step) -> bool:
        """Whether an id is given to a second creator; only a full manifest moves images."""
        known = {image: value[0] for (_, image), value in {**self.live, **self.failed}.items()}
        given = {self.world.image_id(row): creator_name(row.creator) for row in step.rows}
        clash = any(known.get(image, creator) != creator for image, creator in given.items())
        return clash and not step.full and not step.overwrite

    def apply(self, step: Step, number: int) -> Counter[str]:
        """Do what one run does; returns what becomes of each row of the manifest."""
        if step.overwrite:
            self.live, self.removed, self.failed = {}, {}, {}
        rows = {self.world.key(row): row for row in step.rows}
        seen = Counter(
            rows=sum(row.copies for row in step.rows) + step.broken_rows,
            duplicates=sum(row.copies - 1 for row in step.rows),
            rejected=step.broken_rows,
        )
        if step.full:
            for key in set(self.live) - set(rows):
                self.removed[key] = self.live.pop(key)
                seen["removed"] += 1
            for key in set(self.failed) - set(rows):
                del self.failed[key]
        for key, row in rows.items():
            what = self._what(key, row, step)
            seen[what] += 1
            if what in ("new", "changed", "retried"):
                self._settle(key, row, number)
            elif key in self.removed:
                self.live[key] = self.removed.pop(key)
        self.rejected = [f"#{number}" for number in range(step.broken_rows)]
        return seen

    def _what(self, key: Key, row: Row, step: Step) -> str:
        known = self.live.get(key) or self.removed.get(key) or self.failed.get(key)
        if known is None:
            return "new"
        creator, version, outcome = known
        # A manifest without versions cannot say that a file changed.
        if row.version not in (None, version) or creator != creator_name(row.creator):
            return "changed"
        if key not in self.failed:
            return "unchanged"
        wanted = step.retry is not None and (not step.retry or outcome in step.retry)
        return "retried" if wanted else "failed_before"

    def _settle(self, key: Key, row: Row, number: int) -> None:
        for state in (self.live, self.removed, self.failed):
            state.pop(key, None)
        creator = creator_name(row.creator)
        if failure := self.world.failure(row.picture, row.version, number):
            self.failed[key] = (creator, row.version, failure)
        else:
            self.live[key] = (creator, row.version, vector_of(key[1], row.version))


def read(artefact: Embeddings) -> tuple[Embedded, Failed, list[str]]:
    """Read all that a reader sees; each image must be there once."""
    rows, failures = artefact.read().to_pylist(), artefact.read_failures().to_pylist()
    rejected = [row for row in failures if row["error_class"] == "invalid_row"]
    failures = [row for row in failures if row["error_class"] != "invalid_row"]
    ids = Counter(row["image_id"] for row in (*rows, *failures))
    assert set(ids.values()) <= {1}, "an image is there twice"

    def by_key(rows: list[dict], value: Callable[[dict], Any]) -> dict[Key, tuple]:
        return {
            (manifest.bucket_of(row["creator_id"], artefact.buckets), row["image_id"]): (
                row["creator_id"],
                row["version"],
                value(row),
            )
            for row in rows
        }

    return (
        by_key(rows, lambda row: tuple(row["embedding"])),
        by_key(failures, lambda row: row["error_class"]),
        sorted(f"#{row['image_id'].rpartition('#')[2]}" for row in rejected),
    )


def committed(output: str) -> str | None:
    path = pathlib.Path(output) / run.RUN_FILE
    return json.loads(path.read_text())["run_id"] if path.exists() else None


def require_equal(output: str, model: Model) -> None:
    artefact = Embeddings.open(output)
    live, failed, rejected = read(artefact)
    assert live == model.live
    assert failed == model.failed
    assert rejected == model.rejected
    classes = Counter(error_class for _, _, error_class in model.failed.values())
    classes["invalid_row"] += len(model.rejected)
    expected = {
        "embedded": len(model.live),
        "failed": classes.total(),
        "removed": len(model.removed),
        "creators": len({creator for creator, _, _ in model.live.values()}),
        "failed_by_class": {name: n for name, n in sorted(classes.items()) if n},
    }
    assert artefact.snapshot.counts() == expected
    assert {name: artefact.counts[name] for name in expected} == expected


def require_seen(made: Sequence[Decision], record: dict[str, Any], seen: Counter[str]) -> None:
    """Check that a run said of each row of the manifest what becomes of it."""
    states = ("duplicates", "new", "changed", "retried", "unchanged", "failed_before")
    found = {name: sum(getattr(decision, name) for decision in made) for name in states}
    assert found == {name: seen[name] for name in states}
    assert sum(decision.removed for decision in made) == seen["removed"]
    assert record["counts"]["rows"] == sum(found.values()) + seen["rejected"] == seen["rows"]


def require_tidy(output: str) -> None:
    """Check that every file is one that readers of this snapshot or the last may hold."""
    root = pathlib.Path(output)
    files = {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}
    assert files == {run.RUN_FILE, *Embeddings.open(output).snapshot.names()}


def play(folder: pathlib.Path, world: World, steps: Sequence[Step]) -> None:
    """Run all steps, and compare after each run, whether it ended or was killed."""
    runner, model, disk = Runner(folder, world), Model(world), Disk()
    with pytest.MonkeyPatch.context() as patch:
        disk.patch(patch)
        for number, step in enumerate(steps):
            for kill in (*step.kills, *([] if step.abandoned else [None])):
                attempt(runner, model, disk, step, number, kill)


def attempt(
    runner: Runner, model: Model, disk: Disk, step: Step, number: int, kill: Kill | None
) -> None:
    """Run once and compare."""
    output, before = runner.output, committed(runner.output)
    reader = (Embeddings.open(output), copy.deepcopy(model)) if before else None
    record, refused = None, False
    with disk.dying(kill):
        try:
            record = runner.perform(step, number)
        except Killed:
            pass
        except InputError:
            refused = True
    if record or refused:
        assert refused == model.refuses(step)
    if committed(output) == runner.run_id:
        seen = model.apply(step, number)
        require_seen(runner.decisions, run.read(output, embeddings.ARTEFACT), seen)
    else:
        assert committed(output) == before
        assert not record
    if committed(output):
        require_equal(output, model)
    else:
        with pytest.raises(InputError):
            Embeddings.open(output)
    if record:
        require_tidy(output)
    if reader:
        opened, then = reader
        assert read(opened) == (then.live, then.failed, then.rejected), "a reader was disturbed"
    runner.look_into_staging()


versions = st.sampled_from([None, "1", "2"])
kills = st.builds(Kill, at=st.integers(0, 40), when=st.sampled_from(["before", "after", "halfway"]))
steps = st.builds(
    Step,
    rows=st.lists(
        st.builds(
            Row,
            picture=st.integers(0, PICTURES - 1),
            creator=st.integers(0, CREATORS - 1),
            version=versions,
            copies=st.integers(1, 2),
        ),
        min_size=1,
        max_size=PICTURES,
        unique_by=lambda row: row.picture,
    ).map(tuple),
    broken_rows=st.integers(0, 2),
    full=st.booleans(),
    retry=st.sampled_from([None, None, (), ("timeout",), ("timeout", "truncated")]),
    overwrite=st.sampled_from([False] * 7 + [True]),
    kills=st.lists(kills, max_size=2).map(tuple),
    abandoned=st.booleans(),
    part_rows=st.integers(1, 4),
    mishap=st.sampled_from(list(MISHAPS)),
)
worlds = st.builds(
    World,
    buckets=st.integers(1, 3),
    own_ids=st.booleans(),
    failing=st.dictionaries(
        st.tuples(st.integers(0, PICTURES - 1), versions),
        st.tuples(st.sampled_from(CLASSES), st.integers(1, 5)),
        max_size=8,
    ),
)


def rows_of(text: str) -> tuple[Row, ...]:
    """Read rows such as `4@1:2`: picture 4 of creator 1 in version 2."""
    rows = []
    for word in text.split():
        place, _, version = word.partition(":")
        picture, creator = place.split("@")
        rows.append(Row(int(picture), int(creator), version or None))
    return tuple(rows)


# Picture 2 is mended in the second step; what becomes of the others is in the rows.
EVENTFUL = World(
    buckets=2, own_ids=True, failing={(2, "1"): ("timeout", 1), (3, "1"): ("not_found", 9)}
)
FIRST = Step(rows_of("0@0:1 1@0:1 2@1:1 3@1:1 4@2:1 5@2:1 6@0:1"), broken_rows=1)
SECOND = Step(
    rows_of("0@0:1 1@0:2 2@1:1 3@1:1 4@0:1 6@1:1 7@2:1"), broken_rows=1, full=True, retry=()
)
THIRD = Step(rows_of("5@2:2 4@2:1 6@0:1 1@0:2 3@1:2 0@0"), mishap="interrupted, repeated")
AGAIN = dataclasses.replace(FIRST, overwrite=True)


@settings(max_examples=60, deadline=None)
@example(world=EVENTFUL, story=[FIRST, SECOND, dataclasses.replace(THIRD, full=True), SECOND])
@example(world=World(), story=[FIRST, THIRD, SECOND, THIRD])
@given(world=worlds, story=st.lists(steps, min_size=1, max_size=4))
def test_every_row_is_accounted_for_once(tmp_path_factory, world, story):
    folder = tmp_path_factory.mktemp("once")
    play(folder, world, story)
    shutil.rmtree(folder)


@pytest.mark.parametrize(
    ("before", "step"),
    [([], FIRST), ([FIRST], SECOND), ([FIRST, SECOND], AGAIN)],
    ids=["first", "changes", "overwrite"],
)
def test_a_run_may_die_at_any_moment(tmp_path, before, step):
    disk = Disk()
    with pytest.MonkeyPatch.context() as patch:
        disk.patch(patch)
        base, model = Runner(tmp_path / "base", EVENTFUL), Model(EVENTFUL)
        base.folder.mkdir()
        for number, earlier in enumerate(before):
            attempt(base, model, disk, earlier, number, None)

        def resume(name: str, kill: Kill | None) -> None:
            runner = Runner(tmp_path / name, EVENTFUL)
            shutil.copytree(base.folder, runner.folder)
            then = copy.deepcopy(model)
            for one in [kill, None] if kill else [None]:
                attempt(runner, then, disk, step, len(before), one)

        resume("whole", None)
        for at, what in enumerate(disk.changes.copy()):
            resume(f"before-{at}", Kill(at, "before"))
            if what == "remove":
                resume(f"halfway-{at}", Kill(at, "halfway"))
    assert "write" in disk.changes
