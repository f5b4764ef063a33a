"""What a plan says, before it is Markdown or HTML: chapters of paragraphs, entries, arithmetic, tables and charts."""

from __future__ import annotations

from dataclasses import dataclass

from prefdistill.stages.report.charts import Chart
from prefdistill.stages.report.tables import Table

OPEN = "not decided yet"
"""What stands where nobody has decided anything."""


@dataclass(frozen=True)
class Paragraph:
    """One paragraph of plain text."""

    text: str
    warns: bool = False
    """Whether a reader must not miss it."""


@dataclass(frozen=True)
class Entry:
    """One decided or open thing."""

    label: str
    value: str | None
    """None: not decided yet."""
    note: str = ""
    """Where it is known from, or what follows from it."""


@dataclass(frozen=True)
class Entries:
    """Labels and values."""

    entries: tuple[Entry, ...]


@dataclass(frozen=True)
class Bullets:
    """A list of sentences."""

    items: tuple[str, ...]


@dataclass(frozen=True)
class Steps:
    """Arithmetic, one step a line, shown as it is written."""

    lines: tuple[str, ...]


@dataclass(frozen=True)
class Heading:
    """The begin of a part of a chapter."""

    text: str


@dataclass(frozen=True)
class Picture:
    """A chart; Markdown, which cannot show it, leaves it out."""

    chart: Chart
    note: str = ""


Block = Paragraph | Entries | Bullets | Steps | Heading | Table | Picture


@dataclass(frozen=True)
class OpenPoint:
    """One thing that stands between the plan and its sign-off."""

    key: str
    """Dotted key of the plan, or the place where it is decided."""
    what: str
    """What is not decided."""


@dataclass(frozen=True)
class Chapter:
    """A chapter of the plan."""

    name: str
    """Its anchor."""
    title: str
    blocks: tuple[Block, ...]
    open: tuple[OpenPoint, ...] = ()
