import io
import json
from pathlib import Path

import boto3
import numpy as np
import pytest

from jobs.encode_images import Config, main
from motif import schemas, storage
from motif.artefacts import run, update
from motif.artefacts.embeddings import Embeddings
from motif.errors import InputError, OutputError
from motif.images.fetch import FetchLimits, fetch, fetch_all
from motif.images.fetch_errors import FetchError
from motif.images.manifest import read_images

BUCKET = "motif-test"


@pytest.fixture(scope="module")
def s3(s3_endpoint):
    client = boto3.client("s3")
    client.create_bucket(Bucket=BUCKET)
    return client


@pytest.fixture
def prefix(s3, request) -> str:
    """A folder of the bucket for one test."""
    return request.node.name


def jpeg(picture, seed: int) -> bytes:
    buffer = io.BytesIO()
    picture(seed).save(buffer, "JPEG")
    return buffer.getvalue()


def keys(s3, prefix: str) -> list[str]:
    found = s3.list_objects_v2(Bucket=BUCKET, Prefix=f"{prefix}/")
    return sorted(item["Key"].removeprefix(f"{prefix}/") for item in found.get("Contents", []))


def error_class(uri: str, *, max_bytes: int = 1000) -> str:
    with pytest.raises(FetchError) as caught:
        fetch(uri, limits=FetchLimits(max_bytes=max_bytes))
    assert caught.value.message
    return caught.value.error_class


def test_storage_verbs(s3, prefix):
    uri = f"s3://{BUCKET}/{prefix}"
    assert not storage.exists(f"{uri}/a")
    assert storage.list_files(uri) == []
    storage.write_bytes(f"{uri}/a", b"0123456789")
    storage.write_json(f"{uri}/b.json", {"a": 1})
    assert storage.exists(f"{uri}/a")
    assert storage.read_bytes(f"{uri}/a", limit_bytes=4) == b"01234"
    assert storage.read_bytes(f"{uri}/a", limit_bytes=40) == b"0123456789"
    assert storage.read_json(f"{uri}/b.json") == {"a": 1}
    assert storage.list_files(uri) == [f"{uri}/a", f"{uri}/b.json"]
    # Written by another process: a listing that was remembered must not hide it.
    s3.put_object(Bucket=BUCKET, Key=f"{prefix}/c", Body=b"")
    assert storage.list_files(uri) == [f"{uri}/a", f"{uri}/b.json", f"{uri}/c"]
    # Brackets and stars in a key are no pattern: the neighbours stay.
    for name in ("x[1]/a", "x1/a", "x*", "x[1]b"):
        storage.write_bytes(f"{uri}/{name}", b"")
    storage.remove(f"{uri}/x[1]")
    storage.remove(f"{uri}/x*")
    assert keys(s3, prefix) == ["a", "b.json", "c", "x1/a", "x[1]b"]
    storage.remove(uri)
    storage.remove(uri)
    assert keys(s3, prefix) == []


def test_atomic_writer_leaves_nothing_when_the_block_raises(s3, prefix):
    def write_half() -> None:
        with storage.atomic_writer(f"s3://{BUCKET}/{prefix}/a") as file:
            file.write(b"half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_half()
    assert keys(s3, prefix) == []


def test_fetch_classes(s3, prefix):
    uri = f"s3://{BUCKET}/{prefix}"
    s3.put_object(Bucket=BUCKET, Key=f"{prefix}/a b+ü%20.jpg", Body=b"0123456789")
    s3.put_object(Bucket=BUCKET, Key=f"{prefix}/empty.jpg", Body=b"")
    assert fetch(f"{uri}/a b+ü%20.jpg") == b"0123456789"
    assert fetch(f"{uri}/empty.jpg") == b""
    assert error_class(f"{uri}/a b+ü%20.jpg", max_bytes=9) == "too_large"
    assert error_class(f"{uri}/gone.jpg") == "not_found"
    assert error_class("s3://no-such-bucket-of-ours/a.jpg") == "not_found"
    for name in ("s3://", "s3:///", f"s3://{BUCKET}", f"s3://{BUCKET}/", "s3://NO bucket/a.jpg"):
        assert error_class(name) == "not_found", name
    assert fetch(f"S3://{BUCKET}/{prefix}/a b+ü%20.jpg") == b"0123456789"
    found = fetch_all([f"{uri}/a b+ü%20.jpg", f"{uri}/gone.jpg", f"{uri}/empty.jpg"])
    assert [isinstance(data, FetchError) for data in found] == [False, True, False]


def test_manifest_of_a_bucket(s3, prefix, picture):
    for name in (
        "ana/1.jpg",
        "ana/deep/2.PNG",
        "bo/3.jpg",
        "stray.jpg",
        "bo/notes.txt",
        ".x/1.jpg",
    ):
        s3.put_object(Bucket=BUCKET, Key=f"{prefix}/{name}", Body=jpeg(picture, 1))
    for uri in (f"s3://{BUCKET}/{prefix}", f"s3://{BUCKET}/{prefix}/"):
        images = read_images(uri).images
        assert images["creator_id"].to_pylist() == ["ana", "ana", "bo"]
        assert images["uri"].to_pylist()[0] == f"s3://{BUCKET}/{prefix}/ana/1.jpg"
        assert images["version"].null_count == 0


@pytest.mark.parametrize("uri", [f"s3://{BUCKET}/nowhere.csv", "s3://no-such-bucket-of-ours/m.csv"])
def test_manifest_that_is_not_there(s3, uri):
    with pytest.raises(InputError, match="does not exist"):
        read_images(uri)


def test_foreign_objects_are_left_alone(s3, prefix):
    s3.put_object(Bucket=BUCKET, Key=f"{prefix}/thesis.txt", Body=b"years of work")
    for overwrite in (False, True):
        with pytest.raises(OutputError, match="not made by Motif"):
            run.claim(
                f"s3://{BUCKET}/{prefix}",
                "embeddings",
                **{"overwrite": overwrite, "owned": ["embeddings"], "plan": {}},
            )
    assert keys(s3, prefix) == ["thesis.txt"]


def test_encode_from_s3_to_s3(s3, prefix, picture, ray_local):
    lines = ["creator_id,uri"]
    for number in range(8):
        key = f"{prefix}/photos/{number}.jpg"
        s3.put_object(Bucket=BUCKET, Key=key, Body=jpeg(picture, number))
        # Relative ones are taken from the manifest's folder, here the bucket's.
        lines.append(
            f"c{number % 3},{f's3://{BUCKET}/{key}' if number % 2 else key[len(prefix) + 1 :]}"
        )
    s3.put_object(Bucket=BUCKET, Key=f"{prefix}/photos/bad.jpg", Body=b"no image")
    lines += ["c0,photos/bad.jpg", "c1,photos/gone.jpg", "c2,s3://no-such-bucket-of-ours/a.jpg"]
    s3.put_object(Bucket=BUCKET, Key=f"{prefix}/m.csv", Body="\n".join(lines).encode())
    output = f"s3://{BUCKET}/{prefix}/out"
    config = Config(
        images=f"s3://{BUCKET}/{prefix}/m.csv",
        output=output + "/",
        encoder="lite",
        max_failed_fraction=0.5,
    )
    record = main(config)
    assert record["counts"] == {
        **{"rows": 11, "embedded": 8, "failed": 3, "removed": 0, "duplicates": 0, "creators": 3},
        "failed_by_class": {"denied": 1, "not_an_image": 1, "not_found": 1},
    }
    assert json.loads(
        s3.get_object(Bucket=BUCKET, Key=f"{prefix}/out/run.json")["Body"].read()
    ) == (record)
    artefact = Embeddings.open(output)
    assert set(keys(s3, f"{prefix}/out")) == artefact.snapshot.names() | {"run.json"}
    table = artefact.read()
    assert sorted(Path(uri).stem for uri in table["uri"].to_pylist()) == list("01234567")
    assert all(uri.startswith(f"s3://{BUCKET}/{prefix}/") for uri in table["uri"].to_pylist())
    norms = np.linalg.norm(schemas.matrix(table["embedding"]), axis=1)
    np.testing.assert_allclose(norms, 1, atol=1e-5)
    again = main(config)
    assert again["counts"] == record["counts"]
    assert (again["manifest"]["new"], again["manifest"]["failed_before"]) == (0, 3)


def test_folder_markers_and_brackets_cost_nobody_s_objects(s3, prefix):
    """Consoles and Hadoop make an empty object of a folder's own name."""
    uri = f"s3://{BUCKET}/{prefix}/out"
    for key in ("out/", "out/embeddings/", "out/embeddings/a.parquet", "out/embeddings/b/c"):
        s3.put_object(Bucket=BUCKET, Key=f"{prefix}/{key}", Body=b"")
    assert storage.list_files(f"{uri}/embeddings") == [f"{uri}/embeddings/a.parquet"]
    assert storage.list_folders(f"{uri}/embeddings") == [f"{uri}/embeddings/b"]
    update.sweep(uri, None)
    assert keys(s3, prefix) == ["out/", "out/embeddings/", "out/embeddings/b/c"]


def test_an_empty_folder_that_a_console_made_is_free(s3, prefix):
    s3.put_object(Bucket=BUCKET, Key=f"{prefix}/out/", Body=b"")
    assert run.state(f"s3://{BUCKET}/{prefix}/out", "embeddings") is run.State.FREE
