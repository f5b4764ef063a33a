"""What a comparison leaves in its folder: comparison.json, report.html, report.md and a CSV of every table."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from prefdistill.browsing import rows_of_comparison
from prefdistill.compare.data import ArmRun
from prefdistill.errors import PrefdistillError, RunError
from prefdistill.finished import read_finished
from prefdistill.folders import COMPARISON
from prefdistill.result import write_tables
from prefdistill.run import read_json, write_json, write_text
from prefdistill.stages.report.comparison import ComparisonReport, Curve, Note
from prefdistill.stages.report.comparison_page import render_comparison
from prefdistill.stages.report.markdown import render_markdown


def write_comparison(
    report: ComparisonReport, numbers: dict[str, Any], arm_runs: Sequence[ArmRun], folder: Path, texts: bool
) -> dict[str, Path]:
    """Write everything that a comparison leaves, and return where it is."""
    path = folder / COMPARISON
    stored = TypeAdapter(ComparisonReport).dump_python(replace(report, browser=None), mode="json", by_alias=True)
    runs = [
        {"label": each.label, "seed": each.seed, "folder": os.path.relpath(each.run.directory.path, folder)}
        for each in arm_runs
        if each.run is not None
    ]
    noted = read_json(path) if path.exists() else {"schema": 1, "name": report.name}
    write_json(path, {**noted, "texts": texts, "result": numbers, "runs": runs, "report": stored})
    render_again(folder)
    return {"report": folder / "report.html", "summary": folder / "report.md", "tables": folder / "tables"}


def read_comparison(folder: Path) -> ComparisonReport:
    """Return a finished comparison's report, the browser's rows read from its runs.

    Raises:
        RunError: there is none, or it is not finished.
    """
    path = folder / COMPARISON
    if not path.is_file():
        raise RunError(
            f"{folder}: no comparison there (no {COMPARISON}); expected a folder that `prefdistill compare` made"
        )
    stored = read_json(path)
    if "report" not in stored:
        raise RunError(f"{folder}: the comparison is not finished; run the same `prefdistill compare` command again")
    report = TypeAdapter(ComparisonReport).validate_python(stored["report"])
    curves = _linked(folder, stored["runs"], report.curves)
    try:
        return replace(report, curves=curves, browser=_browser(folder, stored["runs"], report))
    except PrefdistillError as problem:  # moved or removed since; the numbers stand without the drafts
        gone = Note("info", f"drafts are not shown, because a run cannot be read any more: {problem}")
        return replace(report, curves=curves, notes=(*report.notes, gone))


def is_finished(folder: Path) -> bool:
    """Return whether a comparison's folder has a report to render."""
    return "report" in read_json(folder / COMPARISON)


def _linked(folder: Path, runs: Sequence[dict[str, Any]], curves: Sequence[Curve]) -> tuple[Curve, ...]:
    """Give each curve the address of its run's report, where that is still there."""
    reports = {(each["label"], each["seed"]): f"{Path(each['folder']).as_posix()}/report.html" for each in runs}
    there = {key: address for key, address in reports.items() if (folder / address).is_file()}
    return tuple(replace(each, report=there.get((each.arm, each.seed), "")) for each in curves)


def render_again(folder: Path, texts: bool | None = None) -> None:
    """Render a comparison's report.html, report.md and tables/ from what is stored; `texts` as it was by default."""
    report = read_comparison(folder)
    shown = bool(read_json(folder / COMPARISON).get("texts", True)) if texts is None else texts
    write_text(folder / "report.html", render_comparison(report, shown))
    write_text(folder / "report.md", render_markdown(report))
    write_tables(report.tables, folder / "tables")


def _browser(folder: Path, runs: Sequence[dict[str, Any]], report: ComparisonReport) -> Any:
    """Return the drafts of the first seed that every arm has; None where there is no arm.

    Raises:
        PrefdistillError: a run is no longer there, or cannot be read.
    """
    labels = [arm.label for arm in report.arms]
    by_seed: dict[int, dict[str, Path]] = {}
    for each in runs:
        if each["label"] in labels:
            by_seed.setdefault(int(each["seed"]), {})[each["label"]] = folder / each["folder"]
    complete = [places for _, places in sorted(by_seed.items())]
    chosen = max(complete, key=len, default={})
    found = {label: read_finished(chosen[label]) for label in labels if label in chosen}
    if not found:
        return None
    links = {label: os.path.relpath(run.directory.report, folder) for label, run in found.items()}
    return rows_of_comparison(found, links)
