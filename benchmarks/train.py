"""What a training step costs, as ratios from one run.

    .venv/bin/python -m benchmarks.train [--repeats 5]

`loss` compares the all-triplets hinge with pytorch-metric-learning's on one batch: value, gradient,
time, and all the memory that one pass asks for.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable

import torch
from pytorch_metric_learning.distances import CosineSimilarity
from pytorch_metric_learning.losses import TripletMarginLoss
from pytorch_metric_learning.reducers import AvgNonZeroReducer
from torch import Tensor
from torch.nn import functional
from torch.profiler import ProfilerActivity, profile

from benchmarks.encode_parts.measurement import machine
from motif.losses import triplet_loss

CREATORS, IMAGES, DIM, MARGIN = 256, 4, 256, 0.2
BAR = 5.0
RELATIVE = 1e-4


def main() -> None:
    """Measure, print JSON, and end with 1 where a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    found = measure_loss(arguments.repeats)
    sys.stdout.write(json.dumps({**found, "machine": machine()}) + "\n")
    sys.exit(0 if found["pass"] else 1)


def measure_loss(repeats: int) -> dict:
    """Compare one forward and backward pass on the same batch; the two take turns."""
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
    tangential = our_gradient - along
    errors = {
        "loss": abs(ours - theirs) / theirs,
        "gradient": ((tangential - their_gradient).norm() / their_gradient.norm()).item(),
    }
    ratio = statistics.median(seconds["pytorch_metric_learning"]) / statistics.median(
        seconds["motif"]
    )
    return {
        "part": "loss",
        "name": "pytorch-metric-learning's seconds / ours",
        "ratio": round(ratio, 2),
        "bar": f">= {BAR:g}",
        "pass": ratio >= BAR and max(errors.values()) <= RELATIVE,
        "batch": [CREATORS, IMAGES, DIM],
        "loss": ours,
        "relative_errors": {name: float(f"{value:.3g}") for name, value in errors.items()},
        "milliseconds": {
            name: [round(1e3 * value, 1) for value in values] for name, values in seconds.items()
        },
        "allocated_mb": {name: allocated_mb(loss, batch) for name, loss in losses.items()},
    }


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


if __name__ == "__main__":
    main()
