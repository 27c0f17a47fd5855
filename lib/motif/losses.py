"""Metric-learning losses: pure torch, no Ray, no I/O, no randomness."""

import torch
from jaxtyping import Float
from torch import Tensor


def twin_triplet_loss(
    first: Float[Tensor, "creators dim"],
    second: Float[Tensor, "creators dim"],
    *,
    margin: float = 0.2,
) -> Float[Tensor, ""]:
    """Mean hinge over the active triplets of one batch of creators, two vectors each.

    Every vector is an anchor, its creator's other vector the positive, every vector of another
    creator a negative: max(s(a, n) - s(a, p) + margin, 0), s the dot product of unit vectors
    (Duanis et al. 2023, equation 1, with the sign that it means). The mean is over the triplets
    that violate the margin, as in Hermans et al. 2017, section 3 (arXiv:1703.07737).

    Args:
        first: Unit rows, one per creator.
        second: Unit rows of the same creators, from other images.
        margin: Required gap, in cosine.

    Returns:
        Scalar >= 0; exactly 0, still differentiable, when no triplet violates the margin.

    Raises:
        ValueError: If `margin` is not in (0, 2].
    """
    if not 0 < margin <= 2:
        raise ValueError(f"margin must be in (0, 2], got {margin}")
    creators = len(first)
    vectors = torch.cat([first, second])
    similarity = vectors @ vectors.T
    twin = torch.arange(2 * creators, device=vectors.device).roll(creators)
    positive = similarity.gather(1, twin[:, None])
    hinge = (similarity - positive + margin).clamp(min=0)
    eye = torch.eye(creators, dtype=torch.bool, device=vectors.device)
    hinge = hinge.masked_fill(eye.repeat(2, 2), 0)  # the anchor itself and its positive
    return hinge.sum() / (hinge > 0).sum().clamp(min=1)  # not .mean(): an empty mean is NaN
