import json
import subprocess
import sys
from datetime import timedelta

import lance
import lancedb
import pyarrow as pa
import pytest
from lance.fragment import write_fragments

from motif import storage
from motif.artefacts import lock
from motif.cli_maintenance import Cleanup, Promote, Rollback, Versions, parse_age
from motif.errors import InputError, OutputHeld
from motif.table import LIVE, CreatorTable, TableUri, versions
from tests.synthetic import make_space, publish, rows_of, themed, write_checkpoint

DIM = 12
NOW = timedelta(0)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return write_checkpoint(tmp_path_factory.mktemp("model") / "same", make_space(DIM))


@pytest.fixture
def table(tmp_path, model) -> TableUri:
    """Three publishes of four, five and six creators; the last is live."""
    path = tmp_path / "db" / "creators.lance"
    for number in range(3):
        publish_of(path, model, 4 + number)
    return TableUri.parse(str(path))


def publish_of(path, model: str, creators: int) -> int:
    rows = rows_of(*themed(creators, 2, DIM))
    return publish(path, rows, model, run_id=f"run-{creators}")["version"]


def published(table: TableUri) -> list[int]:
    return [v.version for v in versions.list_versions(table) if v.published]


def numbers(table: TableUri) -> set[int]:
    return {version.version for version in versions.list_versions(table)}


def live(table: TableUri) -> int:
    return lancedb.connect(table.database).open_table(table.name).tags.get_version(LIVE)


def files(table: TableUri) -> set[str]:
    return {uri for uri, _ in versions.files_below(table.database)}


# -- versions -----------------------------------------------------------------------------------


def test_versions_say_who_made_them_and_which_is_live(table, model):
    found = {v.version: v for v in versions.list_versions(table)}
    assert list(found) == sorted(found, reverse=True)
    shown = [v for v in found.values() if v.published]
    assert [(v.rows, v.creators, v.run_id) for v in shown] == [
        (6, 6, "run-6"),
        (5, 5, "run-5"),
        (4, 4, "run-4"),
    ]
    assert [v.tags for v in shown] == [(LIVE,), (), ()]
    assert [v.version for v in found.values() if v.live] == [live(table)]
    assert {v.model for v in shown} == {model}
    assert len(found) > 3  # rows and index are versions, too


def test_a_tag_of_the_user_makes_a_version_one_to_go_back_to(table):
    unchecked = min(numbers(table) - set(published(table)))
    lance.dataset(table.uri).tags.create("mine", unchecked)
    found = {v.version: v for v in versions.list_versions(table)}
    assert found[unchecked].published
    assert found[unchecked].tags == ("mine",)


def test_a_table_that_is_not_there_or_not_ours_is_one_line(tmp_path):
    where = TableUri.parse(str(tmp_path / "creators.lance"))
    with pytest.raises(InputError, match="does not exist"):
        versions.list_versions(where)
    lance.write_dataset(pa.table({"x": [1]}), where.uri)
    for act in (
        lambda: versions.list_versions(where),
        lambda: versions.rollback(where, 1),
        lambda: versions.cleanup(where, NOW),
    ):
        with pytest.raises(InputError, match="not one of Motif"):
            act()
    assert not (tmp_path / "creators.motif").exists()


# -- rollback -----------------------------------------------------------------------------------


def test_readers_see_the_version_that_was_gone_back_to(table):
    newest, middle, oldest = published(table)
    reader = CreatorTable.open(table.uri)
    done = versions.rollback(table, oldest)
    assert (done["from_version"], done["to_version"], done["rows"]) == (newest, oldest, 4)
    assert len(CreatorTable.open(table.uri)) == 4
    assert len(reader) == 6
    assert versions.rollback(table, middle)["from_version"] == oldest
    assert versions.rollback(table, newest)["from_version"] == middle
    assert versions.rollback(table, newest)["from_version"] == newest
    assert not storage.exists(table.beside("_lock.json"))


def test_nothing_goes_back_to_a_version_that_was_never_checked(table):
    newest, *_ = published(table)
    for number in numbers(table) - set(published(table)):
        with pytest.raises(InputError, match=rf"--to {number}: .* never published.*{newest}"):
            versions.rollback(table, number)
    assert live(table) == newest


def test_nothing_goes_back_to_a_version_that_is_not_there_or_anothers(table):
    with pytest.raises(InputError, match=r"--to 999: .* has no such version; published"):
        versions.rollback(table, 999)
    before = live(table)
    other = lance.write_dataset(pa.table({"x": [1]}), table.uri, mode="overwrite")
    other.tags.create("theirs", other.version)
    with pytest.raises(InputError, match="not one of Motif"):
        versions.rollback(table, other.version)
    assert live(table) == before


def test_a_publish_that_works_keeps_others_out(table):
    before = files(table)
    with lock.hold(table.beside(), run_id="publishing"):
        for act in (
            lambda: versions.rollback(table, published(table)[-1]),
            lambda: versions.cleanup(table, NOW),
        ):
            with pytest.raises(OutputHeld, match="publishing"):
                act()
        versions.cleanup(table, NOW, dry_run=True)  # which writes nothing
    assert files(table) == before


# -- promotion ----------------------------------------------------------------------------------


def tag(table: TableUri, name: str, version: int) -> None:
    lance.dataset(table.uri).tags.create(name, version)


def test_a_candidate_is_promoted_and_gone_back_from(table):
    now, candidate = published(table)[:2]
    tag(table, "candidate", candidate)
    done = versions.promote(table)
    assert (done["from_version"], done["to_version"], live(table)) == (now, candidate, candidate)
    assert len(CreatorTable.open(table.uri)) == done["rows"] == 5
    tags = lance.dataset(table.uri).tags.list()
    assert {name: one["version"] for name, one in tags.items()} == {
        "live": candidate,
        "previous": now,
    }
    assert now in versions.cleanup(table, NOW)["kept_versions"]
    assert versions.rollback(table, "previous")["to_version"] == now
    assert live(table) == now


def test_what_cannot_be_promoted_is_refused(table):
    with pytest.raises(InputError, match="no version tagged 'candidate'; tags are: live"):
        versions.promote(table)
    with pytest.raises(InputError, match="is the live one"):
        versions.promote(table, "live")
    unchecked = min(numbers(table) - set(published(table)))
    with pytest.raises(InputError, match="no version tagged 'nobody'"):
        versions.rollback(table, "nobody")
    with lock.hold(table.beside(), run_id="publish"), pytest.raises(OutputHeld):
        versions.promote(table)
    assert unchecked not in published(table)


def test_promotion_says_how_to_go_back(table, monkeypatch, capsys):
    now, candidate = published(table)[:2]
    tag(table, "candidate", candidate)
    Promote(table=table.uri).run()
    told = capsys.readouterr().out
    assert f"live is version {candidate} with 5 creators; it was {now}" in told
    assert f"to go back: motif rollback --table {table.uri} --to {now}" in told
    Rollback(table=table.uri, to=str(now)).run()
    assert live(table) == now


# -- cleanup ------------------------------------------------------------------------------------


def test_cleanup_drops_all_but_the_tagged_and_the_latest(table):
    newest, middle, oldest = published(table)
    lance.dataset(table.uri).tags.create("gold", oldest)
    told = versions.cleanup(table, NOW, dry_run=True)
    assert told["dry_run"]
    assert numbers(table) > {oldest, middle, newest}
    done = versions.cleanup(table, NOW)
    assert numbers(table) == {oldest, newest} == set(done["kept_versions"])
    assert middle in done["dropped_versions"]
    # What was said in advance is what was done.
    assert {**told, "dry_run": None} == {**done, "dry_run": None}
    assert done["files_removed"] > len(done["dropped_versions"])
    assert done["bytes_removed"] > 0
    assert len(CreatorTable.open(table.uri)) == 6
    assert len(CreatorTable.open(table.uri, "gold")) == 4
    assert versions.rollback(table, oldest)["rows"] == 4
    assert not versions.cleanup(table, NOW)["dropped_versions"]


def test_cleanup_drops_nothing_that_is_younger(table):
    before = files(table)
    done = versions.cleanup(table, timedelta(days=1))
    assert (done["dropped_versions"], done["files_removed"]) == ([], 0)
    assert files(table) == before


def test_cleanup_after_a_rollback_keeps_the_live_version(table):
    newest, _, oldest = published(table)
    versions.rollback(table, oldest)
    done = versions.cleanup(table, NOW)
    # Lance never drops the latest, which is not live here.
    assert done["kept_versions"] == [oldest, newest]
    assert len(CreatorTable.open(table.uri)) == 4


def test_a_reader_that_has_live_open_goes_on_working(table):
    plain = lancedb.connect(table.database).open_table(table.name)
    plain.checkout(LIVE)
    reader = CreatorTable.open(table.uri)
    versions.cleanup(table, NOW)
    assert plain.search().limit(100).to_arrow().num_rows == 6
    assert reader.creator_ids() == [f"creator-{i:03d}" for i in range(6)]
    assert reader.lookalikes("creator-000").num_rows == 5


def test_files_of_a_publish_that_was_killed_go(table, model):
    dataset = lance.dataset(table.uri)
    before = files(table)
    write_fragments(dataset.to_table(), table.uri, schema=dataset.schema, mode="overwrite")
    staged = table.beside("staging", "plan", "creators-00000.parquet")
    storage.write_parquet(staged, pa.table({"creator_id": ["creator-000"]}))
    left = files(table) - before
    assert len(left) == 2
    # Its drafts may be gone on with for a while.
    assert not versions.cleanup(table, timedelta(days=1))["staging_removed"]
    assert files(table) - before == {staged}
    assert versions.cleanup(table, NOW)["staging_removed"]
    assert not files(table) & left
    assert len(CreatorTable.open(table.uri)) == 6


def test_files_beside_the_table_go_with_their_version(table):
    newest, middle, oldest = published(table)
    lance.dataset(table.uri).tags.create("gold", oldest)
    folder = table.beside("publishes")
    assert len(storage.list_files(folder)) == 3
    population = {
        number: CreatorTable.open(table.uri, number)._metadata["population"]
        for number in (newest, middle, oldest)
    }
    assert len(set(population.values())) == 3
    done = versions.cleanup(table, NOW)
    assert set(done["sidecars_removed"]) == {
        "publishes/run-5.json",
        "halves/run-5.parquet",
        f"population/{population[middle]}.parquet",
    }
    assert [uri.rsplit("/", 1)[-1] for uri in storage.list_files(folder)] == [
        "run-4.json",
        "run-6.json",
    ]


# -- the commands -------------------------------------------------------------------------------


def motif(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "motif.cli_maintenance", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_the_commands_list_go_back_and_clean_up(table):
    newest, _, oldest = published(table)
    listed = motif("versions", "--table", table.uri)
    assert listed.returncode == 0
    assert [line.split()[0] for line in listed.stdout.splitlines() if " live " in line] == [
        str(newest)
    ]
    done = motif("rollback", "--table", table.uri, "--to", str(oldest), "--json")
    assert json.loads(done.stdout)["to_version"] == oldest == live(table)
    done = motif("rollback", "--table", table.uri, "--to", "999")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    with lock.hold(table.beside(), run_id="publishing"):
        done = motif("cleanup", "--table", table.uri, "--older-than", "0d")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (5, "", 1)
    done = motif("cleanup", "--table", table.uri, "--older-than", "0d")
    assert done.returncode == 0
    assert numbers(table) == {oldest, newest}


def test_versions_as_json_are_the_list(table):
    assert [one["version"] for one in Versions(table=table.uri).perform()] == sorted(
        numbers(table), reverse=True
    )


@pytest.mark.parametrize(
    ("text", "age"),
    [
        ("30d", timedelta(days=30)),
        ("12h", timedelta(hours=12)),
        ("5m", timedelta(minutes=5)),
        ("2w", timedelta(weeks=2)),
        ("0d", NOW),
    ],
)
def test_ages(text, age):
    assert parse_age(text) == age


@pytest.mark.parametrize("text", ["", "30", "d", "-1d", "1y", "30 days", "\u0661d"])
def test_ages_that_make_no_sense_are_refused_before_any_work(tmp_path, text):
    with pytest.raises(InputError, match="--older-than"):
        Cleanup(table=str(tmp_path / "creators.lance"), older_than=text).perform()
