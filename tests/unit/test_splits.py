import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from motif import splits

IDS = [f"creator-{i}" for i in range(20_000)]


def split_of_all(ids, **fractions) -> dict[str, str]:
    return {creator: splits.split_of(creator, **fractions) for creator in ids}


def test_position_is_the_salted_sha256_of_the_id():
    for creator in ("a", "ünïcode", "", "x' OR 1=1 --"):
        digest = hashlib.sha256(b"motif split\0" + creator.encode()).hexdigest()
        assert splits.position(creator) == int(digest[:16], 16) / 2**64


@given(st.text())
def test_position_is_in_zero_to_one_for_any_id(creator):
    assert 0 <= splits.position(creator) <= 1


def test_a_lone_surrogate_has_a_position():
    assert 0 <= splits.position("\ud800") < 1


def test_positions_are_uniform():
    counts, _ = np.histogram([splits.position(creator) for creator in IDS], bins=20, range=(0, 1))
    # 1,000 expected in each, standard deviation 31.
    assert counts.min() > 850
    assert counts.max() < 1150


@pytest.mark.parametrize("test_fold", [0, 1, 3])
def test_fractions_are_about_right(test_fold):
    found = split_of_all(IDS, test_fraction=0.1, validation_fraction=0.2, test_fold=test_fold)
    share = {s: list(found.values()).count(s) / len(IDS) for s in ("train", "validation", "test")}
    assert share["test"] == pytest.approx(0.1, abs=0.01)
    assert share["validation"] == pytest.approx(0.9 * 0.2, abs=0.012)
    assert share["train"] == pytest.approx(0.9 * 0.8, abs=0.015)


def test_splits_are_disjoint_and_cover_every_creator():
    found = [
        splits.indices(IDS, split, test_fraction=0.1, validation_fraction=0.2)
        for split in (splits.TRAIN, splits.VALIDATION, splits.TEST)
    ]
    assert sorted(np.concatenate(found).tolist()) == list(range(len(IDS)))


def test_indices_are_those_whose_split_it_is():
    some = IDS[:300]
    expected = [
        i
        for i, creator in enumerate(some)
        if splits.split_of(creator, test_fraction=0.3, validation_fraction=0.4, test_fold=1)
        == "validation"
    ]
    found = splits.indices(
        some, "validation", test_fraction=0.3, validation_fraction=0.4, test_fold=1
    )
    assert found.tolist() == expected
    assert 0 < len(found) < len(some)


@pytest.mark.parametrize("folds", [2, 3, 5, 10])
def test_folds_partition_the_creators(folds):
    some = IDS[:3000]
    tests = [
        {
            creator
            for creator, split in split_of_all(
                some, test_fraction=1 / folds, validation_fraction=0.2, test_fold=fold
            ).items()
            if split == "test"
        }
        for fold in range(folds)
    ]
    assert sum(len(t) for t in tests) == len(some)
    assert set.union(*tests) == set(some)


def test_no_fractions_train_on_everybody():
    found = split_of_all(IDS[:500], test_fraction=0.0, validation_fraction=0.0)
    assert set(found.values()) == {"train"}


def test_a_growing_archive_moves_nobody():
    fractions = {"test_fraction": 0.1, "validation_fraction": 0.2}
    before = {
        IDS[i]: split
        for split in ("train", "validation", "test")
        for i in splits.indices(IDS[:1000], split, **fractions)
    }
    grown = [*reversed(IDS[500:5000]), *IDS[:500]]
    after = {
        grown[i]: split
        for split in ("train", "validation", "test")
        for i in splits.indices(grown, split, **fractions)
    }
    assert len(before) == 1000
    assert {creator: after[creator] for creator in before} == before


def test_splits_do_not_change_between_versions_of_motif():
    # Written down once: a change here would let a new model learn from held-out creators.
    found = [splits.position(creator) for creator in ("alice", "bob")]
    assert found == pytest.approx([0.23594683947348385, 0.5025210885191358])
