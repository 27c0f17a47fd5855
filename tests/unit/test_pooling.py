import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from motif.pooling import hamming, pool, representatives


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)


def images_of(sizes: list[int], seed: int = 0, *, dim: int = 6, spread: float = 1.0):
    """Unit SAME embeddings and unit embeddings of creators with the given numbers of images."""
    generator = np.random.default_rng(seed)
    themes = np.repeat(unit(generator.normal(size=(len(sizes), dim))), sizes, axis=0)
    same = unit(themes + spread * generator.normal(size=themes.shape) / np.sqrt(dim))
    embedding = unit(generator.normal(size=(sum(sizes), dim + 2)))
    return same, embedding, np.cumsum([0, *sizes])


@settings(deadline=None)
@given(sizes=st.lists(st.integers(1, 7), min_size=1, max_size=5), seed=st.integers(0, 2**16))
def test_matches_the_definition_written_as_loops(sizes, seed):
    same, embedding, offsets = images_of(sizes, seed)
    found = pool(same, embedding, offsets)
    for i, count in enumerate(sizes):
        own = same[offsets[i] : offsets[i + 1]].astype(np.float64)
        total = sum(own)
        np.testing.assert_allclose(found.same[i], total / np.linalg.norm(total), atol=1e-6)
        mean = sum(embedding[offsets[i] : offsets[i + 1]].astype(np.float64)) / count
        np.testing.assert_allclose(found.mean_embedding[i], mean, atol=1e-6)
        assert found.image_count[i] == count
        cosines = [own[a] @ own[b] for a in range(count) for b in range(count) if a != b]
        if cosines:
            expected = min(max(np.mean(cosines), 0), 1)
            assert found.theme_consistency[i] == pytest.approx(expected, abs=1e-5)
        else:
            assert np.isnan(found.theme_consistency[i])


def test_vectors_are_unit_and_the_mean_embedding_is_not_renormalised():
    found = pool(*images_of([3, 10, 1]))
    np.testing.assert_allclose(np.linalg.norm(found.same, axis=1), 1, atol=1e-6)
    lengths = np.linalg.norm(found.mean_embedding, axis=1)
    assert (lengths[:2] < 0.9).all()
    assert lengths[2] == pytest.approx(1, abs=1e-6)


def test_the_order_of_a_creators_images_does_not_show():
    same, embedding, offsets = images_of([5, 40, 2])
    generator = np.random.default_rng(1)
    order = np.concatenate(
        [start + generator.permutation(stop - start) for start, stop in itertools.pairwise(offsets)]
    )
    before, after = pool(same, embedding, offsets), pool(same[order], embedding[order], offsets)
    for name in ("same", "mean_embedding", "image_count", "theme_consistency"):
        np.testing.assert_array_equal(getattr(after, name), getattr(before, name), err_msg=name)


def test_one_image_is_the_creator_and_has_no_consistency():
    same, embedding, offsets = images_of([1])
    found = pool(same, embedding, offsets)
    np.testing.assert_allclose(found.same, same, atol=1e-7)
    np.testing.assert_array_equal(found.mean_embedding, embedding)
    assert np.isnan(found.theme_consistency).all()


def test_equal_images_are_wholly_consistent_and_opposite_ones_not_at_all():
    one = unit(np.array([[1.0, 2.0, 3.0]]))
    equal = pool(np.repeat(one, 5, axis=0), np.repeat(one, 5, axis=0), np.array([0, 5]))
    assert equal.theme_consistency[0] == pytest.approx(1, abs=1e-6)
    assert equal.theme_consistency[0] <= 1
    opposite = np.concatenate([one, -one, one])
    assert pool(opposite, opposite, np.array([0, 3])).theme_consistency[0] == 0


def test_consistency_does_not_depend_on_the_number_of_images_on_average():
    means = []
    for size in (2, 4, 8, 64):
        found = pool(*images_of([size] * 3000, size, dim=32, spread=0.8))
        means.append(found.theme_consistency.mean())
    # 1 / (1 + .8^2) = .61; the cosine to the mean would rise from .9 with 2 to .78 with 64.
    assert np.ptp(means) < 0.015
    assert means[0] == pytest.approx(0.61, abs=0.03)


def test_images_that_cancel_out_are_refused():
    rows = unit(np.array([[1.0, 0], [0, 1], [1, 0], [-1, 0]]))
    with pytest.raises(ValueError, match="creator 1 has images that cancel out"):
        pool(rows, rows, np.array([0, 2, 4]))


def hashes(count: int) -> list[str]:
    """Perceptual hashes that differ from each other in 16 bits or more."""
    return [
        f"{0xFFFF << 16 * i if i < 4 else 0x1111111111111111 << (i - 4):016x}" for i in range(count)
    ]


def test_representatives_are_the_nearest_first():
    same, _, _ = images_of([6], 3)
    vector = unit(same.sum(axis=0))
    by_cosine = sorted(range(6), key=lambda i: -float(same[i] @ vector))
    names = [str(i) for i in range(6)]
    assert representatives(same, vector, names, hashes(6)) == by_cosine[:4]
    assert representatives(same, vector, names, hashes(6), keep=2) == by_cosine[:2]
    assert representatives(same, vector, names, hashes(6), keep=9) == by_cosine


def test_copies_of_a_file_are_not_both_representatives():
    same, _, _ = images_of([6], 3)
    vector = unit(same.sum(axis=0))
    nearest, second, third, *_ = sorted(range(6), key=lambda i: -float(same[i] @ vector))
    names = [str(i) for i in range(6)]
    names[second] = names[nearest]
    chosen = representatives(same, vector, names, hashes(6), keep=2)
    assert chosen == [nearest, third]


@pytest.mark.parametrize(("bits", "both"), [(0, False), (4, False), (5, True)])
def test_near_duplicates_are_not_both_representatives(bits, both):
    same = unit(np.array([[1.0, 0.1], [1.0, 0.2]]))
    first = 0x0F0F0F0F0F0F0F0F
    changed = first ^ ((1 << bits) - 1)
    chosen = representatives(
        same,
        np.array([1, 0], np.float32),
        ["a", "b"],
        [f"{first:016x}", f"{changed:016x}"],
    )
    assert chosen == ([0, 1] if both else [0])


def test_hamming_counts_the_bits_that_differ():
    assert hamming("0000000000000000", "ffffffffffffffff") == 64
    assert hamming("8000000000000001", "0000000000000000") == 2
    assert hamming("00ff00ff00ff00ff", "00ff00ff00ff00ff") == 0
