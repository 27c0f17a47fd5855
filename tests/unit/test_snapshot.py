import json

import pyarrow as pa
import pytest

from motif import schemas
from motif.artefacts import snapshot
from motif.artefacts.snapshot import Bucket, Part, Snapshot
from motif.errors import InputError

SCHEMA = schemas.embeddings(
    3, features_dim=2, carried=[pa.field("likes", pa.decimal128(9, 2), metadata={"unit": "é"})]
)


def part(name: str, rows: int = 1) -> Part:
    return Part(name=name, rows=rows, bytes=100 * rows)


SNAPSHOT = Snapshot(
    run_id="abc",
    schema=SCHEMA,
    buckets=(
        Bucket(
            embeddings=(part("embeddings/a", 5), part("embeddings/b", 3)),
            failures=(part("failures/a", 2),),
            removed=(part("removed/a", 2),),
            creators=3,
            failed_by_class={"timeout": 1, "denied": 1},
        ),
        Bucket(),
        Bucket(embeddings=(part("embeddings/c", 4),), creators=1, failed_by_class={"timeout": 2}),
    ),
    rejected=(part("failures/rejected", 7),),
    rejected_rows=7,
    superseded=("embeddings/old", "snapshots/old.json"),
)


def test_what_is_written_is_read(tmp_path):
    for value in (SNAPSHOT, snapshot.empty(4, SCHEMA)):
        name = value.write(str(tmp_path))
        found = Snapshot.read(str(tmp_path), name)
        assert found == value
        assert found.schema.equals(SCHEMA, check_metadata=True)


def test_counts_add_up():
    assert SNAPSHOT.counts() == {
        "embedded": 10,
        "failed": 11,
        "removed": 2,
        "creators": 4,
        "failed_by_class": {"denied": 1, "invalid_row": 7, "timeout": 3},
    }
    assert snapshot.empty(2, SCHEMA).counts() == {
        "embedded": 0,
        "failed": 0,
        "removed": 0,
        "creators": 0,
        "failed_by_class": {},
    }


def test_names_are_all_that_a_reader_may_hold():
    assert SNAPSHOT.names() == {
        *("embeddings/a", "embeddings/b", "embeddings/c", "failures/a", "failures/rejected"),
        *("ids/embeddings-a", "ids/embeddings-b", "ids/embeddings-c"),
        *("removed/a", "embeddings/old", "snapshots/old.json", "snapshots/abc.json"),
    }


def test_a_snapshot_that_is_gone_is_named(tmp_path):
    with pytest.raises(InputError, match=r"snapshots/abc\.json does not exist"):
        Snapshot.read(str(tmp_path), "snapshots/abc.json")


@pytest.mark.parametrize(
    "damage",
    [
        lambda value: value.pop("buckets"),
        lambda value: value.pop("rejected_rows"),
        lambda value: value.update(arrow_schema_base64="not base64"),
        lambda value: value.update(arrow_schema_base64="AAAA"),
        lambda value: value.update(arrow_schema_base64=value["arrow_schema_base64"][:40]),
        lambda value: value.update(buckets=None),
        lambda value: value["buckets"][0].pop("creators"),
        lambda value: value["buckets"][0]["embeddings"][0].pop("rows"),
        lambda value: value["rejected"][0].update(colour="red"),
    ],
)
def test_a_damaged_snapshot_is_one_clear_refusal(tmp_path, damage):
    path = tmp_path / SNAPSHOT.write(str(tmp_path))
    value = json.loads(path.read_text())
    damage(value)
    path.write_text(json.dumps(value))
    with pytest.raises(InputError, match=r"snapshots/abc\.json is damaged") as caught:
        Snapshot.read(str(tmp_path), "snapshots/abc.json")
    assert "\n" not in str(caught.value)


def test_half_a_snapshot_is_refused(tmp_path):
    path = tmp_path / SNAPSHOT.write(str(tmp_path))
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(InputError, match="not JSON"):
        Snapshot.read(str(tmp_path), "snapshots/abc.json")
