from datetime import UTC, datetime

import pyarrow as pa
import pytest

from motif.cli_output import as_records, as_text
from motif.command import printable


def test_a_long_or_wide_table_stays_one_line_a_creator():
    rows = pa.table(
        {
            "creator_id": ["a" * 100, "b"],
            "score": [0.123456, -1.0],
            "image_count": [1, 123456],
            "theme_consistency": pa.array([None, 0.999], pa.float32()),
            "bio": ["x\ny" * 50, None],
            "reach": [1.5e12, float("nan")],
        }
    )
    lines = as_text(rows).splitlines()
    assert len(lines) == 3
    assert "a" * 100 in lines[1]
    assert lines[1].split()[2:5] == ["0.1235", "1", "-"]
    assert lines[2].split()[1:] == ["b", "-1.0000", "123456", "1.00", "-", "nan"]
    assert "x\\ny" in lines[1]
    assert "…" in lines[1]
    assert lines[1].endswith("1.5e+12")
    assert (
        len(
            {line.index(at) for line, at in zip(lines, ("images", "     1", "123456"), strict=True)}
        )
        == 1
    )


def test_records_show_values_whole():
    rows = pa.table(
        {
            "creator_id": ["a", "b"],
            "same": pa.array([[0.1, 0.2], [0.3, 0.4]], pa.list_(pa.float32(), 2)),
            "bio": ["x" * 200, None],
            "uris": [["p", "q\x1b"], []],
            "when": [datetime(2026, 1, 2, tzinfo=UTC)] * 2,
        }
    )
    first, second = as_records(rows).split("\n\n")
    assert first.splitlines() == [
        "creator_id  a",
        "same        2 numbers",
        f"bio         {'x' * 200}",
        "uris        p, q\\x1b",
        "when        2026-01-02T00:00:00+00:00",
    ]
    assert second.splitlines()[2:4] == ["bio         -", "uris"]


@pytest.mark.parametrize("text", ["anna", "jörg 🎨", "a b", ""])
def test_what_a_terminal_can_show_is_left_as_it_is(text):
    assert printable(text) == text
