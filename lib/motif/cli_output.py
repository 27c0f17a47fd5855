"""Answers of `motif` on standard output: a table for a person, JSON or Arrow for a program."""

import io
import json
import math
import os
import sys
from collections.abc import Callable
from datetime import date, datetime
from typing import Any

import pyarrow as pa

from motif import storage
from motif.command import printable

# What a person is told, in place of a column's name.
HEADINGS = {
    "creator_id": "creator",
    "image_count": "images",
    "theme_consistency": "consistency",
}
LONG = ("representative_uris",)  # not in a table for a person, unless asked for
MOST_SHOWN = 60  # characters of a value that is no id
STOPPED_BY_READER = 141  # as a shell tells it of a program that a pipe was closed to


def write(rows: pa.Table, *, as_json: bool, arrow: str, as_text: Callable[[pa.Table], str]) -> None:
    """Write an answer.

    Args:
        rows: The answer.
        as_json: As a JSON list.
        arrow: File, s3:// URI, or `-` for standard output, for an Arrow IPC stream.
        as_text: Makes it readable, where neither is wanted.
    """
    if arrow:
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, rows.schema) as writer:
            writer.write_table(rows)
        if arrow != "-":
            storage.write_bytes(arrow, sink.getvalue().to_pybytes())
        else:
            _out(lambda: sys.stdout.buffer.write(sink.getvalue()))
    elif as_json:
        # In ASCII, so that no id can move the cursor or meet a terminal that cannot show it.
        values = [
            {name: jsonable(value) for name, value in row.items()} for row in rows.to_pylist()
        ]
        write_text(json.dumps(values, indent=2) + "\n")
    else:
        write_text(as_text(rows))


def write_text(text: str) -> None:
    """Write text that any terminal can take, as long as somebody reads."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    _out(lambda: sys.stdout.write(text))


def _out(write: Callable[[], Any]) -> None:
    try:
        write()
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader has enough, as `head` has. Without this, Python would complain as it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(STOPPED_BY_READER)


def jsonable(value: Any) -> Any:
    """Return a value as JSON has it: times in ISO 8601, no NaN, decimals and bytes as text."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, (datetime, date)):
        return value.isoformat()
    if isinstance(value, list):
        return [jsonable(one) for one in value]
    if isinstance(value, dict):
        return {name: jsonable(one) for name, one in value.items()}
    if value is None or isinstance(value, (bool, int, str)):
        return value
    return str(value)


def as_text(rows: pa.Table, asked: tuple[str, ...] = ()) -> str:
    """Return rows of a query as a small table for a person.

    Args:
        rows: Whose first column is `creator_id`.
        asked: Columns to show even if they are long.
    """
    if not rows.num_rows:
        return "no creators\n"
    names = [name for name in rows.column_names if name not in LONG or name in asked]
    numbers = {n for n in names[1:] if _is_number(rows.schema.field(n).type)}
    cells = [["", *(HEADINGS.get(name, name) for name in names)]]
    for rank, row in enumerate(rows.to_pylist(), 1):
        cells.append([str(rank), *(_shown(name, row[name]) for name in names)])
    widths = [max(len(line[i]) for line in cells) for i in range(len(cells[0]))]
    right = [True, *(name in numbers for name in names)]
    lines = []
    for line in cells:
        padded = [
            cell.rjust(width) if is_right else cell.ljust(width)
            for cell, width, is_right in zip(line, widths, right, strict=True)
        ]
        lines.append("  ".join(padded).rstrip())
    return "\n".join(lines) + "\n"


def as_records(rows: pa.Table) -> str:
    """Return rows as one block a creator with a line a column; vectors by their length."""
    width = max(len(name) for name in rows.column_names)
    blocks = []
    for row in rows.to_pylist():
        lines = []
        for name, value in row.items():
            if _is_vector(rows.schema.field(name).type):
                text = f"{len(value)} numbers"
            else:
                text = _shown(name, value, most=None)
            lines.append(f"{name:<{width}}  {text}".rstrip() + "\n")
        blocks.append("".join(lines))
    return "\n".join(blocks)


def _shown(name: str, value: Any, most: int | None = MOST_SHOWN) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.{_decimals(name)}f}" if abs(value) < 1e6 else f"{value:.3g}"
    parts = value if isinstance(value, list) else [jsonable(value)]
    text = printable(", ".join(str(part) for part in parts))
    # Of an id, what is left out is what tells it from the next one.
    return text if name == "creator_id" or most is None or len(text) <= most else text[:most] + "…"


def _decimals(name: str) -> int:
    if name.endswith("_pct") or name == "percentile":
        return 1
    return 2 if name in ("theme_consistency", "theme_reliability") else 4


def _is_number(of_type: pa.DataType) -> bool:
    return pa.types.is_floating(of_type) or pa.types.is_integer(of_type)


def _is_vector(of_type: pa.DataType) -> bool:
    return pa.types.is_fixed_size_list(of_type)
