"""Adjectives' directions as an artefact of their own, with the prompts that made them."""

import functools
import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

import numpy as np
from jaxtyping import Float

from motif import storage
from motif.adjectives import (
    EncodeTexts,
    directions,
    object_dependence,
    object_prompts,
    plain_prompt,
)
from motif.errors import InputError
from motif.space import Space
from motif.table.layout import TableUri

FOLDER = "directions"


@dataclass(frozen=True)
class Directions:
    """Adjectives and their unit directions in the encoder's space."""

    adjectives: tuple[str, ...]
    vectors: Float[np.ndarray, "adjectives dim"]
    object_dependence: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)
    """Adjective -> `oaar`, `plain` -> `projection`, `per_adjective`
    (`motif.adjectives.ObjectDependence`)."""

    @classmethod
    def of(cls, words: Sequence[str], encode_texts: EncodeTexts) -> "Directions":
        """Make them from the text encoder."""

        @functools.cache
        def encode(texts: tuple[str, ...]) -> np.ndarray:
            return encode_texts(list(texts))

        dependence = {}
        for word in words:
            found = object_dependence(word, lambda texts: encode(tuple(texts)))
            oaar, plain = (asdict(one) for one in found)
            dependence[word] = {"oaar": oaar, "plain": plain}
        vectors = directions(words, lambda texts: encode(tuple(texts)))
        return cls(tuple(words), vectors, dependence)

    def select(self, words: Sequence[str]) -> "Directions":
        """Return those of some adjectives, in that order."""
        places = np.array([self.adjectives.index(word) for word in words], int)
        return Directions(
            tuple(words),
            self.vectors[places],
            {w: d for w, d in self.object_dependence.items() if w in words},
        )

    def joined(self, more: "Directions") -> "Directions":
        """Return these and others."""
        return Directions(
            self.adjectives + more.adjectives,
            np.concatenate([self.vectors, more.vectors]),
            {**self.object_dependence, **more.object_dependence},
        )

    def write(self, table: TableUri, space: Space) -> str:
        """Write them beside the table; return their id, the same for the same content."""
        value = {
            "space": space.to_json(),
            "adjectives": [
                {
                    "adjective": word,
                    "direction": [float(x) for x in self.vectors[i]],
                    "object_dependence": self.object_dependence.get(word),
                    "prompts": {
                        "with": object_prompts(word),
                        "plain": plain_prompt(word),
                    },
                }
                for i, word in enumerate(self.adjectives)
            ],
            "prompts_without": object_prompts(),
        }
        digest = hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
        storage.write_json(_uri(table, digest), value)
        return digest

    @classmethod
    def read(cls, table: TableUri, name: str) -> "Directions":
        """Read what `write` wrote.

        Raises:
            InputError: It is gone or damaged.
        """
        uri = _uri(table, name)
        value = storage.read_json(uri)
        try:
            rows = value["adjectives"]
            return cls(
                tuple(row["adjective"] for row in rows),
                np.array([row["direction"] for row in rows], np.float32).reshape(len(rows), -1),
                {row["adjective"]: row["object_dependence"] for row in rows},
            )
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"{uri} is damaged ({error!r}); publish with --full") from error


def _uri(table: TableUri, name: str) -> str:
    return table.beside(FOLDER, f"{name}.json")


def dependence_in_short(directions: Directions) -> dict[str, dict[str, float]]:
    """Return the median over adjectives of each figure of `object_dependence`."""
    found = list(directions.object_dependence.values())
    if not found:
        return {}
    return {
        kind: {name: float(np.median([one[kind][name] for one in found])) for name in names}
        for kind, names in found[0].items()
    }
