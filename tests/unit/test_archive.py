"""What an archive holds, and when it is time to train again."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from motif.artefacts.archive import Archive, Model, Schedule, chosen
from motif.artefacts.run import RUN_FILE, UNFINISHED_FILE

NOW = datetime.now(UTC)


def model(*, days: float = 0, images: int = 100, refused: bool = False) -> Model:
    return Model(f"/models/{days}", NOW - timedelta(days=days), images, refused)


@pytest.mark.parametrize(
    ("models", "images", "due"),
    [
        ([], 100, "no model yet"),
        ([model(days=1)], 100, ""),
        ([model(days=29.9)], 119, ""),
        ([model(days=30.1)], 100, "the newest model is of"),
        ([model(days=1)], 120, "120 images, where the newest model was trained on 100"),
        ([model(days=1), model(days=40)], 100, ""),
        ([model(days=1, refused=True), model(days=40)], 100, ""),  # it was tried
        ([model(days=1, images=0)], 0, ""),
        ([model(days=1, images=0)], 5, "5 images"),
    ],
)
def test_training_is_due(models, images, due):
    found = Schedule(timedelta(days=30), 0.2).due(models, images)
    assert (due in found) if due else not found


def test_never_is_never():
    assert not Schedule(None, None).due([model(days=1000)], 10**9)
    assert Schedule(None, None).due([], 1)


def test_the_newest_that_was_not_refused_is_published():
    models = [model(days=1, refused=True), model(days=2), model(days=3)]
    assert chosen(models) == models[1]
    assert chosen([]) is None
    assert chosen([model(refused=True)]) is None


def write_model(archive: Archive, name: str, finished: str, images: int = 7) -> str:
    uri = archive.model_on(name)
    record = {
        "artefact": "same_checkpoint",
        "finished_at": finished,
        "trained_on": {"images": images},
    }
    write(uri, RUN_FILE, record)
    return uri


def write(uri: str, name: str, value: dict) -> None:
    Path(uri).mkdir(parents=True, exist_ok=True)
    (Path(uri) / name).write_text(json.dumps(value))


def test_models_are_read_off_the_folder(tmp_path, caplog):
    archive = Archive.at(str(tmp_path / "archive"))
    assert archive.models() == []
    assert archive.unfinished_models() == []
    older = write_model(archive, "a", "2026-01-01T00:00:00+00:00")
    newer = write_model(archive, "b", "2026-02-01T00:00:00+00:00", images=9)
    write(archive.model_on("c"), UNFINISHED_FILE, {"artefact": "same_checkpoint"})
    write(archive.model_on("d"), RUN_FILE, {"artefact": "embeddings"})
    assert [(m.uri, m.images, m.refused) for m in archive.models()] == [
        (newer, 9, False),
        (older, 7, False),
    ]
    assert "passed over" in caplog.text
    assert archive.unfinished_models() == [archive.model_on("c")]
    archive.refuse(newer, "worse than what is live")
    assert [m.refused for m in archive.models()] == [True, False]
    assert chosen(archive.models()).uri == older


def test_summaries_come_newest_first_without_the_damaged(tmp_path, caplog):
    archive = Archive.at(str(tmp_path))
    for day in (1, 3, 2):
        write(
            str(tmp_path / "refreshes"), f"{day}.json", {"started_at": f"2026-01-0{day}", "n": day}
        )
    (tmp_path / "refreshes" / "damaged.json").write_text("{")
    assert [one["n"] for one in archive.summaries()] == [3, 2, 1]
    assert "damaged.json" in caplog.text
