"""EMBEDDINGS and a SAME checkpoint -> CREATORS, a LanceDB table.

ray job submit --working-dir . --runtime-env-json '{"env_vars": {"PYTHONPATH": "lib"}}' -- \
    python -m jobs.publish_creators \
        --embeddings URI --model URI --table s3://bucket/db/creators.lance
"""

import logging
from dataclasses import dataclass
from typing import Any

from motif import adjectives, command, storage
from motif import space as spaces
from motif.artefacts import lock, run
from motif.artefacts.checkpoint import Checkpoint
from motif.artefacts.embeddings import Embeddings
from motif.errors import InputError
from motif.on_ray import capacity, publishing_run, session
from motif.on_ray.capacity import Capacity
from motif.publishing import attributes, changes, commit, plan
from motif.publishing.commit import Tagged
from motif.publishing.directions import Directions
from motif.table import LIVE, TableUri
from motif.table.layout import CANDIDATE

log = logging.getLogger("motif.publish_creators")


@dataclass(frozen=True, kw_only=True)
class Config(Capacity):
    """Publish creators: SAME vectors and OAAR scores, visible to readers all at once."""

    embeddings: str
    """Folder of EMBEDDINGS. Local or s3://."""
    model: str
    """Folder of a SAME checkpoint that was trained in the same space."""
    table: str
    """DATABASE/TABLE.lance: created, or given a new version when it is ours."""
    adjectives: str = ""
    """File with one adjective per line; by default 32 that a brand would use."""
    attributes: str = ""
    """Table (.parquet, .csv, .jsonl): `creator_id`, and columns to filter by, such as country."""
    full: bool = False
    """Recompute every creator, with the population's statistics as they are."""
    refit_population: bool = False
    """Recompute every creator, and what percentiles, reliability and hubness refer to."""
    max_hit_rate_drop: float = 0.02
    """A version whose hit rate on held-out creators is lower by more does not go live."""
    candidate: bool = False
    """Check the version against the live one and tag it `candidate`, but leave readers where they
    are; `motif promote` makes it live. So two spaces can be in one table."""
    encoder: str = ""
    """Where to load the text encoder from, if not from where EMBEDDINGS had it."""
    single_writer: bool = False
    """Do not lock the table: you see to it that nothing else writes it."""
    dry_run: bool = False
    """Say what would be published; write nothing."""
    json: bool = False
    """Print the publish's record on standard output."""

    def check(self) -> None:
        """Refuse what makes no sense.

        Raises:
            InputError: A flag is out of range.
        """
        super().check()
        if not 0 <= self.max_hit_rate_drop <= 1:
            raise InputError(f"--max-hit-rate-drop {self.max_hit_rate_drop}: expected 0 to 1")


def main(config: Config) -> dict[str, Any]:
    """Check that all is of one space; then, alone on the table, publish."""
    config.check()
    recorder = run.Recorder("creators", config)
    table = TableUri.parse(config.table)
    commit.require_ours(table)
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
    joined = attributes.read(config.attributes) if config.attributes else None
    if config.dry_run:
        base = commit.open_tagged(table, tag_of(config))
        return command.show_plan(
            plan_of(config, table, base, embeddings, checkpoint, words), as_json=config.json
        )
    session.connect()
    capacity.wait_for(config)
    with lock.hold(
        table.beside(), run_id=recorder.run_id, single_writer=config.single_writer
    ) as held:
        base = commit.open_tagged(table, tag_of(config))
        with recorder.timed("directions"):
            directions = directions_of(config, table, base, embeddings, words)
        job = publishing_run.PublishingRun(
            table=table,
            tag=tag_of(config),
            base=base,
            live=commit.open_tagged(table),
            mode=mode_of(config, base, embeddings, checkpoint),
            embeddings=embeddings,
            checkpoint=checkpoint,
            directions=directions,
            attributes=joined,
            max_hit_rate_drop=config.max_hit_rate_drop,
            recorder=recorder,
            held=held,
        )
        return job.run()


def tag_of(config: Config) -> str:
    """Return the tag that the new version is to have."""
    return CANDIDATE if config.candidate else LIVE


def mode_of(
    config: Config, base: Tagged | None, embeddings: Embeddings, checkpoint: Checkpoint
) -> plan.Mode:
    """Return how to publish."""
    return plan.choose(
        base,
        embeddings,
        checkpoint,
        full=config.full,
        refit_population=config.refit_population,
    )


def directions_of(
    config: Config,
    table: TableUri,
    base: Tagged | None,
    embeddings: Embeddings,
    words: list[str],
) -> Directions:
    """Return the adjectives' directions: those of the version before, the encoder's for new ones.

    Raises:
        SpaceError: The text encoder is not the one of EMBEDDINGS.
    """
    known: Directions | None = None
    if base is not None and "directions" in base.metadata:
        encoder_space = base.metadata["space"]["encoder"]["fingerprint"]
        if encoder_space == embeddings.space.fingerprint:
            known = Directions.read(table, base.metadata["directions"])
    new = [word for word in words if known is None or word not in known.adjectives]
    if not new:
        assert known is not None
        return known.select(words)
    # Here, since it takes seconds and most publishes know all their adjectives.
    from motif.encoder.encoder import Encoder
    from motif.encoder.source import resolve

    encoder = Encoder(resolve(config.encoder or embeddings.encoder))
    spaces.require_same(
        encoder.space, embeddings.space, what="the encoder", needed_by=config.embeddings
    )
    made = Directions.of(new, encoder.encode_texts)
    return (made if known is None else known.joined(made)).select(words)


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
    config: Config,
    table: TableUri,
    base: Tagged | None,
    embeddings: Embeddings,
    checkpoint: Checkpoint,
    words: list[str],
) -> dict[str, Any]:
    """Return what `--dry-run` says."""
    mode = mode_of(config, base, embeddings, checkpoint)
    creators = embeddings.counts["creators"]
    floats = checkpoint.config.dim + embeddings.space.dim + 2 * len(words)
    found: dict[str, Any] = {
        "dry_run": True,
        "mode": mode.kind,
        "because": mode.reason,
        "refit_population": mode.refit,
        "images": embeddings.counts["embedded"],
        "creators": creators,
        "adjectives": len(words),
        "architecture": checkpoint.config.architecture,
        "space": {"fingerprint": checkpoint.fingerprint},
        "table": table.uri,
        "table_exists": storage.exists(table.uri),
        "estimated_table_bytes": creators * floats * 4,
    }
    if base is not None and mode.kind == plan.INCREMENTAL:
        assert base.publish is not None
        changed = changes.changed_buckets(embeddings, base.publish["parts"])
        found["buckets_to_look_at"] = f"{len(changed)} of {embeddings.buckets}"
    return found


if __name__ == "__main__":
    command.run_job(main, Config, name="python -m jobs.publish_creators")
