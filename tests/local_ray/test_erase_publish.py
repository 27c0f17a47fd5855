"""A creator who was erased stays out of the table, whatever is published again and how."""

import json
import shutil
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


@pytest.fixture(scope="module")
def made(tmp_path_factory, lite, ray_local):
    """A folder with twenty creators who are published, and a copy of it to begin from again."""
    folder = tmp_path_factory.mktemp("place") / "now"
    rows = rows_of(*themed(CREATORS, 6, LITE_DIM))
    write_embeddings(folder / "embeddings", rows, lite.space)
    write_checkpoint(folder / "same", lite.space, test_fraction=0.5)
    (folder / "words.txt").write_text("vivid\ncalm\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("motif.encoder.encoder.Encoder", lambda source: lite)
        publish(folder)
        yield folder, shutil.copytree(folder, folder.with_name("kept"))


@pytest.fixture
def folder(made) -> Path:
    """As it was after the first publish; records name it, so that it is always the same."""
    folder, kept = made
    shutil.rmtree(folder)
    return shutil.copytree(kept, folder)


def publish(folder: Path, **more) -> dict:
    paths = {"embeddings": "embeddings", "model": "same", "adjectives": "words.txt"}
    settings = {name: str(folder / path) for name, path in paths.items()}
    table = str(folder / "creators.lance")
    return publish_creators.main(publish_creators.Config(table=table, **settings, **more))


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


def test_publishing_goes_on_after_an_erasure(folder):
    assert WHO in published(folder)
    assert WHO in beside(folder)
    erase(folder)
    expected = [f"creator-{i:03d}" for i in range(CREATORS) if i != 3]
    assert published(folder) == expected
    assert publish(folder)["up_to_date"]
    assert published(folder) == expected
    added = rows_of(*themed(2, 3, LITE_DIM, seed=5))
    names = pa.array([f"new-{name}" for name in added["image_id"].to_pylist()])
    added = added.set_column(0, added.schema.field("image_id"), names)
    grow_embeddings(str(folder / "embeddings"), added, [])
    assert publish(folder)["mode"] == "incremental"
    assert published(folder) == expected
    assert publish(folder, full=True)["counts"]["creators"] == len(expected)
    assert published(folder) == expected
    assert WHO not in beside(folder)
    assert not erase(folder)["was_somewhere"]


@pytest.mark.soak
def test_the_tables_own_list_keeps_them_out(folder):
    """As when EMBEDDINGS were not named, or are others that nobody erased from."""
    erase(folder, embeddings=False)
    held = Embeddings.open(str(folder / "embeddings")).read(["creator_id"])
    assert pc.any(pc.equal(held["creator_id"], WHO)).as_py()
    for how in ({}, {"full": True}, {"refit_population": True}):
        publish(folder, **how)
        assert WHO not in published(folder)
        assert len(published(folder)) == CREATORS - 1
        assert WHO not in beside(folder)
