"""Content vectors of creators, made ready to be compared by cosine."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from motif import schemas
from motif.errors import InputError
from motif.table.creator_table import CreatorTable

KINDS = (SAME, MEAN, WHITENED) = ("same", "mean", "whitened")

RIDGE = 0.01
"""Of the largest variance, added to all: directions without spread are not blown up."""


def unit(vectors: Float[np.ndarray, "rows dim"]) -> Float[np.ndarray, "rows dim"]:
    """Return rows of length one, float32; rows of zeros stay zeros."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors / np.maximum(lengths, 1e-12)).astype(np.float32)


def whitened(
    vectors: Float[np.ndarray, "rows dim"], ridge: float = RIDGE
) -> Float[np.ndarray, "rows dim"]:
    """Return rows centred, of equal variance in all directions, and of length one.

    Principal components divided by the root of their variance: what most creators share, and what
    is told twice, no longer counts for more.

    Args:
        vectors: All creators'.
        ridge: Of the largest variance, above 0.
    """
    centred = vectors - vectors.mean(axis=0, dtype=np.float64)
    variance, axes = np.linalg.eigh(centred.T @ centred / max(len(vectors), 1))
    scale = 1 / np.sqrt(np.maximum(variance, 0) + ridge * max(float(variance[-1]), 1e-12))
    return unit(centred @ (axes * scale))


@dataclass(frozen=True)
class Content:
    """All creators of a version of CREATORS."""

    ids: list[str]
    """Sorted."""
    vectors: Float[np.ndarray, "creators dim"]
    """Unit rows."""
    uri: str
    version: int
    space: dict[str, Any]


def of_table(uri: str, kind: str) -> Content:
    """Read the creators of the live version.

    Args:
        uri: `DATABASE/TABLE.lance`.
        kind: `same`, `mean` (of the images' embeddings) or `whitened` (that, over all creators).

    Raises:
        InputError: There is no such table, or it is empty.
    """
    table = CreatorTable.open(uri)
    column = "same" if kind == SAME else "mean_embedding"
    rows = table.columns(["creator_id", column]).sort_by("creator_id")
    if not rows.num_rows:
        raise InputError(f"--table {uri} holds no creators")
    vectors = schemas.matrix(rows[column])
    return Content(
        ids=rows["creator_id"].to_pylist(),
        vectors=whitened(vectors) if kind == WHITENED else unit(vectors),
        uri=table.uri,
        version=table.version,
        space=table.space,
    )
