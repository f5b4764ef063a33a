"""Tables laid out for a page: values with their intervals, bars, chips and the signs of the arms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from markupsafe import Markup

from prefdistill.stages.report.marks import Mark, render_range, render_spread
from prefdistill.stages.report.tables import Field, Table, cell_text, equality, fields

CHIPS = {"equal": "tie", "not equal": "loss", "reported": "tie"}
"""Cells that are shown as a chip, and its style."""
LONG_TEXT = 44
"""A column with a longer text is given room and wraps."""
PAGE, PICTURE, LETTER = 1050.0, 135.0, 7.5
"""Pixels of a page's width, of a bar and of a letter; a table that is wider becomes several."""
MOST_NUMBERS = 6
"""With more arms the picture of a criterion stands alone; the numbers are in the table of criteria."""
MANY_ROWS = 40
"""A longer table is folded."""


@dataclass(frozen=True)
class Cell:
    """One cell of a page's table."""

    text: str
    interval: str = ""
    look: int | None = None
    """The sign of the arm that it names."""
    chip: str = ""
    picture: Markup | None = None


@dataclass(frozen=True)
class Head:
    """The head of a column."""

    title: str
    left: bool
    words: bool = False
    """Whether its texts are long and wrap."""
    look: int | None = None


@dataclass(frozen=True)
class TableView:
    """A table ready to lay out."""

    title: str
    note: str
    heads: tuple[Head, ...]
    rows: tuple[tuple[Cell, ...], ...]
    foot: tuple[Cell, ...] = ()
    stacked: bool = False
    """Whether intervals stand under their values, to save width."""

    @property
    def folded(self) -> bool:
        """Whether it is so long that it is shown on demand."""
        return len(self.rows) > MANY_ROWS


def views(table: Table, looks: Mapping[str, int]) -> list[TableView]:
    """Lay a table out; `looks` are those of the arms by label, and of the base.

    A wide one becomes several, each with the leading names, so that it fits a page; its note stands under the last.
    """
    shown = fields(table)
    leading = _leading(shown)
    names, rest = shown[:leading], shown[leading:]
    pictured = next((each for each in shown if each.shown == "signed" and each.interval is not None), None)
    stacked = sum(_widths(shown, table, pictured, False)) > PAGE
    widths = _widths(shown, table, pictured, stacked)
    parts = _parts(rest, widths[leading:], PAGE - sum(widths[:leading]))
    return [
        _laid_out(
            table,
            (*names, *part),
            pictured,
            looks,
            table.title if index == 0 else "",
            table.note if index == len(parts) - 1 else "",
            stacked,
        )
        for index, part in enumerate(parts)
    ]


def _leading(shown: Sequence[Field]) -> int:
    """Return how many columns name a row: texts, a round or a seed that come first, three at most, one at least."""
    others = (index for index, each in enumerate(shown) if each.numeric and each.title not in ("Round", "Seed"))
    return min(3, max(1, next(others, 1)))


def _widths(shown: Sequence[Field], table: Table, pictured: Field | None, stacked: bool) -> list[float]:
    """Return about how wide each column is on a page, in pixels."""
    found = []
    for field in shown:
        texts = [field.texts(row) for row in table.rows]
        values = max((len(value) for value, _ in texts), default=0) * LETTER
        intervals = max((len(interval) for _, interval in texts), default=0) * 0.87 * LETTER
        inside = max(values, intervals) if stacked else values + intervals + LETTER * (intervals > 0)
        head = max(map(len, field.title.split()), default=0) * LETTER
        found.append(max(min(inside, LONG_TEXT * LETTER), head) + 16 + PICTURE * (field is pictured))
    return found


def _parts(rest: Sequence[Field], widths: Sequence[float], room: float) -> list[tuple[Field, ...]]:
    """Divide columns into as few parts as have room, the widest as narrow as it can be."""
    room = max(room, *widths, 0.0)
    fewest = _filled(rest, widths, room)
    narrow = max(widths, default=0.0)
    while narrow < room:
        found = _filled(rest, widths, narrow)
        if len(found) == len(fewest):
            return found
        narrow += 10.0
    return fewest


def _filled(rest: Sequence[Field], widths: Sequence[float], room: float) -> list[tuple[Field, ...]]:
    """Divide columns into parts, each filled as far as it has room."""
    found: list[tuple[Field, ...]] = [()]
    filled = 0.0
    for field, width in zip(rest, widths, strict=True):
        if found[-1] and filled + width > room:
            found.append(())
            filled = 0.0
        found[-1] = (*found[-1], field)
        filled += width
    return found


def _laid_out(
    table: Table,
    shown: Sequence[Field],
    pictured: Field | None,
    looks: Mapping[str, int],
    title: str,
    note: str,
    stacked: bool,
) -> TableView:
    scale = _scale(table, pictured)
    heads: list[Head] = []
    for each in shown:
        heads.append(_head(each, table, looks))
        if each is pictured and scale is not None:
            heads.append(Head("", True))
    rows = []
    for row in table.rows:
        cells = []
        for each in shown:
            cells.append(_cell(each, row, looks))
            if each is pictured and scale is not None:
                cells.append(Cell("", picture=_bar(each, row, scale)))
        rows.append(tuple(cells))
    return TableView(title, note, tuple(heads), tuple(rows), stacked=stacked)


def with_equality(view: TableView, table: Table) -> TableView:
    """Add a last row that says of each column of numbers whether they are equal."""
    words = equality(table)
    foot = (Cell(words.get(head.title, ""), chip=CHIPS.get(words.get(head.title, ""), "")) for head in view.heads)
    return replace(view, foot=tuple(foot)) if words else view


def criteria_overview(table: Table, looks: Mapping[str, int], base: str, best: str) -> TableView | None:
    """Return a row a criterion with a picture: the base, every arm, and a tick for `best` on a track from 0 to 1.

    The table has a row a criterion and arm, with columns titled Criterion, Arm, `base`, After and perhaps `best`; None
    where it has others.
    """
    titles = {column.title: index for index, column in enumerate(table.columns)}
    if not {"Criterion", "Arm", base, "After"} <= titles.keys():
        return None
    found: dict[str, dict[str, Any]] = {}
    for row in table.rows:
        marks = found.setdefault(row[titles["Criterion"]], {base: row[titles[base]]})
        marks[row[titles["Arm"]]] = row[titles["After"]]
        marks[best] = row[titles[best]] if best in titles else None
    own = [label for label in looks if any(label in marks for marks in found.values())]
    known = any(marks[best] is not None for marks in found.values())
    shown = [*own, *([best] if known else [])] if len(own) <= MOST_NUMBERS else []
    heads = [Head("Criterion", True), Head("0 to 1", True)]
    heads += [Head(label, False, look=looks.get(label)) for label in shown]
    rows = []
    for name, marks in found.items():
        cells = [Cell(cell_text(marks.get(label), "score")) for label in shown]
        picture = render_spread(
            [Mark(label, float(marks[label]), looks[label]) for label in own if _is_share(marks.get(label))],
            float(marks[best]) if _is_share(marks[best]) else None,
        )
        rows.append((Cell(name.replace("_", " ")), Cell("", picture=picture), *cells))
    return TableView("", "", tuple(heads), tuple(rows))


def _is_share(value: Any) -> bool:
    return isinstance(value, (int, float)) and 0.0 <= value <= 1.0


def _head(field: Field, table: Table, looks: Mapping[str, int]) -> Head:
    left = not field.numeric or field.interval is not None
    index = field.value if field.value is not None else field.interval
    long = not field.numeric and any(len(str(row[index or 0] or "")) > LONG_TEXT for row in table.rows)
    return Head(field.title, left, long, looks.get(field.title))


def _cell(field: Field, row: tuple[Any, ...], looks: Mapping[str, int]) -> Cell:
    value, interval = field.texts(row)
    if field.numeric:
        return Cell(value, interval)
    return Cell(value, look=looks.get(value), chip=CHIPS.get(value, ""))


def _scale(table: Table, field: Field | None) -> tuple[float, float] | None:
    """Return the ends that all intervals of a column fit in, zero among them."""
    if field is None or field.interval is None:
        return None
    ends = [end for row in table.rows if row[field.interval] is not None for end in row[field.interval]]
    known = [0.0, *(end for end in ends if end is not None)]
    return (min(known), max(known)) if max(known) > min(known) else None


def _bar(field: Field, row: tuple[Any, ...], scale: tuple[float, float]) -> Markup | None:
    ends = None if field.interval is None else row[field.interval]
    if ends is None or None in ends:
        return None
    low, high = ends
    return render_range(None if field.value is None else row[field.value], low, high, scale)
