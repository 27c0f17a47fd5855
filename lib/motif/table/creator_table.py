"""The CREATORS table as its readers see it: plain LanceDB, no Ray, no torch.

Readers open the version that the tag `live` names; a publish moves the tag when all is in place.
"""

from typing import Any

import lancedb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from lancedb.expr import col, lit
from lancedb.table import Table

from motif import schemas, storage
from motif.errors import InputError
from motif.table.layout import LIVE, TableUri, is_unfinished, metadata_of

_SHOWN = ("creator_id", "image_count", "theme_consistency", "representative_uris")


class CreatorTable:
    """One version of a CREATORS table, open for queries."""

    def __init__(self, table: Table, metadata: dict[str, Any], uri: str) -> None:
        self._table = table
        self._metadata = metadata
        self.uri = uri

    @classmethod
    def open(cls, uri: str, version: str | int = LIVE) -> "CreatorTable":
        """Open a version.

        Args:
            uri: `DATABASE/TABLE.lance`, local or s3://.
            version: A tag or a number.

        Raises:
            InputError: No such table or version, or not one of ours.
        """
        where = TableUri.parse(uri)
        if not storage.exists(where.uri):
            raise InputError(f"--table {uri} does not exist; jobs.publish_creators makes it")
        try:
            database = lancedb.connect(
                where.database, storage_options=storage.lance_options(where.database)
            )
            table = database.open_table(where.name)
        except (ValueError, RuntimeError, OSError) as error:
            reason = f"is not a Lance table: {_first_line(error)}"
            if is_unfinished(where):
                reason = "holds no version yet: its first publish has not finished"
            raise InputError(f"--table {uri} {reason}") from error
        metadata = metadata_of(table.schema)
        if metadata is None:
            raise InputError(f"--table {uri} is a Lance table, but not one of CREATORS")
        try:
            table.checkout(version)
        except (ValueError, RuntimeError, OSError) as error:
            raise InputError(
                f"--table {uri} has no version {version!r}: its first publish has not finished"
                if version == LIVE
                else f"--table {uri} has no version {version!r}"
            ) from error
        return cls(table, metadata_of(table.schema) or metadata, where.uri)

    def __len__(self) -> int:
        """Return the number of creators."""
        return self._table.count_rows()

    @property
    def version(self) -> int:
        """Lance's number of this version."""
        return self._table.version

    @property
    def space(self) -> dict[str, Any]:
        """The space of `same`, and below `encoder` that of `mean_embedding`."""
        return self._metadata["space"]

    @property
    def adjectives(self) -> dict[str, str]:
        """Adjective -> column."""
        return self._metadata["adjectives"]

    def creator_ids(self) -> list[str]:
        """Return all ids, sorted."""
        found = self._table.search().select(["creator_id"]).limit(max(len(self), 1)).to_arrow()
        return sorted(found["creator_id"].to_pylist())

    def get(self, creator_id: str) -> dict[str, Any]:
        """Return a creator's row.

        Raises:
            InputError: There is no such creator.
        """
        found = self._table.search().where(col("creator_id") == lit(creator_id)).limit(1)
        rows = found.to_arrow().to_pylist()
        if not rows:
            raise InputError(f"creator {creator_id!r} is not in {self.uri}")
        return rows[0]

    def lookalikes(self, creator_id: str, *, k: int = 10, where: str | None = None) -> pa.Table:
        """Return the creators whose SAME vectors are nearest to a creator's, without itself.

        Args:
            creator_id: The seed.
            k: How many.
            where: Lance SQL over the table's columns, from a trusted caller.

        Returns:
            `creator_id`, `similarity` (cosine, in [-1, 1]), `image_count`, `theme_consistency`,
            `representative_uris`; most similar first, ties by id.

        Raises:
            InputError: No such creator, or a filter that does not parse.
        """
        _check_k(k)
        vector = np.asarray(self.get(creator_id)["same"], np.float32)
        search: Any = self._table.search(vector, vector_column_name="same")
        query = search.distance_type("cosine").select([*_SHOWN, "_distance"]).limit(k + 1)
        found = self._run(query, where)
        similarity = pc.subtract(1.0, found["_distance"].cast(pa.float64()))
        found = found.append_column("similarity", similarity).sort_by(
            [("similarity", "descending"), ("creator_id", "ascending")]
        )
        found = found.filter(pc.not_equal(found["creator_id"], creator_id)).slice(0, k)
        return found.select(["creator_id", "similarity", *_SHOWN[1:]])

    def rank(self, adjective: str, *, k: int = 10, where: str | None = None) -> pa.Table:
        """Return the creators with the highest OAAR score for an adjective.

        Args:
            adjective: One that was published.
            k: How many.
            where: Lance SQL over the table's columns, from a trusted caller.

        Returns:
            `creator_id`, `score` (in [-1, 1]; not comparable between adjectives), and the columns
            of `lookalikes`; highest first, ties by id.

        Raises:
            InputError: The adjective was not published, or a filter that does not parse.
        """
        _check_k(k)
        column = schemas.oaar_column(adjective)
        if column not in self._table.schema.names:
            raise InputError(
                f"adjective {adjective!r} is not in {self.uri}; published are:"
                f" {', '.join(self.adjectives)}"
            )
        # Two columns of all rows, then the others of k rows: the table holds wide vectors.
        query = self._table.search().select(["creator_id", column]).limit(len(self))
        scores = self._run(query, where).sort_by(
            [(column, "descending"), ("creator_id", "ascending")]
        )
        top = scores.slice(0, k).rename_columns(["creator_id", "score"])
        if not top.num_rows:
            empty = [self._table.schema.field(name) for name in _SHOWN[1:]]
            return pa.schema([*top.schema, *empty]).empty_table()
        wanted = col("creator_id").isin(top["creator_id"].to_pylist())
        shown = self._table.search().where(wanted).select(list(_SHOWN)).limit(k).to_arrow()
        joined = {row["creator_id"]: row for row in shown.to_pylist()}
        rows = [{**row, **joined[row["creator_id"]]} for row in top.to_pylist()]
        fields = [*top.schema, *(self._table.schema.field(name) for name in _SHOWN[1:])]
        return pa.Table.from_pylist(rows, schema=pa.schema(fields))

    def _run(self, query: Any, where: str | None) -> pa.Table:
        try:
            return (query.where(where) if where else query).to_arrow()
        except (ValueError, RuntimeError, OSError) as error:
            if where:
                raise InputError(f"--where {where!r}: {_first_line(error)}") from error
            raise


def _check_k(k: int) -> None:
    if not 1 <= k <= 10_000:
        raise InputError(f"-k {k}: expected 1 to 10000")


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
