"""The bars of queries, on a million made-up creators in one process.

    .venv/bin/python -m benchmarks.query --cache FOLDER
    .venv/bin/python -m benchmarks.query --cache FOLDER --only vectors \
        --wikiart EMBEDDINGS --wikiart-model CHECKPOINT

Prints one JSON object per measurement, as benchmarks.encode does. `vectors` shows that the made-up
creators lie in space as WikiArt's artists do (with the two flags, as those found again); `query`
asks through CreatorTable; `choice` tries kinds of index and their settings on the same rows.
"""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import tyro

from benchmarks.measurement import Measurement, show_parts
from benchmarks.publish_parts import choice, queries, vectors


@dataclass(frozen=True, kw_only=True)
class Config:
    """Measure queries on this machine."""

    cache: Path
    """Folder for what is made once: about 3 GB."""
    only: str = "vectors,query"
    """Parts, separated by commas."""
    creators: int = 1_000_000
    queries: int = 500
    indices: str = ",".join(choice.KINDS)
    """What `choice` tries."""
    wikiart: str = ""
    """EMBEDDINGS of WikiArt, to find the real figures again."""
    wikiart_model: str = ""
    """SAME checkpoint of the same space."""


def main(config: Config) -> None:
    """Run the parts in the order in which they are named."""
    cache = config.cache.absolute()
    parts: dict[str, Callable[[], Iterator[Measurement]]] = {
        "vectors": lambda: compare(config),
        "query": lambda: queries.measure(cache, rows=config.creators, queries=config.queries),
        "choice": lambda: choice.measure(
            cache, rows=config.creators, asked=config.queries, only=config.indices
        ),
    }
    show_parts(parts, only=config.only, cache=cache)


def compare(config: Config) -> Iterator[Measurement]:
    """Compare the made-up creators with the real ones, by their intrinsic dimension."""
    real = vectors.REAL
    if config.wikiart:
        real = vectors.of_real(config.wikiart, config.wikiart_model)
    made = vectors.made()
    for size in vectors.SIZES:
        yield Measurement(
            part="vectors",
            name=f"TwoNN of {vectors.ARTISTS} made-up creators / of as many real ones, "
            f"{size or 'all'} images each",
            value=made[size]["two_nn"] / real[size]["two_nn"],
            figures={
                name: {"made": round(made[size][name], 3), "real": round(value, 3)}
                for name, value in real[size].items()
            },
        )


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    main(tyro.cli(Config))
