"""publish_creators to a store that fails one request in twenty: right or refused, never wrong."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import lance
import numpy as np
import pyarrow as pa
import pytest
import torch

from motif import schemas, storage
from motif.artefacts.checkpoint import Checkpoint
from motif.encoder.encoder import Encoder
from motif.encoder.source import resolve
from motif.table import LIVE
from tests.breaking import commands
from tests.fault_proxy import FaultProxy
from tests.synthetic import grow_embeddings, rows_of, themed, write_checkpoint, write_embeddings

BUCKET = "motif-publish-faults"
DIM = 384
CREATORS = 40
FAULTS: dict[str, Any] = {"slow_down": 0.03, "reset": 0.02, "delay": 0.01, "delay_seconds": 0.5}
ATTEMPTS = 6
"""Of a command whose store goes on failing."""


@dataclass(frozen=True)
class Place:
    """EMBEDDINGS, a model and a table below one prefix; requests of commands go by the proxy."""

    base: str
    proxy: FaultProxy
    folder: Path

    @property
    def table(self) -> str:
        return f"{self.base}/db/creators.lance"

    def publish(self) -> commands.Ended:
        command = [sys.executable, "-m", "jobs.publish_creators"]
        command += ["--embeddings", f"{self.base}/embeddings", "--model", f"{self.base}/same"]
        command += ["--table", self.table, "--adjectives", str(self.folder / "words.txt")]
        environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_AD")}
        environment |= {"AWS_ENDPOINT_URL": self.proxy.url}
        with commands.running(command, environment=environment, log=self.folder / "log.txt") as job:
            return job.wait()

    def live(self) -> pa.Table | None:
        """Read the table past the proxy."""
        options = storage.lance_options(self.table)
        try:
            version = lance.dataset(self.table, version=LIVE, storage_options=options)
        except ValueError:
            return None
        return version.to_table(columns=["creator_id", "image_count", "same"]).sort_by("creator_id")


@pytest.fixture(scope="module")
def lite_space():
    return Encoder(resolve("lite")).space


@pytest.fixture
def place(s3_endpoint, lite_space, tmp_path, request) -> Place:
    boto3.client("s3").create_bucket(Bucket=BUCKET)  # again does nothing
    base = f"s3://{BUCKET}/{tmp_path.name}"
    (tmp_path / "words.txt").write_text("vivid\n")
    write_checkpoint(f"{base}/same", lite_space)
    faults = {**FAULTS, **getattr(request, "param", {})}
    with FaultProxy(s3_endpoint, every_request=True, **faults) as proxy:
        yield Place(base, proxy, tmp_path)


def expected(place: Place, rows: pa.Table) -> dict[str, tuple[int, np.ndarray]]:
    """Return image count and vector of each creator, one after the other."""
    model = Checkpoint.open(f"{place.base}/same").model
    vectors = model(torch.tensor(schemas.matrix(rows["embedding"]))).detach().numpy()
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    ids = np.array(rows["creator_id"].to_pylist())
    found = {}
    for creator in sorted(set(ids)):
        total = vectors[ids == creator].sum(axis=0)
        found[creator] = (int((ids == creator).sum()), total / np.linalg.norm(total))
    return found


def require_right(place: Place, rows: pa.Table) -> None:
    live, right = place.live(), expected(place, rows)
    assert live is not None
    assert live["creator_id"].to_pylist() == list(right)
    assert live["image_count"].to_pylist() == [count for count, _ in right.values()]
    wanted = np.stack([vector for _, vector in right.values()])
    np.testing.assert_allclose(schemas.matrix(live["same"]), wanted, atol=1e-5)


def publish_until_done(place: Place) -> int:
    """Publish again and again; a run that is refused leaves `live` as it was."""
    for attempt in range(1, ATTEMPTS + 1):
        before = place.live()
        ended = place.publish()
        if ended.code == 0:
            return attempt
        ended.require_refusal(2)
        after = place.live()
        assert (after is None and before is None) or after.equals(before)
    raise AssertionError(f"{ATTEMPTS} runs were refused: {ended.text}")


def publish_twice(place: Place, lite_space) -> None:
    """Publish everybody, then what has been added, whatever it takes; each time it is right."""
    rows = rows_of(*themed(CREATORS, 3, DIM))
    write_embeddings(f"{place.base}/embeddings", rows, lite_space, buckets=4)
    publish_until_done(place)
    require_right(place, rows)
    added = rows_of(["creator-003", "new"], themed(2, 1, DIM, seed=5)[1])
    names = pa.array(["added-0", "added-1"])
    added = added.set_column(0, added.schema.field(0), names)
    grow_embeddings(f"{place.base}/embeddings", added)
    publish_until_done(place)
    require_right(place, pa.concat_tables([rows, added]))
    assert place.proxy.faults["slow_down"] > 5
    assert place.proxy.faults["reset"] > 3


def test_a_store_that_fails_one_request_in_twenty(place, lite_space):
    publish_twice(place, lite_space)
