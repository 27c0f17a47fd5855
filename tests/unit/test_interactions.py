"""INTERACTIONS: read, joined to creators, counted; refused in one line where a value is none."""

import gzip
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from motif.errors import InputError
from motif.recommend import interactions

CREATORS = ["007", "ana", "bo", "cy"]
CSV = """brand_id,creator_id,weight,at
nike,ana,2,2026-01-03
nike,007,1,2026-01-01
acme,bo,1.5,2026-01-02
nike,ana,0.5,2026-01-02
acme,nobody,1,2026-01-01
zeta,nobody,1,2026-01-05
"""


def write(folder, text: str, name: str = "i.csv") -> str:
    (folder / name).write_text(text)
    return str(folder / name)


def as_rows(found: interactions.Interactions) -> dict[tuple[str, str], float]:
    matrix = found.weights.tocoo()
    return {
        (found.brand_ids[b], found.creator_ids[c]): w
        for b, c, w in zip(*matrix.coords, matrix.data, strict=True)
    }


def test_rows_are_joined_and_counted(tmp_path):
    found = interactions.read(write(tmp_path, CSV), CREATORS)
    assert found.brand_ids == ["acme", "nike", "zeta"]
    assert as_rows(found) == {("nike", "ana"): 2.5, ("nike", "007"): 1.0, ("acme", "bo"): 1.5}
    assert found.counts == interactions.Counts(
        rows=6,
        pairs=3,
        repeated_rows=1,
        unmatched_rows=2,
        unmatched_creators=1,
        brands=3,
        brands_without_creators=1,
    )
    assert [CREATORS[i] for i in found.known] == ["007", "ana", "bo"]
    assert [CREATORS[i] for i in found.cold] == ["cy"]
    # The first time of a pair counts.
    assert found.at is not None
    first = found.at[found.brand_ids.index("nike"), CREATORS.index("ana")]
    assert first == datetime(2026, 1, 2, tzinfo=UTC).timestamp() * 1e6


def test_all_formats_give_the_same(tmp_path):
    rows = {"brand_id": ["n", "n", "m"], "creator_id": ["007", "ana", "007"]}
    pq.write_table(pa.table(rows), tmp_path / "i.parquet")
    coded = pa.table({k: pa.array(v).dictionary_encode() for k, v in rows.items()})
    pq.write_table(coded, tmp_path / "coded.parquet")
    folder = tmp_path / "folder"
    folder.mkdir()
    for number in range(3):
        pq.write_table(pa.table(rows).slice(number, 1), folder / f"{number}.parquet")
    csv = "brand_id,creator_id\nn,007\nn,ana\nm,007\n"
    write(tmp_path, csv)
    (tmp_path / "i.csv.gz").write_bytes(gzip.compress(csv.encode()))
    lines = ('{"brand_id": "n", "creator_id": "007"}', '{"brand_id": "n", "creator_id": "ana"}')
    write(tmp_path, "\n".join([*lines, '{"brand_id": "m", "creator_id": "007"}']), "i.jsonl")
    for name in ("i.parquet", "coded.parquet", "folder", "i.csv", "i.csv.gz", "i.jsonl"):
        found = interactions.read(str(tmp_path / name), CREATORS)
        assert as_rows(found) == {("n", "007"): 1, ("n", "ana"): 1, ("m", "007"): 1}, name
        assert found.at is None


def test_whole_numbers_are_ids(tmp_path):
    rows = pa.table({"brand_id": [1, 2], "creator_id": [10, 20]})
    found = interactions.joined(rows, ["10", "30"])
    assert as_rows(found) == {("1", "10"): 1}
    assert found.counts.unmatched_rows == 1


def test_no_rows_are_no_brands(tmp_path):
    found = interactions.read(write(tmp_path, "brand_id,creator_id\n"), CREATORS)
    assert (found.brand_ids, found.counts.pairs, len(found.cold)) == ([], 0, 4)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("brand,creator_id\na,b\n", "has no column brand_id; it has"),
        ("brand_id,creator_id\na,\n", "1 rows have no creator_id"),
        ("brand_id,creator_id,weight\na,ana,nan\n", "not a number above 0 .*'a'.*'ana'"),
        ("brand_id,creator_id,weight\na,ana,0\n", "1 rows have a weight"),
        ("brand_id,creator_id,weight\na,ana,-1\nb,bo,inf\n", "2 rows have a weight"),
        ("brand_id,creator_id,weight\na,ana,\n", "1 rows have a weight"),
        ("brand_id,creator_id,weight\na,ana,much\n", "weight is no number"),
        ("brand_id,creator_id,at\na,ana,soon\n", "`at` holds no dates"),
        ("brand_id,creator_id,at\na,ana,2026-01-01\nb,bo,\n", "1 rows have no `at`"),
    ],
)
def test_what_is_no_interaction_is_refused(tmp_path, text, told):
    with pytest.raises(InputError, match=told):
        interactions.read(write(tmp_path, text), CREATORS)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("nowhere.csv", "is not a file that is there"),
        ("i.txt", "expected .parquet, .csv"),
        ("empty", "without a .parquet file"),
        ("broken.parquet", "cannot be read"),
        ("ftp://x/i.csv", "is not allowed"),
    ],
)
def test_what_cannot_be_read_is_refused(tmp_path, name, told):
    write(tmp_path, CSV, "i.txt")
    write(tmp_path, "PAR1", "broken.parquet")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=told):
        interactions.read(name if "://" in name else str(tmp_path / name), CREATORS)


def test_the_order_of_rows_does_not_matter(tmp_path):
    rng = np.random.default_rng(0)
    pairs = [(f"b{rng.integers(9)}", f"c{rng.integers(30)}") for _ in range(200)]
    creators = [f"c{i}" for i in range(25)]
    found = []
    for order in (range(200), rng.permutation(200)):
        brands, names = zip(*(pairs[i] for i in order), strict=True)
        found.append(
            interactions.joined(pa.table({"brand_id": brands, "creator_id": names}), creators)
        )
    assert as_rows(found[0]) == as_rows(found[1])
    assert found[0].counts == found[1].counts
