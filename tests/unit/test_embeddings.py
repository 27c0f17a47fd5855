"""EMBEDDINGS are the files that the snapshot names, without the images that were removed."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from motif import schemas, storage
from motif.artefacts import embeddings, run
from motif.artefacts.embeddings import Embeddings
from motif.artefacts.snapshot import Bucket, Snapshot
from motif.errors import InputError
from motif.space import Preprocess, Space
from tests.bucket_files import SCHEMA, embedded, failures, flip_column_byte, ids, removed, row
from tests.synthetic import grow_embeddings, make_space, rows_of, themed, write_embeddings

SPACE = Space(
    encoder="test",
    weights_sha256="0" * 64,
    preprocess=Preprocess(
        size=8, mean=(0, 0, 0), std=(1, 1, 1), interpolation="bicubic", resize_mode="squash"
    ),
    dim=2,
)


@dataclass(frozen=True)
class Config:
    output: str = ""


@pytest.fixture
def artefact(tmp_path) -> Path:
    """Two buckets, the first of two files, with a removed image; failures and a rejected row."""
    out = str(tmp_path / "out")

    def write(kind: str, bucket: int, table: pa.Table, run_id: str = "r"):
        return embeddings.write_part(out, embeddings.part_name(kind, bucket, 2, run_id), table)

    first = Bucket(
        embeddings=(
            write("embeddings", 0, embedded(row("b"), row("d")), "q"),
            write("embeddings", 0, embedded(row("c"), row("a"), row("z", creator="aaa"))),
        ),
        failures=(write("failures", 0, failures(row("f"))),),
        removed=(write("removed", 0, removed("d")),),
        creators=2,
        failed_by_class={"timeout": 1},
    )
    second = Bucket(
        embeddings=(write("embeddings", 1, embedded(row("x", creator="bo"))),), creators=1
    )
    rejected = embeddings.write_part(
        out, "failures/rejected.parquet", failures(row("m.csv#3"), error_class="invalid_row")
    )
    whole = Snapshot("r", SCHEMA, (first, second), (rejected,), 1)
    run.Recorder(embeddings.ARTEFACT, Config(), run_id="r").finish(
        out,
        counts=whole.counts(),
        space=SPACE.to_json(),
        snapshot=whole.write(out),
        encoder="test/none",
    )
    return tmp_path / "out"


def test_rows_are_sorted_and_live(artefact):
    found = Embeddings.open(str(artefact))
    assert ids(found.read_bucket(0).to_pylist()) == ["z", "a", "b", "c"]
    assert ids(found.read().to_pylist()) == ["z", "a", "b", "c", "x"]
    assert found.read().schema == found.schema == SCHEMA
    assert (found.buckets, found.space, found.encoder) == (2, SPACE, "test/none")
    assert found.counts["embedded"] == found.read().num_rows
    assert found.counts["removed"] == 1
    assert found.counts["creators"] == 3


def test_some_columns_in_the_order_asked_for(artefact):
    found = Embeddings.open(str(artefact))
    table = found.read_bucket(0, ["uri", "creator_id"])
    assert table.column_names == ["uri", "creator_id"]
    assert table["uri"].to_pylist() == ["/z.jpg", "/a.jpg", "/b.jpg", "/c.jpg"]
    assert found.read(["embedding"]).num_rows == 5


def test_failures_with_rejected_rows(artefact):
    rows = Embeddings.open(str(artefact)).read_failures().to_pylist()
    assert ids(rows) == ["f", "m.csv#3"]
    assert [one["error_class"] for one in rows] == ["timeout", "invalid_row"]


def test_carried_columns_are_those_that_are_not_ours(artefact):
    found = Embeddings.open(str(artefact))
    assert found.carried == []
    carried = [pa.field("likes", pa.int64()), pa.field("held_out", pa.bool_())]
    schema = schemas.embeddings(2, features_dim=4, carried=carried)
    more = dataclasses.replace(found, snapshot=dataclasses.replace(found.snapshot, schema=schema))
    assert more.carried == ["likes", "held_out"]


def test_a_relative_folder(artefact, monkeypatch):
    monkeypatch.chdir(artefact.parent)
    found = Embeddings.open("out")
    monkeypatch.chdir("/")
    assert found.read().num_rows == 5


def test_what_no_snapshot_names_is_not_read(artefact):
    name = embeddings.part_name("embeddings", 0, 2, "unknown")
    embeddings.write_part(str(artefact), name, embedded(row("stranger")))
    assert "stranger" not in ids(Embeddings.open(str(artefact)).read().to_pylist())


def only_part(artefact: Path, bucket: int = 1) -> Path:
    return artefact / Embeddings.open(str(artefact)).snapshot.buckets[bucket].embeddings[0].name


def refusal(artefact: Path) -> str:
    with pytest.raises(InputError) as caught:
        Embeddings.open(str(artefact)).read()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_file_that_is_gone_is_named(artefact):
    path = only_part(artefact)
    path.unlink()
    assert f"{path} is gone" in refusal(artefact)


@pytest.mark.parametrize("damage", [lambda b: b"", lambda b: b[:-30], lambda b: b[: len(b) // 2]])
def test_a_file_that_was_cut_is_named_with_what_to_do(artefact, damage):
    path = only_part(artefact)
    path.write_bytes(damage(path.read_bytes()))
    message = refusal(artefact)
    assert str(path) in message
    assert "--verify" in message


@pytest.mark.parametrize("column", ["image_id", "uri", "embedding"])
def test_a_flipped_byte_is_found_by_its_checksum(artefact, column):
    path = only_part(artefact, 0)
    flip_column_byte(path, column)
    message = refusal(artefact)
    assert str(path) in message
    assert "--verify" in message


def test_a_file_with_other_rows_is_named(artefact):
    found = Embeddings.open(str(artefact))
    (part,) = found.snapshot.buckets[1].embeddings
    embeddings.write_part(str(artefact), part.name, embedded(row("x"), row("y")))
    assert "holds 2 rows, the snapshot says 1" in refusal(artefact)


def test_reading_no_files_gives_the_columns(artefact):
    table = embeddings.read_parts(str(artefact), (), SCHEMA, ["version", "image_id"])
    assert (table.column_names, table.num_rows) == (["version", "image_id"], 0)


def test_live_rows():
    rows = embedded(row("a"), row("b"), row("c"))
    assert embeddings.live_rows(rows, removed()).equals(rows)
    assert ids(embeddings.live_rows(rows, removed("b", "z")).to_pylist()) == ["a", "c"]
    assert embeddings.live_rows(rows, removed("a", "b", "c")).num_rows == 0
    assert embeddings.live_rows(embedded(), removed("a")).num_rows == 0


@pytest.mark.parametrize("lacking", ["snapshot", "space", "encoder", "counts"])
def test_a_record_that_was_edited_is_refused(artefact, lacking):
    path = artefact / "run.json"
    record = json.loads(path.read_text())
    del record[lacking]
    path.write_text(json.dumps(record))
    with pytest.raises(InputError, match=lacking):
        Embeddings.open(str(artefact))


def test_an_unfinished_or_absent_artefact_is_refused(artefact, tmp_path):
    (artefact / "run.json").rename(artefact / "_unfinished.json")
    with pytest.raises(InputError, match="unfinished"):
        Embeddings.open(str(artefact))
    with pytest.raises(InputError, match="does not exist"):
        Embeddings.open(str(tmp_path / "nowhere"))


def test_a_few_creators_are_read_without_reading_all(tmp_path, monkeypatch):
    ids, vectors = themed(200, 5, 64)
    uri = write_embeddings(tmp_path / "e", rows_of(ids, vectors), make_space(64), buckets=1)
    grow_embeddings(uri, rows_of(["creator-050", "creator-300"], vectors[:2]), ["image-00252"])
    monkeypatch.setattr(embeddings, "ROW_GROUP_BYTES", 1)
    small = write_embeddings(tmp_path / "s", rows_of(ids, vectors), make_space(64), buckets=1)
    (part,) = Embeddings.open(small).snapshot.buckets[0].embeddings
    groups = pq.ParquetFile(f"{small}/{part.name}").metadata.num_row_groups
    assert groups > 10
    for place in (uri, small):
        opened = Embeddings.open(place)
        rows = opened.read_bucket(0)
        for wanted in (["creator-050"], ["creator-000", "creator-199", "nobody"], ["zz"], []):
            expected = rows.filter(pc.is_in(rows["creator_id"], pa.array(wanted, pa.string())))
            assert opened.read_bucket(0, creators=wanted).equals(expected)
    chosen = storage.read_parquet(
        f"{small}/{part.name}", ["creator_id"], holding=("creator_id", ["creator-100"])
    )
    assert chosen.num_rows <= 2 * storage.FEWEST_ROWS_PER_GROUP
