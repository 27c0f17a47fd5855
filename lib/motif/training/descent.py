"""Gradient descent on the triplet loss, with batches and dropout that workers share out."""

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import nn

from motif.artefacts.training_set import TrainingSet
from motif.errors import InputError
from motif.gather import bytes_of_leader, gather_rows, of_leader, total, world
from motif.losses import triplet_hinges
from motif.model import PaperNetwork, SameNetwork, creator_vectors
from motif.training.hyperparameters import Hyperparameters
from motif.training.judge import Judge
from motif.training.rows import Rows, stream
from motif.training.state import Keeper, State, optimizer_tensors, restore_optimizer
from motif.triplets import Batches, Share

Network = SameNetwork | PaperNetwork
SAVE_AT_MOST_EVERY_SECONDS = 10.0


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """What a descent is given by whoever runs it."""

    keeper: Keeper
    save_every_seconds: float
    """Also at the best validation so far, but not more often than every 10 s."""
    wrap: Callable[[nn.Module], nn.Module]
    """Prepares the network for distribution."""
    report: Callable[[dict[str, Any]], None]
    """Called by the first worker with each row of the curve."""
    device: torch.device


@dataclass
class Progress:
    """Where a descent stands, beside the weights."""

    step: int = 0
    best_step: int = 0
    best_score: float = -1.0
    curve: list[dict[str, float]] = field(default_factory=list)


def batches_of(data: TrainingSet, hyper: Hyperparameters) -> Batches:
    """Return the batches of a run."""
    return Batches(data.offsets, hyper.creators_per_batch, hyper.set_sizes, hyper.seed)


def descend(
    network: Network,
    data: TrainingSet,
    judge: Judge,
    hyper: Hyperparameters,
    around: Surroundings,
) -> tuple[Network, list[dict[str, float]]]:
    """Train until validation no longer improves; return the best average of weights, and a curve.

    Args:
        network: To be trained, in place.
        data: Creators to learn from.
        judge: Whom validation is left to; only the first worker's is asked.
        hyper: Hyperparameters.
        around: Of this process.

    Raises:
        InputError: There are more workers than slices of a batch.
    """
    rank, workers = world()
    batches = batches_of(data, hyper)
    if workers > batches.slices:
        raise InputError(
            f"{workers} workers for batches of {batches.width} creators, which are cut into"
            f" {batches.slices} slices: use fewer workers or larger batches"
        )
    share = batches.share(rank, workers)
    network.to(around.device)
    average, best = copy.deepcopy(network).eval(), copy.deepcopy(network)
    stepper = Stepper(network, around.wrap(network), batches, share, hyper)
    progress = Progress()
    # The first worker's alone: elsewhere the place may be another disk, with nothing on it.
    kept = bytes_of_leader(around.keeper.load() if rank == 0 else None, around.device)
    if kept and (start := State.from_bytes(kept)):
        for name, model in (("network", network), ("average", average), ("best", best)):
            model.load_state_dict(start.tensors[name])
        restore_optimizer(stepper.optimizer, start.tensors.get("optimizer", {}))
        progress = Progress(**start.told)
    elif rank == 0:
        progress.best_score = judge.scores(average).mrr
    rows = Rows(data.rows, around.device)
    saved = began = time.monotonic()
    begun_at = progress.step
    ended = torch.zeros((), device=around.device)
    stopped = progress.step - progress.best_step >= hyper.patience * hyper.validate_every
    steps = range(progress.step + 1, 1 if stopped else hyper.steps + 1)
    for step, batch in stream(rows, batches, share.slices, steps):
        loss, active = stepper.take(step, batch)
        with torch.no_grad():
            for kept, new in zip(average.parameters(), network.parameters(), strict=True):
                kept.lerp_(new, 1 - hyper.averaging)
        progress.step = step
        if step % hyper.validate_every and step != hyper.steps:
            continue
        loss, active = total(loss).item(), active.item()
        if rank == 0:
            scores = judge.scores(average)
            triplets = 4 * batches.width * (batches.width - 1)
            row = {
                "step": step,
                "loss": loss,
                "active_fraction": active / triplets,
                "validation_mrr": scores.mrr,
                "validation_hit_rate": scores.hit_rate,
                "workers": workers,
                "steps_per_second": (step - begun_at) / (time.monotonic() - began),
            }
            progress.curve.append(row)
            around.report(row)
            # Without anybody to judge by, the last average is as good as any.
            improved = not judge.usable or scores.mrr > progress.best_score
            if improved:
                best.load_state_dict(average.state_dict())
                progress.best_step, progress.best_score = step, scores.mrr
            waited = time.monotonic() - saved
            if waited >= around.save_every_seconds or (
                improved and waited >= SAVE_AT_MOST_EVERY_SECONDS
            ):
                tensors = {
                    name: model.state_dict()
                    for name, model in (("network", network), ("average", average), ("best", best))
                }
                tensors["optimizer"] = optimizer_tensors(stepper.optimizer)
                around.keeper.save(State(tensors, vars(progress)).to_bytes())
                saved = time.monotonic()
            stopped = step - progress.best_step >= hyper.patience * hyper.validate_every
            ended.fill_(stopped)
        if of_leader(ended).item():
            break
    return best, progress.curve


@dataclass
class Stepper:
    """Takes the steps of one worker."""

    network: Network
    wrapped: nn.Module
    """The network as prepared for distribution."""
    batches: Batches
    share: Share
    hyper: Hyperparameters

    def __post_init__(self) -> None:
        """Set up the optimizer."""
        learned = [p for p in self.network.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(
            learned,
            lr=self.hyper.learning_rate,
            weight_decay=self.hyper.weight_decay,
            fused=True,
        )

    def take(
        self, step: int, batch: Float[torch.Tensor, "creators 2 size dim"]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Take one step; return this worker's part of the loss, and all workers' active triplets.

        Args:
            step: Its number, which decides the dropout.
            batch: Of this worker's share: two sets of images of each creator.
        """
        creators, sides, size, _ = batch.shape
        masks = None
        if self.hyper.dropout and self.network.dropout_widths:
            masks = self.batches.dropout(
                step,
                self.share.slices,
                rows=sides * size,
                width=sum(self.network.dropout_widths),
                rate=self.hyper.dropout,
                device=batch.device,
            )
        self.wrapped.train()
        vectors = creator_vectors(self.wrapped, batch.flatten(0, 1), masks)
        vectors = vectors.unflatten(0, (creators, sides))
        own, active = triplet_hinges(
            vectors,
            gather_rows(vectors, self.share.counts),
            first=self.share.first,
            margin=self.hyper.margin,
        )
        active = total(active)
        loss = own / active.clamp(min=1)  # over the workers, these add up to the loss
        self.optimizer.zero_grad(set_to_none=True)
        (loss * len(self.share.counts)).backward()  # DDP averages gradients
        self.optimizer.step()
        return loss.detach(), active
