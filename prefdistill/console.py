"""What a run shows on the terminal: a progress line for the stage at work, and a table that grows by a row a round."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from prefdistill.costs.estimate import usd_text
from prefdistill.diagnostics.rules import phrase_line
from prefdistill.golden import Tested, shown
from prefdistill.golden import summary as summary_of_tests
from prefdistill.records import RoundResult, Usage
from prefdistill.run import RunDirectory

if TYPE_CHECKING:
    from prefdistill.costs.estimate import Estimate
    from prefdistill.costs.questions import Line
    from prefdistill.recipe import Recipe

COLUMNS = (
    ("round", "right"),
    ("drafts", "right"),
    ("failed", "right"),
    ("answers", "right"),
    ("pairs", "right"),
    ("win rate vs base", "left"),
    ("rubric", "right"),
    ("held-out", "right"),
    ("gold", "right"),
    ("tokens", "right"),
    ("KL", "right"),
    ("seconds", "right"),
)

WIN_RATE = [name for name, _ in COLUMNS].index("win rate vs base")
NARROW = 110
"""Columns of a terminal below which the table leaves something out."""
NARROW_HIDES = ("drafts", "failed", "tokens", "KL")


def round_row(result: RoundResult) -> tuple[str, ...]:
    """Return a round as the cells of the table."""
    against = next((each for each in result.evaluation if each.baseline == "base" and each.kind is None), None)
    rate = f"{against.win_rate:.2f} ({against.interval[0]:.2f} to {against.interval[1]:.2f})" if against else "–"
    return (
        "base" if result.round == 0 else f"{result.round} warm start" if result.warm_start else str(result.round),
        str(result.drafts or "–"),
        str(result.failed),
        *(str(result.pairs or "–") if result.learned_from == each else "–" for each in ("answers", "pairs")),
        rate,
        _number(result.rubric_score, 3),
        _number(result.held_out_score, 3),
        _number(result.gold, 3),
        _number(result.mean_tokens, 0),
        _number(result.train.kl if result.train else None, 3),
        _number(sum(result.seconds.values()), 1),
    )


def failures_text(failures: Mapping[str, int]) -> str:
    """Return what failed how often, such as `3 failed: 2 judge parse, 1 judge provider`."""
    parts = [f"{count} {name.replace('.', ' ')}" for name, count in sorted(failures.items(), key=lambda each: -each[1])]
    return f"{sum(failures.values())} failed: {', '.join(parts)}"


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
            cells = list(round_row(result))
            if self.console.width < NARROW:
                cells[WIN_RATE] = cells[WIN_RATE].split(" (")[0]
            table.add_row(*(cells[number] for number in shown))
        return table

    def _is_shown(self, name: str) -> bool:
        if name in NARROW_HIDES and self.console.width < NARROW:
            return False
        if name in ("answers", "pairs"):
            trained = {result.learned_from for result in self.rounds if result.round}
            return name in (trained or ("pairs",))
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
        name = result.name
        if result.failures:
            self.note(f"{name}: {failures_text(result.failures)}")
        if result.checks:
            counts = Counter(check.state for check in result.checks)
            self.note(f"{name}: checks before training: {', '.join(f'{n} {state}' for state, n in counts.items())}")
        for warning in result.warnings:
            level = "stop" if warning.startswith("stop, ") else "warning"
            self.note(f"{level}, {name}: {warning.removeprefix('stop, ').removeprefix('warn, ')}")
        phrase = phrase_line(result.findings, result.diagnostics, result.facts)
        if phrase is not None:
            self.note(f"{name}: {phrase}")
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
    best, trained = result["best_round"], len(result["rounds"]) > 1
    base = "the base: no round was better on validation" if trained else "the base: nothing was trained"
    first = any(each["round"] == best and each["warm_start"] for each in result["rounds"])
    kept = base if best == 0 else f"round {best}{' (warm start)' if first else ''}"
    lines = ["", *([result["stopped"].split(": ")[0]] if result.get("stopped") else []), f"kept policy: {kept}"]
    return [
        *lines,
        *_test_lines(result, trained),
        *cost_lines(result["cost"]),
        f"report  {folder / 'report.html'}",
        f"result  {folder / 'result.json'}",
        f"policy  {folder / 'policy'}",
    ]


def _test_lines(result: Mapping[str, Any], trained: bool) -> list[str]:
    """Return what the test prompts showed; of the base as it is, that nothing is compared with, its scores alone."""
    test, lines = result["test"], []
    best_of, judge = test.get("best_of", 1), test["judge"] + (" (self-judged)" if test["self_judged"] else "")
    as_it_is = best_of == 1 and not trained
    if test["win_rate"] is not None:
        prompts, (low, high) = (
            f"test, {test['wins'] + test['ties'] + test['losses']} prompts",
            test["win_rate_interval"],
        )
        over = f"wins over the base {test['win_rate']:.3f} ({low:.3f} to {high:.3f})"
        over = over if best_of == 1 else f"the best of {best_of} drafts, chosen by the training judge, {over}"
        score = f"score {test['baseline_score']:.3f} → {test['score']:.3f} by {judge}"
        lines.append(f"{prompts}: score {test['score']:.3f} by {judge}" if as_it_is else f"{prompts}: {over}, {score}")
    if test["gold"] is not None:
        before = "" if as_it_is else f"{test['baseline_gold']:.3f} → "
        lines.append(f"gold {before}{test['gold']:.3f}")
    if result["pgr"] is not None and not as_it_is:
        lines.append(f"performance gap to the teacher recovered: {result['pgr']:.0%}")
    return lines


def cost_lines(cost: Mapping[str, Any]) -> list[str]:
    """Return what judging cost, in all and for each training pair, and what all paid calls did; nothing if none was."""
    lines = []
    if cost["calls"] + cost["cached"]:
        tokens = f"{cost['prompt_tokens']:,} prompt and {cost['completion_tokens']:,} completion tokens"
        cached = f" and {cost['cached']:,} replies from the request cache" if cost["cached"] else ""
        lines.append(f"judging: {cost['calls']:,} calls{cached}, {tokens}, {_usd_or_unknown(cost['usd'])}")
    each = [
        f"{usd_text(cost[name])} {words}"
        for name, words in (("usd_per_pair", "a pair"), ("usd_per_kept_pair", "a kept pair"))
        if cost[name] is not None
    ]
    if cost["tokens_per_kept_pair"] is not None:
        each.append(f"{cost['tokens_per_kept_pair']:,.0f} tokens a kept pair")
    if each:
        lines.append(f"training drafts: {', '.join(each)}")
    if cost["charged_calls"] > cost["calls"]:
        usd = _usd_or_unknown(cost["charged_usd"])
        lines.append(f"all paid calls: {cost['charged_calls']:,}, {cost['charged_tokens']:,} tokens, {usd}")
    return lines


def _usd_or_unknown(usd: float | None) -> str:
    return "US dollars unknown" if usd is None else usd_text(usd)


def show_estimate(
    recipe: Recipe, folder: Path, console: Console, redo_from: str | None = None, redo_round: int | None = None
) -> None:
    """Print what a run still has to ask of paid models, step by step; nothing is opened, sent or written."""
    from prefdistill.assembly import load_recipe_prompts
    from prefdistill.costs.estimate import closing_lines, estimate_run, figures
    from prefdistill.costs.measured import spent_before
    from prefdistill.readiness import require_trainable
    from prefdistill.sources import require_source

    def show(text: str) -> None:
        console.print(text, markup=False, highlight=False, soft_wrap=True)

    prompts, notes = load_recipe_prompts(recipe)
    run = RunDirectory(folder)
    require_source(recipe, run, redo_from, redo_round)
    for note in (*notes, *require_trainable(recipe, prompts, run, fetch=False)):
        show(note)
    estimate = estimate_run(recipe, prompts, run, redo_from, redo_round)
    if estimate.done_calls:
        show(f"in {folder} already: replies to {estimate.done_calls:,.0f} calls; this is what is left")
    if estimate.calls:
        console.print(estimate_table(estimate))
        show(f"expected: {figures(estimate)}")
        show(f"assumed: {estimate.assumptions}")
    elif estimate.done_calls:
        show("nothing is left to ask of a paid model")
    elif not estimate.notes:
        show("no paid calls: no judge, teacher or sampler of this recipe asks a model that costs money")
    for line in closing_lines(estimate, getattr(recipe, "budget", None), spent_before(folder / "spending.jsonl")):
        show(line)


def estimate_table(estimate: Estimate) -> Table:
    """Return the steps that ask paid models, and their sum."""
    from prefdistill.costs.estimate import short_count, time_text

    def money(value: float | None) -> str:
        return "?" if value is None else f"{value:,.2f}" if value >= 0.1 or value == 0 else f"{value:.2g}"

    def cells(line: Line | Estimate) -> list[str]:
        tokens = (short_count(line.prompt_tokens), short_count(line.completion_tokens))
        return [f"{line.calls:,.0f}", *tokens, money(line.usd), money(line.most_usd), time_text(line.seconds)]

    table = Table(box=None, pad_edge=False, header_style="bold", show_footer=True)
    several = len(estimate.models) > 1
    table.add_column("stage", footer="total")
    table.add_column("what", min_width=18)
    if several:
        table.add_column("model", overflow="fold")
    names = ("calls", "prompt", "reply", "USD", "at most", "time")
    for name, footer in zip(names, cells(estimate), strict=True):
        table.add_column(name, footer=footer, justify="right", no_wrap=True)
    for line in estimate.grouped():
        table.add_row(line.stage, line.what, *([line.model] if several else []), *cells(line))
    return table


def show_tests(console: Console, tested: Sequence[Tested], usage: Usage) -> None:
    """Print the results of a rubric's tests: a table, what the red ones say, and what it cost."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name, justify in (
        ("test", "right"),
        ("because", "left"),
        ("prompt", "left"),
        ("better", "right"),
        ("worse", "right"),
    ):
        table.add_column(name, justify="right" if justify == "right" else "left", no_wrap=name != "prompt")
    table.add_column("result", no_wrap=True)
    for each in tested:
        trial = each.first_bad
        colour = "green" if each.green else "yellow" if each.flaky else "red"
        cells = (str(each.number), each.test.because, shown(each.test.prompt, 48))
        scores = (_number(trial.better, 3), _number(trial.worse, 3))
        table.add_row(*(Text(cell) for cell in (*cells, *scores)), Text(each.result, style=colour))
    console.print(table)
    for each in tested:
        if not each.green:
            console.print(
                f"{each.where}: test {each.number}: {shown(each.first_bad.note)}", markup=False, soft_wrap=True
            )
    for line in summary_of_tests(tested, usage):
        console.print(line, markup=False, soft_wrap=True)
