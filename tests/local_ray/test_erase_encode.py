"""A creator who was erased stays out of EMBEDDINGS, whatever is encoded again and how."""

import shutil
from pathlib import Path

import pytest

from jobs import compact_embeddings, encode_images
from motif.artefacts import erased
from motif.artefacts.embeddings import Embeddings
from motif.cli_maintenance import Erase
from motif.errors import InputError

WHO = "creator-1"
STATES = ("duplicates", "rejected", "erased", "new", "changed", "retried", "unchanged")


def encode(images: Path, output: Path, **more) -> dict:
    config = encode_images.Config(images=str(images), output=str(output), encoder="lite", **more)
    return encode_images.main(config)


def creators(output: Path) -> set[str]:
    opened = Embeddings.open(str(output))
    held = opened.read(["creator_id"])["creator_id"].to_pylist()
    return {*held, *opened.read_failures()["creator_id"].to_pylist()}


def require_sums(record: dict) -> None:
    found = record["manifest"]
    assert found["rows"] == sum(found[name] for name in STATES) + found["failed_before"]
    counts = record["counts"]
    assert counts["rows"] == (
        counts["embedded"] + counts["failed"] + counts["duplicates"] + counts.get("erased", 0)
    )


@pytest.fixture(scope="module")
def encoded(tmp_path_factory, picture, ray_local) -> tuple[Path, Path]:
    """A library of three creators with four images each, one of them broken, and its EMBEDDINGS."""
    root = tmp_path_factory.mktemp("erase")
    for creator in range(3):
        folder = root / "library" / f"creator-{creator}"
        folder.mkdir(parents=True)
        for image in range(4):
            picture(10 * creator + image).save(folder / f"{image}.jpg", quality=92)
    (root / "library" / WHO / "broken.jpg").write_bytes(b"no image")
    record = encode(root / "library", root / "out", max_failed_fraction=0.5)
    assert record["counts"]["embedded"] == 12
    assert "erased" not in record["counts"]
    assert record["manifest"]["erased"] == 0
    require_sums(record)
    return root / "library", root / "out"


@pytest.fixture
def output(encoded, tmp_path) -> Path:
    """A copy of the EMBEDDINGS, from which a creator was erased."""
    copy = tmp_path / "out"
    shutil.copytree(encoded[1], copy)
    assert WHO in creators(copy)
    done = Erase(creator=(WHO,), embeddings=(str(copy),)).perform()
    assert done["embeddings"][str(copy)] == {"images": 4, "failures": 1, "marks": 0, "staged": 0}
    assert creators(copy) == {"creator-0", "creator-2"}
    return copy


@pytest.mark.parametrize(
    "how",
    [
        {"manifest": "full"},
        pytest.param({}, marks=pytest.mark.soak),
        pytest.param({"overwrite": True}, marks=pytest.mark.soak),
        pytest.param({"retry_failed": (), "verify": True}, marks=pytest.mark.soak),
    ],
)
def test_a_creator_who_was_erased_stays_out(encoded, output, how):
    record = encode(encoded[0], output, **how)
    assert creators(output) == {"creator-0", "creator-2"}
    require_sums(record)
    assert record["manifest"]["erased"] == record["counts"]["erased"] == 5
    assert record["manifest"]["removed"] == 0
    assert record["counts"]["failed"] == 0
    encoded_now = 8 if how.get("overwrite") else 0
    assert record["manifest"]["encoded_now"] == encoded_now
    assert erased.load(str(output)).holds(WHO)


def test_new_images_of_theirs_are_not_even_fetched(encoded, output, write_manifest, picture):
    rows = [{"creator_id": WHO, "uri": f"/nowhere/{i}.jpg", "image_id": f"i{i}"} for i in range(3)]
    rows.append({"creator_id": WHO, "uri": "", "image_id": "i4"})
    new = output.parent / "new.jpg"
    picture(99).save(new, quality=92)
    rows.append({"creator_id": "creator-9", "uri": str(new), "image_id": "i5"})
    record = encode(write_manifest("m.csv", rows), output)
    found = record["manifest"]
    assert [found[name] for name in ("rows", "erased", "rejected", "new")] == [5, 4, 0, 1]
    assert found["failed_now"] == {}
    assert creators(output) == {"creator-0", "creator-2", "creator-9"}


def test_a_manifest_of_nobody_else_changes_nothing(output, write_manifest):
    before = Embeddings.open(str(output)).read()
    record = encode(write_manifest("m.csv", [{"creator_id": WHO, "uri": "/x.jpg"}]), output)
    assert record["manifest"]["erased"] == 1
    assert Embeddings.open(str(output)).read() == before


def test_a_dry_run_counts_them(encoded, output, capsys):
    encode(encoded[0], output, dry_run=True)
    told = dict(line.rsplit(None, 1) for line in capsys.readouterr().out.splitlines() if line)
    assert told["manifest erased"] == "5"
    assert told["images to do"] == "0"


def test_compaction_keeps_the_list(encoded, output):
    compact_embeddings.main(compact_embeddings.Config(embeddings=str(output), buckets=7))
    assert erased.load(str(output)).holds(WHO)
    assert encode(encoded[0], output)["manifest"]["erased"] == 5
    assert creators(output) == {"creator-0", "creator-2"}


def test_a_list_that_cannot_be_read_stops_the_run(encoded, output):
    (output / "erased.json").write_text("{}")
    with pytest.raises(InputError, match=r"erased\.json is damaged"):
        encode(encoded[0], output)
    assert creators(output) == {"creator-0", "creator-2"}
