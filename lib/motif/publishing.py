"""EMBEDDINGS x SAME checkpoint -> rows of CREATORS, and their commit into a Lance table."""

import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import lance
import lancedb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from lance.fragment import FragmentMetadata, write_fragments
from lancedb.index import BTree

from motif import adjectives, schemas, storage
from motif.artefacts.checkpoint import Checkpoint
from motif.errors import ContractError, OutputError
from motif.model import as_inputs, embed
from motif.pooling import pool, representatives
from motif.table.layout import LIVE, METADATA_KEY, TableUri, is_unfinished, metadata_of


@dataclass(frozen=True)
class Directions:
    """Adjectives and their unit directions in the encoder's space."""

    adjectives: Sequence[str]
    vectors: np.ndarray
    """(adjectives, dim) float32."""


def schema_of(checkpoint: Checkpoint, directions: Directions, run_id: str) -> pa.Schema:
    """Return CREATORS with the record that readers check: artefact, schema version, space."""
    record = {
        "artefact": "creators",
        "schema_version": schemas.SCHEMA_VERSION,
        "run_id": run_id,
        "space": {
            "fingerprint": checkpoint.fingerprint,
            "encoder": checkpoint.encoder_space.to_json(),
        },
        "adjectives": {a: schemas.oaar_column(a) for a in directions.adjectives},
    }
    schema = schemas.creators(
        checkpoint.config.dim, checkpoint.encoder_space.dim, directions.adjectives
    )
    return schema.with_metadata({METADATA_KEY: json.dumps(record).encode()})


def creators_of_bucket(
    rows: pa.Table,
    checkpoint: Checkpoint,
    directions: Directions,
    *,
    updated_at: datetime,
    schema: pa.Schema,
    device: str,
) -> pa.Table:
    """Aggregate the images of whole creators.

    Args:
        rows: EMBEDDINGS of one bucket, sorted by creator.
        checkpoint: SAME.
        directions: For the OAAR columns.
        updated_at: Of every row of this publish.
        schema: Of CREATORS.
        device: Where the network runs.

    Returns:
        One row per creator, sorted.

    Raises:
        ContractError: A creator's images have no common direction.
    """
    if not rows.num_rows:
        return schema.empty_table()
    ids = rows["creator_id"].to_numpy(zero_copy_only=False)
    starts = np.flatnonzero(np.r_[True, ids[1:] != ids[:-1]])
    offsets = np.r_[starts, len(ids)]
    embedding = schemas.matrix(rows["embedding"])
    inputs = torch.tensor(schemas.matrix(rows[checkpoint.config.input_column]))
    same = embed(checkpoint.model.to(device), as_inputs(inputs).to(device)).cpu().numpy()
    lengths = np.linalg.norm(np.add.reduceat(same, starts, axis=0), axis=1)
    if lost := [str(creator) for creator in ids[starts[~(lengths > 0)]]]:
        raise ContractError(
            f"{len(lost)} creators have no direction in SAME's space (first: {lost[0]!r}): their"
            " embeddings are zero, not finite or cancel out; encode them again or leave them out"
        )
    vectors = pool(same, embedding, offsets)
    scores = adjectives.scores(vectors.mean_embedding, directions.vectors)
    hashes = {n: rows[n].to_pylist() for n in ("uri", "content_hash", "perceptual_hash")}
    chosen = []
    for i, (start, stop) in enumerate(itertools.pairwise(offsets)):
        best = representatives(
            same[start:stop],
            vectors.same[i],
            hashes["content_hash"][start:stop],
            hashes["perceptual_hash"][start:stop],
        )
        chosen.append([hashes["uri"][start + index] for index in best])
    consistency = vectors.theme_consistency
    table = pa.table(
        {
            "creator_id": pa.array(ids[starts], pa.string()),
            "same": schemas.vector_array(vectors.same),
            "mean_embedding": schemas.vector_array(vectors.mean_embedding),
            "image_count": vectors.image_count,
            "theme_consistency": pa.array(consistency, mask=np.isnan(consistency)),
            **{
                schemas.oaar_column(adjective): scores[:, i].astype(np.float32)
                for i, adjective in enumerate(directions.adjectives)
            },
            "representative_uris": pa.array(chosen, pa.list_(pa.string())),
            "updated_at": pa.array([updated_at] * len(starts), pa.timestamp("us", tz="UTC")),
        }
    )
    return schemas.conform(table, schema)


def write_rows(table: TableUri, rows: pa.Table) -> list[str]:
    """Write rows as Lance fragments that no version holds yet; return them for `commit`."""
    if not rows.num_rows:
        return []
    fragments = write_fragments(
        rows,
        table.uri,
        schema=rows.schema,
        mode="overwrite",
        storage_options=storage.lance_options(table.uri),
    )
    return [json.dumps(fragment.to_json()) for fragment in fragments]


def require_ours(table: TableUri) -> None:
    """Refuse to write where something else is.

    Raises:
        OutputError: The place holds something that is not a CREATORS table.
    """
    fs, path = storage.open_filesystem(table.uri)
    fs.invalidate_cache()
    if not fs.exists(path):
        return
    try:
        schema = lance.dataset(table.uri, storage_options=storage.lance_options(table.uri)).schema
    except (ValueError, OSError) as error:
        if is_unfinished(table):
            return
        raise OutputError(
            f"--table {table.uri} is there and is no Lance table; it is left as it is: name another"
        ) from error
    if metadata_of(schema) is None:
        raise OutputError(
            f"--table {table.uri} is a Lance table that Motif did not make; it is left as it is:"
            " name another"
        )


def commit(
    table: TableUri, schema: pa.Schema, fragments: Sequence[str], *, expected_rows: int
) -> dict[str, Any]:
    """Make one version of all fragments, index it, check it, and move `live` to it.

    Readers of `live` see the old version until the last step.

    Returns:
        `version`, `rows`.

    Raises:
        ContractError: The new version is not what was planned; `live` has not moved.
    """
    options = storage.lance_options(table.uri)
    parts = [FragmentMetadata.from_json(fragment) for fragment in fragments]
    # Before the commit as well as after it: a client that ignores the tag reads the latest version.
    if (written := sum(part.physical_rows for part in parts)) != expected_rows:
        raise ContractError(
            f"{table.uri}: workers wrote {written} rows, planned {expected_rows}; nothing was"
            " committed: repeat the run"
        )
    lance.LanceDataset.commit(
        table.uri, lance.LanceOperation.Overwrite(schema, parts), storage_options=options
    )
    opened = lancedb.connect(table.database, storage_options=options).open_table(table.name)
    opened.create_index("creator_id", config=BTree(), replace=True)
    ours, latest = metadata_of(schema) or {}, metadata_of(opened.schema) or {}
    if latest.get("run_id") != ours.get("run_id"):
        raise OutputError(
            f"{table.uri}: another publish committed at the same time; `{LIVE}` is left to it"
        )
    rows = opened.count_rows()
    ids = opened.to_lance().to_table(columns=["creator_id"])["creator_id"]
    unique = pc.count_distinct(ids).as_py()
    if not rows == unique == expected_rows:
        raise ContractError(
            f"{table.uri} version {opened.version}: {rows} rows of {unique} creators, planned"
            f" {expected_rows}; `{LIVE}` stays where it was"
        )
    tags = opened.tags
    (tags.update if LIVE in tags.list() else tags.create)(LIVE, opened.version)
    return {"version": opened.version, "rows": rows}
