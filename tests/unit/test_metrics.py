"""Each measure against its definition, written as loops over pairs."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from motif import metrics


def integer_similarity(seed: int, creators: int, *, levels: int = 4) -> np.ndarray:
    """Few levels, so that ties are common."""
    return np.random.default_rng(seed).integers(0, levels, (creators, creators)).astype(float)


@given(seed=st.integers(0, 2**16), creators=st.integers(1, 9))
def test_rank_of_the_twin_counts_those_before_it_and_half_of_those_level_with_it(seed, creators):
    similarity = integer_similarity(seed, creators)
    ranks = metrics.twin_ranks(similarity)
    for i in range(creators):
        rank = 1.0
        for j in range(creators):
            if j == i:
                continue
            if similarity[i, j] > similarity[i, i]:
                rank += 1
            elif similarity[i, j] == similarity[i, i]:
                rank += 0.5
        assert ranks[i] == rank


def test_vectors_that_are_all_alike_earn_what_chance_would():
    ranks = metrics.twin_ranks(np.ones((11, 11)))
    assert ranks.tolist() == [6.0] * 11
    assert metrics.hit_rate(ranks, 1) == 0


@given(
    seed=st.integers(0, 2**16),
    queries=st.integers(1, 7),
    candidates=st.integers(1, 7),
    neighbours=st.integers(1, 9),
)
def test_csls_is_twice_the_similarity_less_both_neighbourhoods(
    seed, queries, candidates, neighbours
):
    similarity = np.random.default_rng(seed).uniform(-1, 1, (queries, candidates))
    found = metrics.csls(similarity, neighbours)
    for q, c in itertools.product(range(queries), range(candidates)):
        row = sorted((similarity[q, j] for j in range(candidates)), reverse=True)[:neighbours]
        column = sorted((similarity[i, c] for i in range(queries)), reverse=True)[:neighbours]
        expected = 2 * similarity[q, c] - sum(row) / len(row) - sum(column) / len(column)
        assert found[q, c] == pytest.approx(expected)


def test_csls_takes_the_first_place_from_a_hub():
    # Candidate 0 is near to every query; query 1's own twin is nearer than it is to others.
    similarity = np.array([[0.9, 0.1, 0.1], [0.8, 0.79, 0.1], [0.8, 0.1, 0.79]])
    assert metrics.twin_ranks(similarity).tolist() == [1, 2, 2]
    assert metrics.twin_ranks(metrics.csls(similarity, 2)).tolist() == [1, 1, 1]


def test_hit_rate_and_reciprocal_rank_of_known_ranks():
    ranks = np.array([1.0, 2.0, 2.5, 10.0])
    assert metrics.hit_rate(ranks, 1) == 0.25
    assert metrics.hit_rate(ranks, 2) == 0.5
    assert metrics.hit_rate(ranks, 10) == 1
    assert metrics.mean_reciprocal_rank(ranks) == pytest.approx((1 + 0.5 + 0.4 + 0.1) / 4)


@given(scores=st.lists(st.integers(-2, 2), min_size=2, max_size=12), seed=st.integers(0, 2**16))
def test_area_is_the_share_of_pairs_in_the_right_order(scores, seed):
    positive = np.random.default_rng(seed).random(len(scores)) < 0.5
    positive[0], positive[1] = True, False
    pairs = [
        1.0 if scores[p] > scores[n] else 0.5 if scores[p] == scores[n] else 0.0
        for p in np.flatnonzero(positive)
        for n in np.flatnonzero(~positive)
    ]
    area = metrics.area_under_roc(np.array(scores, float), positive)
    assert area == pytest.approx(sum(pairs) / len(pairs))


@pytest.mark.parametrize("positive", [True, False])
def test_area_needs_both_kinds(positive):
    with pytest.raises(ValueError, match="both are needed"):
        metrics.area_under_roc(np.arange(3.0), np.full(3, positive))


@given(
    counts=st.lists(st.integers(4, 9), min_size=1, max_size=6),
    size=st.integers(1, 2),
    seed=st.integers(0, 2**16),
)
def test_halves_are_disjoint_and_of_their_own_creator(counts, size, seed):
    offsets = np.concatenate([[0], np.cumsum(counts)])
    halves = metrics.draw_halves(offsets, size, np.random.default_rng(seed))
    assert halves.shape == (len(counts), 2, size)
    for creator, both in enumerate(halves):
        assert len(set(both.ravel().tolist())) == 2 * size
        assert ((both >= offsets[creator]) & (both < offsets[creator + 1])).all()


def test_halves_reach_every_image_in_time():
    generator = np.random.default_rng(0)
    drawn = [metrics.draw_halves(np.array([0, 5]), 1, generator) for _ in range(100)]
    for side in (0, 1):
        assert {int(halves[0, side, 0]) for halves in drawn} == {0, 1, 2, 3, 4}


def test_a_creator_with_too_few_images_cannot_be_drawn_from():
    with pytest.raises(ValueError, match="larger sample"):
        metrics.draw_halves(np.array([0, 3]), 2, np.random.default_rng(0))


@pytest.mark.parametrize(
    ("candidates", "expected"),
    [(1, []), (2, [1]), (5, [1]), (6, [1, 5]), (50, [1, 5, 10]), (51, [1, 5, 10, 50])],
)
def test_k_must_be_below_the_number_of_candidates(candidates, expected):
    assert metrics.ks_below(candidates, (1, 5, 10, 50)) == expected
