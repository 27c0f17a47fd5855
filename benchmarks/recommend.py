r"""jobs.recommend: on real data against baselines and a public method, and its speed.

    .venv/bin/python -m benchmarks.recommend --cache FOLDER --tiktok FOLDER --only tiktok
    .venv/bin/python -m benchmarks.recommend --cache FOLDER --wikiart FOLDER --manifest FILE \
        --only wikiart
    .venv/bin/python -m benchmarks.recommend --cache FOLDER --only speed

Prints one JSON object per measurement, as benchmarks.encode does. `tiktok` has interactions.parquet
and items.parquet; `wikiart` is the output of benchmarks/wikiart.py, with its manifest. `speed`
compares ranking 100,000 creators for 10,000 brands with a bare loop; with `--brands 100000` it is a
tenth of a million brands.
"""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import tyro

from benchmarks.measurement import Measurement, show_parts
from benchmarks.recommend_parts import real, speed


@dataclass(frozen=True, kw_only=True)
class Config:
    """Measure recommendations on this machine."""

    cache: Path
    """Folder for what is made once, and for outputs."""
    only: str = "tiktok,wikiart,speed"
    """Parts, separated by commas."""
    tiktok: Path = Path()
    wikiart: Path = Path()
    manifest: Path = Path()
    brands: int = 10_000
    creators: int = 100_000
    repeats: int = 3


def main(config: Config) -> None:
    """Run the parts in the order in which they are named."""
    cache, repeats = config.cache.absolute(), config.repeats
    parts: dict[str, Callable[[], Iterator[Measurement]]] = {
        "tiktok": lambda: real.measure_tiktok(config.tiktok, repeats=repeats),
        "wikiart": lambda: real.measure_wikiart(config.wikiart, config.manifest, repeats=repeats),
        "speed": lambda: speed.measure(
            cache, brands=config.brands, creators=config.creators, repeats=repeats
        ),
    }
    show_parts(parts, only=config.only, cache=cache)


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    main(tyro.cli(Config))
