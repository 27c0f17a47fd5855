"""The decoding task, on a store that answers in another order each time."""

import json

import boto3
import pyarrow as pa
import pytest

from motif import schemas
from motif.artefacts import partitions
from motif.images.fetch import FetchLimits
from motif.images.plan import TODO_BATCH, Request
from motif.on_ray.fetch_and_decode import FetchAndDecode
from motif.on_ray.pulse import Pulse
from motif.space import Preprocess
from tests.fault_proxy import FaultProxy

BUCKET = "motif-order"
IMAGES, BATCH = 70, 16


class Silent(Pulse):
    """Nobody listens."""

    def beat(self, stage: str, images: int, uri: str) -> None:
        pass


@pytest.fixture
def request_of_images(s3_endpoint, picture, tmp_path) -> Request:
    """A run's request whose bucket 0 is to encode."""
    client = boto3.client("s3")
    client.create_bucket(Bucket=BUCKET)
    path = tmp_path / "image.jpg"
    uris = []
    for number in range(IMAGES):
        picture(number, width=40, height=30).save(path)
        client.upload_file(str(path), BUCKET, f"{number:03d}.jpg")
        uris.append(f"s3://{BUCKET}/{number:03d}.jpg")
    request = Request(
        **dict.fromkeys(("images", "output", "staging"), ""),
        scratch=str(tmp_path / "scratch"),
        run_id="run",
        buckets=1,
        schema=schemas.IMAGES,
    )
    rows = pa.table({"uri": uris, "staged": [False] * IMAGES})
    partitions.write_batches(request.todo(0), rows, batch_rows=TODO_BATCH)
    return request


def test_a_task_that_is_run_again_makes_the_same_batches(
    request_of_images, s3_endpoint, monkeypatch
):
    preprocess = Preprocess(
        size=32, mean=(0, 0, 0), std=(1, 1, 1), interpolation="bicubic", resize_mode="shortest"
    )
    task = FetchAndDecode(
        request=request_of_images,
        preprocess=preprocess,
        batch_size=BATCH,
        limits=FetchLimits(in_flight=8),
        full_decode=True,
        pulse=Silent(None),
    )
    made = []
    for seed in (1, 2):
        faults = {"slow_down": 0, "reset": 0, "delay": 0.3, "delay_seconds": 0.5}
        with FaultProxy(s3_endpoint, seed=seed, **faults) as proxy:
            monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
            made.append(list(task(pa.table({"item": [json.dumps([[0, 0, IMAGES]])]}))))
    first, second = made
    assert [batch.num_rows for batch in first] == [16, 16, 16, 16, 6]
    columns = ["uri", "content_hash", "pixels", "error_class"]
    assert [b.select(columns) for b in first] == [b.select(columns) for b in second]
    assert pa.concat_tables(first)["error_class"].null_count == IMAGES
    uris = pa.concat_tables(first)["uri"].to_pylist()
    assert uris == sorted(uris)
