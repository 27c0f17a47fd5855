"""EMBEDDINGS and a SAME checkpoint -> CREATORS, a LanceDB table.

ray job submit --working-dir . --runtime-env-json '{"env_vars": {"PYTHONPATH": "lib"}}' -- \
    python -m jobs.publish_creators \
        --embeddings URI --model URI --table s3://bucket/db/creators.lance
"""

import logging
from dataclasses import dataclass
from typing import Any

from motif import adjectives, command, publishing, storage
from motif import space as spaces
from motif.artefacts import run
from motif.artefacts.checkpoint import Checkpoint
from motif.artefacts.embeddings import Embeddings
from motif.encoder.encoder import Encoder
from motif.encoder.source import resolve
from motif.errors import InputError
from motif.on_ray import publish, session
from motif.table import TableUri

log = logging.getLogger("motif.publish_creators")


@dataclass(frozen=True, kw_only=True)
class Config:
    """Publish creators: SAME vectors and OAAR scores, visible to readers all at once."""

    embeddings: str
    """Folder of EMBEDDINGS. Local or s3://."""
    model: str
    """Folder of a SAME checkpoint that was trained in the same space."""
    table: str
    """DATABASE/TABLE.lance: created, or given a new version when it is ours."""
    adjectives: str = ""
    """File with one adjective per line; by default 32 that a brand would use."""
    encoder: str = ""
    """Where to load the text encoder from, if not from where EMBEDDINGS had it."""
    dry_run: bool = False
    """Say what would be published; write nothing."""
    json: bool = False
    """Print run.json on standard output."""


def main(config: Config) -> dict[str, Any]:
    """Check that all is of one space, aggregate by bucket, commit once, move `live`."""
    recorder = run.Recorder("creators", config)
    table = TableUri.parse(config.table)
    publishing.require_ours(table)
    embeddings = Embeddings.open(config.embeddings)
    checkpoint = Checkpoint.open(config.model)
    spaces.require_same(
        embeddings.space,
        checkpoint.encoder_space,
        what=f"--embeddings {config.embeddings}",
        needed_by=f"--model {config.model}",
    )
    if checkpoint.config.input_column not in embeddings.schema.names:
        raise InputError(
            f"--model {config.model} reads the column {checkpoint.config.input_column!r}, which"
            f" {config.embeddings} lacks; encode again without --no-features"
        )
    words = read_adjectives(config.adjectives)
    if config.dry_run:
        plan = plan_of(embeddings, checkpoint, words, table)
        return command.show_plan(plan, as_json=config.json)
    with recorder.timed("directions"):
        encoder = Encoder(resolve(config.encoder or embeddings.encoder))
        spaces.require_same(
            encoder.space, embeddings.space, what="the encoder", needed_by=config.embeddings
        )
        directions = publishing.Directions(
            words, adjectives.directions(words, encoder.encode_texts)
        )
    schema = publishing.schema_of(checkpoint, directions, recorder.run_id)
    session.connect()
    with recorder.timed("aggregate"):
        buckets = publish.publish_buckets(
            embeddings,
            model=checkpoint.uri,
            table=table,
            directions=directions,
            schema=schema,
            updated_at=recorder.started_at,
        )
    with recorder.timed("commit"):
        published = publishing.commit(
            table,
            schema,
            [fragment for bucket in buckets for fragment in bucket["fragments"]],
            expected_rows=embeddings.counts["creators"],
        )
    record = recorder.write(
        storage.join(table.database, f"{table.name}.run.json"),
        counts={
            "images": sum(bucket["images"] for bucket in buckets),
            "creators": published["rows"],
            "adjectives": len(words),
        },
        space={"fingerprint": checkpoint.fingerprint, "encoder": embeddings.space.to_json()},
        table_version=published["version"],
        model_run_id=checkpoint.run_id,
        architecture=checkpoint.config.architecture,
    )
    log.info(
        "%s: `live` is version %d with %d creators of %d images",
        *(table.uri, published["version"], published["rows"], record["counts"]["images"]),
    )
    return record


def read_adjectives(uri: str) -> list[str]:
    """Return the adjectives of a file, or the default ones.

    Raises:
        InputError: The file is absent or holds something else.
    """
    if not uri:
        return adjectives.default_adjectives()
    try:
        return adjectives.parse(storage.read_bytes(uri).decode("utf-8-sig"), uri)
    except FileNotFoundError as error:
        raise InputError(f"--adjectives {uri} does not exist") from error
    except (UnicodeDecodeError, IsADirectoryError) as error:
        raise InputError(f"--adjectives {uri} is not a text file in UTF-8") from error


def plan_of(
    embeddings: Embeddings, checkpoint: Checkpoint, words: list[str], table: TableUri
) -> dict[str, Any]:
    """Return what `--dry-run` says."""
    creators = embeddings.counts["creators"]
    floats = checkpoint.config.dim + embeddings.space.dim + len(words)
    return {
        "dry_run": True,
        "images": embeddings.counts["embedded"],
        "creators": creators,
        "adjectives": len(words),
        "architecture": checkpoint.config.architecture,
        "space": {"fingerprint": checkpoint.fingerprint},
        "table": table.uri,
        "table_exists": storage.exists(table.uri),
        "estimated_table_bytes": creators * floats * 4,
    }


if __name__ == "__main__":
    command.run_job(main, Config, name="python -m jobs.publish_creators")
