import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from motif.triplets import SLICES, Batches, offsets_of


def batches(sizes: list[int], *, creators: int = 8, set_sizes=(1, 2), seed: int = 0) -> Batches:
    """Batches of creators that own as many rows."""
    return Batches(np.cumsum([0, *sizes]), creators, set_sizes, seed)


def whole(found: Batches, step: int) -> np.ndarray:
    return found.draw(step, range(found.slices))


def owners(sizes: list[int]) -> np.ndarray:
    return np.repeat(np.arange(len(sizes)), sizes)


def test_offsets_are_where_creators_begin_and_end():
    assert offsets_of(np.array([4, 4, 4, 2, 9, 9])).tolist() == [0, 3, 4, 6]
    assert offsets_of(np.zeros(0, int)).tolist() == [0]


def test_a_batch_is_a_function_of_seed_and_step_alone():
    def draw(seed: int, step: int) -> list:
        return whole(batches([5] * 30, seed=seed), step).tolist()

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
    batch = whole(batches(sizes, set_sizes=(set_size,)), step)
    assert batch.shape == (min(8, len(sizes)), 2, set_size)
    found = [set(owners(sizes)[pair].ravel().tolist()) for pair in batch]
    assert all(len(owner) == 1 for owner in found)
    assert len(set.union(*found)) == len(batch), "a creator twice would be its own negative"
    for first, second in batch:
        assert not set(first.tolist()) & set(second.tolist())


@settings(deadline=None)
@given(sizes=st.lists(st.integers(8, 30), min_size=10, max_size=10), step=st.integers(0, 1000))
def test_full_sets_repeat_no_image(sizes, step):
    for pair in whole(batches(sizes, creators=10, set_sizes=(4,)), step):
        assert len(set(pair.ravel().tolist())) == 8


def test_creators_with_two_images_fill_sets_by_repeating():
    for first, second in whole(batches([2] * 6, creators=6, set_sizes=(4,)), 1):
        assert len(set(first.tolist())) == 1
        assert len(set(second.tolist())) == 1
        assert first[0] != second[0]


def test_all_creators_images_and_set_sizes_come_up():
    found = batches([6] * 12, creators=4, set_sizes=(1, 2, 3))
    seen, widths = set(), set()
    for step in range(200):
        batch = whole(found, step)
        seen.update(batch.ravel().tolist())
        widths.add(batch.shape[2])
    assert seen == set(range(72))
    assert widths == {1, 2, 3}


@pytest.mark.parametrize(("images", "size"), [(7, 2), (4, 2), (9, 1)])
def test_every_image_is_as_likely_in_every_place(images, size):
    found = batches([images] * 50, creators=50, set_sizes=(size,))
    drawn = np.concatenate([whole(found, step) % images for step in range(400)])
    draws = len(drawn)
    for side in (0, 1):
        for place in range(size):
            counts = np.bincount(drawn[:, side, place], minlength=images)
            spread = np.sqrt(draws / images)
            assert np.abs(counts - draws / images).max() < 5 * spread


@pytest.mark.parametrize("creators", [1, 5, 12, 100])
def test_batches_hold_as_many_creators_as_asked_or_there_are(creators):
    found = batches([3] * 12, creators=creators, set_sizes=(1,))
    assert found.width == len(whole(found, 0)) == min(creators, 12)


@settings(deadline=None)
@given(creators=st.integers(1, 300), workers=st.integers(1, SLICES), step=st.integers(0, 100))
def test_workers_share_out_the_batch_of_one(creators, workers, step):
    found = batches([3] * 200, creators=creators)
    workers = min(workers, found.slices)
    shares = [found.share(rank, workers) for rank in range(workers)]
    parts = [found.draw(step, share.slices) for share in shares]
    assert [len(part) for part in parts] == list(shares[0].counts)
    assert min(shares[0].counts) > 0
    assert [share.first for share in shares] == np.cumsum([0, *shares[0].counts])[:-1].tolist()
    np.testing.assert_array_equal(np.concatenate(parts), whole(found, step))


def dropout(found: Batches, slices: range, step: int = 3, rate: float = 0.5) -> torch.Tensor:
    return found.dropout(step, slices, rows=4, width=50, rate=rate, device=torch.device("cpu"))


@pytest.mark.parametrize("workers", [1, 3, 4])
def test_dropout_does_not_depend_on_the_workers(workers):
    found = batches([3] * 200, creators=70)
    shares = [found.share(rank, workers) for rank in range(workers)]
    parts = [dropout(found, share.slices) for share in shares]
    assert [len(part) for part in parts] == [4 * count for count in shares[0].counts]
    assert torch.equal(torch.cat(parts), dropout(found, range(found.slices)))


def test_dropout_keeps_the_expectation_and_changes_with_the_step():
    found = batches([3] * 200, creators=200)
    factors = dropout(found, range(found.slices), rate=0.3)
    torch.testing.assert_close(factors.unique(), torch.tensor([0.0, 1 / 0.7]))
    assert float(factors.mean()) == pytest.approx(1, abs=0.02)
    assert not torch.equal(factors, dropout(found, range(found.slices), 4, rate=0.3))
