"""Similarity, adjectives, the choice of tiles and the verdict: from arrays alone."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from motif.evaluation import adjective_truth, plots, sheets, similarity, verdict
from motif.evaluation.similarity import Comparison, Similarity
from motif.evaluation.theme_over_object import ThemeScore

COUNTS = [12, 2, 7, 6, 1, 20, 10, 3]


def offsets_of(counts: list[int]) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(counts)])


def themed_images(counts: list[int], *, noise: float, seed: int = 0, dim: int = 6) -> np.ndarray:
    generator = np.random.default_rng(seed)
    themes = np.repeat(generator.normal(size=(len(counts), dim)), counts, axis=0)
    return similarity.unit(themes + noise * generator.normal(size=themes.shape))


@pytest.mark.parametrize("csls", [False, True])
def test_measure_is_the_definition_written_as_loops(csls):
    offsets, images = offsets_of(COUNTS), themed_images(COUNTS, noise=1.5)
    found = similarity.measure({"mean": images}, offsets, sizes=(3,), draws=4, seed=9)
    chosen = np.array([count >= 6 for count in COUNTS])
    by_draw = []
    for halves in similarity.draw_images(offsets, chosen, 3, draws=4, seed=9):
        cosines = np.zeros((5, 5))
        for i, query in enumerate(halves[:, 0]):
            q = np.mean([images[row] for row in query], axis=0)
            for j, twin in enumerate(halves[:, 1]):
                t = np.mean([images[row] for row in twin], axis=0)
                cosines[i, j] = q @ t / np.linalg.norm(q) / np.linalg.norm(t)
        # Five candidates are fewer than CSLS's ten neighbours: each mean is over all of them.
        hubs = cosines.mean(axis=1)[:, None] + cosines.mean(axis=0)[None, :]
        compared = 2 * cosines - hubs if csls else cosines
        by_draw.append([1 + sum(row > row[i]) for i, row in enumerate(compared)])
    ranks = np.array(by_draw)
    score = found.find("mean", csls=csls, images_per_side=3)
    assert score is not None
    assert score.creators == 5
    assert score.draws == 4
    assert score.hit_rate == {
        "1": pytest.approx((ranks == 1).mean())
    }  # 5 candidates: @5 is certain
    assert score.mrr == pytest.approx((1 / ranks).mean())
    per_creator = [float(np.mean([ranks[d, c] == 1 for d in range(4)])) for c in range(5)]
    centre = sum(per_creator) / 5
    variance = sum((value - centre) ** 2 for value in per_creator) / 4
    assert score.standard_error == pytest.approx((variance / 5) ** 0.5)
    assert score.standard_error > 0


def test_draws_take_disjoint_halves_of_the_chosen_creators_alone():
    offsets = offsets_of(COUNTS)
    chosen = np.array([count >= 6 for count in COUNTS])
    creator = np.repeat(np.arange(len(COUNTS)), COUNTS)
    draws = list(similarity.draw_images(offsets, chosen, 3, draws=3, seed=0))
    for halves in draws:
        assert [set(creator[both.ravel()]) for both in halves] == [{0}, {2}, {3}, {5}, {6}]
        assert all(len(set(both.ravel().tolist())) == 6 for both in halves)
    assert not np.array_equal(draws[0], draws[1])
    again = next(similarity.draw_images(offsets, chosen, 3, draws=1, seed=0))
    assert np.array_equal(draws[0], again)


def test_a_size_that_fewer_than_two_creators_can_fill_is_left_out_with_a_note():
    found = similarity.measure(
        {"mean": themed_images(COUNTS, noise=1)}, offsets_of(COUNTS), sizes=(1, 10), draws=2
    )
    assert {score.images_per_side for score in found.scores} == {1}
    assert {score.creators for score in found.scores} == {7}  # the one with one image sits out
    assert found.notes == [
        "10 images a side is left out: 1 creators own 20 images or more, and two are needed."
    ]
    assert found.find("mean", csls=False, images_per_side=10) is None


def test_themes_without_noise_are_always_found_and_pure_noise_is_not():
    counts = [10] * 30
    clear = themed_images(counts, noise=0)
    noise = similarity.unit(np.random.default_rng(1).normal(size=(300, 6)))
    found = similarity.measure(
        {"noise": noise, "clear": clear}, offsets_of(counts), sizes=(5,), draws=10
    )
    best = found.find("clear", csls=True, images_per_side=5)
    worst = found.find("noise", csls=True, images_per_side=5)
    assert best is not None
    assert worst is not None
    assert best.hit_rate == {"1": 1.0, "5": 1.0, "10": 1.0}
    assert best.standard_error == best.draw_standard_deviation == 0
    assert worst.hit_rate["1"] < 0.15  # chance is 1 in 30
    gain = found.compare("clear", "noise", csls=True, images_per_side=5)
    assert gain is not None
    assert gain.difference == pytest.approx(1 - worst.hit_rate["1"])
    assert gain.mrr_difference == pytest.approx(1 - worst.mrr)
    assert gain.standard_error == pytest.approx(worst.standard_error)
    assert found.compare("noise", "clear", csls=True, images_per_side=5) is None


def test_a_zero_vector_is_like_nothing_and_no_nan():
    assert similarity.unit(np.zeros((1, 3))).tolist() == [[0, 0, 0]]
    assert np.linalg.norm(similarity.unit(np.array([[3.0, 4.0]]))) == pytest.approx(1)


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        ("is_black-and-white", "black-and-white"),
        ("is_well_lit", "well lit"),
        ("is_Vivid", "vivid"),
        ("vivid", None),
        ("is_", None),
        ("is_2d", None),
        ("is_<script>", None),
        ("is_a\nb", None),
    ],
)
def test_adjective_of_a_truth_column(column, expected):
    assert adjective_truth.adjective_of(column) == expected


def test_creator_means_skip_what_is_unknown():
    nan = np.nan
    means = adjective_truth.creator_means(
        np.array([1, nan, 0, nan, nan, 1]), np.array([0, 3, 5, 6])
    )
    assert means[[0, 2]].tolist() == [0.5, 1]
    assert np.isnan(means[1])


def vectors_for(names: list[str], rows: np.ndarray) -> adjective_truth.AdjectiveVectors:
    leak = np.zeros(len(names))
    return adjective_truth.AdjectiveVectors(names, rows, -rows, leak, leak)


def test_adjective_areas_are_over_creators_with_a_majority():
    offsets = offsets_of([3, 2, 2, 1])
    # Scores are the first coordinate. A majority of images decides: creator 1 is a tie, so false;
    # of creator 3 nothing is known.
    truth = np.array([1, 1, 0, 1, 0, 0, 0, np.nan])
    first = np.array([0.9, 0.1, 0.2, 0.3, 0.7, 0.1, 0.1, 9])
    embedding = np.stack([first, np.zeros(8)], axis=1)
    vectors = vectors_for(["vivid"], np.array([[1.0, 0.0]]))
    (score,), notes = adjective_truth.measure({"vivid": truth}, vectors, embedding, offsets)
    # Means .4 against .5 and .1: one pair of two is in order; -the row turns both around.
    assert (score.auc_oaar, score.auc_plain) == (0.5, 0.5)
    assert (score.creators_true, score.creators, score.supported) == (1, 3, False)
    assert notes == []


def test_an_adjective_that_holds_for_all_or_none_is_left_out_with_a_note():
    vectors = vectors_for(["dark"], np.array([[1.0]]))
    for value, told in ((1.0, "2 of 2"), (0.0, "0 of 2"), (np.nan, "0 of 0")):
        scores, notes = adjective_truth.measure(
            {"dark": np.full(4, value)}, vectors, np.ones((4, 1)), np.array([0, 2, 4])
        )
        assert scores == []
        assert told in notes[0]


@given(seed=st.integers(0, 2**16), images=st.integers(1, 20))
def test_best_image_of_each_creator_by_loops(seed, images):
    generator = np.random.default_rng(seed)
    scores = generator.permutation(images).astype(float)
    creator = generator.integers(0, 4, images)
    allowed = generator.random(images) < 0.7
    best = {}
    for image in range(images):
        owner = creator[image]
        if allowed[image] and (owner not in best or scores[image] > scores[best[owner]]):
            best[owner] = image
    expected = sorted(best.values(), key=lambda image: -scores[image])
    assert sheets.best_per_creator(scores, creator, allowed).tolist() == expected


def comparison(difference: float, error: float, size: int = 5, baseline: str = "whitened"):
    return Comparison(
        vectors="same", baseline=baseline, csls=True, images_per_side=size, difference=difference,
        standard_error=error, mrr_difference=0.0, mrr_standard_error=0.0, creators=40,
    )  # fmt: skip


def measured(*rows: Comparison) -> Similarity:
    counts = [12] * 12
    base = similarity.measure(
        {"mean": themed_images(counts, noise=1)}, offsets_of(counts), sizes=(5,), draws=1
    )
    return Similarity(base.scores, [comparison(0.2, 0.02, baseline="mean"), *rows], [])


@pytest.mark.parametrize(
    ("difference", "error", "outcome", "words"),
    [
        (0.05, 0.01, "better", "SAME beats the closed-form whitening"),
        (0.05, 0.03, "level", "cannot be told apart"),
        (0.0, 0.0, "level", "cannot be told apart"),
        (-0.05, 0.01, "worse", "is worse than the closed-form whitening"),
    ],
)
def test_verdict_is_honest(difference, error, outcome, words):
    found = verdict.judge(measured(comparison(difference, error)), "same")
    assert found.outcome == outcome
    assert words in found.text
    assert ("earns nothing" in found.text) == (outcome != "better")
    assert "beats the plain mean of the embeddings (+20.0 ± 2.0 points)" in found.text


def test_verdict_names_a_size_at_which_it_is_otherwise():
    rows = (comparison(0.01, 0.01), comparison(0.04, 0.01, size=10))
    found = verdict.judge(measured(*rows), "same")
    assert found.outcome == "level"
    assert "With 10, it is better (+4.0 ± 1.0 points)." in found.text
    assert "earns nothing" not in found.text


def test_verdict_on_a_whitening_claims_no_network():
    found = verdict.judge(measured(comparison(0.0, 0.0)), "whitening")
    assert found.outcome == "identical"
    assert "is the whitening itself" in found.text


def test_verdict_on_few_creators_claims_nothing():
    counts = [12] * 4
    images = themed_images(counts, noise=1)
    found = similarity.measure(
        {"mean": images, "whitened": images, "same": images}, offsets_of(counts), sizes=(1, 3)
    )
    told = verdict.judge(found, "same")
    assert (told.outcome, told.images_per_side) == ("unknown", 3)
    assert "4 creators" in told.text


CURVE = [{"step": s, "loss": 0.5 / s, "validation_mrr": 0.5 + s % 3 / 10} for s in (10, 20, 30)]


def test_training_curve_has_loss_and_active_share_where_they_are_known():
    known = [row | {"active_fraction": 0.9 / row["step"], "steps_per_second": 3.0} for row in CURVE]
    plain, full = plots.training_curve(CURVE, 0.55), plots.training_curve(known, 0.55)
    for figure in (plain, full):
        assert ">best: 0.700<" in figure
        assert ">whitening 0.550<" in figure
        assert figure.count(">step<") == 1
    for title in ("Loss, of active triplets", "Share of triplets that are active"):
        assert f">{title}<" not in plain
        assert f">{title}<" in full


def test_training_curve_of_rows_that_know_different_things_is_drawn():
    begun = {"step": 0, "validation_mrr": 0.4, "validation_hit_rate": 0.3, "loss": None}
    mixed = [begun, CURVE[0], CURVE[1] | {"active_fraction": 0.25}]
    assert ">Share of triplets that are active<" in plots.training_curve(mixed, None)


def test_theme_figure_draws_the_kinds_that_are_named():
    scores = {
        kind: ThemeScore(rate=rate, standard_error=0.01, triples=10, creators=5)
        for kind, rate in (("embedding", 0.111), ("mean", 0.222), ("same", 0.777))
    }
    figure = plots.theme_over_object(scores, {"mean": "encoder", "same": "SAME"})
    for text in ("22.2 %", "77.7 %", "encoder", "SAME"):
        assert f">{text}<" in figure
    assert "11.1 %" not in figure


@given(values=st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_labels_are_spread_apart_in_order_and_below_the_top(values):
    placed = plots.spread_apart(sorted(values), 0.06, top=1.02)
    assert len(placed) == len(values)
    assert all(b - a >= 0.06 - 1e-9 for a, b in itertools.pairwise(placed))
    assert max(placed) <= 1.02 + 1e-9


def test_labels_that_are_far_apart_stay_where_they_are():
    assert plots.spread_apart([0.1, 0.5, 0.9], 0.06, top=1.02) == pytest.approx([0.1, 0.5, 0.9])
