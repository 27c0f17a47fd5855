"""jobs.refresh night after night: news, no news, a worse model, a second start, an end in time."""

import json
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import lance
import numpy as np
import pytest
import torch
from PIL import Image

from jobs import refresh
from motif.artefacts import lock
from motif.artefacts.archive import Archive
from motif.artefacts.embeddings import Embeddings
from motif.errors import ChecksFailed, DeadlinePassed, InputError, OutputHeld
from motif.model import WhitenedEmbedding
from motif.table import LIVE, CreatorTable
from motif.whitening import Whitening
from tests import tiny_encoder
from tests.commands_in_process import snapshot
from tests.synthetic import write_checkpoint

CREATORS, IMAGES = 60, 6


def draw(creator: int, image: int) -> Image.Image:
    """A picture in its creator's colours."""
    theme = np.random.default_rng(creator).integers(0, 256, (2, 2, 3))
    noise = np.random.default_rng([creator, image]).integers(-60, 60, (2, 2, 3))
    pixels = np.clip(theme + noise, 0, 255).astype(np.uint8)
    return Image.fromarray(pixels).resize((48, 40), Image.Resampling.BICUBIC)


class Place:
    """A library, an archive and a table in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.archive = Archive.at(str(folder / "archive"))
        self.table = folder / "db" / "creators.lance"

    def add(self, creator: int, images) -> None:
        for image in images:
            path = self.folder / "library" / f"creator-{creator:03d}" / f"{image}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            draw(creator, image).save(path)

    def config(self, **more) -> refresh.Config:
        settings = {
            "images": str(self.folder / "library"),
            "archive": self.archive.uri,
            "table": str(self.table),
            "encoder": f"local-dir:{self.folder / 'tiny'}",
            "adjectives": str(self.folder / "words.txt"),
            "test_fraction": 0.5,
            **more,
        }
        return refresh.Config(**settings)

    def refresh(self, **more) -> dict:
        return refresh.main(self.config(**more))

    def live(self) -> int:
        return lance.dataset(str(self.table), version=LIVE).version


@pytest.fixture(scope="module")
def made(tmp_path_factory, ray_local) -> tuple[Place, dict, Path]:
    """A place after its first night, the summary of that, and a copy to begin from again."""
    place = Place(tmp_path_factory.mktemp("place") / "now")
    for creator in range(CREATORS):
        place.add(creator, range(IMAGES))
    tiny_encoder.build(place.folder / "tiny", image_size=32)
    (place.folder / "words.txt").write_text("vivid\n")
    summary = place.refresh()
    return place, summary, shutil.copytree(place.folder, place.folder.with_name("kept"))


@pytest.fixture
def place(made) -> Place:
    place, _, kept = made
    shutil.rmtree(place.folder)
    shutil.copytree(kept, place.folder)
    return place


def test_the_first_night_does_everything(made):
    place, summary, _ = made
    assert (summary["outcome"], summary["exit_code"]) == ("done", 0)
    assert list(summary["steps"]) == ["encode", "train", "publish", "evaluate", "clean up"]
    assert summary["steps"]["encode"]["encoded_now"] == CREATORS * IMAGES
    assert summary["steps"]["train"]["because"] == "there is no model yet"
    assert summary["steps"]["publish"]["creators"] == CREATORS
    report = Path(summary["steps"]["evaluate"]["report"])
    assert report.read_text().startswith("<!DOCTYPE html>")
    assert f"{CREATORS * IMAGES} images encoded, 0 failed" in summary["text"]
    assert json.loads(Path(place.archive.summary(summary["run_id"])).read_text()) == summary


def test_a_night_without_news_does_nothing(place, made):
    before = snapshot(place.table)
    summary = place.refresh()
    assert summary["outcome"] == "nothing new"
    assert list(summary["steps"]) == ["encode", "publish"]
    assert snapshot(place.table) == before
    assert len(list(place.archive.summaries())) == 2
    assert next(place.archive.summaries())["run_id"] == summary["run_id"]


def test_news_are_published_and_growth_is_trained_on(place):
    place.add(0, [IMAGES])
    place.add(900, range(3))
    summary = place.refresh(evaluate=False)
    assert summary["steps"]["encode"]["encoded_now"] == 4
    assert "train" not in summary["steps"]
    assert (summary["steps"]["publish"]["mode"], summary["steps"]["publish"]["recomputed"]) == (
        *("incremental", 2),
    )
    assert len(CreatorTable.open(str(place.table))) == CREATORS + 1
    summary = place.refresh(retrain_when_grown=0.005, compact_when_files=2)
    assert "compact" in summary["steps"]
    opened = Embeddings.open(place.archive.embeddings)
    assert max(len(bucket.embeddings) for bucket in opened.snapshot.buckets) == 1
    assert (
        "364 images, where the newest model was trained on 360"
        in (summary["steps"]["train"]["because"])
    )
    assert summary["steps"]["publish"]["mode"] == "full"  # with another model
    assert len(place.archive.models()) == 2


def test_a_model_that_is_worse_is_refused_once_and_the_news_get_in(place):
    opened = Embeddings.open(place.archive.embeddings)
    before = place.archive.models()[0]
    name = place.archive.model_on("blind")
    column = "features" if "features" in opened.schema.names else "embedding"
    dim = opened.schema.field(column).type.list_size
    blind = WhitenedEmbedding(Whitening(torch.zeros(dim), torch.eye(dim)[:, :2]))
    write_checkpoint(name, opened.space, blind, test_fraction=0.5, input_column=column)
    assert place.archive.models()[0].uri == name
    place.add(0, [IMAGES])
    with pytest.raises(ChecksFailed, match="quality: hit rate at 1"):
        place.refresh(retrain_when_grown=None)
    summary = next(place.archive.summaries())
    assert (summary["outcome"], summary["exit_code"]) == ("failed", 3)
    assert summary["steps"]["publish"]["model"] == before.uri
    assert summary["steps"]["publish"]["mode"] == "incremental"
    counts = CreatorTable.open(str(place.table)).get("creator-000")["image_count"].to_pylist()
    assert counts == [IMAGES + 1]
    assert [model.refused for model in place.archive.models()] == [True, False]
    assert place.refresh(retrain_when_grown=None)["outcome"] == "nothing new"


def test_a_second_start_is_told_and_a_dead_one_blocks_nobody(place):
    with lock.hold(place.archive.uri, run_id="tonight"):
        with pytest.raises(OutputHeld, match="is held by run tonight"):
            place.refresh()
        record = json.loads((Path(place.archive.uri) / "_lock.json").read_text())
    (Path(place.archive.uri) / "_lock.json").write_text(json.dumps({**record, "pid": 2**22 + 1}))
    assert place.refresh()["outcome"] == "nothing new"


def test_an_end_in_time_is_told_and_gone_on_from(place):
    place.add(900, range(3))
    with pytest.raises(DeadlinePassed):
        place.refresh(deadline="0.2s")
    summary = next(place.archive.summaries())
    assert (summary["outcome"], summary["exit_code"]) == ("failed", 7)
    assert "the same command goes on" in summary["error"]["message"]
    assert place.refresh(evaluate=False)["steps"]["encode"]["encoded_now"] == 3
    assert len(CreatorTable.open(str(place.table))) == CREATORS + 1


def test_a_dry_run_writes_nothing(place, capsys):
    place.add(900, range(3))
    before = snapshot(place.folder)
    plan = place.refresh(dry_run=True)
    assert snapshot(place.folder) == before
    assert (plan["images_to_do"], plan["images_already_done"]) == (3, CREATORS * IMAGES)
    assert plan["train"] == "no"
    assert plan["live_version"] == place.live()
    assert "images to do" in capsys.readouterr().out


def test_an_old_model_is_due(place):
    [model] = place.archive.models()
    path = Path(model.uri) / "run.json"
    record = json.loads(path.read_text())
    old = (datetime.now(UTC) - timedelta(days=31)).isoformat(timespec="seconds")
    path.write_text(json.dumps({**record, "finished_at": old}))
    assert place.refresh(dry_run=True)["train"].startswith("the newest model is of")
    assert place.refresh(dry_run=True, retrain_every="never")["train"] == "no"


def test_another_archive_does_not_take_a_table_over(place, tmp_path):
    with pytest.raises(InputError, match=r"was made from .*archive/embeddings: name the archive"):
        place.refresh(archive=str(tmp_path / "another"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ({"deadline": "soon"}, "--deadline 'soon'"),
        ({"retrain_every": "30"}, "--retrain-every '30'"),
        ({"retrain_when_grown": -1.0}, "--retrain-when-grown -1"),
        ({"compact_when_files": 1}, "--compact-when-files 1"),
        ({"webhook": "hooks"}, "--webhook or MOTIF_WEBHOOK_URL is no"),
        ({"gpus": -1}, "--gpus -1"),
        ({"table": "/x"}, "expected DATABASE/TABLE.lance"),
    ],
)
def test_flags_that_make_no_sense(tmp_path, flags, told):
    with pytest.raises(InputError) as caught:
        Place(tmp_path).refresh(**flags)
    assert told in str(caught.value)
    assert list(tmp_path.iterdir()) == []
