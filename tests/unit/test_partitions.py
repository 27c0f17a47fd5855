import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from motif.artefacts import partitions

ROWS = pa.table(
    {
        "name": pa.array([f"row {n} é" for n in range(10)]),
        "number": pa.array([None, *range(9)], pa.int64()),
        "vector": pa.array([[float(n), 0.0] for n in range(10)], pa.list_(pa.float32(), 2)),
    }
)


@given(share=st.lists(st.integers(0, 6), max_size=40))
@settings(max_examples=40, deadline=None)
def test_every_share_has_its_rows_in_order(tmp_path_factory, share):
    uri = str(tmp_path_factory.mktemp("shares") / "rows.arrow")
    rows = pa.table({"n": pa.array(range(len(share)), pa.int64())})
    partitions.write(uri, rows, np.array(share, np.int32), 7)
    for wanted in range(7):
        expected = [n for n, where in enumerate(share) if where == wanted]
        assert partitions.read(uri, wanted)["n"].to_pylist() == expected
    assert partitions.read_all(uri)["n"].to_pylist() == sorted(
        range(len(share)), key=share.__getitem__
    )


@pytest.mark.parametrize("share", [0, 4])
def test_all_rows_in_one_share_keep_all_columns(tmp_path, share):
    uri = str(tmp_path / "a" / "rows.arrow")
    partitions.write(uri, ROWS, np.full(10, share), 5)
    assert partitions.read(uri, share).equals(ROWS)
    for other in set(range(5)) - {share}:
        assert partitions.read(uri, other).equals(ROWS.slice(0, 0))


def test_rows_in_many_chunks(tmp_path):
    uri = str(tmp_path / "rows.arrow")
    chunked = pa.concat_tables([ROWS.slice(n, 1) for n in range(10)])
    partitions.write(uri, chunked, np.arange(10) % 2, 2)
    assert partitions.read(uri, 1).equals(ROWS.take(list(range(1, 10, 2))))
    partitions.write_batches(uri, chunked, batch_rows=3)
    assert partitions.read_all(uri).equals(ROWS)


def test_more_shares_than_rows(tmp_path):
    uri = str(tmp_path / "rows.arrow")
    share = np.arange(10) * 400
    partitions.write(uri, ROWS, share, 4_000)
    assert partitions.read(uri, 2_000).equals(ROWS.slice(5, 1))
    assert partitions.read(uri, 2_001).num_rows == 0
    assert partitions.read_shares(uri, range(4_000)).equals(ROWS)


def test_batches_are_cut_where_asked(tmp_path):
    uri = str(tmp_path / "rows.arrow")
    partitions.write_batches(uri, ROWS, batch_rows=4)
    assert [partitions.read(uri, n).num_rows for n in range(3)] == [4, 4, 2]
    assert partitions.read_shares(uri, [1, 2]).equals(ROWS.slice(4))
    partitions.write_batches(uri, ROWS.slice(0, 0), batch_rows=4)
    assert partitions.read_all(uri).equals(ROWS.slice(0, 0))


def test_hashes_depend_on_the_text_alone():
    one = pa.chunked_array([["a", "b"], ["a"]])
    other = pa.chunked_array([["b", "a", "a"]], pa.string())
    assert partitions.hashes(one)[[1, 0, 2]].tolist() == partitions.hashes(other).tolist()
    assert len(set(partitions.hashes(pa.chunked_array([["a", "b", "ab", "", "é"]])))) == 5
    assert len(partitions.hashes(pa.chunked_array([[]], pa.string()))) == 0


pairs = st.lists(st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1)), max_size=20)


@given(files=st.lists(pairs, max_size=3), shares=st.integers(1, 5))
@settings(max_examples=40, deadline=None)
def test_equal_keys_meet_sorted_in_one_share(tmp_path_factory, files, shares):
    folder = tmp_path_factory.mktemp("pairs")
    uris = [str(folder / f"{n}.arrow") for n in range(len(files))]
    for uri, found in zip(uris, files, strict=True):
        key, value = (np.array([pair[n] for pair in found], np.uint64) for n in range(2))
        partitions.write_pairs(uri, key, value, shares)
    for share in range(shares):
        key, value = partitions.read_pairs(uris, share)
        expected = sorted(p for found in files for p in found if p[0] % shares == share)
        assert list(zip(key.tolist(), value.tolist(), strict=True)) == expected
