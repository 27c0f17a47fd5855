"""Theme over object against its definition: a slow loop over all triples, and planted vectors."""

import itertools
from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from motif.evaluation import theme_over_object
from motif.evaluation.theme_over_object import draw_triples, measure

CREATOR = np.repeat(np.arange(5), [6, 5, 4, 3, 4])
# Creator 3 shows one object alone; some objects are unknown; object 5 is creator 4's alone.
OBJECTS = np.array([0, 0, 1, 2, 3, -1, 0, 1, 1, 2, -1, 3, 3, 0, 1, 2, 2, 2, 5, 5, 0, 4])
# A repost at two creators (rows 2 and 7), and a picture that one creator has twice (11 and 13).
PICTURE = np.array([0, 1, 2, 3, 4, 5, 6, 2, 8, 9, 10, 11, 12, 11, 14, 15, 16, 17, 18, 19, 20, 21])


def triples_by_loops(creator, objects, picture):
    """Creator -> anchor -> every triple, by the definition."""
    found = defaultdict(lambda: defaultdict(list))
    for a, x, y in itertools.permutations(range(len(creator)), 3):
        if min(objects[a], objects[x], objects[y]) < 0 or picture[a] in (picture[x], picture[y]):
            continue
        another_object_of_theirs = creator[x] == creator[a] and objects[x] != objects[a]
        its_object_by_another = creator[y] != creator[a] and objects[y] == objects[a]
        if another_object_of_theirs and its_object_by_another:
            found[int(creator[a])][a].append((a, x, y))
    return found


def cosine(rows, i, j):
    return rows[i] @ rows[j] / np.linalg.norm(rows[i]) / np.linalg.norm(rows[j])


def nearer(rows, triple):
    a, x, y = triple
    return 1.0 if cosine(rows, a, x) > cosine(rows, a, y) else 0.0


def some_rows(images: int, seed: int = 0, dim: int = 5):
    return np.random.default_rng(seed).normal(size=(images, dim)).astype(np.float32)


@st.composite
def labelled(draw):
    images = draw(st.integers(0, 14))
    numbers = [
        np.array(draw(st.lists(st.integers(low, high), min_size=images, max_size=images)), int)
        for low, high in ((0, 3), (-1, 2), (0, 9))
    ]
    return numbers


@settings(deadline=None)
@given(labels=labelled())
def test_drawn_are_all_triples_of_the_definition_and_no_others(labels):
    expected = triples_by_loops(*labels)
    drawn = draw_triples(*labels, triples=16_000)
    assert len(drawn) == len(expected)
    for creator, triples in zip(sorted(expected), drawn, strict=True):
        allowed = {triple for of_anchor in expected[creator].values() for triple in of_anchor}
        found = set(map(tuple, triples.tolist()))
        assert found <= allowed
        if len(allowed) <= 20:  # of 4,000 draws or more, each must then be 36 in the mean
            assert found == allowed


def test_the_rate_is_that_of_the_loop_over_all_triples():
    rows = some_rows(len(CREATOR))
    expected = triples_by_loops(CREATOR, OBJECTS, PICTURE)
    assert sorted(expected) == [0, 1, 2, 4]
    # Every anchor of a creator counts the same, and so does every creator.
    rates = [
        np.mean([np.mean([nearer(rows, t) for t in of_anchor]) for of_anchor in anchors.values()])
        for _, anchors in sorted(expected.items())
    ]
    found = measure({"mean": rows}, CREATOR, OBJECTS, PICTURE, triples=80_000).scores["mean"]
    assert 0.2 < np.mean(rates) < 0.8
    assert found.rate == pytest.approx(np.mean(rates), abs=0.005)
    assert found.standard_error == pytest.approx(np.std(rates, ddof=1) / 2, rel=0.05)
    assert (found.triples, found.creators) == (80_000, 4)


def test_anchors_and_then_their_partners_are_drawn_evenly():
    drawn = draw_triples(CREATOR, OBJECTS, PICTURE, triples=80_000)
    for anchors, triples in zip(
        triples_by_loops(CREATOR, OBJECTS, PICTURE).values(), drawn, strict=True
    ):
        counts = Counter(map(tuple, triples.tolist()))
        for of_anchor in anchors.values():
            share = len(triples) / len(anchors) / len(of_anchor)
            assert all(abs(counts[triple] - share) < 6 * share**0.5 for triple in of_anchor)


def test_figures_and_differences_are_those_of_the_triples_that_were_drawn():
    kinds = {"mean": some_rows(len(CREATOR), 1), "same": some_rows(len(CREATOR), 2, dim=3)}
    found = measure(kinds, CREATOR, OBJECTS, PICTURE, triples=60)
    assert found.triples.shape == (4, 15, 3)
    rates = {
        kind: [np.mean([nearer(rows, t) for t in own.tolist()]) for own in found.triples]
        for kind, rows in kinds.items()
    }
    for kind, score in found.scores.items():
        assert score.rate == pytest.approx(np.mean(rates[kind]))
        assert score.standard_error == pytest.approx(np.std(rates[kind], ddof=1) / 2)
        assert (score.triples, score.creators) == (60, 4)
    (row,) = found.comparisons
    gain = np.subtract(rates["same"], rates["mean"])
    assert (row.vectors, row.baseline, row.creators) == ("same", "mean", 4)
    assert row.difference == pytest.approx(np.mean(gain))
    assert row.standard_error == pytest.approx(np.std(gain, ddof=1) / 2)
    assert row.standard_error > 0


def test_planted_vectors_have_the_rate_that_they_must():
    directions = some_rows(6)
    zero_at_first = np.concatenate([np.zeros((6, 5)), some_rows(len(CREATOR) - 6)])
    kinds = {
        "object": directions[OBJECTS],
        "theme": 7 * directions[CREATOR],  # of any length
        "constant": np.ones((len(CREATOR), 3), np.float32),
        "zero": zero_at_first.astype(np.float32),
    }
    found = measure(kinds, CREATOR, OBJECTS, PICTURE, triples=400)
    for kind, rate in (("object", 0.0), ("theme", 1.0), ("constant", 0.5)):
        assert found.scores[kind].rate == rate
        assert found.scores[kind].standard_error == 0
    against = {(row.vectors, row.baseline): row.difference for row in found.comparisons}
    assert against["theme", "object"] == 1
    assert against["constant", "theme"] == -0.5
    assert len(against) == 6
    assert 0 < found.scores["zero"].rate < 1  # a zero vector is near to nothing, and no NaN


def test_equal_seeds_draw_equal_triples_whatever_is_compared_and_however_much_at_a_time(
    monkeypatch,
):
    rows = some_rows(len(CREATOR))
    first = measure({"mean": rows}, CREATOR, OBJECTS, PICTURE, triples=200, seed=3)
    monkeypatch.setattr(theme_over_object, "CHUNK", 7)
    other = measure({"same": rows, "mean": rows}, CREATOR, OBJECTS, PICTURE, triples=200, seed=3)
    assert np.array_equal(first.triples, other.triples)
    assert first.scores["mean"] == other.scores["mean"] == other.scores["same"]
    again = measure({"mean": rows}, CREATOR, OBJECTS, PICTURE, triples=200, seed=4)
    assert not np.array_equal(first.triples, again.triples)


@pytest.mark.parametrize(
    ("triples", "each"), [(80, 20), (83, 20), (4, 1), (3, 1), (theme_over_object.TRIPLES, 5000)]
)
def test_draws_are_bounded_and_equally_many_for_each_creator(triples, each):
    assert draw_triples(CREATOR, OBJECTS, PICTURE, triples=triples).shape == (4, each, 3)


def test_a_copy_is_never_beside_its_picture_even_where_nearly_all_are_copies():
    # Creators 0 and 1 show objects 0 and 1 each; 400 others have posted creator 0's picture of 0.
    creator = np.concatenate([[0, 0, 1, 1], np.arange(2, 402)])
    objects = np.concatenate([[0, 1, 0, 1], np.zeros(400, int)])
    picture = np.concatenate([[0, 1, 2, 3], np.zeros(400, int)])
    drawn = draw_triples(creator, objects, picture, triples=400)
    assert len(drawn) == 2  # a creator with one image has no other object
    of_picture = drawn[drawn[..., 0] == 0]
    assert set(map(tuple, of_picture.tolist())) == {(0, 1, 2)}
    picture[2] = 0  # now the only other picture of that object is a copy, too
    assert 0 not in draw_triples(creator, objects, picture, triples=400)[..., 0]


def test_a_creator_whose_other_object_is_a_copy_of_the_first_is_left_out_and_it_is_said():
    creator, objects = np.array([0, 0, 1, 1, 2, 2]), np.array([0, 1, 0, 1, 0, 1])
    rows = some_rows(6)
    found = measure({"mean": rows}, creator, objects, np.array([0, 1, 2, 3, 4, 4]))
    assert found.scores["mean"].creators == 2
    (note,) = found.notes
    assert note.startswith("1 of 3 creators are left out of theme over object:")


def test_what_shows_nothing_known_is_left_out_and_counted():
    rows = some_rows(len(CREATOR))
    found = measure({"mean": rows}, CREATOR, OBJECTS, PICTURE)
    assert found.images_without_object == 2
    assert not np.isin(found.triples, [5, 10]).any()
    assert found.notes[0].startswith("2 of 22 images have no `object`")
    known = np.where(OBJECTS < 0, 4, OBJECTS)
    complete = measure({"mean": rows}, CREATOR, known, PICTURE)
    assert complete.images_without_object == 0
    assert np.isin(complete.triples, [5, 10]).any()
    assert not any("no `object`" in note for note in complete.notes)


@pytest.mark.parametrize(
    ("creator", "objects", "told"),
    [
        ([0, 0, 1], [0, 1, 0], "1 of 2 creators"),  # creator 1 has no other object
        ([0, 0, 1, 1], [0, 1, 2, 3], "0 of 2 creators"),  # no object is shared
        ([0, 0, 1, 1], [0, 0, 0, 0], "0 of 2 creators"),  # all show the same
        ([0, 0, 1, 1], [-1, -1, -1, -1], "0 of 2 creators"),
        ([], [], "0 of 0 creators"),
    ],
)
def test_too_few_are_a_note_in_place_of_a_figure(creator, objects, told):
    images = len(creator)
    found = measure(
        {"mean": some_rows(images)},
        np.array(creator, int),
        np.array(objects, int),
        np.arange(images),
    )
    assert (found.scores, found.comparisons) == ({}, [])
    assert found.notes[-1].startswith(f"Theme over object is left out: {told}")
