"""The SAME network: image embedding -> theme embedding."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from motif.whitening import Whitening

HIDDEN_LAYERS = 3


class WhitenedEmbedding(nn.Module):
    """The closed-form part: centre, whiten, scale to unit length."""

    mean: Tensor
    matrix: Tensor

    def __init__(self, whitening: Whitening) -> None:
        super().__init__()
        self.register_buffer("mean", whitening.mean)
        self.register_buffer("matrix", whitening.matrix)

    def forward(self, embeddings: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch same"]:
        """Return unit rows."""
        return functional.normalize((embeddings - self.mean) @ self.matrix, dim=-1)


class SameNetwork(nn.Module):
    """SAME (Duanis et al. 2023, section 3.1): an MLP with three hidden layers, Siamese by use.

    Two additions keep it from memorising few creators: its input is whitened within creators, and
    it learns a residual on that input, which starts at zero. Before training it *is* the whitening.
    """

    def __init__(
        self, whitening: Whitening, *, hidden_dim: int = 512, dropout: float = 0.5
    ) -> None:
        """Start as the whitening.

        Args:
            whitening: Fitted on training creators; frozen.
            hidden_dim: Width of the hidden layers.
            dropout: Of the whitened input and after each hidden layer, in [0, 1).
        """
        super().__init__()
        self.whitened = WhitenedEmbedding(whitening)
        dim = whitening.matrix.shape[1]
        layers: list[nn.Module] = [nn.Dropout(dropout)]
        for layer in range(HIDDEN_LAYERS):
            layers += [
                nn.Linear(hidden_dim if layer else dim, hidden_dim),
                nn.LayerNorm(hidden_dim),
                nn.GELU(),
                nn.Dropout(dropout),
            ]
        last = nn.Linear(hidden_dim, dim)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.residual = nn.Sequential(*layers, last)

    def forward(self, embeddings: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch same"]:
        """Return unit rows."""
        base = self.whitened(embeddings)
        return functional.normalize(base + self.residual(base), dim=-1)


def creator_vectors(
    model: nn.Module, embeddings: Float[Tensor, "sets images dim"]
) -> Float[Tensor, "sets same"]:
    """Return the unit vector of each set of images: the direction of their outputs' mean."""
    outputs = model(embeddings.flatten(0, 1)).unflatten(0, embeddings.shape[:2])
    return functional.normalize(outputs.mean(dim=1), dim=-1)


def as_inputs(rows: Float[Tensor, "images dim"]) -> Float[Tensor, "images dim"]:
    """Return rows at unit length, which `features` are not; zero rows stay zero."""
    return functional.normalize(rows.float(), dim=-1)


@torch.inference_mode()
def embed(
    model: nn.Module, embeddings: Float[Tensor, "images dim"], batch_size: int = 8192
) -> Float[Tensor, "images same"]:
    """Apply the model to many rows without dropout or gradients."""
    model.eval()
    return torch.cat([model(batch) for batch in embeddings.split(batch_size)])
