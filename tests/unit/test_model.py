import pytest
import torch
from torch import nn
from torch.nn import functional

from motif.model import (
    HIDDEN_LAYERS,
    PaperNetwork,
    SameNetwork,
    WhitenedEmbedding,
    as_inputs,
    creator_vectors,
    embed,
)
from motif.whitening import Whitening

ROWS = torch.randn(50, 6, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def whitening() -> Whitening:
    generator = torch.Generator().manual_seed(1)
    return Whitening(torch.randn(6, generator=generator), torch.randn(6, 4, generator=generator))


@pytest.fixture
def network(whitening) -> SameNetwork:
    """A network whose residual does something."""
    torch.manual_seed(2)
    network = SameNetwork(whitening, hidden_dim=8)
    nn.init.normal_(network.last.weight)
    return network


def test_whitening_is_centre_multiply_normalise(whitening):
    found = WhitenedEmbedding(whitening)(ROWS)
    for row, vector in zip(ROWS, found, strict=True):
        expected = (row - whitening.mean) @ whitening.matrix
        torch.testing.assert_close(vector, expected / expected.square().sum().sqrt())


def test_before_training_the_network_is_the_whitening(whitening):
    torch.manual_seed(0)
    network = SameNetwork(whitening, hidden_dim=8)
    torch.testing.assert_close(embed(network, ROWS), WhitenedEmbedding(whitening)(ROWS))


def test_it_is_an_mlp_with_three_hidden_layers(network):
    linear = [layer for layer in network.modules() if isinstance(layer, nn.Linear)]
    assert HIDDEN_LAYERS == 3
    assert [(layer.in_features, layer.out_features) for layer in linear] == [
        *((4, 8), (8, 8), (8, 8)),
        (8, 4),
    ]


def test_all_of_the_network_but_the_whitening_learns(network):
    network.train()
    (network(ROWS) * torch.randn(50, 4)).sum().backward()
    names = {name for name, _ in network.named_parameters()}
    assert not any(name.startswith("whitened.") for name in names)
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())
    assert {"whitened.mean", "whitened.matrix"} <= set(network.state_dict())


def test_the_last_layer_learns_from_the_first_step(whitening):
    network = SameNetwork(whitening, hidden_dim=8)
    (network(ROWS) * torch.randn(50, 4)).sum().backward()
    assert network.last.weight.grad.abs().sum() > 0


def test_outputs_are_unit(network):
    lengths = embed(network, 100 * ROWS).norm(dim=1)
    torch.testing.assert_close(lengths, torch.ones(50))


def test_masks_multiply_the_input_and_every_hidden_layer(network):
    widths = network.dropout_widths
    assert widths == [4, 8, 8, 8]
    generator = torch.Generator().manual_seed(5)
    masks = 2.0 * (torch.rand(50, sum(widths), generator=generator) < 0.5)
    base = network.whitened(ROWS)
    rows = base * masks[:, :4]
    for layer in range(HIDDEN_LAYERS):
        rows = network.hidden[layer](rows) * masks[:, 4 + 8 * layer : 12 + 8 * layer]
    expected = functional.normalize(base + network.last(rows), dim=-1)
    torch.testing.assert_close(network(ROWS, masks), expected)
    assert not torch.allclose(network(ROWS, masks), network(ROWS))


def test_embed_needs_no_gradients(network):
    assert not embed(network, ROWS).requires_grad


def test_the_papers_network_is_an_mlp_on_the_raw_embedding(whitening):
    torch.manual_seed(0)
    network = PaperNetwork(whitening, hidden_dim=8)
    rows = ROWS
    linear = [layer for layer in network.modules() if isinstance(layer, nn.Linear)]
    assert len(linear) == HIDDEN_LAYERS + 1
    for layer in linear[:-1]:
        rows = (rows @ layer.weight.T + layer.bias).clamp(min=0)
    rows = rows @ linear[-1].weight.T + linear[-1].bias
    expected = rows / rows.norm(dim=1, keepdim=True)
    torch.testing.assert_close(embed(network, ROWS), expected)
    assert torch.equal(network.whitened.matrix, whitening.matrix)


@pytest.mark.parametrize("batch_size", [1, 7, 50, 51])
def test_embed_is_the_same_for_any_batch_size(network, batch_size):
    torch.testing.assert_close(embed(network, ROWS, batch_size), embed(network, ROWS))


def test_a_creator_is_the_direction_of_the_mean_of_its_images(whitening):
    model = WhitenedEmbedding(whitening)
    sets = ROWS[:48].unflatten(0, (12, 4))
    found = creator_vectors(model, sets)
    for i in range(12):
        mean = torch.stack([model(image[None])[0] for image in sets[i]]).mean(dim=0)
        torch.testing.assert_close(found[i], mean / mean.norm())


def test_inputs_are_brought_to_unit_length_and_zero_stays_zero():
    rows = torch.tensor([[3.0, 4.0], [0.0, 0.0], [0.0, -0.5]], dtype=torch.float64)
    expected = torch.tensor([[0.6, 0.8], [0.0, 0.0], [0.0, -1.0]])
    torch.testing.assert_close(as_inputs(rows), expected)
    torch.testing.assert_close(as_inputs(functional.normalize(ROWS)), functional.normalize(ROWS))
