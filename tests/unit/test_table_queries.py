from pathlib import Path

import lancedb
import numpy as np
import pyarrow as pa
import pytest
from lancedb.index import IvfSq

from motif import schemas
from motif.errors import InputError
from motif.table import LIVE, CreatorTable, nearest
from tests import made_table
from tests.synthetic import unit

N = 60
IDS = [f"creator-{i:02d}" for i in range(N)]
SHOWN = ["image_count", "theme_consistency", "representative_uris"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("database")


@pytest.fixture(scope="module")
def rows(folder) -> pa.Table:
    country = pa.array([None if i % 7 == 0 else ("DE", "FR")[i % 2] for i in range(N)])
    return made_table.write(folder / "creators.lance", IDS, attributes={"country": country})


@pytest.fixture
def table(folder, rows) -> CreatorTable:
    return CreatorTable.open(str(folder / "creators.lance"))


@pytest.fixture(scope="module")
def same(rows) -> np.ndarray:
    return schemas.matrix(rows["same"]).astype(np.float64)


def ranking(scores: np.ndarray, allowed=range(N)) -> list[str]:
    return [IDS[i] for i in sorted(allowed, key=lambda i: (-scores[i], IDS[i]))]


def csls(same: np.ndarray, query: np.ndarray) -> np.ndarray:
    """2 cos - r, with r the mean cosine to the ten nearest, as a loop."""
    found = []
    for i, x in enumerate(same):
        others = sorted((float(x @ y) for j, y in enumerate(same) if j != i), reverse=True)[:10]
        found.append(2 * float(query @ x) - sum(others) / len(others))
    return np.array(found)


# -- lookalikes ---------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 5, N - 1, N, 10_000])
@pytest.mark.parametrize("exact", [False, True])
def test_lookalikes_are_a_brute_force_ranking(table, same, k, exact):
    for seed in (0, 4, 17):
        others = [i for i in range(N) if i != seed]
        cosines = same @ same[seed]
        found = table.lookalikes(IDS[seed], k, correct_hubs=False, exact=exact)
        assert found.column_names == ["creator_id", "similarity", *SHOWN]
        assert found["creator_id"].to_pylist() == ranking(cosines, others)[:k]
        expected = np.sort(cosines[others])[::-1][:k]
        np.testing.assert_allclose(found["similarity"].to_numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("exact", [False, True])
def test_corrected_lookalikes_are_csls_by_its_definition(table, same, exact):
    changed = 0
    for seed in (0, 4, 17):
        others = [i for i in range(N) if i != seed]
        scores = csls(same, same[seed])
        found = table.lookalikes(IDS[seed], 9, exact=exact)
        assert found.column_names == ["creator_id", "similarity", "score", *SHOWN]
        assert found["creator_id"].to_pylist() == ranking(scores, others)[:9]
        np.testing.assert_allclose(
            found["score"].to_numpy(), np.sort(scores[others])[::-1][:9], atol=1e-5
        )
        changed += found["creator_id"].to_pylist() != ranking(same @ same[seed], others)[:9]
    assert changed


def test_lookalikes_of_several_are_those_of_their_middle(table, same):
    seeds = [3, 11, 40]
    middle = unit(same[seeds].mean(axis=0))
    others = [i for i in range(N) if i not in seeds]
    asked = [IDS[i] for i in [*seeds, 3]]  # a seed that is named twice counts once
    found = table.lookalikes(asked, 8, correct_hubs=False)
    assert found["creator_id"].to_pylist() == ranking(same @ middle, others)[:8]
    whole = table.lookalikes(asked, N, correct_hubs=False, exclude_self=False)
    assert whole["creator_id"].to_pylist() == ranking(same @ middle)
    assert table.lookalikes(asked, N)["creator_id"].to_pylist() == ranking(
        csls(same, middle), others
    )


@pytest.mark.parametrize(
    "make",
    [lambda v: v, lambda v: 1e-30 * v, lambda v: (1e30 * v).tolist(), lambda v: v.astype("f4")],
)
def test_a_vector_of_any_length_is_a_direction(table, same, make):
    vector = make(same[5] + same[6])
    found = table.lookalikes(vector, 8, correct_hubs=False)["creator_id"].to_pylist()
    assert found == ranking(same @ (same[5] + same[6]))[:8]


def test_a_vector_of_the_table_is_a_seed(table, same):
    vector = table.get(IDS[5])["same"][0]
    found = table.lookalikes(vector, 8, correct_hubs=False)
    assert found["creator_id"].to_pylist() == ranking(same @ same[5])[:8]
    assert found["similarity"][0].as_py() == pytest.approx(1)
    assert found["similarity"][0].as_py() <= 1


@pytest.mark.parametrize(
    ("seed", "told"),
    [
        (np.zeros(8), "no direction: it is zero"),
        (np.ones(7), r"shape \(7,\), expected \(8,\)"),
        (np.ones((1, 8)), r"shape \(1, 8\), expected \(8,\)"),
        ([1.0] * 7 + [float("nan")], "not finite"),
        ([1.0] * 7 + [float("-inf")], "not finite"),
        (np.array(["a"] * 8), "not a vector of numbers"),
        ([], "the seed is empty"),
        (None, "exactly one of the three"),
    ],
)
def test_seeds_without_a_direction_are_refused(table, seed, told):
    with pytest.raises(InputError, match=told):
        table.lookalikes(seed)


def test_creators_that_cancel_out_have_no_lookalikes(tmp_path):
    vector = unit(np.random.default_rng(0).normal(size=(1, 8)))
    made_table.write(tmp_path / "c.lance", ["a", "b"], same=np.concatenate([vector, -vector]))
    with pytest.raises(InputError, match="the creators have no common direction"):
        CreatorTable.open(str(tmp_path / "c.lance")).lookalikes(["a", "b"])


def test_a_seed_and_images_at_once_are_refused(table):
    with pytest.raises(InputError, match="exactly one of the three"):
        table.lookalikes("creator-00", images=["x.jpg"])


def test_creators_with_equal_vectors_are_found_beside_the_seed(tmp_path):
    """Even where the seed is not the nearest to itself, it is left out and k others are there."""
    vectors = np.repeat(unit(np.random.default_rng(0).normal(size=(1, 8))), 8, axis=0)
    made_table.write(tmp_path / "c.lance", [f"twin-{i}" for i in range(8)], same=vectors)
    table = CreatorTable.open(str(tmp_path / "c.lance"))
    for seed in ("twin-0", "twin-5"):
        for correct_hubs in (False, True):
            found = table.lookalikes(seed, 3, correct_hubs=correct_hubs)["creator_id"].to_pylist()
            assert len(set(found)) == 3
            assert seed not in found
            others = sorted({f"twin-{i}" for i in range(8)} - {seed})
            whole = table.lookalikes(seed, 7, correct_hubs=correct_hubs)
            assert whole["creator_id"].to_pylist() == others


def test_a_table_without_hubness_is_asked_without_the_correction(tmp_path, same, rows):
    made_table.write(tmp_path / "c.lance", IDS, without=["hubness"])
    table = CreatorTable.open(str(tmp_path / "c.lance"))
    with pytest.raises(InputError, match=r"has no column hubness: .*--no-correct-hubs"):
        table.lookalikes(IDS[0])
    found = table.lookalikes(IDS[0], 5, correct_hubs=False)["creator_id"].to_pylist()
    assert found == ranking(same @ same[0], range(1, N))[:5]


# -- through a vector index ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def indexed(tmp_path_factory) -> tuple[CreatorTable, np.ndarray]:
    """So coarse an index that, asked alone, it errs; 2,000 creators."""
    path = tmp_path_factory.mktemp("indexed") / "creators.lance"
    rows = made_table.write(path, [f"c{i:04d}" for i in range(2000)], same_dim=16)
    table = lancedb.connect(path.parent).open_table("creators")
    config = IvfSq(distance_type="cosine", num_partitions=7, sample_rate=16)
    table.create_index("same", config=config)
    table.tags.update(LIVE, table.version)
    return CreatorTable.open(str(path)), schemas.matrix(rows["same"])


def test_exact_asks_every_row_though_there_is_an_index(indexed, monkeypatch):
    table, same = indexed
    monkeypatch.setattr(nearest, "NPROBES", 1)
    monkeypatch.setattr(nearest, "REFINE_FACTOR", 1)
    wrong = 0
    for seed in range(0, 2000, 200):
        cosines = same @ same[seed]
        cosines[seed] = -2
        expected = [f"c{i:04d}" for i in np.argsort(-cosines, kind="stable")[:10]]
        creator = f"c{seed:04d}"
        exact = table.lookalikes(creator, 10, correct_hubs=False, exact=True)
        assert exact["creator_id"].to_pylist() == expected
        near = table.lookalikes(creator, 10, correct_hubs=False)
        wrong += near["creator_id"].to_pylist() != expected
    assert wrong, "the index was not asked"


def test_an_index_gives_exact_similarities_and_as_many_rows_as_asked(indexed, monkeypatch):
    table, same = indexed
    monkeypatch.setattr(nearest, "NPROBES", 1)
    for k, where in ((10, ()), (1999, ()), (15, "creator_id<c0016")):
        for correct_hubs in (False, True):
            found = table.lookalikes("c0000", k, where=where, correct_hubs=correct_hubs)
            assert found.num_rows == k
            for row in found.to_pylist():
                cosine = float(same[0] @ same[int(row["creator_id"][1:])])
                assert row["similarity"] == pytest.approx(cosine, abs=1e-6)


def test_correction_through_an_index_orders_the_nearest_candidates(indexed, monkeypatch):
    table, same = indexed
    monkeypatch.setattr(nearest, "NPROBES", 7)
    monkeypatch.setattr(nearest, "CANDIDATES_REFINED", 40)  # so that the candidates are exact, too
    hubness = table.get([f"c{i:04d}" for i in range(2000)], columns=["hubness"])["hubness"]
    cosines = same @ same[9]
    cosines[9] = -2
    candidates = np.argsort(-cosines)[:200]
    scores = 2 * cosines[candidates] - hubness.to_numpy()[candidates]
    expected = [f"c{candidates[i]:04d}" for i in np.argsort(-scores)[:10]]
    assert table.lookalikes("c0009", 10)["creator_id"].to_pylist() == expected


# -- rank ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("adjective", "word"), [("vivid", 0), (" Black-and-White", 1)])
@pytest.mark.parametrize("k", [1, 7, 100])
def test_rank_is_sorting_by_the_score(table, rows, adjective, word, k):
    column = ("oaar_vivid", "oaar_black_and_white")[word]
    scores = rows[column].to_numpy()
    expected = ranking(scores)[:k]
    found = table.rank(adjective, k)
    assert found.column_names == ["creator_id", "score", "percentile", *SHOWN]
    assert found["creator_id"].to_pylist() == expected
    places = [IDS.index(creator) for creator in expected]
    np.testing.assert_array_equal(found["score"].to_numpy(), scores[places])
    np.testing.assert_array_equal(
        found["percentile"].to_numpy(), rows[f"{column}_pct"].to_numpy()[places]
    )
    assert found["image_count"].to_pylist() == rows["image_count"].take(places).to_pylist()


class Words:
    """A text encoder of made-up directions: of a prompt, its adjective's; of another text, its."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []

    def encode_texts(self, texts: list[str]) -> np.ndarray:
        self.asked.append(texts)
        return np.concatenate([made_table.directions_of([_adjective(t)], 12) for t in texts])

    def encode_images(self, images) -> np.ndarray:
        return unit(np.array([[float(b) for b in image] for image in images], np.float32))


def _adjective(text: str) -> str:
    words = text.split()
    return words[1] if len(words) > 2 and words[2] == "photo" else "nothing"


def test_an_adjective_that_no_column_has_is_scored_from_mean_embedding(folder, rows):
    table = CreatorTable.open(str(folder / "creators.lance"), encoder=Words())
    plain, with_ = (made_table.directions_of([w], 12)[0] for w in ("nothing", "whimsical"))
    scores = schemas.matrix(rows["mean_embedding"]) @ unit(with_ - plain)
    found = table.rank("Whimsical", N)
    assert found.column_names == ["creator_id", "score", *SHOWN]
    assert found["creator_id"].to_pylist() == ranking(scores)
    np.testing.assert_allclose(found["score"].to_numpy(), np.sort(scores)[::-1], atol=1e-6)
    allowed = [i for i in range(N) if rows["country"][i].as_py() == "DE"]
    some = table.rank("whimsical", 5, where="country=DE")
    assert some["creator_id"].to_pylist() == ranking(scores, allowed)[:5]


def test_a_published_adjective_needs_no_encoder(folder, rows):
    encoder = Words()
    CreatorTable.open(str(folder / "creators.lance"), encoder=encoder).rank("vivid")
    assert encoder.asked == []


@pytest.mark.parametrize("adjective", ["", "vivid; DROP", "creator_id", "two\nlines"])
def test_what_is_no_adjective_is_told_what_there_is(folder, rows, adjective):
    table = CreatorTable.open(str(folder / "creators.lance"), encoder=Words())
    with pytest.raises(InputError) as caught:
        table.rank(adjective)
    assert repr(adjective) in str(caught.value)
    assert "published are: vivid, black-and-white" in str(caught.value)


def test_an_adjective_that_cannot_be_scored_is_told_what_is_near(table):
    with pytest.raises(InputError) as caught:
        table.rank("vivd")
    assert "adjective 'vivd' is not in" in str(caught.value)
    assert "(close: vivid); published are: vivid, black-and-white" in str(caught.value)
    assert "pass --encoder" in str(caught.value)


# -- search -------------------------------------------------------------------------------------


def test_a_text_is_compared_with_the_mean_embedding(folder, rows):
    table = CreatorTable.open(str(folder / "creators.lance"), encoder=Words())
    means = schemas.matrix(rows["mean_embedding"])
    cosines = unit(means) @ made_table.directions_of(["nothing"], 12)[0]
    found = table.search("the sea", 7, adjectives=["vivid"], columns=["country"])
    assert found.column_names == [
        *("creator_id", "similarity", *SHOWN, "oaar_vivid", "oaar_vivid_pct", "country"),
    ]
    assert found["creator_id"].to_pylist() == ranking(cosines)[:7]
    expected = np.sort(cosines)[::-1][:7]
    np.testing.assert_allclose(found["similarity"].to_numpy(), expected, atol=1e-6)


def test_an_image_is_a_seed(folder, rows, same):
    table = CreatorTable.open(str(folder / "creators.lance"), encoder=Words())
    first, second = bytes(range(8)), bytes([9, 1, 0, 0, 3, 0, 0, 1])
    vectors = unit(np.array([list(first), list(second)], np.float32))
    scores = csls(same, vectors[0].astype(np.float64))
    assert table.search(image=first, k=6)["creator_id"].to_pylist() == ranking(scores)[:6]
    assert table.search(image=first).equals(table.lookalikes([first]))
    assert table.search(image=first).equals(table.lookalikes(images=[first]))
    both = table.lookalikes([first, second], 6, correct_hubs=False)["creator_id"].to_pylist()
    assert both == ranking(same @ unit(vectors.mean(axis=0)))[:6]


@pytest.mark.parametrize("asked", [{}, {"text": " "}, {"text": "sea", "image": b"x"}])
def test_a_search_is_for_one_thing(table, asked):
    with pytest.raises(InputError, match="exactly one"):
        table.search(**asked)


# -- what all queries share ---------------------------------------------------------------------


def test_adjectives_and_columns_are_added(table, rows):
    asked = {"adjectives": ["vivid", "Black-and-white"], "columns": ["country", "updated_at"]}
    added = [
        *("oaar_vivid", "oaar_vivid_pct", "oaar_black_and_white", "oaar_black_and_white_pct"),
        *("country", "updated_at"),
    ]
    for found in (table.lookalikes(IDS[3], 9, **asked), table.rank("vivid", 9, **asked)):
        assert found.column_names[-9:] == [*SHOWN, *added]
        for name in (*SHOWN, *added):
            places = [IDS.index(creator) for creator in found["creator_id"].to_pylist()]
            assert found[name].to_pylist() == rows[name].take(places).to_pylist()
            assert found.schema.field(name).type == rows.schema.field(name).type


def test_unknown_columns_and_adjectives_are_refused(table):
    for query in (
        lambda **asked: table.lookalikes(IDS[0], **asked),
        lambda **asked: table.rank("vivid", **asked),
        lambda **asked: table.search("sea", **asked),
    ):
        with pytest.raises(InputError, match=r"column 'contry' is not in .*\(close: country\)"):
            query(columns=["contry"])
        with pytest.raises(InputError, match=r"adjective 'vivd' is not in .*\(close: vivid\)"):
            query(adjectives=["vivd"])


@pytest.mark.parametrize("k", [0, -1, 10_001])
def test_senseless_k_is_refused(table, k):
    for query in (lambda: table.lookalikes(IDS[0], k), lambda: table.rank("vivid", k)):
        with pytest.raises(InputError, match=f"-k {k}: expected 1 to 10000"):
            query()


def test_a_filter_that_leaves_nobody_keeps_the_columns(table):
    nobody = {"where": "image_count>1000"}
    found = table.lookalikes(IDS[0], **nobody)
    assert (found.num_rows, found.schema) == (0, table.lookalikes(IDS[0]).schema)
    found = table.rank("vivid", **nobody)
    assert (found.num_rows, found.schema) == (0, table.rank("vivid").schema)
