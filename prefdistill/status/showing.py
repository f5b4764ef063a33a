"""A run's status for a person: a table with a row a round, what was found, what was paid, and how to go on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from prefdistill.costs.estimate import short_count, time_text, usd_text
from prefdistill.records import rounds_text
from prefdistill.status.counting import Part, Step
from prefdistill.status.reading import Status

BOTH = "trained on"
"""Column of a run whose rounds learn from answers and from pairs; of any other run it is the one or the other."""
LEARNED_FROM = ("answers", "pairs")
MOST_LINES = 12
"""Warnings that are shown; the rest is counted."""


def show_status(status: Status, console: Console) -> None:
    """Print the status."""

    def show(text: str, style: str | None = None) -> None:
        console.print(text, markup=False, highlight=False, soft_wrap=True, style=style)

    show(_headline(status))
    console.print(_table(status))
    for part in status.parts:
        for step in part.steps:
            if step.note and step.state != "done":
                show(f"{part.shown}: {step.name}: {step.note}")
    lines = list(_warnings(status))
    for text, style in lines[:MOST_LINES]:
        show(text, style)
    if len(lines) > MOST_LINES:
        show(f"and {len(lines) - MOST_LINES} more; all are in {status.run}/log.txt, or given by --json")
    for text in status.damage:
        show(f"damaged: {text}", "yellow")
    for text in _closing(status):
        show(text)


def to_json(status: Status) -> dict[str, Any]:
    """Return the status as JSON values."""
    found = asdict(status)
    found["spent"] = status.spent.model_dump(mode="json")
    return found


def _headline(status: Status) -> str:
    work = {
        True: "another process is working in it",
        False: "nobody is working in it",
        None: "whether anybody is working in it cannot be told",
    }
    rounds = rounds_text(max(0, status.rounds - status.warm_start), status.warm_start)
    parts = [f"{status.run}: {status.name}", status.mode, rounds]
    idle = "" if status.idle_seconds is None else f", last change {time_text(status.idle_seconds)} ago"
    return f"{', '.join(filter(None, parts))}; {work[status.working]}{idle}"


def _table(status: Status) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    named = {step.name for part in status.parts for step in part.steps if step.name in LEARNED_FROM}
    columns = ("drafts", "verdicts", BOTH if len(named) > 1 else next(iter(named), "pairs"), "training", "evaluation")
    for name in ("", *columns, "score"):
        table.add_column(name, justify="right" if name == "score" else "left", no_wrap=name == "")
    for part in status.parts:
        cells = ["not run" if part.state == "not run" else _cell(part, name) for name in columns[:1]]
        cells += ["" if part.state == "not run" else _cell(part, name) for name in columns[1:]]
        score = "" if part.score is None else f"{part.score:.3f}"
        style = "dim" if part.state in ("owed", "not run") else ""
        table.add_row(*(Text(cell, style=style) for cell in (part.shown, *cells, score)))
    return table


def _cell(part: Part, column: str) -> str:
    if column != "evaluation":
        names = LEARNED_FROM if column == BOTH else (column,)
        step = next((each for each in part.steps if each.name in names), None)
        if step is None or part.name in ("base", "test"):
            return ""
        return f"{_words(step)} {step.name}" if column == BOTH and step.state == "done" else _words(step)
    before = ("drafts", "verdicts", *LEARNED_FROM, "training", "evaluation")
    steps = [each for each in part.steps if each.name not in before or part.name in ("base", "test")]
    if part.state == "done":
        return "done"
    left = next((each for each in steps if each.state != "done"), None)
    if left is None or all(each.state == "owed" for each in steps):
        return "owed" if left is not None or not steps or part.name == "test" else "done but for the result"
    return f"{left.name} {_words(left)}"


def _words(step: Step) -> str:
    if step.state == "owed":
        return "owed"
    if step.name == "training":
        of = f" of {step.of}" if step.of else ""
        return f"{step.done} steps" if step.state == "done" else f"step {step.done}{of}"
    if step.of is None or (step.state == "done" and step.done == step.of):
        return f"{step.done}" if step.state == "done" else f"{step.done} so far"
    return f"{step.done} of {step.of}"


def _warnings(status: Status) -> Iterable[tuple[str, str | None]]:
    """Yield every finding and warning with its style, the gravest first."""
    found = [(part, finding) for part in status.parts for finding in part.findings]
    for level, style in (("stop", "red"), ("warn", "yellow")):
        for part, finding in found:
            if finding.get("level") == level:
                yield f"{part.shown}: {level}: {finding.get('check')}: {finding.get('message')}", style
    messages = {str(finding.get("message")) for _, finding in found}
    for part in status.parts:
        for warning in part.warnings:
            if not any(message in warning for message in messages):
                yield f"{part.shown}: {warning}", "yellow"


def _closing(status: Status) -> Iterable[str]:
    best = None if status.best_round is None else status.part(status.best_round)
    if best is not None:
        base = status.part(0)
        against = f" (base {base.score:.3f})" if base and base is not best and base.score is not None else ""
        score = "" if best.score is None else f", {best.score:.3f} by the {best.scored_by}{against}"
        yield f"{'kept' if status.kept else 'best so far'}: {best.shown}{score}"
    if status.stopped:
        yield f"stopped: {status.stopped.removeprefix('stopped ')}"
    yield _paid(status)
    if status.command:
        yield f"to go on{' when that process has ended' if status.working else ''}: {status.command}"
    else:
        yield f"finished: {status.run}/report.html"


def _paid(status: Status) -> str:
    spent, limits = status.spent, status.budget
    if not spent.calls:
        return "paid so far: nothing"
    known = {"usd": usd_text(spent.usd), "calls": f"{spent.calls:,}", "tokens": short_count(spent.prompt_tokens)}
    budget = [
        f"{known[key]} of budget.{key} {limit:g}" for key, limit in limits.items() if key in known and limit is not None
    ]
    return (
        f"paid so far: {spent.calls:,} calls, {short_count(spent.prompt_tokens)} tokens, {usd_text(spent.usd)}"
        f"{' (' + '; '.join(budget) + ')' if budget else ''}"
    )
