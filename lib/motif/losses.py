"""Metric-learning losses: pure torch, no Ray, no I/O, no randomness."""

import math
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor


def triplet_loss(
    vectors: Float[Tensor, "creators images dim"], *, margin: float = 0.2
) -> Float[Tensor, ""]:
    """Mean hinge over the active triplets of one batch.

    Every vector is an anchor, each other one of its creator a positive, every vector of another
    creator a negative: max(s(a, n) - s(a, p) + margin, 0), s the dot product of unit vectors
    (Duanis et al. 2023, equation 1, with the sign that it means). The mean is over the triplets
    that violate the margin, as in Hermans et al. 2017, section 3 (arXiv:1703.07737).

    Args:
        vectors: Unit rows, as many of each creator: of single images, or of sets of them.
        margin: Required gap, in cosine.

    Returns:
        Scalar >= 0; exactly 0, still differentiable, when no triplet violates the margin.

    Raises:
        ValueError: If `margin` is not in (0, 2].
    """
    total, active = triplet_hinges(vectors, vectors, first=0, margin=margin)
    return total / active.clamp(min=1)  # not .mean(): an empty mean is NaN


def triplet_hinges(
    anchors: Float[Tensor, "some images dim"],
    vectors: Float[Tensor, "creators images dim"],
    *,
    first: int,
    margin: float,
) -> tuple[Float[Tensor, ""], Int[Tensor, ""]]:
    """Return the sum of the hinges of some creators' anchors, and how many are active.

    Positives and negatives are of the whole batch, so that workers, with some of the creators
    each, can add up what they found and divide by the sum of the counts. Time is of the order of
    creators^2 x images^3, memory of creators^2 x images^2: triplets are never written down.

    Args:
        anchors: Unit rows; `vectors[first : first + some]`.
        vectors: Unit rows of the whole batch; gradients reach them, too.
        first: Place of the anchors' first creator in the batch.
        margin: Required gap, in cosine.

    Raises:
        ValueError: If `margin` is not in (0, 2].
    """
    if not 0 < margin <= 2:
        raise ValueError(f"margin must be in (0, 2], got {margin}")
    similarity = anchors.flatten(0, 1) @ vectors.flatten(0, 1).T
    total, active = _Hinges.apply(similarity, first, vectors.shape[1], margin)
    return total, active


class _Hinges(torch.autograd.Function):
    """The sum of the hinges; their gradient is found with them, since it is but a count."""

    @staticmethod
    def forward(
        ctx: Any, similarity: Tensor, first: int, images: int, margin: float
    ) -> tuple[Tensor, Tensor]:
        rows = torch.arange(len(similarity), device=similarity.device)
        # Columns of the anchor's own creator, the anchor's own first.
        turn = torch.arange(images, device=similarity.device)
        own = (rows // images + first)[:, None] * images + (rows[:, None] + turn) % images
        positives = similarity.gather(1, own)[:, 1:]
        negatives = similarity.scatter(1, own, -math.inf)
        gradient = torch.zeros_like(similarity)
        pulls = [similarity.new_zeros(len(similarity))]  # the anchor is not its own positive
        total = similarity.new_zeros(())
        for positive in positives.unbind(1):
            threshold = positive[:, None] - margin
            active = negatives > threshold
            counts = active.sum(1)
            total += (negatives - threshold).clamp(min=0).sum()
            gradient += active
            pulls.append(-counts.to(similarity.dtype))
        gradient.scatter_(1, own, torch.stack(pulls, dim=1))
        ctx.save_for_backward(gradient)
        count = -torch.stack(pulls).double().sum()
        active = count.round().long()
        ctx.mark_non_differentiable(active)
        return total, active

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * gradients[0], None, None, None
