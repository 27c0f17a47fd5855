"""Staged parts become whole buckets: one row per image, however often it was tried."""

import pyarrow as pa
import pytest

from motif import schemas, storage
from motif.artefacts import embeddings
from motif.errors import ContractError

SCHEMA = schemas.embeddings(2)


def embedded(*ids: str) -> pa.Table:
    rows = [
        {
            "image_id": image,
            "creator_id": "c",
            "uri": f"/{image}",
            "embedding": [1.0, 0.0],
            "content_hash": "a",
            "perceptual_hash": "0" * 16,
        }
        for image in ids
    ]
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def failed(image: str, error_class: str) -> pa.Table:
    row = {
        "image_id": image,
        "creator_id": "c",
        "uri": f"/{image}",
        "stage": "fetch",
        "error_class": error_class,
        "message": "m",
        "attempts": 1,
    }
    return pa.Table.from_pylist([row], schema=schemas.FAILURES)


@pytest.fixture
def staging(tmp_path) -> str:
    return embeddings.staging_of(str(tmp_path), {"plan": 1})


def finish(tmp_path, staging: str, *ids: str) -> dict:
    return embeddings.finish_bucket(
        str(tmp_path),
        staging,
        0,
        1,
        expected_ids=pa.chunked_array([list(ids)]),
        rejected=schemas.FAILURES.empty_table(),
        schema=SCHEMA,
    )


def read(tmp_path, kind: str) -> list[dict]:
    name = embeddings.bucket_name(0, 1)
    return storage.read_parquet(str(tmp_path / kind / name)).to_pylist()


def test_an_image_that_was_staged_twice_is_there_once(tmp_path, staging):
    embeddings.stage(staging, 0, "embeddings", embedded("b", "a"))
    embeddings.stage(staging, 0, "embeddings", embedded("a"))
    assert finish(tmp_path, staging, "a", "b")["embedded"] == 2
    assert [row["image_id"] for row in read(tmp_path, "embeddings")] == ["a", "b"]


def test_the_last_failure_is_on_record_with_the_number_of_attempts(tmp_path, staging):
    for error_class in ("timeout", "denied", "not_found"):
        embeddings.stage(staging, 0, "failures", failed("a", error_class))
    counts = finish(tmp_path, staging, "a")
    assert counts["by_class"] == {"not_found": 1}
    (row,) = read(tmp_path, "failures")
    assert (row["error_class"], row["attempts"]) == ("not_found", 3)


def test_a_failure_is_void_once_the_image_is_encoded(tmp_path, staging):
    embeddings.stage(staging, 0, "failures", failed("a", "timeout"))
    embeddings.stage(staging, 0, "embeddings", embedded("a"))
    counts = finish(tmp_path, staging, "a")
    assert (counts["embedded"], counts["failed"]) == (1, 0)
    assert read(tmp_path, "failures") == []


def test_parts_of_another_plan_are_not_taken(tmp_path, staging):
    other = embeddings.staging_of(str(tmp_path), {"plan": 2})
    embeddings.stage(other, 0, "embeddings", embedded("a"))
    with pytest.raises(ContractError, match="0 images accounted for, 1 planned"):
        finish(tmp_path, staging, "a")


def test_an_image_that_is_not_of_the_plan_is_refused(tmp_path, staging):
    embeddings.stage(staging, 0, "embeddings", embedded("a", "z"))
    with pytest.raises(ContractError, match="2 images accounted for, 1 planned"):
        finish(tmp_path, staging, "a")
