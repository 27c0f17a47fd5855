"""Runs of encode_images without Ray, made of the plain functions, that can be killed.

`Runner.perform` does what on_ray/encoding_run.py does with tasks, and a stub encodes: whether a
picture fails, and its vector, are functions of the picture and its version.
"""

import contextlib
import hashlib
import pathlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from motif import schemas, storage
from motif.artefacts import embeddings, partitions, run, snapshot, staging, update
from motif.artefacts.snapshot import Snapshot
from motif.errors import InputError
from motif.images import manifest, plan, reposts, settle, source
from motif.images.plan import Decision, Request
from motif.space import Preprocess, Space

SCHEMA = schemas.embeddings(2)
SPACE = Space(
    encoder="stub",
    weights_sha256="0" * 64,
    preprocess=Preprocess(
        size=8, mean=(0, 0, 0), std=(1, 1, 1), interpolation="bicubic", resize_mode="squash"
    ),
    dim=2,
)
PICTURES, CREATORS = 12, 3
CLASSES = ("not_found", "timeout", "truncated")
# What becomes of an image each time that Ray does its task: it is encoded, or a failure is staged
# that is void since another attempt encodes it.
MISHAPS = {
    "none": ("encoded",),
    "repeated": ("encoded", "encoded"),
    "interrupted, repeated": ("interrupted", "encoded"),
    "repeated, interrupted": ("encoded", "interrupted"),
    "staged file damaged": ("encoded",),
}


Key = tuple[int, str]
"""Bucket and image id: what moves to another bucket is removed from one and new in the other."""


@dataclass(frozen=True)
class Row:
    picture: int
    creator: int
    version: str | None = None
    copies: int = 1


@dataclass(frozen=True)
class Kill:
    """The run dies at its n-th change of the disk, as SIGKILL would have it: nothing is tidied."""

    at: int
    when: str = "before"
    """Or `after` the change; a folder's deletion may also be cut off `halfway`."""


@dataclass(frozen=True)
class Step:
    """One manifest, and the runs over it: those that are killed, and one that is not."""

    rows: tuple[Row, ...]
    broken_rows: int = 0
    """Rows without creator or URI."""
    full: bool = False
    retry: tuple[str, ...] | None = None
    overwrite: bool = False
    kills: tuple[Kill, ...] = ()
    abandoned: bool = False
    """No run after those that are killed: the next manifest comes first."""
    part_rows: int = 2
    mishap: str = "none"
    """Of MISHAPS."""


@dataclass(frozen=True)
class World:
    """What is the same for all steps."""

    buckets: int = 2
    own_ids: bool = False
    failing: dict[tuple[int, str | None], tuple[str, int]] = field(default_factory=dict)
    """(picture, version) -> (class, number of the first step in which it is mended)."""

    def image_id(self, row: Row) -> str:
        own = f"i{row.picture}"
        return own if self.own_ids else manifest.image_id(creator_name(row.creator), uri_of(row))

    def key(self, row: Row) -> Key:
        return self.bucket(creator_name(row.creator)), self.image_id(row)

    def bucket(self, creator: str) -> int:
        return manifest.bucket_of(creator, self.buckets)

    def failure(self, picture: int, version: str | None, step: int) -> str | None:
        found, mended = self.failing.get((picture, version), ("", 0))
        return found if step < mended else None


def creator_name(number: int) -> str:
    return f"c{number}"


def uri_of(row: Row) -> str:
    return f"/p/{row.picture}.jpg"


def vector_of(image_id: str, version: str | None) -> tuple[float, float]:
    digest = hashlib.sha256(repr((image_id, version)).encode()).digest()
    return float(digest[0]), float(digest[1])


class Killed(BaseException):
    """Not an Exception: nothing may survive it."""


class Disk:
    """Counts the changes that storage makes, and dies at one of them."""

    def __init__(self) -> None:
        self.kill: Kill | None = None
        self.dead = False
        self.changes: list[str] = []
        """`write` or `remove`, in order."""

    @contextlib.contextmanager
    def dying(self, kill: Kill | None) -> Iterator[None]:
        self.kill, self.dead, self.changes = kill, False, []
        try:
            yield
        finally:
            self.kill, self.dead = None, False

    def change(
        self, what: str, do: Callable[[], Any], halfway: Callable[[], Any] = lambda: None
    ) -> None:
        if self.dead:
            return  # such as what `finally` would do
        self.changes.append(what)
        if self.kill is None or len(self.changes) <= self.kill.at:
            do()
            return
        self.dead = True
        {"before": lambda: None, "halfway": halfway, "after": do}[self.kill.when]()
        raise Killed

    def patch(self, patch: pytest.MonkeyPatch) -> None:
        disk, remove = self, storage.remove

        class Path(pathlib.PosixPath):
            def replace(self, target: Any) -> "Path":
                disk.change("write", lambda: pathlib.Path(self).replace(target))
                return Path(target)

            def unlink(self, missing_ok: bool = False) -> None:
                if not disk.dead:
                    super().unlink(missing_ok=missing_ok)

        def remove_some(uri: str) -> None:
            files = sorted(p for p in pathlib.Path(uri).rglob("*") if p.is_file())
            for path in files[: len(files) // 2]:
                path.unlink()

        patch.setattr(storage, "Path", Path)
        patch.setattr(
            storage,
            "remove",
            lambda uri: self.change("remove", lambda: remove(uri), lambda: remove_some(uri)),
        )
        patch.setattr(source, "PIECE_ROWS", 5)
        patch.setattr(plan, "TODO_BATCH", 2)


@dataclass(frozen=True)
class Config:
    output: str = ""


@dataclass
class Runner:
    """Runs the steps over one output."""

    folder: pathlib.Path
    world: World
    staged: set[tuple[str | None, ...]] = field(default_factory=set)
    """(image, creator, version) of embeddings in staging, which need not be encoded again."""
    run_id: str = ""
    decisions: list[Decision] = field(default_factory=list)

    @property
    def output(self) -> str:
        return str(self.folder / "out")

    def perform(self, step: Step, number: int) -> dict[str, Any]:
        """Mirror EncodingRun, from its constructor to the end of `perform`."""
        output, world = self.output, self.world
        recorder = run.Recorder(embeddings.ARTEFACT, Config())
        self.run_id, self.decisions = recorder.run_id, []
        found, record = update.look(output, overwrite=step.overwrite)
        images = self.write_manifest(step, number)
        pieces = source.find(images)
        before = (
            Snapshot.read(output, record["snapshot"])
            if record
            else snapshot.empty(update.planned_buckets(output) or world.buckets, SCHEMA)
        )
        same = update.Settings(SPACE, SCHEMA, len(before.buckets))
        if record:
            update.require_compatible(record, before, same, output)
        current = update.current(output)
        update.prepare(output, found, same, overwrite=step.overwrite)
        self.look_into_staging()
        update.sweep(output, current)
        request = Request(
            images=images,
            output=output,
            scratch=storage.join(output, staging.FOLDER, f"plan-{recorder.run_id}"),
            staging=same.staging_folder(output),
            run_id=recorder.run_id,
            buckets=len(before.buckets),
            schema=SCHEMA,
            full=step.full,
            retry=step.retry,
        )
        try:
            parts, files = self.partition(request, pieces, before)
        except InputError:
            update.discard_plan(output, request.scratch)
            raise
        self.decisions = [plan.decide(request, b, s, files) for b, s in enumerate(before.buckets)]
        update.claim(output, found, same, overwrite=step.overwrite)
        states = self.encode_and_settle(request, before, files, step, number)
        after = Snapshot(
            run_id=recorder.run_id,
            schema=SCHEMA,
            buckets=tuple(states),
            rejected=tuple(
                plan.keep_rejected(request, uri) for part in parts for uri in part.rejected
            ),
            rejected_rows=sum(part.rejected_rows for part in parts),
        )
        for bucket, state in enumerate(states):
            reposts.write_hashes(request, bucket, state)
        return update.commit(
            output,
            recorder,
            after,
            current,
            check=lambda: None,
            counts={**after.counts(), "rows": sum(part.rows for part in parts)},
            space=SPACE.to_json(),
            encoder="stub",
        )

    def write_manifest(self, step: Step, number: int) -> str:
        rows = [
            {
                "creator_id": creator_name(row.creator),
                "uri": uri_of(row),
                "version": row.version,
                **({"image_id": self.world.image_id(row)} if self.world.own_ids else {}),
            }
            for row in step.rows
            for _ in range(row.copies)
        ]
        nobody = {"creator_id": "", "uri": "/p", "version": None, "image_id": "nobody"}
        broken = [{name: nobody[name] for name in rows[0]} for _ in range(step.broken_rows)]
        path = self.folder / f"step-{number}.parquet"
        columns = pa.schema([(name, pa.string()) for name in rows[0]])
        # First, so that their numbers are known.
        table = pa.Table.from_pylist(broken + rows, schema=columns)
        pq.write_table(table, path, row_group_size=3)
        return str(path)

    def partition(
        self, request: Request, pieces: Sequence[source.Piece], before: Snapshot
    ) -> tuple[list[plan.Partitioned], list[str]]:
        tasks = enumerate(source.group(pieces))
        parts = [plan.partition(request, number, group) for number, group in tasks]
        files = sorted(uri for part in parts for uri in part.images)
        if ids := [uri for part in parts for uri in part.ids]:
            if not request.full:
                ids += [plan.ids_held(request, b, s) for b, s in enumerate(before.buckets)]
            for share in range(request.buckets):
                clash = plan.find_id_of_two(ids, share)
                if clash is not None and (told := plan.name_id_of_two(request, files, clash)):
                    raise InputError(told)
        return parts, files

    def encode_and_settle(
        self, request: Request, before: Snapshot, files: list[str], step: Step, number: int
    ) -> list[snapshot.Bucket]:
        states, decisions = list(before.buckets), [d for d in self.decisions if d.touched]
        for attempt in range(3):
            for decision in decisions:
                self.encode(request, decision, step, number)
            if step.mishap == "staged file damaged" and not attempt:
                self.spoil(request)
            lost = []
            for decision in decisions:
                state = before.buckets[decision.bucket]
                one = settle.settle(request, decision, state, datetime.now(UTC))
                states[one.bucket] = one.state
                lost += [one.bucket] if one.missing else []
            if not lost:
                return states
            decisions = [plan.decide(request, b, before.buckets[b], files) for b in lost]
        raise AssertionError("rows were lost again and again")

    def encode(self, request: Request, decision: Decision, step: Step, number: int) -> None:
        """Stage what a bucket lacks; a picture's content is a function of its id and version."""
        if not decision.pending:
            return
        rows = partitions.read_all(request.todo(decision.bucket)).slice(0, decision.pending)
        for first in range(0, rows.num_rows, step.part_rows):
            for what in MISHAPS[step.mishap]:
                part = rows.slice(first, step.part_rows).to_pylist()
                self.stage(request, decision.bucket, part, number, what)

    def stage(
        self, request: Request, bucket: int, rows: list[dict], number: int, what: str
    ) -> None:
        embedded, failed = [], []
        for row in rows:
            assert _key(row) not in self.staged, "encoded again, though it was staged"
            picture = int(pathlib.Path(row["uri"]).stem)
            failure = self.world.failure(picture, row["version"], number)
            if failure or what == "interrupted":
                failure = failure or "timeout"
                told = {"stage": "fetch", "error_class": failure, "message": "m", "attempts": 1}
                failed.append({**row, **told})
            else:
                hashes = {"content_hash": str(picture), "perceptual_hash": str(picture)}
                vector = vector_of(row["image_id"], row["version"])
                embedded.append({**row, **hashes, "embedding": vector})
        for kind, some, schema in (
            ("embeddings", embedded, SCHEMA),
            ("failures", failed, schemas.FAILURES),
        ):
            if some:
                table = pa.Table.from_pylist(some, schema=schema)
                staging.append(request.staging, bucket, kind, table)

    def spoil(self, request: Request) -> None:
        files = sorted(pathlib.Path(request.staging).rglob("*.parquet"))
        for path in files[:1]:
            path.write_bytes(path.read_bytes()[:-7])
        self.look_into_staging()

    def look_into_staging(self) -> None:
        """Remember what need not be encoded again."""
        self.staged = set()
        for path in (self.folder / "out" / staging.FOLDER).rglob("*/embeddings-*.parquet"):
            if not path.name.startswith(".") and _is_whole(path):
                self.staged |= {_key(row) for row in pq.read_table(path).to_pylist()}


def _key(row: dict[str, Any]) -> tuple[str | None, ...]:
    return row["image_id"], row["creator_id"], row["version"]


def _is_whole(path: pathlib.Path) -> bool:
    return path.read_bytes().endswith(b"PAR1")
