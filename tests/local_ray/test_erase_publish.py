"""A creator who was erased stays out of the table, whatever is published again and how."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from jobs import publish_creators
from motif.artefacts.embeddings import Embeddings
from motif.cli_maintenance import Erase
from motif.encoder.encoder import Encoder
from motif.encoder.source import resolve
from motif.table import CreatorTable
from tests.synthetic import (
    grow_embeddings,
    rows_of,
    themed,
    write_checkpoint,
    write_embeddings,
)

WHO = "creator-003"
LITE_DIM, CREATORS = 384, 20


@pytest.fixture(scope="module")
def lite() -> Encoder:
    return Encoder(resolve("lite"))


@pytest.fixture
def publish(tmp_path, lite, ray_local, monkeypatch):
    """Publish EMBEDDINGS of twenty creators; called again, publish again."""
    monkeypatch.setattr("motif.encoder.encoder.Encoder", lambda source: lite)
    rows = rows_of(*themed(CREATORS, 6, LITE_DIM))
    write_embeddings(tmp_path / "embeddings", rows, lite.space)
    write_checkpoint(tmp_path / "same", lite.space, test_fraction=0.5)
    (tmp_path / "words.txt").write_text("vivid\ncalm\n")

    def run(**more) -> dict:
        paths = {"embeddings": "embeddings", "model": "same", "adjectives": "words.txt"}
        settings = {name: str(tmp_path / path) for name, path in paths.items()}
        table = str(tmp_path / "creators.lance")
        return publish_creators.main(publish_creators.Config(table=table, **settings, **more))

    run()
    return run


def erase(folder: Path, *, embeddings: bool = True) -> dict:
    named = {"embeddings": (str(folder / "embeddings"),)} if embeddings else {}
    return Erase(creator=(WHO,), table=(str(folder / "creators.lance"),), **named).perform()


def published(folder: Path) -> list[str]:
    return CreatorTable.open(str(folder / "creators.lance")).creator_ids()


def beside(folder: Path) -> str:
    """All that lies beside the table, as text."""
    root = folder / "creators.motif"
    records = [json.loads(p.read_text()) for p in root.rglob("*.json")]
    columns = [
        pq.read_table(p, columns=["creator_id"]).to_pydict() for p in root.rglob("*.parquet")
    ]
    return json.dumps([records, columns])


def test_publishing_goes_on_after_an_erasure(tmp_path, publish):
    assert WHO in published(tmp_path)
    assert WHO in beside(tmp_path)
    erase(tmp_path)
    expected = [f"creator-{i:03d}" for i in range(CREATORS) if i != 3]
    assert published(tmp_path) == expected
    assert publish()["up_to_date"]
    assert published(tmp_path) == expected
    added = rows_of(*themed(2, 3, LITE_DIM, seed=5))
    names = pa.array([f"new-{name}" for name in added["image_id"].to_pylist()])
    added = added.set_column(0, added.schema.field("image_id"), names)
    grow_embeddings(str(tmp_path / "embeddings"), added, [])
    assert publish()["mode"] == "incremental"
    assert published(tmp_path) == expected
    assert publish(full=True)["counts"]["creators"] == len(expected)
    assert published(tmp_path) == expected
    assert WHO not in beside(tmp_path)
    assert not erase(tmp_path)["was_somewhere"]


def test_the_tables_own_list_keeps_them_out(tmp_path, publish):
    """As when EMBEDDINGS were not named, or are others that nobody erased from."""
    erase(tmp_path, embeddings=False)
    held = Embeddings.open(str(tmp_path / "embeddings")).read(["creator_id"])
    assert pc.any(pc.equal(held["creator_id"], WHO)).as_py()
    for how in ({}, {"full": True}, {"refit_population": True}):
        publish(**how)
        assert WHO not in published(tmp_path)
        assert len(published(tmp_path)) == CREATORS - 1
        assert WHO not in beside(tmp_path)
