import io
import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import imagehash
import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from jobs import encode_images
from jobs.encode_images import Config, main
from motif import schemas
from motif.artefacts import run, update
from motif.artefacts.embeddings import Embeddings
from motif.encoder.encoder import Encoder
from motif.encoder.source import resolve
from motif.errors import InputError, OutputError, SpaceError, TooManyFailures
from motif.images.decode import decode
from motif.images.preprocess import to_pixels

ROOT = Path(encode_images.__file__).parents[1]
# Name of the file, stage and class of its failure.
UGLY = {
    "truncated.jpg": ("decode", "truncated"),
    "empty.jpg": ("decode", "truncated"),
    "text.jpg": ("decode", "not_an_image"),
    "bomb.bmp": ("decode", "bomb"),
    "icon.ico": ("decode", "unsupported"),
    "missing.jpg": ("fetch", "not_found"),
    "folder.jpg": ("fetch", "not_found"),
    "http://127.0.0.1:9/a.jpg": ("fetch", "denied"),
    "huge.jpg": ("fetch", "too_large"),
}


def job(images: Path, output: Path, **more) -> dict:
    return main(Config(images=str(images), output=str(output), encoder="lite", **more))


def failures(output: Path) -> pa.Table:
    return Embeddings.open(str(output)).read_failures()


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def require_sums(record: dict) -> None:
    counts = record["counts"]
    assert counts["rows"] == counts["embedded"] + counts["failed"] + counts["duplicates"]
    assert counts["failed"] == sum(counts["failed_by_class"].values())
    stages = record["stages"]  # of the first attempt: what it loses, a second one would hide
    assert stages["planned"] == stages["embedded"] + stages["failed"]


def write_ugly(folder: Path, picture) -> None:
    good = io.BytesIO()
    picture(1).save(good, "JPEG")
    (folder / "truncated.jpg").write_bytes(good.getvalue()[: len(good.getvalue()) // 2])
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "text.jpg").write_text("<html>404</html>")
    bomb = io.BytesIO()
    picture(2, width=8, height=8).save(bomb, "BMP")
    header = bytearray(bomb.getvalue())
    header[18:26] = (100_000).to_bytes(4, "little") * 2
    (folder / "bomb.bmp").write_bytes(header)
    picture(3).save(folder / "icon.ico")
    (folder / "folder.jpg").mkdir()
    with (folder / "huge.jpg").open("wb") as file:
        file.truncate(64 * 1024 * 1024 + 1)  # sparse


def write_good(folder: Path, picture) -> list[str]:
    big = picture(20, width=300, height=200)
    big.save(folder / "original.jpg", quality=95)
    shutil.copy(folder / "original.jpg", folder / "byte-copy.jpg")
    big.save(folder / "reencoded.jpg", quality=70)
    picture(21).convert("RGBA").save(folder / "alpha.png")
    picture(22).save(folder / "lossless.webp", lossless=True)
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(23, width=120, height=60).save(folder / "rotated.jpg", exif=exif)
    return [
        *("original.jpg", "byte-copy.jpg", "reencoded.jpg"),
        *("alpha.png", "lossless.webp", "rotated.jpg"),
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("encode")


@pytest.fixture(scope="module")
def good(folder, picture) -> list[str]:
    return write_good(folder, picture)


@pytest.fixture(scope="module")
def manifest(folder, picture, good) -> Path:
    write_ugly(folder, picture)
    lines = ["creator_id,uri,held_out,campaign,posted_at"]
    for number, name in enumerate((*good, *UGLY)):
        held_out = "true" if number % 2 else "false"
        lines.append(f"creator-{number % 4},{name},{held_out},spring,2024-02-0{number % 9 + 1}")
    lines += [lines[1], lines[2], lines[1]]  # repeated
    lines += [",original.jpg,false,spring,2024-02-01"]  # nobody's
    path = folder / "images.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="module")
def finished(manifest, folder, ray_local) -> tuple[Path, dict]:
    """One run over everything, good and bad, that many tests look at."""
    output = folder / "out"
    record = job(
        manifest,
        output,
        **{"carry": "held_out,campaign", "buckets": 3},
        max_failed_fraction=0.9,
        batch_size=7,  # of which the images are no multiple
    )
    return output, record


@pytest.fixture(scope="module")
def lite() -> Encoder:
    return Encoder(resolve("lite"), precision=torch.float32, features=True)


def test_counts_add_up(finished, good):
    output, record = finished
    require_sums(record)
    assert record["counts"]["rows"] == len(good) + len(UGLY) + 4
    assert record["counts"]["embedded"] == len(good)
    assert record["counts"]["failed"] == len(UGLY) + 1
    assert record["counts"]["duplicates"] == 3
    assert record == json.loads((output / "run.json").read_text())
    assert record["stages"]["bottleneck"]["verdict"]


def test_every_bad_image_is_on_record(finished):
    output, record = finished
    table = failures(output)
    assert table.schema.equals(schemas.FAILURES)
    rows = {
        Path(row["uri"]).name if "http" not in row["uri"] else row["uri"]: row
        for row in table.to_pylist()
        if row["stage"] != "manifest"
    }
    assert {name: (row["stage"], row["error_class"]) for name, row in rows.items()} == UGLY
    assert all(row["message"] and row["attempts"] == 1 for row in rows.values())
    (nobody,) = [row for row in table.to_pylist() if row["stage"] == "manifest"]
    assert nobody["error_class"] == "invalid_row"
    classes = Counter(table["error_class"].to_pylist())
    assert record["counts"]["failed_by_class"] == classes


def test_only_the_artefact_is_left(finished):
    output, record = finished
    assert sorted(path.name for path in output.iterdir()) == [
        *("embeddings", "failures", "ids", "run.json", "snapshots")
    ]
    opened = Embeddings.open(str(output))
    found = {str(p.relative_to(output)) for p in output.rglob("*") if p.is_file()}
    assert found == opened.snapshot.names() | {"run.json"}
    assert record["snapshot"] in found


def test_rows_are_unit_sorted_and_one_per_image(finished, good, folder):
    artefact = Embeddings.open(str(finished[0]))
    table = artefact.read()
    assert sorted(Path(uri).name for uri in table["uri"].to_pylist()) == sorted(good)
    assert len(set(table["image_id"].to_pylist())) == len(good)
    norms = np.linalg.norm(schemas.matrix(table["embedding"]), axis=1)
    np.testing.assert_allclose(norms, 1, atol=1e-5)
    for bucket in range(artefact.buckets):
        rows = artefact.read_bucket(bucket, ["creator_id", "image_id"]).to_pylist()
        keys = [(row["creator_id"], row["image_id"]) for row in rows]
        assert keys == sorted(keys)


def test_a_creator_is_in_one_bucket(finished):
    artefact = Embeddings.open(str(finished[0]))
    places = Counter()
    for bucket in range(artefact.buckets):
        places.update(set(artefact.read_bucket(bucket)["creator_id"].to_pylist()))
    assert set(places.values()) == {1}


def test_schema_and_carried_columns(finished):
    artefact = Embeddings.open(str(finished[0]))
    assert artefact.schema.names == [
        *("image_id", "creator_id", "uri", "version", "posted_at", "embedding", "features"),
        *("content_hash", "perceptual_hash", "held_out", "campaign"),
    ]
    assert artefact.carried == ["held_out", "campaign"]
    assert artefact.schema.field("held_out").type == pa.bool_()
    table = artefact.read()
    rows = {Path(row["uri"]).name: row for row in table.to_pylist()}
    assert rows["original.jpg"]["held_out"] is False
    assert rows["byte-copy.jpg"]["held_out"] is True
    assert set(table["campaign"].to_pylist()) == {"spring"}
    assert rows["reencoded.jpg"]["posted_at"].isoformat() == "2024-02-03T00:00:00+00:00"


def test_embeddings_equal_encoding_directly(finished, lite, folder):
    table = Embeddings.open(str(finished[0])).read()
    pixels = [
        to_pixels(decode(Path(uri).read_bytes()).image, lite.space.preprocess)
        for uri in table["uri"].to_pylist()
    ]
    expected = lite.encode_images(np.stack(pixels))
    found = schemas.matrix(table["embedding"])
    assert (found * expected.embedding).sum(axis=1).min() > 0.999
    features = schemas.matrix(table["features"])
    assert features.shape[1] == lite.features_dim
    assert table["features"].type.value_type == pa.float16()
    assert features.dtype == np.float32
    # The batches were others, so that float32 rounds elsewhere before float16 does.
    np.testing.assert_allclose(features, expected.features, rtol=2e-3, atol=2e-5)


def test_space_is_the_encoder_s(finished, lite):
    assert Embeddings.open(str(finished[0])).space == lite.space


def test_hashes_find_copies(finished):
    table = Embeddings.open(str(finished[0])).read()
    rows = {Path(row["uri"]).name: row for row in table.to_pylist()}
    assert rows["original.jpg"]["content_hash"] == rows["byte-copy.jpg"]["content_hash"]
    assert rows["original.jpg"]["content_hash"] != rows["reencoded.jpg"]["content_hash"]
    first, copy, other = (
        imagehash.hex_to_hash(rows[name]["perceptual_hash"])
        for name in ("original.jpg", "reencoded.jpg", "rotated.jpg")
    )
    assert first - copy <= 2
    assert first - other > 12


def test_running_again_encodes_nothing(finished, manifest, ray_local):
    output, record = finished
    before = snapshot(output)
    again = job(
        manifest,
        output,
        **{"carry": "held_out,campaign", "max_failed_fraction": 0.9},
    )
    told = again["manifest"]
    assert (told["new"], told["unchanged"]) == (0, record["counts"]["embedded"])
    assert told["failed_before"] == len(UGLY)
    assert again["counts"] == record["counts"]
    after = snapshot(output)
    changed = {name for name in before | after if before.get(name) != after.get(name)}
    kinds = {name.split("/")[0] for name in changed}
    assert kinds == {"run.json", "snapshots", "failures"}  # the rejected rows are written anew


@pytest.mark.soak
def test_other_columns_are_refused_by_the_command(finished, manifest):
    output, _ = finished
    before = snapshot(output)
    done = command(manifest, output)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert "--overwrite" in line
    assert "--carry" in line
    assert "-features" not in line
    assert done.stdout == ""
    done = command(manifest, output, "--carry", "held_out,campaign", "--no-features")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "pass --features, or" in line
    assert snapshot(output) == before


@pytest.mark.soak
def test_without_features_and_then_with_them(ray_local, tmp_path, library):
    output = tmp_path / "out"
    job(library, output, features=False)
    assert "features" not in Embeddings.open(str(output)).schema.names
    before = snapshot(output)
    with pytest.raises(InputError, match=r"new: .'features'.*pass --no-features, or --overwrite"):
        job(library, output)
    assert snapshot(output) == before
    job(library, output, overwrite=True)
    artefact = Embeddings.open(str(output))
    assert artefact.schema.field("features").type == schemas.vector(856, pa.float16())
    lengths = np.linalg.norm(schemas.matrix(artefact.read()["features"]), axis=1)
    np.testing.assert_allclose(lengths, 7**0.5, rtol=1e-3)


def test_output_that_is_not_ours_is_left_alone(manifest, tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    for overwrite in (False, True):
        with pytest.raises(OutputError):
            job(manifest, tmp_path, overwrite=overwrite)
    assert snapshot(tmp_path) == {"thesis.txt": b"years of work"}


def test_dry_run_writes_nothing(ray_local, manifest, good, tmp_path, capsys):
    record = job(manifest, tmp_path / "out", dry_run=True)
    assert list(tmp_path.iterdir()) == []
    assert record["images_to_do"] == len(good) + len(UGLY)
    assert record["manifest_rejected"] == 1
    assert record["manifest_duplicates"] == 3
    assert record["sampled_failures"] == len(UGLY)
    assert record["estimated_seconds"] > 0
    row_bytes = 384 * 4 + 856 * 2 + 300
    assert record["estimated_output_bytes"] == record["images_to_do"] * row_bytes
    assert str(len(good) + len(UGLY)) in capsys.readouterr().out


def test_no_images(ray_local, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty.csv").write_text("creator_id,uri\n")
    (tmp_path / "blank.csv").write_text("creator_id,uri\n,\n")
    for name in ("empty", "empty.csv", "blank.csv"):
        with pytest.raises(InputError):
            job(tmp_path / name, tmp_path / "out")
    assert not list(tmp_path.glob("out/*"))


def test_one_image_and_a_run_cut_off_between_encoding_and_finishing(
    ray_local, library, tmp_path, monkeypatch
):
    for path in sorted(library.rglob("*.jpg"))[1:]:
        path.unlink()

    def cut_off(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(update, "commit", cut_off)
        with pytest.raises(KeyboardInterrupt):
            job(library, tmp_path / "out")
    with pytest.raises(InputError, match="unfinished"):
        Embeddings.open(str(tmp_path / "out"))
    # Nothing is left to encode, only to finish.
    record = job(library, tmp_path / "out")
    require_sums(record)
    assert record["counts"]["embedded"] == record["counts"]["creators"] == 1
    assert Embeddings.open(str(tmp_path / "out")).read().num_rows == 1


def test_all_images_bad(ray_local, tmp_path):
    (tmp_path / "images" / "a").mkdir(parents=True)
    for number in range(5):
        (tmp_path / "images" / "a" / f"{number}.jpg").write_bytes(b"no image %d" % number)
    record = job(tmp_path / "images", tmp_path / "out", max_failed_fraction=1.0)
    require_sums(record)
    assert record["counts"]["embedded"] == 0
    assert record["counts"]["failed_by_class"] == {"not_an_image": 5}
    assert Embeddings.open(str(tmp_path / "out")).read().num_rows == 0


def test_too_many_failures_and_then_more_are_allowed(ray_local, library, tmp_path, monkeypatch):
    for number in range(4):
        (library / "creator-0" / f"bad-{number}.jpg").write_bytes(b"no image")
    with pytest.raises(TooManyFailures) as caught:
        job(library, tmp_path / "out")
    assert caught.value.exit_code == 4
    message = str(caught.value)
    assert "4 of the first 16" in message
    assert "not_an_image" in message
    assert "bad-" in message
    assert run.state(str(tmp_path / "out"), "embeddings") is run.State.UNFINISHED
    # The good ones are not encoded again.
    record = job(library, tmp_path / "out", max_failed_fraction=0.5)
    require_sums(record)
    assert record["manifest"]["encoded_by_a_run_cut_off"] == 12
    assert record["stages"]["planned"] == 4
    assert record["counts"]["embedded"] == 12
    assert record["counts"]["failed_by_class"] == {"not_an_image": 4}
    assert failures(tmp_path / "out")["attempts"].to_pylist() == [2] * 4


def test_node_with_other_weights_is_refused(ray_local, library, tmp_path, monkeypatch):
    # The driver believes in other weights than the actors find.
    loaded = Encoder.__init__

    def with_other_weights(self, *args, **more):
        loaded(self, *args, **more)
        self.space = replace(self.space, weights_sha256="0" * 64)

    monkeypatch.setattr(Encoder, "__init__", with_other_weights)
    with pytest.raises(SpaceError, match="same weights"):
        job(library, tmp_path / "out")
    assert run.state(str(tmp_path / "out"), "embeddings") is run.State.UNFINISHED


# The command itself, in processes of its own.


def environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}


def arguments(images: Path, output: Path, *flags: str) -> list[str]:
    command = [sys.executable, "-m", "jobs.encode_images", "--encoder", "lite"]
    return [*command, "--images", str(images), "--output", str(output), *flags]


def command(images: Path, output: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        arguments(images, output, *flags),
        **{"cwd": ROOT, "env": environment(), "capture_output": True, "text": True},
        timeout=120,
        check=False,
    )


@pytest.mark.soak
def test_json_is_the_record_alone(library, tmp_path):
    output = tmp_path / "out"
    done = command(library, output, "--json")
    assert done.returncode == 0, done.stderr
    assert done.stdout == (output / "run.json").read_text()
    require_sums(json.loads(done.stdout))
