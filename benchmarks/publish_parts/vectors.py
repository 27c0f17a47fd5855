"""Made-up creators whose vectors lie in space as real ones do, and the figures that say so.

Nearly isotropic vectors have no neighbours worth finding, and no index finds them. So the model is
fitted to the SAME vectors of 4,827 WikiArt paintings by 163 artists (lite encoder, `features`, the
256 principal components), at three sizes of a creator: one image, five, and all (12 to 40):

    image   = s x theme + noise
    theme   = sqrt(w) x centre of one of K styles + sqrt(1 - w) x own
    centres, own: Gaussian, variance of direction j proportional to (j + j0) ** -a
    noise:        Gaussian, proportional to (j + 5) ** -b, nearly isotropic
    s:            log-normal, since some creators keep to their theme more than others

What is compared is what an index lives by: how cosines spread, how near the nearest are, and the
intrinsic dimension, by TwoNN (Facco et al. 2017, Sci. Rep. 7:12140), by maximum likelihood
(Levina & Bickel 2004, NIPS) and as the participation ratio of the covariance's eigenvalues.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32

from motif.artefacts.checkpoint import Checkpoint
from motif.artefacts.embeddings import Embeddings
from motif.metrics import draw_halves
from motif.model import as_inputs, embed
from motif.schemas import matrix

DIM = 256
ARTISTS = 163
NEIGHBOURS = 10
ALL_IMAGES = 0
SIZES = (1, 5, ALL_IMAGES)

# Found by random search over 163 creators at a time.
STYLES = 41
STYLE_SHARE = 0.48
THEME_SHARE = 0.28
THEME_POWER, THEME_OFFSET = 1.41, 2.5
NOISE_POWER, NOISE_OFFSET = 0.15, 5.0
STEADINESS = 0.6
"""Standard deviation of log s."""

# Of the 163 artists at 256 dimensions: images of a creator -> figures; means of 5 draws.
REAL = {
    1: {
        "cosine_sd": 0.091, "cosine_p1": -0.173, "cosine_p99": 0.269, "nearest": 0.309,
        "nearest_sd": 0.073, "tenth": 0.156, "two_nn": 30.8, "levina_bickel": 26.4,
        "participation": 69.2,
    },
    5: {
        "cosine_sd": 0.137, "cosine_p1": -0.259, "cosine_p99": 0.400, "nearest": 0.397,
        "nearest_sd": 0.113, "tenth": 0.234, "two_nn": 24.6, "levina_bickel": 21.1,
        "participation": 40.1,
    },
    ALL_IMAGES: {
        "cosine_sd": 0.191, "cosine_p1": -0.354, "cosine_p99": 0.545, "nearest": 0.526,
        "nearest_sd": 0.134, "tenth": 0.327, "two_nn": 16.7, "levina_bickel": 13.6,
        "participation": 23.5,
    },
}  # fmt: skip


@dataclass(frozen=True)
class World:
    """Styles that creators are drawn from."""

    centres: Float32[np.ndarray, "styles dim"]
    weights: np.ndarray

    @classmethod
    def of(cls, seed: int) -> "World":
        """Draw one."""
        generator = np.random.default_rng(seed)
        return cls(
            generator.standard_normal((STYLES, DIM), np.float32)
            * _scale(THEME_POWER, THEME_OFFSET),
            generator.dirichlet(np.ones(STYLES)),
        )

    def creators(
        self, count: int, generator: np.random.Generator, *, images: int = ALL_IMAGES
    ) -> Float32[np.ndarray, "creators dim"]:
        """Draw unit vectors of creators of so many images; by default 12 to 40, as the artists."""
        style = generator.choice(STYLES, count, p=self.weights)
        own = generator.standard_normal((count, DIM), np.float32)
        own *= np.float32(np.sqrt(1 - STYLE_SHARE)) * _scale(THEME_POWER, THEME_OFFSET)
        rows = self.centres[style] * np.float32(np.sqrt(STYLE_SHARE)) + own
        steady = np.exp(STEADINESS * generator.standard_normal((count, 1), np.float32))
        rows *= np.float32(np.sqrt(THEME_SHARE)) * steady
        each = np.full(count, images) if images else generator.integers(12, 41, count)
        noise = generator.standard_normal((count, DIM), np.float32)
        noise *= np.float32(np.sqrt(1 - THEME_SHARE)) * _scale(NOISE_POWER, NOISE_OFFSET)
        rows += noise / np.sqrt(each, dtype=np.float32)[:, None]
        return unit(rows)


def _scale(power: float, offset: float) -> Float32[np.ndarray, " dim"]:
    variance = (np.arange(1, DIM + 1) + offset) ** -power
    return np.sqrt(variance / variance.sum()).astype(np.float32)


def unit(rows: np.ndarray) -> Float32[np.ndarray, "rows dim"]:
    """Return rows at unit length."""
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)


def figures(vectors: np.ndarray) -> dict[str, float]:
    """Return how a few unit vectors lie in space; cosines are between two different ones."""
    rows = vectors.astype(np.float64)
    cosine = rows @ rows.T
    pairs = cosine[np.triu_indices(len(rows), 1)]
    np.fill_diagonal(cosine, -np.inf)
    nearest = -np.sort(-cosine, axis=1)[:, :NEIGHBOURS]
    distance = np.sqrt(np.maximum(2 - 2 * nearest, 1e-12))
    values = np.linalg.eigvalsh(np.cov(rows.T))
    return {
        "cosine_sd": float(pairs.std()),
        "cosine_p1": float(np.percentile(pairs, 1)),
        "cosine_p99": float(np.percentile(pairs, 99)),
        "nearest": float(nearest[:, 0].mean()),
        "nearest_sd": float(nearest[:, 0].std()),
        "tenth": float(nearest[:, -1].mean()),
        "two_nn": float(len(rows) / np.log(distance[:, 1] / distance[:, 0]).sum()),
        "levina_bickel": float(1 / np.log(distance[:, -1:] / distance[:, :-1]).mean()),
        "participation": float(values.sum() ** 2 / (values**2).sum()),
    }


def made(*, draws: int = 10) -> dict[int, dict[str, float]]:
    """Return the figures of made-up creators, as many at a time as there are artists."""
    found = {}
    for size in SIZES:
        one = []
        for seed in range(draws):
            generator = np.random.default_rng(seed)
            one.append(figures(World.of(seed).creators(ARTISTS, generator, images=size)))
        found[size] = _mean(one)
    return found


def of_real(embeddings: str, model: str, *, draws: int = 5) -> dict[int, dict[str, float]]:
    """Return the figures of real creators: what `REAL` holds."""
    checkpoint, opened = Checkpoint.open(model), Embeddings.open(embeddings)
    rows = opened.read(["creator_id", checkpoint.config.input_column])
    inputs = as_inputs(torch.tensor(matrix(rows[checkpoint.config.input_column])))
    same = embed(checkpoint.model, inputs).numpy()
    # As train_same --dim 256 would keep.
    basis = np.linalg.svd(same - same.mean(axis=0), full_matrices=False)[2]
    same = unit(same @ basis[:DIM].T)
    ids = np.array(rows["creator_id"].to_pylist())
    order = np.argsort(ids, kind="stable")
    offsets = np.r_[np.flatnonzero(np.r_[True, ids[order][1:] != ids[order][:-1]]), len(ids)]
    generator = np.random.default_rng(0)
    found = {}
    for size in SIZES:
        if size == ALL_IMAGES:
            means = np.add.reduceat(same[order], offsets[:-1], axis=0)
            found[size] = figures(unit(means))
            continue
        draws_of = [draw_halves(offsets, size, generator)[:, 0] for _ in range(draws)]
        found[size] = _mean([figures(unit(same[order][d].mean(axis=1))) for d in draws_of])
    return found


def _mean(found: Sequence[dict[str, float]]) -> dict[str, float]:
    return {name: float(np.mean([one[name] for one in found])) for name in found[0]}
