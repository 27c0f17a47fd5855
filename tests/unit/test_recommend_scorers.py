"""Scores against their definitions, written as loops."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array

from motif.recommend import scorers
from motif.recommend.contents import unit, whitened


def drawn(brands: int, creators: int, *, seed: int = 0, weights: bool = False):
    rng = np.random.default_rng(seed)
    content = unit(rng.normal(size=(creators, 5)))
    there = rng.random((brands, creators)) < 0.4
    there[0] = False  # a brand without history
    values = rng.uniform(0.5, 3, there.shape) if weights else np.ones(there.shape)
    return content, csr_array((there * values).astype(np.float32))


@pytest.mark.parametrize("weights", [False, True])
@pytest.mark.parametrize("neighbours", [1, 3, 100])
@pytest.mark.parametrize("temperature", [0.05, 0.5])
def test_knn_is_the_soft_maximum_over_the_nearest(weights, neighbours, temperature):
    content, history = drawn(6, 20, weights=weights)
    scorer = scorers.Nearest(content, history, neighbours=neighbours, temperature=temperature)
    candidates = np.array([2, 3, 19])
    found = scorer.scores(np.arange(6), candidates)
    dense = history.toarray()
    for brand in range(6):
        own = np.flatnonzero(dense[brand])
        for place, candidate in enumerate(candidates):
            if not len(own):
                assert found[brand, place] == 0
                continue
            near = sorted((content[candidate] @ content[i], dense[brand, i]) for i in own)
            near = near[-neighbours:]
            total = sum(w for _, w in near)
            inner = sum(w * math.exp(c / temperature) for c, w in near) / total
            assert found[brand, place] == pytest.approx(temperature * math.log(inner), abs=1e-4)


def test_a_high_temperature_is_the_mean_and_a_low_one_the_nearest():
    content, history = drawn(4, 30)
    cosines = content @ content.T
    for temperature, reduce in ((100.0, np.mean), (0.03, np.max)):
        scorer = scorers.Nearest(content, history, neighbours=100, temperature=temperature)
        found = scorer.scores(np.array([1]), np.arange(30))[0].numpy()
        own = history[[1]].indices
        np.testing.assert_allclose(found, reduce(cosines[:, own], axis=1), atol=0.08)


def test_the_mean_of_content_is_a_cosine():
    content, history = drawn(5, 12, weights=True)
    found = scorers.mean_content(content, history).scores(np.arange(5), np.arange(12))
    means = history.toarray() @ content
    means /= np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-12)
    np.testing.assert_allclose(found.numpy(), means @ content.T, atol=1e-5)


def test_popularity_is_the_neighbours_and_not_ones_own():
    content, history = drawn(8, 15)
    found = scorers.popularity(content, history, np.arange(15), neighbours=3, block=4)
    counts = (history.toarray() > 0).sum(axis=0)
    for creator in range(15):
        others = [i for i in np.argsort(-content @ content[creator]) if i != creator and counts[i]]
        expected = np.log1p(counts[others[:3]]).mean()
        assert found[creator] == pytest.approx(expected, abs=1e-5)


@given(
    st.integers(1, 12),
    st.integers(1, 7),
    st.sampled_from([1, 2, 100]),
    st.booleans(),
    st.integers(0, 2**31),
)
@settings(max_examples=60, deadline=None)
def test_the_best_are_those_of_a_sort_whatever_the_blocks(creators, k, block, leave_out, seed):
    rng = np.random.default_rng(seed)
    table = torch.from_numpy(rng.integers(0, 4, (3, creators)).astype(np.float32))  # with ties

    class Table:
        def scores(self, brands, some):
            return table[torch.from_numpy(brands)][:, torch.from_numpy(some)]

    candidates = np.flatnonzero(rng.random(creators) < 0.8)
    known = csr_array((rng.random((3, creators)) < 0.3).astype(np.float32))
    left_out = known if leave_out else None
    brands = np.array([0, 2])
    chosen, scores = scorers.best(Table(), brands, candidates, k, left_out=left_out, block=block)
    for row, brand in enumerate(brands):
        allowed = [c for c in candidates if not (leave_out and known.toarray()[brand, c])]
        expected = sorted(allowed, key=lambda c: (-table[brand, c].item(), c))[:k]
        there = np.isfinite(scores[row])
        values = [table[brand, c].item() for c in expected]
        assert scores[row][there].tolist() == values
        assert len(set(chosen[row][there].tolist())) == there.sum() == len(expected)
        assert set(chosen[row][there].tolist()) <= set(allowed)


def test_the_reason_is_the_nearest_of_the_brands_own():
    content, history = drawn(5, 20)
    found = scorers.because(content, history, 3, np.array([0, 7]), 2)
    own = history[[3]].indices
    for creator, named in zip((0, 7), found, strict=True):
        expected = sorted(own, key=lambda i: -float(content[i] @ content[creator]))[:2]
        assert named.tolist() == expected


def test_whitened_rows_are_centred_of_equal_variance_and_unit():
    rng = np.random.default_rng(0)
    spread = np.array([10, 3, 1, 0.5])
    rows = rng.normal(size=(4000, 4)) * spread + 7
    found = whitened(rows, ridge=1e-6)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(np.cov(found.T), np.eye(4) / 4, atol=0.02)
    # A direction without spread stays quiet.
    flat = np.concatenate([rows, np.ones((4000, 1))], axis=1)
    assert np.isfinite(whitened(flat)).all()


def test_zeros_stay_zeros():
    assert unit(np.zeros((2, 3))).tolist() == [[0, 0, 0], [0, 0, 0]]
