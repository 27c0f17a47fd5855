import io
import json
import logging
import os
import subprocess
import sys
from datetime import datetime
from decimal import Decimal
from pathlib import Path

import lance
import lancedb
import pyarrow as pa
import pytest

from motif.cli import SUBCOMMANDS, main
from motif.command import printable
from motif.encoder.encoder import Encoder
from motif.encoder.source import resolve
from motif.table import CreatorTable
from tests import made_table, tiny_encoder
from tests.synthetic import publish, rows_of, themed, write_checkpoint

MOTIF = Path(sys.executable).parent / "motif"
COLOURED = "\x1b[31mred\x1b[0m\x07\x9b"
RIGHT_TO_LEFT = "user\u202egnp"
NAMES = ["anna", "bob's photos", COLOURED, RIGHT_TO_LEFT, "jörg 🎨", "two\nlines"]


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("database") / "creators.lance"
    attributes = {
        "country": pa.array(["DE", "DE", None, "FR", "DE", "FR"]),
        "followers": pa.array([1000, None, 3000, 4000, 5000, 6000], pa.int64()),
    }
    made_table.write(path, sorted(NAMES), words=("vivid", "calm"), attributes=attributes)
    return str(path)


def motif(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [str(MOTIF), *arguments],
        capture_output=True,
        timeout=120,
        check=False,
        env={**os.environ, **environment},
    )


@pytest.fixture
def here(monkeypatch, capfdbinary):
    """The same in this process: starting Python a dozen times takes longer than all queries."""

    def call(*arguments: str) -> subprocess.CompletedProcess:
        monkeypatch.setattr("sys.argv", ["motif", *arguments])
        # Its handler would write to this test's standard error for the rest of the session.
        monkeypatch.setattr(logging.root, "handlers", [])
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = stop.code
        told = capfdbinary.readouterr()
        return subprocess.CompletedProcess(arguments, code, told.out, told.err)

    return call


def succeed(*arguments: str, **environment: str) -> str:
    done = motif(*arguments, **environment)
    assert (done.returncode, done.stderr) == (0, b"")
    return done.stdout.decode("utf-8")


def require_one_line(done: subprocess.CompletedProcess, *parts: str) -> None:
    told = done.stderr.decode()
    assert (done.returncode, done.stdout) == (2, b""), told
    assert told.startswith("error: ")
    assert told.count("\n") == 1
    assert told.endswith("\n")
    assert told.rstrip("\n").isprintable()
    for part in parts:
        assert part in told


def test_lookalikes_prints_a_table(table):
    lines = succeed("lookalikes", "--table", table, "--creator", "anna", "-k", "3").splitlines()
    assert lines[0].split() == ["creator", "similarity", "score", "images", "consistency"]
    expected = CreatorTable.open(table).lookalikes("anna", k=3).to_pylist()
    assert len(lines) == 4
    for rank, (line, row) in enumerate(zip(lines[1:], expected, strict=True), 1):
        assert line.split()[0] == str(rank)
        assert printable(row["creator_id"]) in line
        consistency = row["theme_consistency"]
        shown = "-" if consistency is None else f"{consistency:.2f}"
        numbers = [f"{row['similarity']:.4f}", f"{row['score']:.4f}", str(row["image_count"])]
        assert line.split()[-4:] == [*numbers, shown]


def test_rank_prints_a_table(table):
    lines = succeed("rank", "--table", table, "--adjective", "vivid", "--k", "2").splitlines()
    assert lines[0].split() == ["creator", "score", "percentile", "images", "consistency"]
    expected = CreatorTable.open(table).rank("vivid", k=2)["creator_id"].to_pylist()
    assert [line.split()[0] for line in lines[1:]] == ["1", "2"]
    for line, creator in zip(lines[1:], expected, strict=True):
        assert printable(creator) in line


def test_columns_and_adjectives_are_shown_where_they_are_asked_for(table, here):
    asked = ("--adjectives", "calm", "--columns", "country, followers,representative_uris")
    lines = here("rank", "--table", table, "--adjective", "vivid", *asked).stdout.decode()
    header, *rest = lines.splitlines()
    added = ["oaar_calm", "oaar_calm_pct", "country", "followers"]
    assert header.split()[-5:] == ["representative_uris", *added]
    for line, row in zip(
        rest,
        CreatorTable.open(table).rank("vivid", columns=["country", "followers"]).to_pylist(),
        strict=True,
    ):
        assert [row["country"] or "-", str(row["followers"] or "-")] == line.split()[-2:]


def test_get_prints_whole_creators(table, here):
    told = here("get", "--table", table, "--creator", "jörg 🎨", "--creator", "anna")
    first, second = (block.splitlines() for block in told.stdout.decode().split("\n\n"))
    names = CreatorTable.open(table).schema.names
    assert [line.split()[0] for line in first] == [line.split()[0] for line in second] == names
    assert first[0].split(maxsplit=1)[1] == "jörg 🎨"
    assert "8 numbers" in told.stdout.decode()
    done = here("get", "--table", table, "--creator", "anna", "--columns", "country,creator_id")
    assert done.stdout.decode().split() == ["country", "DE", "creator_id", "anna"]
    require_one_line(here("get", "--table", table), "--creator")


def unarrow(data: bytes) -> pa.Table:
    return pa.ipc.open_stream(io.BytesIO(data)).read_all()


SAME_ANSWERS = {
    ("lookalikes", "--creator", COLOURED): lambda t: t.lookalikes(COLOURED),
    ("lookalikes", "--creator", "anna", "--creator", "two\nlines", "-k", "2"): lambda t: (
        t.lookalikes(["anna", "two\nlines"], 2)
    ),
    ("lookalikes", "--creator", "anna", "--no-exclude-self", "--no-correct-hubs", "--exact"): (
        lambda t: t.lookalikes("anna", exclude_self=False, correct_hubs=False, exact=True)
    ),
    ("rank", "--adjective", "calm", "--where", "followers>=3000", "--where", "country in DE,FR"): (
        lambda t: t.rank("calm", where=["followers>=3000", "country in DE,FR"])
    ),
    ("rank", "--adjective", "calm", "--where-sql", "country IS NULL OR followers = 1000"): (
        lambda t: t.rank("calm", where_sql="country IS NULL OR followers = 1000")
    ),
    ("rank", "--adjective", "calm", "--columns", "updated_at", "--adjectives", "vivid"): (
        lambda t: t.rank("calm", columns=["updated_at"], adjectives=["vivid"])
    ),
    ("get", "--creator", RIGHT_TO_LEFT, "--creator", "anna"): lambda t: t.get(
        [RIGHT_TO_LEFT, "anna"]
    ),
}


@pytest.mark.parametrize("arguments", SAME_ANSWERS, ids=" ".join)
def test_the_command_answers_what_the_library_does(table, here, tmp_path, arguments):
    expected = SAME_ANSWERS[arguments](CreatorTable.open(table))
    assert expected.num_rows
    whole = (arguments[0], "--table", table, *arguments[1:])
    rows = json.loads(here(*whole, "--json").stdout)
    plain = [{n: _iso(v) for n, v in row.items()} for row in expected.to_pylist()]
    assert rows == plain
    assert unarrow(here(*whole, "--arrow", "-").stdout).equals(expected)
    done = here(*whole, "--arrow", str(tmp_path / "rows.arrows"))
    assert (done.returncode, done.stdout) == (0, b"")
    assert unarrow((tmp_path / "rows.arrows").read_bytes()).equals(expected)


def _iso(value):
    return value.isoformat() if isinstance(value, datetime) else value


def test_json_or_arrow(table, here):
    done = here("rank", "--table", table, "--adjective", "calm", "--json", "--arrow", "-")
    require_one_line(done, "--json and --arrow")


def test_an_older_version_can_be_asked(tmp_path, here):
    path = tmp_path / "creators.lance"
    made_table.write(path, NAMES)
    table = lancedb.connect(tmp_path).open_table("creators")
    first = table.version
    table.delete("creator_id != 'anna'")
    table.tags.create("fewer", table.version)
    for version, rows in (("live", 6), (str(first), 6), (str(table.version), 1), ("fewer", 1)):
        arguments = ("--table", str(path), "--adjective", "vivid", "--version", version)
        assert len(json.loads(here("rank", *arguments, "--json").stdout)) == rows
    for version in ("99", "yesterday"):
        arguments = ("--table", str(path), "--adjective", "vivid", "--version", version)
        require_one_line(here("rank", *arguments), "has no version", version)


def test_texts_and_images_in_a_process_of_its_own(tmp_path, picture):
    """The whole way, torch and all."""
    encoder = tiny_encoder.build(tmp_path / "encoder", image_size=32)
    space = Encoder(resolve(encoder)).space
    model = write_checkpoint(tmp_path / "same", space)
    path = str(tmp_path / "creators.lance")
    publish(path, rows_of(*themed(4, 2, space.dim)), model)
    image = tmp_path / "a b.jpg"
    picture(3).save(image)
    opened = CreatorTable.open(path, encoder=encoder)
    told = succeed("search", "--table", path, "--text", "sea", "--encoder", encoder, "--json")
    assert json.loads(told) == opened.search("sea").to_pylist()
    arguments = ("--table", path, "--image", str(image), "--encoder", encoder, "--json")
    told = succeed("lookalikes", *arguments)
    assert json.loads(told) == opened.lookalikes(images=[image]).to_pylist()
    image.write_bytes(b"my notes")
    require_one_line(motif("search", *arguments), f"image {image}: not_an_image")


@pytest.mark.parametrize("flag", [(), ("--json",)])
def test_ids_cannot_reach_the_terminal_raw(table, flag):
    told = succeed("rank", "--table", table, "--adjective", "vivid", *flag)
    for character in ("\x1b", "\x07", "\x9b", "\u202e"):
        assert character not in told
    lines = told.splitlines()
    if flag:
        assert {row["creator_id"] for row in json.loads(told)} == set(NAMES)
    else:
        assert len(lines) == 1 + len(NAMES)
        assert "\\x1b[31mred\\x1b[0m\\x07\\x9b" in told
        assert "user\\u202egnp" in told
        assert "two\\nlines" in told
        assert "jörg 🎨" in told


@pytest.mark.parametrize("flag", [(), ("--json",)])
def test_a_terminal_of_another_encoding_gets_an_answer(table, flag):
    told = succeed(
        *("rank", "--table", table, "--adjective", "vivid", *flag), PYTHONIOENCODING="ascii"
    )
    assert ("j\\xf6rg" if not flag else "j\\u00f6rg") in told


def test_a_filter_that_leaves_nobody_says_so(table, here):
    arguments = ("--table", table, "--creator", "anna", "--where", "image_count>99")
    assert here("lookalikes", *arguments).stdout == b"no creators\n"
    assert json.loads(here("lookalikes", *arguments, "--json").stdout) == []


def test_an_unknown_creator(table):
    done = motif("lookalikes", "--table", table, "--creator", "\x1b[31mnobody\n")
    require_one_line(done, "creator '\\x1b[31mnobody\\n' is not in", table)


def test_an_unknown_adjective(table, here):
    done = here("rank", "--table", table, "--adjective", "dark")
    # The log's line, and then the refusal.
    assert (done.returncode, done.stdout) == (2, b"")
    log, told = done.stderr.decode().splitlines()
    assert "adjective 'dark' is not published: scoring it now" in log
    assert "adjective 'dark' is not in" in told
    assert "published are: vivid, calm" in told


def test_near_misses_are_named(table, here):
    asked = ("lookalikes", "--table", table, "--creator")
    require_one_line(here(*asked, "ana"), "creator 'ana' is not in", "(close: anna)")
    require_one_line(here(*asked, "anna", "--adjectives", "vivd"), "(close: vivid)")
    require_one_line(here(*asked, "anna", "--columns", "contry"), "(close: country)")
    require_one_line(here(*asked, "anna", "--where", "contry=DE"), "(close: country)")


def test_a_seed_is_asked_for(table, here):
    require_one_line(here("lookalikes", "--table", table), "--creator or --image")
    both = ("--creator", "anna", "--image", "x.jpg")
    require_one_line(here("lookalikes", "--table", table, *both), "one or the other")
    require_one_line(here("search", "--table", table), "--text", "--image")


@pytest.mark.parametrize(
    "where", ["image_count >", "nonsense = 1", "\x1b[31m", "image_count = 'x'", "same=1"]
)
def test_a_bad_filter(table, where, here):
    done = here("rank", "--table", table, "--adjective", "vivid", "--where", where)
    require_one_line(done, f"--where {where!r}")


@pytest.mark.parametrize("sql", ["image_count >", "nonsense = 1", "\x1b[31m", "image_count = 'x'"])
def test_bad_sql(table, sql, here):
    done = here("rank", "--table", table, "--adjective", "vivid", "--where-sql", sql)
    require_one_line(done, f"--where-sql {sql!r}")


def test_a_bad_filter_in_a_process_of_its_own(table):
    done = motif("lookalikes", "--table", table, "--creator", "anna", "--where", "image_count >")
    require_one_line(done, "--where 'image_count >'")


def test_a_missing_table_in_a_process_of_its_own(tmp_path):
    done = motif("rank", "--table", str(tmp_path / "missing.lance"), "--adjective", "vivid")
    require_one_line(done, "missing.lance does not exist")


def test_a_bad_k(table, here):
    done = here("rank", "--table", table, "--adjective", "vivid", "-k", "0")
    require_one_line(done, "-k 0: expected 1 to 10000")


def test_tables_that_are_none(tmp_path, here):
    lance.write_dataset(pa.table({"id": [1]}), tmp_path / "other.lance")
    (tmp_path / "folder.lance").mkdir()
    (tmp_path / "folder.lance" / "notes").write_text("mine")
    for name, told in (
        ("missing.lance", "does not exist"),
        ("other.lance", "not one of CREATORS"),
        ("folder.lance", "is not a Lance table"),
        ("creators", "expected DATABASE/TABLE.lance"),
    ):
        uri = str(tmp_path / name)
        done = here("rank", "--table", uri, "--adjective", "vivid")
        require_one_line(done, told, uri)


def test_a_command_line_that_is_none_is_exit_code_2(table, here):
    for arguments in ((), ("rank",), ("rank", "--table", table), ("bake",)):
        done = here(*arguments)
        assert done.returncode == 2
        assert b"Traceback" not in done.stderr


def test_help_explains_every_flag(here):
    shared = ("--table", "--version", "--columns", "--json", "--arrow")
    ordered = (*shared, "--k", "--where", "--where-sql", "--adjectives", "--encoder")
    for command, flags in (
        ("lookalikes", (*ordered, "--creator", "--image", "--model", "--exact", "--correct-hubs")),
        ("search", (*ordered, "--text", "--image", "--model", "--exact")),
        ("rank", (*ordered, "--adjective")),
        ("get", (*shared, "--creator")),
    ):
        told = here(command, "--help").stdout.decode()
        for flag in flags:
            assert flag in told
        assert ("image_count>=12" in told) == (command != "get")


def test_all_subcommands_are_listed(here):
    told = here("--help").stdout.decode()
    assert {"lookalikes", "rank", "search", "get", "versions", "rollback"} <= set(SUBCOMMANDS)
    for name in SUBCOMMANDS:
        assert f"• {name} " in told


@pytest.mark.parametrize("flag", [(), ("--json",), ("--arrow", "-")])
def test_a_reader_that_has_left_is_no_error(table, flag):
    """As in `motif rank ... | head -1`."""
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [str(MOTIF), "rank", "--table", table, "--adjective", "vivid", *flag],
        stdout=writer,
        stderr=subprocess.PIPE,
        timeout=120,
        check=False,
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")


def test_queries_need_neither_ray_nor_torch(table):
    """Not when they are imported, and not when they run."""
    arguments = ["lookalikes", "--table", table, "--creator", "anna", "--where", "country=DE"]
    code = f"import sys; sys.argv[1:] = {arguments!r}; from motif.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", code],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    imported = {line.rpartition("|")[2].strip().split(".")[0] for line in done.stderr.splitlines()}
    assert {"motif", "lance", "tyro"} <= imported
    assert not imported & {"ray", "torch", "open_clip", "transformers", "timm"}
    assert done.stdout.count("\n") > 1


def test_json_has_nothing_that_is_no_json(tmp_path, here):
    attributes = {
        "reach": pa.array([float("nan"), float("inf"), 1.5]),
        "born": pa.array([datetime(2000, 1, 1).date()] * 3),
        "price": pa.array([Decimal("1.50")] * 3),
    }
    made_table.write(tmp_path / "c.lance", ["a", "b", "c"], attributes=attributes)
    arguments = ("--table", str(tmp_path / "c.lance"), "--columns", "reach,born,price", "--json")
    told = here("get", *arguments, "--creator", "a", "--creator", "b", "--creator", "c")

    def refuse(word: str) -> None:
        raise AssertionError(word)

    rows = json.loads(told.stdout, parse_constant=refuse)
    assert [row["reach"] for row in rows] == [None, None, 1.5]
    assert rows[0] == {"reach": None, "born": "2000-01-01", "price": "1.50"}
