import numpy as np
import pytest
import torch

from motif.whitening import fit


def planted(seed: int = 0, *, creators: int = 60, images: int = 8, dim: int = 12):
    """Rows whose within-creator noise has one known covariance, and its square root."""
    generator = np.random.default_rng(seed)
    root = generator.normal(size=(dim, dim))
    themes = generator.normal(size=(creators, 1, dim))
    rows = themes + generator.normal(size=(creators, images, dim)) @ root.T
    creator = np.repeat(np.arange(creators), images)
    return rows.reshape(-1, dim).astype(np.float32), creator, root @ root.T


def within_covariance(rows: np.ndarray, creator: np.ndarray) -> np.ndarray:
    total = np.zeros((rows.shape[1], rows.shape[1]))
    for c in np.unique(creator):
        own = rows[creator == c]
        for row in own:
            total += np.outer(row - own.mean(axis=0), row - own.mean(axis=0))
    return total / (len(rows) - len(np.unique(creator)))


def by_definition(rows: np.ndarray, creator: np.ndarray, ridge: float):
    """(Sw + ridge * tr(Sw) / dim * I)^(-1/2) by its eigenvectors, scaled to mean square 1."""
    rows = rows.astype(np.float64)
    within = within_covariance(rows, creator)
    dim = len(within)
    values, vectors = np.linalg.eigh(within + ridge * np.trace(within) / dim * np.eye(dim))
    axes = zip(values, vectors.T, strict=True)
    matrix = sum(np.outer(axis, axis) / np.sqrt(value) for value, axis in axes)
    mean = rows.mean(axis=0)
    lengths = [np.sum(((row - mean) @ matrix) ** 2) for row in rows]
    return mean, matrix / np.sqrt(np.mean(lengths))


def fitted(rows: np.ndarray, creator: np.ndarray, **more):
    more = {"emphasis": 0.0, **more}
    whitening = fit(torch.from_numpy(rows), torch.from_numpy(creator), **more)
    return whitening.mean.numpy(), whitening.matrix.numpy()


def cosines(rows: np.ndarray) -> np.ndarray:
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit @ unit.T


@pytest.mark.parametrize("ridge", [0.0, 0.3, 1.0, 3.0])
def test_matches_the_formula_written_in_numpy(ridge):
    rows, creator, _ = planted()
    mean, matrix = fitted(rows, creator, ridge=ridge)
    expected_mean, expected_matrix = by_definition(rows, creator, ridge)
    np.testing.assert_allclose(mean, expected_mean, atol=1e-5)
    np.testing.assert_allclose(matrix, expected_matrix, atol=1e-5)


@pytest.mark.parametrize("emphasis", [0.1, 1.0])
def test_emphasis_is_a_power_of_the_covariance_of_creators(emphasis):
    rows, creator, _ = planted()
    mean, plain = fitted(rows, creator)
    whitened = (rows - mean) @ plain
    means = np.stack([whitened[creator == c].mean(axis=0) for c in np.unique(creator)])
    between = np.cov(means.T, bias=True)
    dim = len(between)
    values, vectors = np.linalg.eigh(between + np.trace(between) / dim * np.eye(dim))
    expected = whitened @ vectors @ np.diag(values**emphasis) @ vectors.T
    _, found = fitted(rows, creator, emphasis=emphasis)
    np.testing.assert_allclose(cosines((rows - mean) @ found), cosines(expected), atol=1e-3)
    assert np.abs(cosines(expected) - cosines(whitened)).max() > 0.01


def test_creators_of_different_sizes_and_with_one_image_match_the_formula():
    rows, creator, _ = planted(creators=20)
    kept = np.random.default_rng(1).random(len(rows)) < 0.5
    kept[creator == 3] = False
    kept[np.flatnonzero(creator == 3)[0]] = True  # creator 3 has one image
    kept[creator == 5] = False  # creator 5 has none
    rows, creator = rows[kept], creator[kept]
    _, matrix = fitted(rows, creator)
    np.testing.assert_allclose(matrix, by_definition(rows, creator, 1.0)[1], atol=1e-5)


def test_planted_covariance_is_whitened():
    rows, creator, covariance = planted(creators=800)
    mean, matrix = fitted(rows, creator, ridge=0.0)
    after = within_covariance((rows - mean) @ matrix, creator)
    assert np.linalg.cond(covariance) > 50
    np.testing.assert_allclose(after / np.trace(after) * len(after), np.eye(len(after)), atol=1e-3)
    # And not only the covariance of this sample: that of the noise itself is nearly spherical.
    spread = np.linalg.eigvalsh(matrix.T @ covariance @ matrix)
    assert spread.max() / spread.min() < 1.3


def test_the_ridge_pulls_towards_the_identity():
    rows, creator, _ = planted()
    conditions = [np.linalg.cond(fitted(rows, creator, ridge=r)[1]) for r in (0.0, 1.0, 100.0)]
    assert conditions[0] > conditions[1] > conditions[2]
    assert conditions[2] < 1.1


def test_whitened_rows_have_mean_squared_length_one():
    rows, creator, _ = planted()
    for keep in (None, 5):
        mean, matrix = fitted(rows, creator, keep=keep)
        assert np.mean(np.sum(((rows - mean) @ matrix) ** 2, axis=1)) == pytest.approx(1, abs=1e-5)


def test_keep_takes_the_principal_components():
    rows, creator, _ = planted()
    mean, full = by_definition(rows, creator, 1.0)
    whitened = (rows - mean) @ full
    top = np.linalg.svd(whitened, full_matrices=False)[2][:4]
    expected = whitened @ top.T @ top  # what four components leave
    found_mean, matrix = fitted(rows, creator, keep=4)
    assert matrix.shape == (12, 4)
    # A rotation and one scale are free: compare what they leave alone.
    np.testing.assert_allclose(cosines((rows - found_mean) @ matrix), cosines(expected), atol=1e-4)


def test_keep_nearly_preserves_cosines_when_little_is_dropped():
    generator = np.random.default_rng(2)
    themes = generator.normal(size=(40, 1, 6)) * 3
    rows = np.zeros((40, 5, 20))
    rows[:, :, :6] = themes + generator.normal(size=(40, 5, 6))
    rows += 0.02 * generator.normal(size=rows.shape)  # fourteen directions that carry little
    rows = rows.reshape(-1, 20).astype(np.float32)
    creator = np.repeat(np.arange(40), 5)
    mean, full = fitted(rows, creator)
    _, reduced = fitted(rows, creator, keep=6)
    whole, less = cosines((rows - mean) @ full), cosines((rows - mean) @ reduced)
    assert np.abs(whole - less).max() < 0.01
    # Keeping too few does show.
    _, few = fitted(rows, creator, keep=2)
    assert np.abs(whole - cosines((rows - mean) @ few)).max() > 0.3


def test_keep_of_all_or_more_changes_nothing():
    rows, creator, _ = planted()
    for keep in (12, 13, 500):
        np.testing.assert_array_equal(fitted(rows, creator, keep=keep)[1], fitted(rows, creator)[1])


def test_row_order_does_not_matter():
    rows, creator, _ = planted()
    order = np.random.default_rng(3).permutation(len(rows))
    mean, matrix = fitted(rows, creator)
    shuffled_mean, shuffled_matrix = fitted(rows[order], creator[order])
    np.testing.assert_allclose(shuffled_mean, mean, atol=1e-6)
    np.testing.assert_allclose(shuffled_matrix, matrix, atol=1e-5)


@pytest.mark.parametrize("copies", [1, 2, 3, 7, 10])
def test_creators_without_two_different_images_are_refused(copies):
    unit = np.random.default_rng(4).normal(size=(30, 16))
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    rows = np.repeat(unit.astype(np.float32), copies, axis=0)
    with pytest.raises(ValueError, match="no creator has two different images"):
        fitted(rows, np.repeat(np.arange(30), copies))


def test_one_creator_with_two_different_images_is_enough():
    rows = np.eye(4, dtype=np.float32)[[0, 1, 2]]
    _, matrix = fitted(rows, np.array([0, 0, 1]))
    assert np.isfinite(matrix).all()
    np.testing.assert_allclose(matrix, by_definition(rows, np.array([0, 0, 1]), 1.0)[1], atol=1e-5)
