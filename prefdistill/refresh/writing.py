"""What a refresh leaves in the new run's folder: refresh.json, refresh.md and refresh.html."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import ChoiceLoader, PackageLoader

from prefdistill import __version__
from prefdistill.browsing import rows_of_comparison
from prefdistill.errors import PrefdistillError
from prefdistill.finished import FinishedRun
from prefdistill.records import SCHEMA
from prefdistill.refresh.counting import Account, Part
from prefdistill.refresh.figures import NEW, OLD, RefreshFigures
from prefdistill.refresh.verdict import Answer, amount
from prefdistill.result import manifest_facts
from prefdistill.run import write_json, write_text
from prefdistill.stages.report.browsing import BrowserData
from prefdistill.stages.report.comparison import Note
from prefdistill.stages.report.embedding import browser_parts
from prefdistill.stages.report.environment import page_environment
from prefdistill.stages.report.formats import number
from prefdistill.stages.report.markdown import escape_markdown, markdown_table
from prefdistill.stages.report.result import finite
from prefdistill.stages.report.table_view import views
from prefdistill.stages.report.tables import Table
from prefdistill.stages.report.verdict import Figure

PLACES = ("students", "difference", "criteria", "tasks", "size", "reuse", "training")
IN_MARKDOWN = ("students", "difference", "criteria", "tasks", "size", "reuse")


@dataclass(frozen=True)
class RefreshReport:
    """Everything that the page is made from."""

    name: str
    version: str
    old_model: str
    new_model: str
    margin: float
    word: str
    headline: str
    reasons: tuple[str, ...]
    notes: tuple[Note, ...]
    tables: tuple[Table, ...]
    recipe: str
    facts: Mapping[str, str]
    links: Mapping[str, str]
    """Addresses of the two runs' reports, relative to the page, by what they are; without those that are not there."""


@dataclass(frozen=True)
class _Link:
    name: str
    address: str
    words: str


def build_report(
    old: FinishedRun,
    new: FinishedRun,
    figures: RefreshFigures,
    answer: Answer,
    notes: Sequence[Note],
    tables: Sequence[Table],
    margin: float,
) -> RefreshReport:
    """Gather what is shown."""
    folder = new.directory.path
    reports = {
        f"{label} run": os.path.relpath(run.directory.report.resolve(), folder.resolve())
        for label, run in ((OLD, old), (NEW, new))
        if run.directory.report.is_file()
    }
    return RefreshReport(
        name=new.recipe.name,
        version=__version__,
        old_model=figures.old.model,
        new_model=figures.new.model,
        margin=margin,
        word=answer.word,
        headline=answer.headline,
        reasons=answer.reasons,
        notes=tuple(notes),
        tables=tuple(tables),
        recipe=new.directory.recipe.read_text(encoding="utf-8"),
        facts=manifest_facts(new.manifest),
        links=reports,
    )


def write_report(
    report: RefreshReport,
    old: FinishedRun,
    new: FinishedRun,
    figures: RefreshFigures,
    account: Account,
    texts: bool,
) -> dict[str, Path]:
    """Write all three files, and return where they are."""
    page, summary, numbers = new.directory.refresh_files
    write_json(numbers, refresh_json(report, old, figures, account))
    write_text(summary, render_markdown(report))
    write_text(page, render_page(report, figures, _browser(old, new), texts))
    return {"report": page, "summary": summary, "numbers": numbers}


def refresh_json(report: RefreshReport, old: FinishedRun, figures: RefreshFigures, account: Account) -> dict[str, Any]:
    """Return what programs read; what is not a finite number is None."""
    numbers = asdict(figures)
    return {
        "schema": SCHEMA,
        "version": report.version,
        "name": report.name,
        "old": str(old.directory.path.resolve()),
        "verdict": report.word,
        "headline": report.headline,
        "reasons": list(report.reasons),
        "margin": report.margin,
        "notes": [{"level": note.level, "text": note.text} for note in report.notes],
        "figures": finite(numbers),
        "account": {
            "reused": [_part(part) for part in account.reused],
            "new": [_part(part) for part in account.new],
            "charged": account.charged.model_dump(),
            "charged_before": account.charged_before.model_dump(),
            "repeated": account.repeated,
        },
    }


def _part(part: Part) -> dict[str, Any]:
    return {
        "what": part.what,
        "drafts": part.drafts,
        "judgements": part.judgements,
        "comparisons": part.comparisons,
        "usage": part.usage.model_dump(),
    }


def render_markdown(report: RefreshReport) -> str:
    """Return the report as GitHub's Markdown: no prompt, draft or HTML."""
    lines = [f"### {escape_markdown(report.headline)}", ""]
    lines += [f"- {escape_markdown(each)}" for each in report.reasons]
    lines += ["", *(f"- **{note.level}**: {escape_markdown(note.text)}" for note in report.notes), ""]
    for table in report.tables:
        if table.name in IN_MARKDOWN:
            lines += [f"#### {escape_markdown(table.title)}", "", *markdown_table(table)]
    about = f"{report.name}: {report.old_model} → {report.new_model}, prefdistill {report.version}."
    lines.append(escape_markdown(about))
    return "\n".join(lines).rstrip().encode("utf-8", "replace").decode() + "\n"


def render_page(
    report: RefreshReport, figures: RefreshFigures, browser: BrowserData | None = None, texts: bool = True
) -> str:
    """Return the report as one HTML document; `texts=False` leaves out prompts, drafts and reasons."""
    environment = page_environment()
    environment.loader = ChoiceLoader(
        [PackageLoader("prefdistill.refresh", "."), *([environment.loader] if environment.loader else [])]
    )
    placed: dict[str, list[Any]] = {
        name: [found for each in report.tables if each.name == name for found in views(each, {})] for name in PLACES
    }
    page = environment.get_template("page.html.jinja").render(
        report=report,
        figures=head_figures(figures),
        limits=[note for note in report.notes if note.level != "info"],
        notes=[note for note in report.notes if note.level == "info"],
        placed=placed,
        links=[_Link(name, _address(path), "its report") for name, path in report.links.items()],
        browser=browser_parts(browser, texts),
    )
    return page.encode("utf-8", "replace").decode()


def head_figures(figures: RefreshFigures) -> list[Figure]:
    """Return the head's numbers."""
    found = []
    for name, side in (("Old student", figures.old), ("New student", figures.new)):
        if side.policy.score is not None:
            found.append(Figure(name, number(side.policy.score.value), f"mean score, {side.kept_name} kept"))
    difference = figures.versus.difference
    if difference is not None:
        found.append(Figure("New less old", amount(difference).split(" ")[0], amount(difference).partition(" ")[2]))
    if figures.teacher is not None and figures.teacher.score is not None:
        found.append(Figure("Teacher", number(figures.teacher.score.value), "mean score"))
    return found


def _address(path: str) -> str:
    """Return a path as an address relative to the page, whatever it holds: it names no other host and no script."""
    return "" if path.startswith("//") else quote(Path(path).as_posix().encode("utf-8", "replace"), safe="/")


def _browser(old: FinishedRun, new: FinishedRun) -> BrowserData | None:
    """Return the drafts of both students side by side; None where they cannot be read."""
    try:
        return rows_of_comparison({OLD: old, NEW: new})
    except PrefdistillError:
        return None


def lines_of(report: RefreshReport, places: Mapping[str, Path]) -> Iterable[str]:
    """Yield what is printed at the end, tables left out; what is only worth knowing is left to the page."""
    yield report.headline
    yield from (f"  {each}" for each in report.reasons)
    yield from (f"{note.level}: {note.text}" for note in report.notes if note.level != "info")
    yield ""
    yield from (f"{what:<8}{where}" for what, where in places.items())
