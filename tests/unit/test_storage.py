import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from motif import schemas, storage
from motif.errors import ContractError, InputError


def write_half(path: Path) -> None:
    with storage.atomic_writer(str(path)) as file:
        file.write(b"half")
        raise ZeroDivisionError


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_atomic_writer_leaves_nothing_when_the_block_raises(tmp_path):
    with pytest.raises(ZeroDivisionError):
        write_half(tmp_path / "a")
    assert names(tmp_path) == []


def test_atomic_writer_keeps_the_old_file_when_the_block_raises(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"old")
    with pytest.raises(ZeroDivisionError):
        write_half(path)
    assert names(tmp_path) == ["a"]
    assert path.read_bytes() == b"old"


def test_file_is_not_there_before_the_block_ends(tmp_path):
    path = tmp_path / "deep" / "er" / "a"
    with storage.atomic_writer(str(path)) as file:
        file.write(b"all")
        assert not path.exists()
    assert path.read_bytes() == b"all"
    assert names(path.parent) == ["a"]


def test_scratch_files_are_no_parquet_files(tmp_path):
    # What a killed process leaves behind must not be listed as a part.
    with storage.atomic_writer(str(tmp_path / "a.parquet")) as file:
        file.write(b"x")
        assert storage.list_files(str(tmp_path), ".parquet") == []
    assert storage.list_files(str(tmp_path), ".parquet") == [str(tmp_path / "a.parquet")]


def test_list_files_of_an_absent_folder_is_empty(tmp_path):
    assert storage.list_files(str(tmp_path / "nowhere")) == []


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("/a/b/", "/a/b"),
        ("file:///a/b", "/a/b"),
        ("/a/../b", "/b"),
        ("s3://bucket/key/", "s3://bucket/key"),
    ],
)
def test_absolute(uri, expected):
    assert storage.absolute(uri) == expected


def test_absolute_takes_relative_paths_from_here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert storage.absolute("out") == f"{tmp_path}/out"
    assert storage.absolute("s3.txt") == f"{tmp_path}/s3.txt"


@pytest.mark.parametrize("uri", ["http://h/x", "gs://b/x", "hdfs://n/x", "memory://x"])
def test_schemes_that_are_not_allowed(uri):
    with pytest.raises(InputError, match=uri.split("://")[0]):
        storage.open_filesystem(uri)


def test_read_bytes_reads_one_byte_past_the_limit(tmp_path):
    (tmp_path / "a").write_bytes(b"0123456789")
    assert storage.read_bytes(str(tmp_path / "a"), limit_bytes=4) == b"01234"
    assert storage.read_bytes(str(tmp_path / "a"), limit_bytes=10) == b"0123456789"
    assert storage.read_bytes(str(tmp_path / "a")) == b"0123456789"


def test_json_round_trip_keeps_order_and_unicode(tmp_path):
    value = {"z": 1, "a": ["Москва"]}
    storage.write_json(str(tmp_path / "a.json"), value)
    assert list(storage.read_json(str(tmp_path / "a.json"))) == ["z", "a"]
    assert "Москва" in (tmp_path / "a.json").read_text(encoding="utf-8")


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b'"x"', b"\xff\xfe"])
def test_what_is_no_json_object_is_refused(tmp_path, content):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=str(path)):
        storage.read_json(str(path))


def test_absent_json_is_refused(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        storage.read_json(str(tmp_path / "a.json"))


def test_parquet_round_trip_and_selection(tmp_path):
    path = str(tmp_path / "a.parquet")
    table = pa.table({"a": [1, 2], "b": ["x", "y"]})
    storage.write_parquet(path, table)
    assert storage.read_parquet(path).equals(table)
    assert storage.read_parquet(path, ["b"]).column_names == ["b"]


@pytest.mark.parametrize("cut", [0, 10, 100])
def test_damaged_parquet_is_refused(tmp_path, cut):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"a": list(range(1000))}), path)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(InputError, match=str(path)):
        storage.read_parquet(str(path))


def test_remove_is_quiet_about_what_is_not_there(tmp_path):
    (tmp_path / "folder" / "deep").mkdir(parents=True)
    (tmp_path / "file").write_text("x")
    for name in ("folder", "file", "nothing"):
        storage.remove(str(tmp_path / name))
    assert names(tmp_path) == []


def test_conform_cuts_casts_and_refuses():
    schema = pa.schema([pa.field("a", pa.int64(), nullable=False), pa.field("b", pa.string())])
    found = schemas.conform(pa.table({"c": [1], "b": ["x"], "a": pa.array([1], pa.int8())}), schema)
    assert found.schema.equals(schema)
    for bad, message in (
        ({"a": [1]}, "missing"),
        ({"a": [None], "b": ["x"]}, "null"),
        ({"a": ["x"], "b": ["x"]}, "contract"),
    ):
        with pytest.raises(ContractError, match=message):
            schemas.conform(pa.table(bad), schema)


def test_json_of_a_run_is_readable_by_people(tmp_path):
    storage.write_json(str(tmp_path / "a.json"), {"a": {"b": 1}})
    text = (tmp_path / "a.json").read_text()
    assert text.endswith("}\n")
    assert len(text.splitlines()) == 5
    assert json.loads(text) == {"a": {"b": 1}}


def test_a_named_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(IsADirectoryError, match="not a regular file"):
        storage.read_bytes(str(tmp_path / "pipe.jpg"), limit_bytes=10)
