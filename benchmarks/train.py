"""The bars of train_same, each from one run.

    .venv/bin/python -m benchmarks.train --cache FOLDER
    .venv/bin/python -m benchmarks.train --cache FOLDER --only step,workers --repeats 5

Prints one JSON object per measurement, as benchmarks.encode does. `loss` compares the all-triplets
hinge with pytorch-metric-learning's; `step` a step that reads its batch from the memory map with
one on a resident batch; `workers` two workers with one; `memory` trains on 10 million rows of 512
float16 (20 GB in the cache); `gpu` needs a CUDA device.
"""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro

from benchmarks.measurement import Measurement, show_parts
from benchmarks.train_parts import job, loss, step

log = logging.getLogger(__name__)
CREATORS, GPU_CREATORS = 256, 2048
"""Of a batch, with 4 images each."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """Measure the parts of train_same on this machine."""

    cache: Path
    """Folder for what is made once, and for outputs."""
    only: str = "loss,step,workers,memory,gpu"
    """Parts, separated by commas."""
    repeats: int = 5
    images: int = 1_000_000
    """Of the archive for step, workers and gpu."""
    many_images: int = 10_000_000
    """Of the archive for memory."""
    steps: int = 100
    """Of each turn of step, workers and gpu."""


def main(config: Config) -> None:
    """Run the parts in the order in which they are named."""
    cache, images, repeats = config.cache.absolute(), config.images, config.repeats
    parts: dict[str, Callable[[], Iterator[Measurement]]] = {
        "loss": lambda: loss.measure(repeats=repeats),
        "step": lambda: of_steps(config, CREATORS, torch.device("cpu")),
        "workers": lambda: job.measure_workers(
            cache, images=images, repeats=repeats, steps=config.steps
        ),
        "memory": lambda: job.measure_memory(cache, images=config.many_images, steps=config.steps),
        "gpu": lambda: on_gpu(config),
    }
    show_parts(parts, only=config.only, cache=cache)


def of_steps(config: Config, creators: int, device: torch.device) -> Iterator[Measurement]:
    """Measure steps on the CPU, or with the set on the GPU."""
    yield from step.measure(
        config.cache.absolute(),
        images=config.images,
        repeats=config.repeats,
        creators=creators,
        steps=config.steps,
        device=device,
    )


def on_gpu(config: Config) -> Iterator[Measurement]:
    """Measure steps of 8,192 images with the set on the GPU."""
    if not torch.cuda.is_available():
        log.warning("no CUDA device is at hand: nothing of the part gpu was measured")
        return
    yield from of_steps(config, GPU_CREATORS, torch.device("cuda"))


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    main(tyro.cli(Config))
