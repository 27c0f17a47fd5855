"""Queries of a table of recommendations: no Ray, no torch."""

from typing import Any

import lance
import pyarrow as pa
import pyarrow.compute as pc

from motif import storage
from motif.errors import InputError
from motif.table.layout import LIVE, RECOMMENDATIONS, TableUri, is_unfinished, metadata_of


class RecommendationTable:
    """One version of a table that jobs.recommend wrote."""

    def __init__(self, dataset: lance.LanceDataset, metadata: dict[str, Any], uri: str) -> None:
        self._dataset = dataset
        self.metadata = metadata
        """What the job recorded: `run_id`, `method`, `content`, the CREATORS that it ranked."""
        self.uri = uri

    @classmethod
    def open(cls, uri: str, version: str | int = LIVE) -> "RecommendationTable":
        """Open a version, by its tag or number.

        Raises:
            InputError: No such table or version, or not one of recommendations.
        """
        where = TableUri.parse(uri)
        if not storage.exists(where.uri):
            raise InputError(f"--table {uri} does not exist; jobs.recommend makes it")
        try:
            options = storage.lance_options(where.uri)
            dataset = lance.dataset(where.uri, storage_options=options).checkout_version(version)
        except (ValueError, RuntimeError, OSError) as error:
            reason = f"has no version {version!r}"
            if version == LIVE or is_unfinished(where):
                reason = "holds nothing yet: the first jobs.recommend has not finished"
            raise InputError(f"--table {uri} {reason}") from error
        metadata = metadata_of(dataset.schema, (RECOMMENDATIONS,))
        if metadata is None:
            raise InputError(f"--table {uri} is a Lance table, but not one of recommendations")
        return cls(dataset, metadata, where.uri)

    def for_brand(self, brand_id: str, k: int = 10) -> pa.Table:
        """Return a brand's recommendations, best first, at most `k`.

        Returns:
            `creator_id`, `score`, `method`, `because` (creators of theirs who are nearest).

        Raises:
            InputError: The table has no such brand, or k is out of range.
        """
        if k < 1:
            raise InputError(f"-k {k}: at least 1")
        wanted = (pc.field("brand_id") == brand_id) & (pc.field("rank") <= k)
        rows = self._dataset.to_table(filter=wanted)
        if not rows.num_rows:
            raise InputError(
                f"{self.uri} has no brand {brand_id!r:.80}: it had no interaction when"
                " jobs.recommend last ran"
            )
        return rows.sort_by("rank").select(["creator_id", "score", "method", "because"])
