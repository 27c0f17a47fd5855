import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import lance
import lancedb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from lancedb.index import IvfSq

from motif import schemas, storage
from motif.artefacts import embeddings, erased, lock, run, staging, update
from motif.artefacts.embeddings import Embeddings
from motif.artefacts.snapshot import Snapshot
from motif.cli_maintenance import Erase
from motif.errors import ContractError, InputError, OutputHeld
from motif.table import LIVE, CreatorTable, TableUri, versions
from tests import evaluation_inputs
from tests.evaluation_inputs import no_encoder  # noqa: F401 (a fixture)
from tests.synthetic import (
    make_space,
    publish,
    rows_of,
    themed,
    write_checkpoint,
    write_embeddings,
)

DIM = 12
WHO, OTHER = "creator-003", "creator-005"
NASTY = ["x' OR 1=1 --", '"; DROP TABLE creators; --', "two\nlines", "ünïcödé 🎨", "100%_sure", ""]


@pytest.fixture(autouse=True)
def _no_key(monkeypatch):
    monkeypatch.delenv(erased.KEY_VARIABLE, raising=False)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return write_checkpoint(tmp_path_factory.mktemp("model") / "same", make_space(DIM))


def erase(*creators: str, **named) -> dict:
    return Erase(
        creator=creators,
        **{name: (value,) if isinstance(value, str) else value for name, value in named.items()},
    ).perform()


def parquet_rows(folder: Path, creator: str) -> dict[str, int]:
    """Rows of a creator in each Parquet file, read without Motif."""
    found = {}
    for path in sorted(folder.rglob("*.parquet")):
        table = pq.read_table(path)
        if "creator_id" in table.column_names:
            count = table["creator_id"].to_pylist().count(creator)
            if count:
                found[str(path.relative_to(folder))] = count
    return found


def files_with(folder: Path, data: bytes) -> set[str]:
    """Files with these bytes in them; Lance stores vectors, and short texts, as they are."""
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {str(p.relative_to(folder)) for p in paths if data in p.read_bytes()}


# -- EMBEDDINGS ---------------------------------------------------------------------------------


@pytest.fixture
def artefact(tmp_path) -> Path:
    """EMBEDDINGS of eight creators, with every kind of file that can hold one."""
    output = tmp_path / "embeddings"
    write_embeddings(output, rows_of(*themed(8, 3, DIM)), make_space(DIM))
    record, before = run.read(str(output), "embeddings"), update.current(str(output))
    number = next(i for i, b in enumerate(before.buckets) if WHO in ids_of(output, b.embeddings))
    state = before.buckets[number]

    def part(kind: str, rows: pa.Table, run_id: str = "more"):
        name = embeddings.part_name(kind, number, len(before.buckets), run_id)
        return embeddings.write_part(str(output), name, rows)

    columns = {"uri": "/x.jpg", "version": None, "stage": "fetch", "message": "m", "attempts": 1}
    failures = [
        {"image_id": f"f{i}", "creator_id": c, "error_class": e, **columns}
        for i, (c, e) in enumerate([(WHO, "timeout"), ("near", "timeout"), (WHO, "denied")])
    ]
    held = Embeddings.open(str(output)).read_bucket(number)
    first = held.filter(pc.equal(held["creator_id"], WHO)).slice(0, 1)
    mark = {"image_id": first["image_id"][0], "creator_id": WHO, "removed_at": datetime.now(UTC)}
    added = set_column(first, image_id="added")
    rejected = {**failures[0], "image_id": "bad", "error_class": "invalid_row"}
    superseded = part("embeddings", held, "old")
    state = dataclasses.replace(
        state,
        embeddings=(*state.embeddings, part("embeddings", added)),
        failures=(part("failures", pa.Table.from_pylist(failures, schemas.FAILURES)),),
        removed=(part("removed", pa.Table.from_pylist([mark], schemas.REMOVED)),),
        failed_by_class={"denied": 1, "timeout": 2},
    )
    name = "failures/rejected-00000-more.parquet"
    bad = [rejected, {**rejected, "image_id": "worse", "creator_id": None}]
    bad = embeddings.write_part(str(output), name, pa.Table.from_pylist(bad, schemas.FAILURES))
    buckets = list(before.buckets)
    buckets[number] = state
    after = Snapshot(
        run_id="more",
        schema=before.schema,
        buckets=tuple(buckets),
        rejected=(bad,),
        rejected_rows=2,
        superseded=(superseded.name,),
    )
    counts = {**record["counts"], **after.counts()}
    storage.write_json(
        str(output / "run.json"), {**record, "snapshot": after.write(str(output)), "counts": counts}
    )
    folder = str(output / "_staging" / "settings")
    staging.append(folder, number, "embeddings", held)
    staging.append(folder, number, "embeddings", added)
    (output / "_staging" / "plan-killed" / "images").mkdir(parents=True)
    (output / "_staging" / "plan-killed" / "images" / "a.arrow").write_bytes(WHO.encode())
    return output


def ids_of(output: Path, parts) -> set[str]:
    return {c for p in parts for c in pq.read_table(output / p.name)["creator_id"].to_pylist()}


def set_column(rows: pa.Table, **values: str) -> pa.Table:
    for name, value in values.items():
        field = rows.schema.field(name)
        column = pa.array([value] * rows.num_rows, field.type)
        rows = rows.set_column(rows.schema.get_field_index(name), field, column)
    return rows


def test_every_file_of_embeddings_is_without_them(artefact):
    assert len(parquet_rows(artefact, WHO)) == 8
    before = Embeddings.open(str(artefact))
    rows = before.read()
    others = rows.filter(pc.not_equal(rows["creator_id"], WHO))
    done = erase(WHO, embeddings=str(artefact))
    assert done["embeddings"] == {
        str(artefact): {"images": 4, "failures": 3, "marks": 1, "staged": 4}
    }
    assert done["was_somewhere"]
    assert parquet_rows(artefact, WHO) == {}
    assert files_with(artefact, WHO.encode()) == set()
    after = Embeddings.open(str(artefact))
    assert after.read().sort_by("image_id") == others.sort_by("image_id")
    assert after.read_failures()["creator_id"].to_pylist() == ["near", None]
    assert after.counts == {**before.counts, **after.snapshot.counts()}
    assert after.counts["creators"] == before.counts["creators"] - 1 == 7
    assert after.counts["failed_by_class"] == {"invalid_row": 1, "timeout": 1}
    there = {str(p.relative_to(artefact)) for p in artefact.rglob("*") if p.is_file()}
    staged = {name for name in there if name.startswith("_staging/settings/")}
    assert there - staged == after.snapshot.names() | {"run.json", "erased.json"}
    assert len(staged) == 1
    assert WHO not in json.dumps(run.read(str(artefact), "embeddings"))


def test_others_of_the_bucket_and_its_order_stay(artefact):
    erase(WHO, OTHER, embeddings=str(artefact))
    opened = Embeddings.open(str(artefact))
    assert set(opened.read()["creator_id"].to_pylist()) == {
        f"creator-{i:03d}" for i in range(8) if i not in (3, 5)
    }
    for bucket in opened.snapshot.buckets:
        for part in bucket.embeddings:
            keys = pq.read_table(artefact / part.name, columns=["creator_id", "image_id"])
            assert keys == keys.sort_by([("creator_id", "ascending"), ("image_id", "ascending")])
            ids = pq.read_table(artefact / "ids" / part.name.replace("/", "-", 1))
            assert ids["image_id"].to_pylist() == keys["image_id"].to_pylist()


def test_what_is_unfinished_is_cleaned_and_stays_unfinished(artefact):
    unfinished = {"artefact": "embeddings", "plan": {"buckets": 3}, "overwrite": True}
    unfinished["replaces"] = run.read(str(artefact), "embeddings")["run_id"]
    storage.write_json(str(artefact / "_unfinished.json"), unfinished)
    erase(WHO, embeddings=str(artefact))
    assert storage.read_json(str(artefact / "_unfinished.json")) == unfinished
    # The run that overwrites goes on with what it has staged.
    assert unfinished["replaces"] == run.read(str(artefact), "embeddings")["run_id"]
    (artefact / "run.json").unlink()
    erase(OTHER, embeddings=str(artefact))
    assert parquet_rows(artefact, OTHER) == {}
    assert erased.load(str(artefact)).holds(OTHER)


def test_a_damaged_file_is_an_error_and_no_proof(artefact):
    path = next((artefact / "embeddings").glob("*-more.parquet"))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match="--verify to mend it"):
        erase(WHO, embeddings=str(artefact))


def test_a_file_that_nobody_knows_of_is_found(artefact):
    copy = artefact / "backup" / "copy.parquet"
    copy.parent.mkdir()
    pq.write_table(Embeddings.open(str(artefact)).read(), copy)
    with pytest.raises(ContractError, match=r"backup/copy\.parquet still holds somebody"):
        erase(WHO, embeddings=str(artefact))
    copy.unlink()
    notes = artefact / "notes.bin"
    notes.write_bytes(b"about " + WHO.encode())
    with pytest.raises(ContractError, match=r"notes\.bin still holds somebody"):
        erase(WHO, embeddings=str(artefact))


# -- the table ----------------------------------------------------------------------------------


@pytest.fixture
def table(tmp_path, model) -> TableUri:
    """Publishes of three, of eight, and of nine creators; the first lacks WHO."""
    path = tmp_path / "db" / "creators.lance"
    for creators in (3, 8, 9):
        rows = rows_of(*themed(creators, 10, DIM))
        publish(path, rows, model, run_id=f"run-{creators}")
    return TableUri.parse(str(path))


def live(table: TableUri) -> lance.LanceDataset:
    dataset = lance.dataset(table.uri)
    return dataset.checkout_version(dataset.tags.get_version(LIVE))


def numbers(table: TableUri) -> dict[str, int]:
    found = versions.list_versions(table)
    return {version.run_id: version.version for version in found if version.published}


def require_gone(table: TableUri, *creators: str) -> None:
    """Look for somebody in all versions, rows marked as deleted included, without Motif."""
    dataset = lance.dataset(table.uri)
    for one in dataset.versions():
        opened = dataset.checkout_version(one["version"])
        rows = opened.scanner(["creator_id"], include_deleted_rows=True, with_row_id=True)
        assert not set(creators) & set(rows.to_table()["creator_id"].to_pylist())
    for creator in creators:
        assert parquet_rows(Path(table.beside()), creator) == {}


def test_every_version_of_the_table_is_without_them(table):
    before = live(table)
    rows = before.to_table()
    theirs = rows.filter(pc.equal(rows["creator_id"], WHO))
    vector = schemas.matrix(theirs["mean_embedding"]).tobytes()
    assert files_with(Path(table.uri), vector)  # what is looked for can be found
    assert files_with(Path(table.uri), WHO.encode())
    assert len(parquet_rows(Path(table.beside()), WHO)) == 4  # population and halves
    was = numbers(table)
    done = erase(WHO, table=table.uri)["tables"][table.uri]
    assert (done["rows"], done["from_version"]) == (1, was["run-9"])
    assert files_with(Path(table.database), vector) == set()
    assert files_with(Path(table.database), WHO.encode()) == set()
    require_gone(table, WHO)
    after = live(table).to_table()
    assert after == rows.filter(pc.not_equal(rows["creator_id"], WHO)).cast(after.schema)
    assert after.schema == rows.schema
    assert numbers(table) == {"run-3": was["run-3"], "run-9": done["live_version"]}
    assert {was["run-8"], was["run-9"]} <= set(done["dropped_versions"])


def test_queries_and_indices_are_whole_again(table):
    before = CreatorTable.open(table.uri).lookalikes("creator-000", k=8).to_pylist()
    assert WHO in [row["creator_id"] for row in before]
    erase(WHO, table=table.uri)
    after = CreatorTable.open(table.uri).lookalikes("creator-000", k=8).to_pylist()
    assert [row["creator_id"] for row in after] == [
        row["creator_id"] for row in before if row["creator_id"] != WHO
    ]
    opened = lancedb.connect(table.database).open_table(table.name)
    opened.checkout(LIVE)
    for index in opened.list_indices():
        stats = opened.index_stats(index.name)
        assert (stats.num_indexed_rows, stats.num_unindexed_rows) == (8, 0)
    with pytest.raises(InputError, match="is not in"):
        CreatorTable.open(table.uri).lookalikes(WHO)


def test_nothing_goes_back_across_an_erasure(table):
    was = numbers(table)
    done = erase(WHO, table=table.uri)
    for run_id in ("run-8", "run-9"):
        with pytest.raises(InputError, match=r"was dropped on 20.* held somebody who was erased"):
            versions.rollback(table, was[run_id])
    assert versions.rollback(table, was["run-3"])["rows"] == 3
    # And back: the record of the publish names the version that its rows are in now.
    now = done["tables"][table.uri]["live_version"]
    assert versions.rollback(table, now)["rows"] == 8
    record = storage.read_json(table.beside("publishes", "run-9.json"))
    assert record["table_version"] == now
    assert record["erasures"] == [{"run_id": done["run_id"], "from_version": was["run-9"]}]


def test_tags_of_versions_that_held_them_are_removed_and_told(table):
    was = numbers(table)
    dataset = lance.dataset(table.uri)
    dataset.tags.create("gold", was["run-8"])
    dataset.tags.create("first", was["run-3"])
    done = erase(WHO, table=table.uri)["tables"][table.uri]
    assert done["removed_tags"] == ["gold"]
    assert set(lance.dataset(table.uri).tags.list()) == {"first", LIVE}
    require_gone(table, WHO)


def test_the_record_of_an_erasure_says_not_whom(table):
    done = erase(WHO, OTHER, table=table.uri)
    record = storage.read_json(table.beside("erasures", f"{done['run_id']}.json"))
    found = done["tables"][table.uri]
    assert record["dropped_versions"] == found["dropped_versions"]
    assert (record["creators"], found["rows"], found["sidecar_rows"]) == (2, 2, 8)
    assert record["finished_at"] >= record["started_at"]
    assert WHO not in json.dumps([record, done])


def test_records_beside_the_table_name_nobody_and_are_else_as_they_were(table):
    uri = table.beside("publishes", "run-8.json")
    record = {**storage.read_json(uri), "words": [WHO], "by_creator": {"n": 1}}
    named = {"creator_id": WHO, "worst": {"creator_ids": [WHO, OTHER], "creator": {WHO: 1}}}
    storage.write_json(uri, {**record, **named})
    erase(WHO, table=table.uri)
    assert storage.read_json(uri) == {
        **record,
        "creator_id": None,
        "worst": {"creator_ids": [OTHER], "creator": {}},
    }


def test_rows_that_an_update_left_behind_are_gone(table):
    """A merge marks a creator's older row as deleted; its bytes stay in the old fragment."""
    dataset = lance.dataset(table.uri)
    row = dataset.to_table(filter=pc.field("creator_id") == WHO)
    old = schemas.matrix(row["mean_embedding"])
    place = row.schema.get_field_index("mean_embedding")
    field = row.schema.field(place)
    new = row.set_column(place, field, schemas.vector_array(-old).cast(field.type))
    dataset.merge_insert("creator_id").when_matched_update_all().execute(new)
    dataset.optimize.optimize_indices()
    # And a full manifest that lacks them: marked as deleted for good, and in no row any more.
    dataset.delete(pc.field("creator_id") == WHO)
    dataset.tags.update(LIVE, dataset.version)
    assert files_with(Path(table.uri), old.tobytes())
    assert files_with(Path(table.uri), (-old).tobytes())
    done = erase(WHO, table=table.uri)
    assert done["was_somewhere"]
    assert done["tables"][table.uri]["rows"] == 0
    for data in (old.tobytes(), (-old).tobytes(), WHO.encode()):
        assert files_with(Path(table.database), data) == set()
    require_gone(table, WHO)
    assert live(table).count_rows() == 8


@pytest.mark.parametrize("everybody", [False, True])
def test_a_creator_alone_in_a_fragment_is_gone(table, everybody):
    """Lance drops such a fragment without rewriting anything, nor the index."""
    dataset = lance.dataset(table.uri)
    row = dataset.to_table(filter=pc.field("creator_id") == WHO)
    dataset.delete(pc.field("creator_id") == WHO)
    dataset.insert(row)
    dataset.optimize.optimize_indices()
    dataset.optimize.compact_files(excluded_fragment_ids=[dataset.get_fragments()[-1].fragment_id])
    dataset.tags.update(LIVE, dataset.version)
    assert sorted(f.count_rows() for f in dataset.get_fragments()) == [1, 8]
    whom = dataset.to_table()["creator_id"].to_pylist() if everybody else [WHO]
    erase(*whom, table=table.uri)
    for creator in whom:
        assert files_with(Path(table.database), creator.encode()) == set()
    require_gone(table, *whom)
    assert len(CreatorTable.open(table.uri)) == 9 - len(whom)


def test_a_vector_index_is_trained_anew(tmp_path, model):
    path = tmp_path / "creators.lance"
    publish(path, rows_of(*themed(300, 1, DIM)), model)
    where = TableUri.parse(str(path))
    opened = lancedb.connect(where.database).open_table(where.name)
    options = IvfSq(distance_type="cosine", num_partitions=1)
    opened.create_index("same", config=options, name="same_idx")
    opened.tags.update(LIVE, opened.version)
    before = {p.name for p in (path / "_indices").iterdir()}
    erase(WHO, table=str(path))
    assert not before & {p.name for p in (path / "_indices").iterdir()}
    opened = lancedb.connect(where.database).open_table(where.name)
    opened.checkout(LIVE)
    assert sorted(i.index_type for i in opened.list_indices()) == ["BTree", "IvfSq"]
    assert opened.index_stats("same_idx").num_indexed_rows == 299
    assert opened.index_stats("same_idx").distance_type == "cosine"
    require_gone(where, WHO)


@pytest.mark.parametrize("creator", NASTY)
def test_ids_may_be_any_text(tmp_path, model, creator):
    ids, vectors = themed(4, 2, DIM)
    ids = [creator if one == "creator-001" else one for one in ids]
    rows = rows_of(ids, vectors)
    folder = write_embeddings(tmp_path / "embeddings", rows, make_space(DIM))
    path = str(tmp_path / "creators.lance")
    publish(path, rows, model)
    done = erase(creator, embeddings=folder, table=path)
    assert done["tables"][path]["rows"] == 1
    assert done["embeddings"][folder]["images"] == 2
    require_gone(TableUri.parse(path), creator)
    assert CreatorTable.open(path).creator_ids() == ["creator-000", "creator-002", "creator-003"]


@pytest.mark.parametrize("word", ["vivid", "creators", "embeddings", "lite", "creator_id", "e"])
def test_a_creator_named_like_a_word_of_ours_costs_nothing_else(tmp_path, model, word):
    """Of the table's record, adjectives and columns have texts that an id may have, too."""
    ids, vectors = themed(4, 2, DIM)
    rows = rows_of([word if one == "creator-001" else one for one in ids], vectors)
    folder = write_embeddings(tmp_path / "embeddings", rows, make_space(DIM))
    path = str(tmp_path / "creators.lance")
    publish(path, rows, model)
    before = CreatorTable.open(path).adjectives
    erase(word, embeddings=folder, table=path)
    assert CreatorTable.open(path).adjectives == before
    assert CreatorTable.open(path).rank("vivid").num_rows == 3
    assert Embeddings.open(folder).counts["creators"] == 3


def test_a_first_publish_that_was_killed_leaves_nothing(tmp_path):
    where = TableUri.parse(str(tmp_path / "killed" / "creators.lance"))
    storage.write_bytes(storage.join(where.uri, "data", "half.lance"), WHO.encode())
    storage.write_parquet(
        where.beside("staging", "plan", "creators-0.parquet"), pa.table({"creator_id": [WHO]})
    )
    erase(WHO, table=where.uri)
    assert not storage.exists(where.uri)
    assert not storage.exists(where.beside("staging"))
    assert erased.load(where.beside()).holds(WHO)
    # Nor one that was killed before its first fragment.
    storage.write_parquet(
        where.beside("staging", "plan", "creators-0.parquet"), pa.table({"creator_id": [WHO]})
    )
    erase(WHO, table=where.uri)
    assert parquet_rows(tmp_path, WHO) == {}


def test_versions_of_a_publish_that_was_killed_go(table, model):
    """The latest version is then newer than the live one, and Lance would never drop it."""
    published = live(table).version
    publish(table.uri, rows_of(*themed(10, 1, DIM)), model, run_id="killed")
    storage.remove(table.beside("publishes", "killed.json"))
    lance.dataset(table.uri).tags.update(LIVE, published)
    done = erase(WHO, table=table.uri)["tables"][table.uri]
    assert done["rows"] == 1
    require_gone(table, WHO)
    assert live(table).count_rows() == 8
    assert lance.dataset(table.uri).version == done["live_version"]


@pytest.mark.usefixtures("no_encoder")
def test_an_evaluation_that_shows_them_is_deleted(tmp_path, artefact):
    rows = evaluation_inputs.rows_of(12, 6)
    names = {"creator-004": evaluation_inputs.NASTY}
    rows = [{**row, "creator_id": names.get(row["creator_id"], row["creator_id"])} for row in rows]
    evaluation_inputs.write_embeddings(tmp_path / "emb", rows)
    evaluation_inputs.write_checkpoint(tmp_path / "same")
    output, other = str(tmp_path / "evaluation"), str(artefact)
    for creator in ("creator-001", evaluation_inputs.NASTY):
        _, _, text = evaluation_inputs.run_job(tmp_path, creators="all", overwrite=True)
        page = evaluation_inputs.Page(text)
        assert creator in [attributes.get("title") for _, attributes in page.tags]
        # Whom it does not show leaves it as it is.
        kept = erase("nobody", "creator", "1", embeddings=other, evaluations=output)
        assert kept["evaluations"] == {output: "kept"}
        done = erase(creator, embeddings=other, evaluations=output)
        assert (done["evaluations"], done["was_somewhere"]) == ({output: "deleted"}, True)
        assert [path.name for path in Path(output).iterdir()] == ["_unfinished.json"]
        again = erase(creator, embeddings=other, evaluations=output)
        assert (again["evaluations"], again["was_somewhere"]) == ({output: "deleted before"}, False)
    assert run.state(output, "evaluation") is run.State.UNFINISHED
    # The job writes it anew.
    assert evaluation_inputs.run_job(tmp_path, creators="all")[0]["artefact"] == "evaluation"


# -- the whole ----------------------------------------------------------------------------------


def test_a_second_erasure_of_the_same_finds_nothing(artefact, table):
    erase(WHO, embeddings=str(artefact), table=table.uri)
    before = {uri for uri, _ in versions.files_below(str(artefact.parent))}
    version = live(table).version
    done = erase(WHO, embeddings=str(artefact), table=table.uri)
    assert not done["was_somewhere"]
    assert not any(done["embeddings"][str(artefact)].values())
    assert live(table).version == version == done["tables"][table.uri]["live_version"]
    new = {uri for uri, _ in versions.files_below(str(artefact.parent))} - before
    assert new == {table.beside("erasures", f"{done['run_id']}.json")}


def test_somebody_who_is_nowhere_is_kept_out_all_the_same(artefact, table):
    version = live(table).version
    done = erase("nobody", embeddings=str(artefact), table=table.uri)
    assert not done["was_somewhere"]
    assert live(table).version == version
    for folder in (str(artefact), table.beside()):
        assert erased.load(folder).holds("nobody")
        assert not erased.load(folder).holds(WHO)


def test_a_job_that_works_is_not_disturbed(artefact, table):
    before = {p: p.read_bytes() for p in artefact.parent.rglob("*") if p.is_file()}
    for folder in (str(artefact), table.beside()):
        with (
            lock.hold(folder, run_id="working"),
            pytest.raises(OutputHeld, match="working"),
        ):
            erase(WHO, embeddings=str(artefact), table=table.uri)
    after = {p: p.read_bytes() for p in artefact.parent.rglob("*") if p.is_file()}
    assert after == before


def test_what_is_not_there_is_refused_before_anything_is_done(tmp_path, artefact):
    nothing = str(tmp_path / "nothing")
    before = {p: p.read_bytes() for p in artefact.rglob("*") if p.is_file()}
    for named, message in (
        ({"embeddings": (str(artefact), nothing)}, "holds no EMBEDDINGS"),
        ({"embeddings": str(artefact), "table": f"{nothing}.lance"}, "does not exist"),
        ({"embeddings": str(artefact), "evaluations": nothing}, "holds no evaluation"),
        ({}, "name what to erase from"),
        ({"embeddings": str(artefact), "key_file": nothing}, "--key-file"),
    ):
        with pytest.raises(InputError, match=message):
            Erase(
                creator=(WHO,),
                **{
                    name: value if isinstance(value, tuple) or name == "key_file" else (value,)
                    for name, value in named.items()
                },
            ).perform()
    with pytest.raises(InputError, match="--creator"):
        erase(embeddings=str(artefact))
    assert {p: p.read_bytes() for p in artefact.rglob("*") if p.is_file()} == before


def test_a_file_names_many(tmp_path, artefact):
    path = tmp_path / "creators.txt"
    path.write_bytes(f"\ufeff{WHO}\r\n\n{OTHER}\n".encode())
    done = Erase(creators_file=str(path), embeddings=(str(artefact),)).perform()
    assert done["creators"] == 2
    assert parquet_rows(artefact, WHO) == parquet_rows(artefact, OTHER) == {}


# -- killed -------------------------------------------------------------------------------------


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "motif.cli_maintenance", "erase", *arguments]


def test_killed_anywhere_the_same_command_completes(artefact, table):
    arguments = ["--creator", WHO, "--embeddings", str(artefact), "--table", table.uri]
    manifests = Path(table.uri) / "_versions"
    count = len(list(manifests.iterdir()))
    moments = [
        lambda: (artefact / "erased.json").exists(),
        lambda: "erasures" in (artefact / "run.json").read_text(),
        lambda: len(list(manifests.iterdir())) > count,
        lambda: len(list(manifests.iterdir())) > count + 1,
        lambda: Path(table.beside("erasures")).exists(),
    ]
    killed = 0
    for reached in moments:
        process = subprocess.Popen(command(*arguments), stderr=subprocess.DEVNULL)
        while process.poll() is None and not reached():
            time.sleep(0.0005)
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
            killed += 1
        process.wait(timeout=60)
    assert killed >= 2
    done = subprocess.run(command(*arguments), capture_output=True, text=True, timeout=120)
    assert (done.returncode, "proven: " in done.stdout) == (0, True), done.stderr
    assert WHO not in done.stdout + done.stderr
    assert parquet_rows(artefact, WHO) == {}
    require_gone(table, WHO)
    assert files_with(artefact.parent, WHO.encode()) == set()
    assert Embeddings.open(str(artefact)).counts["creators"] == 7
    assert live(table).count_rows() == 8
