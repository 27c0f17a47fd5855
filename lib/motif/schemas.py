"""The Arrow schemas of the artefacts: the only thing that two jobs share.

Rows leave a job only through `conform`. Column names are a contract with other people's scripts.
"""

from collections.abc import Iterable

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float, Float32

from motif.errors import ContractError

SCHEMA_VERSION = 3

IMAGES = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("creator_id", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("version", pa.string()),
        pa.field("posted_at", pa.timestamp("us", tz="UTC")),
    ]
)

FAILURES = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("creator_id", pa.string()),
        pa.field("uri", pa.string()),
        pa.field("version", pa.string()),
        pa.field("stage", pa.string(), nullable=False),
        pa.field("error_class", pa.string(), nullable=False),
        pa.field("message", pa.string(), nullable=False),
        pa.field("attempts", pa.int32(), nullable=False),
    ]
)

# Of FAILURES; `invalid_row` apart, which a manifest's own rows have.
ERROR_CLASSES = (
    *("not_found", "denied", "throttled", "timeout", "unreachable", "too_large"),
    *("truncated", "not_an_image", "bomb", "unsupported", "encoder"),
)

# Images that left a full manifest; their rows stay in EMBEDDINGS until these are compacted.
REMOVED = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("creator_id", pa.string(), nullable=False),
        pa.field("removed_at", pa.timestamp("us", tz="UTC"), nullable=False),
    ]
)

# Columns of EMBEDDINGS, and those that rows have while they are on their way to it: no column of a
# manifest may travel under one of these names.
RESERVED = frozenset(
    (
        *("bucket", "embedding", "features", "content_hash", "perceptual_hash", "pixels"),
        *("stage", "error_class", "message", "attempts"),
        *("fetch_seconds", "decode_seconds", "encode_seconds"),
    )
)


# Of the table CREATORS alone, whose columns are a public contract of their own.
CREATORS_VERSION = 4
CREATOR_DRAFT = (
    pa.field("creator_id", pa.string(), nullable=False),
    pa.field("image_count", pa.int32(), nullable=False),
    pa.field("theme_consistency", pa.float32()),
    pa.field("representative_uris", pa.list_(pa.string()), nullable=False),
    pa.field("images_digest", pa.string(), nullable=False),
    pa.field("updated_at", pa.timestamp("us", tz="UTC"), nullable=False),
)

# Of the table of recommendations alone.
RECOMMENDATIONS_VERSION = 1
RECOMMENDATIONS = pa.schema(
    [
        pa.field("brand_id", pa.string(), nullable=False),
        pa.field("creator_id", pa.string(), nullable=False),
        pa.field("rank", pa.int32(), nullable=False),
        pa.field("score", pa.float32(), nullable=False),
        pa.field("method", pa.string(), nullable=False),
        pa.field("because", pa.list_(pa.string()), nullable=False),
    ]
)

FLOAT = pa.float32()
# Of `features`, which with float32 have the same hit rates and twice the bytes.
HALF = pa.float16()


def vector(dim: int, item: pa.DataType = FLOAT) -> pa.DataType:
    """Return the type of stored vectors: a fixed-size list of `dim` floats."""
    return pa.list_(pa.field("item", item, nullable=False), dim)


def vector_array(
    values: Float[np.ndarray, "rows dim"],
    valid: Bool[np.ndarray, " rows"] | None = None,
    *,
    item: pa.DataType = FLOAT,
) -> pa.Array:
    """Return rows of a matrix as Arrow vectors; rows that are not `valid` are null."""
    flat = pa.array(np.ascontiguousarray(values, dtype=item.to_pandas_dtype()).reshape(-1))
    mask = None if valid is None else pa.array(~valid)
    return pa.FixedSizeListArray.from_arrays(flat, type=vector(values.shape[1], item), mask=mask)


def matrix(column: pa.ChunkedArray) -> Float32[np.ndarray, "rows dim"]:
    """Return Arrow vectors of any float, none of them null, as the rows of a float32 matrix."""
    dim = column.type.list_size
    flat = column.combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return flat.astype(np.float32, copy=False).reshape(-1, dim)


def images(carried: Iterable[pa.Field] = ()) -> pa.Schema:
    """Return IMAGES with the manifest columns that travel along."""
    return pa.schema([*IMAGES, *carried])


def embeddings(
    dim: int, *, features_dim: int | None = None, carried: Iterable[pa.Field] = ()
) -> pa.Schema:
    """Return EMBEDDINGS: IMAGES, the unit `embedding`, the two hashes, carried columns.

    Args:
        dim: Length of `embedding`.
        features_dim: Length of `features` (the spatial mean of each stage of the image tower, at
            unit length, one after the other; float16); None leaves that column out.
        carried: Manifest columns that travel along.
    """
    fields = [*IMAGES, pa.field("embedding", vector(dim), nullable=False)]
    if features_dim is not None:
        fields.append(pa.field("features", vector(features_dim, HALF), nullable=False))
    fields += [
        pa.field("content_hash", pa.string(), nullable=False),
        pa.field("perceptual_hash", pa.string(), nullable=False),
        *carried,
    ]
    return pa.schema(fields)


def creators(
    same_dim: int,
    embedding_dim: int,
    adjectives: Iterable[str],
    attributes: Iterable[pa.Field] = (),
) -> pa.Schema:
    """Return CREATORS: `creator_id` first, since merges match on the first field (lancedb#3515).

    Args:
        same_dim: Length of `same`.
        embedding_dim: Length of `mean_embedding`.
        adjectives: Each with a column of scores and one of percentiles.
        attributes: Columns that the publisher joins to creators; nullable.
    """
    return pa.schema(
        [
            *CREATOR_DRAFT,
            pa.field("same", vector(same_dim), nullable=False),
            pa.field("mean_embedding", vector(embedding_dim), nullable=False),
            pa.field("theme_reliability", pa.float32(), nullable=False),
            pa.field("hubness", pa.float32(), nullable=False),
            *(
                pa.field(column, pa.float32(), nullable=False)
                for adjective in adjectives
                for column in (oaar_column(adjective), percentile_column(adjective))
            ),
            *attributes,
        ]
    )


def creator_drafts(same_dim: int, embedding_dim: int) -> pa.Schema:
    """Return what of CREATORS is known from a creator's own images alone."""
    return pa.schema(
        [
            *CREATOR_DRAFT,
            pa.field("same", vector(same_dim), nullable=False),
            pa.field("mean_embedding", vector(embedding_dim), nullable=False),
        ]
    )


def oaar_column(adjective: str) -> str:
    """Return the CREATORS column of an adjective: `black-and-white` -> `oaar_black_and_white`."""
    return "oaar_" + "".join(c if c.isalnum() else "_" for c in adjective.strip().lower())


def percentile_column(adjective: str) -> str:
    """Return the CREATORS column of an adjective's percentile: `oaar_vivid_pct`."""
    return f"{oaar_column(adjective)}_pct"


def conform(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """Return `table` cut and cast to `schema`.

    Raises:
        ContractError: A column is missing, does not cast, or holds a forbidden null.
    """
    if missing := sorted(set(schema.names) - set(table.column_names)):
        raise ContractError(f"missing columns {missing}, have {table.column_names}")
    try:
        cast = table.select(schema.names).cast(schema)
        cast.validate()
    except (pa.ArrowInvalid, ValueError) as error:
        raise ContractError(f"rows break their contract: {error}") from error
    for field in schema:
        if not field.nullable and cast[field.name].null_count:
            raise ContractError(f"column {field.name} holds {cast[field.name].null_count} nulls")
    return cast
