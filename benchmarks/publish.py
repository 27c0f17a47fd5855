"""The bars of publish_creators, each from whole runs of its command line.

    .venv/bin/python -m benchmarks.publish --cache FOLDER --images 1000000
    .venv/bin/python -m benchmarks.publish --cache FOLDER

Prints one JSON object per measurement, as benchmarks.encode does. `full` publishes everybody and
compares the rate with a bare loop over the same files; `incremental` lets one creator in a hundred,
chosen at random, have further images and publishes again. Ten million images take 25 GB in the
cache; each run of `incremental` adds to them.
"""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import tyro

from benchmarks.measurement import Measurement, show_parts
from benchmarks.publish_parts import job


@dataclass(frozen=True, kw_only=True)
class Config:
    """Measure publish_creators on this machine."""

    cache: Path
    """Folder for what is made once, and for outputs."""
    only: str = "full,incremental"
    """Parts, separated by commas."""
    images: int = 10_000_000
    """Of the archive, 50 to a creator."""
    repeats: int = 1


def main(config: Config) -> None:
    """Run the parts in the order in which they are named."""
    cache, images, repeats = config.cache.absolute(), config.images, config.repeats
    parts: dict[str, Callable[[], Iterator[Measurement]]] = {
        "full": lambda: job.measure_full(cache, images=images, repeats=repeats),
        "incremental": lambda: job.measure_incremental(cache, images=images, repeats=repeats),
    }
    show_parts(parts, only=config.only, cache=cache)


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    main(tyro.cli(Config))
