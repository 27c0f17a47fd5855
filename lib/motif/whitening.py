"""Within-creator whitening: the closed-form map that SAME starts from and must beat.

Directions in which one creator's images differ from each other (their objects, mostly) are
shrunk; directions in which they agree are kept. This is the within-class covariance
normalisation of Hatch et al. 2006 (Interspeech, section 3), with a ridge.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

# In repeated two-fold cross-validation over 163 WikiArt artists (benchmarks/quality.py), the
# embedding does best with .1, the stage means with 1; training chooses by validation creators.
RIDGES = (0.1, 0.3, 1.0, 3.0)
RIDGE = 1.0
# Found by the same cross-validation: .01 more in hit rate at 1 for single images, for both inputs.
EMPHASIS = 0.1


@dataclass(frozen=True)
class Whitening:
    """x -> (x - mean) @ matrix."""

    mean: Float[Tensor, " dim"]
    matrix: Float[Tensor, "dim kept"]


@dataclass(frozen=True)
class Moments:
    """What a whitening is fitted to: sums over images, so that sets can be added up."""

    images: int
    creators: int
    total: Float[Tensor, " dim"]
    """Sum of the rows."""
    between: Float[Tensor, "dim dim"]
    """Sum over creators of images x mean x mean', about the origin."""
    within: Float[Tensor, "dim dim"]
    """Sum over images of what they differ from their creator's mean by, squared."""

    def __add__(self, other: "Moments") -> "Moments":
        """Return the moments of both sets; no creator may be in both."""
        return Moments(
            self.images + other.images,
            self.creators + other.creators,
            self.total + other.total,
            self.between + other.between,
            self.within + other.within,
        )


def moments(rows: Float[Tensor, "images dim"], creator: Int[Tensor, " images"]) -> Moments:
    """Return the moments of the images of whole creators, in float64.

    Args:
        rows: Unit rows, or rows of any one scale.
        creator: Creator index of each row, from 0; creators with one image add nothing to
            `within`.
    """
    rows = rows.double()
    counts = torch.bincount(creator).double()
    sums = torch.zeros(len(counts), rows.shape[1], dtype=torch.float64, device=rows.device)
    sums.index_add_(0, creator, rows)
    means = sums / counts.clamp(min=1)[:, None]
    residual = rows - means[creator]
    return Moments(
        images=len(rows),
        creators=int((counts > 0).sum()),
        total=sums.sum(dim=0).cpu(),
        between=(sums.T @ means).cpu(),
        within=(residual.T @ residual).cpu(),
    )


def fit(
    embeddings: Float[Tensor, "images dim"],
    creator: Int[Tensor, " images"],
    *,
    keep: int | None = None,
    ridge: float = RIDGE,
    emphasis: float = EMPHASIS,
) -> Whitening:
    """Fit the whitening to images in memory; see `fit_moments`."""
    return fit_moments(moments(embeddings, creator), keep=keep, ridge=ridge, emphasis=emphasis)


def fit_moments(
    found: Moments,
    *,
    keep: int | None = None,
    ridge: float = RIDGE,
    emphasis: float = EMPHASIS,
) -> Whitening:
    """Fit W = (Sw + ridge * tr(Sw) / dim * I)^(-1/2), Sw the pooled within-creator covariance.

    W is followed by (B + tr(B) / dim * I)^emphasis, B = W Sb W and Sb the covariance of creators'
    means: directions in which creators differ count a little more. At 1 it would be a linear
    discriminant analysis, which with few creators takes chance for a difference.

    Args:
        found: Of the images to learn from.
        keep: Keep this many principal components of the whitened rows; None keeps all.
        ridge: Strength of the pull towards the identity, in multiples of the mean variance.
        emphasis: In [0, 1]; 0 for the plain whitening.

    Returns:
        The map, scaled so that whitened rows have mean squared length 1.

    Raises:
        ValueError: No creator has two different images.
    """
    mean = found.total / found.images
    within = found.within / max(found.images - found.creators, 1)
    dim = len(within)
    variance = within.trace() / dim
    # Copies leave rounding errors, which are no variance.
    if not variance > 1e-18 * found.between.trace() / found.images:
        raise ValueError("no creator has two different images")
    values, basis = torch.linalg.eigh(within + ridge * variance * torch.eye(dim).double())
    matrix = basis @ torch.diag(values.rsqrt()) @ basis.T
    between = matrix @ (found.between / found.images - torch.outer(mean, mean)) @ matrix
    values, basis = torch.linalg.eigh(between + between.trace() / dim * torch.eye(dim).double())
    # Rounding may leave a value below zero where all creators have one mean.
    matrix = matrix @ basis @ torch.diag(values.clamp(min=0) ** emphasis) @ basis.T
    covariance = (found.between + found.within) / found.images - torch.outer(mean, mean)
    if keep is not None and keep < dim:
        # eigh sorts upwards: the last columns are the principal ones.
        matrix = matrix @ torch.linalg.eigh(matrix.T @ covariance @ matrix)[1][:, -keep:]
    matrix /= (matrix.T @ covariance @ matrix).trace().sqrt()
    return Whitening(mean.float(), matrix.float())
