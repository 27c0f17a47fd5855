"""What is known only from all creators together: percentiles, hubness, what is usual.

It is fitted by a publish of everybody and then kept, so that a creator's row depends on that
creator and on this artefact alone: an incremental publish writes what a full one would.
"""

import hashlib
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from jaxtyping import Float, Int

from motif import schemas, splits, storage
from motif.errors import InputError
from motif.table.layout import TableUri

FOLDER = "population"
SAMPLE = 10_000
"""Creators that hubness is measured against, chosen by a hash of their id."""
NEIGHBOURS = 10
QUANTILES = 1001
# In images: as much as this many images say, what is usual says of a creator's consistency.
PRIOR_IMAGES = 4.0
_ROWS_AT_ONCE = 4096


@dataclass(frozen=True)
class Population:
    """Statistics of the creators of one publish of everybody."""

    creators: int
    usual_consistency: float
    """Median over creators with two images or more."""
    quantiles: dict[str, Float[np.ndarray, " grid"]]
    """Adjective -> its scores at evenly spaced percentiles from 0 to 100."""
    sample_ids: tuple[str, ...]
    sample: Float[np.ndarray, "sample same"]

    def percentiles(
        self, adjective: str, scores: Float[np.ndarray, " creators"]
    ) -> Float[np.ndarray, " creators"]:
        """Return how many of a hundred creators score lower, in [0, 100]; ties in the middle."""
        grid = self.quantiles[adjective]
        places = np.linspace(0, 100, len(grid))
        # Interpolation alone would give the last of equal grid values.
        low, high = (np.searchsorted(grid, scores, side) for side in ("left", "right"))
        tied = high - low > 1
        found = np.interp(scores, grid, places)
        found[tied] = (places[low[tied]] + places[high[tied] - 1]) / 2
        return found.astype(np.float32)

    def hubness(
        self, creator_ids: Sequence[str], same: Float[np.ndarray, "creators same"]
    ) -> Float[np.ndarray, " creators"]:
        """Return the mean cosine to the ten nearest of the sample, oneself apart, in [-1, 1].

        It is r of CSLS (Conneau et al. 2018, section 2.3, arXiv:1710.04087).
        """
        place = {creator: i for i, creator in enumerate(self.sample_ids)}
        found = np.zeros(len(same), np.float32)
        for start in range(0, len(same), _ROWS_AT_ONCE):
            cosine = same[start : start + _ROWS_AT_ONCE] @ self.sample.T
            for row, creator in enumerate(creator_ids[start : start + _ROWS_AT_ONCE]):
                if (own := place.get(creator)) is not None:
                    cosine[row, own] = -np.inf
            k = min(NEIGHBOURS, cosine.shape[1])
            # Six times as fast as numpy's partition.
            nearest = torch.from_numpy(cosine).topk(k, dim=1).values.numpy()
            known = np.isfinite(nearest)
            total = np.where(known, nearest, 0).sum(axis=1)
            found[start : start + len(cosine)] = total / np.maximum(known.sum(axis=1), 1)
        return found

    def reliability(
        self,
        consistency: Float[np.ndarray, " creators"],
        images: Int[np.ndarray, " creators"],
    ) -> Float[np.ndarray, " creators"]:
        """Return the squared cosine to expect between a vector and that of endless images.

        Of images whose mean pairwise cosine is c, the mean of n has reliability n c / (1 + (n - 1)
        c) (Spearman-Brown). With few images c itself is hardly known, so that it is drawn towards
        what is usual.

        Args:
            consistency: `theme_consistency`; NaN where there is one image.
            images: `image_count`.
        """
        pairs = images - 1.0
        known = np.where(pairs > 0, consistency, 0.0)
        drawn = (pairs * known + PRIOR_IMAGES * self.usual_consistency) / (pairs + PRIOR_IMAGES)
        return (images * drawn / (1 + pairs * drawn)).astype(np.float32)

    def without(self, creator_ids: set[str]) -> "Population":
        """Return it without some creators' vectors."""
        keep = [i for i, creator in enumerate(self.sample_ids) if creator not in creator_ids]
        return replace(
            self, sample_ids=tuple(self.sample_ids[i] for i in keep), sample=self.sample[keep]
        )

    def with_quantiles(self, scores: dict[str, Float[np.ndarray, " creators"]]) -> "Population":
        """Return it with further adjectives."""
        return replace(self, quantiles={**self.quantiles, **_grids(scores)})

    def write(self, table: TableUri) -> str:
        """Write it beside the table; return its id, the same for the same content."""
        rows = pa.table(
            {
                "creator_id": pa.array(self.sample_ids, pa.string()),
                "same": schemas.vector_array(self.sample),
            }
        )
        metadata = {
            b"creators": str(self.creators).encode(),
            b"usual_consistency": repr(self.usual_consistency).encode(),
            b"adjectives": "\n".join(self.quantiles).encode(),
            b"quantiles": _npy(np.array(list(self.quantiles.values()), np.float32)),
        }
        digest = hashlib.sha256()
        for part in (*metadata.values(), *map(str.encode, self.sample_ids), self.sample.tobytes()):
            digest.update(part)
        name = digest.hexdigest()[:16]
        storage.write_parquet(_uri(table, name), rows.replace_schema_metadata(metadata))
        return name

    @classmethod
    def read(cls, table: TableUri, name: str) -> "Population":
        """Read what `write` wrote.

        Raises:
            InputError: It is gone or damaged.
        """
        uri = _uri(table, name)
        try:
            rows = storage.read_parquet(uri)
        except FileNotFoundError as error:
            raise InputError(f"{uri} is gone; publish with --refit-population") from error
        try:
            told = rows.schema.metadata
            names = told[b"adjectives"].decode().split("\n") if told[b"adjectives"] else []
            grids = np.load(io.BytesIO(told[b"quantiles"]), allow_pickle=False)
            return cls(
                creators=int(told[b"creators"]),
                usual_consistency=float(told[b"usual_consistency"]),
                quantiles=dict(zip(names, grids, strict=True)),
                sample_ids=tuple(rows["creator_id"].to_pylist()),
                sample=schemas.matrix(rows["same"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"{uri} is damaged ({error!r}); publish with --refit-population"
            ) from error


def fit(
    drafts: Iterator[pa.Table], scores: dict[str, Float[np.ndarray, " creators"]], same_dim: int
) -> Population:
    """Fit a population to the drafts of all its creators.

    Args:
        drafts: Tables of `schemas.creator_drafts`, or only their `creator_id`, `same` and
            `theme_consistency`.
        scores: Adjective -> score of each creator, in any order.
        same_dim: Length of `same`.
    """
    ids: list[str] = []
    vectors = np.zeros((0, same_dim), np.float32)
    consistency: list[np.ndarray] = []
    creators = 0
    for draft in drafts:
        creators += draft.num_rows
        consistency.append(pc.drop_null(draft["theme_consistency"]).to_numpy())
        ids += draft["creator_id"].to_pylist()
        vectors = np.concatenate([vectors, schemas.matrix(draft["same"])])
        if len(ids) > SAMPLE:
            first = np.argsort([splits.position(creator) for creator in ids], kind="stable")
            ids = [ids[i] for i in first[:SAMPLE]]
            vectors = vectors[first[:SAMPLE]]
    order = np.argsort(np.array(ids, dtype=object), kind="stable")
    known = np.concatenate([np.zeros(0, np.float32), *consistency])
    return Population(
        creators=creators,
        usual_consistency=float(np.median(known)) if len(known) else 0.0,
        quantiles=_grids(scores),
        sample_ids=tuple(ids[i] for i in order),
        sample=vectors[order],
    )


def _grids(scores: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    places = np.linspace(0, 1, QUANTILES)
    return {
        adjective: np.quantile(found, places).astype(np.float32) if len(found) else places * 0
        for adjective, found in scores.items()
    }


def _npy(values: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, values, allow_pickle=False)
    return file.getvalue()


def _uri(table: TableUri, name: str) -> str:
    return table.beside(FOLDER, f"{name}.parquet")
