"""A table of a report: the same rows as HTML, Markdown and CSV."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from prefdistill.stages.report import formats

Shown = Literal["text", "count", "score", "percent", "signed", "interval", "signed_interval", "seconds", "usd", "ratio"]
"""How a column's values are written.

text: str. count: a whole number. score: three decimals. percent: a share 0..1. signed: a difference. interval and
signed_interval: (low, high). seconds: time. usd: US dollars. ratio: × 1.12. None is a dash everywhere.
"""

INTERVALS = ("interval", "signed_interval")
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""What a spreadsheet takes for the begin of a formula."""


@dataclass(frozen=True)
class Column:
    """A column: what its head says and how its values are written."""

    title: str
    shown: Shown = "text"


@dataclass(frozen=True)
class Table:
    """Rows of values, with what they mean."""

    name: str
    """The file name of its CSV, without the ending."""
    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Any, ...], ...]
    """Raw values, as the column's `shown` says."""
    note: str = ""
    """A sentence or two on how to read it."""


@dataclass(frozen=True)
class Field:
    """A column as people see it: a value, and with it the interval that stands in the next column."""

    title: str
    shown: Shown
    """How the value is written; of an interval that stands alone, its own."""
    value: int | None
    """Index of the value in a row; None for an interval that stands alone."""
    interval: int | None = None
    """Index of the interval in a row."""
    ends: Shown = "score"
    """How the ends of the interval are written."""

    @property
    def numeric(self) -> bool:
        """Whether its values are numbers."""
        return self.shown != "text"

    def texts(self, row: Sequence[Any]) -> tuple[str, str]:
        """Return the value and the interval as text, each empty where the field has none."""
        value = "" if self.value is None else cell_text(row[self.value], self.shown)
        if self.interval is None:
            return value, ""
        low_high = row[self.interval]
        if low_high is None:
            return value, "" if value else formats.UNKNOWN
        return value, interval_text(low_high, self.ends)


def without_empty(table: Table) -> Table:
    """Return the table without columns in which no row has a value; the first column stays."""
    kept = [
        index for index in range(len(table.columns)) if index == 0 or any(row[index] is not None for row in table.rows)
    ]
    return Table(
        table.name,
        table.title,
        tuple(table.columns[index] for index in kept),
        tuple(tuple(row[index] for index in kept) for row in table.rows),
        table.note,
    )


def columns_of(*columns: tuple[str, Shown]) -> tuple[Column, ...]:
    """Return columns from their titles and how their values are written."""
    return tuple(Column(title, shown) for title, shown in columns)


def fields(table: Table) -> tuple[Field, ...]:
    """Return the columns as people see them: an interval after a number belongs to it."""
    found: list[Field] = []
    for index, column in enumerate(table.columns):
        if column.shown not in INTERVALS:
            found.append(Field(column.title, column.shown, index))
            continue
        before = found[-1] if found else None
        own: Shown = "signed" if column.shown == "signed_interval" else "score"
        if before is not None and before.numeric and before.value == index - 1:
            ends = before.shown if column.shown == "interval" else own
            found[-1] = Field(before.title, before.shown, before.value, index, ends)
        else:
            found.append(Field(column.title, column.shown, None, index, own))
    return tuple(found)


REPORTED = ("Pairs made", "Pairs trained on")
"""Columns of the budgets that a comparison reports and never makes equal."""


def equality(table: Table) -> dict[str, str]:
    """Return "equal", "not equal" or "reported" for each column of numbers, by title; nothing for a table of one row."""
    if len(table.rows) < 2:
        return {}
    numbers = [(each, {each.texts(row)[0] for row in table.rows}) for each in fields(table) if each.numeric]
    unlike = {each.title: "reported" if each.title in REPORTED else "not equal" for each, _ in numbers}
    return {each.title: "equal" if len(texts) == 1 else unlike[each.title] for each, texts in numbers}


def cell_text(value: Any, shown: Shown) -> str:
    """Return a value as a person reads it; what is not known, or not finite, is a dash."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return formats.UNKNOWN
    if shown in INTERVALS:
        return interval_text(value, "signed" if shown == "signed_interval" else "score")
    if isinstance(value, str) or shown == "text":
        return str(value)
    if shown == "score" and 0.0 < value < 0.0005:
        return "< 0.001"
    writers = {
        "count": formats.plain_count,
        "score": formats.number,
        "percent": formats.percent,
        "signed": formats.signed,
        "seconds": formats.seconds,
        "usd": formats.usd,
        "ratio": lambda amount: f"× {formats.number(amount, 2)}",
    }
    return writers[shown](value)


def interval_text(ends: Sequence[float | None], shown: Shown) -> str:
    """Return an interval as a person reads it: `0.61 to 0.69`."""
    low, high = (cell_text(end, shown) for end in ends)
    if shown == "percent":
        low = low.removesuffix(formats.UNIT)
    return f"{low} to {high}"


def table_csv(table: Table) -> str:
    """Return the table as CSV: raw values, an interval as two columns, nothing where a value is not known.

    Text that a spreadsheet would take for a formula is quoted with an apostrophe.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(_unique(_safe(name) for name in _heads(table)))
    for row in table.rows:
        cells: list[str] = []
        for column, value in zip(table.columns, row, strict=True):
            if column.shown in INTERVALS:
                ends = (None, None) if value is None else value
                cells += [_raw(end) for end in ends]
            else:
                cells.append(_raw(value))
        writer.writerow(cells)
    return out.getvalue()


def _heads(table: Table) -> Iterator[str]:
    """Yield the names of the CSV's columns; an interval is named after the value that it bounds."""
    bounded = {field.interval: field.title for field in fields(table) if field.interval is not None}
    for index, column in enumerate(table.columns):
        if column.shown in INTERVALS:
            yield f"{bounded[index]}, low"
            yield f"{bounded[index]}, high"
        else:
            yield column.title


def _unique(names: Iterator[str]) -> list[str]:
    found: list[str] = []
    for name in names:
        again = sum(each == name or each.startswith(f"{name} (") for each in found)
        found.append(f"{name} ({again + 1})" if again else name)
    return found


def _raw(value: Any) -> str:
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return ""
    return _safe(value) if isinstance(value, str) else f"{value:.12g}" if isinstance(value, float) else str(value)


def _safe(words: str) -> str:
    words = words.replace("\x00", "\u2400")
    return f"'{words}" if words.startswith(_FORMULA) else words
