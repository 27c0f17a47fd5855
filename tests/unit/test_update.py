"""EMBEDDINGS change by one commit; until then, and for who reads meanwhile, they stay the same."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pytest

from motif import schemas, storage
from motif.artefacts import embeddings, run, snapshot, staging, update
from motif.artefacts.embeddings import Embeddings
from motif.artefacts.run import State
from motif.artefacts.snapshot import Bucket, Snapshot
from motif.artefacts.update import Settings
from motif.errors import InputError, OutputError, SpaceError
from motif.space import Preprocess, Space
from tests.bucket_files import SCHEMA, embedded, row

SPACE = Space(
    encoder="test",
    weights_sha256="0" * 64,
    preprocess=Preprocess(
        size=8, mean=(0, 0, 0), std=(1, 1, 1), interpolation="bicubic", resize_mode="squash"
    ),
    dim=2,
)
SETTINGS = Settings(SPACE, SCHEMA, 1)
OTHER = dataclasses.replace(SETTINGS, buckets=2)


@dataclass(frozen=True)
class Config:
    output: str = ""


@dataclass
class Output:
    """An artefact that grows by one image a run."""

    folder: Path

    @property
    def uri(self) -> str:
        return str(self.folder)

    def begin(self, *, overwrite: bool = False, settings: Settings = SETTINGS) -> str:
        """Do what a run does before it encodes; returns the staging folder."""
        found, _ = update.look(self.uri, overwrite=overwrite)
        update.prepare(self.uri, found, settings, overwrite=overwrite)
        update.sweep(self.uri, update.current(self.uri))
        update.claim(self.uri, found, settings, overwrite=overwrite)
        return settings.staging_folder(self.uri)

    def commit(self, run_id: str, *, keep: bool = True) -> None:
        """Add a file, or replace all files by it."""
        current = update.current(self.uri)
        before = current.buckets[0].embeddings if current and keep else ()
        name = embeddings.part_name("embeddings", 0, 1, run_id)
        part = embeddings.write_part(self.uri, name, embedded(row(run_id)))
        after = Snapshot(run_id, SCHEMA, (Bucket(embeddings=(*before, part), creators=1),))
        update.commit(
            self.uri,
            run.Recorder(embeddings.ARTEFACT, Config(), run_id=run_id),
            after,
            current,
            check=lambda: None,
            counts=after.counts(),
            space=SPACE.to_json(),
            encoder="test",
        )

    def files(self) -> set[str]:
        paths = self.folder.rglob("*")
        return {str(path.relative_to(self.folder)) for path in paths if path.is_file()}

    def images(self) -> list[str]:
        return Embeddings.open(self.uri).read(["image_id"])["image_id"].to_pylist()


@pytest.fixture
def output(tmp_path) -> Output:
    return Output(tmp_path / "out")


def part(run_id: str) -> str:
    return embeddings.part_name("embeddings", 0, 1, run_id)


def ids(run_id: str) -> str:
    return snapshot.ids_name(part(run_id))


# look


def test_looking_at_what_is_there(output):
    assert update.look(output.uri, overwrite=False) == (State.FREE, None)
    output.begin()
    assert update.look(output.uri, overwrite=False) == (State.UNFINISHED, None)
    output.commit("one")
    found, record = update.look(output.uri, overwrite=False)
    assert found is State.FINISHED
    assert record
    assert record["run_id"] == "one"
    assert update.look(output.uri, overwrite=True) == (State.FINISHED, None)


def test_a_folder_that_is_not_ours_is_refused(output):
    output.folder.mkdir()
    (output.folder / "photo.jpg").write_bytes(b"")
    with pytest.raises(OutputError, match="not made by Motif"):
        update.look(output.uri, overwrite=True)


def test_embeddings_of_an_older_motif_are_refused_unless_overwritten(output):
    recorder = run.Recorder(embeddings.ARTEFACT, Config())
    recorder.finish(output.uri, counts={}, space=SPACE.to_json())
    with pytest.raises(InputError, match="--overwrite"):
        update.look(output.uri, overwrite=False)
    assert update.current(output.uri) is None
    output.begin(overwrite=True)
    output.commit("one", keep=False)
    assert output.images() == ["one"]


def test_embeddings_with_the_features_of_an_older_motif_are_refused(output):
    output.begin()
    output.commit("one")
    record = storage.read_json(f"{output.uri}/run.json")
    older = schemas.SCHEMA_VERSION - 1
    record["schema_version"] = older
    del record["space"]["features"]
    storage.write_json(f"{output.uri}/run.json", record)
    with pytest.raises(InputError, match=rf"schema {older}, .*--overwrite") as caught:
        update.look(output.uri, overwrite=False)
    assert output.uri in str(caught.value)
    with pytest.raises(SpaceError, match="encode again") as caught:
        Embeddings.open(output.uri)
    assert "\n" not in str(caught.value)
    assert update.look(output.uri, overwrite=True) == (State.FINISHED, None)


# require_compatible


def test_rows_of_another_space_or_with_other_columns_are_refused(output):
    output.begin()
    output.commit("one")
    _, record = update.look(output.uri, overwrite=False)
    before = update.current(output.uri)
    assert record
    assert before
    update.require_compatible(record, before, SETTINGS, output.uri)
    other = dataclasses.replace(SETTINGS, space=dataclasses.replace(SPACE, encoder="other"))
    with pytest.raises(SpaceError, match="--overwrite"):
        update.require_compatible(record, before, other, output.uri)
    more = schemas.embeddings(2, carried=[pa.field("likes", pa.int64())])
    for was, now, named in ((SCHEMA, more, "new: .'likes'"), (more, SCHEMA, "here: .'likes'")):
        then = dataclasses.replace(before, schema=was)
        with pytest.raises(InputError, match=named):
            update.require_compatible(
                record, then, dataclasses.replace(SETTINGS, schema=now), output.uri
            )


CARRIED = [pa.field("likes", pa.int64())]


@pytest.mark.parametrize(
    ("was", "now", "told"),
    [
        ({}, {"features_dim": 2}, "pass --no-features, or"),
        ({"features_dim": 2}, {}, "pass --features, or"),
        ({}, {"carried": CARRIED}, "pass the same --carry as before, or"),
        (
            {},
            {"carried": CARRIED, "features_dim": 2},
            "pass --no-features and the same --carry as before, or",
        ),
        (
            {"carried": CARRIED},
            {"carried": [pa.field("likes", pa.string())]},
            "pass the same --carry as before, or",
        ),
    ],
)
def test_the_flag_that_makes_the_columns_what_they_were_is_named(output, was, now, told):
    output.begin()
    output.commit("one")
    _, record = update.look(output.uri, overwrite=False)
    before = update.current(output.uri)
    assert record
    assert before
    before = dataclasses.replace(before, schema=schemas.embeddings(2, **was))
    settings = dataclasses.replace(SETTINGS, schema=schemas.embeddings(2, **now))
    with pytest.raises(InputError, match=told) as caught:
        update.require_compatible(record, before, settings, output.uri)
    assert "\n" not in str(caught.value)


# prepare and claim


def test_a_first_run_that_was_cut_off_is_continued(output):
    folder = output.begin()
    storage.write_bytes(f"{folder}/bucket-00000/embeddings-1.parquet", b"rows")
    assert update.planned_buckets(output.uri) == 1
    assert output.begin() == folder
    assert f"_staging/{Path(folder).name}/bucket-00000/embeddings-1.parquet" in output.files()


def test_an_unfinished_run_with_other_settings_is_in_the_way(output):
    folder = output.begin()
    storage.write_bytes(f"{folder}/bucket-00000/embeddings-1.parquet", b"rows")
    before = output.files()
    with pytest.raises(OutputError, match="--overwrite"):
        output.begin(settings=OTHER)
    assert output.files() == before
    output.begin(settings=OTHER, overwrite=True)
    assert output.files() == {run.UNFINISHED_FILE}
    assert update.planned_buckets(output.uri) == 2


def test_overwriting_drops_what_was_staged_before_it_and_continues_its_own(output):
    output.begin()
    output.commit("one")
    folder = output.begin()
    staged = f"{folder}/bucket-00000/embeddings-1.parquet"
    storage.write_bytes(staged, b"rows of a run that only adds")
    assert output.begin(overwrite=True) == folder
    assert not storage.exists(staged)
    storage.write_bytes(staged, b"its own")
    output.begin(overwrite=True)
    assert storage.exists(staged)
    output.begin(overwrite=True, settings=OTHER)
    assert not storage.exists(staged)


def test_what_is_overwritten_is_readable_until_the_commit(output):
    output.begin()
    output.commit("one")
    output.begin(overwrite=True)
    assert output.images() == ["one"]
    output.commit("two", keep=False)
    assert output.images() == ["two"]
    assert run.UNFINISHED_FILE not in output.files()


def test_another_variant_has_rows_of_its_own(output):
    folders = {
        settings.staging_folder(output.uri, float32=float32)
        for settings in (SETTINGS, OTHER)
        for float32 in (False, True)
    }
    assert len(folders) == 4


def test_an_output_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    uri = f"{tmp_path}/file/out"
    with pytest.raises(OutputError, match="cannot be written"):
        update.claim(uri, State.FREE, SETTINGS, overwrite=False)


# sweep


def test_sweeping_deletes_what_no_snapshot_names_and_nothing_else(output):
    output.begin()
    output.commit("one")
    output.commit("two", keep=False)
    kept = {
        *("run.json", part("two"), ids("two"), "snapshots/two.json"),
        *("_lock.json", "notes.txt", ".hidden", ".notes.json.0badc0de.tmp"),
        "_staging/settings/bucket-00000/embeddings-1.parquet",
    }
    litter = {
        *(
            part("cut-off"),
            ids("cut-off"),
            "failures/x.parquet",
            "removed/x.parquet",
            "snapshots/cut-off.json",
        ),
        *("embeddings/.x.parquet.0badc0de.tmp", ".run.json.0badc0de.tmp"),
        *("._unfinished.json.12345678.tmp", "_staging/plan-cut-off/todo/x.arrow"),
    }
    for name in kept | litter:
        if not (output.folder / name).exists():
            storage.write_bytes(f"{output.uri}/{name}", b"x")
    # The files of the snapshot before stay until a run begins.
    assert {part("one"), ids("one"), "snapshots/one.json"} <= output.files()
    update.sweep(output.uri, update.current(output.uri))
    assert output.files() == kept
    assert output.images() == ["two"]


def test_sweeping_what_has_no_snapshot_yet(output):
    output.begin()
    storage.write_bytes(f"{output.uri}/{part('cut-off')}", b"x")
    update.sweep(output.uri, None)
    assert output.files() == {run.UNFINISHED_FILE}


# commit


def test_a_reader_is_not_disturbed_by_one_commit(output):
    output.begin()
    output.commit("one")
    reader = Embeddings.open(output.uri)
    output.begin()
    output.commit("two", keep=False)
    assert reader.read()["image_id"].to_pylist() == ["one"]
    after = update.current(output.uri)
    assert after
    assert set(after.superseded) == {part("one"), ids("one"), "snapshots/one.json"}
    output.begin()
    output.commit("three")
    assert output.images() == ["three", "two"]
    with pytest.raises(InputError, match="open it again"):
        reader.read()


def test_files_are_superseded_once(output):
    output.begin()
    for number in range(4):
        output.begin()
        output.commit(f"r{number}", keep=False)
    current = update.current(output.uri)
    assert current
    assert output.files() == {run.RUN_FILE, *current.names()}
    assert set(current.superseded) == {part("r2"), ids("r2"), "snapshots/r2.json"}


def test_a_commit_leaves_nothing_of_staging(output):
    folder = output.begin()
    storage.write_bytes(f"{folder}/bucket-00000/embeddings-1.parquet", b"rows")
    output.commit("one")
    assert not (output.folder / staging.FOLDER).exists()
    assert snapshot.name_of("one") in output.files()
