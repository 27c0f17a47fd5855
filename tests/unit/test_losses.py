import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from motif.losses import twin_triplet_loss


def random_twins(seed: int, creators: int, dim: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    raw = torch.randn(2, creators, dim, generator=generator, dtype=torch.float64)
    first, second = functional.normalize(raw, dim=-1)
    return first, second


def by_definition(first: torch.Tensor, second: torch.Tensor, margin: float) -> torch.Tensor:
    """Mean of max(s(a, n) - s(a, p) + margin, 0) over the triplets where it is not zero."""
    sides = (first, second)
    active = []
    for i in range(len(first)):
        for side in (0, 1):
            anchor, positive = sides[side][i], sides[1 - side][i]
            for j in range(len(first)):
                if j == i:
                    continue
                for negative in (first[j], second[j]):
                    hinge = anchor @ negative - anchor @ positive + margin
                    if hinge > 0:
                        active.append(hinge)
    return torch.stack(active).mean() if active else first.new_zeros(())


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 2**16), creators=st.integers(1, 6), margin=st.floats(0.01, 2.0))
def test_matches_the_definition_written_as_loops(seed, creators, margin):
    first, second = random_twins(seed, creators)
    expected = by_definition(first, second, margin)
    found = twin_triplet_loss(first, second, margin=margin)
    assert found.item() == pytest.approx(expected.item(), abs=1e-9)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 2**16), creators=st.integers(2, 5), margin=st.floats(0.05, 1.0))
def test_gradient_is_that_of_the_loops(seed, creators, margin):
    first, second = random_twins(seed, creators)
    gradients = []
    for loss in (by_definition, lambda a, b, m: twin_triplet_loss(a, b, margin=m)):
        a, b = first.clone().requires_grad_(), second.clone().requires_grad_()
        value = loss(a, b, margin)
        if value.requires_grad:
            value.backward()
        gradients.append([torch.zeros_like(t) if t.grad is None else t.grad for t in (a, b)])
    torch.testing.assert_close(gradients[1], gradients[0])


def test_a_worked_example():
    # s(a, p) = 0.6 for the first creator and 1 for the second; they are at right angles.
    first = torch.tensor([[1.0, 0, 0, 0], [0, 0, 1.0, 0]])
    second = torch.tensor([[0.6, 0.8, 0, 0], [0, 0, 1.0, 0]])
    # The first creator's four triplets violate a margin of 0.7 by 0.1 each, the others do not.
    assert twin_triplet_loss(first, second, margin=0.7).item() == pytest.approx(0.1, abs=1e-6)


def test_positives_are_pulled_together_and_negatives_apart():
    first, second = random_twins(5, 4)
    first.requires_grad_()
    twin_triplet_loss(first, second, margin=2.0).backward()
    moved = first.detach() - 0.1 * first.grad
    for i in range(4):
        assert moved[i] @ second[i] > first.detach()[i] @ second[i]


def test_zero_and_differentiable_without_active_triplets():
    far = torch.eye(4, dtype=torch.float64)
    first, second = far.clone().requires_grad_(), far.clone().requires_grad_()
    loss = twin_triplet_loss(first, second, margin=0.5)
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(first.grad, torch.zeros(4, 4, dtype=torch.float64))
    assert torch.equal(second.grad, torch.zeros(4, 4, dtype=torch.float64))


def test_one_creator_has_no_negatives():
    first, second = random_twins(0, 1)
    first.requires_grad_()
    loss = twin_triplet_loss(first, second, margin=2.0)
    loss.backward()
    assert loss.item() == 0
    assert torch.isfinite(first.grad).all()


@pytest.mark.parametrize("margin", [0.0, -0.2, 2.1, float("nan"), float("inf")])
def test_bad_margins_are_refused(margin):
    first, second = random_twins(0, 3)
    with pytest.raises(ValueError, match=f"margin must be in .*got {margin}"):
        twin_triplet_loss(first, second, margin=margin)
