"""Readable ids of creators; none names a person or hints at a theme."""

import numpy as np

_FIRST = (
    "amber", "birch", "brisk", "calm", "cedar", "clever", "copper", "distant", "eager", "early",
    "gentle", "hidden", "jolly", "lively", "lucky", "misty", "nimble", "patient", "quiet",
    "rolling", "silver", "tidal", "velvet", "wandering",
)  # fmt: skip
_SECOND = (
    "acorn", "anchor", "beacon", "bramble", "canyon", "comet", "delta", "ember", "fjord", "garden",
    "harbour", "island", "juniper", "kettle", "lantern", "meadow", "orchard", "pebble", "quarry",
    "river", "summit", "thicket", "valley", "willow",
)  # fmt: skip

LIMIT = len(_FIRST) * len(_SECOND)
"""How many ids there are."""


def creator_ids(count: int, seed: int) -> list[str]:
    """`count` <= `LIMIT` different ids such as `misty-harbour`, in an order drawn from `seed`."""
    drawn = np.random.default_rng([seed, 0]).permutation(LIMIT)[:count]
    pairs = (divmod(int(index), len(_SECOND)) for index in drawn)
    return [f"{_FIRST[first]}-{_SECOND[second]}" for first, second in pairs]
