import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from motif.triplets import CreatorImages, sample_batch


def archive(sizes: list[int], seed: int = 0) -> tuple[np.ndarray, CreatorImages]:
    """Creators with the given numbers of images, their rows shuffled."""
    creator = np.repeat(np.arange(len(sizes)), sizes)
    creator = np.random.default_rng(seed).permutation(creator)
    return creator, CreatorImages.group(creator)


def test_grouping_matches_the_definition():
    creator = np.array([7, 2, 7, 9, 2, 7, 4])
    images = CreatorImages.group(creator)
    found = [
        images.rows[images.offsets[i] : images.offsets[i + 1]].tolist() for i in range(len(images))
    ]
    assert found == [[1, 4], [6], [0, 2, 5], [3]]


def test_grouping_leaves_out_creators_with_too_few_images():
    creator = np.array([7, 2, 7, 9, 2, 7, 4])
    for at_least, expected in ((2, [[1, 4], [0, 2, 5]]), (3, [[0, 2, 5]]), (4, [])):
        images = CreatorImages.group(creator, at_least)
        assert len(images) == len(expected)
        assert images.rows.tolist() == [row for rows in expected for row in rows]


def test_grouping_nothing_is_empty():
    assert len(CreatorImages.group(np.zeros(0, int))) == 0


def test_a_batch_is_a_function_of_seed_and_step_alone():
    _, images = archive([5] * 30)

    def draw(seed, step):
        return sample_batch(images, creators=8, set_sizes=(1, 2), seed=seed, step=step).tolist()

    first = draw(1, 7)
    np.random.default_rng(99).random(1000)
    np.random.seed(3)
    draw(1, 8)
    assert draw(1, 7) == first
    assert draw(1, 8) != first
    assert draw(2, 7) != first
    assert draw(7, 1) != first


@settings(deadline=None)
@given(
    sizes=st.lists(st.integers(2, 12), min_size=1, max_size=12),
    set_size=st.integers(1, 5),
    step=st.integers(0, 10_000),
)
def test_rows_belong_to_the_creator_and_no_image_is_its_own_positive(sizes, set_size, step):
    creator, images = archive(sizes)
    batch = sample_batch(images, creators=8, set_sizes=(set_size,), seed=0, step=step)
    assert batch.shape == (min(8, len(sizes)), 2, set_size)
    owners = [set(creator[pair].ravel().tolist()) for pair in batch]
    assert all(len(owner) == 1 for owner in owners)
    assert len(set.union(*owners)) == len(batch), "a creator twice would be its own negative"
    for first, second in batch:
        assert not set(first.tolist()) & set(second.tolist())


def test_full_sets_repeat_no_image():
    _, images = archive([8] * 10)
    batch = sample_batch(images, creators=10, set_sizes=(4,), seed=0, step=1)
    for pair in batch:
        assert len(set(pair.ravel().tolist())) == 8


def test_creators_with_two_images_fill_sets_by_repeating():
    creator, images = archive([2] * 6)
    batch = sample_batch(images, creators=6, set_sizes=(4,), seed=0, step=1)
    for first, second in batch:
        assert len(set(first.tolist())) == 1
        assert len(set(second.tolist())) == 1
        assert creator[first[0]] == creator[second[0]]
        assert first[0] != second[0]


def test_all_creators_images_and_set_sizes_come_up():
    creator, images = archive([6] * 12)
    seen, widths = set(), set()
    for step in range(200):
        batch = sample_batch(images, creators=4, set_sizes=(1, 2, 3), seed=0, step=step)
        seen.update(batch.ravel().tolist())
        widths.add(batch.shape[2])
    assert seen == set(range(len(creator)))
    assert widths == {1, 2, 3}


def test_grouping_at_least_two_makes_a_creator_with_one_image_safe():
    creator = np.array([0, 0, 1, 2, 2, 2])
    images = CreatorImages.group(creator, 2)
    batch = sample_batch(images, creators=10, set_sizes=(2,), seed=0, step=0)
    assert len(batch) == 2
    assert 2 not in batch


@pytest.mark.parametrize("creators", [1, 5, 12, 100])
def test_batches_hold_as_many_creators_as_asked_or_there_are(creators):
    _, images = archive([3] * 12)
    batch = sample_batch(images, creators=creators, set_sizes=(1,), seed=0, step=0)
    assert len(batch) == min(creators, 12)
