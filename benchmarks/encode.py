"""The bars of encode_images, each as a ratio from one run.

    .venv/bin/python -m benchmarks.encode --cache FOLDER
    .venv/bin/python -m benchmarks.encode --cache FOLDER --only pipeline,planning --repeats 5

Prints one JSON object per measurement: the value, the bar, whether it passes, the figures behind
it (median and extremes over the repeats), the machine and the command. What is compared takes
turns within each repeat. Pictures, weights, manifests and clip-retrieval's virtual environment are
made once, in the cache (15 GB with everything at full size).
"""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import tyro

from benchmarks.encode_parts import gpu, memory, peer, pipeline, planning, resume, s3
from benchmarks.measurement import Measurement, show_parts
from motif.command import split_names


@dataclass(frozen=True, kw_only=True)
class Config:
    """Measure the parts of encode_images on this machine."""

    cache: Path
    """Folder for what is made once, and for outputs."""
    only: str = "pipeline,planning,memory,resume,s3,peer,gpu"
    """Parts, separated by commas."""
    repeats: int = 3
    encoders: str = "lite,ViT-B-32,stub"
    """For pipeline and resume: `lite`, `stub`, or architectures of open_clip's (random weights)."""
    compile: bool = False
    """Pipeline and gpu with the compiled encoder, in the job and alone."""
    images: int = 1500
    """JPEGs of 1,080 px for pipeline, resume and gpu."""
    rows: int = 10_000_000
    """Of the manifest for planning."""
    small_images: int = 100_000
    """JPEGs of 64 px for memory, which compares them with a tenth, and for resume with the stub."""
    objects: int = 5000
    """For s3."""
    peer_images: int = 1000
    """JPEGs of 1,080 px for peer."""
    gpu_times: int = 20
    """How often gpu encodes each JPEG, so that the run is long enough."""


def main(config: Config) -> None:
    """Run the parts in the order in which they are named."""
    cache, repeats = config.cache.absolute(), config.repeats
    names = split_names(config.encoders)
    flags = ["--compile"] if config.compile else []
    parts: dict[str, Callable[[], Iterator[Measurement]]] = {
        "pipeline": lambda: pipeline.measure(
            cache, images=config.images, names=names, repeats=repeats, flags=flags
        ),
        "planning": lambda: planning.measure(cache, rows=config.rows, repeats=repeats),
        "memory": lambda: memory.measure(cache, images=config.small_images, repeats=repeats),
        "resume": lambda: resume.measure(
            cache,
            images=config.images,
            small_images=config.small_images,
            names=names,
            repeats=repeats,
        ),
        "s3": lambda: s3.measure(cache, objects=config.objects, repeats=repeats),
        "peer": lambda: peer.measure(cache, images=config.peer_images, repeats=repeats),
        "gpu": lambda: gpu.measure(
            cache, images=config.images, times=config.gpu_times, repeats=repeats, flags=flags
        ),
    }
    show_parts(parts, only=config.only, cache=cache)


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    main(tyro.cli(Config))
