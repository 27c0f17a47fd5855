"""From content to collaborative vectors: CB2CF, Barkan et al., RecSys 2019 (arXiv:1611.00384).

A network learns, on the creators whom brands have worked with, to say the collaborative vector from
the content vector; so that a creator without history gets one.
"""

import logging
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from motif.recommend.bpr import Collaborative
from motif.recommend.scorers import Products

log = logging.getLogger(__name__)

_EVERY_EPOCHS = 50


@dataclass(frozen=True, kw_only=True)
class NetworkSettings:
    """How the network learns."""

    hidden_dim: int = 256
    dropout: float = 0.3
    epochs: int = 300
    patience: int = 20
    """Epochs without a better validation, after which it ends."""
    batch: int = 512
    learning_rate: float = 1e-3
    weight_decay: float = 1e-2
    validation_fraction: float = 0.1
    seed: int = 0


def predict(
    content: Float[np.ndarray, "creators dim"],
    collaborative: Collaborative,
    known: Int[np.ndarray, " known"],
    settings: NetworkSettings,
) -> Products:
    """Learn the map on known creators, and return scores by dot product with every creator's.

    Args:
        content: Unit rows of all creators.
        collaborative: Of all brands and creators.
        known: Creators whom somebody has worked with.
        settings: Of the network.
    """
    torch.manual_seed(settings.seed)
    order = torch.from_numpy(np.random.default_rng(settings.seed).permutation(known))
    inputs = torch.from_numpy(content)
    inputs = inputs * inputs.shape[1] ** 0.5  # each of variance 1, about
    targets = torch.from_numpy(collaborative.creators).float()
    scale = targets[order].std().clamp_min(1e-12)
    held_out = max(1, round(settings.validation_fraction * len(order))) if len(order) > 1 else 0
    validation, training = order[:held_out], order[held_out:]
    network = _network(inputs.shape[1], targets.shape[1], settings)
    _learn(network, inputs, targets / scale, training, validation, settings)
    with torch.no_grad():
        found = torch.cat([network(part) for part in inputs.split(8192)]) * scale
    return Products(torch.from_numpy(collaborative.brands).float(), found)


def _network(inputs: int, outputs: int, settings: NetworkSettings) -> nn.Module:
    width = settings.hidden_dim
    return nn.Sequential(
        nn.Linear(inputs, width),
        nn.GELU(),
        nn.Dropout(settings.dropout),
        nn.Linear(width, width),
        nn.GELU(),
        nn.Dropout(settings.dropout),
        nn.Linear(width, outputs),
    )


def _learn(
    network: nn.Module,
    inputs: Float[Tensor, "creators dim"],
    targets: Float[Tensor, "creators outputs"],
    training: Int[Tensor, " training"],
    validation: Int[Tensor, " validation"],
    settings: NetworkSettings,
) -> None:
    """Minimise the squared error; keep the weights that are best on the validation creators."""
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
    )
    best, kept, since = float("inf"), None, 0
    for epoch in range(settings.epochs):
        network.train()
        for part in training[torch.randperm(len(training))].split(settings.batch):
            loss = nn.functional.mse_loss(network(inputs[part]), targets[part])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        if not len(validation):
            continue
        network.eval()
        with torch.no_grad():
            error = float(nn.functional.mse_loss(network(inputs[validation]), targets[validation]))
        if epoch % _EVERY_EPOCHS == 0:
            log.info("network: epoch %d, validation error %.4f (1: says nothing)", epoch, error)
        if error < best:
            best, since = error, 0
            kept = {name: value.clone() for name, value in network.state_dict().items()}
        elif (since := since + 1) >= settings.patience:
            break
    if kept is not None:
        network.load_state_dict(kept)
    network.eval()
