"""The page of a comparison: the verdict, what limits it, the tables, the charts, and where each run's report is."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import quote

from prefdistill.stages.report.charts import render_chart
from prefdistill.stages.report.comparison import ComparisonReport, Note
from prefdistill.stages.report.comparison_charts import comparison_charts
from prefdistill.stages.report.embedding import browser_parts
from prefdistill.stages.report.environment import page_environment
from prefdistill.stages.report.formats import UNKNOWN
from prefdistill.stages.report.table_view import TableView, criteria_overview, views, with_equality
from prefdistill.stages.report.tables import Table, fields
from prefdistill.stages.report.verdict import Figure

PLACES = ("pairs", "drafts", "seeds", "budgets", "cost", "criteria", "rounds", "findings")
"""Names of the tables that the page has a place for, besides the main one."""
BASE, TEACHER = "base", "teacher"
PROMINENT = ("refused", "warning")


@dataclass(frozen=True)
class _RunLink:
    """Where a run's own report is."""

    seed: int
    address: str


def render_comparison(report: ComparisonReport, texts: bool = True) -> str:
    """Return the comparison's report as one HTML document; `texts=False` leaves out prompts, drafts and reasons."""
    looks = looks_of(report)
    main, others = report.tables[:1], report.tables[1:]
    placed = {name: [found for each in others if each.name == name for found in _views(each, looks)] for name in PLACES}
    criteria = next((each for each in others if each.name == "criteria"), None)
    page = (
        page_environment()
        .get_template("comparison.html.jinja")
        .render(
            report=report,
            texts=texts,
            browser=browser_parts(report.browser, texts),
            figures=arm_figures(report),
            limits=[each for each in _sorted(report.notes) if each.level in PROMINENT],
            notes=[each for each in report.notes if each.level not in PROMINENT],
            main=[found for each in main for found in views(each, looks)],
            placed=placed,
            criteria=criteria and criteria_overview(criteria, looks, BASE, TEACHER),
            known_teacher=criteria is not None and any(column.title == TEACHER for column in criteria.columns),
            others=[found for each in others if each.name not in PLACES for found in views(each, looks)],
            charts=[(chart, render_chart(chart)) for chart in comparison_charts(report)],
            runs={arm.label: _links(report, arm.label) for arm in report.arms},
        )
    )
    return page.encode("utf-8", "replace").decode()


def looks_of(report: ComparisonReport) -> dict[str, int]:
    """Return the look of every arm by its label, and the base's."""
    return {BASE: 0, **{arm.label: arm.look for arm in report.arms}}


def arm_figures(report: ComparisonReport) -> list[tuple[Figure, int]]:
    """Return the head's numbers: of base and arms in the main table the first score, with the look of each."""
    if not report.tables:
        return []
    table, looks = report.tables[0], looks_of(report)
    shown = fields(table)
    value = next((each for each in shown if each.shown in ("score", "percent")), None)
    if value is None or not table.rows:
        return []
    found = []
    for row in table.rows:
        if row[0] not in looks:
            continue
        words, interval = value.texts(row)
        bounds = interval.replace(" ", "\u00a0")
        note = f"{bounds}, {value.title}" if interval not in ("", UNKNOWN) else value.title
        found.append((Figure(str(row[0]), words, note), looks[row[0]]))
    return found


def _views(table: Table, looks: dict[str, int]) -> list[TableView]:
    found = views(table, looks)
    return [with_equality(each, table) for each in found] if table.name == "budgets" else found


def _sorted(notes: tuple[Note, ...]) -> list[Note]:
    """Return what is refused before what is warned of, each in the order given."""
    return sorted(notes, key=lambda note: PROMINENT.index(note.level) if note.level in PROMINENT else len(PROMINENT))


def _links(report: ComparisonReport, label: str) -> list[_RunLink]:
    """Return the runs of an arm."""
    return [_RunLink(curve.seed, _address(curve.report)) for curve in report.curves if curve.arm == label]


def _address(path: str) -> str:
    """Return a path as an address relative to the page, whatever it holds: it names no other host and no script."""
    return "" if path.startswith("//") else quote(path.encode("utf-8", "replace"), safe="/")
