"""Compaction and re-bucketing, without Ray: whatever is there, and wherever it is cut off."""

import shutil
import tempfile
from collections import Counter, defaultdict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from motif import schemas, storage
from motif.artefacts import embeddings, run, staging, update
from motif.artefacts.embeddings import Embeddings
from motif.artefacts.snapshot import Bucket, Part, Snapshot
from motif.errors import ContractError, InputError
from motif.images import compact, manifest
from tests.synthetic import make_space

DIM = 3
SCHEMA = schemas.embeddings(DIM, features_dim=2, carried=[pa.field("campaign", pa.string())])
KEYS = [("creator_id", "ascending"), ("image_id", "ascending")]


@dataclass(frozen=True)
class MadeBy:
    encoder: str = "lite"


@dataclass(frozen=True)
class Image:
    creator: int
    part: int
    removed: bool


@dataclass(frozen=True)
class Failure:
    creator: int
    error_class: str


images = st.lists(
    st.builds(Image, st.integers(0, 9), st.integers(0, 2), st.booleans()), max_size=25
)
failures = st.lists(
    st.builds(Failure, st.integers(0, 9), st.sampled_from(["not_found", "bomb"])), max_size=8
)


def name_of(creator: int) -> str:
    return f"creator {creator} é"


def image_rows(numbered: list[tuple[int, Image]]) -> pa.Table:
    vectors = np.random.default_rng([number for number, _ in numbered] or 0)
    rows = [
        {
            "image_id": f"image-{number}",
            "creator_id": name_of(image.creator),
            "uri": f"/pictures/{number}.jpg",
            "version": None if number % 2 else "v1",
            "posted_at": None,
            "embedding": vectors.normal(size=DIM).astype(np.float32),
            "features": vectors.normal(size=2).astype(np.float16),
            "content_hash": f"{number:064x}",
            "perceptual_hash": f"{number:016x}",
            "campaign": "spring",
        }
        for number, image in numbered
    ]
    return pa.Table.from_pylist(rows, schema=SCHEMA).sort_by(KEYS)


def failure_rows(numbered: list[tuple[int, Failure]], *, creator: str | None = None) -> pa.Table:
    rows = [
        {
            "image_id": f"failed-{number}",
            "creator_id": name_of(failure.creator) if creator is None else creator or None,
            "uri": f"/pictures/failed-{number}.jpg",
            "version": None,
            "stage": "fetch",
            "error_class": failure.error_class,
            "message": "m",
            "attempts": 1 + number,
        }
        for number, failure in numbered
    ]
    return pa.Table.from_pylist(rows, schema=schemas.FAILURES).sort_by(KEYS)


def removed_rows(rows: pa.Table, numbers: set[int]) -> pa.Table:
    times = pa.array([0] * len(numbers), pa.timestamp("us", "UTC"))
    marked = pa.array([f"image-{number}" for number in numbers], pa.string())
    kept = rows.filter(pc.is_in(rows["image_id"], marked))
    return schemas.conform(kept.append_column("removed_at", times), schemas.REMOVED)


def write(output: Path, buckets: int, images: list[Image], failures: list[Failure]) -> Snapshot:
    """Write finished EMBEDDINGS of several parts, as runs leave them."""
    numbered: dict[int, list[tuple[int, Image]]] = defaultdict(list)
    for number, image in enumerate(images):
        numbered[manifest.bucket_of(name_of(image.creator), buckets)].append((number, image))
    failed: dict[int, list[tuple[int, Failure]]] = defaultdict(list)
    for number, failure in enumerate(failures):
        failed[manifest.bucket_of(name_of(failure.creator), buckets)].append((number, failure))
    states = [
        write_bucket(output, bucket, buckets, numbered[bucket], failed[bucket])
        for bucket in range(buckets)
    ]
    nobody = failure_rows([(99, Failure(0, "invalid_row"))], creator="")
    rejected = embeddings.write_part(str(output), "failures/rejected-00000-000-r.parquet", nobody)
    recorder = run.Recorder(embeddings.ARTEFACT, MadeBy(), run_id="encoding")
    snapshot = Snapshot("encoding", SCHEMA, tuple(states), (rejected,), 1)
    update.commit(
        *(str(output), recorder, snapshot, None),
        check=lambda: None,
        counts={**snapshot.counts(), "rows": len(images)},
        space=make_space(DIM).to_json(),
        encoder="lite",
    )
    return snapshot


def write_bucket(output, bucket, buckets, numbered, failed) -> Bucket:
    def part(kind: str, rows: pa.Table, run_id: str) -> tuple[Part, ...]:
        name = embeddings.part_name(kind, bucket, buckets, run_id)
        return (embeddings.write_part(str(output), name, rows),) if rows.num_rows else ()

    parts: list[Part] = []
    for number in range(3):
        chosen = [(n, image) for n, image in numbered if image.part == number]
        parts += part("embeddings", image_rows(chosen), f"run{number}")
    gone = {n for n, image in numbered if image.removed}
    return Bucket(
        embeddings=tuple(parts),
        failures=part("failures", failure_rows(failed), "run0"),
        removed=part("removed", removed_rows(image_rows(numbered), gone), "run0"),
        creators=len({image.creator for _, image in numbered if not image.removed}),
        failed_by_class=dict(Counter(failure.error_class for _, failure in failed)),
    )


def perform(output: Path, buckets: int, *, run_id: str = "compaction") -> dict[str, Any] | None:
    """What motif.on_ray.compaction does, one call after the other."""
    uri = str(output)
    plan = compact.make_plan(uri, buckets)
    update.sweep(uri, plan.before)
    if plan.is_idle:
        return None
    request = compact.Request(
        output=uri,
        scratch=storage.join(uri, staging.FOLDER, f"plan-{run_id}"),
        run_id=run_id,
        schema=plan.before.schema,
        buckets_before=len(plan.before.buckets),
        buckets=plan.buckets,
    )
    states = list(plan.before.buckets)
    if plan.moves:
        for bucket, state in enumerate(plan.before.buckets):
            compact.share_out(request, bucket, state)
        states = [compact.gather(request, bucket)[1] for bucket in range(plan.buckets)]
    else:
        for bucket in plan.rewritten:
            _, states[bucket] = compact.rewrite(request, bucket, states[bucket])
    after = compact.snapshot_after(plan, run_id, states, uri)
    record = {name: plan.record[name] for name in ("counts", "space", "encoder")}
    recorder = run.Recorder(embeddings.ARTEFACT, MadeBy(), run_id=run_id)
    return update.commit(uri, recorder, after, plan.before, check=lambda: None, **record)


def contents(output: Path) -> tuple[dict[str, tuple], list[dict]]:
    opened = Embeddings.open(str(output))
    rows = opened.read()
    vectors = schemas.matrix(rows["embedding"])
    found = {
        row["image_id"]: (vectors[at].tobytes(), tuple(row.items()))
        for at, row in enumerate(rows.drop_columns(["embedding"]).to_pylist())
    }
    assert len(found) == rows.num_rows
    return found, opened.read_failures().sort_by("image_id").to_pylist()


def files(output: Path) -> set[str]:
    return {str(p.relative_to(output)) for p in output.rglob("*") if p.is_file()}


def require_tidy(output: Path, buckets: int) -> None:
    opened = Embeddings.open(str(output))
    assert opened.buckets == buckets
    for bucket, state in enumerate(opened.snapshot.buckets):
        assert len(state.embeddings) <= 1
        assert len(state.failures) <= 1
        assert not state.removed
        for part in (*state.embeddings, *state.failures):
            rows = storage.read_parquet(str(output / part.name))
            assert rows.num_rows
            assert rows.equals(rows.sort_by(KEYS))
            for creator in rows["creator_id"].unique().to_pylist():
                assert manifest.bucket_of(creator, buckets) == bucket


class CutOff(BaseException):
    """As a SIGKILL: nothing of ours catches it."""


def cut_off_at(patch: pytest.MonkeyPatch, write_number: int) -> None:
    """Let the process end when it opens a file for writing for the n-th time."""
    atomic, left = storage.atomic_writer, iter(range(write_number))

    def counted(uri: str):
        if next(left, None) is None:
            raise CutOff
        return atomic(uri)

    patch.setattr(storage, "atomic_writer", counted)


@given(images, failures, st.integers(1, 6), st.integers(0, 8), st.integers(0, 40))
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_nothing_is_lost_or_doubled_wherever_it_is_cut_off(
    images, failures, before, after, cut_off
):
    output = Path(tempfile.mkdtemp())
    try:
        old = write(output, before, images, failures)
        expected = contents(output)
        assert set(expected[0]) == {f"image-{n}" for n, i in enumerate(images) if not i.removed}
        with pytest.MonkeyPatch.context() as patch:
            cut_off_at(patch, cut_off)
            try:
                perform(output, after, run_id="cut-off")
            except CutOff:
                assert Embeddings.open(str(output)).snapshot == old
        assert contents(output) == expected
        perform(output, after)
        assert contents(output) == expected
        require_tidy(output, after or before)
        counts = Embeddings.open(str(output)).snapshot.counts()
        assert counts == {**old.counts(), "removed": 0}
        # Once more does nothing but delete what nobody needs now.
        record = (output / "run.json").read_bytes()
        assert perform(output, after, run_id="once-more") is None
        assert (output / "run.json").read_bytes() == record
        snapshot = Embeddings.open(str(output)).snapshot
        assert files(output) == {*snapshot.names(), "run.json"} - set(snapshot.superseded)
        assert contents(output) == expected
    finally:
        shutil.rmtree(output)


@given(st.integers(1, 60), st.integers(1, 60), st.integers(0, 2**64 - 1))
def test_sources_of_a_bucket_are_those_that_can_hold_its_creators(before, after, creator_hash):
    request = compact.Request(
        **{"output": "", "scratch": "", "run_id": "", "schema": SCHEMA},
        buckets_before=before,
        buckets=after,
    )
    assert creator_hash % before in request.sources(creator_hash % after)
    shares = sum(len(request.sources(bucket)) for bucket in range(after))
    assert shares == before * after // np.gcd(before, after)


def two_creators() -> list[Image]:
    return [Image(creator, part, False) for creator in (0, 1) for part in (0, 1)]


def creator_elsewhere(buckets: int) -> int:
    """Return a creator that is not in the bucket of creator 0."""
    first = manifest.bucket_of(name_of(0), buckets)
    return next(n for n in range(1, 99) if manifest.bucket_of(name_of(n), buckets) != first)


def test_only_untidy_buckets_are_rewritten(tmp_path):
    in_two_parts = [Image(0, part, False) for part in (0, 1)]
    other = creator_elsewhere(5)
    old = write(tmp_path, 5, [*in_two_parts, Image(other, 0, False)], [])
    first, second = (manifest.bucket_of(name_of(creator), 5) for creator in (0, other))
    told = compact.make_plan(str(tmp_path), 0).describe()
    assert (told["buckets_to_rewrite"], told["images_to_rewrite"]) == (1, 2)
    assert (told["files_before"], told["files_after_at_most"]) == (3, 2)
    assert told["bytes_to_rewrite"] == sum(p.bytes for p in old.buckets[first].parts)
    perform(tmp_path, 0)
    new = Embeddings.open(str(tmp_path)).snapshot
    assert new.buckets[second] == old.buckets[second]
    assert new.buckets[first] != old.buckets[first]
    assert new.rejected == old.rejected


def test_replaced_files_stay_until_the_next_run(tmp_path):
    old = write(tmp_path, 2, [*two_creators(), Image(0, 1, True)], [Failure(0, "bomb")])
    before = files(tmp_path) - {"run.json"}
    opened = Embeddings.open(str(tmp_path))
    perform(tmp_path, 3)
    assert before <= files(tmp_path)
    assert opened.read().num_rows == 4  # who has opened it before
    perform(tmp_path, 5, run_id="next")
    gone = before - files(tmp_path)
    assert gone == before - {part.name for part in old.rejected}


@pytest.mark.parametrize("buckets", [-1, 100_001])
def test_buckets_out_of_range(tmp_path, buckets):
    write(tmp_path, 2, two_creators(), [])
    with pytest.raises(InputError, match=f"--buckets {buckets}: expected 1 to 100000"):
        compact.make_plan(str(tmp_path), buckets)


def test_absent_and_unfinished_are_refused(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        compact.make_plan(str(tmp_path / "absent"), 0)
    with pytest.raises(InputError, match="no artefact of Motif"):
        compact.make_plan(str(tmp_path), 0)
    storage.write_json(str(tmp_path / run.UNFINISHED_FILE), {"artefact": "embeddings"})
    with pytest.raises(InputError, match="unfinished"):
        compact.make_plan(str(tmp_path), 0)


def test_a_run_that_replaces_it_is_finished_first(tmp_path):
    write(tmp_path, 2, two_creators(), [])
    storage.write_json(str(tmp_path / run.UNFINISHED_FILE), {"artefact": "embeddings"})
    with pytest.raises(InputError, match=r"--overwrite, and unfinished"):
        compact.make_plan(str(tmp_path), 0)


def test_staged_rows_stay_unless_the_buckets_change(tmp_path):
    write(tmp_path, 2, two_creators(), [])
    staged = staging.folder_of(str(tmp_path), {"any": 1})
    staging.append(staged, 0, "embeddings", image_rows([(50, Image(3, 0, False))]))
    with pytest.raises(InputError, match=f"--buckets 3: {staged} holds images"):
        compact.make_plan(str(tmp_path), 3)
    assert not compact.make_plan(str(tmp_path), 2).moves
    # What a plan or a compaction left is of no use to anyone.
    storage.remove(staged)
    (tmp_path / "_staging" / "plan-1" / "images").mkdir(parents=True)
    assert compact.make_plan(str(tmp_path), 3).moves


def break_part(output: Path, change) -> Part:
    """Change the rows of a finished file, and let the snapshot believe that this is right."""
    snapshot = Embeddings.open(str(output)).snapshot
    bucket, state = next((b, s) for b, s in enumerate(snapshot.buckets) if s.embeddings)
    part = state.embeddings[0]
    rows = change(storage.read_parquet(str(output / part.name)))
    state = replace(state, embeddings=(embeddings.write_part(str(output), part.name, rows),))
    buckets = (*snapshot.buckets[:bucket], state, *snapshot.buckets[bucket + 1 :])
    replace(snapshot, buckets=buckets).write(str(output))
    return part


@pytest.mark.parametrize("buckets", [3, 8])
def test_an_image_that_is_there_twice_is_refused(tmp_path, buckets):
    write(tmp_path, 4, [Image(0, 0, False), Image(0, 0, True)], [])
    break_part(tmp_path, lambda rows: pa.concat_tables([rows, rows]))
    before = files(tmp_path)
    record = (tmp_path / "run.json").read_bytes()
    with pytest.raises(ContractError, match="would hold an image twice; nothing was changed"):
        perform(tmp_path, buckets)
    assert (tmp_path / "run.json").read_bytes() == record
    assert before <= files(tmp_path)


def test_a_creator_in_the_wrong_bucket_is_refused(tmp_path):
    write(tmp_path, 4, [Image(0, 0, False), Image(0, 0, True)], [])
    other = creator_elsewhere(4)

    def move(rows: pa.Table) -> pa.Table:
        names = pa.array([name_of(other)] * rows.num_rows)
        return rows.set_column(1, SCHEMA.field("creator_id"), names)

    break_part(tmp_path, move)
    with pytest.raises(ContractError, match=f"creator '{name_of(other)}' in bucket"):
        perform(tmp_path, 0)
    # With more buckets it is looked for where it should be, and missed.
    with pytest.raises(ContractError, match=r"would hold 0 embedded.*not 1 embedded"):
        perform(tmp_path, 8)


@pytest.mark.parametrize("buckets", [0, 5])
def test_a_damaged_file_is_named(tmp_path, buckets):
    old = write(tmp_path, 2, [*two_creators(), Image(0, 0, True)], [])
    part = next(p for s in old.buckets if s.removed for p in s.embeddings)
    path = tmp_path / part.name
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError, match=part.name):
        perform(tmp_path, buckets)
    assert Embeddings.open(str(tmp_path)).snapshot == old


def test_all_images_removed(tmp_path):
    write(tmp_path, 3, [Image(n, 0, True) for n in range(4)], [])
    perform(tmp_path, 2)
    assert Embeddings.open(str(tmp_path)).read().num_rows == 0
    require_tidy(tmp_path, 2)
