"""Percentiles, hubness and reliability: what is known only from all creators together."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from motif import schemas
from motif.errors import InputError
from motif.publishing import population
from motif.publishing.population import Population
from motif.table import TableUri
from tests.synthetic import unit


def drafts(vectors: np.ndarray, consistency: np.ndarray | None = None) -> pa.Table:
    shown = consistency if consistency is not None else np.full(len(vectors), 0.5)
    return pa.table(
        {
            "creator_id": [f"c{i:04d}" for i in range(len(vectors))],
            "same": schemas.vector_array(vectors),
            "theme_consistency": pa.array(shown, pa.float32(), mask=np.isnan(shown)),
        }
    )


def fit(vectors: np.ndarray, **scores: np.ndarray) -> Population:
    return population.fit(iter([drafts(vectors)]), scores, vectors.shape[1])


def vectors_of(creators: int, dim: int = 6, seed: int = 0) -> np.ndarray:
    return unit(np.random.default_rng(seed).normal(size=(creators, dim)))


@given(
    scores=arrays.arrays(
        np.float32, st.integers(1, 40), elements=st.sampled_from([-1.0, -0.5, 0.0, 0.25, 0.75])
    )
)
def test_percentiles_are_shares_of_the_population_that_score_lower(scores):
    found = fit(vectors_of(len(scores)), vivid=scores).percentiles("vivid", scores)
    assert ((found >= 0) & (found <= 100)).all()
    for i, j in np.ndindex(len(scores), len(scores)):
        assert (found[i] < found[j]) == (scores[i] < scores[j])
    lower = np.array([(scores < s).mean() + (scores <= s).mean() for s in scores]) * 50
    # A grid of a thousand steps over few creators: within one creator's share.
    assert np.abs(found - lower).max() <= 50 / len(scores) + 0.2


def test_scores_outside_the_population_are_at_its_ends():
    fitted = fit(vectors_of(3), vivid=np.array([0.1, 0.2, 0.3], np.float32))
    found = fitted.percentiles("vivid", np.array([-1, 0.05, 0.35, 1], np.float32))
    assert found.tolist() == [0, 0, 100, 100]


def test_hubness_is_the_mean_cosine_to_the_ten_nearest_others():
    vectors = vectors_of(50)
    ids = [f"c{i:04d}" for i in range(50)]
    cosine = vectors @ vectors.T
    np.fill_diagonal(cosine, -np.inf)
    expected = np.sort(cosine, axis=1)[:, -population.NEIGHBOURS :].mean(axis=1)
    found = fit(vectors).hubness(ids, vectors)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    # One whom the sample does not hold has no self to leave out.
    twin = fit(vectors).hubness(["somebody new"], vectors[:1])
    assert twin[0] > found[0]


@pytest.mark.parametrize("creators", [1, 2, 5])
def test_hubness_of_few_creators_is_finite(creators):
    vectors = vectors_of(creators)
    found = fit(vectors).hubness([f"c{i:04d}" for i in range(creators)], vectors)
    assert np.isfinite(found).all()
    if creators == 2:
        np.testing.assert_allclose(found, float(vectors[0] @ vectors[1]), atol=1e-6)


def test_the_sample_is_bounded_and_the_same_however_creators_come(monkeypatch):
    monkeypatch.setattr(population, "SAMPLE", 20)
    table = drafts(vectors_of(90))
    whole = population.fit(iter([table]), {}, 6)
    parts = [table.slice(60), table.slice(0, 25), table.slice(25, 35)]
    assert whole.sample_ids == population.fit(iter(parts), {}, 6).sample_ids
    assert len(whole.sample_ids) == 20
    assert whole.creators == 90


def test_reliability_is_the_squared_cosine_to_the_vector_of_endless_images():
    """Images around themes: what is predicted from few is what many more images show."""
    generator = np.random.default_rng(0)
    creators, dim = 400, 40
    themes = unit(generator.normal(size=(creators, 1, dim)))

    def mean_of(images: int) -> tuple[np.ndarray, np.ndarray]:
        rows = unit(themes + 0.25 * generator.normal(size=(creators, images, dim)))
        total = rows.sum(axis=1)
        pairs = images * (images - 1)
        return unit(total), ((total**2).sum(axis=1) - images) / max(pairs, 1)

    endless, consistency = mean_of(1000)
    fitted = population.fit(iter([drafts(endless, consistency)]), {}, dim)
    for images in (1, 2, 5, 20):
        few, found = mean_of(images)
        shown = np.clip(found, 0, 1) if images > 1 else np.full(creators, np.nan)
        predicted = fitted.reliability(shown, np.full(creators, images))
        seen = (few * endless).sum(axis=1) ** 2
        assert abs(predicted.mean() - seen.mean()) < 0.03, images


def test_what_is_written_is_read_and_has_one_name(tmp_path):
    table = TableUri.parse(str(tmp_path / "creators.lance"))
    scores = np.linspace(-1, 1, 30).astype(np.float32)
    fitted = fit(vectors_of(30), vivid=scores, calm=-scores)
    name = fitted.write(table)
    assert name == fitted.write(table)
    read = Population.read(table, name)
    assert read.sample_ids == fitted.sample_ids
    assert (read.creators, read.usual_consistency) == (30, 0.5)
    np.testing.assert_array_equal(read.sample, fitted.sample)
    for word in ("vivid", "calm"):
        np.testing.assert_array_equal(
            read.percentiles(word, scores), fitted.percentiles(word, scores)
        )
    more = read.with_quantiles({"new": scores})
    assert list(more.quantiles) == ["vivid", "calm", "new"]
    assert more.write(table) != name
    assert read.without({"c0003"}).sample_ids == tuple(c for c in read.sample_ids if c != "c0003")


def test_a_population_that_is_gone_or_damaged_is_told(tmp_path):
    table = TableUri.parse(str(tmp_path / "creators.lance"))
    with pytest.raises(InputError, match="is gone; publish with --refit-population"):
        Population.read(table, "0123")
    name = fit(vectors_of(3)).write(table)
    path = tmp_path / "creators.motif" / "population" / f"{name}.parquet"
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(InputError, match="not a Parquet file"):
        Population.read(table, name)
