"""What a query starts from, as a unit vector: creators, a vector, images or a text."""

import math
from collections.abc import Sequence
from numbers import Real
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import pyarrow as pa
from jaxtyping import Float32

from motif.errors import InputError

Image = Any
"""A file or s3:// URI (text or `Path`), a file's bytes, or a picture of Pillow's."""

Seed = str | Sequence[str] | Sequence[float] | Sequence[Image] | np.ndarray | Path | bytes
"""A creator, several, a vector of the space of `same`, or images; a text means a creator."""


NO_DIRECTION = 1e-6  # of a mean of unit vectors: what rounding alone leaves of opposite ones


@runtime_checkable
class QueryEncoder(Protocol):
    """What turns texts and images into vectors: `motif.query_encoder`, or one of your own."""

    def encode_texts(self, texts: list[str]) -> Float32[np.ndarray, "texts dim"]:
        """Return unit rows in the space of `mean_embedding`."""
        ...

    def encode_images(self, images: Sequence[Image]) -> Float32[np.ndarray, "images same"]:
        """Return unit rows in the space of `same`."""
        ...


def creators_in(seed: Any) -> list[str] | None:
    """Return the creators that a seed names; None when it is a vector or images."""
    if isinstance(seed, str):
        return [seed]
    if isinstance(seed, (list, tuple)) and all(isinstance(one, str) for one in seed):
        return list(dict.fromkeys(seed))
    return None


def vector_in(seed: Any) -> np.ndarray | None:
    """Return the vector that a seed is, of numpy, Arrow or plain numbers; None when it is none."""
    if isinstance(seed, pa.Scalar):
        seed = seed.as_py()
    if isinstance(seed, (list, tuple)) and seed and all(isinstance(one, Real) for one in seed):
        return np.asarray(seed)
    return seed if isinstance(seed, np.ndarray) else None


def images_in(seed: Seed) -> list[Image]:
    """Return the images that a seed is, one or several."""
    return list(seed) if isinstance(seed, (list, tuple)) else [seed]


def unit(vector: np.ndarray, dim: int, *, what: str) -> Float32[np.ndarray, " dim"]:
    """Return a vector at unit length.

    Args:
        vector: Of any number type.
        dim: The length that the table's vectors have.
        what: Names it in a refusal.

    Raises:
        InputError: Not `dim` finite numbers, or all of them zero.
    """
    try:
        values = np.asarray(vector, np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"{what} is not a vector of numbers") from error
    if values.shape != (dim,):
        raise InputError(f"{what} has the shape {values.shape}, expected ({dim},)")
    # Scaled first, so that neither huge nor tiny values lose their direction to the square.
    largest = np.abs(values).max(initial=0.0)
    if not math.isfinite(largest):
        raise InputError(f"{what} holds values that are not finite")
    if largest == 0:
        raise InputError(f"{what} has no direction: it is zero")
    scaled = values / largest
    return (scaled / np.linalg.norm(scaled)).astype(np.float32)


def middle(
    vectors: Sequence[np.ndarray] | np.ndarray, dim: int, *, what: str
) -> Float32[np.ndarray, " dim"]:
    """Return the direction of the mean of vectors, each taken at unit length.

    Raises:
        InputError: As `unit`, or they cancel out.
    """
    units = np.stack([unit(vector, dim, what=what) for vector in vectors])
    mean = np.asarray(units.mean(axis=0, dtype=np.float64))
    if np.linalg.norm(mean) < NO_DIRECTION:
        raise InputError(f"{what} have no common direction: their vectors cancel out")
    return unit(mean, dim, what=what)
