import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import lance
import pyarrow as pa
import pytest

from motif.cli import as_text, main
from motif.command import printable
from motif.table import CreatorTable
from tests.synthetic import make_space, publish, rows_of, themed, write_checkpoint

MOTIF = Path(sys.executable).parent / "motif"
COLOURED = "\x1b[31mred\x1b[0m\x07\x9b"
RIGHT_TO_LEFT = "user\u202egnp"
NAMES = ["anna", "bob's photos", COLOURED, RIGHT_TO_LEFT, "jörg 🎨", "two\nlines"]


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("database")
    model = write_checkpoint(folder / "same", make_space(12))
    ids, vectors = themed(len(NAMES), 3, 12)
    kept = list(range(len(ids) - 2))  # the last creator has one image
    names = [sorted(NAMES)[i // 3] for i in kept]
    publish(folder / "creators.lance", rows_of(names, vectors[kept]), model)
    return str(folder / "creators.lance")


def motif(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [str(MOTIF), *arguments],
        capture_output=True,
        timeout=120,
        check=False,
        env={**os.environ, **environment},
    )


@pytest.fixture
def here(monkeypatch, capfd):
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
        told = capfd.readouterr()
        return subprocess.CompletedProcess(arguments, code, told.out.encode(), told.err.encode())

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
    assert lines[0].split() == ["creator", "similarity", "images", "consistency"]
    expected = CreatorTable.open(table).lookalikes("anna", k=3).to_pylist()
    assert len(lines) == 4
    for rank, (line, row) in enumerate(zip(lines[1:], expected, strict=True), 1):
        assert line.split()[0] == str(rank)
        assert printable(row["creator_id"]) in line
        consistency = row["theme_consistency"]
        shown = "-" if consistency is None else f"{consistency:.2f}"
        assert line.split()[-3:] == [f"{row['similarity']:.4f}", str(row["image_count"]), shown]


def test_rank_prints_a_table(table):
    lines = succeed("rank", "--table", table, "--adjective", "vivid", "--k", "2").splitlines()
    assert lines[0].split() == ["creator", "score", "images", "consistency"]
    expected = CreatorTable.open(table).rank("vivid", k=2)["creator_id"].to_pylist()
    assert [line.split()[0] for line in lines[1:]] == ["1", "2"]
    for line, creator in zip(lines[1:], expected, strict=True):
        assert printable(creator) in line


def test_json_is_what_the_library_returns(table):
    opened = CreatorTable.open(table)
    told = succeed("lookalikes", "--table", table, "--creator", COLOURED, "--json")
    assert json.loads(told) == opened.lookalikes(COLOURED).to_pylist()
    arguments = ("--adjective", "calm", "--where", "image_count >= 3", "--json")
    told = succeed("rank", "--table", table, *arguments)
    assert json.loads(told) == opened.rank("calm", where="image_count >= 3").to_pylist()
    assert len(json.loads(told)) == len(NAMES) - 1


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
    arguments = ("--table", table, "--creator", "anna", "--where", "image_count > 99")
    assert here("lookalikes", *arguments).stdout == b"no creators\n"
    assert json.loads(here("lookalikes", *arguments, "--json").stdout) == []


def test_an_unknown_creator(table):
    done = motif("lookalikes", "--table", table, "--creator", "\x1b[31mnobody\n")
    require_one_line(done, "creator '\\x1b[31mnobody\\n' is not in", table)


def test_an_unknown_adjective(table, here):
    done = here("rank", "--table", table, "--adjective", "dark")
    require_one_line(done, "adjective 'dark' is not in", "published are: vivid, calm")


@pytest.mark.parametrize(
    "where", ["image_count >", "nonsense = 1", "\x1b[31m", "image_count = 'x'"]
)
def test_a_bad_filter(table, where, here):
    done = here("rank", "--table", table, "--adjective", "vivid", "--where", where)
    require_one_line(done, f"--where {where!r}")


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
    for command, flags in (
        ("lookalikes", ("--table", "--creator", "--k", "--where", "--json")),
        ("rank", ("--table", "--adjective", "--k", "--where", "--json")),
    ):
        told = here(command, "--help").stdout.decode()
        for flag in flags:
            assert flag in told
        assert "image_count >= 12" in told


@pytest.mark.parametrize("flag", [(), ("--json",)])
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


def test_queries_need_neither_ray_nor_torch():
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", "import motif.cli"],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    imported = {line.rpartition("|")[2].strip().split(".")[0] for line in done.stderr.splitlines()}
    assert {"motif", "lancedb", "tyro"} <= imported
    assert not imported & {"ray", "torch", "open_clip", "transformers", "timm"}


def test_a_long_or_wide_table_stays_one_line_a_creator():
    rows = pa.table(
        {
            "creator_id": ["a" * 60, "b"],
            "score": [0.123456, -1.0],
            "image_count": [1, 123456],
            "theme_consistency": pa.array([None, 0.999], pa.float32()),
        }
    )
    lines = as_text(rows).splitlines()
    assert len(lines) == 3
    assert "a" * 60 in lines[1]
    assert lines[1].split()[-3:] == ["0.1235", "1", "-"]
    assert lines[2].split()[-3:] == ["-1.0000", "123456", "1.00"]


@pytest.mark.parametrize("text", ["anna", "jörg 🎨", "a b", ""])
def test_what_a_terminal_can_show_is_left_as_it_is(text):
    assert printable(text) == text
