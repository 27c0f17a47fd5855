import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from motif import schemas, storage
from motif.artefacts import run
from motif.artefacts.run import State
from motif.errors import InputError, OutputError

KIND = "embeddings"
OWNED = ("embeddings", "failures", "_staging")
PLAN = {"images_sha256": "1", "buckets": 4}


@dataclass(frozen=True)
class Config:
    output: str = "x"


def snapshot(folder: Path) -> dict[str, bytes | None]:
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


def claim(folder: Path, *, overwrite: bool = False, plan: dict | None = PLAN) -> bool:
    return run.claim(str(folder), KIND, overwrite=overwrite, owned=OWNED, plan=plan)


def finish(folder: Path) -> dict:
    return run.Recorder(KIND, Config()).finish(
        str(folder), counts={"rows": 3, "embedded": 3}, space={"fingerprint": "abc"}
    )


@pytest.fixture
def unfinished(tmp_path) -> Path:
    folder = tmp_path / "out"
    assert claim(folder) is False
    (folder / "_staging" / "bucket-00000").mkdir(parents=True)
    (folder / "_staging" / "bucket-00000" / "embeddings-1.parquet").write_bytes(b"part")
    return folder


@pytest.fixture
def finished(unfinished) -> Path:
    (unfinished / "embeddings").mkdir()
    (unfinished / "embeddings" / "bucket.parquet").write_bytes(b"rows")
    finish(unfinished)
    return unfinished


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("content", ["file", "folder", "hidden"])
def test_foreign_folder_is_refused_and_untouched(tmp_path, overwrite, content):
    folder = tmp_path / "photos"
    folder.mkdir()
    # A name that Motif also uses is no proof that Motif made it.
    (folder / "embeddings").mkdir()
    {"file": folder / "a.txt", "folder": folder / "embeddings" / "b", "hidden": folder / ".c"}[
        content
    ].write_bytes(b"mine")
    before = snapshot(folder)
    with pytest.raises(OutputError, match=str(folder)):
        run.require_replaceable(str(folder), KIND, overwrite=overwrite)
    with pytest.raises(OutputError, match="not made by Motif"):
        claim(folder, overwrite=overwrite)
    assert snapshot(folder) == before


def test_an_output_below_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_bytes(b"1")
    with pytest.raises(OutputError, match="cannot be written"):
        claim(tmp_path / "file" / "out")


@pytest.mark.parametrize("overwrite", [False, True])
def test_file_at_the_output_is_refused_and_untouched(tmp_path, overwrite):
    path = tmp_path / "out"
    path.write_bytes(b"mine")
    with pytest.raises(OutputError, match="is a file"):
        claim(path, overwrite=overwrite)
    assert path.read_bytes() == b"mine"


@pytest.mark.parametrize("overwrite", [False, True])
def test_other_artefact_is_refused_and_untouched(finished, overwrite):
    before = snapshot(finished)
    with pytest.raises(OutputError, match="holds embeddings, not creators"):
        run.claim(str(finished), "creators", overwrite=overwrite, owned=["embeddings"])
    assert snapshot(finished) == before


@pytest.mark.parametrize("record", [b"{}", b"[]", b"not json", b'{"artefact": null}'])
def test_run_json_of_another_program_is_refused_and_untouched(tmp_path, record):
    (tmp_path / "run.json").write_bytes(record)
    with pytest.raises((OutputError, InputError), match=str(tmp_path)):
        claim(tmp_path, overwrite=True)
    assert snapshot(tmp_path) == {"run.json": record}


def test_absent_and_empty_folders_are_free(tmp_path):
    assert run.state(str(tmp_path / "absent"), KIND) is State.FREE
    assert run.state(str(tmp_path), KIND) is State.FREE
    assert claim(tmp_path) is False
    assert run.state(str(tmp_path), KIND) is State.UNFINISHED


@pytest.mark.parametrize(
    "ours",
    ["_lock.json", "_lock.guard", "._unfinished.json.0badc0de.tmp", ".run.json.12345678.tmp"],
)
def test_a_folder_in_which_a_run_has_just_begun_is_free(tmp_path, ours):
    (tmp_path / "_staging" / "plan-1").mkdir(parents=True)
    (tmp_path / ours).write_bytes(b"{}")
    assert run.state(str(tmp_path), KIND) is State.FREE
    (tmp_path / "photo.jpg").write_bytes(b"mine")
    with pytest.raises(OutputError, match="not made by Motif"):
        run.state(str(tmp_path), KIND)


@pytest.mark.parametrize(
    "name", [".notes.json.0badc0de.tmp", ".run.json.tmp", "run.json.0badc0de.tmp", "_lock.json.bak"]
)
def test_names_that_only_look_like_ours_are_a_stranger_s(tmp_path, name):
    (tmp_path / name).write_bytes(b"mine")
    with pytest.raises(OutputError, match="not made by Motif"):
        run.state(str(tmp_path), KIND)


def test_finished_is_refused_with_a_hint_and_untouched(finished):
    before = snapshot(finished)
    for refuse in (
        lambda: run.require_replaceable(str(finished), KIND, overwrite=False),
        lambda: claim(finished),
    ):
        with pytest.raises(OutputError, match="--overwrite"):
            refuse()
    assert snapshot(finished) == before


def test_overwrite_removes_only_what_is_ours(finished):
    (finished / "notes.txt").write_bytes(b"of a colleague")
    assert claim(finished, overwrite=True) is False
    assert set(snapshot(finished)) == {"notes.txt", run.UNFINISHED_FILE}
    assert run.state(str(finished), KIND) is State.UNFINISHED


def test_unfinished_run_of_the_same_plan_continues(unfinished):
    before = snapshot(unfinished)
    assert claim(unfinished, plan=dict(reversed(PLAN.items()))) is True
    assert snapshot(unfinished) == before


def test_unfinished_run_of_the_same_plan_continues_under_overwrite_too(unfinished):
    before = snapshot(unfinished)
    assert claim(unfinished, overwrite=True) is True
    assert snapshot(unfinished) == before


def test_unfinished_run_of_another_plan_is_refused_and_untouched(unfinished):
    before = snapshot(unfinished)
    with pytest.raises(OutputError, match="--overwrite"):
        claim(unfinished, plan={**PLAN, "buckets": 5})
    assert snapshot(unfinished) == before


def test_unfinished_run_of_another_plan_can_be_discarded(unfinished):
    assert claim(unfinished, plan={**PLAN, "buckets": 5}, overwrite=True) is False
    assert set(snapshot(unfinished)) == {run.UNFINISHED_FILE}


def test_job_without_a_plan_starts_anew(tmp_path):
    assert claim(tmp_path, plan=None) is False
    (tmp_path / "embeddings").mkdir()
    assert claim(tmp_path, plan=None) is False
    assert set(snapshot(tmp_path)) == {run.UNFINISHED_FILE}


@pytest.mark.parametrize("removals", range(len(OWNED) + 1))
def test_overwrite_cut_off_anywhere_can_be_repeated(finished, monkeypatch, removals):
    remove, done = storage.remove, []

    def cut_off(uri: str) -> None:
        if len(done) == removals:
            raise KeyboardInterrupt
        done.append(uri)
        remove(uri)

    with monkeypatch.context() as patch:
        patch.setattr(storage, "remove", cut_off)
        with pytest.raises(KeyboardInterrupt):
            claim(finished, overwrite=True)
    assert run.state(str(finished), KIND) in (State.UNFINISHED, State.FINISHED)
    assert claim(finished, overwrite=True) is False
    assert not (finished / "embeddings").exists()


def test_overwrite_cut_off_continues_without_the_flag(finished, monkeypatch):
    def cut_off(uri: str) -> None:
        if uri.endswith("embeddings"):
            raise KeyboardInterrupt
        Path(uri).unlink()

    with monkeypatch.context() as patch:
        patch.setattr(storage, "remove", cut_off)
        with pytest.raises(KeyboardInterrupt):
            claim(finished, overwrite=True)
    assert claim(finished) is False
    assert not (finished / "embeddings").exists()


def test_record_says_what_was_done(finished):
    record = run.read(str(finished), KIND)
    assert record["counts"] == {"rows": 3, "embedded": 3}
    assert record["config"] == {"output": "x"}
    assert record["seconds"]["total"] >= 0
    assert run.state(str(finished), KIND) is State.FINISHED
    assert not (finished / run.UNFINISHED_FILE).exists()


def test_finish_cut_off_before_its_last_step_is_finished(unfinished, monkeypatch):
    def cut_off(uri: str) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(storage, "remove", cut_off)
        with pytest.raises(KeyboardInterrupt):
            finish(unfinished)
    assert run.state(str(unfinished), KIND) is State.FINISHED


def test_reading_what_is_not_a_finished_artefact(unfinished, tmp_path):
    with pytest.raises(InputError, match="unfinished"):
        run.read(str(unfinished), KIND)
    with pytest.raises(InputError, match="does not exist"):
        run.read(str(tmp_path / "nowhere"), KIND)
    with pytest.raises(InputError, match="no artefact"):
        run.read(str(tmp_path), KIND)


def test_reading_another_kind_or_a_newer_schema(finished):
    with pytest.raises(InputError, match="expected creators"):
        run.read(str(finished), "creators")
    record = json.loads((finished / "run.json").read_text())
    record["schema_version"] = schemas.SCHEMA_VERSION + 1
    (finished / "run.json").write_text(json.dumps(record))
    with pytest.raises(InputError, match="newer"):
        run.read(str(finished), KIND)
