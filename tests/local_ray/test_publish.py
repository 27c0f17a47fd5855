import json
import shutil
from pathlib import Path

import lancedb
import numpy as np
import pytest
import torch

from jobs import publish_creators, train_same
from motif import adjectives, schemas
from motif.artefacts.checkpoint import Checkpoint
from motif.artefacts.embeddings import Embeddings
from motif.encoder.encoder import Encoder
from motif.encoder.source import resolve
from motif.errors import ContractError, InputError, SpaceError
from motif.model import SameNetwork, embed
from motif.table import LIVE, CreatorTable
from tests.commands_in_process import refused
from tests.synthetic import (
    make_space,
    make_whitening,
    rows_of,
    themed,
    unit,
    write_checkpoint,
    write_embeddings,
)

ROOT = Path(train_same.__file__).parents[1]
WORDS = ["vivid", "calm"]
LITE_DIM = 384


@pytest.fixture(scope="module")
def lite() -> Encoder:
    return Encoder(resolve("lite"))


@pytest.fixture
def load_lite_once(lite, monkeypatch) -> None:
    monkeypatch.setattr("motif.encoder.encoder.Encoder", lambda source: lite)


@pytest.fixture(scope="module")
def place(tmp_path_factory, lite) -> Path:
    """EMBEDDINGS and a model in the lite encoder's own space, and a list of adjectives."""
    folder = tmp_path_factory.mktemp("publish")
    ids, vectors = themed(24, 4, LITE_DIM)
    kept = [i for i in range(len(ids)) if i % 4 <= (i // 4) % 4]  # one to four images each
    rows = rows_of([ids[i] for i in kept], vectors[kept])
    write_embeddings(folder / "embeddings", rows, lite.space)
    torch.manual_seed(0)
    network = SameNetwork(make_whitening(LITE_DIM, 8), hidden_dim=16)
    torch.nn.init.normal_(network.last.weight)
    write_checkpoint(folder / "same", lite.space, network)
    (folder / "adjectives.txt").write_text("\n".join(WORDS))
    return folder


def config(place: Path, table: Path, **more) -> publish_creators.Config:
    settings = {
        "embeddings": str(place / "embeddings"),
        "model": str(place / "same"),
        "table": str(table),
        "adjectives": str(place / "adjectives.txt"),
        **more,
    }
    return publish_creators.Config(**settings)


def live(table: Path) -> int:
    opened = lancedb.connect(str(table.parent)).open_table(table.name.removesuffix(".lance"))
    return opened.tags.get_version(LIVE)


@pytest.fixture(scope="module")
def published(place, lite, ray_local, tmp_path_factory) -> tuple[Path, dict]:
    table = tmp_path_factory.mktemp("database") / "creators.lance"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("motif.encoder.encoder.Encoder", lambda source: lite)
        return table, publish_creators.main(config(place, table))


@pytest.fixture
def table(published, tmp_path) -> Path:
    """A copy of the published table, to be changed."""
    beside = published[0].with_suffix(".motif")
    shutil.copytree(beside, tmp_path / "creators.motif")
    return Path(shutil.copytree(published[0], tmp_path / "creators.lance"))


def test_publish_end_to_end(place, lite, published):
    table, record = published
    assert record["counts"] == {
        **{"images_read": 60, "creators": 24, "recomputed": 24, "adjectives": 2},
    }
    assert record["table_version"] == live(table)
    (told,) = (table.parent / "creators.motif" / "publishes").iterdir()
    assert json.loads(told.read_text()) == json.loads(json.dumps(record))

    opened = CreatorTable.open(str(table))
    model = Checkpoint.open(str(place / "same"))
    assert len(opened) == 24
    assert opened.space["fingerprint"] == model.fingerprint
    assert opened.space["encoder"] == lite.space.to_json()
    rows = Embeddings.open(str(place / "embeddings")).read()
    vectors = np.array(schemas.matrix(rows["embedding"]))
    same = embed(model.model, torch.from_numpy(vectors)).numpy()
    without = lite.encode_texts(adjectives.object_prompts())
    changes = {
        word: (lite.encode_texts(adjectives.object_prompts(word)) - without).mean(axis=0)
        for word in WORDS
    }
    ids = rows["creator_id"].to_pylist()
    assert opened.creator_ids() == sorted(set(ids))
    for creator in set(ids):
        own = [i for i, c in enumerate(ids) if c == creator]
        [row] = opened.get(creator).to_pylist()
        total = same[own].astype(np.float64).sum(axis=0)
        np.testing.assert_allclose(row["same"], total / np.linalg.norm(total), atol=1e-5)
        mean = vectors[own].mean(axis=0)
        np.testing.assert_allclose(row["mean_embedding"], mean, atol=1e-6)
        assert row["image_count"] == len(own)
        pairs = [float(same[a] @ same[b]) for a in own for b in own if a != b]
        if pairs:
            expected = max(np.mean(pairs), 0)
            assert row["theme_consistency"] == pytest.approx(expected, abs=1e-5)
        else:
            assert row["theme_consistency"] is None
        # Two images are equally near to their mean, so it is nearness that is compared.
        near = {rows["uri"][i].as_py(): float(same[i] @ total) for i in own}
        shown = [near[uri] for uri in row["representative_uris"]]
        assert set(row["representative_uris"]) == set(near)
        assert shown == pytest.approx(sorted(near.values(), reverse=True), abs=1e-5)
        for word, change in changes.items():
            expected = mean @ change / np.linalg.norm(change)
            assert row[f"oaar_{word}"] == pytest.approx(expected, abs=1e-5)
            assert 0 <= row[f"oaar_{word}_pct"] <= 100
        assert 0 < row["theme_reliability"] <= 1
        assert -1 <= row["hubness"] <= 1
    assert live(table) == opened.version


@pytest.mark.usefixtures("ray_local", "load_lite_once")
def test_a_second_publish_with_a_reader_in_between(place, lite, table, tmp_path):
    first = live(table)
    reader = CreatorTable.open(str(table))
    ranked = reader.rank("vivid", k=24)
    ids, vectors = themed(5, 2, LITE_DIM, seed=3)
    write_embeddings(tmp_path / "fewer", rows_of(ids, vectors), lite.space)
    second = publish_creators.main(config(place, table, embeddings=str(tmp_path / "fewer")))
    assert second["table_version"] > first
    assert live(table) == second["table_version"]
    assert len(CreatorTable.open(str(table))) == 5
    assert reader.rank("vivid", k=24).equals(ranked)


def test_models_and_encoders_of_other_spaces_are_refused(place, tmp_path, load_lite_once):
    table = tmp_path / "creators.lance"
    other = make_space(LITE_DIM, encoder="another")
    model = write_checkpoint(tmp_path / "other", other)
    with pytest.raises(SpaceError, match="another") as caught:
        publish_creators.main(config(place, table, model=model))
    assert other.fingerprint in str(caught.value)
    # Both are of one space, but the text encoder is not.
    ids, vectors = themed(3, 2, LITE_DIM)
    embeddings = write_embeddings(tmp_path / "embeddings", rows_of(ids, vectors), other)
    with pytest.raises(SpaceError, match="the encoder is in space"):
        publish_creators.main(config(place, table, embeddings=embeddings, model=model))
    assert not table.exists()


def test_a_dry_run_of_publishing_writes_nothing(place, tmp_path, capsys):
    plan = publish_creators.main(config(place, tmp_path / "creators.lance", dry_run=True))
    assert list(tmp_path.iterdir()) == []
    assert (plan["creators"], plan["images"], plan["adjectives"]) == (24, 60, 2)
    assert plan["table_exists"] is False
    assert "creators.lance" in capsys.readouterr().out


def test_inputs_that_are_not_there_are_refused(place, tmp_path):
    table = tmp_path / "creators.lance"
    for flag in ("embeddings", "model", "adjectives"):
        with pytest.raises(InputError, match="/nowhere"):
            publish_creators.main(config(place, table, **{flag: "/nowhere"}))
    with pytest.raises(InputError, match="reads the column 'features'"):
        features = write_checkpoint(
            tmp_path / "features",
            Embeddings.open(str(place / "embeddings")).space,
            input_column="features",
        )
        publish_creators.main(config(place, table, model=features))
    assert not table.exists()


@pytest.mark.usefixtures("ray_local", "load_lite_once")
def test_refusals_in_a_worker_are_refusals_of_the_job(lite, place, tmp_path, monkeypatch, capfd):
    table = tmp_path / "creators.lance"
    ids, vectors = themed(9, 2, LITE_DIM)
    vectors[ids.index("creator-004")] = np.nan
    broken = write_embeddings(tmp_path / "broken", rows_of(ids, vectors), lite.space)
    with pytest.raises(ContractError, match="first: 'creator-004'"):
        publish_creators.main(config(place, table, embeddings=broken))
    vectors = unit(np.nan_to_num(vectors, nan=1.0))
    gone = write_embeddings(tmp_path / "gone", rows_of(ids, vectors), lite.space)
    (lost,) = (Path(gone) / "embeddings").glob("bucket-00001-*")
    lost.unlink()
    told = refused(
        *(monkeypatch, capfd, publish_creators, "--embeddings", gone, "--table", str(table)),
        *("--model", str(place / "same"), "--adjectives", str(place / "adjectives.txt")),
    )
    assert f"error: {lost} is gone" in told
    assert "Traceback" not in told
    with pytest.raises(InputError, match="does not exist"):
        CreatorTable.open(str(table))


@pytest.mark.usefixtures("ray_local", "load_lite_once")
@pytest.mark.soak
def test_one_creator_with_one_image_can_be_published_with_a_whitening(place, lite, tmp_path):
    rows = rows_of(*themed(1, 1, LITE_DIM))
    embeddings = write_embeddings(tmp_path / "embeddings", rows, lite.space)
    model = write_checkpoint(tmp_path / "whitening", lite.space)
    table = tmp_path / "creators.lance"
    record = publish_creators.main(config(place, table, embeddings=embeddings, model=model))
    assert record["architecture"] == "whitening"
    opened = CreatorTable.open(str(table))
    assert opened.creator_ids() == ["creator-000"]
    assert opened.get("creator-000")["theme_consistency"].to_pylist() == [None]
    assert opened.lookalikes("creator-000").num_rows == 0
