"""Publishing again: only what changed is recomputed, and it is what a full publish would write."""

import json
import shutil
from pathlib import Path

import lance
import numpy as np
import pyarrow as pa
import pytest
import torch

from jobs import compact_embeddings, publish_creators
from motif import schemas
from motif.artefacts import lock
from motif.artefacts.embeddings import Embeddings
from motif.encoder.encoder import Encoder
from motif.encoder.source import resolve
from motif.errors import ChecksFailed, OutputHeld
from motif.model import WhitenedEmbedding
from motif.table import LIVE, CreatorTable, TableUri
from motif.whitening import Whitening
from tests.synthetic import (
    grow_embeddings,
    rows_of,
    themed,
    write_checkpoint,
    write_embeddings,
)

LITE_DIM = 384
CREATORS, IMAGES = 60, 6
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def lite() -> Encoder:
    return Encoder(resolve("lite"))


@pytest.fixture(scope="module", autouse=True)
def load_lite_once(lite):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("motif.encoder.encoder.Encoder", lambda source: lite)
        yield


def rows(
    creators: int, images: int, *, first: int = 0, seed: int = 0, prefix: str = ""
) -> pa.Table:
    ids, vectors = themed(creators, images, LITE_DIM, seed=seed)
    ids = [f"creator-{int(name[-3:]) + first:03d}" for name in ids]
    found = rows_of(ids, vectors)
    names = pa.array([f"{prefix}{name}" for name in found["image_id"].to_pylist()])
    found = found.set_column(0, found.schema.field("image_id"), names)
    return found.sort_by([("creator_id", "ascending"), ("image_id", "ascending")])


class Place:
    """EMBEDDINGS, a model and a table in one folder."""

    def __init__(self, folder: Path, space) -> None:
        self.folder = folder
        self.embeddings = write_embeddings(folder / "embeddings", rows(CREATORS, IMAGES), space)
        self.model = write_checkpoint(folder / "same", space, test_fraction=0.5)
        self.table = folder / "creators.lance"
        self.words = folder / "words.txt"
        self.words.write_text("vivid\ncalm\n")

    def publish(self, **more) -> dict:
        settings = {"model": self.model, "adjectives": str(self.words), **more}
        return publish_creators.main(
            publish_creators.Config(embeddings=self.embeddings, table=str(self.table), **settings)
        )

    def live(self) -> pa.Table:
        table = lance.dataset(str(self.table), version=LIVE).to_table()
        return table.sort_by("creator_id")

    def versions(self) -> list[int]:
        return [one["version"] for one in lance.dataset(str(self.table)).versions()]


@pytest.fixture(scope="module")
def made(tmp_path_factory, lite, load_lite_once, ray_local) -> tuple[Place, dict, Path]:
    """A place that was published once, the record of that, and a copy to begin from again."""
    place = Place(tmp_path_factory.mktemp("place") / "now", lite.space)
    record = place.publish()
    kept = shutil.copytree(place.folder, place.folder.with_name("kept"))
    return place, record, kept


@pytest.fixture
def place(made) -> Place:
    """As it was after the first publish; records name its folder, so that it is always the same."""
    place, _, kept = made
    shutil.rmtree(place.folder)
    shutil.copytree(kept, place.folder)
    return place


@pytest.fixture
def first(made) -> dict:
    """The record of the first publish."""
    return made[1]


def require_equal(found: pa.Table, expected: pa.Table) -> None:
    """Require the same rows, but for when they were computed, within the stated tolerance."""
    assert found.schema.names == expected.schema.names or set(found.schema.names) == set(
        expected.schema.names
    )
    assert found["creator_id"].to_pylist() == expected["creator_id"].to_pylist()
    for field in expected.schema:
        if field.name == "updated_at":
            continue
        mine, theirs = found[field.name], expected[field.name]
        if pa.types.is_fixed_size_list(field.type):
            np.testing.assert_allclose(
                schemas.matrix(mine), schemas.matrix(theirs), atol=TOLERANCE, err_msg=field.name
            )
        elif pa.types.is_floating(field.type):
            np.testing.assert_allclose(
                mine.to_numpy(),
                theirs.to_numpy(),
                atol=100 * TOLERANCE if field.name.endswith("_pct") else TOLERANCE,
                err_msg=field.name,
            )
        else:
            assert mine.to_pylist() == theirs.to_pylist(), field.name


def test_an_incremental_publish_is_what_a_full_one_would_be(place, first):
    assert (first["mode"], first["refit_population"]) == ("full", True)
    before = place.live()
    untouched = before["updated_at"][0]

    # New images of two creators, two new creators, one image less of one, one creator gone.
    added = pa.concat_tables([rows(2, 3, seed=7, prefix="n-"), rows(2, 4, first=900, prefix="m-")])
    all_rows = Embeddings.open(place.embeddings).read(["creator_id", "image_id"]).to_pylist()
    leaving = [r["image_id"] for r in all_rows if r["creator_id"] == "creator-010"]
    leaving += [r["image_id"] for r in all_rows if r["creator_id"] == "creator-011"][:1]
    grow_embeddings(place.embeddings, added, leaving)

    second = place.publish()
    assert second["mode"] == "incremental", second["reason"]
    assert {k: second["counts"][k] for k in ("recomputed", "inserted", "updated", "deleted")} == {
        **{"recomputed": 5, "inserted": 2, "updated": 3, "deleted": 1},
    }
    incremental = place.live()
    assert incremental.num_rows == CREATORS + 1
    old = {r["creator_id"]: r["updated_at"] for r in incremental.to_pylist()}
    assert old["creator-020"] == untouched.as_py() < old["creator-000"]
    third = place.publish(full=True)
    assert (third["mode"], third["refit_population"]) == ("full", False)
    assert third["counts"]["recomputed"] == CREATORS + 1
    require_equal(incremental, place.live())
    assert third["population"] == second["population"] == first["population"]
    names = {check["name"]: check for check in third["checks"]}
    assert names["drift"]["figures"]["compared"] == CREATORS + 1
    assert names["drift"]["figures"]["lowest_cosine"] > 1 - TOLERANCE


def test_nothing_new_is_no_new_version(place):
    versions = place.versions()
    again = place.publish()
    assert again["up_to_date"] is True
    assert place.versions() == versions


def test_compaction_and_other_buckets_recompute_nobody(place):
    before = place.live()
    grow_embeddings(place.embeddings, rows(1, 2, seed=5, prefix="n-"))
    place.publish()
    compact_embeddings.main(compact_embeddings.Config(embeddings=place.embeddings, buckets=5))
    record = place.publish()
    assert record.get("up_to_date") is True
    assert place.live().num_rows == before.num_rows


def test_columns_come_and_go_without_recomputing_anybody(place, first, tmp_path):
    kept = place.live()
    place.words.write_text("vivid\nromantic\n")
    attributes = tmp_path / "attributes.csv"
    attributes.write_text("creator_id,country,followers\ncreator-000,DE,7\ncreator-001,,12\n")
    second = place.publish(attributes=str(attributes))
    assert (second["mode"], second["counts"]["recomputed"]) == ("incremental", 0)
    found = place.live()
    assert set(found.schema.names) - set(kept.schema.names) == {
        *("oaar_romantic", "oaar_romantic_pct", "country", "followers"),
    }
    assert not {"oaar_calm", "oaar_calm_pct"} & set(found.schema.names)
    assert found["updated_at"].equals(kept["updated_at"])
    assert found["country"].to_pylist()[:3] == ["DE", None, None]
    assert found["followers"].to_pylist()[:3] == [7, 12, None]
    percentiles = found["oaar_romantic_pct"].to_numpy()
    order = np.argsort(found["oaar_romantic"].to_numpy())
    assert (np.diff(percentiles[order]) >= 0).all()
    assert percentiles.min() < 5
    assert percentiles.max() > 95
    assert second["population"] != first["population"]
    assert set(CreatorTable.open(str(place.table)).adjectives) == {"vivid", "romantic"}
    full = place.publish(attributes=str(attributes), full=True)
    assert full["counts"]["recomputed"] == CREATORS
    require_equal(found, place.live())
    # Other attributes, and then none.
    attributes.write_text("creator_id,followers\ncreator-002,3\n")
    place.publish(attributes=str(attributes))
    assert place.live()["followers"].to_pylist()[:3] == [None, None, 3]
    assert "country" not in place.live().schema.names
    place.publish()
    assert "followers" not in place.live().schema.names


def test_a_worse_model_does_not_go_live(place, first, lite, tmp_path):
    version = lance.dataset(str(place.table), version=LIVE).version
    # It sees two dimensions of noise: no creator's twin is found.
    blind = WhitenedEmbedding(Whitening(torch.zeros(LITE_DIM), torch.eye(LITE_DIM)[:, :2]))
    worse = write_checkpoint(tmp_path / "worse", lite.space, blind, test_fraction=0.5)
    with pytest.raises(ChecksFailed, match="quality: hit rate at 1") as told:
        place.publish(model=worse)
    assert f"readers keep {version}" in str(told.value)
    assert told.value.exit_code == 3
    assert lance.dataset(str(place.table), version=LIVE).version == version
    # The next publish begins from what is live, and not from the latest version.
    grow_embeddings(place.embeddings, rows(1, 2, seed=5, prefix="n-"))
    record = place.publish()
    assert record["counts"]["recomputed"] == 1
    assert record["since_version"] == version
    assert place.live().num_rows == first["counts"]["creators"]
    assert schemas.matrix(place.live()["same"]).shape[1] == 8


def test_a_second_publisher_is_told(place):
    versions = place.versions()
    table = TableUri.parse(str(place.table))
    with (
        lock.hold(table.beside(), run_id="another"),
        pytest.raises(OutputHeld, match="is held by run another"),
    ):
        place.publish(full=True)
    assert place.versions() == versions


def test_records_say_what_a_version_was_made_of(place, first):
    record = first
    path = place.table.parent / "creators.motif" / "publishes" / f"{record['run_id']}.json"
    assert json.loads(path.read_text()) == json.loads(json.dumps(record))
    folder = place.table.parent / "creators.motif"
    assert sorted(p.name for p in folder.iterdir()) == [
        *("directions", "halves", "population", "publishes"),
    ]
    dependence = record["object_dependence"]
    assert dependence["oaar"]["per_adjective"] < dependence["plain"]["per_adjective"]
