"""CREATORS by bucket: drafts by actors that hold the model, then rows that know the population."""

import logging
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import ray
import ray.data
import torch

from motif.artefacts.checkpoint import Checkpoint
from motif.artefacts.embeddings import Embeddings
from motif.artefacts.erased import Erased
from motif.on_ray import session, tasks
from motif.publishing import changes, commit, rows, staging
from motif.publishing.changes import BucketWork, Changes
from motif.publishing.commit import Tagged
from motif.publishing.rows import Completion, HeldOut
from motif.table.layout import TableUri

log = logging.getLogger("motif.publish")

STALL_SECONDS = 3600.0


def find_changes(embeddings: Embeddings, since: Tagged) -> Changes:
    """Return what has changed since a version was published, looking only at changed buckets."""
    assert since.publish is not None
    published = since.publish["parts"]
    same_cut = len(published) == embeddings.buckets
    changed = changes.changed_buckets(embeddings, published)
    shared = ray.put(embeddings)
    calls = ((shared, b, published[b] if same_cut else None) for b in changed)
    found = list(
        tasks.each(
            changes.creators_to_compare,
            calls,
            what="comparing buckets",
            stall_seconds=STALL_SECONDS,
        )
    )
    digests = pa.table({"creator_id": pa.array([], pa.string()), "images_digest": []})
    if any("digests" in one for one in found):
        digests = since.dataset.to_table(columns=["creator_id", "images_digest"])
    return changes.compare(found, digests, embeddings.buckets)


class DraftBuckets:
    """Actor: buckets -> drafts, staged; holds the checkpoint."""

    def __init__(
        self,
        embeddings: Embeddings,
        model: str,
        folder: str,
        held_out: HeldOut,
        erased: Sequence[Erased],
        *,
        updated_at: datetime,
    ) -> None:
        self._embeddings = embeddings
        self._checkpoint = Checkpoint.open(model)
        self._folder = folder
        self._held_out = held_out
        self._erased = erased
        self._updated_at = updated_at
        self._device = "cuda" if torch.cuda.is_available() else "cpu"

    def __call__(self, work: pa.Table) -> Iterator[pa.Table]:
        """Draft one bucket after the other, some creators at a time."""
        for one in work.to_pylist():
            drafts = rows.draft(
                self._read(one["bucket"], one["creators"]),
                self._checkpoint,
                self._held_out,
                updated_at=self._updated_at,
                device=self._device,
            )
            staging.write(self._folder, one["bucket"], drafts)
            images = pc.sum(drafts.creators["image_count"]).as_py() or 0
            yield pa.table({"bucket": [one["bucket"]], "images": [images]})

    def _read(self, bucket: int, creators: list[str] | None) -> Iterator[pa.Table]:
        """Yield a bucket's images, without those of creators who were erased."""
        columns = rows.columns_needed(self._checkpoint)
        for part in self._embeddings.read_by_creators(
            bucket, columns, images=rows.IMAGES_AT_ONCE, creators=creators
        ):
            ids = pc.unique(part["creator_id"]).to_pylist()
            if left_out := [c for c in ids if any(e.holds(c) for e in self._erased)]:
                banned = pc.is_in(part["creator_id"], pa.array(left_out, pa.string()))
                part = part.filter(pc.invert(banned))
            yield part


def draft_buckets(
    work: Sequence[BucketWork], embeddings: Embeddings, folder: str, **actor: Any
) -> int:
    """Stage the drafts of all buckets that are not staged yet.

    Returns:
        Images that were read.

    Raises:
        MotifError: A worker refused to go on.
    """
    staged = staging.done(folder)
    left = [one for one in work if one.bucket not in staged]
    if len(left) < len(work):
        log.info("going on: %d of %d buckets are done", len(work) - len(left), len(work))
    if not left:
        return 0
    session.configure_data()
    resources = ray.cluster_resources()
    gpus = int(resources.get("GPU", 0))
    # Nothing else of the pass takes a CPU: its input is in memory.
    workers = min(len(left), gpus or max(1, int(resources.get("CPU", 1))))
    session.require(cpus=workers, gpus=workers if gpus else 0, what="publishing")
    kind = pa.schema([("bucket", pa.int64()), ("creators", pa.list_(pa.string()))])
    blocks = [
        pa.table(
            {
                "bucket": [one.bucket],
                "creators": [sorted(one.creators) if one.creators is not None else None],
            },
            schema=kind,
        )
        for one in left
    ]
    dataset = ray.data.from_arrow(blocks).map_batches(
        DraftBuckets,
        fn_constructor_kwargs={"embeddings": embeddings, "folder": folder, **actor},
        batch_format="pyarrow",
        batch_size=1,  # a bucket; for GPUs, Ray wants to be told
        num_cpus=1,
        num_gpus=1 if gpus else 0,
        compute=ray.data.ActorPoolStrategy(size=workers),
    )
    images = buckets = 0
    with session.refusals():
        for record in dataset.iter_rows():
            images += record["images"]
            buckets += 1
            if buckets % max(1, len(left) // 10) == 0:
                log.info("%d of %d buckets, %s images", buckets, len(left), f"{images:,}")
    return images


def _finish(table: TableUri, folder: str, bucket: int, completion: Completion) -> list[str]:
    return commit.write_rows(table, completion.rows(staging.read_creators(folder, bucket)))


def write_fragments(
    table: TableUri, folder: str, buckets: Iterable[int], completion: Completion
) -> list[str]:
    """Complete drafts and write them as Lance fragments; return those for `commit.overwrite`."""
    shared = ray.put(completion)
    calls = ((table, folder, bucket, shared) for bucket in buckets)
    written = tasks.each(_finish, calls, what="writing rows", stall_seconds=STALL_SECONDS)
    return [fragment for fragments in written for fragment in fragments]
