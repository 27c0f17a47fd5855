import gzip

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from motif.errors import InputError
from motif.publishing import attributes


def write(folder, text: str, name: str = "a.csv") -> str:
    (folder / name).write_text(text)
    return str(folder / name)


def test_all_formats_give_the_same_rows(tmp_path):
    csv = "creator_id,country,followers\n007,DE,5\nb,,7\n"
    write(tmp_path, csv)
    write(
        tmp_path,
        '{"creator_id": "007", "country": "DE", "followers": 5}\n'
        '{"creator_id": "b", "country": null, "followers": 7}\n',
        "a.jsonl",
    )
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(csv.encode()))
    table = {"creator_id": ["007", "b"], "country": ["DE", None], "followers": [5, 7]}
    pq.write_table(pa.table(table), tmp_path / "a.parquet")
    found = [
        attributes.read(str(tmp_path / f"a.{e}")) for e in ("csv", "jsonl", "csv.gz", "parquet")
    ]
    for one in found:
        assert one.rows.to_pydict() == table
        assert one.names == ["country", "followers"]
        assert one.rows.schema.types == [pa.string(), pa.string(), pa.int64()]
    assert found[0].digest != found[1].digest
    assert attributes.read(str(tmp_path / "a.csv")).digest == found[0].digest


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("id,country\na,DE\n", "has no column creator_id"),
        ("creator_id\na\n", "no column beside creator_id"),
        ("creator_id,same\na,1\n", "cannot be named 'same'"),
        ("creator_id,oaar_vivid\na,1\n", "cannot be named 'oaar_vivid'"),
        ("creator_id,_rowid\na,1\n", "cannot be named '_rowid'"),
        ("creator_id,country'; --\na,1\n", "cannot be named"),
        ("creator_id,x\na,1\na,2\nb,1\n", r"1 creators have several rows \(first: 'a'\)"),
        ("creator_id,x\n,1\n", "1 rows have no creator_id"),
        ("creator_id,x,x\na,1,2\n", "two columns of one name"),
        ("creator_id,x\na,1,2\n", "cannot be read"),
        ("", "cannot be read"),
    ],
)
def test_what_cannot_be_joined_is_refused(tmp_path, text, told):
    with pytest.raises(InputError, match=told):
        attributes.read(write(tmp_path, text))


def test_columns_are_of_types_that_lance_filters_by(tmp_path):
    columns = {
        "creator_id": pa.array(["a", "b"], pa.large_string()),
        "small": pa.array([255, None], pa.uint8()),
        "plays": pa.array([2**62, 0], pa.uint64()),
        "country": pa.array(["DE", "FR"]).dictionary_encode(),
    }
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    rows = attributes.read(str(tmp_path / "a.parquet")).rows
    assert rows.schema.types == [pa.string(), pa.int16(), pa.int64(), pa.string()]
    assert rows["small"].to_pylist() == [255, None]
    columns["plays"] = pa.array([2**63, 0], pa.uint64())
    pq.write_table(pa.table(columns), tmp_path / "b.parquet")
    with pytest.raises(InputError, match="column plays does not fit"):
        attributes.read(str(tmp_path / "b.parquet"))


def test_lists_and_numbers_for_ids_are_refused(tmp_path):
    path = str(tmp_path / "a.parquet")
    pq.write_table(pa.table({"creator_id": ["a"], "tags": [["x"]]}), path)
    with pytest.raises(InputError, match="column tags is of type list"):
        attributes.read(path)
    pq.write_table(pa.table({"creator_id": [1], "x": [1]}), path)
    with pytest.raises(InputError, match="creator_id is of type int64; expected text"):
        attributes.read(path)


def test_files_that_are_not_there_or_of_another_kind_are_refused(tmp_path):
    with pytest.raises(InputError, match="is not a file that is there"):
        attributes.read(str(tmp_path / "none.csv"))
    with pytest.raises(InputError, match=r"expected \.parquet, \.csv or \.jsonl"):
        attributes.read(write(tmp_path, "x", "a.xlsx"))
    with pytest.raises(InputError, match="scheme 'http' is not allowed"):
        attributes.read("http://example.com/a.csv")


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz"])
def test_what_is_or_becomes_too_large_is_refused(tmp_path, monkeypatch, name):
    monkeypatch.setattr(attributes, "LIMIT_BYTES", 1000)
    data = b"creator_id,x\n" + b"a,1\n" * 5000
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    assert name.endswith(".csv") or (tmp_path / name).stat().st_size < 1000
    with pytest.raises(InputError, match="holds more than 1,000 bytes"):
        attributes.read(str(tmp_path / name))
