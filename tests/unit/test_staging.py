import numpy as np
import pyarrow as pa
import pytest

from motif import schemas
from motif.artefacts import staging


def failures(*images: str) -> pa.Table:
    rows = [
        {
            "image_id": image,
            "creator_id": "c",
            "uri": "/",
            "stage": "fetch",
            "error_class": "timeout",
            "message": "m",
            "attempts": 1,
        }
        for image in images
    ]
    return pa.Table.from_pylist(rows, schema=schemas.FAILURES)


def read(folder: str, bucket: int = 0, kind: str = "failures", **options) -> list[str]:
    table = staging.read(folder, bucket, kind, schemas.FAILURES, **options)
    return table["image_id"].to_pylist()


def test_rows_come_back_newest_first(tmp_path):
    for image in ("a", "b", "c"):
        staging.append(str(tmp_path), 0, "failures", failures(image, f"{image}2"))
    assert read(str(tmp_path)) == ["c", "c2", "b", "b2", "a", "a2"]


def test_buckets_and_kinds_are_apart(tmp_path):
    staging.append(str(tmp_path), 0, "failures", failures("a"))
    staging.append(str(tmp_path), 1, "failures", failures("b"))
    staging.append(str(tmp_path), 0, "embeddings", failures("c"))
    assert read(str(tmp_path)) == ["a"]
    assert read(str(tmp_path), 1) == ["b"]
    assert read(str(tmp_path), 0, "embeddings") == ["c"]


def test_nothing_was_staged(tmp_path):
    table = staging.read(str(tmp_path / "absent"), 0, "failures", schemas.FAILURES)
    assert table.schema == schemas.FAILURES
    assert table.num_rows == 0


def test_only_some_columns(tmp_path):
    staging.append(str(tmp_path), 0, "failures", failures("a"))
    table = staging.read(str(tmp_path), 0, "failures", schemas.FAILURES, ["version", "image_id"])
    assert table.to_pylist() == [{"version": None, "image_id": "a"}]


def test_features_are_halves_from_the_encoder_to_the_reader(tmp_path):
    values = np.random.default_rng(0).uniform(-1, 1, (4, 5)).astype(np.float32)
    values[0] = (0, 1, -1, 6.1e-5, 1e-9)  # the last is too small for a half
    valid = np.array([True, True, False, True])
    rows = pa.table(
        {
            "image_id": ["a", "b", "c", "d"],
            "features": schemas.vector_array(values, valid, item=schemas.HALF),
        }
    )
    schema = pa.schema([rows.schema.field(0), ("features", schemas.vector(5, pa.float16()))])
    assert rows.schema == schema
    staging.append(str(tmp_path), 0, "embeddings", rows.filter(pa.array(valid)))
    found = staging.read(str(tmp_path), 0, "embeddings", schema)
    assert found.schema == schema
    matrix = schemas.matrix(found["features"])
    assert matrix.dtype == np.float32
    np.testing.assert_array_equal(matrix, values[valid].astype(np.float16).astype(np.float32))
    np.testing.assert_allclose(matrix, values[valid], rtol=2**-11, atol=2**-25)


def test_embeddings_stay_float32():
    values = np.random.default_rng(1).normal(size=(3, 4)).astype(np.float32)
    column = pa.chunked_array([schemas.vector_array(values)])
    assert column.type == schemas.vector(4, pa.float32())
    np.testing.assert_array_equal(schemas.matrix(column), values)


@pytest.mark.parametrize(
    "damage", [lambda b: b"", lambda b: b[:-5], lambda b: b[:4] + b"?" + b[5:]]
)
def test_a_damaged_file_is_named_and_deleted_on_demand(tmp_path, caplog, damage):
    for image in ("a", "b"):
        staging.append(str(tmp_path), 0, "failures", failures(image))
    path = sorted((tmp_path / "bucket-00000").iterdir())[0]
    path.write_bytes(damage(path.read_bytes()))
    assert read(str(tmp_path)) == ["b"]
    assert path.name in caplog.text
    assert path.exists()  # a dry run deletes nothing
    assert read(str(tmp_path), discard_damaged=True) == ["b"]
    assert not path.exists()


def test_what_a_kill_leaves_half_written_is_no_part(tmp_path):
    staging.append(str(tmp_path), 0, "failures", failures("a"))
    (tmp_path / "bucket-00000" / ".failures-1.parquet.0badc0de.tmp").write_bytes(b"PAR1")
    assert read(str(tmp_path)) == ["a"]


def test_settings_that_differ_have_folders_that_differ():
    def folder(**more) -> str:
        return staging.folder_of("/out", {"space": "a", "columns": ["b"], **more})

    assert folder() == staging.folder_of("/out", {"columns": ["b"], "space": "a"})
    assert folder().startswith("/out/_staging/")
    assert len({folder(), folder(space="b"), folder(buckets=2), folder(columns=["b", "c"])}) == 4
