"""What a comparison shows on the terminal: a row an arm and a column a seed while it runs, then the verdict."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.live import Live
from rich.table import Table as Grid
from rich.text import Text

from prefdistill.compare.plan import Plan
from prefdistill.compare.running import Event
from prefdistill.stages.report.comparison import ComparisonReport
from prefdistill.stages.report.tables import Table, fields

WIDEST = 9
"""Columns of a table that fit a terminal; the report has all."""


class ComparisonDisplay:
    """Shows the runs of a comparison: live on a terminal, a line a round elsewhere."""

    def __init__(self, plan: Plan, console: Console) -> None:
        self.plan = plan
        self.console = console
        self._cells: dict[tuple[str, int], Text] = {}
        self._rounds: dict[tuple[str, int], int] = {}
        self._totals: dict[tuple[str, int], int] = {}
        self._started = time.monotonic()
        self._live: Live | None = Live(console=console, refresh_per_second=4) if console.is_terminal else None

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.update(self._grid())
            self._live.stop()

    def tell(self, event: Event) -> None:
        """Show what happened to one run."""
        key = (event.label, event.seed)
        name = f"{event.label}, seed {event.seed}"
        if event.kind == "begun":
            self._totals[key], self._rounds[key] = event.total, 0
            self._show(key, "begun")
        elif event.kind == "progress":
            share = f" {event.done}/{event.total}" if event.total else ""
            where = f"{self._rounds.get(key, 0) + 1}/{self._totals[key]} " if self._totals.get(key) else ""
            self._show(key, f"{where}{event.text}{share}")
        elif event.kind == "round" and event.result is not None:
            self._rounds[key] = event.result.round
            result = event.result
            score = result.rubric_score if result.held_out_score is None else result.held_out_score
            found = "–" if score is None else f"{score:.3f}"
            self._show(key, f"round {event.result.round} {found}")
            self._line(f"{name}: round {event.result.round}, score {found} on validation")
            for each in event.result.findings:
                if each.level == "stop":
                    self._line(f"{name}: round {event.result.round}: {each.check}: {each.message}", always=True)
        elif event.kind == "done":
            self._show(key, "done", "green")
            self._line(f"{name}: done")
        elif event.kind == "kept":
            self._show(key, "done before", "green")
            self._line(f"{name}: done before")
        elif event.kind == "failed":
            self._show(key, "failed", "red")
            self._line(f"{name}: failed: {event.text}", always=True)

    def _show(self, key: tuple[str, int], words: str, style: str = "") -> None:
        self._cells[key] = Text(words, style=style)
        if self._live is not None:
            self._live.update(self._grid())

    def _line(self, text: str, always: bool = False) -> None:
        if self._live is None or always:
            self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def _grid(self) -> Grid:
        seconds = time.monotonic() - self._started
        grid = Grid(box=None, pad_edge=False, header_style="bold", title_justify="left")
        grid.add_column(f"{seconds / 60:.0f} min" if seconds >= 60 else f"{seconds:.0f} s")
        for seed in self.plan.seeds:
            grid.add_column(f"seed {seed}", min_width=16, no_wrap=True)
        for arm in self.plan.arms:
            cells = [self._cells.get((arm.label, seed), Text("waiting", style="dim")) for seed in self.plan.seeds]
            grid.add_row(arm.label, *cells)
        return grid


def show_comparison(report: ComparisonReport, console: Console, places: dict[str, Any]) -> None:
    """Print what came out: the verdict first, then what limits it, the table, the budgets, and where everything is."""

    def say(text: str = "") -> None:
        console.print(text, markup=False, highlight=False, soft_wrap=True)

    say()
    say(report.headline)
    for sentence in report.verdict:
        say(f"  {sentence}")
    for note in report.notes:
        say(f"{note.level}: {note.text}")
    for name in (report.tables[0].name if report.tables else "", "against", "budgets"):
        table = next((each for each in report.tables if each.name == name), None)
        if table is not None and table.rows:
            say()
            console.print(to_grid(table))
            if table.note:
                say(table.note)
    say()
    for what, where in places.items():
        say(f"{what:<8}{where}")


def to_grid(table: Table) -> Grid:
    """Return a report's table for the terminal."""
    grid = Grid(
        box=None, pad_edge=False, header_style="bold", title=table.title, title_justify="left", title_style="bold"
    )
    shown = fields(table)[:WIDEST]
    for each in shown:
        grid.add_column(each.title, justify="right" if each.numeric else "left", overflow="fold")
    for row in table.rows:
        cells = []
        for each in shown:
            value, interval = each.texts(row)
            cells.append(f"{value} ({interval})" if value and interval else value or interval)
        grid.add_row(*map(Text, cells))
    left_out = len(fields(table)) - len(shown)
    if left_out:
        grid.caption, grid.caption_justify = f"{left_out} more columns are in the report", "left"
    return grid
