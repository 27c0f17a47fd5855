import json
import multiprocessing
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from motif.artefacts import training_set
from motif.artefacts.embeddings import Embeddings
from motif.artefacts.training_set import Split, TrainingSet, folder_name, load
from motif.errors import InputError, OutputError
from tests.synthetic import make_space, rows_of, themed, unit, write_embeddings

SPLIT = Split(test_fraction=0.2, validation_fraction=0.25, test_fold=0)
DIM = 6


def artefact(folder: Path, *, change=lambda rows: rows, buckets: int = 3) -> Embeddings:
    ids, rows = themed(40, 5, DIM)
    table = change(rows_of(ids, rows))
    return Embeddings.open(
        write_embeddings(folder / "embeddings", table, make_space(DIM), buckets=buckets)
    )


def with_column(rows: pa.Table, name: str, values: list) -> pa.Table:
    at = rows.schema.get_field_index(name)
    return rows.set_column(at, rows.schema.field(at), pa.array(values, rows.schema.field(at).type))


def by_creator(found: TrainingSet) -> list[np.ndarray]:
    return [np.asarray(part) for part in np.split(found.rows, found.offsets[1:-1])]


def test_training_creators_rows_are_there_once_by_creator(tmp_path):
    opened = artefact(tmp_path)
    found = load(opened, "embedding", SPLIT, tmp_path / "set")
    table = opened.read(["creator_id", "image_id", "embedding"])
    expected: dict[str, list] = {}
    for row in table.sort_by([("creator_id", "ascending"), ("image_id", "ascending")]).to_pylist():
        expected.setdefault(row["creator_id"], []).append(row["embedding"])
    wanted = {
        name: [np.array(v) for c, v in sorted(expected.items()) if SPLIT.of(c) == name]
        for name in ("train", "validation", "test")
    }
    assert isinstance(found.rows, np.memmap)
    assert found.rows.dtype == np.float16
    for own, rows in zip(by_creator(found), wanted["train"], strict=True):
        np.testing.assert_allclose(own, rows, atol=5e-4)
    validation = np.split(found.validation, found.validation_offsets[1:-1])
    assert len(validation) == len(wanted["validation"]) > 0
    for own, rows in zip(validation, wanted["validation"], strict=True):
        np.testing.assert_allclose(own, rows, atol=5e-4)
    counts = found.counts
    assert counts.images == 200
    for name, rows in wanted.items():
        assert getattr(counts, f"{name}_creators") == len(rows)
    assert (counts.copies, counts.shared, counts.single) == (0, 0, 0)


def test_buckets_do_not_show(tmp_path):
    sets = []
    for buckets in (1, 7):
        opened = artefact(tmp_path / str(buckets), buckets=buckets)
        sets.append(load(opened, "embedding", SPLIT, tmp_path / f"set-{buckets}"))
    np.testing.assert_array_equal(sets[0].rows, sets[1].rows)
    np.testing.assert_array_equal(sets[0].validation, sets[1].validation)
    np.testing.assert_array_equal(sets[0].offsets, sets[1].offsets)


def test_it_is_made_once(tmp_path):
    opened = artefact(tmp_path)
    told: list[tuple[int, int]] = []
    load(opened, "embedding", SPLIT, tmp_path / "set", report=lambda *at: told.append(at))
    assert told == [(i, 6) for i in range(1, 7)]
    load(opened, "embedding", SPLIT, tmp_path / "set", report=lambda *at: pytest.fail("again"))


def test_a_set_that_was_cut_off_is_made_again(tmp_path):
    opened = artefact(tmp_path)
    expected = np.array(load(opened, "embedding", SPLIT, tmp_path / "whole").rows)
    cut = tmp_path / "cut"
    load(opened, "embedding", SPLIT, cut)
    (cut / "index.json").unlink()
    (cut / "rows.npy").write_bytes(b"half")
    np.testing.assert_array_equal(load(opened, "embedding", SPLIT, cut).rows, expected)


def loaded_rows(arguments: tuple[str, str]) -> float:
    uri, folder = arguments
    found = load(Embeddings.open(uri), "embedding", SPLIT, Path(folder))
    return float(np.abs(found.rows).sum())


def test_processes_that_come_at_once_share_one(tmp_path):
    opened = artefact(tmp_path)
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        sums = pool.map(loaded_rows, [(opened.uri, str(tmp_path / "set"))] * 3)
    assert len(set(sums)) == 1
    assert sums[0] > 0


def test_folders_differ_with_all_that_the_set_depends_on(tmp_path):
    opened = artefact(tmp_path)
    other = artefact(tmp_path / "other")
    names = {
        folder_name(opened, "embedding", SPLIT, "out"),
        folder_name(opened, "features", SPLIT, "out"),
        folder_name(opened, "embedding", replace(SPLIT, test_fold=1), "out"),
        folder_name(opened, "embedding", SPLIT, "elsewhere"),
        folder_name(opened, "embedding", SPLIT, "out", 100),
        folder_name(other, "embedding", SPLIT, "out"),
    }
    assert len(names) == 6


def test_of_many_images_a_sample_of_creators_is_learned_from(tmp_path):
    opened = artefact(tmp_path, buckets=8)
    whole = load(opened, "embedding", SPLIT, tmp_path / "whole", max_images=200)
    found = load(opened, "embedding", SPLIT, tmp_path / "some", max_images=100)
    assert whole.counts.buckets == 8
    assert found.counts.buckets == 4
    chosen = training_set.sample(opened, 100)
    counts = [opened.read_bucket(b, ["creator_id"]).num_rows for b in range(8)]
    assert found.counts.images == sum(counts[b] for b in chosen) < 200 == sum(counts)
    everybody = {part.tobytes() for part in by_creator(whole)}
    assert {part.tobytes() for part in by_creator(found)} < everybody  # all images of each
    assert training_set.sample(opened, 100) == chosen
    assert len(training_set.sample(opened, 1)) == 1


@pytest.mark.parametrize("column", ["content_hash", "perceptual_hash"])
def test_reposts_are_left_out_and_counted(tmp_path, column):
    def change(rows: pa.Table) -> pa.Table:
        values = rows[column].to_pylist()
        creators = rows["creator_id"].to_pylist()
        learned = [i for i, c in enumerate(creators) if SPLIT.of(c) == "train"]
        assert creators[learned[0]] == creators[learned[1]] != creators[learned[5]]
        values[learned[1]] = values[learned[0]]  # a copy at the same creator
        values[learned[2]] = values[learned[5]]  # one picture at two creators
        test = [i for i, c in enumerate(creators) if SPLIT.of(c) == "test"]
        values[learned[3]] = values[test[0]]  # what test creators have does not matter
        return with_column(rows, column, values)

    opened = artefact(tmp_path, change=change)
    found = load(opened, "embedding", SPLIT, tmp_path / "set")
    assert (found.counts.copies, found.counts.shared) == (1, 2)
    assert sorted(np.diff(found.offsets).tolist())[:2] == [3, 4]


def test_creators_without_two_images_are_left_out_and_counted(tmp_path):
    def change(rows: pa.Table) -> pa.Table:
        creators = rows["creator_id"].to_pylist()
        first = next(c for c in creators if SPLIT.of(c) == "train")
        keep = [c != first or i == creators.index(first) for i, c in enumerate(creators)]
        return rows.filter(pa.array(keep))

    opened = artefact(tmp_path, change=change)
    found = load(opened, "embedding", SPLIT, tmp_path / "set")
    assert found.counts.single == 1
    assert len(found.offsets) - 1 == found.counts.train_creators - 1
    assert np.diff(found.offsets).min() == 5


def test_validation_is_bounded_and_drawn_by_hashes(tmp_path, monkeypatch):
    opened = artefact(tmp_path)
    whole = load(opened, "embedding", SPLIT, tmp_path / "whole")
    monkeypatch.setattr(training_set, "VALIDATION_CREATORS", 3)
    monkeypatch.setattr(training_set, "VALIDATION_IMAGES", 4)
    found = load(opened, "embedding", SPLIT, tmp_path / "set")
    assert np.diff(found.validation_offsets).tolist() == [4, 4, 4]
    everything = {row.tobytes() for row in np.asarray(whole.validation)}
    assert {row.tobytes() for row in np.asarray(found.validation)} < everything
    np.testing.assert_array_equal(found.rows, whole.rows)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 0.0])
def test_rows_that_are_no_embeddings_are_refused_by_name(tmp_path, value):
    names: list[str] = []

    def change(rows: pa.Table) -> pa.Table:
        values = rows["embedding"].to_pylist()
        creators = rows["creator_id"].to_pylist()
        for row in [i for i, c in enumerate(creators) if SPLIT.of(c) != "test"][:1]:
            values[row] = [value] * DIM
            names.extend([rows["image_id"][row].as_py(), creators[row]])
        return with_column(rows, "embedding", values)

    opened = artefact(tmp_path, change=change)
    with pytest.raises(InputError, match="1 vectors in 'embedding' are zero or not finite") as told:
        load(opened, "embedding", SPLIT, tmp_path / "set")
    assert all(repr(name) in str(told.value) for name in names)
    assert not (tmp_path / "set").exists(), "gigabytes would stay on the node's disk"


def test_a_column_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"has no column 'features'.*--input embedding"):
        load(artefact(tmp_path), "features", SPLIT, tmp_path / "set")


def test_no_images_are_refused(tmp_path):
    opened = artefact(tmp_path, change=lambda rows: rows.slice(0, 0))
    with pytest.raises(InputError, match="holds no images"):
        load(opened, "embedding", SPLIT, tmp_path / "set")


def test_a_full_disk_is_refused_before_anything_is_mapped(tmp_path, monkeypatch):
    def full(descriptor: int, offset: int, length: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OutputError, match=r"no room for the training set.*--scratch"):
        load(artefact(tmp_path), "embedding", SPLIT, tmp_path / "set")
    assert not (tmp_path / "set").exists()


def test_rows_are_brought_to_unit_length(tmp_path):
    ids, rows = themed(20, 5, DIM)
    table = rows_of(ids, 7 * rows)
    uri = write_embeddings(tmp_path / "embeddings", table, make_space(DIM))
    found = load(Embeddings.open(uri), "embedding", SPLIT, tmp_path / "set")
    np.testing.assert_allclose(np.linalg.norm(found.rows.astype(float), axis=1), 1, atol=1e-3)
    assert json.loads((tmp_path / "set" / "index.json").read_text())["images"] == len(unit(rows))
