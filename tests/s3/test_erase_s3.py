import boto3
import lance
import pyarrow.compute as pc
import pytest

from motif import storage
from motif.artefacts.embeddings import Embeddings
from motif.cli_maintenance import Cleanup, Erase, Rollback, Versions
from motif.errors import InputError
from motif.table import LIVE, CreatorTable, TableUri
from tests.synthetic import (
    make_space,
    publish,
    rows_of,
    themed,
    write_checkpoint,
    write_embeddings,
)

BUCKET = "motif-erase"
DIM = 12
WHO = "creator-003"


@pytest.fixture(scope="module")
def s3(s3_endpoint):
    client = boto3.client("s3")
    client.create_bucket(Bucket=BUCKET)
    return client


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return write_checkpoint(tmp_path_factory.mktemp("model") / "same", make_space(DIM))


@pytest.fixture
def table(s3, model, request) -> str:
    """Publishes of three and of eight creators; the second is live."""
    uri = f"s3://{BUCKET}/{request.node.name}/creators.lance"
    for creators in (3, 8):
        rows = rows_of(*themed(creators, 10, DIM))
        publish(uri, rows, model, run_id=f"run-{creators}")
    return uri


def published(table: str) -> list[int]:
    return [one["version"] for one in Versions(table=table).perform() if one["published"]]


def objects(s3, prefix: str) -> dict[str, bytes]:
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
    keys = [item["Key"] for page in pages for item in page.get("Contents", ())]
    return {key: s3.get_object(Bucket=BUCKET, Key=key)["Body"].read() for key in keys}


def test_readers_see_what_was_gone_back_to_and_cleanup_keeps_it(s3, table):
    newest, oldest = published(table)
    assert Rollback(table=table, to=str(oldest)).perform()["from_version"] == newest
    assert len(CreatorTable.open(table)) == 3
    Rollback(table=table, to=str(newest)).perform()
    done = Cleanup(table=table, older_than="0d").perform()
    assert (done["kept_versions"], published(table)) == ([newest], [newest])
    assert len(CreatorTable.open(table)) == 8
    with pytest.raises(InputError, match="has no such version"):
        Rollback(table=table, to=str(oldest)).perform()


def test_somebody_is_gone_from_the_bucket(s3, table, request):
    rows = rows_of(*themed(8, 10, DIM))
    folder = f"s3://{BUCKET}/{request.node.name}/embeddings"
    write_embeddings(folder, rows, make_space(DIM))
    newest, oldest = published(table)
    where = TableUri.parse(table)
    options = storage.lance_options(table)
    before = lance.dataset(table, version=newest, storage_options=options).to_table()
    key = before.filter(pc.equal(before["creator_id"], WHO))
    vector = key["mean_embedding"].combine_chunks().flatten().to_numpy().tobytes()
    assert any(vector in data for data in objects(s3, request.node.name).values())
    done = Erase(creator=(WHO,), table=(table,), embeddings=(folder,)).perform()
    assert done["embeddings"][folder]["images"] == 10
    found = done["tables"][table]
    assert (found["rows"], found["from_version"]) == (1, newest)
    for name, data in objects(s3, request.node.name).items():
        assert vector not in data, name
        assert WHO.encode() not in data, name
    assert len(CreatorTable.open(table)) == 7
    assert Embeddings.open(folder).counts["creators"] == 7
    assert storage.exists(where.beside("erasures", f"{done['run_id']}.json"))
    with pytest.raises(InputError, match="held somebody who was erased"):
        Rollback(table=table, to=str(newest)).perform()
    assert Rollback(table=table, to=str(oldest)).perform()["rows"] == 3
    tags = lance.dataset(table, storage_options=options).tags
    assert tags.get_version(LIVE) == oldest
    again = Erase(creator=(WHO,), table=(table,), embeddings=(folder,)).perform()
    assert not again["was_somewhere"]
