"""SAME from a training set: the whitening, the network, and which of them is kept."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import nn

from motif.artefacts.training_set import TrainingSet
from motif.errors import InputError
from motif.gather import of_leader, world
from motif.model import PaperNetwork, SameNetwork, WhitenedEmbedding
from motif.training.descent import Network, Surroundings, descend
from motif.training.hyperparameters import Hyperparameters
from motif.training.judge import Judge, Scores
from motif.training.state import Forgets, Keeper
from motif.whitening import RIDGE, RIDGES, Moments, Whitening, fit_moments, moments

SAVE_EVERY_SECONDS = 300.0
# A covariance of a thousand dimensions is known within a percent from so many images.
WHITENING_IMAGES = 1_000_000
_CHUNK_IMAGES = 16384
LEVEL = 0.003
"""Differences of MRR below it name no better ridge: the smallest is taken, since the whitening that
is kept is fitted to more creators."""
CLEAR = 2.0
"""Standard errors that a difference must exceed to be called one."""


@dataclass
class Outcome:
    """A trained model and why it is what it is."""

    model: nn.Module
    """A `SameNetwork` or `PaperNetwork`, or a `WhitenedEmbedding`."""
    architecture: str
    """`same`, `paper`, `whitening`, or `mean` for a `WhitenedEmbedding` that changes nothing."""
    reason: str
    validation: dict[str, Any]
    curve: list[dict[str, float]] = field(default_factory=list)


def train(
    data: TrainingSet,
    hyper: Hyperparameters,
    *,
    device: torch.device | None = None,
    wrap: Callable[[nn.Module], nn.Module] = lambda model: model,
    report: Callable[[dict[str, Any]], None] = lambda row: None,
    keeper: Keeper | None = None,
    save_every_seconds: float = SAVE_EVERY_SECONDS,
) -> Outcome | None:
    """Fit SAME to the training creators and choose by the validation creators.

    Under torch.distributed, every worker calls this with the same data; each embeds its share of
    a batch, negatives come from all workers, and the first worker alone validates and chooses.

    Args:
        data: Creators to learn from and to choose by.
        hyper: Hyperparameters.
        device: Where the network learns; None for the CPU.
        wrap: Prepares the network for distribution.
        report: Called by the first worker with each row of the curve.
        keeper: Where this can be taken up again; None for nowhere.
        save_every_seconds: How often it is kept, beside at the best validation.

    Returns:
        The network where it is better than the whitening on validation creators by more than two
        standard errors, else the whitening, fitted once more to both kinds of creators; None for
        all workers but the first.

    Raises:
        InputError: Fewer than two training creators with two images.
    """
    around = Surroundings(
        keeper=keeper or Forgets(),
        save_every_seconds=save_every_seconds,
        wrap=wrap,
        report=report,
        device=device or torch.device("cpu"),
    )
    if len(data.offsets) < 3:
        raise InputError(
            "training needs at least two creators with two images each, found"
            f" {len(data.offsets) - 1} among {data.counts.train_creators} training creators"
            f"{_lost(data)}; encode more images or hold out fewer creators"
        )
    judge = Judge(data, hyper.seed)
    leads = world()[0] == 0
    fitted = _Fitted.to(data, judge, hyper.dim) if leads else None
    base = WhitenedEmbedding(_agreed(fitted, data, hyper, around.device))
    if hyper.architecture == "whitening" or (hyper.architecture == "same" and not judge.usable):
        return _outcome(fitted, base, None, [], data, judge, hyper) if fitted else None
    torch.manual_seed(hyper.seed)
    whitening = Whitening(base.mean, base.matrix)
    network: Network
    if hyper.architecture == "paper":
        network = PaperNetwork(whitening, hidden_dim=hyper.hidden_dim)
    else:
        network = SameNetwork(whitening, hidden_dim=hyper.hidden_dim)
    best, curve = descend(network, data, judge, hyper, around)
    return _outcome(fitted, base, best.cpu(), curve, data, judge, hyper) if fitted else None


def plain_mean(dim: int) -> WhitenedEmbedding:
    """Return the map that changes nothing: a creator is the mean of their unit embeddings."""
    return WhitenedEmbedding(Whitening(torch.zeros(dim), torch.eye(dim)))


def _lost(data: TrainingSet) -> str:
    lost = data.counts.copies + data.counts.shared
    return f" ({lost} images are reposts, which teach nothing)" if lost else ""


# -- the whitening ------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Fitted:
    """A whitening, and what is needed to fit it once more to more creators."""

    whitening: Whitening | None
    """None where no creator has two different images."""
    ridge: float
    mrr_by_ridge: dict[str, float]
    training: Moments
    validation: Moments | None

    @classmethod
    def to(cls, data: TrainingSet, judge: Judge, dim: int) -> "_Fitted":
        """Fit to the training creators, with the ridge that validation creators like best."""
        training = _moments(data.rows, data.offsets)
        validation = None
        if len(data.validation):
            validation = _moments(data.validation, data.validation_offsets)
        try:
            maps = {ridge: fit_moments(training, keep=dim, ridge=ridge) for ridge in RIDGES}
        except ValueError:
            return cls(None, RIDGE, {}, training, validation)
        ridge, told = RIDGE, {}
        if judge.usable:
            told = {r: judge.scores(WhitenedEmbedding(maps[r])).mrr for r in RIDGES}
            ridge = min(r for r in RIDGES if told[r] >= max(told.values()) - LEVEL)
        return cls(maps[ridge], ridge, {f"{r:g}": v for r, v in told.items()}, training, validation)

    def to_all(self, dim: int) -> Whitening:
        """Fit to the training and the validation creators."""
        found = self.training if self.validation is None else self.training + self.validation
        return fit_moments(found, keep=dim, ridge=self.ridge)


def _moments(rows: Float[np.ndarray, "images dim"], offsets: Int[np.ndarray, " bounds"]) -> Moments:
    """Return the moments of the creators, or of every nth where there are very many images."""
    every = -(-int(offsets[-1]) // WHITENING_IMAGES)
    chosen = np.arange(0, len(offsets) - 1, every)
    counts = np.diff(offsets)[chosen]
    parts = (np.cumsum(counts) - counts) // _CHUNK_IMAGES
    found = None
    for part in range(int(parts[-1]) + 1):
        own = chosen[parts == part]
        if not len(own):
            continue
        creator = np.repeat(np.arange(len(own)), np.diff(offsets)[own])
        taken = np.concatenate([rows[offsets[i] : offsets[i + 1]] for i in own])
        more = moments(torch.from_numpy(taken), torch.from_numpy(creator))
        found = more if found is None else found + more
    assert found is not None
    return found


def _agreed(
    fitted: _Fitted | None, data: TrainingSet, hyper: Hyperparameters, device: torch.device
) -> Whitening:
    """Return the first worker's whitening on all."""
    dim = data.rows.shape[1]
    whitening = fitted.whitening if fitted else None
    failed = torch.tensor(float(fitted is not None and whitening is None), device=device)
    if of_leader(failed).item():
        raise InputError("SAME cannot be fitted: no creator has two different images")
    if whitening is None:
        whitening = Whitening(torch.empty(dim), torch.empty(dim, min(hyper.dim, dim)))
    return Whitening(
        of_leader(whitening.mean.to(device)).cpu(), of_leader(whitening.matrix.to(device)).cpu()
    )


# -- the choice ---------------------------------------------------------------------------------


def _outcome(
    fitted: _Fitted,
    base: WhitenedEmbedding,
    network: nn.Module | None,
    curve: list[dict[str, float]],
    data: TrainingSet,
    judge: Judge,
    hyper: Hyperparameters,
) -> Outcome:
    """Keep the network, the whitening, or the plain mean."""
    final = WhitenedEmbedding(fitted.to_all(hyper.dim))
    if not judge.usable:
        told = (
            f"only {judge.creators} of {data.counts.validation_creators} validation creators have"
            " two different images, too few to tell one map from another"
        )
        if network is not None:
            return Outcome(network, "paper", f"asked for; {told}", {}, curve)
        return Outcome(final, "whitening", told, {}, curve)
    plain = plain_mean(data.rows.shape[1])
    scores = {"mean": judge.scores(plain), "whitening": judge.scores(base)}
    if network is not None:
        scores["same"] = judge.scores(network)
    measured: dict[str, Any] = {"creators": judge.creators, "ridge": fitted.ridge}
    measured["mrr_by_ridge"] = fitted.mrr_by_ridge
    for name, found in scores.items():
        measured[f"mrr_{name}"] = found.mrr
        measured[f"hit_rate_{name}"] = found.hit_rate
    of_whitening = f"{scores['whitening'].mrr:.3f} of the whitening"
    if network is not None:
        gain, error = _gain(scores["same"], scores["whitening"])
        measured |= {"gain": gain, "gain_standard_error": error}
        told = (
            f"validation MRR {scores['same'].mrr:.3f} against {of_whitening} (gain {gain:+.3f},"
            f" standard error {error:.3f})"
        )
        if hyper.architecture == "paper":
            return Outcome(network, "paper", f"asked for; {told}", measured, curve)
        # Its best step was chosen by the same creators, so that one error is easily won.
        if gain > CLEAR * error and scores["same"].mrr >= scores["mean"].mrr:
            return Outcome(network, "same", told, measured, curve)
        told = f"the network is no better: {told}"
    else:
        told = f"asked for; validation MRR {of_whitening}"
    loss, error = _gain(scores["mean"], scores["whitening"])
    if loss > CLEAR * error:
        told = f"validation MRR {scores['mean'].mrr:.3f} of the plain mean is better; {told}"
        return Outcome(plain, "mean", told, measured, curve)
    return Outcome(final, "whitening", told, measured, curve)


def _gain(scores: Scores, baseline: Scores) -> tuple[float, float]:
    """Return the mean difference of reciprocal ranks, paired by creator, and its error."""
    gain = scores.reciprocal_rank - baseline.reciprocal_rank
    return float(gain.mean()), float(gain.std(ddof=1) / np.sqrt(len(gain)))


def to_metrics(outcome: Outcome, data: TrainingSet) -> dict[str, Any]:
    """Return what metrics.json of a checkpoint says."""
    return {
        "architecture": outcome.architecture,
        "reason": outcome.reason,
        "parameters": sum(p.numel() for p in outcome.model.parameters()),
        "validation": outcome.validation,
        "curve": outcome.curve,
        "counts": asdict(data.counts),
    }
