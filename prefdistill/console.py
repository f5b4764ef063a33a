"""What a run shows on the terminal: a progress line for the stage at work, and a table that grows by a row a round."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from prefdistill.records import RoundResult

COLUMNS = (
    ("round", "right"),
    ("drafts", "right"),
    ("failed", "right"),
    ("pairs", "right"),
    ("win rate vs base", "left"),
    ("rubric", "right"),
    ("held-out", "right"),
    ("gold", "right"),
    ("tokens", "right"),
    ("KL", "right"),
    ("seconds", "right"),
)


NARROW = 110
"""Columns of a terminal below which the table leaves something out."""
NARROW_HIDES = ("drafts", "failed", "tokens", "KL")


def round_row(result: RoundResult) -> tuple[str, ...]:
    """Return a round as the cells of the table."""
    against = next((each for each in result.evaluation if each.baseline == "base" and each.kind is None), None)
    rate = f"{against.win_rate:.2f} ({against.interval[0]:.2f} to {against.interval[1]:.2f})" if against else "–"
    return (
        "base" if result.round == 0 else str(result.round),
        str(result.drafts or "–"),
        str(result.failed),
        str(result.pairs or "–"),
        rate,
        _number(result.rubric_score, 3),
        _number(result.held_out_score, 3),
        _number(result.gold, 3),
        _number(result.mean_tokens, 0),
        _number(result.train.kl if result.train else None, 3),
        _number(sum(result.seconds.values()), 1),
    )


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


class TerminalDisplay:
    """Shows a run: live on a terminal, as plain lines elsewhere."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.rounds: list[RoundResult] = []
        self.bar = Progress(
            TextColumn("{task.description:>10}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("[dim]{task.fields[note]}"),
            console=console,
        )
        self._tasks: dict[str, TaskID] = {}
        self._live: Live | None = Live(console=console, refresh_per_second=8) if console.is_terminal else None

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._tasks.values():
            self.bar.remove_task(task)
        self._tasks.clear()
        if self._live is not None:
            self._live.update(self.table() if self.rounds else "")
            self._live.stop()

    def table(self) -> Table:
        """Return the table of the rounds so far."""
        table = Table(box=None, pad_edge=False, header_style="bold")
        shown = [number for number, (name, _) in enumerate(COLUMNS) if self._is_shown(name)]
        for number in shown:
            table.add_column(
                COLUMNS[number][0], justify="right" if COLUMNS[number][1] == "right" else "left", no_wrap=True
            )
        for result in self.rounds:
            cells = round_row(result)
            if self.console.width < NARROW:
                cells = (*cells[:4], cells[4].split(" (")[0], *cells[5:])
            table.add_row(*(cells[number] for number in shown))
        return table

    def _is_shown(self, name: str) -> bool:
        if name in NARROW_HIDES and self.console.width < NARROW:
            return False
        if name == "held-out":
            return any(result.held_out_score is not None for result in self.rounds)
        if name == "gold":
            return any(result.gold is not None for result in self.rounds)
        return True

    def progress(self, stage: str, done: int, total: int, note: str) -> None:
        """Move the bar of a stage; it goes away when the stage is done."""
        if self._live is None:
            return
        task = self._tasks.get(stage)
        if task is None:
            task = self._tasks[stage] = self.bar.add_task(stage, total=total, note=note)
        self.bar.update(task, completed=done, total=total, note=note)
        if done >= total:
            self.bar.remove_task(self._tasks.pop(stage))
        self._refresh()

    def note(self, text: str) -> None:
        """Print a line above the table."""
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def round_done(self, result: RoundResult) -> None:
        """Add a row, and print the round's warnings."""
        self.rounds.append(result)
        name = "base" if result.round == 0 else f"round {result.round}"
        for warning in result.warnings:
            self.note(f"warning, {name}: {warning}")
        if self._live is None:
            cells = [
                f"{title} {cell}"
                for (title, _), cell in zip(COLUMNS[1:], round_row(result)[1:], strict=True)
                if cell != "–"
            ]
            self.note(f"{name}: {', '.join(cells)}")
        self._refresh()

    def _refresh(self) -> None:
        if self._live is not None:
            parts: list[Any] = [self.table()] if self.rounds else []
            self._live.update(Group(*parts, self.bar) if self._tasks else Group(*parts))


def summary(result: Mapping[str, Any], folder: Path) -> list[str]:
    """Return the last lines of a run: what came out, and where everything is."""
    test, best = result["test"], result["best_round"]
    kept = "the base: no round was better on validation" if best == 0 else f"round {best}"
    judged = " (self-judged)" if test["self_judged"] else ""
    lines = ["", f"kept policy: {kept}"]
    if test["win_rate"] is not None:
        low, high = test["win_rate_interval"]
        lines.append(
            f"test, {test['wins'] + test['ties'] + test['losses']} prompts: wins over the base {test['win_rate']:.3f} "
            f"({low:.3f} to {high:.3f}), score {test['baseline_score']:.3f} → {test['score']:.3f} by {test['judge']}{judged}"
        )
    if test["gold"] is not None:
        lines.append(f"gold {test['baseline_gold']:.3f} → {test['gold']:.3f}")
    if result["pgr"] is not None:
        lines.append(f"performance gap to the teacher recovered: {result['pgr']:.0%}")
    return [
        *lines,
        f"report  {folder / 'report.html'}",
        f"result  {folder / 'result.json'}",
        f"policy  {folder / 'policy'}",
    ]
