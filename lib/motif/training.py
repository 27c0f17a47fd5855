"""The training loop, apart from where it runs."""

import copy
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from motif import metrics
from motif.errors import InputError
from motif.gather import gather_rows, of_leader, total, world
from motif.losses import triplet_hinges
from motif.model import SameNetwork, WhitenedEmbedding, creator_vectors, embed
from motif.triplets import CreatorImages, sample_batch
from motif.whitening import Whitening, fit

log = logging.getLogger(__name__)

VALIDATION_SIZES = (1, 3, 5)
VALIDATION_DRAWS = 10


@dataclass(frozen=True, kw_only=True)
class Hyperparameters:
    """What a training run can be told; the defaults are from cross-validation on WikiArt."""

    dim: int = 256
    """Length of SAME vectors; at most the length of the input."""
    hidden_dim: int = 512
    dropout: float = 0.5
    margin: float = 0.2
    """Required gap between positives and negatives, in cosine."""
    learning_rate: float = 1e-4
    weight_decay: float = 0.05
    creators_per_batch: int = 64
    set_sizes: tuple[int, ...] = (1, 2, 4)
    """A batch compares sets of this many images, as creators are compared in use."""
    steps: int = 2000
    """At most; training stops earlier when validation has stopped to improve."""
    validate_every: int = 20
    patience: int = 5
    """Validations without improvement after which training stops."""
    averaging: float = 0.95
    """Decay, per step, of the moving average of the weights that is validated and kept."""
    seed: int = 0

    def check(self) -> None:
        """Refuse values that make no sense.

        Raises:
            InputError: Names the flag and the value.
        """
        for name in ("dim", "hidden_dim", "steps", "validate_every", "patience"):
            if getattr(self, name) < 1:
                raise InputError(f"--{name.replace('_', '-')} {getattr(self, name)}: at least 1")
        if not 0 < self.margin <= 2:
            raise InputError(f"--margin {self.margin}: expected a cosine gap in (0, 2]")
        if not 0 <= self.dropout < 1:
            raise InputError(f"--dropout {self.dropout}: expected [0, 1)")
        if not self.learning_rate > 0:
            raise InputError(f"--learning-rate {self.learning_rate}: expected more than 0")
        if self.creators_per_batch < 2:
            raise InputError(f"--creators-per-batch {self.creators_per_batch}: at least 2")
        if not self.set_sizes or min(self.set_sizes) < 1:
            raise InputError(f"--set-sizes {self.set_sizes}: expected numbers from 1")
        if not 0 <= self.averaging < 1:
            raise InputError(f"--averaging {self.averaging}: expected [0, 1)")
        if not self.weight_decay >= 0:
            raise InputError(f"--weight-decay {self.weight_decay}: expected 0 or more")
        if self.seed < 0:
            raise InputError(f"--seed {self.seed}: expected 0 or more")


@dataclass
class Outcome:
    """A trained model and why it is what it is."""

    model: nn.Module
    """A `SameNetwork`, or a `WhitenedEmbedding` where the network was no better."""
    architecture: str
    reason: str
    validation: dict[str, float]
    curve: list[dict[str, float]] = field(default_factory=list)


def train(
    inputs: Float[Tensor, "images dim"],
    creator: Int[np.ndarray, " images"],
    training: Int[np.ndarray, " train"],
    validation: Int[np.ndarray, " validation"],
    hyper: Hyperparameters,
    *,
    wrap: Callable[[nn.Module], nn.Module] = lambda model: model,
    report: Callable[[dict[str, float]], None] = lambda row: None,
) -> Outcome:
    """Fit SAME to the training creators and stop by the validation creators.

    Under torch.distributed, every worker calls this with the same data; each embeds its share of
    a batch, and negatives come from all workers.

    Args:
        inputs: One row per image.
        creator: Creator index of each row.
        training: Creator indices to learn from.
        validation: Creator indices to stop by; may be empty.
        hyper: Hyperparameters.
        wrap: Prepares the model for distribution.
        report: Called with each row of the curve.

    Returns:
        The network, or the whitening where the network is no better than it on validation
        creators by more than one standard error.

    Raises:
        InputError: Fewer than two training creators with two images, or rows that are not finite.
    """
    _require_finite(inputs)
    rows = np.flatnonzero(np.isin(creator, training))
    images = CreatorImages.group(np.where(np.isin(creator, training), creator, -1)[rows], 2)
    images = CreatorImages(rows[images.rows], images.offsets)
    if len(images) < 2:
        raise InputError(
            f"training needs at least two creators with two images each, found {len(images)} among"
            f" {len(training)} training creators; encode more images or hold out fewer creators"
        )
    torch.manual_seed(hyper.seed)
    try:
        whitening = fit(
            inputs[rows],
            torch.from_numpy(np.unique(creator[rows], return_inverse=True)[1]),
            keep=hyper.dim,
        )
    except ValueError as error:
        raise InputError(f"SAME cannot be fitted: {error}") from error
    base = WhitenedEmbedding(whitening)
    network = SameNetwork(whitening, hidden_dim=hyper.hidden_dim, dropout=hyper.dropout)
    judge = _Judge(inputs, creator, validation, hyper.seed)
    if not judge.usable:
        return Outcome(
            base,
            "whitening",
            f"only {judge.creators} of {len(validation)} validation creators have two images, too"
            " few to tell whether a network is better than the whitening",
            {},
        )
    best, curve = _descend(wrap(network), network, images, inputs, judge, hyper, report)
    plain = plain_mean(inputs.shape[1])
    scores = {
        "mean": judge.scores(plain),
        "whitening": judge.scores(base),
        "same": judge.scores(best),
    }
    gain = scores["same"] - scores["whitening"]
    error = float(gain.std(ddof=1) / np.sqrt(len(gain)))
    measured = {
        "creators": len(gain),
        "mrr_mean": float(scores["mean"].mean()),
        "mrr_whitening": float(scores["whitening"].mean()),
        "mrr_same": float(scores["same"].mean()),
        "gain": float(gain.mean()),
        "gain_standard_error": error,
    }
    told = f"validation MRR {measured['mrr_same']:.3f} against {measured['mrr_whitening']:.3f}"
    told += f" of the whitening (gain {gain.mean():+.3f}, standard error {error:.3f})"
    if gain.mean() > error and measured["mrr_same"] >= measured["mrr_mean"]:
        return Outcome(best, "same", told, measured, curve)
    loss = scores["mean"] - scores["whitening"]
    if loss.mean() > 2 * loss.std(ddof=1) / np.sqrt(len(loss)):
        told = f"validation MRR {measured['mrr_mean']:.3f} of the plain mean is better than {told}"
        return Outcome(plain, "mean", told, measured, curve)
    return Outcome(base, "whitening", f"the network is no better: {told}", measured, curve)


def plain_mean(dim: int) -> WhitenedEmbedding:
    """Return the map that changes nothing: a creator is the mean of their unit embeddings."""
    return WhitenedEmbedding(Whitening(torch.zeros(dim), torch.eye(dim)))


def _descend(
    wrapped: nn.Module,
    network: SameNetwork,
    images: CreatorImages,
    inputs: Tensor,
    judge: "_Judge",
    hyper: Hyperparameters,
    report: Callable[[dict[str, float]], None],
) -> tuple[SameNetwork, list[dict[str, float]]]:
    rank, workers = world()
    per_worker = min(hyper.creators_per_batch, len(images)) // workers
    if per_worker < 1:
        raise InputError(
            f"{workers} workers for batches of {min(hyper.creators_per_batch, len(images))}"
            " creators: use fewer workers"
        )
    optimizer = torch.optim.AdamW(
        network.residual.parameters(), lr=hyper.learning_rate, weight_decay=hyper.weight_decay
    )
    average = copy.deepcopy(network).eval()
    device = next(network.parameters()).device
    best, best_score, best_step = copy.deepcopy(average), of_leader(judge.score(average), device), 0
    curve: list[dict[str, float]] = []
    start = time.perf_counter()
    for step in range(1, hyper.steps + 1):
        batch = sample_batch(
            images,
            creators=per_worker * workers,
            set_sizes=hyper.set_sizes,
            seed=hyper.seed,
            step=step,
        )
        mine = batch[rank * per_worker : (rank + 1) * per_worker]
        wrapped.train()
        vectors = creator_vectors(
            wrapped, inputs[torch.from_numpy(mine).flatten(0, 1)].to(device)
        ).unflatten(0, (per_worker, 2))
        own, active = triplet_hinges(
            vectors, gather_rows(vectors), first=rank * per_worker, margin=hyper.margin
        )
        loss = own / total(active).clamp(min=1)  # over the workers, these add up to the loss
        optimizer.zero_grad(set_to_none=True)
        (loss * workers).backward()  # DDP averages gradients
        optimizer.step()
        with torch.no_grad():
            for kept, new in zip(average.parameters(), network.parameters(), strict=True):
                kept.lerp_(new, 1 - hyper.averaging)
        if step % hyper.validate_every and step != hyper.steps:
            continue
        score = of_leader(judge.score(average), device)
        row = {
            "step": step,
            "loss": total(loss).item(),
            "validation_mrr": score,
            "steps_per_second": step / (time.perf_counter() - start),
        }
        curve.append(row)
        report(row)
        if score > best_score:
            best, best_score, best_step = copy.deepcopy(average), score, step
        elif step - best_step >= hyper.patience * hyper.validate_every:
            break
    return best, curve


class _Judge:
    """Scores models on the same draws of the same validation creators."""

    def __init__(
        self, inputs: Tensor, creator: np.ndarray, validation: np.ndarray, seed: int
    ) -> None:
        own = np.flatnonzero(np.isin(creator, validation))
        generator = np.random.default_rng(seed)
        self._inputs = inputs[own]
        self._halves = []
        groups = CreatorImages.group(creator[own])
        sizes = np.diff(groups.offsets)
        # Only creators that can take part at every size, so that gains are paired by creator.
        enough = np.flatnonzero(sizes >= 2)
        self.creators = len(enough)
        self.usable = self.creators >= 3
        for size in VALIDATION_SIZES if self.usable else ():
            for _ in range(VALIDATION_DRAWS):
                halves = []
                for index in enough:
                    rows = groups.rows[groups.offsets[index] : groups.offsets[index + 1]]
                    drawn = generator.permutation(rows)
                    half = min(size, len(drawn) // 2)
                    halves.append((drawn[:half], drawn[half : 2 * half]))
                self._halves.append(halves)

    def scores(self, model: nn.Module) -> np.ndarray:
        """Return each validation creator's reciprocal rank, averaged over the draws."""
        device = next((p.device for p in model.parameters()), torch.device("cpu"))
        outputs = embed(model, self._inputs.to(device)).cpu().numpy()
        total = np.zeros(len(self._halves[0]))
        if not np.isfinite(outputs).all():
            return total  # a network that diverged finds nobody; NaN would win every comparison
        for halves in self._halves:
            sides = []
            for side in (0, 1):
                mean = np.stack([outputs[half[side]].mean(axis=0) for half in halves])
                lengths = np.linalg.norm(mean, axis=1, keepdims=True)
                sides.append(mean / np.where(lengths > 0, lengths, 1))
            total += 1 / metrics.twin_ranks(sides[0] @ sides[1].T)
        return total / len(self._halves)

    def score(self, model: nn.Module) -> float:
        """Return the mean reciprocal rank over validation creators."""
        return float(self.scores(model).mean())


def _require_finite(inputs: Float[Tensor, "images dim"]) -> None:
    lengths = inputs.norm(dim=1)
    bad = ~torch.isfinite(lengths) | (lengths == 0)
    if bad.any():
        raise InputError(
            f"{int(bad.sum())} of {len(inputs)} embeddings are zero or not finite (first: row"
            f" {int(bad.nonzero()[0])} in the order of creator_id, image_id); encode those again"
        )


def count_parameters(model: nn.Module) -> int:
    """Return the number of learned weights."""
    return sum(p.numel() for p in model.parameters())


def to_metrics(outcome: Outcome) -> dict[str, Any]:
    """Return what metrics.json of a checkpoint says."""
    return {
        "architecture": outcome.architecture,
        "reason": outcome.reason,
        "parameters": count_parameters(outcome.model),
        "validation": outcome.validation,
        "curve": outcome.curve,
    }
