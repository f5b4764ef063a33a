"""`prefdistill drift`: from a run and logs to a verdict, a page, Markdown and JSON."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from prefdistill.drift.distinct import distinct
from prefdistill.drift.measuring import measure
from prefdistill.drift.reading import LogRead, Request, parse_time, read_log
from prefdistill.drift.report import DriftReport, as_json, build_report
from prefdistill.drift.showing import render_markdown, render_page
from prefdistill.drift.training import read_training
from prefdistill.errors import RunError
from prefdistill.run import write_json, write_text

FOUND = 4
"""Exit code where there is drift."""
FOLDER = "drift"
"""Of the reports, in the run folder."""


def check_drift(
    run: Path,
    logs: Sequence[Path],
    since: str | None = None,
    last: int | None = None,
    model: str | None = None,
    texts: bool = True,
) -> DriftReport:
    """Compare logs with the training prompts of a run.

    Args:
        run: the run's folder.
        logs: files.
        since: a date or a moment; earlier requests are left out.
        last: only so many of the newest requests.
        model: the name under which the run was served; None: its folder's or its recipe's name.
        texts: whether prompts, words and values of the log may stand in the report.

    Raises:
        RunError: the run or a log cannot be used, or no request is left.
    """
    trained = read_training(run)
    read = read_log(logs, frozenset({model}) if model else trained.names)
    chosen = _chosen(read, since, last, ", ".join(map(str, logs)))
    counted = distinct(chosen)
    measured = measure(trained, counted.requests)
    return build_report(trained, [each.name for each in logs], read, chosen, counted, measured, texts)


def _chosen(read: LogRead, since: str | None, last: int | None, names: str) -> Sequence[Request]:
    chosen: Sequence[Request] = read.requests
    if since is not None:
        begin = parse_time(since)
        if begin is None:
            raise RunError(f"--since: found `{since}`; expected a date such as 2026-11-01, or a moment in ISO 8601")
        timed = [each for each in chosen if each.time is not None]
        if not timed:
            raise RunError(f"{names}: no request has a time; --since needs one: leave it out, or pass --last N")
        chosen = [each for each in timed if _at(each) >= begin]
        if not chosen:
            newest = max(map(_at, timed))
            raise RunError(
                f"{names}: 0 of {len(timed):,} requests since {since}; the newest is of {newest:%Y-%m-%d %H:%M} UTC"
            )
    if last is not None:
        if all(each.time is not None for each in chosen):
            chosen = sorted(chosen, key=_at)
        chosen = chosen[-last:]
    return chosen


def _at(request: Request) -> datetime:
    assert request.time is not None
    return request.time


def write_report(report: DriftReport, folder: Path) -> dict[str, Path]:
    """Write drift.html, drift.md and drift.json into a folder; return what was written."""
    written = {"page": folder / "drift.html", "markdown": folder / "drift.md", "json": folder / "drift.json"}
    write_text(written["page"], render_page(report))
    write_text(written["markdown"], render_markdown(report))
    write_json(written["json"], as_json(report))
    return written
