"""IMAGES -> EMBEDDINGS and FAILURES.

ray job submit --working-dir . --runtime-env-json '{"env_vars": {"PYTHONPATH": "lib"}}' -- \
    python -m jobs.encode_images --images URI --output URI
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
import tyro

from motif import command, storage
from motif.artefacts import embeddings, lock, run, update
from motif.encoder.encoder import Encoder
from motif.encoder.source import resolve
from motif.errors import InputError
from motif.images.allowed import Allowed
from motif.images.fetch import FetchLimits
from motif.images.source import find
from motif.on_ray import capacity, session
from motif.on_ray.capacity import Capacity
from motif.on_ray.encoding_run import EncodingRun
from motif.on_ray.preparation import Options, Preparation
from motif.on_ray.rehearsal import rehearse
from motif.schemas import ERROR_CLASSES

log = logging.getLogger("motif.encode_images")


@dataclass(frozen=True, kw_only=True)
class Config(Capacity):
    """Encode a library of images: one EMBEDDINGS row per image, one FAILURES row per bad one.

    Run it again to go on where a run was cut off, or to add what a manifest has gained.
    """

    images: str
    """Manifest (.parquet, .csv, .jsonl with creator_id and uri; relative URIs are taken from its
    own folder), a folder of manifests, a path template such as s3://bucket/{creator_id}/**/*.jpg,
    or a folder with one subfolder per creator. Local or s3://."""
    output: str
    """Folder of EMBEDDINGS: created, continued, or added to."""
    allow: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """Bucket, prefix or folder that the manifest may name images in, beside its own folder or
    bucket; may be given several times."""
    encoder: str = "ViT-B-32/laion2b_s34b_b79k"
    """NAME/PRETRAINED or NAME/FILE of open_clip, local-dir:FOLDER, or `lite`, which needs no model
    hub."""
    carry: str = ""
    """Manifest columns that travel into EMBEDDINGS, separated by commas."""
    features: bool = True
    """Also keep the spatial mean of each stage of the image tower, at unit length, as the column
    `features`: an artist's style is in the early and middle stages. As float16, that is 1.7 KB per
    image with `lite`, 6.1 KB with ViT-B-32."""
    manifest: Literal["delta", "full"] = "delta"
    """`delta` only adds; `full` is the whole truth: images that it lacks are marked as removed."""
    max_removed_fraction: float = 0.05
    """With --manifest full: refuse to remove more than this fraction of the images."""
    retry_failed: tuple[str, ...] | None = None
    """Take up images that failed in an earlier run: all, or those of the classes that follow."""
    max_failed_fraction: float = 0.1
    """End with exit code 4 when more than this fraction of the images fails; as soon as that is
    clear."""
    in_flight: int = FetchLimits.in_flight
    """Reads at once, in each process that decodes."""
    max_bytes: int = FetchLimits.max_bytes
    """Larger objects fail as `too_large`."""
    object_seconds: float = FetchLimits.timeout_seconds
    """Time to read one object, all attempts together."""
    batch_size: int = 0
    """Images per batch of the encoder; 0 takes 256 on GPUs and 64 on CPUs. Halved where it does
    not fit."""
    encoders_per_gpu: int = 1
    """Processes that share a GPU; two may hide the copies of small models."""
    float32: bool = False
    """Encode in float32 even where the hardware has bfloat16."""
    compile: bool = False
    """Compile the image tower, on a CPU by OpenVINO (pip install 'motif[cpu]'), on a GPU by
    TorchInductor: slower to start, faster to run."""
    full_decode: bool = False
    """Decode JPEGs at full size even where a scaled decode gives the same embedding."""
    buckets: int = 0
    """Files of new EMBEDDINGS; 0 takes one per 50,000 images, at least 4."""
    verify: bool = False
    """Read all finished files to find damage, not only their sizes and ids; mends what it finds."""
    overwrite: bool = False
    """Encode all anew; what is at the output stays readable until the end."""
    single_writer: bool = False
    """Do without the lock, on storage without conditional writes: you see to it that no other run
    writes to the output."""
    endpoint_url: str = ""
    """Of an S3-compatible store; AWS_ENDPOINT_URL does the same."""
    cluster_share: float = 1.0
    """Of the cluster's CPUs and GPUs that the run may take; the rest is left to other jobs."""
    reads_per_second: float | None = None
    """Objects that the run reads from a store per second at most; what is tried again comes on
    top."""
    stall_seconds: float = 900.0
    """End with exit code 6 when nothing has moved for so long."""
    price_per_hour: float | None = None
    """Of the whole cluster, for the cost per million images."""
    sample: int = 32
    """Images that --dry-run times."""
    dry_run: bool = False
    """Say what would be done, how long it would take and what it would cost; write nothing."""
    json: bool = False
    """Print run.json on standard output."""


def main(config: Config, *, interrupt: Callable[[], None] = lambda: None) -> dict[str, Any]:
    """Plan by bucket, stage rows as they are encoded, settle each bucket, then commit.

    `interrupt` is called about once a second; by raising it ends the run, to be gone on with.
    """
    check(config)
    recorder = run.Recorder(embeddings.ARTEFACT, config)
    output = storage.absolute(config.output)
    session.use_endpoint(config.endpoint_url)
    found, record = update.look(output, overwrite=config.overwrite)
    # What is quickly seen to be wrong first: the encoder may come from far away.
    flags = options(config)
    pieces = find(flags.images)
    source = resolve(config.encoder)
    session.connect()
    capacity.wait_for(config)
    with recorder.timed("load"):
        encoder = Encoder(
            source,
            precision=torch.float32 if config.float32 else None,
            features=config.features,
        )
    preparation = Preparation(
        output=output,
        found=found,
        record=record,
        options=flags,
        pieces=pieces,
        encoder=encoder,
        encoder_name=source.name,
        run_id=recorder.run_id,
    )
    if config.dry_run:
        return command.show_plan(rehearse(preparation, config.sample), as_json=config.json)
    work = EncodingRun(preparation, recorder, interrupt)
    with lock.hold(output, run_id=recorder.run_id, single_writer=config.single_writer) as held:
        finished = work.perform(held)
    log.info("%s", work.ending(finished))
    return finished


def options(config: Config) -> Options:
    """Return what of the flags concerns the work itself."""
    return Options(
        images=storage.absolute(config.images),
        carry=tuple(command.split_names(config.carry)),
        full=config.manifest == "full",
        max_removed_fraction=config.max_removed_fraction,
        retry=config.retry_failed,
        max_failed_fraction=config.max_failed_fraction,
        limits=FetchLimits(
            max_bytes=config.max_bytes,
            timeout_seconds=config.object_seconds,
            in_flight=config.in_flight,
            allowed=Allowed.of(config.images, config.allow),
        ),
        batch_size=config.batch_size,
        encoders_per_gpu=config.encoders_per_gpu,
        float32=config.float32,
        compile=config.compile,
        full_decode=config.full_decode,
        buckets=config.buckets,
        verify=config.verify,
        overwrite=config.overwrite,
        stall_seconds=config.stall_seconds,
        price_per_hour=config.price_per_hour,
        cluster_share=config.cluster_share,
        reads_per_second=config.reads_per_second,
    )


def check(config: Config) -> None:
    """Refuse flags that make no sense.

    Raises:
        InputError: Names the flag and the value.
    """
    config.check()
    bounds: dict[str, tuple[float, float]] = {
        "batch_size": (0, 65_536),
        "max_failed_fraction": (0, 1),
        "max_removed_fraction": (0, 1),
        "encoders_per_gpu": (1, 8),
        "in_flight": (1, 1024),
        "max_bytes": (1, 2**31),
        "object_seconds": (0.1, 86_400),
        "cluster_share": (0.001, 1),
        "stall_seconds": (1, 86_400 * 7),
        "sample": (1, 10_000),
    }
    for name, (low, high) in bounds.items():
        value = getattr(config, name)
        if not low <= value <= high:
            flag = name.replace("_", "-")
            raise InputError(f"--{flag} {value}: expected {low:g} to {high:g}")
    if config.price_per_hour is not None and not 0 <= config.price_per_hour < float("inf"):
        raise InputError(f"--price-per-hour {config.price_per_hour}: expected 0 or more")
    if config.reads_per_second is not None and not 0.01 <= config.reads_per_second <= 1e6:
        raise InputError(f"--reads-per-second {config.reads_per_second}: expected 0.01 to 1000000")
    if unknown := sorted(set(config.retry_failed or ()) - set(ERROR_CLASSES)):
        raise InputError(
            f"--retry-failed {unknown[0]}: no such class; expected {', '.join(ERROR_CLASSES)}"
        )
    if config.retry_failed is not None and config.overwrite:
        raise InputError("--retry-failed: --overwrite encodes all images anyway; pass one of them")


if __name__ == "__main__":
    command.run_job(main, Config, name="python -m jobs.encode_images")
