"""What a run will do: every branch of `decide`, and how a manifest's rows reach it."""

import dataclasses
from pathlib import Path

import pyarrow as pa
import pytest

from motif import storage
from motif.artefacts import partitions, snapshot
from motif.artefacts.snapshot import Bucket
from motif.errors import InputError
from motif.images import manifest, plan, source
from motif.images.plan import Decision
from tests.bucket_files import (
    BucketFiles,
    embedded,
    failures,
    flip_column_byte,
    ids,
    removed,
    row,
)


@pytest.fixture
def bucket(tmp_path) -> BucketFiles:
    return BucketFiles(tmp_path)


def counts(decision: Decision) -> dict[str, int]:
    """Return the counts that are not 0."""
    fields = dataclasses.asdict(decision)
    return {name: n for name, n in fields.items() if isinstance(n, int) and n}


# choose_buckets


@pytest.mark.parametrize(
    ("rows", "wanted", "expected"),
    [
        (0, 0, plan.MIN_BUCKETS),
        (200_000, 0, 4),
        (200_001, 0, 5),
        (10**8, 0, 2_000),
        (10**12, 0, plan.MAX_BUCKETS),
        (10**8, 1, 1),
        (1, plan.MAX_BUCKETS, plan.MAX_BUCKETS),
    ],
)
def test_number_of_buckets(rows, wanted, expected):
    assert plan.choose_buckets(rows, wanted) == expected


@pytest.mark.parametrize("wanted", [-1, 100_001])
def test_senseless_number_of_buckets(wanted):
    with pytest.raises(InputError, match=str(wanted)):
        plan.choose_buckets(10, wanted)


# partition


def partitioned(files: BucketFiles, path: Path, **options) -> plan.Partitioned:
    files.options = {"images": str(path), "buckets": 7, **options}
    return plan.partition(files.request, 3, source.find(str(path)))


def test_partition_keeps_a_creator_in_one_bucket_and_the_order(bucket, write_manifest):
    path = write_manifest(
        "m.csv", [{"creator_id": f"c{n % 9}", "uri": f"/{n}.jpg"} for n in range(90)]
    )
    part = partitioned(bucket, path)
    assert (part.rows, part.rejected_rows, part.ids, part.rejected) == (90, 0, (), ())
    (uri,) = part.images
    for number in range(7):
        found = partitions.read(uri, number)
        creators = found["creator_id"].to_pylist()
        assert {manifest.bucket_of(creator, 7) for creator in creators} <= {number}
        expected = [f"/{n}.jpg" for n in range(90) if manifest.bucket_of(f"c{n % 9}", 7) == number]
        assert found["uri"].to_pylist() == expected


def test_partition_cuts_large_pieces_and_joins_small_ones(bucket, write_manifest, monkeypatch):
    monkeypatch.setattr(source, "PIECE_ROWS", 10)
    paths = [
        write_manifest(
            f"m{k}.jsonl", [{"creator_id": f"c{n}", "uri": f"/{k}-{n}.jpg"} for n in range(rows)]
        )
        for k, rows in enumerate((25, 1, 1, 4))
    ]
    bucket.options = {"buckets": 2}
    pieces = [piece for path in paths for piece in source.find(str(path))]
    part = plan.partition(bucket.request, 0, pieces)
    found = [partitions.read_all(uri) for uri in part.images]
    assert [table.num_rows for table in found] == [25, 6]
    assert part.rows == 31


def test_partition_sets_rejected_rows_aside_with_their_numbers(bucket, tmp_path):
    path = tmp_path / "m.csv"
    path.write_text("creator_id,uri\nana,/1.jpg\n,/2.jpg\nbo,/3.jpg\nbo,\n")
    part = partitioned(bucket, path)
    assert (part.rows, part.rejected_rows) == (4, 2)
    (uri,) = part.rejected
    kept = plan.keep_rejected(bucket.request, uri)
    assert kept.name == "failures/rejected-00003-000-run.parquet"
    rows = storage.read_parquet(str(bucket.path(kept))).to_pylist()
    assert ids(rows) == ["m.csv#1", "m.csv#3"]
    assert kept.rows == 2


def test_partition_of_carried_columns_and_own_ids(bucket, write_manifest):
    rows = [{"creator_id": "a", "uri": f"/{n}", "image_id": f"i{n}", "likes": n} for n in range(3)]
    path = write_manifest("m.jsonl", rows)
    part = partitioned(bucket, path, carried=(pa.field("likes", pa.int64()),))
    assert len(part.ids) == 1
    assert partitions.read_all(part.images[0])["likes"].to_pylist() == [0, 1, 2]


# One id of two creators


def clash(files: BucketFiles, rows: list[dict], held: Bucket | None = None) -> str | None:
    """Do what a plan does to find an id that two creators have."""
    path = files.folder / "m.parquet"
    pa.parquet.write_table(pa.Table.from_pylist(rows), path)
    part = partitioned(files, path, buckets=3)
    uris = list(part.ids)
    if held is not None:
        uris.append(plan.ids_held(files.request, 0, held))
    found = [h for s in range(3) if (h := plan.find_id_of_two(uris, s)) is not None]
    assert len(found) <= 1
    return plan.name_id_of_two(files.request, part.images, found[0]) if found else None


def own(image: str, creator: str) -> dict:
    return {"image_id": image, "creator_id": creator, "uri": "/1.jpg"}


def test_an_id_of_two_creators_is_named_with_both(bucket):
    rows = [own("i1", "ana"), own("i2", "bo"), own("i1", "cy"), own("i2", "bo")]
    message = clash(bucket, rows)
    assert message
    assert "m.parquet" in message
    assert "'i1'" in message
    assert "'ana'" in message
    assert "'cy'" in message


def test_ids_of_one_creator_each_are_no_clash(bucket):
    held = BucketFiles(bucket.folder)
    held.add("embeddings", embedded(row("i1")))
    held.add("failures", failures(row("i2", creator="bo")))
    rows = [own("i1", "ana"), own("i2", "bo"), own("i3", "cy"), own("i3", "cy")]
    assert clash(bucket, rows, held.state) is None


@pytest.mark.parametrize("kind", ["embeddings", "failures"])
def test_an_id_that_another_creator_holds_is_named(bucket, kind):
    table = embedded if kind == "embeddings" else failures
    bucket.add(kind, table(row("i1", creator="zoe")))
    message = clash(bucket, [own("i1", "ana"), own("i2", "bo")], bucket.state)
    assert message
    assert "'i1' is an image of creator 'ana' and of another one in EMBEDDINGS" in message


def test_an_id_that_was_removed_is_free(bucket):
    bucket.add("embeddings", embedded(row("i1", creator="zoe"), row("i2", creator="zoe")))
    bucket.add("removed", removed("i1", creator="zoe"))
    assert clash(bucket, [own("i1", "ana")], bucket.state) is None
    assert clash(bucket, [own("i2", "ana")], bucket.state)


def test_two_ids_of_one_hash_are_no_clash(bucket, monkeypatch):
    monkeypatch.setattr(
        partitions, "hashes", lambda column: pa.compute.utf8_length(column).to_numpy().astype("u8")
    )
    assert clash(bucket, [own("i1", "ana"), own("i2", "berta")]) is None


# decide


def test_all_rows_of_a_new_bucket_are_new(bucket):
    decision = bucket.decide(row("b", creator="bo"), row("a"), row("c"), row("a"))
    assert counts(decision) == {"duplicates": 1, "new": 3}
    assert (decision.settle, decision.pending, decision.touched) == (3, 3, True)
    todo = bucket.todo(decision)
    assert [one["creator_id"] for one in todo] == ["ana", "ana", "bo"]
    assert {one["bucket"] for one in todo} == {0}
    assert not any(one["staged"] for one in todo)


@pytest.mark.parametrize(
    ("before", "now", "state"),
    [
        (None, None, "unchanged"),
        ("1", "1", "unchanged"),
        ("1", "2", "changed"),
        (None, "1", "changed"),
        ("1", None, "unchanged"),
        ("1", "", "changed"),
        ("", "", "unchanged"),
        ("", None, "unchanged"),
    ],
)
def test_a_version_says_what_changed(bucket, before, now, state):
    bucket.add("embeddings", embedded(row("a", before), row("other")))
    decision = bucket.decide(row("a", now))
    assert counts(decision) == {state: 1, "held": 2}
    assert decision.touched == (state == "changed")


@pytest.mark.parametrize(
    ("before", "now", "state"),
    [("1", "1", "failed_before"), ("1", None, "failed_before"), ("1", "2", "changed")],
)
def test_a_failure_is_not_tried_again_unless_its_version_changed(bucket, before, now, state):
    bucket.add("failures", failures(row("a", before)))
    decision = bucket.decide(row("a", now))
    assert counts(decision) == {state: 1}
    assert decision.touched == (state == "changed")


@pytest.mark.parametrize(
    ("retry", "retried"),
    [(None, set()), ((), {"t", "n"}), (("timeout",), {"t"}), (("denied", "not_found"), {"n"})],
)
def test_failures_are_taken_up_by_class(bucket, retry, retried):
    bucket.add(
        "failures",
        pa.concat_tables(
            [failures(row("t")), failures(row("n"), row("gone"), error_class="not_found")]
        ),
    )
    bucket.add("embeddings", embedded(row("e")))
    bucket.options = {"retry": retry}
    decision = bucket.decide(row("t"), row("n"), row("e"))
    assert (decision.retried, decision.failed_before) == (len(retried), 2 - len(retried))
    assert set(ids(bucket.todo(decision))) == retried


def test_an_image_of_the_same_id_that_moved_to_another_creator_is_changed(bucket):
    # Of another creator of this bucket: in another bucket it is new.
    bucket.add("embeddings", embedded(row("a", creator="ana")))
    bucket.add("failures", failures(row("f", creator="ana")))
    bucket.options = {"full": True}
    decision = bucket.decide(row("a", creator="bo"), row("f", creator="bo"))
    assert counts(decision) == {"changed": 2, "held": 1}


def test_what_is_staged_in_just_this_version_need_not_be_encoded(bucket):
    bucket.stage("embeddings", embedded(row("a", "1"), row("b", "1"), row("c"), row("other")))
    bucket.stage("embeddings", embedded(row("a", "1"), row("d", "1", creator="bo")))
    bucket.stage("failures", failures(row("e")))
    rows = (row("a", "1"), row("b", "2"), row("c", "1"), row("d", "1"), row("e"))
    decision = bucket.decide(*rows)
    assert (decision.settle, decision.staged, decision.pending) == (5, 1, 4)
    todo = bucket.todo(decision)
    assert [one["staged"] for one in todo] == [False] * 4 + [True]
    assert todo[-1]["image_id"] == "a"


def test_ids_and_creators_that_join_to_one_text_are_told_apart(bucket):
    bucket.stage("embeddings", embedded(row("a:1", creator="b"), row("x", "1:vy")))
    decision = bucket.decide(row("a", creator="1:b"), row("x:1", "y"))
    assert decision.staged == 0


def test_what_a_delta_lacks_stays(bucket):
    bucket.add("embeddings", embedded(row("a"), row("b")))
    bucket.add("failures", failures(row("f")))
    assert counts(bucket.decide(row("a"))) == {"unchanged": 1, "held": 2}


def test_what_a_full_manifest_lacks_is_removed_or_forgotten(bucket):
    bucket.add("embeddings", embedded(row("a"), row("b"), row("was removed")))
    bucket.add("failures", failures(row("f"), row("g")))
    bucket.add("removed", removed("was removed"))
    bucket.options = {"full": True}
    decision = bucket.decide(row("a"), row("g"))
    assert counts(decision) == {
        "unchanged": 1,
        "failed_before": 1,
        "removed": 1,
        "forgotten": 1,
        "held": 2,
    }
    assert (decision.marked, decision.touched) == (2, True)
    assert bucket.marks() == {"b": plan.REMOVED, "f": plan.FORGOTTEN}


@pytest.mark.parametrize("full", [False, True])
def test_what_comes_back_is_restored_or_encoded_anew(bucket, full):
    bucket.add("embeddings", embedded(row("a", "1"), row("b", "1"), row("c", "1")))
    bucket.add("removed", removed("a", "b", "c"))
    bucket.options = {"full": full}
    decision = bucket.decide(row("a", "1"), row("b", "2"))
    assert counts(decision) == {"unchanged": 1, "restored": 1, "changed": 1}
    assert bucket.marks() == {"a": plan.RESTORED}
    assert ids(bucket.todo(decision)) == ["b"]


def test_an_empty_share_of_the_manifest(bucket):
    bucket.add("embeddings", embedded(row("a")))
    assert counts(bucket.decide()) == {"held": 1}
    bucket.options = {"full": True}
    assert counts(bucket.decide()) == {"held": 1, "removed": 1}


def test_two_different_rows_of_one_id_are_refused(bucket):
    with pytest.raises(InputError, match=r"m\.csv.*'a'"):
        bucket.decide(row("a", "1"), row("a", "2"))


# Damage


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def append(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"more")


def flip_ids(path: Path) -> None:
    flip_column_byte(path, "image_id")


def empty(path: Path) -> None:
    path.write_bytes(b"")


DAMAGES = [truncate, append, flip_ids, empty, Path.unlink]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_named_and_its_images_are_new(bucket, damage, caplog):
    bucket.add("embeddings", embedded(row("a"), row("b")))
    hurt = bucket.add("embeddings", embedded(row("c"), row("d")))
    damage(bucket.path(hurt))
    decision = bucket.decide(*(row(image) for image in "abcd"))
    assert decision.damaged == (hurt,)
    assert (decision.unchanged, decision.new, decision.held) == (2, 2, 2)
    assert set(ids(bucket.todo(decision))) == {"c", "d"}
    assert hurt.name in caplog.text
    assert decision.touched


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_of_failures_or_removed_images_is_found(bucket, damage):
    bucket.add("embeddings", embedded(row("a"), row("b")))
    failed = bucket.add("failures", failures(row("f")))
    gone = bucket.add("removed", removed("b"))
    for part in (failed, gone):
        damage(bucket.path(part))
    bucket.options = {"full": True}
    decision = bucket.decide(row("a"), row("f"))
    assert set(decision.damaged) == {failed, gone}
    assert (decision.new, decision.unchanged, decision.removed) == (1, 1, 1)


def test_removed_images_of_a_damaged_file_are_not_counted(bucket):
    bucket.add("embeddings", embedded(row("a")))
    hurt = bucket.add("embeddings", embedded(row("b"), row("c")))
    bucket.add("removed", removed("c"))
    truncate(bucket.path(hurt))
    decision = bucket.decide(row("a"), row("b"))
    assert counts(decision) == {"unchanged": 1, "new": 1, "held": 1}


@pytest.mark.parametrize(
    ("options", "named", "lost"),
    [
        ({}, "abcd", 0),
        ({}, "abc", 1),
        ({}, "axyz", 3),
        ({}, "", 3),
        ({"full": True}, "a", 3),
    ],
)
def test_images_of_a_damaged_file_that_nothing_brings_back(bucket, options, named, lost):
    bucket.add("embeddings", embedded(row("a")))
    hurt = bucket.add("embeddings", embedded(row("b"), row("c"), row("d"), row("removed")))
    bucket.add("removed", removed("removed"))
    truncate(bucket.path(hurt))
    bucket.options = options
    assert bucket.decide(*(row(image) for image in named)).lost == lost


def test_a_damaged_file_whose_ids_are_lost_too_may_hold_anything(bucket):
    hurt = bucket.add("embeddings", embedded(row("a"), row("b")))
    for name in (hurt.name, snapshot.ids_name(hurt.name)):
        truncate(Path(bucket.request.output) / name)
    assert bucket.decide(row("a"), row("b")).lost == 2


def test_a_list_of_ids_that_is_gone_hurts_nobody(bucket):
    part = bucket.add("embeddings", embedded(row("a")))
    (Path(bucket.request.output) / snapshot.ids_name(part.name)).unlink()
    assert counts(bucket.decide(row("a"))) == {"unchanged": 1, "held": 1}


def test_a_file_with_another_number_of_rows_is_damaged(bucket):
    part = bucket.add("embeddings", embedded(row("a")))
    wrong = dataclasses.replace(part, rows=2)
    bucket.state = dataclasses.replace(bucket.state, embeddings=(wrong,))
    assert bucket.decide(row("a")).damaged == (wrong,)


def test_verify_finds_a_flipped_byte_of_a_vector(bucket):
    part = bucket.add("embeddings", embedded(*(row(f"i{n}") for n in range(50))))
    flip_column_byte(bucket.path(part), "embedding")
    rows = [row(f"i{n}") for n in range(50)]
    assert bucket.decide(*rows).damaged == ()
    bucket.options = {"verify": True}
    decision = bucket.decide(*rows)
    assert decision.damaged == (part,)
    assert decision.new == 50


def test_sound_files_are_verified_too(bucket):
    bucket.add("embeddings", embedded(row("a")))
    bucket.add("failures", failures(row("f")))
    bucket.add("removed", removed("a"))
    bucket.options = {"verify": True}
    assert bucket.decide(row("f")).damaged == ()


def test_storage_that_does_not_answer_is_no_damage(bucket, monkeypatch):
    bucket.add("embeddings", embedded(row("a")))

    def refuse(*_args, **_more):
        raise PermissionError(13, "denied")

    monkeypatch.setattr(storage, "read_parquet", refuse)
    with pytest.raises(PermissionError):
        bucket.decide(row("a"))
