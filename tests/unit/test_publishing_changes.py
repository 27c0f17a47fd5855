"""Which creators a publish recomputes."""

import pyarrow as pa
import pytest

from motif.artefacts.checkpoint import Checkpoint
from motif.artefacts.embeddings import Embeddings
from motif.publishing import changes, rows
from motif.publishing.changes import images_digest
from motif.publishing.rows import HeldOut
from tests.synthetic import (
    grow_embeddings,
    make_space,
    rows_of,
    themed,
    write_checkpoint,
    write_embeddings,
)

DIM = 8


@pytest.fixture
def uri(tmp_path) -> str:
    return write_embeddings(
        tmp_path / "e", rows_of(*themed(30, 4, DIM)), make_space(DIM), buckets=4
    )


def live_of(embeddings: Embeddings) -> pa.Table:
    parts = [
        changes.creators_to_compare(embeddings, bucket, None)["digests"]
        for bucket in range(embeddings.buckets)
    ]
    return pa.concat_tables(parts)


def found(uri: str, published: list[list[str]], live: pa.Table) -> changes.Changes:
    embeddings = Embeddings.open(uri)
    same_cut = len(published) == embeddings.buckets
    looked = [
        changes.creators_to_compare(embeddings, b, published[b] if same_cut else None)
        for b in changes.changed_buckets(embeddings, published)
    ]
    return changes.compare(looked, live, embeddings.buckets)


def creators(of: changes.Changes) -> set[str]:
    return {creator for work in of.work for creator in work.creators or ()}


def test_only_files_that_changed_are_looked_at(uri):
    opened = Embeddings.open(uri)
    parts, live = changes.parts_of(opened), live_of(opened)
    assert changes.changed_buckets(opened, parts) == []
    added = rows_of(["creator-003", "new"], themed(2, 1, DIM, seed=9)[1])
    grow_embeddings(uri, added)
    grown = Embeddings.open(uri)
    assert 1 <= len(changes.changed_buckets(grown, parts)) <= 2
    after = found(uri, parts, live)
    assert creators(after) == {"creator-003", "new"}
    assert after.gone == ()


def test_creators_that_lose_images_are_recomputed_or_gone(uri):
    opened = Embeddings.open(uri)
    parts, live = changes.parts_of(opened), live_of(opened)
    images = opened.read(["creator_id", "image_id"]).to_pylist()
    of = {
        c: [r["image_id"] for r in images if r["creator_id"] == c]
        for c in ("creator-005", "creator-006")
    }
    grow_embeddings(uri, None, [of["creator-005"][0], *of["creator-006"]])
    after = found(uri, parts, live)
    assert creators(after) == {"creator-005"}
    assert after.gone == ("creator-006",)


def test_other_buckets_are_no_change(tmp_path, uri):
    opened = Embeddings.open(uri)
    parts, live = changes.parts_of(opened), live_of(opened)
    again = write_embeddings(
        tmp_path / "again", rows_of(*themed(30, 4, DIM)), make_space(DIM), buckets=7
    )
    after = found(again, parts, live)
    assert (after.work, after.gone) == ((), ())
    assert changes.everything(Embeddings.open(again)).creators is None


def test_digests_change_with_the_images_and_not_with_their_order():
    digest = images_digest(["a", "b"], ["1", "2"])
    assert digest == images_digest(["b", "a"], ["2", "1"])
    others = [
        images_digest(["a"], ["1"]),
        images_digest(["a", "b"], ["2", "1"]),
        images_digest(["a", "b"], ["1", "3"]),
        images_digest(["a", "c"], ["1", "2"]),
    ]
    assert len({digest, *others}) == 5
    assert len(digest) == 16


def test_drafts_do_not_depend_on_how_many_images_are_done_at_once(tmp_path, uri, monkeypatch):
    opened = Embeddings.open(uri)
    model = Checkpoint.open(write_checkpoint(tmp_path / "same", make_space(DIM)))
    when = pa.scalar(0, pa.timestamp("us", tz="UTC")).as_py()

    def drafts(images: int) -> rows.Drafts:
        found = (
            part
            for bucket in range(opened.buckets)
            for part in opened.read_by_creators(bucket, opened.schema.names, images=images)
        )
        return rows.draft(found, model, HeldOut("all", 1.0), updated_at=when, device="cpu")

    whole = drafts(10**6)
    monkeypatch.setattr(rows, "IMAGES_AT_ONCE", 3)
    parts = drafts(9)
    assert parts.creators.num_rows == 30
    assert parts.creators.drop_columns(["same"]).equals(whole.creators.drop_columns(["same"]))
    assert parts.halves["creator_id"].equals(whole.halves["creator_id"])
    assert whole.halves.num_rows == 30


def test_held_out_creators_are_few_and_what_the_model_has_not_seen(tmp_path):
    space = make_space(DIM)
    tested = Checkpoint.open(write_checkpoint(tmp_path / "a", space, test_fraction=0.5))
    ids = [f"creator-{i}" for i in range(4000)]
    chosen = HeldOut.of(tested, 4000)
    held = [c for c in ids if chosen.holds(c, tested)]
    assert all(tested.split_of(c) == "test" for c in held)
    assert 850 < len(held) < 1150
    everybody = Checkpoint.open(write_checkpoint(tmp_path / "b", space, test_fraction=0.0))
    chosen = HeldOut.of(everybody, 500)
    assert chosen == HeldOut("all", 1.0)
