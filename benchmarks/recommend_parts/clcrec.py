"""A small version of CLCRec (Wei et al., ACM MM 2021, arXiv:2107.05315), to compare with.

Ours, after the paper: users and known items have vectors, an encoder gives items one from their
content; two contrastive losses (InfoNCE) pull a user's vector to the items that they know, of
either kind, and an item's two vectors to each other. Cold items are ranked by the encoder's. It is
stopped by known items that are hidden from it for that.
"""

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from motif.recommend import cold_start
from motif.recommend.cold_start import Holdout
from motif.recommend.scorers import Products

DIM, HIDDEN, TEMPERATURE, MIXED, WEIGHT = 64, 256, 0.2, 0.5, 0.5
BATCH, EPOCHS, PATIENCE, EVERY, RATE = 512, 60, 4, 3, 2e-3


class Network(nn.Module):
    """Vectors of users and items, and the encoder."""

    def __init__(self, users: int, items: int, content: int) -> None:
        super().__init__()
        self.users = nn.Embedding(users, DIM)
        self.items = nn.Embedding(items, DIM)
        self.encoder = nn.Sequential(
            nn.Linear(content, HIDDEN), nn.LeakyReLU(), nn.Linear(HIDDEN, DIM)
        )
        nn.init.xavier_normal_(self.users.weight)
        nn.init.xavier_normal_(self.items.weight)


def fit(content: np.ndarray, holdout: Holdout, seed: int) -> Products:
    """Learn from a holdout's history; return scores of everybody."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    known = np.unique(holdout.history.indices)
    hidden = rng.choice(known, len(known) // 10, replace=False)
    inner = _inner(holdout, hidden)
    network = Network(*holdout.history.shape, content.shape[1])
    optimizer = torch.optim.Adam(network.parameters(), lr=RATE)
    rows = torch.from_numpy(content) * content.shape[1] ** 0.5
    pairs = inner.history.tocoo()
    users, items = (torch.from_numpy(axis.astype(np.int64)) for axis in pairs.coords)
    best, kept, since = -1.0, None, 0
    for epoch in range(EPOCHS):
        network.train()
        for part in torch.randperm(len(users)).split(BATCH):
            _step(network, optimizer, rows, users[part], items[part])
        if epoch % EVERY:
            continue
        found = _recall(_products(network, rows), inner)
        if found > best:
            best, since = found, 0
            kept = {name: value.clone() for name, value in network.state_dict().items()}
        elif (since := since + 1) >= PATIENCE:
            break
    network.load_state_dict(kept)
    return _products(network, rows)


def _step(network, optimizer, rows, users, items) -> None:
    """One batch; its other items are the negatives."""
    of_users = functional.normalize(network.users(users), dim=1)
    known = functional.normalize(network.items(items), dim=1)
    guessed = functional.normalize(network.encoder(rows[items]), dim=1)
    mixed = torch.where(torch.rand(len(items), 1) < MIXED, guessed, known)
    other = (items[:, None] == items[None, :]) & ~torch.eye(len(items), dtype=torch.bool)
    target = torch.arange(len(items))

    def contrast(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        logits = (left @ right.T / TEMPERATURE).masked_fill(other, -torch.inf)
        return functional.cross_entropy(logits, target)

    loss = (1 - WEIGHT) * contrast(of_users, mixed) + WEIGHT * contrast(known, guessed)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


@torch.no_grad()
def _products(network: Network, rows: torch.Tensor) -> Products:
    network.eval()
    return Products(
        functional.normalize(network.users.weight.detach(), dim=1),
        functional.normalize(network.encoder(rows), dim=1),
    )


def _inner(holdout: Holdout, hidden: np.ndarray) -> Holdout:
    """Hide some of the known items, to stop by."""
    of_hidden = np.isin(holdout.history.indices, hidden)
    history = cold_start.only(holdout.history, ~of_hidden)
    inner = cold_start.only(holdout.history, of_hidden)
    brands = np.flatnonzero((np.diff(history.indptr) > 0) & (np.diff(inner.indptr) > 0))
    return Holdout(
        history=history, hidden=inner, cold=np.sort(hidden), brands=brands, kind="to stop by"
    )


def _recall(scorer: Products, holdout: Holdout) -> float:
    return float(cold_start.measure(scorer, holdout, (20,))["recall"].mean())
