"""IMAGES -> EMBEDDINGS and FAILURES.

ray job submit --working-dir . --runtime-env-json '{"env_vars": {"PYTHONPATH": "lib"}}' -- \
    python -m jobs.encode_images --images URI --output URI
"""

import logging
from dataclasses import dataclass
from typing import Any

import torch

from motif import command, storage
from motif.artefacts import embeddings, run
from motif.encoder.encoder import Encoder, resolve
from motif.errors import InputError
from motif.images.manifest import read_images
from motif.images.plan import Plan
from motif.on_ray import encode, session

log = logging.getLogger("motif.encode_images")


@dataclass(frozen=True, kw_only=True)
class Config:
    """Encode a library of images: one EMBEDDINGS row per image, one FAILURES row per bad one."""

    images: str
    """Manifest (.csv, .jsonl, .parquet with creator_id and uri; relative URIs are taken from its
    own folder) or a folder with one subfolder per creator. Local or s3://."""
    output: str
    """Folder of EMBEDDINGS: created, or continued when an earlier run was cut off."""
    encoder: str = "ViT-B-32/laion2b_s34b_b79k"
    """NAME/PRETRAINED or NAME/FILE of open_clip, or `lite`, which needs no model hub."""
    carry: str = ""
    """Manifest columns that travel into EMBEDDINGS, separated by commas."""
    features: bool = False
    """Also keep what the image tower pools before its projection, as the column `features`."""
    max_failed_fraction: float = 0.1
    """End with exit code 4 when more than this fraction of the images failed."""
    batch_size: int = 64
    """Images per batch of the encoder."""
    float32: bool = False
    """Encode in float32 even where the hardware has bfloat16."""
    buckets: int = 0
    """Files of EMBEDDINGS; 0 takes one per 20,000 images, at least 4."""
    overwrite: bool = False
    """Replace EMBEDDINGS that are already at the output."""
    dry_run: bool = False
    """Say what would be done and how long it would take, from a timed sample; write nothing."""
    json: bool = False
    """Print run.json on standard output."""


def main(config: Config) -> dict[str, Any]:
    """Plan by bucket, stage rows as they are encoded, then make each bucket whole."""
    check(config)
    recorder = run.Recorder(embeddings.ARTEFACT, config)
    output = storage.absolute(config.output)
    run.require_replaceable(output, embeddings.ARTEFACT, overwrite=config.overwrite)
    with recorder.timed("plan"):
        manifest = read_images(config.images, carry=command.split_names(config.carry))
        source = resolve(config.encoder)
        encoder = Encoder(source, precision=torch.float32 if config.float32 else None)
        features_dim = encoder.features_dim if config.features else None
        plan = Plan.make(manifest, encoder.space, features_dim=features_dim, buckets=config.buckets)
    if config.dry_run:
        return command.show_plan(plan.estimate(encoder), as_json=config.json)
    session.connect()
    identity = {**plan.identity(), "float32": config.float32}
    continued = run.claim(
        output,
        embeddings.ARTEFACT,
        overwrite=config.overwrite,
        owned=embeddings.OWNED,
        plan=identity,
    )
    staging = embeddings.staging_of(output, identity)
    pending = plan.pending(staging) if continued else plan.images
    log.info(
        "encoding %d images of %s with %s into %s (%d duplicate rows collapsed, %d done before)",
        *(pending.num_rows, config.images, config.encoder, output, plan.duplicates),
        plan.images.num_rows - pending.num_rows,
    )
    with recorder.timed("encode"):
        done = encode.run_pipeline(
            pending,
            plan,
            staging,
            encoder=source.name,
            batch_size=config.batch_size,
            float32=config.float32,
        )
    plan.require_few_failures(done.failed, config.max_failed_fraction, staging)
    with recorder.timed("finish"):
        counts = encode.finish_buckets(plan, output, staging)
    record = recorder.finish(
        output,
        counts=counts,
        space=plan.space.to_json(),
        buckets=plan.buckets,
        encoder=source.name,
        precision=sorted(done.precisions),
        stages=done.summary(),
    )
    storage.remove(storage.join(output, "_staging"))
    log.info(
        "%s: %d rows = %d embedded + %d failed %s + %d duplicates; the most time went into %s",
        *(output, counts["rows"], counts["embedded"], counts["failed"]),
        counts["failed_by_class"] or "",
        *(counts["duplicates"], record["stages"]["bottleneck"]),
    )
    return record


def check(config: Config) -> None:
    """Refuse flags that make no sense.

    Raises:
        InputError: Names the flag and the value.
    """
    if not 1 <= config.batch_size <= 65_536:
        raise InputError(f"--batch-size {config.batch_size}: expected 1 to 65536")
    if not 0 <= config.max_failed_fraction <= 1:
        raise InputError(f"--max-failed-fraction {config.max_failed_fraction}: expected [0, 1]")


if __name__ == "__main__":
    command.run_job(main, Config, name="python -m jobs.encode_images")
