"""EMBEDDINGS -> the same EMBEDDINGS, tidy: one file per bucket, no removed images.

ray job submit --working-dir . --runtime-env-json '{"env_vars": {"PYTHONPATH": "lib"}}' -- \
    python -m jobs.compact_embeddings --embeddings URI
"""

from dataclasses import dataclass
from typing import Any

from motif import command, storage
from motif.artefacts import embeddings, lock, run
from motif.errors import InputError
from motif.images import compact
from motif.on_ray import compaction, session


@dataclass(frozen=True, kw_only=True)
class Config:
    """Rewrite the files that runs have added as one per bucket, and leave out removed images.

    Readers see the old files or the new ones, never both. The old ones stay until the next run of
    this command or of encode_images, so there must be room for both; with another number of buckets
    for the images a third time while it works. Cut off, it changes nothing: run it again.
    """

    embeddings: str
    """Folder of EMBEDDINGS, finished. Local or s3://."""
    buckets: int = 0
    """Also change the number of buckets to this; 0 keeps it. A task holds a bucket in memory: one
    per 50,000 images is a good number."""
    single_writer: bool = False
    """Do without the lock, on storage without conditional writes: you see to it that no other run
    writes to the folder."""
    endpoint_url: str = ""
    """Of an S3-compatible store; AWS_ENDPOINT_URL does the same."""
    stall_seconds: float = 900.0
    """End with exit code 6 when nothing has moved for so long."""
    dry_run: bool = False
    """Say what would be rewritten; write nothing."""
    json: bool = False
    """Print run.json on standard output."""


def main(config: Config) -> dict[str, Any]:
    """Look, then rewrite under the same lock as encode_images; returns run.json."""
    if not 1 <= config.stall_seconds <= 86_400 * 7:
        raise InputError(f"--stall-seconds {config.stall_seconds}: expected 1 to {86_400 * 7}")
    recorder = run.Recorder(embeddings.ARTEFACT, config)
    output = storage.absolute(config.embeddings)
    session.use_endpoint(config.endpoint_url)
    plan = compact.make_plan(output, config.buckets)
    if config.dry_run:
        return command.show_plan({"dry_run": True, **plan.describe()}, as_json=config.json)
    with lock.hold(output, run_id=recorder.run_id, single_writer=config.single_writer) as held:
        return compaction.perform(
            output,
            buckets=config.buckets,
            recorder=recorder,
            held=held,
            stall_seconds=config.stall_seconds,
        )


if __name__ == "__main__":
    command.run_job(main, Config, name="python -m jobs.compact_embeddings")
