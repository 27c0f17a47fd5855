"""Where IMAGES come from, against the same files read or walked in a plain way."""

import csv
import fnmatch
import gzip
import io
import json
import os
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from motif.errors import InputError
from motif.images import source
from motif.images.manifest import read_images
from motif.images.source import Piece


def rows_of(count: int, start: int = 0) -> list[dict]:
    return [{"creator_id": f"c{n % 3}", "uri": f"/p/{n}.jpg"} for n in range(start, start + count)]


def read(uri: object) -> list[dict]:
    """Read all pieces; the numbers of first rows must go on where a file's last table ended."""
    found: list[dict] = []
    numbers: dict[str, int] = {}
    for piece in source.find(str(uri)):
        for first, table in source.read(piece):
            if piece.folders is None:
                assert first == numbers.get(piece.uri, 0)
            numbers[piece.uri] = first + table.num_rows
            found += table.to_pylist()
    return found


def write(path: Path, rows: list[dict], **options) -> Path:
    """Write a manifest as its suffixes say."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path, **options)
        return path
    text = io.StringIO()
    if ".csv" in path.suffixes:
        writer = csv.DictWriter(text, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    else:
        text.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    data = text.getvalue().encode()
    if path.suffix == ".gz":
        data = gzip.compress(data)
    elif path.suffix == ".zst":
        data = pa.compress(data, "zstd", asbytes=True)
    path.write_bytes(data)
    return path


# Parquet


@pytest.mark.parametrize("group", [1, 7, 10, 100])
@pytest.mark.parametrize("piece", [1, 10, 35, 1000])
def test_parquet_of_any_row_groups(tmp_path, monkeypatch, group, piece):
    monkeypatch.setattr(source, "PIECE_ROWS", piece)
    path = write(tmp_path / "m.parquet", rows_of(100), row_group_size=group)
    pieces = source.find(str(path))
    groups = [group for found in pieces for group in found.row_groups]
    assert groups == list(range(pq.read_metadata(path).num_row_groups))
    assert sum(found.weight_rows for found in pieces) == 100
    # A piece ends with the row group that fills it.
    assert max(found.weight_rows for found in pieces) < piece + group
    assert read(path) == rows_of(100)
    tables = [table.num_rows for found in pieces for _, table in source.read(found)]
    assert max(tables) <= piece


def test_parquet_without_rows_or_row_groups(tmp_path):
    schema = pa.schema([("creator_id", pa.string()), ("uri", pa.string())])
    pq.write_table(schema.empty_table(), tmp_path / "a.parquet")
    pq.ParquetWriter(tmp_path / "b.parquet", schema).close()
    assert pq.read_metadata(tmp_path / "b.parquet").num_row_groups == 0
    for name in ("a.parquet", "b.parquet"):
        (piece,) = source.find(str(tmp_path / name))
        tables = [table for _, table in source.read(piece)]
        assert [table.num_rows for table in tables if table.num_rows] == []
        assert tables[0].schema.names == ["creator_id", "uri"]


def test_parquet_that_is_damaged_after_its_footer_was_read(tmp_path):
    path = write(tmp_path / "m.parquet", rows_of(1000))
    (piece,) = source.find(str(path))
    path.write_bytes(b"PAR1" + b"\xff" * 2000 + path.read_bytes()[2004:])
    with pytest.raises(InputError, match=r"m\.parquet cannot be read"):
        list(source.read(piece))


# Text


@pytest.mark.parametrize("packed", ["", ".gz", ".zst"])
@pytest.mark.parametrize("kind", ["csv", "jsonl", "ndjson", "json", "CSV", "JSONL"])
@pytest.mark.parametrize("block", [16, 97, 1 << 20])
def test_text_in_blocks_of_any_size(tmp_path, monkeypatch, kind, packed, block):
    if kind == "json":
        path = tmp_path / f"m.{kind}{packed}"
        write(tmp_path / f"m.jsonl{packed}", rows_of(60)).rename(path)
    else:
        path = tmp_path / f"m.{kind}{packed}"
        write(tmp_path / f"m.{kind.lower()}{packed}", rows_of(60)).rename(path)
    # A block of a CSV must hold its longest line.
    monkeypatch.setattr(source, "PIECE_BYTES", max(block, 64) if "csv" in kind.lower() else block)
    assert read(path) == rows_of(60)


def test_a_line_of_json_longer_than_several_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(source, "PIECE_BYTES", 50)
    rows = [*rows_of(3), {"creator_id": "c", "uri": "/" + "é" * 1000}, *rows_of(3)]
    path = write(tmp_path / "m.jsonl", rows)
    assert read(path) == rows
    path.write_bytes(path.read_bytes().rstrip(b"\n"))  # no newline at the end
    assert read(path) == rows


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_blank_lines_of_json_are_no_rows(tmp_path, monkeypatch, newline):
    monkeypatch.setattr(source, "PIECE_BYTES", 40)
    lines = [json.dumps(row) for row in rows_of(6)]
    path = tmp_path / "m.jsonl"
    path.write_bytes((newline * 3).join(lines).encode() + newline.encode() * 200)
    assert read(path) == rows_of(6)


# pyarrow 26 loses the \n of a quoted \r\n that lies across two blocks: once in 64 MiB, in a name.
@pytest.mark.parametrize(("block", "newline"), [(64, "\n"), (1 << 20, "\n"), (1 << 20, "\r\n")])
def test_newlines_in_quotes_are_text(tmp_path, monkeypatch, block, newline):
    monkeypatch.setattr(source, "PIECE_BYTES", block)
    rows = [{"creator_id": f"two{newline}, {n}", "uri": f'/"{n}"\n.jpg'} for n in range(30)]
    assert read(write(tmp_path / "m.csv", rows)) == rows


def test_dates_stay_text_whichever_block_they_are_in(tmp_path, monkeypatch):
    monkeypatch.setattr(source, "PIECE_BYTES", 80)
    rows = [{"creator_id": "2024-01-01T00:00:00", "uri": f"/{n}"} for n in range(5)] + rows_of(5)
    assert read(write(tmp_path / "m.jsonl", rows)) == rows


@pytest.mark.parametrize("name", ["m.parquet", "m.csv", "m.jsonl", "m.csv.gz", "m.jsonl.zst"])
def test_rejected_rows_of_later_pieces_have_their_number_in_the_file(tmp_path, monkeypatch, name):
    monkeypatch.setattr(source, "PIECE_ROWS", 10)
    monkeypatch.setattr(source, "PIECE_BYTES", 128)
    rows = rows_of(90)
    for number in (0, 9, 10, 55, 89):
        rows[number]["creator_id"] = " "
    path = write(tmp_path / name, rows, **({"row_group_size": 7} if "parquet" in name else {}))
    found = read_images(str(path))
    expected = [f"{name}#{number}" for number in (0, 9, 10, 55, 89)]
    assert found.rejected["image_id"].to_pylist() == expected
    assert found.images.num_rows == 85


# A folder of manifests


def test_a_folder_of_all_kinds(tmp_path):
    folder = tmp_path / "manifests"
    names = ["a.parquet", "b.csv", "c.jsonl", "d.csv.gz", "e.jsonl.zst", "f.ndjson.gz"]
    for number, name in enumerate(names):
        write(folder / name, rows_of(5, 5 * number))
    for name in ("_SUCCESS", "_metadata", ".hidden.csv", "_part.csv", ".part.parquet.crc"):
        (folder / name).write_bytes(b"not a manifest")
    (folder / "README.txt").write_text("of a colleague")
    (folder / ".git").mkdir()
    (folder / "_temporary").mkdir()
    assert read(folder) == read(f"{folder}/") == rows_of(30)


def test_a_stray_manifest_next_to_creators_folders_is_none(tmp_path, picture):
    root = tmp_path / "library"
    (root / "ana").mkdir(parents=True)
    picture().save(root / "ana" / "1.jpg")
    write(root / "notes.csv", rows_of(3))
    assert [row["uri"] for row in read(root)] == [f"{root}/ana/1.jpg"]


def test_a_folder_with_one_damaged_manifest_names_it(tmp_path):
    write(tmp_path / "m" / "a.parquet", rows_of(3))
    (tmp_path / "m" / "b.parquet").write_bytes(b"PAR1")
    with pytest.raises(InputError, match=r"b\.parquet is not a Parquet file"):
        source.find(str(tmp_path / "m"))


# Listings


NAMES = [
    "photos/ana/1.jpg",
    "photos/ana/2.JPG",
    "photos/ana/x/3.png",
    "photos/ana/x/y/4.jpg",
    "photos/ana/notes.txt",
    "photos/ana/.hidden.jpg",
    "photos/ana/.cache/5.jpg",
    "photos/bo o/with space.jpg",
    "photos/bo o/[1] (copy).jpg",
    "photos/bo o/a{b}c.webp",
    "photos/čeština 北京/🎨.jpeg",
    "photos/d.o.t.s/x/1.2.3.jpg",
    "photos/d.o.t.s/no suffix",
    "photos/_under/1.jpg",
    "photos/[brackets]/1.jpg",
    "photos/stray.jpg",
    "photos/.trash/1.jpg",
    "photos-ana/1.png",
    "photos-ana/x/2.png",
    "photos-bo-bo/1.png",
    "photos-/1.png",
    "2023/x/ana/1.jpg",
    "2024/x/ana/1.jpg",
    "2024/x/bo/deep/1.jpg",
    "2024/y/ana/1.jpg",
    "ana.jpg",
]


@pytest.fixture
def tree(tmp_path) -> Path:
    for name in NAMES:
        path = tmp_path / "root" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return tmp_path / "root"


def walked(root: Path) -> list[str]:
    """All files that are not hidden, by os.walk, relative to the root."""
    found = []
    for folder, _, names in os.walk(root):
        found += [os.path.relpath(os.path.join(folder, name), root) for name in names]  # noqa: PTH118
    return [name for name in found if not any(p.startswith(".") for p in name.split("/"))]


def is_image(name: str) -> bool:
    return name.lower().endswith(source.IMAGE_SUFFIXES)


# Each template with what it means, said of the parts of a path.
TEMPLATES = {
    "photos/{creator_id}/**": lambda p, n: p[0] == "photos" and len(p) > 2 and is_image(n),
    "photos/{creator_id}/*": lambda p, n: p[0] == "photos" and len(p) == 3 and is_image(n),
    "photos/{creator_id}/**/*.jpg": lambda p, n: (
        p[0] == "photos" and len(p) > 2 and fnmatch.fnmatchcase(n, "*.jpg")
    ),
    "photos/{creator_id}/x/*.*": lambda p, n: p[0] == "photos" and p[2:3] == ["x"] and len(p) == 4,
    "photos/{creator_id}/?.jpg": lambda p, n: (
        p[0] == "photos" and len(p) == 3 and fnmatch.fnmatchcase(p[2], "?.jpg")
    ),
    "photos-{creator_id}/*.png": lambda p, n: (
        p[0].startswith("photos-") and p[0] != "photos-" and len(p) == 2
    ),
    "*/x/{creator_id}/*.jpg": lambda p, n: len(p) == 4 and p[1] == "x" and n.endswith(".jpg"),
    "20*/?/{creator_id}/**/*.jpg": lambda p, n: p[0].startswith("20") and len(p) > 3,
    "{creator_id}.jpg": lambda p, n: n == "ana.jpg",
}


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("folders", [1, 2, 1000])
def test_listing_matches_a_walk(tree, monkeypatch, template, folders):
    monkeypatch.setattr(source, "LISTED_FOLDERS", folders)
    where = template.split("/")
    level = next(n for n, part in enumerate(where) if "{creator_id}" in part)
    expected = set()
    for name in walked(tree):
        parts = name.split("/")
        if TEMPLATES[template](parts, name):
            prefix, suffix = where[level].split("{creator_id}")
            creator = parts[level].removeprefix(prefix).removesuffix(suffix)
            expected.add((creator, f"{tree}/{name}"))
    found = read(f"{tree}/{template}")
    assert {(row["creator_id"], row["uri"]) for row in found} == expected
    assert len(found) == len(expected) > 0
    assert all(row["version"].endswith(f"-{Path(row['uri']).stat().st_size}") for row in found)


def test_a_folder_is_the_template_of_its_subfolders(tree):
    assert read(tree / "photos") == read(f"{tree}/photos/{{creator_id}}/**")


def test_a_relative_template(tree, monkeypatch):
    monkeypatch.chdir(tree)
    for name in ("photos/{creator_id}/**", "./photos/{creator_id}/**", "photos"):
        assert read(name) == read(tree / "photos")


def test_many_folders_are_listed_by_several_tasks(tmp_path, monkeypatch):
    monkeypatch.setattr(source, "LISTED_FOLDERS", 10)
    for number in range(25):
        (tmp_path / f"c{number:02}").mkdir()
        (tmp_path / f"c{number:02}" / "1.jpg").write_bytes(b"")
    pieces = source.find(str(tmp_path))
    assert [len(piece.folders or ()) for piece in pieces] == [10, 10, 5]
    assert [row["creator_id"] for row in read(tmp_path)] == [f"c{n:02}" for n in range(25)]


@pytest.mark.parametrize(
    "template", ["{creator_id}/{creator_id}/*.jpg", "*/{creator_id}{creator_id}"]
)
def test_a_template_that_names_the_creator_twice_is_refused(tree, template):
    with pytest.raises(InputError, match=r"expected \{creator_id\} once"):
        read(f"{tree}/{template}")


@pytest.mark.parametrize("template", ["photos/*/*.jpg", "photos/**", "photos/{creator}/*.jpg"])
def test_a_template_without_a_creator_is_refused(tree, template):
    with pytest.raises(InputError, match=re.escape(template)):
        read(f"{tree}/{template}")


def test_a_template_below_nothing_is_refused(tree):
    with pytest.raises(InputError, match=r"nowhere does not exist"):
        read(f"{tree}/nowhere/{{creator_id}}/**")


def test_a_listing_that_finds_nothing(tree, tmp_path):
    for template in ("photos/{creator_id}/**/*.tiff", "nothing-{creator_id}/*.jpg"):
        uri = f"{tree}/{template}"
        assert read(uri) == []
        with pytest.raises(InputError, match="names no images"):
            read_images(uri)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no images"):
        source.find(str(tmp_path / "empty"))


# Tasks


def test_small_pieces_share_a_task_in_order(monkeypatch):
    monkeypatch.setattr(source, "PIECE_ROWS", 10)
    weights = [3, 3, 4, 1, 12, 2, 9, 0, 1, 10]
    pieces = [Piece(f"m{n}", weight_rows=rows) for n, rows in enumerate(weights)]
    tasks = source.group(pieces)
    assert [piece for task in tasks for piece in task] == pieces
    assert [[piece.weight_rows for piece in task] for task in tasks] == [
        [3, 3, 4],
        [1],
        [12],
        [2],
        [9, 0, 1],
        [10],
    ]
    assert source.group([]) == []
