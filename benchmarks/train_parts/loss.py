"""The all-triplets hinge against pytorch-metric-learning's, on one batch."""

import statistics
import time
from collections.abc import Callable, Iterator

import torch
from pytorch_metric_learning.distances import CosineSimilarity
from pytorch_metric_learning.losses import TripletMarginLoss
from pytorch_metric_learning.reducers import AvgNonZeroReducer
from torch import Tensor
from torch.nn import functional
from torch.profiler import ProfilerActivity, profile

from benchmarks.measurement import Measurement, spread
from motif.losses import triplet_loss

CREATORS, IMAGES, DIM, MARGIN = 256, 4, 256, 0.2
BAR = 5.0
RELATIVE = 1e-4


def measure(*, repeats: int) -> Iterator[Measurement]:
    """Compare value, gradient, time, and all the memory that one pass asks for."""
    generator = torch.Generator().manual_seed(0)
    theme = torch.randn(CREATORS, 1, DIM, generator=generator)
    rows = theme + torch.randn(CREATORS, IMAGES, DIM, generator=generator)
    batch = functional.normalize(rows, dim=-1)
    labels = torch.arange(CREATORS).repeat_interleave(IMAGES)
    peer = TripletMarginLoss(
        margin=MARGIN,
        distance=CosineSimilarity(),
        triplets_per_anchor="all",
        reducer=AvgNonZeroReducer(),
    )
    losses: dict[str, Callable[[Tensor], Tensor]] = {
        "motif": lambda v: triplet_loss(v, margin=MARGIN),
        "pytorch_metric_learning": lambda v: peer(v.flatten(0, 1), labels),
    }
    results = {name: evaluate(loss, batch) for name, loss in losses.items()}
    seconds: dict[str, list[float]] = {name: [] for name in losses}
    for _ in range(repeats):
        for name, loss in losses.items():
            start = time.perf_counter()
            evaluate(loss, batch)
            seconds[name].append(time.perf_counter() - start)
    (ours, our_gradient), (theirs, their_gradient) = results.values()
    # CosineSimilarity normalises again, so that only what is tangential to the rows compares.
    along = (our_gradient * batch).sum(-1, keepdim=True) * batch
    difference = our_gradient - along - their_gradient
    errors = {
        "loss": abs(ours - theirs) / theirs,
        "gradient": (difference.norm() / their_gradient.norm()).item(),
    }
    median = {name: statistics.median(values) for name, values in seconds.items()}
    yield Measurement(
        part="loss",
        name="pytorch-metric-learning's seconds / ours",
        value=median["pytorch_metric_learning"] / median["motif"],
        at_least=BAR,
        holds=max(errors.values()) <= RELATIVE,
        figures={
            "batch": [CREATORS, IMAGES, DIM],
            "loss": ours,
            "relative_errors": {name: float(f"{value:.3g}") for name, value in errors.items()},
            "milliseconds": {
                name: spread([1e3 * value for value in values]) for name, values in seconds.items()
            },
            "allocated_mb": {name: allocated_mb(loss, batch) for name, loss in losses.items()},
        },
    )


def evaluate(loss: Callable[[Tensor], Tensor], batch: Tensor) -> tuple[float, Tensor]:
    """Return the loss and its gradient."""
    vectors = batch.clone().requires_grad_()
    value = loss(vectors)
    value.backward()
    assert vectors.grad is not None
    return value.item(), vectors.grad


def allocated_mb(loss: Callable[[Tensor], Tensor], batch: Tensor) -> float:
    """Return the megabytes of all tensors that one pass allocates, freed or not."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        evaluate(loss, batch)
    sizes = (event.self_cpu_memory_usage for event in profiled.events())
    return round(sum(size for size in sizes if size > 0) / 1e6, 1)
