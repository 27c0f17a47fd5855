"""One pass by bucket over EMBEDDINGS: every worker writes its creators' Lance fragments."""

from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pyarrow as pa
import ray
import ray.data
import torch

from motif import publishing
from motif.artefacts.checkpoint import Checkpoint
from motif.artefacts.embeddings import Embeddings
from motif.on_ray import session
from motif.publishing import Directions
from motif.table import TableUri


class PublishBuckets:
    """Actor: bucket numbers -> fragments; holds the checkpoint."""

    def __init__(
        self,
        embeddings: Embeddings,
        model: str,
        table: TableUri,
        directions: Directions,
        *,
        schema: pa.Schema,
        updated_at: datetime,
    ) -> None:
        self._embeddings = embeddings
        self._checkpoint = Checkpoint.open(model)
        self._table = table
        self._directions = directions
        self._schema = schema
        self._updated_at = updated_at
        self._device = "cuda" if torch.cuda.is_available() else "cpu"

    def __call__(self, buckets: pa.Table) -> Iterator[pa.Table]:
        """Publish one bucket after the other, so that memory holds one at a time."""
        column = self._checkpoint.config.input_column
        columns = ["creator_id", "uri", "embedding", "content_hash", "perceptual_hash"]
        if column not in columns:
            columns.append(column)
        for bucket in buckets["bucket"].to_pylist():
            rows = self._embeddings.read_bucket(bucket, columns)
            creators = publishing.creators_of_bucket(
                rows,
                self._checkpoint,
                self._directions,
                updated_at=self._updated_at,
                schema=self._schema,
                device=self._device,
            )
            fragments = publishing.write_rows(self._table, creators)
            yield pa.table(
                {
                    "bucket": [bucket],
                    "images": [rows.num_rows],
                    "creators": [creators.num_rows],
                    "fragments": pa.array([fragments], pa.list_(pa.string())),
                }
            )


def publish_buckets(embeddings: Embeddings, **actor: Any) -> list[dict[str, Any]]:
    """Run the pass.

    Returns:
        One record per bucket, in the order of buckets.

    Raises:
        MotifError: A worker refused to go on.
    """
    session.configure_data()
    resources = ray.cluster_resources()
    gpus = int(resources.get("GPU", 0))
    workers = min(embeddings.buckets, gpus or max(1, int(resources.get("CPU", 1)) - 1))
    session.require(cpus=workers, gpus=workers if gpus else 0, what="publishing")
    buckets = [{"bucket": bucket} for bucket in range(embeddings.buckets)]
    dataset = ray.data.from_items(buckets, override_num_blocks=embeddings.buckets).map_batches(
        PublishBuckets,
        fn_constructor_kwargs={"embeddings": embeddings, **actor},
        batch_format="pyarrow",
        batch_size=None,
        num_cpus=1,
        num_gpus=1 if gpus else 0,
        compute=ray.data.ActorPoolStrategy(size=workers),
    )
    with session.refusals():
        return sorted(dataset.take_all(), key=lambda record: record["bucket"])
