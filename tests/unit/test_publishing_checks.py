"""What a version must pass before it goes live, on tables that break one rule each."""

from pathlib import Path

import lance
import numpy as np
import pyarrow as pa
import pytest

from motif import schemas
from motif.publishing import checks, commit
from motif.publishing.rows import halves_schema
from motif.table import LIVE, TableUri
from tests.synthetic import make_space, publish, rows_of, themed, unit, write_checkpoint

DIM = 16


@pytest.fixture
def table(tmp_path) -> Path:
    model = write_checkpoint(tmp_path / "same", make_space(DIM))
    publish(tmp_path / "creators.lance", rows_of(*themed(40, 5, DIM)), model)
    return tmp_path / "creators.lance"


def newest(table: Path) -> lance.LanceDataset:
    return lance.dataset(str(table))


def test_a_sound_version_passes(table):
    version = newest(table)
    ids = version.to_table(columns=["creator_id"])["creator_id"].to_pylist()
    passed = [
        checks.rows_and_ids(version, 40),
        checks.vectors(version, version.get_fragments()),
        checks.indices(version),
        checks.queries(version, ids),
    ]
    assert [check.passed for check in passed] == [True] * 4
    assert passed[3].figures == {"asked": 20, "wrong": 0}
    assert passed[1].figures["new_rows"] == 40


def test_lost_and_doubled_rows_fail(table):
    version = newest(table)
    assert not checks.rows_and_ids(version, 41).passed
    again = version.to_table().slice(0, 1)
    lance.write_dataset(again, str(table), mode="append")
    found = checks.rows_and_ids(newest(table), 41)
    assert not found.passed
    assert found.told == "41 rows of 40 creators, planned 41"


@pytest.mark.parametrize(
    ("column", "value"), [("same", 2.0), ("same", np.nan), ("mean_embedding", np.inf)]
)
def test_broken_vectors_fail_by_name(table, column, value):
    version = newest(table)
    there = {fragment.fragment_id for fragment in version.get_fragments()}
    row = version.to_table().slice(3, 1)
    creator = row["creator_id"][0].as_py()
    broken = schemas.vector_array(schemas.matrix(row[column]) * value)
    place, field = row.schema.get_field_index(column), row.schema.field(column)
    changed = row.set_column(place, field, broken.cast(field.type))
    commit.merge(version, iter([changed]), [])
    version = newest(table)
    new = [f for f in version.get_fragments() if f.fragment_id not in there]
    found = checks.vectors(version, new)
    assert not found.passed
    assert found.figures == {"new_rows": 1, "bad": 1}
    assert repr(creator) in found.told


def test_rows_that_an_index_lacks_fail_until_it_is_brought_up_to_date(table):
    version = newest(table)
    commit.merge(version, iter([version.to_table().slice(0, 2)]), [])
    assert not checks.indices(newest(table)).passed
    commit.index(TableUri.parse(str(table)))
    assert checks.indices(newest(table)).passed


def halves(ids: list[str], first: np.ndarray, second: np.ndarray) -> pa.Table:
    return pa.table(
        [pa.array(ids), schemas.vector_array(first), schemas.vector_array(second)],
        schema=halves_schema(first.shape[1]),
    )


def twins(creators: int, noise: float, seed: int = 0) -> pa.Table:
    generator = np.random.default_rng(seed)
    themes = generator.normal(size=(creators, DIM))
    first, second = (unit(themes + noise * generator.normal(size=themes.shape)) for _ in "ab")
    return halves([f"c{i:03d}" for i in range(creators)], first, second)


def test_quality_is_compared_on_the_creators_of_both():
    good, bad = twins(100, 0.1), twins(100, 3.0)
    same = checks.quality(good, good, tolerance=0.02)
    assert same.passed
    assert same.figures["hit_rate"] == same.figures["hit_rate_live"] == 1
    worse = checks.quality(bad, good, tolerance=0.02)
    assert not worse.passed
    assert worse.figures["difference"] < -0.5
    assert "100 held-out creators" in worse.told
    assert checks.quality(good, bad, tolerance=0.02).passed
    assert checks.quality(bad, good, tolerance=1.0).passed
    # In another order, with others among them.
    some = good.take(pa.array(np.random.default_rng(1).permutation(100)[:60]))
    assert checks.quality(some, good, tolerance=0.02).figures["compared"] == 60


@pytest.mark.parametrize("creators", [0, 1, 19])
def test_too_few_held_out_creators_decide_nothing(creators):
    found = checks.quality(twins(creators, 5.0), twins(100, 0.1), tolerance=0.0)
    assert found.passed
    assert f"{creators} held-out creators are in both versions, 20 are needed" in found.told
    assert checks.quality(twins(creators, 5.0), None, tolerance=0.0).passed


def rows(vectors: np.ndarray, digest: str) -> pa.Table:
    return pa.table(
        {
            "creator_id": [f"c{i}" for i in range(len(vectors))],
            "images_digest": [digest] * len(vectors),
            "same": schemas.vector_array(vectors),
        }
    )


def test_vectors_may_drift_only_where_images_changed():
    before = unit(np.random.default_rng(0).normal(size=(5, DIM)))
    after = before.copy()
    after[2] = unit(before[2] + 0.2)
    assert checks.drift(rows(before, "a"), rows(before, "a")).passed
    found = checks.drift(rows(after, "a"), rows(before, "a"))
    assert not found.passed
    assert found.figures["lowest_cosine"] < 0.99
    assert checks.drift(rows(after, "b"), rows(before, "a")).figures == {"compared": 0}


def test_a_merge_that_does_not_do_what_it_says_is_an_error_and_leaves_live(table):
    version = newest(table)
    live = version.tags.list()[LIVE]["version"]
    counts = commit.merge(
        version, iter([version.to_table().slice(0, 7)]), ["creator-001", "nobody"]
    )
    assert counts == {"inserted": 0, "updated": 7, "deleted": 1}
    assert newest(table).count_rows() == 39
    assert newest(table).tags.list()[LIVE]["version"] == live
    opened = commit.open_tagged(TableUri.parse(str(table)))
    assert opened is not None
    assert commit.begin_from(TableUri.parse(str(table)), opened).count_rows() == 40


def test_after_many_merges_fragments_are_joined_and_indices_whole(table, monkeypatch):
    monkeypatch.setattr(commit, "MOST_FRAGMENTS", 8)
    where = TableUri.parse(str(table))
    rows = newest(table).to_table().sort_by("creator_id")
    for i in range(12):
        commit.merge(newest(table), iter([rows.slice(3 * i, 3)]), [])
        commit.index(where)
    version = newest(table)
    assert len(version.get_fragments()) <= 8
    assert version.to_table().sort_by("creator_id").equals(rows)
    ids = rows["creator_id"].to_pylist()
    for check in (checks.indices(version), checks.queries(version, ids)):
        assert check.passed, check.told
    assert checks.rows_and_ids(version, 40).passed
