import datetime
import os

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from motif import schemas
from motif.errors import InputError
from motif.images.manifest import image_id, read_images

SUFFIXES = ("csv", "jsonl", "parquet")
UGLY_IDS = [
    'says "hi"',
    "it's",
    "a/b\\c",
    "two\nlines",
    "tab\there",
    "comma, semicolon;",
    "émoji 🎨👩‍👩‍👧",
    "Москва",
    "北京",
    " padded ",
    "007",
    "1e5",
    "null",
    "NaN",
    "true",
    "2024-01-01",
    "2024-01-01T00:00:00",
    "12:30:00",
    "#N/A",
    "-",
]


def refusal(path, **options) -> str:
    with pytest.raises(InputError) as caught:
        read_images(str(path), **options)
    message = str(caught.value)
    assert message
    return message


def row(creator: object = "ana", uri: str = "/p/1.jpg", **more) -> dict:
    return {"creator_id": creator, "uri": uri, **more}


def add_up(manifest) -> None:
    assert manifest.rows == (
        manifest.images.num_rows + manifest.rejected.num_rows + manifest.duplicates
    )
    assert manifest.rejected.schema == schemas.FAILURES
    assert manifest.images.schema.names[:5] == schemas.IMAGES.names


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_rows_are_read_in_order_from_every_format(write_manifest, suffix):
    path = write_manifest(f"m.{suffix}", [row("b", "/p/2.jpg"), row("a", "s3://bucket/1.jpg")])
    manifest = read_images(str(path))
    add_up(manifest)
    assert manifest.images["creator_id"].to_pylist() == ["b", "a"]
    assert manifest.images["uri"].to_pylist() == ["/p/2.jpg", "s3://bucket/1.jpg"]
    assert manifest.images["image_id"].to_pylist() == [
        image_id("b", "/p/2.jpg"),
        image_id("a", "s3://bucket/1.jpg"),
    ]
    assert manifest.images["version"].null_count == 2
    assert manifest.images["posted_at"].null_count == 2


def test_formats_agree_on_ids(write_manifest):
    rows = [row(creator, f"{n}.jpg") for n, creator in enumerate(UGLY_IDS)]
    tables = [read_images(str(write_manifest(f"m.{s}", rows))).images for s in SUFFIXES]
    assert tables[0].equals(tables[1])
    assert tables[0].equals(tables[2])


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_ids_that_look_like_dates_stay_text(write_manifest, suffix):
    rows = [row("2024-01-01", image_id="2024-01-01T00:00:00Z", posted_at="2024-05-06")]
    (found,) = read_images(str(write_manifest(f"m.{suffix}", rows))).images.to_pylist()
    assert (found["creator_id"], found["image_id"]) == ("2024-01-01", "2024-01-01T00:00:00Z")
    assert found["posted_at"].isoformat() == "2024-05-06T00:00:00+00:00"


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_relative_uris_are_taken_from_the_manifest_s_folder(
    write_manifest, tmp_path, monkeypatch, suffix
):
    write_manifest(f"m.{suffix}", [row(uri="photos/1.jpg"), row(uri="/abs/2.jpg")])
    monkeypatch.chdir(tmp_path)
    for name in (f"m.{suffix}", f"./m.{suffix}", f"{tmp_path}/m.{suffix}"):
        uris = read_images(name).images["uri"].to_pylist()
        assert uris == [f"{tmp_path}/photos/1.jpg", "/abs/2.jpg"]


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("column", ["creator_id", "uri"])
def test_missing_column_is_named(write_manifest, suffix, column):
    kept = {"creator_id": "ana", "uri": "/p/1.jpg", "other": "x"}
    del kept[column]
    message = refusal(write_manifest(f"m.{suffix}", [kept]))
    assert column in message
    assert "other" in message


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
@pytest.mark.parametrize("nothing", [None, "", "  \t"])
@pytest.mark.parametrize("column", ["creator_id", "uri"])
def test_rows_without_creator_or_uri_are_failures(write_manifest, suffix, nothing, column):
    rows = [row(), {**row("bo", "/p/2.jpg"), column: nothing}, row("cy", "/p/3.jpg")]
    manifest = read_images(str(write_manifest(f"m.{suffix}", rows)))
    add_up(manifest)
    assert manifest.images["creator_id"].to_pylist() == ["ana", "cy"]
    (failure,) = manifest.rejected.to_pylist()
    assert failure["image_id"] == f"m.{suffix}#1"
    assert failure["stage"] == "manifest"
    assert failure["error_class"] == "invalid_row"
    assert column in failure["message"]
    assert failure[column] == nothing


def test_empty_fields_of_a_csv_are_failures(tmp_path):
    path = tmp_path / "m.csv"
    path.write_text('creator_id,uri\nana,/1.jpg\n,/2.jpg\n"",/3.jpg\nbo,\n')
    manifest = read_images(str(path))
    add_up(manifest)
    assert manifest.images.num_rows == 1
    assert manifest.rejected["image_id"].to_pylist() == ["m.csv#1", "m.csv#2", "m.csv#3"]


@pytest.mark.parametrize("ids", [{}, {"image_id": "i1"}])
def test_all_rows_may_be_rejected(write_manifest, ids):
    rows = [row(uri="", **ids), row(creator="", **ids)]
    manifest = read_images(str(write_manifest("m.jsonl", rows)))
    add_up(manifest)
    assert manifest.images.num_rows == 0


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_repeated_rows_collapse_and_are_counted(write_manifest, suffix):
    rows = [row(), row("bo", "/p/2.jpg"), row(), row(), row("bo", "/p/1.jpg")]
    manifest = read_images(str(write_manifest(f"m.{suffix}", rows)))
    add_up(manifest)
    assert manifest.duplicates == 2
    assert manifest.images["creator_id"].to_pylist() == ["ana", "bo", "bo"]


def test_different_rows_of_one_image_id_are_refused(write_manifest):
    rows = [row(image_id="i1"), row("bo", "/p/2.jpg", image_id="i1")]
    message = refusal(write_manifest("m.csv", rows))
    assert "'i1'" in message
    assert "bo" in message


def test_rows_that_differ_in_a_carried_column_alone_are_refused(write_manifest):
    path = write_manifest("m.csv", [row(tag="x"), row(tag="y")])
    assert read_images(str(path)).duplicates == 1
    assert "two different rows" in refusal(path, carry=["tag"])


def test_own_image_ids_are_kept_and_may_not_be_empty(write_manifest):
    rows = [row(image_id="i 1"), row(image_id="i1")]
    ids = read_images(str(write_manifest("m.csv", rows))).images["image_id"]
    assert ids.to_pylist() == ["i 1", "i1"]
    assert "image_id" in refusal(write_manifest("n.csv", [row(image_id="")]))


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_whole_numbers_become_their_text(write_manifest, suffix):
    rows = [row(17, "/1.jpg", image_id=2**62), row(-3, "/2.jpg", image_id=0)]
    images = read_images(str(write_manifest(f"m.{suffix}", rows))).images
    assert images["creator_id"].to_pylist() == ["17", "-3"]
    assert images["image_id"].to_pylist() == [str(2**62), "0"]


def test_leading_zeros_of_a_csv_stay(write_manifest):
    images = read_images(str(write_manifest("m.csv", [row("007"), row("7")]))).images
    assert images["creator_id"].to_pylist() == ["007", "7"]
    assert pc.count_distinct(images["image_id"]).as_py() == 2


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
@pytest.mark.parametrize("value", [1.5, True, [1]])
def test_ids_of_other_types_are_refused(write_manifest, suffix, value):
    message = refusal(write_manifest(f"m.{suffix}", [row(value)]))
    assert "creator_id" in message


def test_text_types_of_other_writers(tmp_path):
    # polars writes large strings, pandas writes categories as dictionaries.
    columns = {
        "creator_id": pa.array(["ana", "bo"]).dictionary_encode(),
        "uri": pa.array(["/1.jpg", "/2.jpg"], pa.large_string()),
        "version": pa.array(["1", "2"], pa.string_view()),
        "posted_at": pa.array(["2024-01-01", "2024-01-02T03:04:05Z"], pa.large_string()),
    }
    path = tmp_path / "m.parquet"
    pq.write_table(pa.table(columns), path)
    images = read_images(str(path)).images
    assert images["creator_id"].to_pylist() == ["ana", "bo"]
    assert images["version"].to_pylist() == ["1", "2"]
    assert [t.isoformat() for t in images["posted_at"].to_pylist()] == [
        "2024-01-01T00:00:00+00:00",
        "2024-01-02T03:04:05+00:00",
    ]


def test_carried_columns_keep_their_types(write_manifest):
    rows = [
        {
            "creator_id": "a",
            "uri": "/1",
            "held_out": "true",
            "likes": 3,
            "score": 0.5,
            "tag": "007x",
        },
        {"creator_id": "a", "uri": "/2", "held_out": "false", "likes": 4, "score": 1, "tag": ""},
    ]
    path = write_manifest("m.csv", rows)
    manifest = read_images(str(path), carry=["held_out", "likes", "score", "tag"])
    kinds = {f.name: f.type for f in manifest.carried}
    assert kinds == {
        "held_out": pa.bool_(),
        "likes": pa.int64(),
        "score": pa.float64(),
        "tag": pa.string(),
    }
    assert manifest.images["held_out"].to_pylist() == [True, False]
    assert manifest.images["tag"].to_pylist() == ["007x", ""]


def test_carried_column_that_is_missing_is_named(write_manifest):
    message = refusal(write_manifest("m.csv", [row()]), carry=["campaign"])
    assert "'campaign'" in message


@pytest.mark.parametrize("name", ["embedding", "features", "content_hash", "bucket", "pixels"])
def test_carried_column_with_a_name_of_ours_is_refused(write_manifest, name):
    message = refusal(write_manifest("m.csv", [row(**{name: "x"})]), carry=[name])
    assert name in message


def test_column_named_twice_is_refused(tmp_path):
    path = tmp_path / "m.csv"
    path.write_text("creator_id,uri,uri\na,/1.jpg,/2.jpg\n")
    assert "'uri'" in refusal(path)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("2024-02-03", "2024-02-03T00:00:00+00:00"),
        ("2024-02-03T04:05:06", "2024-02-03T04:05:06+00:00"),
        ("2024-02-03 04:05:06", "2024-02-03T04:05:06+00:00"),
        ("2024-02-03T04:05:06Z", "2024-02-03T04:05:06+00:00"),
        ("2024-02-03T04:05:06+02:00", "2024-02-03T02:05:06+00:00"),
        ("2024-02-03T04:05:06.123456789Z", "2024-02-03T04:05:06.123456+00:00"),
    ],
)
def test_posted_at_is_a_utc_time(write_manifest, suffix, written, expected):
    path = write_manifest(f"m.{suffix}", [row(posted_at=written), row("bo", posted_at="")])
    times = read_images(str(path)).images["posted_at"].to_pylist()
    assert times[0].isoformat() == expected
    assert times[1] is None


def test_posted_at_of_a_parquet_file_may_be_a_time(tmp_path):
    zone = datetime.timezone(datetime.timedelta(hours=2))
    moment = datetime.datetime(2024, 2, 3, 4, 5, 6, tzinfo=zone)
    for value in (moment, moment.astimezone(datetime.UTC).replace(tzinfo=None)):
        path = tmp_path / "m.parquet"
        pq.write_table(pa.Table.from_pylist([row(posted_at=value)]), path)
        (found,) = read_images(str(path)).images["posted_at"].to_pylist()
        assert found == moment
    pq.write_table(pa.Table.from_pylist([row(posted_at=moment.date())]), path)
    (found,) = read_images(str(path)).images["posted_at"].to_pylist()
    assert found.isoformat() == "2024-02-03T00:00:00+00:00"


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("value", ["yesterday", "2024-13-01", 1_700_000_000])
def test_posted_at_that_is_no_time_is_refused(write_manifest, suffix, value):
    message = refusal(write_manifest(f"m.{suffix}", [row(posted_at=value)]))
    assert "posted_at" in message


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("m.csv", b""),
        ("m.csv", b"creator_id,uri\n"),
        ("m.csv", b"creator_id,uri\na,/1.jpg,extra\nb\n"),
        ("m.csv", b'creator_id,uri\n"a,/1.jpg\n'),
        ("m.csv", b"creator_id,uri\n\xff\xfe\x00,/1.jpg\n"),
        ("m.jsonl", b""),
        ("m.jsonl", b"{\n"),
        ("m.jsonl", b"not json"),
        ("m.jsonl", b'[{"creator_id": "a"}]'),
        ("m.jsonl", b'{"creator_id": "a", "uri": "/1"}\n{"creator_id": ["a"], "uri": "/1"}\n'),
        ("m.parquet", b""),
        ("m.parquet", b"PAR1 this is not Parquet PAR1"),
        ("m.parquet", b"creator_id,uri\na,/1.jpg\n"),
    ],
)
def test_malformed_manifest_is_one_clear_refusal(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    assert str(path) in refusal(path)


def test_empty_parquet_is_refused(tmp_path):
    path = tmp_path / "m.parquet"
    pq.write_table(schemas.IMAGES.empty_table(), path)
    assert "names no images" in refusal(path)


def test_csv_of_a_spreadsheet(tmp_path):
    # A byte order mark and carriage returns.
    path = tmp_path / "m.csv"
    path.write_bytes("\ufeffcreator_id,uri\r\nana,/1.jpg\r\nbo,/2.jpg\r\n".encode())
    images = read_images(str(path)).images
    assert images["creator_id"].to_pylist() == ["ana", "bo"]
    assert images["uri"].to_pylist() == ["/1.jpg", "/2.jpg"]


def test_file_that_does_not_exist(tmp_path):
    assert "does not exist" in refusal(tmp_path / "nowhere.csv")


def test_unknown_suffix(tmp_path):
    path = tmp_path / "m.xlsx"
    path.write_bytes(b"x")
    assert ".parquet" in refusal(path)


@pytest.mark.parametrize("uri", ["http://host/m.csv", "gs://bucket/m.csv", "ftp://h/m.csv"])
def test_other_schemes_are_refused(uri):
    assert uri.split("://")[0] in refusal(uri)


def test_folder_of_creators(library, picture):
    (library / "stray.jpg").write_bytes(b"in no creator's folder")
    (library / "creator-0" / "notes.txt").write_text("no image")
    (library / "creator-0" / ".hidden.jpg").write_bytes(b"x")
    (library / ".cache").mkdir()
    (library / ".cache" / "a.jpg").write_bytes(b"x")
    (library / "creator-1" / "2024" / "may").mkdir(parents=True)
    picture(1).save(library / "creator-1" / "2024" / "may" / "DEEP.JPG", "JPEG")
    manifest = read_images(str(library))
    add_up(manifest)
    creators = manifest.images["creator_id"].to_pylist()
    assert [creators.count(f"creator-{n}") for n in range(3)] == [4, 5, 4]
    assert f"{library}/creator-1/2024/may/DEEP.JPG" in manifest.images["uri"].to_pylist()
    assert manifest.images["version"].null_count == 0


def test_folder_reads_the_same_with_a_slash_and_relative(library, monkeypatch):
    expected = read_images(str(library)).images
    monkeypatch.chdir(library.parent)
    for name in (f"{library}/", library.name, f"file://{library}"):
        assert read_images(name).images.equals(expected)


def test_version_of_a_file_changes_with_it(library):
    before = read_images(str(library)).images
    path = library / "creator-0" / "0.jpg"
    os.utime(path, (1_700_000_000, 1_700_000_000))
    after = read_images(str(library)).images
    assert after["image_id"].equals(before["image_id"])
    assert sum(a != b for a, b in zip(after["version"], before["version"], strict=True)) == 1


def test_folder_without_images(tmp_path):
    (tmp_path / "empty" / "creator").mkdir(parents=True)
    assert "holds no images" in refusal(tmp_path / "empty")


def test_file_name_that_is_not_unicode_is_left_out(library):
    bad = os.path.join(os.fsencode(library / "creator-0"), b"caf\xe9.jpg")  # noqa: PTH118 (bytes)
    with open(bad, "wb") as file:  # noqa: PTH123 (bytes)
        file.write(b"x")
    assert read_images(str(library)).images.num_rows == 12


def test_folder_has_nothing_to_carry(library):
    assert "--carry" in refusal(library, carry=["tag"])


text = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=20
)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(ids=st.lists(text.filter(str.strip), min_size=1, max_size=8, unique=True))
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_any_unicode_id_survives(write_manifest, suffix, ids):
    rows = [row(name, f"s3://bucket/{n}", image_id=name) for n, name in enumerate(ids)]
    manifest = read_images(str(write_manifest(f"m.{suffix}", rows)))
    add_up(manifest)
    assert manifest.images["creator_id"].to_pylist() == ids
    assert manifest.images["image_id"].to_pylist() == ids
