"""Spaces: which vectors may meet.

A space names the encoder, its weights' hash and the preprocessing. Precision is provenance, not
space. A SAME checkpoint extends the space of the embeddings that it was trained on.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any

from motif.errors import SpaceError

FEATURES = "unit spatial means of stages, 1"
"""What `features` are in this version: `motif.encoder.stages`."""


@dataclass(frozen=True, kw_only=True)
class Preprocess:
    """How an image becomes the encoder's input; the fields are open_clip's."""

    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str
    resize_mode: str
    fill_color: int = 0


@dataclass(frozen=True, kw_only=True)
class Space:
    """The coordinate system of embeddings."""

    encoder: str
    """Architecture, such as `ViT-B-32`; where its weights came from is provenance."""
    weights_sha256: str
    """Hash of the weights as float32 tensors, whatever file they came in."""
    preprocess: Preprocess
    dim: int
    features: str = FEATURES
    """Recipe of the column `features`, whether or not it was kept."""

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that are equal if and only if vectors may meet."""
        return _fingerprint(asdict(self))

    def to_json(self) -> dict[str, Any]:
        """Return the form that run.json and table metadata carry."""
        # Through JSON, so that what was written equals what will be read: lists, not tuples.
        return {**json.loads(json.dumps(asdict(self))), "fingerprint": self.fingerprint}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "Space":
        """Read what `to_json` wrote.

        Raises:
            SpaceError: A field is missing, the fingerprint is not that of the fields, or its
                `features` are made by another recipe than this version's.
        """
        try:
            if (recipe := value.get("features")) != FEATURES:
                raise SpaceError(
                    f"space {value['fingerprint']} ({value['encoder']}) is of another version of"
                    f" Motif: its `features` are {recipe or 'what the tower pools'!r}, here they"
                    f" are {FEATURES!r}; encode again (encode_images --overwrite, or into another"
                    " folder), then train and publish again"
                )
            preprocess = dict(value["preprocess"])
            preprocess["mean"] = tuple(preprocess["mean"])
            preprocess["std"] = tuple(preprocess["std"])
            space = cls(
                encoder=value["encoder"],
                weights_sha256=value["weights_sha256"],
                preprocess=Preprocess(**preprocess),
                dim=value["dim"],
            )
            recorded = value["fingerprint"]
        except (AttributeError, KeyError, TypeError) as error:
            raise SpaceError(f"not a description of a space: {value!r:.200}") from error
        if recorded != space.fingerprint:
            raise SpaceError(
                f"space of {space.encoder} is recorded as {recorded} but its fields make"
                f" {space.fingerprint}: the record was edited; encode again"
            )
        return space


def same_fingerprint(encoder: Space, weights_sha256: str) -> str:
    """Return the fingerprint of the space that a SAME checkpoint maps `encoder` into."""
    return _fingerprint({"encoder": encoder.fingerprint, "same_sha256": weights_sha256})


def require_same(found: Space, expected: Space, *, what: str, needed_by: str) -> None:
    """Refuse vectors of another space.

    Raises:
        SpaceError: The two differ; the message names both and what to do.
    """
    if found.fingerprint != expected.fingerprint:
        raise SpaceError(
            f"{what} is in space {found.fingerprint} ({found.encoder}), but {needed_by} is in"
            f" {expected.fingerprint} ({expected.encoder}); encode with the same encoder or train"
            " a model for this one"
        )


def _fingerprint(value: dict[str, Any]) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
