"""Leaving creators out and ranking them: measures by hand, and planted structure that is found."""

import numpy as np
import pyarrow as pa
import pytest
import torch

from motif.errors import InputError
from motif.recommend import bpr, cb2cf, cold_start, interactions, scorers
from motif.recommend.cold_start import DEPTHS
from motif.recommend.contents import unit

THEMES, CREATORS, BRANDS = 6, 240, 200


def planted(*, seed: int = 0, times: bool = False):
    """Brands that like one theme each, and creators whose content is their theme and noise."""
    rng = np.random.default_rng(seed)
    themes = unit(rng.normal(size=(THEMES, 16)))
    of_creator = rng.integers(0, THEMES, CREATORS)
    content = unit(themes[of_creator] + 0.15 * rng.normal(size=(CREATORS, 16)))
    rows = {"brand_id": [], "creator_id": [], "at": []}
    for brand in range(BRANDS):
        liked = np.flatnonzero(of_creator == rng.integers(THEMES))
        for creator in rng.choice(liked, min(12, len(liked)), replace=False):
            rows["brand_id"].append(f"b{brand:03d}")
            rows["creator_id"].append(f"c{creator:03d}")
            rows["at"].append(int(creator) * 1_000_000)  # later ones later
    if times:
        rows["at"] = pa.array(rows["at"], pa.timestamp("us"))
    else:
        del rows["at"]
    ids = [f"c{i:03d}" for i in range(CREATORS)]
    return content, interactions.joined(pa.table(rows), ids)


def test_cold_creators_have_no_history_and_stay_the_same_as_others_come():
    _, found = planted()
    holdout = cold_start.by_creators(found, 0.25)
    assert not set(holdout.history.indices) & set(holdout.cold)
    assert set(holdout.hidden.indices) == set(holdout.cold)
    assert holdout.history.nnz + holdout.hidden.nnz == found.weights.nnz
    assert 0.15 < len(holdout.cold) / len(found.known) < 0.35
    fewer = interactions.Interactions(**{**vars(found), "weights": found.weights[:100]})
    again = cold_start.by_creators(fewer, 0.25)
    assert set(again.cold) <= set(holdout.cold)
    assert set(cold_start.by_creators(found, 0.25, seed=1).cold) != set(holdout.cold)


def test_by_time_cold_creators_are_those_who_came_last():
    _, found = planted(times=True)
    holdout = cold_start.by_time(found, 0.2)
    assert min(holdout.cold) > max(holdout.history.indices)
    with pytest.raises(InputError, match="have no times"):
        cold_start.by_time(planted()[1], 0.2)


def test_too_little_is_refused():
    rows = pa.table({"brand_id": ["a", "b"], "creator_id": ["x", "y"]})
    with pytest.raises(InputError, match="too few to measure"):
        cold_start.by_creators(interactions.joined(rows, ["x", "y"]), 0.5)


class Table:
    """Scores that are given."""

    def __init__(self, table):
        self.table = torch.tensor(table, dtype=torch.float32)

    def scores(self, brands, creators):
        return self.table[torch.from_numpy(brands)][:, torch.from_numpy(creators)]


def test_measures_by_hand():
    rows = pa.table(
        {
            "brand_id": ["a", "a", "a", "b", "b"],
            "creator_id": ["k", "c1", "c3", "k", "c2"],
        }
    )
    found = interactions.joined(rows, ["k", "c1", "c2", "c3", "c4"])
    holdout = cold_start._cut(found, np.array([1, 2, 3, 4]), found.weights.data > 0, "by hand")
    # a: c4, c3, c2, c1; b: c2 first.
    scores = Table([[0, 1, 2, 3, 4], [0, 1, 9, 3, 4]])
    values = cold_start.measure(scores, holdout, (1, 2, 4))
    assert values["hit_rate"].tolist() == [[0, 1, 1], [1, 1, 1]]
    assert values["recall"].tolist() == [[0, 0.5, 1], [1, 1, 1]]
    second, fourth = 1 / np.log2(3), 1 / np.log2(5)
    expected = [0, second / (1 + second), (second + fourth) / (1 + second)]
    np.testing.assert_allclose(values["ndcg"], [expected, [1, 1, 1]])


def test_intervals_hold_the_mean_and_shrink():
    rng = np.random.default_rng(0)
    few, many = (cold_start.interval(rng.random(n)) for n in (50, 5000))
    assert few.low < few.mean < few.high
    assert many.high - many.low < 0.2 * (few.high - few.low)
    twice = cold_start.ratio(np.full(40, 0.4), np.full(40, 0.2))
    assert (twice.mean, twice.low, twice.high) == (pytest.approx(2),) * 3
    assert np.isnan(cold_start.ratio(np.ones(3), np.zeros(3)).mean)


def recall(scorer, holdout, depth=20) -> float:
    return float(cold_start.measure(scorer, holdout)["recall"][:, DEPTHS.index(depth)].mean())


def test_planted_themes_are_found_by_content_and_not_by_chance():
    content, found = planted()
    holdout = cold_start.by_creators(found, 0.25)
    chance = recall(cold_start.Chance(), holdout)
    assert recall(scorers.Nearest(content, holdout.history), holdout) > 2 * chance
    popular = scorers.popularity(content, holdout.history, np.arange(CREATORS))
    same_for_all = recall(scorers.SameForAll.of_array(popular), holdout)
    assert same_for_all < 1.7 * chance


def test_the_network_learns_collaborative_vectors_from_content():
    content, found = planted()
    holdout = cold_start.by_creators(found, 0.25)
    learned = bpr.fit(holdout.history, bpr.BprSettings(factors=16, threads=1))
    passes: list[int] = []
    again = bpr.fit(holdout.history, bpr.BprSettings(factors=16, threads=1), passes.append)
    assert passes == list(range(1, bpr.BprSettings.iterations + 1))
    np.testing.assert_array_equal(learned.creators, again.creators)
    known = np.unique(holdout.history.indices)
    small = cb2cf.NetworkSettings(hidden_dim=32, epochs=150)
    guessed = cb2cf.predict(content, learned, known, small)
    assert recall(guessed, holdout) > 2 * recall(cold_start.Chance(), holdout)
    repeated = cb2cf.predict(content, learned, known, small)
    assert torch.equal(guessed.creators, repeated.creators)
    # Content that says nothing finds nothing.
    noise = unit(np.random.default_rng(1).normal(size=content.shape))
    blind = cb2cf.predict(noise, learned, known, small)
    assert recall(blind, holdout) < 1.5 * recall(cold_start.Chance(), holdout)
