"""A report as Markdown for a pull request: the verdict, what limits it, and the tables; no prompt, draft or HTML.

Names come from recipes and rubrics, so every piece of text is escaped: it cannot make a link, a mention, a table or HTML.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace

from prefdistill.records import RoundResult, rounds_text
from prefdistill.stages.report.comparison import ComparisonReport
from prefdistill.stages.report.data import ReportData
from prefdistill.stages.report.examples import visible
from prefdistill.stages.report.run_tables import run_tables
from prefdistill.stages.report.tables import Table, equality, fields
from prefdistill.stages.report.verdict import figures, headline, trust

MOST_FIELDS = 12
"""Columns of a Markdown table; what is beyond is in its CSV."""
MOST_ROWS = 60
RUN_TABLES = ("test", "rounds", "criteria", "findings", "cost")
SKIPPED = ("drafts", "rounds")
"""Tables of a comparison that a pull request does without."""

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>|~#$])")
_CALLS = re.compile(r"(?i)([@#](?=\w)|\bgh(?=-\d)|\b(?:https?|ftp|mailto)(?=:)|\bwww(?=\.))")
"""What GitHub turns into a mention, a reference or a link, whether or not it is escaped."""
_NOTHING = "\u200b"
"""A space without width, which stops that."""


def render_markdown(report: ReportData | ComparisonReport) -> str:
    """Return the report of a run, or of a comparison, as GitHub's Markdown."""
    lines = _comparison(report) if isinstance(report, ComparisonReport) else _run(report)
    return "\n".join(lines).rstrip().encode("utf-8", "replace").decode() + "\n"


def escape_markdown(text: str) -> str:
    """Return text that Markdown shows as it stands, on one line: no formatting, link, mention, reference or HTML."""
    words = _CALLS.sub(rf"\1{_NOTHING}", " ".join(visible(text).split()))
    return _SPECIAL.sub(r"\\\1", words.replace("&", "&amp;"))


def escape_paragraph(text: str) -> str:
    """Return text that may begin a line: it makes no list and no heading."""
    words = re.sub(r"^([-+=])", r"\\\1", escape_markdown(text))
    return re.sub(r"^(\d+)([.)])(?=\s|$)", r"\1\\\2", words)


def markdown_table(table: Table) -> list[str]:
    """Return a table as lines of GitHub's Markdown; an interval stands in brackets after its value."""
    if not table.rows:
        return []
    shown, left_out = fields(table)[:MOST_FIELDS], fields(table)[MOST_FIELDS:]
    lines = [
        _row(escape_markdown(each.title) for each in shown),
        _row("---:" if each.numeric and each.interval is None else "---" for each in shown),
    ]
    for row in table.rows[:MOST_ROWS]:
        cells = []
        for each in shown:
            value, interval = (escape_markdown(words) for words in each.texts(row))
            cells.append(f"{value} ({interval})" if value and interval else value or interval)
        lines.append(_row(cells))
    if table.name == "budgets" and (words := equality(table)):
        said = (words.get(each.title, "") for each in shown)
        lines.append(_row(f"**{each}**" if each == "not equal" else each for each in said))
    notes = [escape_paragraph(table.note)] if table.note else []
    if left_out:
        many = f"{len(left_out)} more columns" if len(left_out) > 1 else "1 more column"
        notes.append(f"{many} in tables/{escape_markdown(table.name)}.csv.")
    if len(table.rows) > MOST_ROWS:
        notes.append(f"{len(table.rows) - MOST_ROWS:,} more rows in tables/{escape_markdown(table.name)}.csv.")
    return [*lines, "", *([" ".join(notes), ""] if notes else [])]


def _comparison(report: ComparisonReport) -> list[str]:
    lines = [f"### {escape_markdown(report.headline)}", ""]
    lines += _bullets(escape_paragraph(each) for each in report.verdict)
    limits = [note for level in ("refused", "warning") for note in report.notes if note.level == level]
    lines += _bullets(f"**{note.level}**: {escape_markdown(note.text)}" for note in limits)
    for table in report.tables:
        if table.name not in SKIPPED:
            lines += _titled(table)
    lines += ["#### Arms", ""]
    for arm in report.arms:
        sets = f" ({escape_markdown(', '.join(arm.overrides))})" if arm.overrides else ""
        lines.append(f"- **{escape_markdown(arm.label)}**: {escape_markdown(arm.what)}{sets}")
    lines += ["", *_bullets(escape_paragraph(note.text) for note in report.notes if note.level == "info")]
    seeds = ", ".join(map(str, report.seeds))
    left_out = [table.title for table in report.tables if table.name in SKIPPED and table.rows]
    if left_out:
        lines += [f"Left out here, and in report.html and tables/: {escape_markdown(', '.join(left_out))}.", ""]
    return [*lines, f"{escape_paragraph(report.name)}, seeds {seeds}, prefdistill {escape_markdown(report.version)}."]


def _run(report: ReportData) -> list[str]:
    lines = [f"### {escape_markdown(headline(report))}", "", escape_paragraph(trust(report)), ""]
    lines += _bullets(
        f"{escape_paragraph(each.name)}: **{escape_markdown(each.value)}**"
        + (f", {escape_markdown(each.note)}" if each.note else "")
        for each in figures(report)
    )
    if report.stopped:
        lines += [f"**Ended early.** {escape_markdown(report.stopped)}", ""]
    lines += _bullets(f"**warning**: {escape_markdown(each)}" for each in report.warnings)
    tables = {table.name: _with_names(table, report) for table in run_tables(report)}
    for name in RUN_TABLES:
        if name in tables:
            lines += _titled(tables[name])
    warm, trained = any(each.warm_start for each in report.rounds), len(report.rounds) - 1
    rounds = rounds_text(trained - warm, warm)
    about = (
        f"{report.name}, {report.mode}, {rounds}, seed {report.seed}, {report.student}, prefdistill {report.version}."
    )
    return [*lines, escape_paragraph(about)]


def _with_names(table: Table, report: ReportData) -> Table:
    """Return a table by round with base, warm start and kept round named beside their numbers, as on the page."""
    if table.columns[0].title != "Round":
        return table
    names = {str(each.round): _round_name(each, report) for each in report.rounds}
    left_out = next((index for index, column in enumerate(table.columns) if column.title == "Kept"), len(table.columns))
    rows = tuple((names.get(str(row[0]), row[0]), *row[1:left_out], *row[left_out + 1 :]) for row in table.rows)
    return replace(table, columns=(*table.columns[:left_out], *table.columns[left_out + 1 :]), rows=rows)


def _round_name(result: RoundResult, report: ReportData) -> str:
    what = "base" if result.round == 0 else "warm start" if result.warm_start else ""
    kept = "kept" if result.round == report.best_round else ""
    said = ", ".join(filter(None, (what, kept)))
    return f"{result.round} ({said})" if said else str(result.round)


def _titled(table: Table) -> list[str]:
    found = markdown_table(table)
    return [f"#### {escape_markdown(table.title or table.name)}", "", *found] if found else []


def _bullets(lines: Iterable[str]) -> list[str]:
    found: Sequence[str] = [f"- {line}" for line in lines if line]
    return [*found, ""] if found else []


def _row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"
