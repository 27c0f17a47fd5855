"""Queries of the CREATORS table: no Ray, and torch only where a text or an image is encoded.

Readers open the version that the tag `live` names; a publish moves the tag when all is in place.
"""

import importlib
import logging
from collections.abc import Sequence
from typing import Any, NoReturn

import lance
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from motif import adjectives as oaar
from motif import schemas
from motif.errors import InputError, MotifError
from motif.table import nearest, seeds
from motif.table.filters import Filter, Where, close_to
from motif.table.layout import LIVE
from motif.table.opening import open_version
from motif.table.seeds import Image, QueryEncoder, Seed

log = logging.getLogger(__name__)

SHOWN: tuple[str, ...] = ("image_count", "theme_consistency", "representative_uris")
"""What every answer tells of a creator."""

GUESSED_IDS = 20_000  # in larger tables a mistyped id is not worth comparing it with all


class CreatorTable:
    """One version of a CREATORS table, open for queries.

    Every answer is an Arrow table: `creator_id`, what the rows are ordered by, `SHOWN`, then the
    adjectives and columns that were asked for; best first, ties by id.
    """

    def __init__(
        self,
        dataset: lance.LanceDataset,
        metadata: dict[str, Any],
        uri: str,
        encoder: str | QueryEncoder = "",
        model: str = "",
    ) -> None:
        self._dataset = dataset
        self._metadata = metadata
        self._encoder = encoder
        self._model = model
        self.uri = uri

    @classmethod
    def open(
        cls,
        uri: str,
        version: str | int = LIVE,
        *,
        encoder: str | QueryEncoder = "",
        model: str = "",
    ) -> "CreatorTable":
        """Open a version.

        Args:
            uri: `DATABASE/TABLE.lance`, local or s3://.
            version: A tag or a number.
            encoder: For texts and images: where the encoder is now, by default where the table
                says that it was; or what encodes them. Loaded when a query needs it.
            model: For images: the SAME checkpoint, by default the one that the table names.

        Raises:
            InputError: No such table or version, or not one of ours.
        """
        dataset, metadata, full_uri = open_version(uri, version)
        return cls(dataset, metadata, full_uri, encoder, model)

    def __len__(self) -> int:
        """Return the number of creators."""
        return self._dataset.count_rows()

    @property
    def version(self) -> int:
        """Lance's number of this version."""
        return self._dataset.version

    @property
    def schema(self) -> pa.Schema:
        """All columns."""
        return self._dataset.schema

    @property
    def space(self) -> dict[str, Any]:
        """The space of `same`, and below `encoder` that of `mean_embedding`."""
        return self._metadata["space"]

    @property
    def adjectives(self) -> dict[str, str]:
        """Published adjective -> column of its scores."""
        return self._metadata["adjectives"]

    @property
    def attributes(self) -> list[str]:
        """Columns that the publisher joined to creators."""
        return self._metadata.get("attributes", [])

    def creator_ids(self) -> list[str]:
        """Return all ids, sorted."""
        found = self._dataset.to_table(columns=["creator_id"])
        return sorted(found["creator_id"].to_pylist())

    def columns(self, names: Sequence[str]) -> pa.Table:
        """Return some columns of all creators, in no order.

        Raises:
            InputError: There is no such column.
        """
        return self._dataset.to_table(columns=list(self._known(names)))

    def get(self, ids: str | Sequence[str], *, columns: Sequence[str] = ()) -> pa.Table:
        """Return the rows of some creators.

        Args:
            ids: One or several.
            columns: Of the table; all by default.

        Returns:
            A row for each id, in their order.

        Raises:
            InputError: There is no such creator or column.
        """
        ids = [ids] if isinstance(ids, str) else list(ids)
        names = self._known(columns) or self.schema.names
        wanted = pa.array(ids, pa.string())
        rows = self._dataset.to_table(
            columns=list(dict.fromkeys(["creator_id", *names])),
            filter=pc.field("creator_id").isin(wanted),
        )
        places = pc.index_in(wanted, value_set=rows["creator_id"])
        if places.null_count:
            self._refuse_ids([ids[i] for i in pc.indices_nonzero(places.is_null()).to_pylist()])
        return rows.take(places).select(names)

    def lookalikes(
        self,
        seed: Seed | None = None,
        k: int = 10,
        *,
        images: Sequence[Image] = (),
        where: Where = (),
        where_sql: str = "",
        adjectives: Sequence[str] = (),
        columns: Sequence[str] = (),
        exclude_self: bool = True,
        correct_hubs: bool = True,
        exact: bool = False,
    ) -> pa.Table:
        """Return the creators whose theme is nearest to that of a seed.

        Args:
            seed: A creator_id; several, for the middle of their vectors; a vector in the space of
                `same`; or images, each a `Path`, a file's bytes or a picture of Pillow's.
            k: How many.
            images: In place of `seed`: images, which here may also be texts, files or s3:// URIs.
            where: Terms such as "image_count>=12", as in `motif.table.filters`, expressions of
                `pyarrow.compute`, or several of both.
            where_sql: In its place, a filter in Lance's SQL, never from anybody you do not trust.
            adjectives: Published ones whose scores and percentiles the answer shall have.
            columns: Others that the answer shall have.
            exclude_self: Leave the creators of the seed out.
            correct_hubs: Order by `score` (see `nearest`), so that creators who are near to
                everybody are not near to each seed; else by `similarity`.
            exact: Compare with every row, where a vector index would do with the nearer ones.

        Returns:
            `creator_id`, `similarity` (cosine, in [-1, 1]), `score` (2 similarity - hubness; only
            if hubs are corrected), and more: see the class.

        Raises:
            InputError: No such creator, column or adjective; a seed without a direction; a filter
                that does not parse; or the table has no `hubness`.
        """
        _check_k(k)
        if (seed is None) == (not len(images)):
            raise InputError("name creators, a vector or images: exactly one of the three")
        if correct_hubs and nearest.HUBNESS not in self.schema.names:
            raise InputError(
                f"{self.uri} has no column {nearest.HUBNESS}: publish it again, or ask without the"
                " correction (--no-correct-hubs, correct_hubs=False)"
            )
        shown = self._shown(adjectives, columns)
        chosen = Filter.of(where, where_sql, self.schema)
        vector, creators = self._vector_of(seed, images)
        return nearest.nearest(
            *(self._dataset, "same", vector),
            k=k,
            chosen=chosen,
            columns=shown,
            left_out=creators if exclude_self else (),
            correct_hubs=correct_hubs,
            exact=exact,
        )

    def search(
        self,
        text: str = "",
        k: int = 10,
        *,
        image: Image = None,
        where: Where = (),
        where_sql: str = "",
        adjectives: Sequence[str] = (),
        columns: Sequence[str] = (),
        exact: bool = False,
    ) -> pa.Table:
        """Return the creators whose images are like a text, or whose theme is like an image's.

        A text is compared with `mean_embedding`, in the encoder's space. An image is a seed of
        `lookalikes`, with hubs corrected where the table has the terms.

        Args:
            text: What the images show, such as "a photo of the sea at night".
            k: How many.
            image: In place of `text`: a file or s3:// URI, a file's bytes or a picture of Pillow's.
            where: As in `lookalikes`, and so on.
            where_sql: Filter in Lance's SQL.
            adjectives: Published ones.
            columns: Others.
            exact: Compare with every row.

        Returns:
            As `lookalikes`. A text's `similarity` is low even where it fits: a CLIP keeps texts
            and images apart, so it is to be compared within one answer.

        Raises:
            InputError: As in `lookalikes`, or the encoder cannot be loaded.
            SpaceError: The encoder is another one than the table's.
        """
        _check_k(k)
        if bool(text.strip()) == (image is not None):
            raise InputError("search for a text (--text) or an image (--image): exactly one")
        if image is not None:
            return self.lookalikes(
                *(None, k),
                images=[image],
                where=where,
                where_sql=where_sql,
                adjectives=adjectives,
                columns=columns,
                correct_hubs=nearest.HUBNESS in self.schema.names,
                exact=exact,
            )
        shown = self._shown(adjectives, columns)
        chosen = Filter.of(where, where_sql, self.schema)
        vector = self._query_encoder().encode_texts([text])[0]
        return nearest.nearest(
            *(self._dataset, "mean_embedding", vector),
            k=k,
            chosen=chosen,
            columns=shown,
            exact=exact,
        )

    def rank(
        self,
        adjective: str,
        k: int = 10,
        *,
        where: Where = (),
        where_sql: str = "",
        adjectives: Sequence[str] = (),
        columns: Sequence[str] = (),
    ) -> pa.Table:
        """Return the creators with the highest OAAR score for an adjective.

        Args:
            adjective: One that was published, else any that the table's text encoder knows.
            k: How many.
            where: As in `lookalikes`, and so on.
            where_sql: Filter in Lance's SQL.
            adjectives: Published ones.
            columns: Others.

        Returns:
            `creator_id`, `score` (in [-1, 1]; not comparable between adjectives), `percentile`
            (of the score among all creators, in [0, 100]; only of published adjectives), and more:
            see the class.

        Raises:
            InputError: Not an adjective; a filter that does not parse; or the adjective was not
                published and the encoder cannot be loaded.
            SpaceError: The encoder is another one than the table's.
        """
        _check_k(k)
        shown = self._shown(adjectives, columns)
        chosen = Filter.of(where, where_sql, self.schema)
        column = schemas.oaar_column(adjective)
        if column in self.adjectives.values():
            return nearest.highest(self._dataset, column, k=k, chosen=chosen, columns=shown)
        return nearest.products(
            *(self._dataset, "mean_embedding", self._direction(adjective)),
            k=k,
            chosen=chosen,
            columns=shown,
        )

    def _direction(self, adjective: str) -> np.ndarray:
        close = close_to(adjective, self.adjectives)
        unknown = (
            f"adjective {adjective!r} is not in {self.uri}{close};"
            f" published are: {', '.join(self.adjectives)}"
        )
        try:
            [word] = oaar.parse(adjective, "--adjective")
        except (InputError, ValueError):
            raise InputError(unknown) from None
        log.info("adjective %r is not published%s: scoring it now", word, close)
        try:
            return oaar.directions([word], self._query_encoder().encode_texts)[0]
        except MotifError as error:
            raise type(error)(f"{unknown}; nor can it be scored now: {error}") from error

    def _vector_of(
        self, seed: Seed | None, images: Sequence[Image]
    ) -> tuple[np.ndarray, Sequence[str]]:
        """Return what to be near to, and the creators that it was made from."""
        dim = self.schema.field("same").type.list_size
        if creators := seeds.creators_in(seed):
            rows = schemas.matrix(self.get(creators, columns=["same"])["same"])
            return seeds.middle(rows, dim, what="the creators"), creators
        if (vector := seeds.vector_in(seed)) is not None:
            return seeds.unit(vector, dim, what="the seed"), ()
        given = list(images) if seed is None else seeds.images_in(seed)
        if not given:
            raise InputError("the seed is empty: name creators, a vector or images")
        rows = self._query_encoder().encode_images(given)
        return seeds.middle(rows, dim, what="the images"), ()

    def _query_encoder(self) -> QueryEncoder:
        if isinstance(self._encoder, str):
            # By name: what needs no text and no image must not wait for torch.
            module = importlib.import_module("motif.query_encoder")
            self._encoder = module.QueryEncoder(
                self.space,
                encoder=self._encoder or self._metadata.get("encoder_source", ""),
                model=self._model or self._metadata.get("model", ""),
            )
        return self._encoder

    def _shown(self, adjectives: Sequence[str], columns: Sequence[str]) -> list[str]:
        """Return the columns of an answer, but for the first ones."""
        names = list(SHOWN)
        for adjective in adjectives:
            column = schemas.oaar_column(adjective)
            if column not in self.adjectives.values():
                raise InputError(
                    f"adjective {adjective!r} is not in"
                    f" {self.uri}{close_to(adjective, self.adjectives)};"
                    f" published are: {', '.join(self.adjectives)}"
                )
            names.append(column)
            if (percentile := schemas.percentile_column(adjective)) in self.schema.names:
                names.append(percentile)
        return list(dict.fromkeys([*names, *self._known(columns)]))

    def _known(self, columns: Sequence[str]) -> Sequence[str]:
        for name in columns:
            if name not in self.schema.names:
                raise InputError(
                    f"column {name!r} is not in {self.uri}{close_to(name, self.schema.names)};"
                    f" its columns are: {', '.join(self.schema.names)}"
                )
        return columns

    def _refuse_ids(self, ids: Sequence[str]) -> NoReturn:
        close = close_to(ids[0], self.creator_ids()) if len(self) <= GUESSED_IDS else ""
        if len(ids) == 1:
            raise InputError(f"creator {ids[0]!r} is not in {self.uri}{close}")
        shown = ", ".join(repr(one) for one in ids[:5])
        raise InputError(
            f"{len(ids)} creators are not in {self.uri}: {shown}{', ...' if ids[5:] else ''}"
        )


def _check_k(k: int) -> None:
    if not 1 <= k <= 10_000:
        raise InputError(f"-k {k}: expected 1 to 10000")
