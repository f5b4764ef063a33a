"""The tables of a refresh: every number once, the same on the page, in Markdown and in refresh.json."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from prefdistill.compare.data import Estimate, Means
from prefdistill.metrics.criteria import CriterionDifference
from prefdistill.metrics.intervals import Interval
from prefdistill.refresh.counting import Account
from prefdistill.refresh.figures import RefreshFigures, Side
from prefdistill.stages.report.formats import number, whole_percent
from prefdistill.stages.report.tables import Table, cell_text, columns_of, without_empty

MEGABYTE = 1e6


def tables(figures: RefreshFigures, account: Account) -> tuple[Table, ...]:
    """Return all tables, the main one first; a table without a row, and a column without a value, is left out."""
    found = [
        students_table(figures),
        difference_table(figures),
        criteria_table(figures),
        size_table(figures),
        tasks_table(figures),
        reuse_table(account),
        training_table(figures),
    ]
    return tuple(without_empty(each) for each in found if each.rows)


def students_table(figures: RefreshFigures) -> Table:
    """Return who wrote on the test prompts, a row each."""
    columns = columns_of(
        ("Student", "text"),
        ("Score", "score"),
        ("Score interval", "interval"),
        ("Training judge", "score"),
        ("Gold", "score"),
        ("Gates passed", "percent"),
        ("Words a draft", "count"),
        ("KL to its base", "score"),
    )
    rows = []
    for name, side in (("old", figures.old), ("new", figures.new)):
        rows.append((f"{name} base", *_means(side.base, figures.self_judged), 0.0))
        kept = side.kept_name if side.kept else "its base"
        rows.append((f"{name}, kept ({kept})", *_means(side.policy, figures.self_judged), side.kl))
    if figures.teacher is not None:
        rows.append(("teacher", *_means(figures.teacher, figures.self_judged), None))
    who = "self-judged by" if figures.self_judged else "by the held-out judge"
    note = (
        f"Mean score of {figures.prompts:,} test prompts, {who} {figures.judge}; a draft that fails a gate counts 0. "
        f"Intervals: 95 %, over prompts. Old: {figures.old.model}. New: {figures.new.model}."
    )
    return Table("students", "Both students on the same test prompts", columns, tuple(rows), note)


def _means(means: Means, self_judged: bool) -> tuple[Any, ...]:
    judge = None if self_judged else means.judge
    return (*_value(means.score), judge and judge.value, means.gold and means.gold.value, means.passed, means.words)


def difference_table(figures: RefreshFigures) -> Table:
    """Return the new student less the old one, by every measure."""
    columns = columns_of(("New less old", "text"), ("Difference", "signed"), ("Difference interval", "signed_interval"))
    found: list[tuple[str, Estimate | None]] = [
        ("score", figures.versus.difference),
        *([] if figures.self_judged else [("training judge", figures.versus.judge)]),
        ("gold", figures.versus.gold),
        ("share that passes all gates", figures.passed),
        ("score of the bases", figures.base_difference),
    ]
    rows: list[tuple[Any, ...]] = [(name, *_value(each)) for name, each in found if each is not None]
    return Table("difference", "New less old", columns, tuple(rows), _difference_note(figures))


def _difference_note(figures: RefreshFigures) -> str:
    parts = ["Paired by prompt; 95 % over prompts."]
    rate, controlled = figures.versus.win_rate, figures.versus.length_controlled
    if rate is not None:
        between = "" if rate.interval is None else f" ({cell_text(rate.interval, 'interval')})"
        equal = "" if controlled is None else f", {whole_percent(controlled)} at equal length"
        parts.append(f"Win rate of new over old, ties half: {number(rate.value)}{between}{equal}.")
    if figures.versus.length_ratio is not None:
        parts.append(f"The new student's drafts have {number(figures.versus.length_ratio, 2)} times the words.")
    return " ".join(parts)


def criteria_table(figures: RefreshFigures) -> Table:
    """Return each gate and criterion of both students."""
    columns = columns_of(
        ("Criterion", "text"),
        ("Sort", "text"),
        ("Old", "score"),
        ("New", "score"),
        ("Difference", "signed"),
        ("Difference interval", "signed_interval"),
        ("p, corrected", "score"),
        ("Teacher", "score"),
    )
    best = figures.teacher_criteria
    rows = [
        *(_criterion_row(each, "gate", None) for each in figures.gates),
        *(_criterion_row(each, "criterion", best.get(each.criterion)) for each in figures.criteria),
    ]
    note = (
        f"Criteria as {figures.criteria_of} sees them, gates as {figures.training_judge} does: the share that passes. p "
        "after Holm's correction, for gates and for criteria by themselves."
    )
    return Table("criteria", "Gates and criteria", columns, tuple(rows), note)


def _criterion_row(each: CriterionDifference, sort: str, teacher: float | None) -> tuple[Any, ...]:
    return each.criterion, sort, each.theirs, each.ours, each.difference, each.interval, each.p_holm, teacher


def size_table(figures: RefreshFigures) -> Table:
    """Return how large both students are, and how fast they wrote."""
    columns = columns_of(
        ("Student", "text"),
        ("Parameters", "count"),
        ("Weights, MB", "count"),
        ("Adapter, MB", "count"),
        ("Tokens a prompt", "count"),
        ("Tokens a draft", "count"),
        ("Seconds a draft", "score"),
        ("Model", "text"),
    )
    rows = tuple(
        (
            name,
            side.size.parameters,
            _megabytes(side.size.weight_bytes),
            _megabytes(side.size.adapter_bytes),
            side.size.prompt_tokens,
            side.size.draft_tokens,
            side.size.seconds_a_draft,
            side.model,
        )
        for name, side in (("old", figures.old), ("new", figures.new))
    )
    same = figures.old.size.machine == figures.new.size.machine
    seconds = "on one machine" if same else "with other machines or thread counts, so they cannot be compared"
    note = (
        "Parameters and bytes are of the base as it is stored, before it is loaded in 4 bits. Tokens by each student's own "
        f"tokenizer and chat template. Seconds: writing the test drafts in batches, loading included, {seconds}."
    )
    return Table("size", "Size and speed", columns, rows, note)


def _megabytes(count: int | None) -> float | None:
    return None if count is None else count / MEGABYTE


def tasks_table(figures: RefreshFigures) -> Table:
    """Return the tasks of `evaluate.also`."""
    columns = columns_of(
        ("Other task", "text"),
        ("Old base", "score"),
        ("Old", "score"),
        ("New base", "score"),
        ("New", "score"),
        ("New less old", "signed"),
        ("Difference interval", "signed_interval"),
        ("New less its base", "signed"),
        ("Base interval", "signed_interval"),
    )
    rows = tuple(
        (each.task, each.old_base, each.old, each.new_base, each.new, *_value(each.difference), *_value(each.forgotten))
        for each in figures.also
    )
    return Table("tasks", "Other tasks", columns, rows, "Scored each round, never trained on: what was forgotten.")


def reuse_table(account: Account) -> Table:
    """Return what was taken over, and what was judged for the new student alone."""
    columns = columns_of(
        ("What", "text"),
        ("Where from", "text"),
        ("Drafts", "count"),
        ("Scores", "count"),
        ("Comparisons", "count"),
        ("Calls", "count"),
        ("Tokens", "count"),
        ("USD", "usd"),
    )
    rows = tuple(_parts(account))
    paid = account.charged
    note = (
        "Scores are counted for each judge but gold. What is taken over was paid for in the old run. Paid for this "
        f"refresh: {paid.calls:,} calls"
        + (f", {paid.prompt_tokens:,} tokens, {paid.usd:,.2f} USD." if paid.calls else ".")
    )
    return Table("reuse", "What was taken over, and what is new", columns, rows, note)


def _parts(account: Account) -> Iterator[tuple[Any, ...]]:
    for where, parts in (("taken over", account.reused), ("new", account.new)):
        for part in parts:
            tokens = part.usage.prompt_tokens + part.usage.completion_tokens
            numbers = (
                part.drafts,
                part.judgements or None,
                part.comparisons or None,
                part.calls or None,
                tokens or None,
            )
            yield part.what, where, *numbers, part.usage.usd or None


def training_table(figures: RefreshFigures) -> Table:
    """Return what each student learned from."""
    columns = columns_of(
        ("Student", "text"),
        ("Rounds", "count"),
        ("Judged drafts", "count"),
        ("Pairs or answers", "count"),
        ("Kept", "text"),
        ("Gain over its base", "signed"),
        ("Gain interval", "signed_interval"),
    )
    rows = tuple(_training_row(name, side) for name, side in (("old", figures.old), ("new", figures.new)))
    note = "The warm start is a round of the new student, and the drafts and pairs of the old run are among its own."
    return Table("training", "What each learned from", columns, rows, note)


def _training_row(name: str, side: Side) -> tuple[Any, ...]:
    return name, side.rounds, side.judged, side.pairs, side.kept_name, *_value(side.gain)


def _value(each: Estimate | None) -> tuple[float | None, Interval | None]:
    return (None, None) if each is None else (each.value, each.interval)
