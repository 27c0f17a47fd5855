import json
import subprocess
import sys
from pathlib import Path

import boto3
import lancedb
import pyarrow as pa
import pytest
import torch

from jobs import publish_creators, recommend
from motif import storage
from motif.encoder.encoder import Encoder
from motif.encoder.source import resolve
from motif.errors import InputError, OutputError
from motif.model import SameNetwork
from motif.table import LIVE, CreatorTable, TableUri
from motif.table.recommendations import RecommendationTable
from tests.synthetic import (
    grow_embeddings,
    make_whitening,
    publish,
    rows_of,
    themed,
    write_checkpoint,
    write_embeddings,
)

BUCKET = "motif-publish"
TABLE = f"s3://{BUCKET}/db/creators.lance"
MOTIF = Path(sys.executable).parent / "motif"
DIM = 384


@pytest.fixture(scope="module")
def s3(s3_endpoint):
    client = boto3.client("s3")
    client.create_bucket(Bucket=BUCKET)
    return client


@pytest.fixture(scope="module")
def lite() -> Encoder:
    return Encoder(resolve("lite"))


@pytest.fixture(scope="module")
def published(s3, lite, ray_local) -> dict:
    """EMBEDDINGS, checkpoint, adjectives and table, all in the bucket."""
    base = f"s3://{BUCKET}/in"
    rows = rows_of(*themed(12, 3, DIM))
    write_embeddings(f"{base}/embeddings", rows, lite.space)
    torch.manual_seed(0)
    model = SameNetwork(make_whitening(DIM, 8), hidden_dim=16)
    write_checkpoint(f"{base}/same", lite.space, model)
    storage.write_bytes(f"{base}/adjectives.txt", b"vivid\ncalm\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("motif.encoder.encoder.Encoder", lambda source: lite)
        return publish_creators.main(
            publish_creators.Config(
                embeddings=f"{base}/embeddings",
                model=f"{base}/same",
                table=TABLE,
                adjectives=f"{base}/adjectives.txt",
            )
        )


def motif(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [str(MOTIF), *arguments], capture_output=True, text=True, timeout=120, check=False
    )


def test_the_table_in_the_bucket_is_what_was_published(published):
    table = CreatorTable.open(TABLE)
    assert len(table) == published["counts"]["creators"] == 12
    assert table.version == published["table_version"]
    name = f"s3://{BUCKET}/db/creators.motif/publishes/{published['run_id']}.json"
    assert published == json.loads(storage.read_bytes(name))


def test_an_incremental_publish_to_the_bucket(published, lite):
    base = f"s3://{BUCKET}/in"
    ids = ["creator-002", "somebody-new"]
    added = rows_of(ids, themed(2, 1, DIM, seed=9)[1])
    names = pa.array(["added-0", "added-1"])
    place = added.schema.get_field_index("image_id")
    grow_embeddings(f"{base}/embeddings", added.set_column(place, added.schema.field(place), names))
    table = f"s3://{BUCKET}/grown/creators.lance"
    for source in storage.open_filesystem(TABLE)[0].find(f"{BUCKET}/db"):
        target = source.replace(f"{BUCKET}/db", f"{BUCKET}/grown", 1)
        storage.write_bytes(f"s3://{target}", storage.read_bytes(f"s3://{source}"))
    record = publish_creators.main(
        publish_creators.Config(
            embeddings=f"{base}/embeddings",
            model=f"{base}/same",
            table=table,
            adjectives=f"{base}/adjectives.txt",
        )
    )
    assert record["mode"] == "incremental"
    assert {k: record["counts"][k] for k in ("inserted", "updated", "deleted")} == {
        **{"inserted": 1, "updated": 1, "deleted": 0},
    }
    counts = CreatorTable.open(table).get(ids)["image_count"].to_pylist()
    assert counts == [4, 1]
    assert len(CreatorTable.open(TABLE)) == 12


def test_the_command_line_queries_the_bucket(published):
    done = motif("lookalikes", "--table", TABLE, "--creator", "creator-003", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    expected = CreatorTable.open(TABLE).lookalikes("creator-003").to_pylist()
    assert json.loads(done.stdout) == expected
    assert len(expected) == 10


def test_the_plain_client_reads_the_live_version(published, s3_endpoint):
    options = {"endpoint": s3_endpoint, "allow_http": "true"}
    database = lancedb.connect(f"s3://{BUCKET}/db", storage_options=options)
    table = database.open_table("creators")
    table.checkout(LIVE)
    assert table.count_rows() == 12


def test_a_second_version_moves_live(s3, lite, tmp_path):
    uri = f"s3://{BUCKET}/second/creators.lance"
    model = write_checkpoint(tmp_path / "same", lite.space)
    first = publish(uri, rows_of(*themed(4, 2, DIM)), model)
    reader = CreatorTable.open(uri)
    second = publish(uri, rows_of(*themed(6, 2, DIM)), model)
    assert second["version"] > first["version"]
    assert (len(reader), len(CreatorTable.open(uri))) == (4, 6)


def test_a_first_publish_that_was_cut_off_can_be_repeated(s3, lite, tmp_path):
    uri = f"s3://{BUCKET}/cut/creators.lance"
    model = write_checkpoint(tmp_path / "same", lite.space)
    s3.put_object(Bucket=BUCKET, Key="cut/creators.lance/data/half.lance", Body=b"half")
    with pytest.raises(InputError, match="its first publish has not finished"):
        CreatorTable.open(uri)
    publish(uri, rows_of(*themed(4, 2, DIM)), model)
    assert len(CreatorTable.open(uri)) == 4


def test_objects_of_others_are_refused_and_untouched(s3, lite, tmp_path):
    uri = f"s3://{BUCKET}/others/creators.lance"
    s3.put_object(Bucket=BUCKET, Key="others/creators.lance/notes.txt", Body=b"mine")
    model = write_checkpoint(tmp_path / "same", lite.space)
    with pytest.raises(OutputError, match="is there and is no Lance table"):
        publish(uri, rows_of(*themed(4, 2, DIM)), model)
    found = s3.list_objects_v2(Bucket=BUCKET, Prefix="others/")["Contents"]
    assert [item["Key"] for item in found] == ["others/creators.lance/notes.txt"]


@pytest.mark.parametrize("uri", [f"s3://{BUCKET}/nothing.lance", "s3://no-such-bucket/c.lance"])
def test_tables_that_are_not_there_are_one_line(s3, uri):
    done = motif("rank", "--table", uri, "--adjective", "vivid")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert uri in done.stderr


def test_a_database_is_apart_from_its_table():
    assert TableUri.parse(TABLE) == TableUri(f"s3://{BUCKET}/db", "creators")


def test_recommendations_in_the_bucket(s3, published):
    pairs = "".join(f"b{i % 3},creator-{i:03d}\n" for i in range(6))
    interactions = f"s3://{BUCKET}/in/interactions.csv"
    storage.write_bytes(interactions, f"brand_id,creator_id\n{pairs}".encode())
    output = f"s3://{BUCKET}/db/for_brands.lance"
    record = recommend.main(
        recommend.Config(interactions=interactions, table=TABLE, output=output, k=4)
    )
    table = RecommendationTable.open(output)
    assert record["counts"]["rows"] == 3 * 4
    cold = {f"creator-{i:03d}" for i in range(6, 12)}
    for brand in ("b0", "b1", "b2"):
        found = table.for_brand(brand)
        assert set(found["creator_id"].to_pylist()) <= cold
        assert found.num_rows == 4
