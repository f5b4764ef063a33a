"""Where a prompt stands in the files of a run, and in the label files that the run knows of."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from prefdistill.forgetting.logs import is_log, is_written, log_of, was_asked
from prefdistill.forgetting.plans import Plan, is_trained, rounds_of
from prefdistill.forgetting.traces import Traces, lines_of, read_lines, strings_in
from prefdistill.records import Prompt
from prefdistill.run import RunDirectory

SEARCHED = 64 * 2**20
"""Bytes of the largest file that is searched for what is left of a text."""
WEIGHTS = (".safetensors", ".pt", ".pth", ".bin")


def jsonl_files(run: RunDirectory) -> Iterator[Path]:
    """Yield every JSONL file of a run, a log's older ones too, but the list of what was forgotten."""
    numbered = (path for path in run.path.rglob("*.jsonl.*") if path.suffix[1:].isdigit())
    yield from (path for path in sorted([*run.path.rglob("*.jsonl"), *numbered]) if path != run.forgotten)


def label_files(run: RunDirectory) -> Iterator[Path]:
    """Yield the label files in a run folder."""
    yield from sorted(run.path.glob("labels-*.jsonl"))


def pages(run: RunDirectory) -> list[Path]:
    """Return the files that may quote any prompt of the run, and that one command writes anew."""
    return [path for path in (run.refresh_page, *run.drift_reports) if path.is_file()]


def traces_of(run: RunDirectory, prompt: Prompt) -> Traces:
    """Return the lines of the prompt's rows that no other row has."""
    sorter = Traces(prompt.id, (), ())
    own, others = lines_of(strings_in(prompt.model_dump(mode="json"))), set()
    for path in jsonl_files(run):
        for _, row in read_lines(path):
            if sorter.belongs(row) or holds(row, prompt):
                own |= lines_of(strings_in(row))
            elif row is not None:
                others |= lines_of(strings_in(row))
    return Traces(prompt.id, own, others)


def holds(row: Any, prompt: Prompt) -> bool:
    """Whether a row, such as a label, names the prompt by the user's own id or holds its text or messages.

    So does a request of a served log. Labels name the recipe's own prompts; a prompt of another task may have the same
    id.
    """
    if not isinstance(row, dict):
        return False
    if isinstance(named := row.get("prompt_id"), str) and f"id:{named}" in prompt.tags and not prompt.task:
        return True
    if was_asked(row, prompt):
        return True
    said = [(each.role, each.content.strip()) for each in prompt.messages if each.role != "system"]
    told = row.get("prompt")
    if isinstance(told, str):
        return [("user", told.strip())] == said
    if not isinstance(told, list) or not all(isinstance(each, dict) for each in told):
        return False
    turns = [(each.get("role"), str(each.get("content", "")).strip()) for each in told]
    return [each for each in turns if each[0] != "system"] == said


def is_about(plan: Plan, line: bytes, row: Any) -> bool:
    """Whether a line is a row about the prompt; a torn one that begins like one is."""
    if row is None:
        text = line.decode("utf-8", errors="replace")
        return plan.prompt.id in text or plan.traces.found_in(text)
    return plan.traces.belongs(row) or holds(row, plan.prompt)


def searchable(path: Path) -> bool:
    """Whether a file may hold texts, and can be searched in reasonable time."""
    return path.is_file() and path.suffix not in WEIGHTS and path.stat().st_size <= SEARCHED


def mentions(plan: Plan, path: Path) -> bool:
    """Whether one of the prompt's lines stands in a file."""
    return plan.traces.found_in(path.read_text(encoding="utf-8", errors="replace"))


def has_row(plan: Plan, path: Path) -> bool:
    """Whether a JSONL file has a row about the prompt."""
    return any(is_about(plan, line, row) for line, row in read_lines(path))


def find_files(plan: Plan) -> None:
    """Note every file of the run that changes."""
    run = plan.run
    for path in jsonl_files(run):
        count = sum(is_about(plan, line, row) for line, row in read_lines(path))
        if count:
            plan.rows[path] = count
        if is_log(path):
            plan.logs.setdefault(log_of(path), []).append(path)
    plan.written = [log for log in plan.logs if is_written(log)]
    _find_labels(plan)
    for path in sorted(run.path.rglob("*")):
        known = path in plan.rows or path in plan.outdated or path in (run.forgotten, run.report, *pages(run))
        if not known and searchable(path) and mentions(plan, path):
            plan.mentions.append(path)
    for _, folder in rounds_of(run):
        if not is_trained(folder) and (folder / "5-policy").exists():
            plan.restarted.append(folder / "5-policy")


def _find_labels(plan: Plan) -> None:
    """Note label files elsewhere that have the prompt, and figures of agreement in which its labels count."""
    run = plan.run
    inside, (data, page) = set(label_files(run)), run.agreement
    measured = [Path(each) for each in _read(data, dict).get("labels", ()) if isinstance(each, str)]
    named = [Path(each) for each in _read(run.label_files, list) if isinstance(each, str)]
    resolved = {path.resolve() for path in inside}
    outside = {each.resolve(): each for each in [*named, *measured] if each.resolve() not in resolved}
    there = [each for each in outside.values() if each.is_file()]
    plan.labels_elsewhere = [each for each in there if has_row(plan, each) or mentions(plan, each)]
    counted = inside & plan.rows.keys() or plan.labels_elsewhere or len(there) < len(outside)
    figures = [path for path in (data, page) if path.is_file()]
    if counted or any(mentions(plan, path) for path in figures):
        plan.outdated = figures


def _read(path: Path, kind: type) -> Any:
    """Return what a JSON file holds; an empty `kind` where there is none, or something else."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return kind()
    return found if isinstance(found, kind) else kind()
