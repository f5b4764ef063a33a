"""The command `refresh`: plan it, take over what is paid for, run the new student, and say whether to switch."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from prefdistill.assembly import opened
from prefdistill.compare.showing import to_grid
from prefdistill.console import TerminalDisplay, estimate_table
from prefdistill.costs.estimate import closing_lines, figures
from prefdistill.costs.measured import spent_before
from prefdistill.errors import PrefdistillError, RunError
from prefdistill.finished import read_finished
from prefdistill.loop import run_recipe
from prefdistill.refresh.caveats import caveats
from prefdistill.refresh.changes import Way
from prefdistill.refresh.counting import Ahead, account, ahead_of
from prefdistill.refresh.figures import measure_refresh
from prefdistill.refresh.planning import RefreshPlan, plan_refresh, remember_forgotten
from prefdistill.refresh.reuse import take_over
from prefdistill.refresh.tables import tables
from prefdistill.refresh.verdict import give_verdict
from prefdistill.refresh.writing import RefreshReport, build_report, lines_of, write_report
from prefdistill.run import RunDirectory, disk_errors
from prefdistill.stages.report.comparison import Note
from prefdistill.stages.report.tables import Table

PRINTED = {
    "students": (),
    "criteria": ("Sort", "Teacher"),
    "size": ("Model", "Adapter, MB"),
    "reuse": (),
}
"""Tables that the terminal shows, and the columns that it leaves to the page."""
NARROW = 110
"""Columns of a terminal below which intervals, and those below, are left to the page too."""
TRIED = (
    "manifest.json",
    "result.json",
    "recipe.yaml",
    "prompts*.jsonl",
    "forgotten.jsonl",
    "spending.jsonl",
    "baselines/*.json*",
    "round-*/*.json*",
    "test/*/*.json*",
)
"""Files of a refresh on which depends what is left to do in it: no weights, pages or served logs."""
NARROW_HIDES = ("Score interval", "Difference interval", "Training judge", "Weights, MB")


def refresh_run(
    old: Path,
    student: str,
    folder: Path | None,
    overrides: Sequence[str],
    margin: float,
    way: Way | None,
    texts: bool,
    console: Console,
) -> RefreshReport:
    """Refresh a finished run onto another base, going on where an earlier process stopped, and write the verdict.

    Args:
        old: the finished run's folder; it is only read.
        student: the new base: hub id, folder relative to the working directory, or `package:folder`.
        folder: the new run's; `runs/<old>-refreshed` by default.
        overrides: `key=value` changes to the new run's recipe.
        margin: how much lower the new student's score may be and still count as no worse.
        way: what warm-starts it; None chooses.
        texts: whether the pages show prompts and drafts.
        console: where it is shown.

    Raises:
        PrefdistillError: with where, what was found, what was expected and what to do.
    """
    plan = plan_refresh(old, student, folder, overrides, way)
    _print(console, opening(plan))
    with plan.run.locked():
        notes = remember_forgotten(plan)
        with opened(plan.recipe, plan.run) as shop:
            take_over(shop, plan)
            ahead = ahead_of(shop, plan)
    for line in (*plan.notes, *notes, *ahead_lines(ahead)):
        _print(console, line)
    with TerminalDisplay(console) as display:
        run_recipe(plan.recipe, plan.run.path, display, texts=texts, siblings=[plan.old.directory])
    report, places = finish(plan, margin, texts)
    _print(console, "")
    show(report, places, console)
    return report


def price_refresh(
    old: Path, student: str, folder: Path | None, overrides: Sequence[str], way: Way | None, console: Console
) -> None:
    """Say what a refresh would take over and what it would ask and pay for; nothing is sent, and nothing stays."""
    plan = plan_refresh(old, student, folder, overrides, way)
    _print(console, opening(plan))
    with _tried(plan) as tried:
        notes = [_named(line, tried, plan.run) for line in remember_forgotten(tried)]
        with opened(tried.recipe, tried.run) as shop:
            take_over(shop, tried)
            ahead = ahead_of(shop, tried)
    for line in (*plan.notes, *notes, *ahead_lines(ahead)):
        _print(console, line)
    if ahead.estimate.calls:
        console.print(estimate_table(ahead.estimate))
        _print(console, f"expected: {figures(ahead.estimate)}")
        known_from = plan.run if plan.run.manifest.is_file() else plan.old.directory  # else all there is the old run's
        _print(console, f"assumed: {_named(ahead.estimate.assumptions, tried, known_from)}")
    else:
        _print(console, "no paid calls: no judge, teacher or sampler of this recipe asks a model that costs money")
    spent = spent_before(plan.run.path / "spending.jsonl")
    for line in closing_lines(ahead.estimate, plan.recipe.budget, spent):
        _print(console, line)


@contextmanager
def _tried(plan: RefreshPlan) -> Iterator[RefreshPlan]:
    """Hand out the plan with a folder that goes away again, in which what the refresh has so far is copied.

    Raises:
        PrefdistillError: as the refresh itself would, with its own folder named.
    """
    beside = plan.old.directory.path.resolve().parent  # what its replies cost is looked for among the folders there
    place = beside if os.access(beside, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix=".refresh-", dir=place) as folder:
        tried = replace(plan, run=RunDirectory(Path(folder)))
        if plan.run.manifest.is_file():
            _copy_tried(plan.run.path, tried.run.path)
        try:
            yield tried
        except PrefdistillError as problem:
            raise type(problem)(_named(str(problem), tried, plan.run)) from None


def _copy_tried(source: Path, target: Path) -> None:
    """Copy the records of a run; an append to a link would reach the run itself."""
    for path in (path for pattern in TRIED for path in source.glob(pattern)):
        place = target / path.relative_to(source)
        with disk_errors(place):
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, place)


def _named(text: str, tried: RefreshPlan, run: RunDirectory) -> str:
    """Return a text with the name of a folder that stays in place of the one that goes away."""
    return text.replace(str(tried.run.path), str(run.path))


def opening(plan: RefreshPlan) -> str:
    """Return the first line: from which student to which, and where."""
    before, now = plan.old.recipe.student.model, plan.recipe.student.model
    return f"refresh of {plan.old.directory.path}: {before} → {now}, in {plan.run.path}"


def ahead_lines(ahead: Ahead) -> list[str]:
    """Return what is taken over and what has still to be judged, a line each."""
    lines = []
    if ahead.pairs:
        many = f"{ahead.rounds} round{'s' if ahead.rounds != 1 else ''}"
        lines.append(f"warm start: {ahead.pairs:,} pairs of {many} of the old run; nobody is asked for them")
    if ahead.answers:
        lines.append(f"warm start: {ahead.answers:,} answers of the teacher, as the old run has them")
    for part in ahead.reused:
        counts = {"drafts": part.drafts, "scores": part.judgements, "comparisons": part.comparisons}
        said = [f"{count:,} {name}" for name, count in counts.items() if count]
        paid = f", {part.calls:,} replies that were paid for" if part.calls else ""
        lines.append(f"taken over: {part.what}: {', '.join(said)}{paid}")
    if ahead.owed:
        parts = [f"{what} {count:,}" for what, count in ahead.owed.items()]
        lines.append(f"new, drafts to be judged: {'; '.join(parts)} (in all {sum(ahead.owed.values()):,})")
    else:
        lines.append("new: nothing is left to be judged")
    return lines


def finish(plan: RefreshPlan, margin: float, texts: bool) -> tuple[RefreshReport, dict[str, Path]]:
    """Measure both students from the two run folders, and write the verdict into the new one.

    Raises:
        RunError: the new run is not finished.
    """
    new = read_finished(plan.run.path)
    if new.trained == 0:
        raise RunError(f"{plan.run.path}: no round was trained, so there is nothing to compare; see its report")
    found = measure_refresh(plan.old, new)
    answer, accounts = give_verdict(found, margin), account(plan.old, plan.run, plan.way)
    notes = (*caveats(plan.old, new, found, accounts), *(Note("info", each) for each in plan.notes))
    report = build_report(plan.old, new, found, answer, notes, tables(found, accounts), margin)
    return report, write_report(report, plan.old, new, found, accounts, texts)


def show(report: RefreshReport, places: dict[str, Path], console: Console) -> None:
    """Print the verdict, the main tables, and where everything is."""
    for table in report.tables:
        if table.name in PRINTED:
            hidden = (*PRINTED[table.name], *(NARROW_HIDES if console.width < NARROW else ()))
            console.print(to_grid(_without(table, hidden)))
            if table.note:
                _print(console, table.note)
            _print(console, "")
    for line in lines_of(report, places):
        _print(console, line)


def _without(table: Table, titles: Sequence[str]) -> Table:
    kept = [index for index, column in enumerate(table.columns) if column.title not in titles]
    columns = tuple(table.columns[index] for index in kept)
    return replace(table, columns=columns, rows=tuple(tuple(row[index] for index in kept) for row in table.rows))


def _print(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)
