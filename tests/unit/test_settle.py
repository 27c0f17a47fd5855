"""A bucket leaves `settle` with each image once, however often and however it was tried."""

import dataclasses

import pytest

from motif.errors import ContractError, InputError
from tests.bucket_files import BucketFiles, embedded, failures, ids, removed, row


@pytest.fixture
def bucket(tmp_path) -> BucketFiles:
    return BucketFiles(tmp_path)


def classes(bucket: BucketFiles) -> dict[str, str]:
    return {one["image_id"]: one["error_class"] for one in bucket.read("failures")}


def attempts(bucket: BucketFiles) -> dict[str, int]:
    return {one["image_id"]: one["attempts"] for one in bucket.read("failures")}


def vectors(bucket: BucketFiles) -> dict[str, float]:
    return {one["image_id"]: one["embedding"][0] for one in bucket.read("embeddings")}


def test_what_was_staged_becomes_one_sorted_file(bucket):
    decision = bucket.decide(row("b"), row("a"), row("z", creator="a first"), row("f"))
    bucket.stage("embeddings", embedded(row("b"), row("a")))
    bucket.stage("embeddings", embedded(row("z", creator="a first")))
    bucket.stage("failures", failures(row("f")))
    one = bucket.settle(decision)
    assert (one.embedded, one.failed_by_class, one.missing) == (3, {"timeout": 1}, 0)
    assert one.examples == {"timeout": "/f.jpg: m"}
    (part,) = one.state.embeddings
    assert part.name == "embeddings/bucket-00000-of-00001-run.parquet"
    assert part.bytes == bucket.path(part).stat().st_size
    assert ids(bucket.read("embeddings")) == ["z", "a", "b"]
    assert (one.state.creators, one.state.failed_by_class) == (2, {"timeout": 1})
    assert (one.state.embedded, one.state.removed) == (3, ())


def test_an_image_that_was_staged_twice_is_there_once_as_it_was_last(bucket):
    decision = bucket.decide(row("a"), row("b"))
    bucket.stage("embeddings", embedded(row("b"), row("a"), at=1))
    bucket.stage("embeddings", embedded(row("a"), row("a"), at=2))
    assert bucket.settle(decision).embedded == 2
    assert ids(bucket.read("embeddings")) == ["a", "b"]
    assert vectors(bucket) == {"a": 2, "b": 1}


def test_a_failure_is_void_once_the_image_is_encoded(bucket):
    decision = bucket.decide(row("a"))
    bucket.stage("embeddings", embedded(row("a")))
    bucket.stage("failures", failures(row("a")))
    one = bucket.settle(decision)
    assert (one.embedded, one.failed_by_class) == (1, {})
    assert one.state.failures == ()


def test_the_last_failure_is_on_record_with_all_attempts(bucket):
    decision = bucket.decide(row("a"), row("b"))
    bucket.stage("failures", failures(row("a"), row("b"), error_class="timeout", attempts=4))
    bucket.stage("failures", failures(row("a"), error_class="denied"))
    bucket.stage("failures", failures(row("a"), error_class="not_found", attempts=2))
    one = bucket.settle(decision)
    assert one.failed_by_class == {"not_found": 1, "timeout": 1}
    assert classes(bucket) == {"a": "not_found", "b": "timeout"}
    assert attempts(bucket) == {"a": 7, "b": 4}


def test_attempts_of_earlier_runs_count_while_the_version_is_the_same(bucket):
    bucket.add("failures", failures(row("a", "1"), row("b", "1"), row("c", "1"), attempts=3))
    bucket.options = {"retry": ()}
    decision = bucket.decide(row("a", "1"), row("b", "2"))
    assert (decision.retried, decision.changed) == (1, 1)
    bucket.stage("failures", failures(row("a", "1"), row("b", "2"), error_class="denied"))
    assert bucket.settle(decision).failed_by_class == {"denied": 2}
    assert attempts(bucket) == {"a": 4, "b": 1, "c": 3}
    assert bucket.state.failed_by_class == {"denied": 2, "timeout": 1}


def test_a_failure_is_cleared_when_its_image_is_encoded(bucket):
    bucket.add("failures", failures(row("a"), row("b")))
    bucket.options = {"retry": ()}
    decision = bucket.decide(row("a"))
    bucket.stage("embeddings", embedded(row("a")))
    bucket.settle(decision)
    assert vectors(bucket) == {"a": 0}
    assert classes(bucket) == {"b": "timeout"}


def test_the_last_failure_that_is_cleared_takes_its_file_along(bucket):
    bucket.add("failures", failures(row("a")))
    bucket.options = {"retry": ()}
    decision = bucket.decide(row("a"))
    bucket.stage("embeddings", embedded(row("a")))
    state = bucket.settle(decision).state
    assert (state.failures, state.failed_by_class) == ((), {})


def test_staged_rows_of_other_images_and_versions_are_not_taken(bucket):
    decision = bucket.decide(row("a", "2"), row("b"))
    bucket.stage("embeddings", embedded(row("a", "1"), row("stranger", "2"), at=1))
    bucket.stage("embeddings", embedded(row("a", "2"), row("b"), at=2))
    bucket.stage("embeddings", embedded(row("b", "1"), row("a", "2", creator="bo"), at=3))
    bucket.stage("failures", failures(row("stranger")))
    one = bucket.settle(decision)
    assert (one.embedded, one.failed_by_class) == (2, {})
    assert vectors(bucket) == {"a": 2, "b": 2}


def test_missing_images_leave_the_bucket_as_it_was(bucket):
    bucket.add("embeddings", embedded(row("old")))
    before = bucket.state
    decision = bucket.decide(row("a"), row("b"), row("c"))
    bucket.stage("embeddings", embedded(row("b"), row("c", "1")))
    one = bucket.settle(decision)
    assert (one.missing, one.state, one.embedded) == (2, before, 0)
    again = bucket.decide(row("a"), row("b"), row("c"))
    assert again.pending == 2
    bucket.stage("failures", failures(row("a")))
    bucket.stage("embeddings", embedded(row("c")))
    assert bucket.settle(again).missing == 0
    assert set(vectors(bucket)) == {"old", "b", "c"}


def test_a_damaged_staged_file_is_encoded_again(bucket):
    decision = bucket.decide(row("a"), row("b"))
    bucket.stage("embeddings", embedded(row("a")))
    (path,) = (bucket.folder / "out" / "_staging" / "settings" / "bucket-00000").iterdir()
    bucket.stage("embeddings", embedded(row("b")))
    path.write_bytes(path.read_bytes()[:-9])
    assert bucket.settle(decision).missing == 1
    assert bucket.decide(row("a"), row("b")).pending == 1


def test_only_files_that_hold_a_settled_image_are_rewritten(bucket):
    kept = bucket.add("embeddings", embedded(row("a"), row("b")))
    bucket.add("embeddings", embedded(row("c", "1"), row("d")))
    bucket.add("embeddings", embedded(row("e", "1")))
    decision = bucket.decide(row("c", "2"), row("e", "2"), row("f"))
    bucket.stage("embeddings", embedded(row("c", "2"), row("f"), at=5))
    bucket.stage("failures", failures(row("e", "2")))
    state = bucket.settle(decision).state
    assert [part.rows for part in state.embeddings] == [2, 3]
    assert state.embeddings[0] == kept
    assert vectors(bucket) == {"a": 0, "b": 0, "c": 5, "d": 0, "f": 5}
    assert classes(bucket) == {"e": "timeout"}


def test_a_changed_image_that_fails_leaves_embeddings(bucket):
    bucket.add("embeddings", embedded(row("a", "1")))
    decision = bucket.decide(row("a", "2"))
    bucket.stage("failures", failures(row("a", "2")))
    state = bucket.settle(decision).state
    assert (state.embeddings, state.creators, state.embedded) == ((), 0, 0)
    assert classes(bucket) == {"a": "timeout"}


def test_an_image_that_moved_to_another_creator_leaves_the_first(bucket):
    bucket.add("embeddings", embedded(row("a", creator="ana"), row("b", creator="ana")))
    bucket.options = {"full": True}
    decision = bucket.decide(row("a", creator="bo"), row("b", creator="ana"))
    bucket.stage("embeddings", embedded(row("a", creator="bo")))
    bucket.settle(decision)
    found = {one["image_id"]: one["creator_id"] for one in bucket.read("embeddings")}
    assert found == {"a": "bo", "b": "ana"}
    assert bucket.state.creators == 2


def test_images_that_left_are_marked_and_their_rows_stay(bucket):
    part = bucket.add("embeddings", embedded(row("a"), row("b", creator="bo"), row("c")))
    bucket.add("failures", failures(row("f"), row("g")))
    bucket.options = {"full": True}
    decision = bucket.decide(row("a"), row("g"))
    state = bucket.settle(decision).state
    assert state.embeddings == (part,)
    assert set(ids(bucket.read("removed"))) == {"b", "c"}
    assert (state.embedded, state.removed_rows, state.creators) == (1, 2, 1)
    assert classes(bucket) == {"g": "timeout"}
    again = bucket.decide(row("a"), row("g"))
    assert not again.touched


def test_images_that_come_back_lose_their_mark(bucket):
    bucket.add("embeddings", embedded(row("a", "1"), row("b", "1"), row("c", "1"), row("d")))
    bucket.add("removed", removed("a", "b", "c"))
    decision = bucket.decide(row("a", "1"), row("b", "2"))
    bucket.stage("embeddings", embedded(row("b", "2"), at=3))
    state = bucket.settle(decision).state
    assert ids(bucket.read("removed")) == ["c"]
    assert vectors(bucket) == {"a": 0, "b": 3, "c": 0, "d": 0}
    assert state.embedded == 3


def test_a_removed_image_that_comes_back_and_fails(bucket):
    bucket.add("embeddings", embedded(row("a", "1")))
    bucket.add("removed", removed("a"))
    decision = bucket.decide(row("a", "2"))
    bucket.stage("failures", failures(row("a", "2")))
    state = bucket.settle(decision).state
    assert (state.embeddings, state.removed, state.embedded) == ((), (), 0)
    assert classes(bucket) == {"a": "timeout"}


def test_files_that_say_the_same_as_before_are_kept(bucket):
    bucket.add("embeddings", embedded(row("a"), row("b")))
    failed = bucket.add("failures", failures(row("f")))
    gone = bucket.add("removed", removed("b"))
    decision = bucket.decide(row("c"))
    bucket.stage("embeddings", embedded(row("c")))
    state = bucket.settle(decision).state
    assert (state.failures, state.removed) == ((failed,), (gone,))


def test_a_damaged_file_is_left_out_and_made_again(bucket):
    bucket.add("embeddings", embedded(row("a"), row("b")))
    hurt = bucket.add("embeddings", embedded(row("c"), row("gone")))
    bucket.add("removed", removed("b", "gone"))
    bucket.path(hurt).write_bytes(b"")
    decision = bucket.decide(row("a"), row("c"))
    bucket.stage("embeddings", embedded(row("c"), at=4))
    state = bucket.settle(decision).state
    assert hurt not in state.embeddings
    assert vectors(bucket) == {"a": 0, "b": 0, "c": 4}
    # Nothing of the image that was removed and is lost is left to be counted.
    assert ids(bucket.read("removed")) == ["b"]
    assert state.embedded == 2


def test_a_damaged_file_of_marks_of_a_full_manifest_is_made_again(bucket):
    bucket.add("embeddings", embedded(row("a"), row("b")))
    hurt = bucket.add("removed", removed("b"))
    failed = bucket.add("failures", failures(row("f")))
    for part in (hurt, failed):
        bucket.path(part).unlink()
    bucket.options = {"full": True}
    decision = bucket.decide(row("a"), row("f"))
    bucket.stage("failures", failures(row("f"), error_class="denied"))
    bucket.settle(decision)
    assert ids(bucket.read("removed")) == ["b"]
    assert classes(bucket) == {"f": "denied"}


def test_a_file_that_is_damaged_while_the_run_goes_on_is_named(bucket):
    part = bucket.add("embeddings", embedded(row("a")))
    decision = bucket.decide(row("b"))
    bucket.stage("embeddings", embedded(row("b")))
    bucket.path(part).write_bytes(b"PAR1")
    with pytest.raises(InputError, match=part.name):
        bucket.settle(decision)


def test_settling_may_be_repeated(bucket):
    bucket.add("embeddings", embedded(row("a", "1"), row("b")))
    before = bucket.state
    decision = bucket.decide(row("a", "2"), row("c"), row("f"))
    bucket.stage("embeddings", embedded(row("a", "2"), row("c")))
    bucket.stage("failures", failures(row("f")))
    one = bucket.settle(decision)
    bucket.state = before
    assert bucket.settle(decision) == one
    assert set(vectors(bucket)) == {"a", "b", "c"}


def test_an_image_in_two_files_is_a_bug_that_is_caught(bucket):
    bucket.add("embeddings", embedded(row("a")))
    bucket.add("embeddings", embedded(row("a")))
    decision = bucket.decide(row("b"))
    bucket.stage("embeddings", embedded(row("b")))
    with pytest.raises(ContractError, match="twice"):
        bucket.settle(decision)


def test_nothing_to_settle_but_a_damaged_file(bucket):
    hurt = bucket.add("embeddings", embedded(row("a")))
    bucket.path(hurt).unlink()
    decision = bucket.decide()
    assert decision.damaged == (hurt,)
    state = bucket.settle(decision).state
    assert state == dataclasses.replace(state, embeddings=(), failures=(), removed=())
