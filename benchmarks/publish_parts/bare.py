"""The bare loop that a publish is compared with, in a process of its own.

    python -m benchmarks.publish_parts.bare EMBEDDINGS CHECKPOINT

File after file: the same columns by pyarrow, the same network (by torch, whose GELU numpy lacks),
the mean of each creator's vectors and embeddings by numpy; on all cores, and nothing is written.
Prints the seconds of each part as JSON; imports and the model's loading are not counted.
"""

import json
import sys
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from motif import schemas
from motif.artefacts.checkpoint import Checkpoint
from motif.artefacts.embeddings import Embeddings
from motif.model import as_inputs, embed
from motif.publishing.rows import columns_needed

IMAGES_AT_ONCE = 16_384


def main(embeddings: str, model: str) -> None:
    """Run it."""
    opened, checkpoint = Embeddings.open(embeddings), Checkpoint.open(model)
    columns = columns_needed(checkpoint)
    seconds = {"read": 0.0, "network": 0.0, "mean": 0.0}
    images = creators = 0
    began = time.perf_counter()
    for bucket in opened.snapshot.buckets:
        for part in bucket.embeddings:
            start = time.perf_counter()
            rows = pq.read_table(f"{opened.uri}/{part.name}", columns=columns)
            read = time.perf_counter()
            ids = rows["creator_id"].combine_chunks().dictionary_encode().indices.to_numpy()
            starts = np.flatnonzero(np.r_[True, ids[1:] != ids[:-1]])
            same = _embed(rows, checkpoint)
            embedded = time.perf_counter()
            counts = np.diff(np.r_[starts, len(ids)])[:, None]
            means = np.add.reduceat(same, starts, axis=0)
            means /= np.linalg.norm(means, axis=1, keepdims=True)
            np.add.reduceat(schemas.matrix(rows["embedding"]), starts, axis=0) / counts
            ended = time.perf_counter()
            seconds["read"] += read - start
            seconds["network"] += embedded - read
            seconds["mean"] += ended - embedded
            images, creators = images + len(ids), creators + len(starts)
    total = time.perf_counter() - began
    sys.stdout.write(
        json.dumps({"images": images, "creators": creators, "total": total, **seconds})
    )


def _embed(rows: pa.Table, checkpoint: Checkpoint) -> np.ndarray:
    found = []
    for start in range(0, rows.num_rows, IMAGES_AT_ONCE):
        some = rows.slice(start, IMAGES_AT_ONCE)
        inputs = as_inputs(torch.from_numpy(schemas.matrix(some[checkpoint.config.input_column])))
        found.append(embed(checkpoint.model, inputs).numpy())
    return np.concatenate(found)


if __name__ == "__main__":
    main(*sys.argv[1:])
