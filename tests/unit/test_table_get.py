from pathlib import Path

import pyarrow as pa
import pytest

from motif.errors import InputError
from motif.table import CreatorTable
from tests import made_table

IDS = [f"creator-{i:02d}" for i in range(60)]
NASTY = [
    "x' OR 1=1 --",
    '"; DROP TABLE creators; --',
    "two\nlines",
    "tab\there",
    "back\\slash",
    "100%_sure",
    "`tick`",
    "ünïcödé 🎨",
    "  spaces  ",
    "",
    "NULL",
    "\x1b[31mred",
]


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("database") / "creators.lance"


@pytest.fixture(scope="module")
def rows(path) -> pa.Table:
    country = pa.array([None if i % 7 == 0 else "DE" for i in range(60)])
    return made_table.write(path, IDS, attributes={"country": country})


@pytest.fixture
def table(path, rows) -> CreatorTable:
    return CreatorTable.open(str(path))


def test_get_returns_rows_in_the_order_of_the_ids(table, rows):
    asked = [IDS[i] for i in (7, 3, 50, 3)]
    assert table.get(asked).to_pylist() == rows.take([7, 3, 50, 3]).to_pylist()
    assert table.get(IDS[5]).to_pylist() == rows.slice(5, 1).to_pylist()
    found = table.get(asked, columns=["country", "creator_id"])
    assert found.column_names == ["country", "creator_id"]
    assert found["creator_id"].to_pylist() == asked
    assert table.get([]).num_rows == 0
    assert table.get([]).schema.names == rows.column_names


def test_get_names_those_who_are_not_there(table):
    with pytest.raises(InputError, match=r"^creator 'creator-0' is not in .* \(close: creator-"):
        table.get([IDS[1], "creator-0"])
    with pytest.raises(InputError, match=r"^6 creators are not in .*: 'a', 'b', .*'e', \.\.\.$"):
        table.get([*"abc", IDS[1], *"def"])
    with pytest.raises(InputError, match="column 'contry' is not in"):
        table.get(IDS[0], columns=["contry"])


# -- ids are data -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def nasty(tmp_path_factory) -> CreatorTable:
    path = tmp_path_factory.mktemp("nasty") / "creators.lance"
    made_table.write(path, sorted(NASTY))
    return CreatorTable.open(str(path))


@pytest.mark.parametrize("creator", NASTY)
def test_any_id_is_found_as_it_is(nasty, creator):
    assert nasty.get(creator)["creator_id"].to_pylist() == [creator]
    found = nasty.lookalikes(creator, 100)["creator_id"].to_pylist()
    assert sorted([*found, creator]) == sorted(NASTY)
    quoted = creator.replace('"', '""')
    assert nasty.rank("vivid", where=f'creator_id="{quoted}"')["creator_id"].to_pylist() == [
        creator
    ]


def test_any_id_is_ranked(nasty):
    found = nasty.rank("vivid", 100)
    assert sorted(found["creator_id"].to_pylist()) == sorted(NASTY)
    assert None not in found["image_count"].to_pylist()
    assert nasty.creator_ids() == sorted(NASTY)
    assert nasty.get(NASTY)["creator_id"].to_pylist() == NASTY


@pytest.mark.parametrize("creator", ["' OR 1=1 --", "x' OR '1'='1", "%", "' OR creator_id LIKE '%"])
def test_ids_cannot_inject(nasty, creator):
    with pytest.raises(InputError, match="is not in"):
        nasty.get(creator)
    with pytest.raises(InputError, match="is not in"):
        nasty.lookalikes(creator)
    assert nasty.rank("vivid", where=f'creator_id="{creator}"').num_rows == 0
