import json
from datetime import UTC, datetime

import lance
import lancedb
import numpy as np
import pyarrow as pa
import pytest

from motif import schemas
from motif.artefacts.checkpoint import Checkpoint
from motif.errors import ContractError, InputError, OutputError
from motif.model import as_inputs, embed
from motif.publishing import commit
from motif.publishing.rows import HeldOut, draft
from motif.table import LIVE, CreatorTable, TableUri
from motif.table.layout import metadata_of
from tests.synthetic import (
    make_directions,
    make_space,
    publish,
    rows_of,
    themed,
    unit,
    write_checkpoint,
)

DIM = 12
WORDS = ("vivid", "black-and-white")


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return write_checkpoint(tmp_path_factory.mktemp("model") / "same", make_space(DIM))


@pytest.fixture(scope="module")
def rows() -> pa.Table:
    """Forty creators with one to five images each."""
    ids, vectors = themed(40, 5, DIM)
    kept = [i for i in range(len(ids)) if i % 5 <= (i // 5) % 5]
    return rows_of([ids[i] for i in kept], vectors[kept])


@pytest.fixture(scope="module")
def published(tmp_path_factory, rows, model) -> str:
    """A table that no test changes."""
    path = tmp_path_factory.mktemp("database") / "creators.lance"
    publish(path, rows, model, words=WORDS)
    return str(path)


@pytest.fixture
def opened(published) -> CreatorTable:
    return CreatorTable.open(published)


@pytest.fixture(scope="module")
def truth(rows, model) -> dict[str, dict]:
    """Every creator by plain numpy."""
    network = Checkpoint.open(model).model
    vectors = schemas.matrix(rows["embedding"])
    same = embed(network, as_inputs(rows_tensor(vectors))).numpy()
    directions = make_directions(WORDS, DIM).vectors
    found = {}
    for creator in sorted(set(rows["creator_id"].to_pylist())):
        own = [i for i, c in enumerate(rows["creator_id"].to_pylist()) if c == creator]
        found[creator] = {
            "same": unit(same[own].mean(axis=0)),
            "mean": vectors[own].mean(axis=0),
            "count": len(own),
            "scores": [np.mean([vectors[i] @ d for i in own]) for d in directions],
            "uris": {rows["uri"][i].as_py() for i in own},
        }
    return found


def rows_tensor(vectors: np.ndarray):
    import torch

    return torch.from_numpy(np.array(vectors))


def live(path: str) -> int:
    table = TableUri.parse(path)
    return lancedb.connect(table.database).open_table(table.name).tags.get_version(LIVE)


def snapshot(folder) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


# -- what is published --------------------------------------------------------------------------


def test_every_creator_is_what_numpy_says(opened, truth):
    assert opened.creator_ids() == sorted(truth)
    assert len(opened) == 40
    for creator, expected in truth.items():
        [row] = opened.get(creator).to_pylist()
        np.testing.assert_allclose(row["same"], expected["same"], atol=1e-5)
        np.testing.assert_allclose(row["mean_embedding"], expected["mean"], atol=1e-6)
        assert row["image_count"] == expected["count"]
        assert row["oaar_vivid"] == pytest.approx(expected["scores"][0], abs=1e-6)
        assert row["oaar_black_and_white"] == pytest.approx(expected["scores"][1], abs=1e-6)
        assert row["updated_at"] == datetime(2026, 1, 1, tzinfo=UTC)
        assert set(row["representative_uris"]) <= expected["uris"]
        assert len(row["representative_uris"]) == min(expected["count"], 4)
        assert (row["theme_consistency"] is None) == (expected["count"] == 1)


def test_the_schema_is_creators_and_creator_id_comes_first(published):
    schema = lance.dataset(published).schema
    expected = schemas.creators(8, DIM, WORDS)
    assert schema.names == expected.names
    assert schema.names[0] == "creator_id"
    assert [f.nullable for f in schema] == [f.nullable for f in expected]
    assert schema.field("same").type == pa.list_(pa.float32(), 8)
    assert schema.field("mean_embedding").type == pa.list_(pa.float32(), DIM)
    for name in ("creator_id", "image_count", "theme_consistency", "oaar_vivid", "updated_at"):
        assert schema.field(name).type == expected.field(name).type


def test_the_table_says_what_it_is(opened, model):
    record = Checkpoint.open(model)
    assert opened.space["fingerprint"] == record.fingerprint
    assert opened.space["encoder"] == record.encoder_space.to_json()
    assert opened.adjectives == {"vivid": "oaar_vivid", "black-and-white": "oaar_black_and_white"}


def test_creator_id_has_a_btree_index_over_all_rows(published):
    table = TableUri.parse(published)
    opened = lancedb.connect(table.database).open_table(table.name)
    opened.checkout(LIVE)
    (index,) = opened.list_indices()
    assert (index.index_type, index.columns) == ("BTree", ["creator_id"])
    stats = opened.index_stats(index.name)
    assert (stats.num_indexed_rows, stats.num_unindexed_rows) == (40, 0)


def test_a_large_table_has_indices_for_what_is_filtered_by(tmp_path, rows, model, monkeypatch):
    monkeypatch.setattr(commit, "INDEX_FROM_ROWS", 1)
    monkeypatch.setattr(commit, "_MOST_BITMAPS", 3)
    ids = sorted(set(rows["creator_id"].to_pylist()))
    attributes = {
        "creator_id": ids,
        "country": ["DE", "FR"] * 20,
        "city": [f"city {i}" for i in range(40)],
        "followers": range(40),
        "active": [True, False] * 20,
        "price": pa.array(range(40), pa.decimal128(10, 2)),
    }
    path = tmp_path / "creators.lance"
    publish(path, rows, model, words=WORDS, attributes=pa.table(attributes))
    opened = lancedb.connect(tmp_path).open_table("creators")
    opened.checkout(LIVE)
    kinds = {index.columns[0]: index.index_type for index in opened.list_indices()}
    assert kinds == {
        **dict.fromkeys(["creator_id", "followers", "city"], "BTree"),
        **dict.fromkeys(["oaar_vivid_pct", "oaar_black_and_white_pct"], "BTree"),
        **dict.fromkeys(["country", "active"], "Bitmap"),
        "same": "IvfSq",
    }
    for index in opened.list_indices():
        stats = opened.index_stats(index.name)
        assert (stats.num_indexed_rows, stats.num_unindexed_rows) == (40, 0)
    where = ["country=DE", "followers>=10", "active=true", "price<30", "city!=city 12"]
    found = CreatorTable.open(str(path)).lookalikes(ids[0], k=40, where=where, exclude_self=False)
    assert sorted(found["creator_id"].to_pylist()) == [ids[i] for i in range(10, 30, 2) if i != 12]


def test_the_plain_client_reads_the_live_version_without_motif(published, truth):
    table = TableUri.parse(published)
    opened = lancedb.connect(table.database).open_table("creators")
    opened.checkout("live")
    found = opened.search().where("image_count >= 5").limit(100).to_arrow()
    assert set(found["creator_id"].to_pylist()) == {c for c in truth if truth[c]["count"] == 5}
    vector = truth["creator-004"]["same"]
    nearest = opened.search(vector, vector_column_name="same").metric("cosine").limit(1).to_list()
    assert nearest[0]["creator_id"] == "creator-004"


def test_no_creators_make_an_empty_table(tmp_path, rows, model):
    path = tmp_path / "creators.lance"
    assert publish(path, rows.slice(0, 0), model)["rows"] == 0
    table = CreatorTable.open(str(path))
    assert (len(table), table.creator_ids()) == (0, [])
    assert table.rank("vivid").num_rows == 0
    with pytest.raises(InputError, match="creator 'nobody' is not in"):
        table.lookalikes("nobody")


@pytest.mark.parametrize("value", [0.0, float("nan")])
def test_a_creator_without_a_direction_is_refused_by_name(rows, model, value):
    ids = rows["creator_id"].to_pylist()
    vectors = np.array(schemas.matrix(rows["embedding"]))
    # Rows at the whitening's mean map to zero; so do zero rows when the mean is taken out of it.
    network = Checkpoint.open(model)
    network.model.mean.zero_()
    vectors[[i for i, c in enumerate(ids) if c == "creator-007"]] = value
    broken = rows.set_column(
        rows.schema.get_field_index("embedding"), "embedding", schemas.vector_array(vectors)
    )
    held_out = HeldOut("all", 1.0)
    with pytest.raises(ContractError, match=r"1 creators have no direction .*'creator-007'"):
        draft([broken], network, held_out, updated_at=datetime.now(UTC), device="cpu")


# -- versions -----------------------------------------------------------------------------------


def test_a_second_publish_is_a_new_version_and_live_moves(tmp_path, rows, model, published):
    path = str(tmp_path / "creators.lance")
    first = publish(path, rows, model, words=WORDS)
    assert live(path) == first["version"]
    fewer = rows.filter(pa.compute.less(rows["creator_id"], "creator-010"))
    second = publish(path, fewer, model, words=("calm",))
    assert second == {"version": live(path), "rows": 10}
    assert second["version"] > first["version"]
    now = CreatorTable.open(path)
    assert now.version == second["version"]
    assert now.adjectives == {"calm": "oaar_calm"}
    assert len(now) == 10
    with pytest.raises(InputError, match="'vivid' is not in"):
        now.rank("vivid")
    before = CreatorTable.open(path, version=first["version"])
    assert len(before) == 40
    assert before.adjectives == CreatorTable.open(published).adjectives


def test_a_reader_of_the_older_version_keeps_reading_it(tmp_path, rows, model):
    path = str(tmp_path / "creators.lance")
    publish(path, rows, model, words=WORDS)
    reader = CreatorTable.open(path)
    similar, ranked = reader.lookalikes("creator-003"), reader.rank("vivid")
    changed = rows_of(*themed(3, 2, DIM, seed=9))
    publish(path, changed, model, words=("calm",))
    assert len(reader) == 40
    assert reader.lookalikes("creator-003").equals(similar)
    assert reader.rank("vivid").equals(ranked)
    assert len(CreatorTable.open(path)) == 3


@pytest.mark.parametrize("planned", [39, 41])
def test_a_commit_of_another_number_of_rows_commits_nothing(tmp_path, rows, model, planned):
    path = str(tmp_path / "creators.lance")
    publish(path, rows, model)
    before = live(path)
    whole = lance.dataset(path).to_table()
    table = TableUri.parse(path)
    fragments = commit.write_rows(table, whole)
    with pytest.raises(ContractError, match=f"wrote 40 rows, planned {planned}; nothing"):
        commit.overwrite(table, whole.schema, fragments, planned=planned)
    assert lance.dataset(path).latest_version == live(path) == before
    assert len(CreatorTable.open(path)) == 40


def test_versions_that_are_not_there_are_refused(published):
    for version in (99, "yesterday"):
        with pytest.raises(InputError, match=f"has no version {version!r}"):
            CreatorTable.open(published, version=version)


# -- places that hold something else ------------------------------------------------------------


def test_a_missing_table_is_told_how_to_make(tmp_path):
    with pytest.raises(InputError, match=r"does not exist; jobs\.publish_creators makes it"):
        CreatorTable.open(str(tmp_path / "creators.lance"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("metadata", [None, b"{", b"[]", b'{"artefact": "embeddings"}'])
def test_a_lance_table_of_others_is_refused_and_untouched(tmp_path, rows, model, metadata):
    path = tmp_path / "creators.lance"
    schema = pa.schema([("id", pa.int64())], metadata and {"motif": metadata})
    lance.write_dataset(pa.table({"id": [1, 2]}, schema=schema), path)
    before = snapshot(path)
    with pytest.raises(OutputError, match="a Lance table that Motif did not make"):
        publish(path, rows, model)
    with pytest.raises(InputError, match="but not one of CREATORS"):
        CreatorTable.open(str(path))
    assert snapshot(path) == before


@pytest.mark.parametrize("kind", ["folder", "file", "lookalike"])
def test_what_is_no_table_is_refused_and_untouched(tmp_path, rows, model, kind):
    path = tmp_path / "creators.lance"
    if kind == "file":
        path.write_text("my notes")
    else:
        path.mkdir()
        (path / "notes.txt").write_text("my notes")
        if kind == "lookalike":
            (path / "data").mkdir()
    before = snapshot(tmp_path)
    with pytest.raises(OutputError, match="is there and is no Lance table"):
        publish(path, rows, model)
    with pytest.raises(InputError, match="is not a Lance table"):
        CreatorTable.open(str(path))
    assert snapshot(tmp_path) == before


def test_a_damaged_table_is_refused_and_untouched(tmp_path, rows, model):
    path = tmp_path / "creators.lance"
    publish(path, rows, model)
    for manifest in (path / "_versions").glob("*.manifest"):
        manifest.write_bytes(b"damaged")
    for name in ("_indices", "_refs"):
        for file in sorted((path / name).rglob("*"), reverse=True):
            file.unlink() if file.is_file() else file.rmdir()
        (path / name).rmdir()
    before = snapshot(path)
    with pytest.raises(OutputError, match="is there and is no Lance table"):
        publish(path, rows, model)
    assert snapshot(path) == before


@pytest.mark.parametrize("left", [{"data"}, {"data", "_transactions"}, {"data", "_versions"}])
def test_a_first_publish_that_was_cut_off_can_be_repeated(tmp_path, rows, model, left):
    """Killed while it wrote fragments, or in the commit, before there was a first manifest."""
    path = tmp_path / "creators.lance"
    publish(path, rows, model)
    for name in sorted({p.name for p in path.iterdir()} - left):
        for file in sorted((path / name).rglob("*"), reverse=True):
            file.unlink() if file.is_file() else file.rmdir()
        (path / name).rmdir()
    for file in (path / "_versions").glob("*"):
        file.unlink()
    with pytest.raises(InputError, match="holds no version yet: its first publish has not"):
        CreatorTable.open(str(path))
    publish(path, rows, model)
    assert len(CreatorTable.open(str(path))) == 40


@pytest.mark.parametrize(
    "uri",
    [
        *("creators", "/db/.lance", "/creators.lance", "s3://creators.lance", "s3://b/db/creators"),
        *(
            "/db/my table.lance",
            "/db/tablé.lance",
            "/d?b/creators.lance",
            "http://h/db/creators.lance",
        ),
    ],
)
def test_uris_that_name_no_table_are_refused_before_any_work(uri):
    with pytest.raises(InputError):
        TableUri.parse(uri)


def test_uris_are_taken_apart(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert TableUri.parse("creators.lance") == TableUri(str(tmp_path), "creators")
    assert TableUri.parse("s3://b/db/my.creators-2_a.lance/") == TableUri(
        "s3://b/db", "my.creators-2_a"
    )
    assert TableUri.parse("s3://b/creators.lance").uri == "s3://b/creators.lance"
    assert TableUri.parse("file:///db/c.lance") == TableUri("/db", "c")


@pytest.mark.parametrize("folder", ["with space", "ünï", "per%20cent", "hash#tag"])
def test_folders_may_have_any_name(tmp_path, rows, model, folder):
    path = tmp_path / folder / "creators.lance"
    publish(path, rows.slice(0, 3), model)
    assert len(CreatorTable.open(str(path))) == 2
    assert (path / "data").is_dir()


def test_metadata_is_ours_only_when_it_says_so():
    ours = pa.schema([], {"motif": json.dumps({"artefact": "creators", "space": {}})})
    assert metadata_of(ours) == {"artefact": "creators", "space": {}}
    assert metadata_of(pa.schema([])) is None
