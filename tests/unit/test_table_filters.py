from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from motif.errors import InputError
from motif.table import CreatorTable
from tests import made_table

N = 40
IDS = [f"creator-{i:02d}" for i in range(N)]
START = datetime(2026, 3, 1, tzinfo=UTC)
ATTRIBUTES = {
    "country": [
        None if i % 8 == 0 else ("DE", "FR", "Food, drinks", "x' OR 1=1 --")[i % 4]
        for i in range(N)
    ],
    "followers": pa.array([None if i == 3 else i * 1000 for i in range(N)], pa.int64()),
    "small": pa.array([i % 100 for i in range(N)], pa.int8()),
    "price": pa.array([Decimal(i) / 4 for i in range(N)], pa.decimal128(10, 2)),
    "ratio": pa.array([i / 10 for i in range(N)], pa.float32()),
    "precise": pa.array([i / 10 for i in range(N)], pa.float64()),
    "active": pa.array([i % 3 == 0 for i in range(N)], pa.bool_()),
    "joined": pa.array([date(2026, 1, 1) + timedelta(days=i) for i in range(N)], pa.date32()),
    "seen": pa.array([START + timedelta(hours=i) for i in range(N)], pa.timestamp("us", tz="UTC")),
    "Two Words": pa.array(range(N), pa.int32()),
    "notes": pa.array([f"say “{i}” = <{i}>" for i in range(N)], pa.string()),
}


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> CreatorTable:
    path = tmp_path_factory.mktemp("database") / "creators.lance"
    attributes = {
        name: pa.array(values) if isinstance(values, list) else values
        for name, values in ATTRIBUTES.items()
    }
    made_table.write(path, IDS, attributes=attributes)
    return CreatorTable.open(str(path))


def found(table: CreatorTable, where, where_sql: str = "") -> set[int]:
    rows = table.rank("vivid", N, where=where, where_sql=where_sql)
    return {IDS.index(creator) for creator in rows["creator_id"].to_pylist()}


def those(condition) -> set[int]:
    return {i for i in range(N) if condition(i)}


def country(i: int):
    return ATTRIBUTES["country"][i]


@pytest.mark.parametrize(
    ("term", "condition"),
    [
        ("followers>=12000", lambda i: i >= 12 and i != 3),
        ("followers > 12000", lambda i: i > 12),
        (" followers<5000 ", lambda i: i < 5 and i != 3),
        ("followers <= 5000", lambda i: i <= 5 and i != 3),
        ("followers=7000", lambda i: i == 7),
        ("followers == 7000", lambda i: i == 7),
        ("followers!=7000", lambda i: i not in (3, 7)),
        ("followers in 1000,2000, 3000", lambda i: i in (1, 2)),
        ("followers not in 1000,2000", lambda i: i not in (1, 2, 3)),
        ("followers NOT  IN 1000", lambda i: i not in (1, 3)),
        ("small>=-5", lambda i: True),
        ("country=DE", lambda i: country(i) == "DE"),
        ("country!=DE", lambda i: country(i) not in (None, "DE")),
        ("country in DE,FR", lambda i: country(i) in ("DE", "FR")),
        ("country not in DE,FR", lambda i: country(i) not in (None, "DE", "FR")),
        ('country="Food, drinks"', lambda i: country(i) == "Food, drinks"),
        ("country in 'Food, drinks',FR", lambda i: country(i) in ("Food, drinks", "FR")),
        ("""country="x' OR 1=1 --\"""", lambda i: country(i) == "x' OR 1=1 --"),
        ("country='x'' OR 1=1 --'", lambda i: country(i) == "x' OR 1=1 --"),
        ("country=de", lambda i: False),
        ('country=""', lambda i: False),
        ("price>=2.25", lambda i: i >= 9),
        ("ratio=0.7", lambda i: i == 7),  # which as a double no float32 equals
        ("ratio in 0.1,0.2", lambda i: i in (1, 2)),
        ("precise=0.7", lambda i: i == 7),
        ("precise<1e-3", lambda i: i == 0),
        ("active=true", lambda i: i % 3 == 0),
        ("active = FALSE", lambda i: i % 3 != 0),
        ("joined>=2026-01-31", lambda i: i >= 30),
        ("joined=2026-01-02", lambda i: i == 1),
        ("seen>=2026-03-01T12:00:00", lambda i: i >= 12),
        ("seen>=2026-03-02", lambda i: i >= 24),
        ("seen<2026-03-01T13:00:00+01:00", lambda i: i < 12),
        ("seen=2026-03-01T05:00:00Z", lambda i: i == 5),
        ("Two Words>=30", lambda i: i >= 30),
        ('notes="say “4” = <4>"', lambda i: i == 4),
        ("creator_id=creator-05", lambda i: i == 5),
        ("creator_id>=creator-30", lambda i: i >= 30),
    ],
)
def test_a_term_means_what_python_says(table, term, condition):
    assert found(table, term) == those(condition)


@pytest.mark.parametrize(("column", "bound"), [("oaar_vivid", 0.0), ("oaar_vivid_pct", 50)])
def test_scores_and_percentiles_are_filtered_by(table, column, bound):
    values = table.get(IDS, columns=[column])[column].to_pylist()
    expected = those(lambda i: values[i] >= bound)
    assert 0 < len(expected) < N
    assert found(table, f"{column}>={bound}") == expected


def test_all_of_several_terms_hold(table):
    terms = ["country in DE,FR", "followers>=10000", "active=false"]
    expected = those(lambda i: country(i) in ("DE", "FR") and i >= 10 and i % 3 != 0)
    assert 0 < len(expected) < N
    assert found(table, terms) == expected
    assert found(table, tuple(terms)) == expected
    assert found(table, []) == found(table, "") == found(table, [""]) == set(range(N))


def test_expressions_do_what_terms_cannot(table):
    either = (pc.field("country") == "DE") | (pc.field("followers") < 3000)
    assert found(table, either) == those(lambda i: country(i) == "DE" or i < 3)
    assert found(table, [either, "active=true"]) == those(
        lambda i: (country(i) == "DE" or i < 3) and i % 3 == 0
    )


def test_sql_is_all_there_is(table):
    assert found(table, "", "country IS NULL AND followers < 10000") == {0, 8}
    with pytest.raises(InputError, match="pass one of them"):
        found(table, "followers<4000", "active = true OR active = false")


def test_every_query_takes_the_same_filters(table):
    vector = np.ones(8)
    terms = ["country=DE", "followers>=5000"]
    expected = those(lambda i: country(i) == "DE" and i >= 5)
    for options in ({}, {"correct_hubs": False}, {"exact": True}):
        rows = table.lookalikes(vector, N, where=terms, **options)
        assert {IDS.index(c) for c in rows["creator_id"].to_pylist()} == expected
        rows = table.lookalikes(
            vector, N, where_sql="country = 'DE' AND followers >= 5000", **options
        )
        assert {IDS.index(c) for c in rows["creator_id"].to_pylist()} == expected


@pytest.mark.parametrize(
    ("term", "told"),
    [
        ("followers", "expected a column, a comparison and a value"),
        ("=3", "expected a column, a comparison and a value"),
        ("followers in", "expected a column, a comparison and a value"),
        ("contry=DE", "'contry' is no column to filter by (close: country); these are: creator_id"),
        ("same=1", "'same' is no column to filter by"),
        ("representative_uris=x", "'representative_uris' is no column to filter by"),
        ("followers=", "no value"),
        ("followers>=many", "'many' is not a whole number (int64)"),
        ("followers>=1.5", "'1.5' is not a whole number (int64)"),
        ("followers=99999999999999999999", "is not a whole number (int64)"),
        ("small=300", "'300' is not a whole number (int8)"),
        ("ratio>=nan", "'nan' is not a number (float)"),
        ("ratio>=1e39", "'1e39' is not a number (float)"),
        ("precise>=inf", "'inf' is not a number (double)"),
        ("price>=x", "'x' is not a decimal number"),
        ("active=yes", "'yes' is not true or false"),
        ("joined>=01.02.2026", "is not a date such as 2026-01-31"),
        ("seen>=yesterday", "is not a time such as"),
        ("country=DE,FR", 'use "country in DE,FR"'),
        ("country in DE,,FR", "a value was expected at ',FR'"),
        ("country in DE,", "no value"),
        ("country = 'DE' AND followers > 3", "these are terms, not SQL"),
        ("followers >= 3 OR 1=1", "these are terms, not SQL"),
        ("country in ('DE')", "these are terms, not SQL"),
        ("country='DE", "these are terms, not SQL"),
        ("\x1b[31m", "expected a column"),
    ],
)
def test_a_wrong_term_is_refused_and_shown(table, term, told):
    for query in (
        lambda: table.rank("vivid", where=["followers>=1", term]),
        lambda: table.lookalikes(IDS[0], where=term),
        lambda: table.search("sea", where=term),
    ):
        with pytest.raises(InputError) as caught:
            query()
        assert str(caught.value).startswith(f"--where {term!r}: ")
        assert told in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "sql", ["image_count >", "nonsense = 1", "image_count", "image_count = 'x'", " ", "abs("]
)
def test_wrong_sql_is_refused_and_shown(table, sql):
    for query in (
        lambda: table.lookalikes(IDS[0], where_sql=sql),
        lambda: table.rank("vivid", where_sql=sql),
    ):
        with pytest.raises(InputError) as caught:
            query()
        assert str(caught.value).startswith(f"--where-sql {sql!r}: ")
        assert "\n" not in str(caught.value)


def test_a_wrong_expression_is_refused(table):
    with pytest.raises(InputError, match=r"^where \(nosuch == 1\): "):
        table.rank("vivid", where=pc.field("nosuch") == 1)
