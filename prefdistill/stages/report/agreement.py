"""The judge against people: the tables of `agreement.json`, made safe to lay out whatever the file holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

MOST_ROWS = 200
LONGEST_CELL = 300


@dataclass(frozen=True)
class AgreementTable:
    """One table as text."""

    title: str
    columns: tuple[tuple[str, bool], ...]
    """Name, and whether its values are numbers."""
    rows: tuple[tuple[str, ...], ...]
    note: str
    left_out: int
    """Rows beyond those shown."""


@dataclass(frozen=True)
class Agreement:
    """What the section shows."""

    lead: str
    warnings: tuple[str, ...]
    tables: tuple[AgreementTable, ...]


def read_agreement(given: Mapping[str, Any] | None) -> Agreement | None:
    """Return what can be shown of `agreement.json`; None where there is none."""
    if given is None:
        return None
    warnings = [str(given["error"])] if given.get("error") else _texts(given.get("warnings"))
    return Agreement(_lead(given), tuple(_cut(each) for each in warnings), tuple(agreement_tables(given)))


def _lead(given: Mapping[str, Any]) -> str:
    """Say who was measured, on what, against whom; empty where the file does not."""
    parts = [str(given["judge"])] if isinstance(given.get("judge"), str) else []
    counts = [f"{given[name]:,} {name}" for name in ("pairs", "prompts") if isinstance(given.get(name), int)]
    parts += [" of ".join(counts)] if counts else []
    people = _texts(given.get("people"))
    parts += [f"labelled by {', '.join(people)}"] if people else []
    return _cut(", ".join(parts))


def _texts(value: Any) -> list[str]:
    return [str(each) for each in value] if isinstance(value, list) else []


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST_CELL else f"{text[:LONGEST_CELL]}…"


def agreement_tables(agreement: Mapping[str, Any] | None) -> list[AgreementTable]:
    """Return the tables that can be shown; what is no table is left out."""
    tables = (agreement or {}).get("tables")
    return [_table(each) for each in tables if isinstance(each, Mapping)] if isinstance(tables, list) else []


def _table(given: Mapping[str, Any]) -> AgreementTable:
    names, rows = given.get("columns"), given.get("rows")
    columns = [str(name) for name in names] if isinstance(names, list) else []
    values = [list(row) for row in rows if isinstance(row, list)] if isinstance(rows, list) else []
    width = max([len(columns), *(len(row) for row in values)])
    columns += [""] * (width - len(columns))
    values = [row + [None] * (width - len(row)) for row in values]
    numeric = [
        index > 0 and any(_is_number(row[index]) for row in values) and all(_is_plain(row[index]) for row in values)
        for index in range(width)
    ]
    return AgreementTable(
        title=str(given.get("title", "")),
        columns=tuple(zip(columns, numeric, strict=True)),
        rows=tuple(tuple(_shown(value) for value in row) for row in values[:MOST_ROWS]),
        note=str(given.get("note") or ""),
        left_out=max(0, len(values) - MOST_ROWS),
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_plain(value: Any) -> bool:
    """Whether a value may stand in a column of numbers: a number, nothing, or an interval or share as short text."""
    return value is None or _is_number(value) or (isinstance(value, str) and value[:1] in "0123456789-−–.")


def _shown(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if value.is_integer() and abs(value) >= 1000 else f"{value:.3f}".replace("-", "−")
    return _cut(str(value))
