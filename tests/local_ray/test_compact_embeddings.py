"""compact_embeddings on artefacts that encode_images made, in several runs."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from jobs import compact_embeddings, encode_images
from motif import schemas, storage
from motif.artefacts import lock, update
from motif.artefacts.embeddings import Embeddings
from motif.errors import InputError, OutputHeld
from motif.images import manifest
from tests import tiny_encoder

ROOT = Path(compact_embeddings.__file__).parents[1]
CREATORS = 8
KEYS = [("creator_id", "ascending"), ("image_id", "ascending")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, picture) -> Path:
    """48 pictures of 8 creators, and a tiny encoder."""
    folder = tmp_path_factory.mktemp("compact")
    for number in range(48):
        picture(number, width=40, height=40).save(folder / f"{number}.png")
    tiny_encoder.build(folder / "tiny")
    return folder


def write_manifest(folder: Path, numbers) -> Path:
    """A manifest of these pictures; those beyond 48 are not there and fail."""
    numbers = list(numbers)
    path = folder / f"manifest-{numbers[0]}-{len(numbers)}.csv"
    lines = [f"creator-{number % CREATORS},{number}.png\n" for number in numbers]
    path.write_text("creator_id,uri\n" + "".join(lines) + ",nobody.png\n")
    return path


def encode(folder: Path, output: Path, numbers, **more) -> dict:
    config = encode_images.Config(
        images=str(write_manifest(folder, numbers)),
        output=str(output),
        encoder=f"local-dir:{folder / 'tiny'}",
        max_failed_fraction=0.9,
        **more,
    )
    return encode_images.main(config)


def compact(output: Path | str, **more) -> dict:
    return compact_embeddings.main(compact_embeddings.Config(embeddings=str(output), **more))


KEPT = [number for number in range(52) if number not in (3, 11, 20)]


@pytest.fixture(scope="module")
def made(folder, ray_local) -> Path:
    """Three runs: 20 pictures, 28 more and four that are missing, and then three are removed."""
    output = folder / "out"
    encode(folder, output, range(20), buckets=4)
    encode(folder, output, range(52))
    record = encode(folder, output, KEPT, manifest="full", max_removed_fraction=0.5)
    assert record["counts"]["removed"] == 3
    assert record["counts"]["failed"] == 4 + 1
    return output


@pytest.fixture
def output(made, tmp_path) -> Path:
    """A copy to work on."""
    return Path(shutil.copytree(made, tmp_path / "out"))


def contents(output: Path | str) -> tuple[dict[str, tuple], list[dict]]:
    """Return the rows by image, embeddings as bytes, and the failures."""
    opened = Embeddings.open(str(output))
    rows = opened.read()
    vectors = schemas.matrix(rows["embedding"])
    found = {
        row["image_id"]: (vectors[at].tobytes(), tuple(row.items()))
        for at, row in enumerate(rows.drop_columns(["embedding"]).to_pylist())
    }
    assert len(found) == rows.num_rows == len(KEPT) - 4
    return found, opened.read_failures().sort_by("image_id").to_pylist()


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def require_tidy(output: Path, buckets: int) -> None:
    opened = Embeddings.open(str(output))
    assert opened.buckets == buckets
    for bucket, state in enumerate(opened.snapshot.buckets):
        assert len(state.embeddings) <= 1
        assert len(state.failures) <= 1
        assert not state.removed
        for part in state.parts:
            rows = storage.read_parquet(str(output / part.name))
            assert rows.equals(rows.sort_by(KEYS))
            found = {manifest.bucket_of(c, buckets) for c in rows["creator_id"].to_pylist()}
            assert found == {bucket}


def test_several_parts_become_one_and_encoding_again_is_idle(output, folder):
    opened = Embeddings.open(str(output))
    assert max(len(state.embeddings) for state in opened.snapshot.buckets) > 1
    assert any(state.removed for state in opened.snapshot.buckets)
    expected = contents(output)
    before = json.loads((output / "run.json").read_text())
    record = compact(output)
    assert record == json.loads((output / "run.json").read_text())
    assert contents(output) == expected
    require_tidy(output, 4)
    assert {path.name for path in output.iterdir()} == {
        *("embeddings", "failures", "ids", "removed", "snapshots", "run.json")
    }
    # The record is still that of the run that encoded.
    changed = {name for name in record if record[name] != before.get(name)}
    assert changed == {"snapshot", "counts", "compacted_at", "compaction"}
    assert record["counts"] == {**before["counts"], "removed": 0}
    assert record["compaction"]["images_left_out"] == 3
    again = encode(folder, output, KEPT, manifest="full")
    assert again["manifest"]["encoded_now"] == again["manifest"]["new"] == 0
    assert again["manifest"]["unchanged"] == len(KEPT) - 4
    assert again["manifest"]["removed"] == 0
    assert contents(output) == expected
    named = Embeddings.open(str(output)).snapshot.names()
    assert set(files(output)) == named | {"run.json"}


def test_another_number_of_buckets_and_back_to_one(output, folder):
    expected = contents(output)
    compact(output, buckets=7)
    assert contents(output) == expected
    require_tidy(output, 7)
    # What was removed and comes back is encoded anew; the rest is known in its new place.
    again = encode(folder, output, range(52))
    assert again["manifest"]["encoded_now"] == again["manifest"]["new"] == 3
    assert again["manifest"]["failed_before"] == 4
    assert again["buckets"] == 7
    encode(folder, output, KEPT, manifest="full", max_removed_fraction=0.5)
    record = compact(output, buckets=1)
    assert record["buckets"] == 1
    assert contents(output) == expected
    require_tidy(output, 1)
    assert Embeddings.open(str(output)).counts["creators"] == CREATORS


def test_a_tidy_artefact_is_left_as_it_is(output, caplog):
    compact(output)
    compact(output, buckets=3)
    before = files(output)
    superseded = Embeddings.open(str(output)).snapshot.superseded
    with caplog.at_level("INFO", logger="motif"):
        record = compact(output, buckets=3)
    assert "nothing is changed" in caplog.text
    assert record["buckets"] == 3
    assert files(output) == {n: data for n, data in before.items() if n not in superseded}


def cut_off(*_, **__):
    raise KeyboardInterrupt


def test_what_an_encoding_run_had_done_is_kept(output, folder, monkeypatch, picture):
    for number in (60, 61):
        picture(number).save(folder / f"{number}.png")
    with monkeypatch.context() as patch:
        patch.setattr(update, "commit", cut_off)
        with pytest.raises(KeyboardInterrupt):
            encode(folder, output, [*KEPT, 60, 61])
    before = files(output)
    with pytest.raises(InputError, match="before it was cut off; run its command again"):
        compact(output, buckets=5)
    assert files(output) == before
    compact(output)
    record = encode(folder, output, [*KEPT, 60, 61])
    assert record["manifest"]["encoded_by_a_run_cut_off"] == 2
    assert record["stages"]["planned"] == 0
    assert record["counts"]["embedded"] == len(KEPT) - 4 + 2


@pytest.mark.parametrize("buckets", [0, 5])
def test_cut_off_before_its_commit_it_changes_nothing(output, monkeypatch, buckets):
    expected = contents(output)
    record = (output / "run.json").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(update, "commit", cut_off)
        with pytest.raises(KeyboardInterrupt):
            compact(output, buckets=buckets)
    assert (output / "run.json").read_bytes() == record
    assert contents(output) == expected
    compact(output, buckets=buckets)
    assert contents(output) == expected
    require_tidy(output, buckets or 4)
    snapshot = Embeddings.open(str(output)).snapshot
    assert set(files(output)) == snapshot.names() | {"run.json"}


def test_an_output_that_another_run_holds_is_refused(output):
    before = files(output)
    with lock.hold(str(output), run_id="another"), pytest.raises(OutputHeld, match="run another"):
        compact(output)
    assert files(output) == before


def test_on_object_storage(made):
    fs, _ = storage.open_filesystem("s3://compact")
    fs.mkdir("compact")
    fs.put(str(made), "compact/out", recursive=True)
    uri = "s3://compact/out"
    expected = contents(made)
    for buckets in (0, 6):
        record = compact(uri, buckets=buckets)
        assert contents(uri) == expected
        assert record["buckets"] == (buckets or 4)
    named = Embeddings.open(uri).snapshot.names()
    found = {key.removeprefix("compact/out/") for key in fs.find("compact/out")}
    assert found == named | {"run.json"}


# The command itself, in processes of its own.


def arguments(output: Path, *flags: str) -> list[str]:
    return [*(sys.executable, "-m", "jobs.compact_embeddings"), "--embeddings", str(output), *flags]


def environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}


def command(output: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        arguments(output, *flags),
        **{"cwd": ROOT, "env": environment(), "capture_output": True, "text": True},
        timeout=120,
        check=False,
    )


def test_dry_run_writes_nothing(output, capsys):
    before = files(output)
    done = command(output, "--buckets", "7", "--dry-run", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["buckets_before"], told["buckets_after"], told["buckets_to_rewrite"]) == (4, 7, 4)
    assert told["images_to_rewrite"] == len(KEPT) - 4
    assert told["removed_images_to_leave_out"] == 3
    parts = [
        part
        for state in Embeddings.open(str(output)).snapshot.buckets
        for part in (*state.embeddings, *state.failures)
    ]
    assert told["bytes_to_rewrite"] == sum(part.bytes for part in parts)
    assert files(output) == before
    assert compact(output, buckets=7, dry_run=True) == told
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "files before" in line]
    assert line.split()[-1] == str(told["files_before"])


def test_bad_input_is_one_line(output):
    before = files(output.parent)
    done = command(output.parent / "absent")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line == f"error: embeddings {output.parent / 'absent'} does not exist"
    for name, value in (("buckets", 100_001), ("buckets", -1), ("stall_seconds", 0.0)):
        with pytest.raises(InputError, match=f"--{name.replace('_', '-')} {value}: expected 1 to"):
            compact(output, **{name: value})
    assert files(output.parent) == before


def kill(process: subprocess.Popen) -> None:
    """Kill a process and all that it started, by id, and wait until they are gone."""
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    for member in family:
        try:
            member.send_signal(signal.SIGKILL)
        except psutil.NoSuchProcess:
            continue
    process.wait()
    _, alive = psutil.wait_procs(family[1:], timeout=30)
    assert not alive


@pytest.mark.soak
def test_killed_it_is_completed_by_the_same_command(output, tmp_path):
    expected = contents(output)
    record = (output / "run.json").read_bytes()
    # Enough buckets that some are written and some are not when it ends.
    flags = ("--buckets", "999")
    with (tmp_path / "log.txt").open("wb") as log:
        process = subprocess.Popen(
            arguments(output, *flags),
            **{"cwd": ROOT, "env": environment(), "stdout": log, "stderr": log},
            start_new_session=True,
        )
        deadline = time.monotonic() + 100
        while not list(output.glob("embeddings/*-of-00999-*.parquet")):
            assert process.poll() is None, (tmp_path / "log.txt").read_text()
            assert time.monotonic() < deadline, (tmp_path / "log.txt").read_text()
            time.sleep(0.01)
        kill(process)
    assert (output / "run.json").read_bytes() == record
    assert contents(output) == expected
    left = {path.name for path in output.glob("embeddings/*-of-00999-*.parquet")}
    assert 0 < len(left) < CREATORS
    done = command(output, *flags, "--json")
    assert done.returncode == 0, done.stderr
    assert done.stdout == (output / "run.json").read_text()
    assert contents(output) == expected
    require_tidy(output, 999)
    snapshot = Embeddings.open(str(output)).snapshot
    assert set(files(output)) == snapshot.names() | {"run.json"}
