"""A check shown: on the terminal, as Markdown, and as one self-contained page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from jinja2 import ChoiceLoader, PackageLoader
from rich.console import Console
from rich.table import Table as Grid
from rich.text import Text

from prefdistill import __version__
from prefdistill.drift.report import DriftReport
from prefdistill.drift.tables import CHANGED, SMALL, drift_charts, drift_tables
from prefdistill.stages.report.charts import render_chart
from prefdistill.stages.report.embedding import content_policy
from prefdistill.stages.report.environment import page_environment
from prefdistill.stages.report.examples import visible
from prefdistill.stages.report.formats import percent
from prefdistill.stages.report.markdown import escape_markdown, markdown_table
from prefdistill.stages.report.table_view import views
from prefdistill.stages.report.tables import Table, fields
from prefdistill.stages.report.verdict import Figure

ON_TERMINAL = ("new", "shifts", "charts", "batches")
WITH_DRIFT = ("words", "examples")
"""Tables that are printed, and those that are only where prompts drifted; the page has all."""


def show(report: DriftReport, console: Console, written: Mapping[str, Path]) -> None:
    """Print the verdict first, then what it rests on, what to do, and where everything is."""

    def say(text: str = "") -> None:
        console.print(visible(text), markup=False, highlight=False, soft_wrap=True)

    measured = report.measured
    new_prompts = any(each.drifted for each in measured.shifts) or any(each.drifted for each in measured.excesses)
    say(report.headline)
    for finding in report.findings:
        say(f"  {finding.text}")
    for table in drift_tables(report):
        if table.name in (*ON_TERMINAL, *(WITH_DRIFT if new_prompts else ())):
            say()
            console.print(_grid(_present(table)))
    say()
    for step in report.next_steps:
        say(f"next: {step}")
    for note in report.notes:
        say(f"note: {note}")
    for what, where in written.items():
        say(f"{what:<10}{where}")


def _present(table: Table) -> Table:
    """Return the table of kinds without those that the log has none of; any other as it is."""
    if table.name != "new":
        return table
    there = tuple(row for row in table.rows if row[3])
    return replace(table, rows=there or table.rows[:1])


def _grid(table: Table) -> Grid:
    grid = Grid(
        box=None, pad_edge=False, header_style="dim", title=table.title, title_justify="left", title_style="bold"
    )
    shown = fields(table)
    for each in shown:
        grid.add_column(each.title, justify="right" if each.numeric else "left", overflow="fold", no_wrap=each.numeric)
    for row in table.rows:
        cells = []
        for each in shown:
            value, interval = each.texts(row)
            cells.append(f"{value} ({interval})" if value and interval else value or interval)
        style = {CHANGED: "yellow", SMALL: "cyan"}.get(cells[-1], "")
        grid.add_row(*(Text(visible(each)) for each in cells), style=style)
    return grid


def render_markdown(report: DriftReport) -> str:
    """Return the report as GitHub's Markdown, every text of the log escaped."""
    lines = [f"### {escape_markdown(report.headline)}", ""]
    lines += [f"- {escape_markdown(each.text)}" for each in report.findings]
    lines += ["", *(f"- {escape_markdown(each)}" for each in report.next_steps), ""]
    for table in drift_tables(report):
        lines += [f"#### {escape_markdown(table.title)}", "", *markdown_table(table)]
    lines += [f"- {escape_markdown(each)}" for each in report.notes]
    logs = ", ".join(escape_markdown(each) for each in report.logs)
    lines += ["", f"{escape_markdown(report.run)}, {logs}, prefdistill {escape_markdown(__version__)}."]
    return "\n".join(lines).encode("utf-8", "replace").decode() + "\n"


def render_page(report: DriftReport) -> str:
    """Return the report as one HTML document that loads nothing."""
    environment = page_environment()
    assert environment.loader is not None
    environment.loader = ChoiceLoader([environment.loader, PackageLoader("prefdistill.drift", "")])
    page = environment.get_template("drift_page.html.jinja").render(
        report=report,
        policy=content_policy(),
        figures=_figures(report),
        charts=[(chart, render_chart(chart)) for chart in drift_charts(report)],
        tables=[view for table in drift_tables(report) for view in views(table, {})],
        version=__version__,
    )
    return page.encode("utf-8", "replace").decode()


def _figures(report: DriftReport) -> list[Figure]:
    """Return the head's numbers."""
    found = [Figure("Distinct requests", f"{report.distinct:,}", f"of {report.asked:,}")]
    found.append(Figure("Training prompts", f"{report.training:,}", ""))
    unlike = next((each for each in report.measured.excesses if each.kind.name == "unlike anything trained on"), None)
    if unlike is not None:
        found.append(Figure("Unlike training", percent(unlike.now), f"training {percent(unlike.before)}"))
    for each in report.measured.charts:
        share = each.control.name == "fallback share"
        value = percent(each.control.overall) if share else f"{each.control.overall:.3f}"
        center = percent(each.control.center) if share else f"{each.control.center:.3f}"
        found.append(Figure(each.control.name.capitalize(), value, f"expected {center}"))
    return found
