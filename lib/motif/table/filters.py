"""Typed filters: `image_count>=12` becomes an expression whose value has the column's type.

    TERM   = COLUMN (= | != | > | >= | < | <=) VALUE  |  COLUMN [not] in VALUE, VALUE, ...
    VALUE  = anything without , = < > ! ( ) ' "       |  "anything"  |  'anything'

Several terms must all hold. A row whose value is unknown (null) meets no term, not even `!=`.
Dates are ISO 8601, and UTC where they name no zone. Nothing of a term becomes SQL: the column is
one of the table's and the value a literal of its type.
"""

import difflib
import math
import operator
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal, InvalidOperation
from functools import reduce
from typing import Any

import lance
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import types
from pyarrow.compute import Expression

from motif.errors import InputError

Where = str | Expression | Sequence[str | Expression]
"""A term, an expression of `pyarrow.compute`, or several, which must all hold."""

Literal = bool | int | float | str | date | datetime | Decimal

_COMPARISONS: dict[str, Callable[[Any, Any], Any]] = {
    "=": operator.eq,
    "==": operator.eq,
    "!=": operator.ne,
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
}
_TERM = re.compile(
    r"\s*(?P<column>.+?)\s*(?P<sign>==|!=|>=|<=|=|>|<|\s(?:not\s+)?in\s)\s*(?P<value>.*?)\s*",
    re.DOTALL | re.IGNORECASE,
)
_QUOTED = r"""'(?:[^']|'')*'|"(?:[^"]|"")*\""""
_VALUE = re.compile(rf"""\s*({_QUOTED}|[^,=<>!()'"]+?)\s*(,|\Z)""", re.DOTALL)


@dataclass(frozen=True)
class Filter:
    """What rows of a query must be."""

    expression: Expression | None = None
    sql: str = ""
    ours: bool = True
    """Whether the expression is made of terms that were checked, so that it cannot be wrong."""

    @classmethod
    def of(cls, where: Where, where_sql: str, schema: pa.Schema) -> "Filter":
        """Parse a filter.

        Args:
            where: Terms, and expressions, which are taken as they are.
            where_sql: In its place, Lance's SQL from a trusted caller.
            schema: Of the table.

        Raises:
            InputError: A term does not parse, names no column of the table, or its value is not of
                the column's type; or both are given.
        """
        parts = [where] if isinstance(where, str) or not isinstance(where, Sequence) else where
        ours = all(isinstance(part, str) for part in parts)
        found = [
            _parse_term(part, schema) if isinstance(part, str) else part
            for part in parts
            if not isinstance(part, str) or part
        ]
        if found and where_sql:
            raise InputError("--where and --where-sql: pass one of them; SQL can say both")
        return cls(reduce(operator.and_, found) if found else None, where_sql, ours)

    def __bool__(self) -> bool:
        """Return whether it leaves anything out."""
        return self.expression is not None or bool(self.sql)

    def scan(self, dataset: lance.LanceDataset, **query: Any) -> pa.Table:
        """Return what a query of Lance's finds among the rows that meet the filter.

        Raises:
            InputError: The table does not understand the SQL or the expression.
        """
        chosen = self.sql or self.expression
        try:
            return dataset.scanner(filter=chosen, prefilter=True, **query).to_table()
        except (ValueError, RuntimeError, OSError) as error:
            if not self or (self.ours and not self.sql):
                raise
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
            told = f"--where-sql {self.sql!r}" if self.sql else f"where {self.expression}"
            raise InputError(f"{told}: {reason}") from error


def filterable(schema: pa.Schema) -> list[str]:
    """Return the columns that terms may name: those with one value a row."""
    return [field.name for field in schema if _reader_of(field.type) is not None]


def close_to(name: str, known: Iterable[str]) -> str:
    """Return ` (close: ...)` for a name that may be mistyped, else nothing."""
    by_lower = {other.lower(): other for other in known}
    close = difflib.get_close_matches(name.lower(), by_lower, n=3, cutoff=0.7)
    return f" (close: {', '.join(by_lower[one] for one in close)})" if close else ""


def _parse_term(term: str, schema: pa.Schema) -> Expression:
    match = _TERM.fullmatch(term)
    if match is None:
        raise InputError(
            f"--where {term!r}: expected a column, a comparison and a value, as in"
            ' "image_count>=12", "country=DE" or "category in fashion,travel"'
        )
    column, value = match["column"], match["value"]
    sign = " ".join(match["sign"].lower().split())
    columns = filterable(schema)
    if column not in columns:
        raise InputError(
            f"--where {term!r}: {column!r} is no column to filter by{close_to(column, columns)};"
            f" these are: {', '.join(columns)}"
        )
    texts = _split_values(value, term)
    if sign not in ("in", "not in") and len(texts) != 1:
        raise InputError(
            f'--where {term!r}: one value was expected; use "{column} in {value}" for any of'
            " several, and quotes around a comma that belongs to a value"
        )
    of_type = schema.field(column).type
    literals = [_read(text, of_type, term) for text in texts]
    if sign in _COMPARISONS:
        return _COMPARISONS[sign](pc.field(column), pc.scalar(literals[0]))
    found = pc.field(column).isin(pa.array(literals))
    # Arrow says that an unknown value is in no list, so that it would meet `not in`.
    return found if sign == "in" else ~found & pc.field(column).is_valid()


def _split_values(text: str, term: str) -> list[str]:
    """Return the values between commas, without their quotes."""
    values, position, more = [], 0, True
    while more:
        match = _VALUE.match(text, position)
        if match is None:
            found = (
                f"a value was expected at {text[position:]!r}" if text[position:] else "no value"
            )
            raise InputError(
                f"--where {term!r}: {found}; one with any of , = < > ! ( ) ' belongs in double"
                " quotes (these are terms, not SQL: that is --where-sql)"
            )
        value = match[1]
        if value[0] in "'\"":
            value = value[1:-1].replace(value[0] * 2, value[0])
        values.append(value)
        position, more = match.end(), match[2] == ","
    return values


def _read(text: str, of_type: pa.DataType, term: str) -> Literal:
    reader = _reader_of(of_type)
    assert reader is not None  # the column is one of `filterable`
    read, wanted = reader
    try:
        return read(text)
    except (ValueError, OverflowError, InvalidOperation, pa.ArrowInvalid):
        raise InputError(f"--where {term!r}: {text!r} is not {wanted}") from None


def _reader_of(of_type: pa.DataType) -> tuple[Callable[[str], Literal], str] | None:
    """Return how a column's values are read and what they are; None for lists and the like.

    Lance takes no expression of unsigned and large types; a publish writes none.
    """
    if types.is_dictionary(of_type):
        return _reader_of(of_type.value_type)
    if types.is_string(of_type):
        return str, "text"
    if types.is_boolean(of_type):
        return _read_bool, "true or false"
    if types.is_signed_integer(of_type):
        # Through Arrow, which refuses what the column's width does not hold.
        return lambda text: pa.scalar(int(text), of_type).as_py(), f"a whole number ({of_type})"
    if types.is_floating(of_type):
        return lambda text: _read_float(text, of_type), f"a number ({of_type})"
    if types.is_decimal(of_type):
        return Decimal, "a decimal number"
    if types.is_date(of_type):
        return date.fromisoformat, "a date such as 2026-01-31"
    if types.is_timestamp(of_type):
        return _read_time, "a time such as 2026-01-31 or 2026-01-31T12:00:00+01:00"
    return None


def _read_bool(text: str) -> bool:
    value = {"true": True, "false": False}.get(text.lower())
    return _refuse(text) if value is None else value


def _read_float(text: str, of_type: pa.DataType) -> float:
    # As the column holds it: a float32 is never equal to the double of the same digits.
    with np.errstate(over="ignore"):
        value = float(of_type.to_pandas_dtype()(float(text)))
    return value if math.isfinite(value) else _refuse(text)


def _read_time(text: str) -> datetime:
    value = datetime.fromisoformat(text)
    return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def _refuse(text: str) -> Any:
    raise ValueError(text)
