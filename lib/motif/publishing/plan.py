"""Whether a publish recomputes everybody or only those whose images changed."""

from dataclasses import dataclass
from typing import Any

from motif import schemas
from motif.artefacts.checkpoint import Checkpoint
from motif.artefacts.embeddings import Embeddings
from motif.publishing.commit import Tagged

FULL, INCREMENTAL = "full", "incremental"


@dataclass(frozen=True)
class Mode:
    """How to publish, and why."""

    kind: str
    """`full` or `incremental`."""
    refit: bool
    """Whether the population is fitted anew."""
    reason: str


def choose(
    base: Tagged | None,
    embeddings: Embeddings,
    checkpoint: Checkpoint,
    *,
    full: bool,
    refit_population: bool,
) -> Mode:
    """Choose from what the version before was made of.

    Args:
        base: What is published under the tag, which is mostly `live`.
        embeddings: To be published.
        checkpoint: SAME.
        full: Asked for: everybody, with the population as it is.
        refit_population: Asked for: everybody, and the population anew.
    """
    if base is None:
        return Mode(FULL, True, "nothing was published there yet")
    if base.metadata.get("schema_version") != schemas.CREATORS_VERSION:
        return Mode(FULL, True, "the table was published in an older form")
    if base.metadata["space"]["fingerprint"] != checkpoint.fingerprint:
        return Mode(FULL, True, "the model is another one")
    if refit_population:
        return Mode(FULL, True, "--refit-population")
    if full:
        return Mode(FULL, False, "--full")
    if base.publish is None:
        return Mode(FULL, False, "the record of the publish before is gone")
    if base.publish["embeddings"] != embeddings.uri:
        return Mode(FULL, False, "--embeddings is another artefact")
    return Mode(INCREMENTAL, False, f"since version {base.version}")


def staging_plan(
    mode: Mode, base: Tagged | None, embeddings: Embeddings, checkpoint: Checkpoint
) -> dict[str, Any]:
    """Return what must be equal for the drafts of a publish that was cut off to be used."""
    return {
        "embeddings": [embeddings.uri, embeddings.snapshot.run_id],
        "model": checkpoint.fingerprint,
        "kind": mode.kind,
        "since": base.metadata["run_id"] if base and mode.kind == INCREMENTAL else None,
        "version": schemas.CREATORS_VERSION,
    }
