"""The tables of a run's report as rows of values, for CSV files and Markdown."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from prefdistill.records import EvaluationResult, RoundResult, Usage
from prefdistill.stages.report.data import (
    ReportData,
    drops_title,
    find_result,
    gate_pass_rate,
    judging,
    round_cost,
    round_warnings,
)
from prefdistill.stages.report.tables import Column, Shown, Table, columns_of, without_empty


def run_tables(report: ReportData) -> tuple[Table, ...]:
    """Return every table of a run's report that has rows; columns without any value are left out."""
    found = (
        _rounds(report),
        _kinds(report),
        _test(report),
        _criteria(report),
        _by_round(report, "drops", drops_title(report), lambda each: each.drops),
        _by_round(report, "failures", "Failures, by stage and kind", lambda each: each.failures),
        _by_round(report, "counts", "Counts and shares of the drafts", lambda each: each.counts),
        _by_round(report, "diagnostics", "Everything that was measured", lambda each: each.diagnostics),
        _checks(report),
        _findings(report),
        _cost(report),
        _by_round(report, "seconds", "Seconds by stage", lambda each: each.seconds),
    )
    return tuple(without_empty(table) for table in found if table.rows)


AGAINST: tuple[tuple[str, Shown], ...] = (
    ("Win rate", "percent"),
    ("Win rate interval", "interval"),
    ("Score", "score"),
    ("Baseline's score", "score"),
    ("Gain", "signed"),
    ("Gain interval", "signed_interval"),
    ("Wins", "count"),
    ("Ties", "count"),
    ("Losses", "count"),
    ("Not judged", "count"),
    ("Gates passed", "percent"),
    ("Length", "ratio"),
)
"""What an evaluation against a baseline says."""


def _against(result: EvaluationResult | None) -> tuple[Any, ...]:
    if result is None:
        return (None,) * len(AGAINST)
    return (
        result.win_rate,
        result.interval,
        result.score,
        result.baseline_score,
        result.score_gain,
        result.score_gain_interval,
        result.wins,
        result.ties,
        result.losses,
        result.unknown,
        result.gate_pass_rate,
        result.length_ratio,
    )


def _rounds(report: ReportData) -> Table:
    columns = columns_of(
        ("Round", "count"),
        ("Kept", "text"),
        ("Win rate over base", "percent"),
        ("Win rate interval", "interval"),
        ("Judge", "score"),
        ("Held-out", "score"),
        ("Gold", "score"),
        ("Drafts judged", "count"),
        ("Failed", "count"),
        ("Answers", "count"),
        ("Pairs", "count"),
        ("Gates passed", "percent"),
        ("Tokens a draft", "score"),
        ("KL to base", "score"),
        ("Adapter moved", "percent"),
        ("Steps", "count"),
        ("Time", "seconds"),
    )
    warm = any(each.warm_start for each in report.rounds)
    note = f"Validation prompts; round 0 is the base{', round 1 the warm start' if warm else ''}."
    return Table("rounds", "Rounds", columns, tuple(_round(report, each) for each in report.rounds), note)


def _round(report: ReportData, result: RoundResult) -> tuple[Any, ...]:
    against, train = find_result(result.evaluation), result.train
    return (
        result.round,
        "kept" if result.round == report.best_round else None,
        against.win_rate if against else None,
        against.interval if against else None,
        result.rubric_score,
        result.held_out_score,
        result.gold,
        result.judged if train or result.drafts else None,
        result.failed,
        *(result.pairs if train and result.learned_from == each else None for each in ("answers", "pairs")),
        gate_pass_rate(result.evaluation),
        result.mean_tokens,
        result.diagnostics.get("kl_base"),
        train.adapter_moved if train else None,
        train.steps if train else None,
        sum(result.seconds.values()),
    )


def _kinds(report: ReportData) -> Table:
    rows = tuple(
        (kind, each.round, *_against(find_result(each.evaluation, kind=kind)))
        for kind in report.kinds
        for each in report.rounds
        if find_result(each.evaluation, kind=kind) is not None
    )
    columns = columns_of(("Kind", "text"), ("Round", "count"), *AGAINST)
    return Table("kinds", "By kind of prompt", columns, rows, "Validation prompts, against the base.")


def _test(report: ReportData) -> Table:
    rows = tuple((each.baseline, each.kind if report.kinds else None, *_against(each)) for each in report.test)
    columns = columns_of(("Against", "text"), ("Kind", "text"), *AGAINST)
    return Table("test", "On the test prompts", columns, rows, "Touched once, by the kept policy.")


def _criteria(report: ReportData) -> Table:
    result, against_teacher = find_result(report.test), find_result(report.test, "teacher")
    best: Mapping[str, float] = against_teacher.baseline_criteria if against_teacher else {}
    before: Mapping[str, float] = result.baseline_criteria if result else {}
    rows = tuple(
        (name, before[name], after, after - before[name], best.get(name))
        for name, after in (result.criteria.items() if result else ())
        if name in before
    )
    columns = columns_of(
        ("Criterion", "text"), ("Base", "score"), ("Kept policy", "score"), ("Change", "signed"), ("Teacher", "score")
    )
    return Table("criteria", "By criterion", columns, rows, "Mean scores of test drafts, 0 to 1.")


def _by_round(report: ReportData, name: str, title: str, read: Callable[[RoundResult], Mapping[str, float]]) -> Table:
    """Return numbers by name and round."""
    names = dict.fromkeys(key for each in report.rounds for key in read(each))
    columns = (Column("Name"), *(Column(f"Round {each.round}", "count") for each in report.rounds))
    rows = tuple((key, *(_whole(read(each).get(key)) for each in report.rounds)) for key in names)
    return Table(name, title, columns, rows)


def _whole(value: float | None) -> float | int | None:
    """Return a number without a fraction as an int, so that a CSV shows it as one."""
    return int(value) if value is not None and float(value).is_integer() else value


def _checks(report: ReportData) -> Table:
    rows = tuple((each.round, check.name, check.state, check.text) for each in report.rounds for check in each.checks)
    columns = columns_of(("Round", "count"), ("Check", "text"), ("State", "text"), ("What it found", "text"))
    return Table("checks", "Checks before training", columns, rows)


def _findings(report: ReportData) -> Table:
    """Return what was found in each round, as level, check and message; warnings without a check after them."""
    rows: list[tuple[Any, ...]] = []
    for each in report.rounds:
        rows += [(each.round, finding.level, finding.check, finding.message) for finding in each.findings]
        told = {finding.message for finding in each.findings}
        rows += [(each.round, "warn", None, words) for words in round_warnings(each) if words not in told]
    columns = columns_of(("Round", "count"), ("Level", "text"), ("Check", "text"), ("Finding", "text"))
    return Table("findings", "Findings", columns, tuple(rows))


def _cost(report: ReportData) -> Table:
    columns = columns_of(
        ("Round", "text"),
        ("Calls", "count"),
        ("From the cache", "count"),
        ("Prompt tokens", "count"),
        ("Completion tokens", "count"),
        ("US dollars", "usd"),
        ("US dollars a kept pair", "usd"),
        ("Tokens a kept pair", "count"),
    )
    spent = [judging(each) for each in report.rounds]
    rows = [
        (str(each.round), *_usage(report, usage), cost.usd_per_kept_pair, _rounded(cost.tokens_per_kept_pair))
        for each, usage in zip(report.rounds, spent, strict=True)
        for cost in (round_cost(report, each),)
    ]
    total: Usage = sum(spent, report.test_usage)
    if total.calls or total.cached:
        rows += [
            ("test and baselines", *_usage(report, report.test_usage), None, None),
            ("total", *_usage(report, total), None, None),
        ]
    else:
        rows = []
    return Table("cost", "Cost of judging", columns, tuple(rows))


def _usage(report: ReportData, usage: Usage) -> tuple[Any, ...]:
    dollars = None if report.unpriced and usage.calls else usage.usd
    return usage.calls, usage.cached, usage.prompt_tokens, usage.completion_tokens, dollars


def _rounded(value: float | None) -> int | None:
    return None if value is None else round(value)
