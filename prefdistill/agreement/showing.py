"""The result of the judge meter, shown: on the terminal, as JSON, as a page of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from prefdistill.agreement.asking import Answered
from prefdistill.agreement.criteria import criteria_figures
from prefdistill.agreement.measuring import measure
from prefdistill.agreement.tables import Cell, summary
from prefdistill.run import write_json, write_text

JSON, PAGE = "agreement.json", "agreement.html"
"""What is written into a run folder."""


def measure_agreement(answered: Answered, labels: Sequence[str], repeats: int = 1) -> dict[str, Any]:
    """Return what agreement.json holds.

    Raises:
        LabelError: labels speak of criteria or levels that the rubric does not have.
    """
    criteria = criteria_figures(answered.labelled, answered.judged)
    measured = measure(answered.labelled, answered.judged, answered.options)
    return summary(answered.judge, labels, measured, criteria, answered.notes, answered.usage, repeats)


def show(result: Mapping[str, Any], console: Console) -> None:
    """Print the tables, and what they mean at the end, where it is read."""
    _print(console, f"judge    {result['judge']}")
    _print(
        console,
        f"labels   {', '.join(result['labels'])}: {counted(result['pairs'], 'pair', 'pairs')} on "
        f"{counted(result['prompts'], 'prompt', 'prompts')} by {counted(len(result['people']), 'person', 'people')}",
    )
    for table in result["tables"]:
        console.print()
        _print(console, table["title"], "bold")
        shown = Table(box=None, pad_edge=False, header_style="dim")
        for number, name in enumerate(table["columns"]):
            shown.add_column(Text(name), justify="left" if number == 0 else "right", overflow="fold")
        for row in table["rows"]:
            shown.add_row(*(Text(cell_text(cell)) for cell in row))
        console.print(shown)
        if table["note"]:
            _print(console, table["note"], "dim")
    console.print()
    for note in result["notes"]:
        _print(console, f"note: {note}")
    for warning in result["warnings"]:
        _print(console, f"warning: {warning}", "yellow")
    if not result["warnings"]:
        _print(console, "no warnings")


def counted(number: int, one: str, several: str) -> str:
    """Return a number with its noun."""
    return f"{number} {one if number == 1 else several}"


def _print(console: Console, text: str, style: str | None = None) -> None:
    console.print(text, markup=False, highlight=False, style=style, soft_wrap=True)


def cell_text(cell: Cell) -> str:
    """Return a cell as a person reads it: numbers with three decimals, counts as they are, nothing as a dash."""
    if cell is None:
        return "–"
    if isinstance(cell, float):
        return f"{cell:.3f}" if abs(cell) >= 0.001 or cell == 0 else f"{cell:.6f}"
    return str(cell)


def write_result(result: Mapping[str, Any], json_path: Path | None, page_path: Path | None) -> list[Path]:
    """Write the result as JSON and as a page where a path is given; return what was written."""
    written = []
    if json_path is not None:
        write_json(json_path, result)
        written.append(json_path)
    if page_path is not None:
        write_text(page_path, render_page(result))
        written.append(page_path)
    return written


def render_page(result: Mapping[str, Any]) -> str:
    """Return the page, whole and self-contained; every text in it is escaped."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("prefdistill.agreement", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters["cell"] = cell_text
    environment.filters["counted"] = counted
    environment.tests["share"] = lambda cell: isinstance(cell, float) and 0 <= cell <= 1
    return environment.get_template("page.html.jinja").render(result=result)
