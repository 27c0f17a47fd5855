import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from motif.losses import triplet_hinges, triplet_loss


def random_vectors(seed: int, creators: int, images: int = 2, dim: int = 5) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    raw = torch.randn(creators, images, dim, generator=generator, dtype=torch.float64)
    return functional.normalize(raw, dim=-1)


def by_definition(vectors: torch.Tensor, margin: float) -> torch.Tensor:
    """Mean of max(s(a, n) - s(a, p) + margin, 0) over the triplets where it is not zero."""
    creators, images, _ = vectors.shape
    active = []
    for i in range(creators):
        for a in range(images):
            for p in set(range(images)) - {a}:
                for j in set(range(creators)) - {i}:
                    for negative in vectors[j]:
                        anchor, positive = vectors[i, a], vectors[i, p]
                        hinge = anchor @ negative - anchor @ positive + margin
                        if hinge > 0:
                            active.append(hinge)
    return torch.stack(active).mean() if active else vectors.new_zeros(())


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**16),
    creators=st.integers(1, 5),
    images=st.integers(1, 4),
    margin=st.floats(0.01, 2.0),
)
def test_loss_and_gradient_are_those_of_the_definition(seed, creators, images, margin):
    values, gradients = [], []
    for loss in (by_definition, lambda v, m: triplet_loss(v, margin=m)):
        vectors = random_vectors(seed, creators, images).requires_grad_()
        value = loss(vectors, margin)
        if value.requires_grad:
            value.backward()
        values.append(value.item())
        gradients.append(torch.zeros_like(vectors) if vectors.grad is None else vectors.grad)
    assert values[1] == pytest.approx(values[0], abs=1e-9)
    torch.testing.assert_close(gradients[1], gradients[0])


@pytest.mark.parametrize("cuts", [(0, 5), (0, 2, 5), (0, 1, 1, 4, 5)])
def test_workers_with_some_anchors_each_add_up_to_the_whole(cuts):
    whole = random_vectors(3, 5, images=3).requires_grad_()
    triplet_loss(whole, margin=0.5).backward()
    shared = random_vectors(3, 5, images=3).requires_grad_()
    parts = [
        triplet_hinges(shared[start:stop], shared, first=start, margin=0.5)
        for start, stop in itertools.pairwise(cuts)
    ]
    count = sum(active for _, active in parts)
    loss = sum(total for total, _ in parts) / count
    loss.backward()
    assert loss.item() == pytest.approx(triplet_loss(whole, margin=0.5).item())
    torch.testing.assert_close(shared.grad, whole.grad)


def test_a_worked_example():
    # s(a, p) = 0.6 for the first creator and 1 for the second; they are at right angles.
    vectors = torch.tensor([[[1.0, 0, 0], [0.6, 0.8, 0]], [[0, 0, 1.0], [0, 0, 1.0]]])
    # The first creator's four triplets violate a margin of 0.7 by 0.1 each, the others do not.
    assert triplet_loss(vectors, margin=0.7).item() == pytest.approx(0.1, abs=1e-6)


def test_positives_are_pulled_together_and_negatives_apart():
    vectors = random_vectors(5, 4).requires_grad_()
    triplet_loss(vectors, margin=2.0).backward()
    moved = vectors.detach() - 0.1 * vectors.grad
    for before, after in zip(vectors.detach(), moved, strict=True):
        assert after[0] @ after[1] > before[0] @ before[1]


def test_zero_and_differentiable_without_active_triplets():
    vectors = torch.eye(4, dtype=torch.float64)[:, None].repeat(1, 2, 1).requires_grad_()
    loss = triplet_loss(vectors, margin=0.5)
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(vectors.grad, torch.zeros_like(vectors))


@pytest.mark.parametrize(("creators", "images"), [(1, 2), (3, 1)])
def test_without_negatives_or_positives_there_is_nothing_to_learn(creators, images):
    vectors = random_vectors(0, creators, images).requires_grad_()
    loss = triplet_loss(vectors, margin=2.0)
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(vectors.grad, torch.zeros_like(vectors))


@pytest.mark.parametrize("margin", [0.0, -0.2, 2.1, float("nan"), float("inf")])
def test_bad_margins_are_refused(margin):
    with pytest.raises(ValueError, match=f"margin must be in .*got {margin}"):
        triplet_loss(random_vectors(0, 3), margin=margin)
