"""The SAME network: image embedding -> theme embedding."""

import itertools

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

    def forward(
        self, embeddings: Float[Tensor, "batch dim"], masks: None = None
    ) -> Float[Tensor, "batch same"]:
        """Return unit rows; there is no dropout to mask."""
        return functional.normalize((embeddings - self.mean) @ self.matrix, dim=-1)


class SameNetwork(nn.Module):
    """SAME (Duanis et al. 2023, section 3.1): an MLP with three hidden layers, Siamese by use.

    Two additions keep it from memorising few creators: its input is whitened within creators, and
    it learns a residual on that input, which starts at zero. Before training it *is* the whitening.
    """

    def __init__(self, whitening: Whitening, *, hidden_dim: int = 512) -> None:
        """Start as the whitening.

        Args:
            whitening: Fitted on training creators; frozen.
            hidden_dim: Width of the hidden layers.
        """
        super().__init__()
        self.whitened = WhitenedEmbedding(whitening)
        dim = whitening.matrix.shape[1]
        self.hidden = nn.ModuleList(
            nn.Sequential(
                nn.Linear(hidden_dim if layer else dim, hidden_dim),
                nn.LayerNorm(hidden_dim),
                nn.GELU(),
            )
            for layer in range(HIDDEN_LAYERS)
        )
        self.last = nn.Linear(hidden_dim, dim)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)
        # What dropout acts on: the whitened input, and each hidden layer's output.
        self.dropout_widths = [dim] + [hidden_dim] * HIDDEN_LAYERS

    def forward(
        self,
        embeddings: Float[Tensor, "batch dim"],
        masks: Float[Tensor, "batch widths"] | None = None,
    ) -> Float[Tensor, "batch same"]:
        """Return unit rows.

        Args:
            embeddings: Unit rows.
            masks: Dropout, drawn by the caller so that it depends on the image's place in the
                batch alone: factors for the `dropout_widths`, side by side. None for no dropout.
        """
        base = self.whitened(embeddings)
        kept = [None] * len(self.dropout_widths)
        if masks is not None:
            kept = masks.split(self.dropout_widths, dim=1)
        rows = base if kept[0] is None else base * kept[0]
        for layer, mask in zip(self.hidden, kept[1:], strict=True):
            rows = layer(rows) if mask is None else layer(rows) * mask
        return functional.normalize(base + self.last(rows), dim=-1)


class PaperNetwork(nn.Module):
    """SAME as the paper has it: an MLP with three hidden layers on the embedding, nothing else."""

    def __init__(self, whitening: Whitening, *, hidden_dim: int = 512) -> None:
        """Start at random.

        Args:
            whitening: Not used but kept, for comparison; gives the lengths of input and output.
            hidden_dim: Width of the hidden layers.
        """
        super().__init__()
        self.whitened = WhitenedEmbedding(whitening)
        input_dim, dim = whitening.matrix.shape
        widths = [input_dim] + [hidden_dim] * HIDDEN_LAYERS
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(widths):
            layers += [nn.Linear(before, after), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Linear(hidden_dim, dim))
        self.dropout_widths: list[int] = []

    def forward(
        self, embeddings: Float[Tensor, "batch dim"], masks: None = None
    ) -> Float[Tensor, "batch same"]:
        """Return unit rows; there is no dropout to mask."""
        return functional.normalize(self.layers(embeddings), dim=-1)


def creator_vectors(
    model: nn.Module,
    embeddings: Float[Tensor, "sets images dim"],
    masks: Float[Tensor, "rows widths"] | None = None,
) -> Float[Tensor, "sets same"]:
    """Return the unit vector of each set of images: the direction of their outputs' mean."""
    outputs = model(embeddings.flatten(0, 1), masks).unflatten(0, embeddings.shape[:2])
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
