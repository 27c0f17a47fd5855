"""A finished file is damaged or gone: found, named, and its images encoded again, or refused."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from jobs import encode_images
from motif.artefacts.embeddings import Embeddings
from motif.artefacts.snapshot import Part
from motif.errors import InputError
from tests.breaking import commands

IMAGES = 200


@pytest.fixture(scope="module")
def manifest(pictures, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some of the pictures, from their folder."""
    uris = [str(pictures.folder / key) for key in pictures.keys[:IMAGES]]
    return commands.write_manifest(uris, tmp_path_factory.mktemp("local") / "images.parquet")


@pytest.fixture(scope="module")
def uris(manifest: Path) -> list[str]:
    return pq.read_table(manifest)["uri"].to_pylist()


@pytest.fixture(scope="module")
def run(ray_local, encoder: str, pictures) -> Callable[..., dict[str, Any]]:
    """Run the job in this process."""

    def job(images: Path, output: Path, **flags: Any) -> dict[str, Any]:
        config = encode_images.Config(
            images=str(images),
            output=str(output),
            encoder=encoder,
            allow=(str(pictures.folder),),
            **flags,
        )
        return encode_images.main(config)

    return job


@pytest.fixture(scope="module")
def sound(run, manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished artefact, to copy."""
    output = tmp_path_factory.mktemp("sound") / "out"
    run(manifest, output)
    return output


@pytest.fixture
def output(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "out"))


def a_part(output: Path) -> Part:
    """Return a file of EMBEDDINGS."""
    return next(
        part
        for bucket in Embeddings.open(str(output)).snapshot.buckets
        for part in bucket.embeddings
    )


def flip(path: Path, column: str) -> None:
    """Flip a bit in the middle of a column's pages."""
    group = pq.read_metadata(path).row_group(0)
    [chunk] = [
        c
        for c in map(group.column, range(group.num_columns))
        if c.path_in_schema.split(".")[0] == column
    ]
    data = bytearray(path.read_bytes())
    start = chunk.dictionary_page_offset or chunk.data_page_offset
    data[start + chunk.total_compressed_size // 2] ^= 0x10
    path.write_bytes(data)


def flip_ids(path: Path) -> None:
    flip(path, "image_id")


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def overwrite_middle(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:1000] + bytes(len(data) - 2000) + data[-1000:])


DAMAGE = [flip_ids, overwrite_middle, truncate, Path.unlink]
SOME = [
    flip_ids,
    *(pytest.param(damage, marks=pytest.mark.soak) for damage in (overwrite_middle, truncate)),
    Path.unlink,
]


@pytest.mark.parametrize("damage", SOME, ids=lambda damage: damage.__name__)
def test_damage_is_named_and_mended(damage, run, manifest, uris, output, caplog):
    part = a_part(output)
    damage(output / part.name)
    record = run(manifest, output)
    assert record["manifest"]["encoded_now"] == part.rows
    assert record["manifest"]["damaged_files"] == [part.name]
    assert part.name in caplog.text
    commands.require_once(output, uris)


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda damage: damage.__name__)
def test_a_manifest_that_cannot_mend_it_is_refused(damage, run, uris, output, tmp_path):
    """Before the delta is even looked at: nothing is encoded, nothing changes."""
    part = a_part(output)
    damage(output / part.name)
    before = commands.contents(output)
    delta = commands.write_manifest(uris[:1], tmp_path / "delta.parquet")
    with pytest.raises(InputError) as caught:
        run(delta, output)
    assert caught.value.exit_code == 2
    assert part.name in str(caught.value)
    assert commands.contents(output) == before


def test_damage_that_only_a_full_read_finds(run, manifest, uris, output, caplog):
    part = a_part(output)
    flip(output / part.name, "embedding")
    with pytest.raises(InputError, match="--verify") as caught:
        Embeddings.open(str(output)).read()
    assert part.name in str(caught.value)
    assert run(manifest, output)["manifest"]["damaged_files"] == []
    record = run(manifest, output, verify=True)
    assert record["manifest"]["damaged_files"] == [part.name]
    assert record["manifest"]["encoded_now"] == part.rows
    assert part.name in caplog.text
    commands.require_once(output, uris)
