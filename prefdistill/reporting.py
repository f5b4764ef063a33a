"""Renders the report of a finished run, or of a comparison, again: as a page, as Markdown, or as CSV tables.

Place in the flow: any time after it. What is rendered is what was stored when it finished; nothing is measured again.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from prefdistill.compare.writing import read_comparison, render_again
from prefdistill.errors import RunError
from prefdistill.folders import COMPARISON, as_argument, no_run
from prefdistill.result import render_run, stored_report, write_tables
from prefdistill.run import RunDirectory, read_json, write_json, write_text
from prefdistill.stages.report import ReportData
from prefdistill.stages.report.comparison import ComparisonReport
from prefdistill.stages.report.comparison_page import render_comparison
from prefdistill.stages.report.markdown import render_markdown
from prefdistill.stages.report.run_tables import run_tables
from prefdistill.stages.report.tables import Table
from prefdistill.stored import run_there

Format = Literal["html", "md", "csv"]


@dataclass(frozen=True)
class Stored:
    """A finished run or comparison, as it was stored."""

    folder: Path
    report: ReportData | ComparisonReport
    texts: bool
    """Whether its page shows prompts and drafts."""

    @property
    def tables(self) -> tuple[Table, ...]:
        """Every table of its report."""
        return self.report.tables if isinstance(self.report, ComparisonReport) else run_tables(self.report)

    def page(self, texts: bool) -> str:
        """Render report.html."""
        if isinstance(self.report, ComparisonReport):
            return render_comparison(self.report, texts)
        return render_run(RunDirectory(self.folder), self.report, texts)


def read_stored(folder: Path) -> Stored:
    """Read what the report of a finished run or comparison is made from.

    Raises:
        RunError: there is neither, or it is not finished.
    """
    if (folder / COMPARISON).is_file():
        return _stored_comparison(folder)
    if not folder.is_dir():
        raise no_run(folder, expected="a run or a comparison")
    run = run_there(folder)
    if not run.result.is_file():
        raise RunError(
            f"{folder}: the run is not finished (no result.json), so it has no report yet; `prefdistill status "
            f"{as_argument(folder)}` says what is left, and running its recipe again goes on"
        )
    if not run.report_data.is_file():
        raise RunError(
            f"{folder}: no {run.report_data.name}, which a report is rendered from; run its recipe again: everything is "
            "there, so it is only written anew"
        )
    return Stored(folder, *stored_report(run))


def _stored_comparison(folder: Path) -> Stored:
    try:
        report = read_comparison(folder)
        texts = bool(read_json(folder / COMPARISON).get("texts", True))
    except (ValidationError, KeyError, TypeError, AttributeError) as problem:
        raise RunError(
            f"{folder / COMPARISON}: not what this prefdistill wrote ({str(problem).splitlines()[0]}); run the same "
            "`prefdistill compare` command again: it goes on from the finished runs and writes the file anew"
        ) from None
    return Stored(folder, report, texts)


def write_report(folder: Path, form: Format, out: Path | None, texts: bool | None) -> str:
    """Render a report and return what to print: the Markdown itself, else where it is.

    Args:
        folder: of a run, or of a comparison.
        form: html writes report.html, csv a folder of tables; md is printed where `out` is None.
        out: a file, for csv a folder; it must not be there yet. None: in the folder itself.
        texts: whether the page shows prompts and drafts; None: as before. Without `out` the choice is kept.

    Raises:
        RunError: nothing to render, or `out` is there already.
    """
    _refuse_existing(out, form)
    stored = read_stored(folder)
    if form == "csv":
        target = out or folder / "tables"
        return f"{target}: {len(write_tables(stored.tables, target))} tables"
    if form == "md":
        words = render_markdown(stored.report)
        if out is None:
            return words
        write_text(out, words)
        return str(out)
    shown = stored.texts if texts is None else texts
    if out is not None:
        write_text(out, stored.page(shown))
        return str(out)
    with RunDirectory(folder).locked():
        if shown != stored.texts:
            _remember(stored, shown)
        _in_place(stored, shown)
    return str(folder / "report.html")


def _in_place(stored: Stored, texts: bool) -> None:
    if isinstance(stored.report, ComparisonReport):
        render_again(stored.folder, texts)
    else:
        write_text(RunDirectory(stored.folder).report, stored.page(texts))


def _remember(stored: Stored, texts: bool) -> None:
    """Note whether texts are shown, so that whatever renders the page again keeps to it."""
    comparison = isinstance(stored.report, ComparisonReport)
    path = stored.folder / COMPARISON if comparison else RunDirectory(stored.folder).report_data
    write_json(path, {**read_json(path), "texts": texts})


def _refuse_existing(out: Path | None, form: Format) -> None:
    if out is None or not out.exists():
        return
    if form == "csv":
        if not out.is_dir():
            raise RunError(
                f"{out}: is a file; tables are written into a folder: name one that is empty or not there yet"
            )
        if any(out.iterdir()):
            raise RunError(f"{out}: the folder is not empty; expected an empty one, or one that is not there yet")
        return
    what = (
        "is a folder; expected the name of a file" if out.is_dir() else "is there already, and nothing is overwritten"
    )
    raise RunError(f"{out}: {what}; choose another name with --out, or remove it")
