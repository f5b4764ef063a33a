"""The tables of a comparison: every number once, named so that a CSV of it can be read alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from prefdistill.compare.checks import budget_of
from prefdistill.compare.costs import round_figures
from prefdistill.compare.data import BASE, TEACHER, ArmFigures, Estimate, Figures, Means, Versus
from prefdistill.compare.layout import Layout
from prefdistill.metrics.intervals import Interval
from prefdistill.stages.report.tables import Table, columns_of, without_empty


def tables(figures: Figures, layout: Layout) -> tuple[Table, ...]:
    """Return all tables, the one of the arms first; a table without a row, and a column without a value, is left out."""
    found = [
        arms_table(figures),
        pairs_table(figures),
        drafts_table(figures),
        seeds_table(figures),
        criteria_table(figures),
        budgets_table(figures),
        rounds_table(layout),
        findings_table(layout),
        cost_table(figures),
    ]
    return tuple(without_empty(table) for table in found if table.rows)


def arms_table(figures: Figures) -> Table:
    """Return the main table: base, arms and teacher, a row each."""
    columns = columns_of(
        ("Arm", "text"),
        ("Score" if figures.scored else "Outcome against base", "score"),
        ("Gain over base", "signed"),
        ("Gain interval", "signed_interval"),
        ("Win rate over base", "percent"),
        ("Win rate interval", "interval"),
        ("Gap recovered", "percent"),
        ("Gap interval", "interval"),
        ("Gold", "score"),
        ("Words", "ratio"),
        ("Not judged", "count"),
    )
    rows = [_writer_row(BASE, figures.base), *(_arm_row(arm) for arm in figures.arms)]
    if figures.teacher is not None:
        rows.append(_writer_row(TEACHER, figures.teacher))
    if figures.equal == "teacher":
        columns += columns_of(("Judged and answered", "count"), ("Paid", "usd"), ("Time", "seconds"))
        work = {arm.label: _work_of(arm) for arm in figures.arms}
        rows = [(*row, *work.get(row[0], (None, None, None))) for row in rows]
    seeds = f"{len(figures.seeds)} seeds" if len(figures.seeds) > 1 else "one seed"
    over = "prompts and seeds" if len(figures.seeds) > 1 else "prompts"
    note = (
        f"Scored by {figures.judge} on {figures.prompts:,} test prompts, {seeds}; a draft that fails a gate counts 0. "
        f"Intervals: 95 %, over {over}. Gains are paired by prompt, scores are means of what was judged of each "
        "writer; the win rate counts ties half; words are over the base's."
    )
    return Table("arms", "Arms", columns, tuple(rows), note)


def _arm_row(arm: ArmFigures) -> tuple[Any, ...]:
    return (
        arm.label,
        arm.means.score and arm.means.score.value,
        *_value(arm.base.difference),
        *_value(arm.base.win_rate),
        arm.pgr and arm.pgr.value,
        arm.pgr and arm.pgr.interval,
        arm.means.gold and arm.means.gold.value,
        arm.base.length_ratio,
        arm.unknown or None,
    )


def _work_of(arm: ArmFigures) -> tuple[float | None, ...]:
    """Return what training an arm asked for, the mean of its seeds: replies, dollars, seconds."""
    money, time = ([getattr(each, name) for each in arm.costs] for name in ("charged_usd", "seconds"))
    return (_whole(budget_of(arm, "replies")), _known_mean(money) or None, _known_mean(time))


def _writer_row(label: str, means: Means) -> tuple[Any, ...]:
    return (label, means.score and means.score.value, *(None,) * 6, means.gold and means.gold.value, None, None)


def drafts_table(figures: Figures) -> Table:
    """Return what else is known of each writer's test drafts."""
    columns = columns_of(
        ("Arm", "text"),
        ("Training judge", "score"),
        ("Training judge's gain", "signed"),
        ("Judge gain interval", "signed_interval"),
        ("Gold gain", "signed"),
        ("Gold gain interval", "signed_interval"),
        ("Wins at equal length", "percent"),
        ("Equal length interval", "interval"),
        ("Win rate over teacher", "percent"),
        ("Teacher interval", "interval"),
        ("Gates passed", "percent"),
        ("Words a draft", "score"),
        ("Distinct-2", "score"),
    )
    rows = [(BASE, *_of_judge(figures.base), *(None,) * 8, *_of_texts(figures.base))]
    for arm in figures.arms:
        rows.append(
            (
                arm.label,
                arm.means.judge and arm.means.judge.value,
                *_value(arm.base.judge),
                *_value(arm.base.gold),
                arm.base.length_controlled,
                arm.base.length_controlled_interval,
                *_value(arm.teacher_rate),
                *_of_texts(arm.means),
            )
        )
    if figures.teacher is not None:
        rows.append((TEACHER, *_of_judge(figures.teacher), *(None,) * 8, *_of_texts(figures.teacher)))
    note = (
        "Gains and wins are against the base. Wins at equal length: the win rate that is left when both drafts have as many "
        "words, a dash where nearly all are longer, or nearly all shorter. Distinct-2: different word pairs over all word "
        "pairs of the test drafts."
    )
    return Table("drafts", "What the drafts are like", columns, tuple(rows), note)


def _of_judge(means: Means) -> tuple[Any, ...]:
    return (means.judge and means.judge.value,)


def _of_texts(means: Means) -> tuple[Any, ...]:
    return means.passed, means.words, means.distinct_2


def pairs_table(figures: Figures) -> Table:
    """Return each arm against each other, the one that is ahead first."""
    columns = columns_of(
        ("Arm", "text"),
        ("Against", "text"),
        ("Difference", "signed"),
        ("Difference interval", "signed_interval"),
        ("p, corrected", "score"),
        ("Seeds ahead", "text"),
        ("Win rate", "percent"),
        ("Win rate interval", "interval"),
        ("At equal length", "percent"),
        ("Equal length interval", "interval"),
        ("Words", "ratio"),
        ("Training judge", "signed"),
        ("Training judge interval", "signed_interval"),
        ("Gold", "signed"),
        ("Gold interval", "signed_interval"),
        ("Prompts up", "count"),
        ("Prompts down", "count"),
        ("p, signs", "score"),
        ("p, permutation", "score"),
        ("Smallest visible", "score"),
        ("Prompts needed", "count"),
    )
    rows = tuple(_pair_row(pair) for pair in figures.pairs if pair.difference is not None)
    note = (
        "Paired by prompt and seed. p, corrected: of the difference, by the interval's own test, after Holm for all pairs "
        "of arms; the tests by signs and by permutation look at prompts only. Smallest visible: the difference that so "
        "many prompts and seeds show four times in five; prompts needed: for a difference as large as this one."
    )
    return Table("pairs", "Arm against arm", columns, rows, note)


def _pair_row(pair: Versus) -> tuple[Any, ...]:
    assert pair.difference is not None
    needed = None if pair.clear or pair.needed is None or not np.isfinite(pair.needed) else round(pair.needed)
    return (
        pair.arm,
        pair.other,
        *_value(pair.difference),
        pair.holm,
        f"{pair.seeds_above} of {len(pair.difference.by_seed)}",
        *_value(pair.win_rate),
        pair.length_controlled,
        pair.length_controlled_interval,
        pair.length_ratio,
        *_value(pair.judge),
        *_value(pair.gold),
        pair.sign_up,
        pair.sign_down,
        pair.sign_p,
        pair.permutation_p,
        pair.smallest,
        needed,
    )


def seeds_table(figures: Figures) -> Table:
    """Return each seed's means, and its differences between arms."""
    titles = [arm.label for arm in figures.arms]
    pairs = [pair for pair in figures.pairs if pair.difference is not None]
    columns = columns_of(
        ("Seed", "text"),
        (BASE, "score"),
        *((title, "score") for title in titles),
        *((f"{pair.arm} − {pair.other}", "signed") for pair in pairs),
    )
    scores = [figures.base.score, *(arm.means.score for arm in figures.arms)]
    rows = tuple(
        (
            str(seed),
            *(_of_seed(each, number) for each in scores),
            *(_of_seed(pair.difference, number) for pair in pairs),
        )
        for number, seed in enumerate(figures.seeds)
    )
    return Table("seeds", "By seed", columns, rows if len(rows) > 1 else (), "Mean score of each seed's test drafts.")


def _of_seed(each: Estimate | None, number: int) -> float | None:
    return None if each is None else each.by_seed[number]


def criteria_table(figures: Figures) -> Table:
    """Return each criterion before and after, by arm, with its difference from the base."""
    columns = columns_of(
        ("Criterion", "text"),
        ("Arm", "text"),
        (BASE, "score"),
        ("After", "score"),
        ("Difference", "signed"),
        ("Difference interval", "signed_interval"),
        ("p, corrected", "score"),
        (TEACHER, "score"),
    )
    best = figures.teacher_criteria
    found = [(change, arm.label) for arm in figures.arms for change in arm.base.criteria]
    names = list(dict.fromkeys(change.criterion for change, _ in found))
    found.sort(key=lambda each: names.index(each[0].criterion))
    rows = tuple(
        (
            change.criterion,
            label,
            change.theirs,
            change.ours,
            change.difference,
            change.interval,
            change.p_holm,
            best.get(change.criterion),
        )
        for change, label in found
    )
    note = f"As {figures.criteria_of} sees it; p after Holm's correction for the number of criteria of an arm."
    return Table("criteria", "Criteria against the base", columns, rows, note)


BUDGET_COLUMNS = ("rounds", "prompts", "judged", "steps", "pairs", "trained")


def budgets_table(figures: Figures) -> Table:
    """Return what each arm was given, the mean of its seeds."""
    columns = columns_of(
        ("Arm", "text"),
        ("Rounds", "count"),
        ("Train prompts", "count"),
        ("Drafts judged", "count"),
        ("Optimiser steps", "count"),
        ("Pairs made", "count"),
        ("Pairs trained on", "count"),
        ("Answers written", "count"),
        ("Kept rounds", "text"),
    )
    rows = tuple(
        (
            arm.label,
            *(_whole(budget_of(arm, name)) for name in BUDGET_COLUMNS),
            _whole(budget_of(arm, "answers") or None),
            ", ".join(map(str, arm.kept)),
        )
        for arm in figures.arms
    )
    same = (
        "Steps, and drafts judged and answers written together,"
        if figures.equal == "teacher"
        else "Prompts, drafts judged and steps"
    )
    note = (
        f"Means of the seeds. {same} should be equal; pairs are what the judge made of the drafts. "
        "Pairs trained on count answers too, and past ones that were mixed in. Kept round 0 is the base."
    )
    return Table("budgets", "Budgets", columns, rows, note)


def rounds_table(layout: Layout) -> Table:
    """Return each arm's rounds on the validation prompts, the mean of its seeds."""
    columns = columns_of(
        ("Arm", "text"),
        ("Round", "count"),
        ("Training judge", "score"),
        ("Held-out judge", "score"),
        ("Gold", "score"),
        ("Win rate over base", "percent"),
        ("√KL to base", "score"),
        ("Tokens a draft", "score"),
        ("Distinct-2", "score"),
        ("Pairs", "count"),
        ("Steps", "count"),
    )
    rows = []
    for label, runs in layout.arms.items():
        for number in range(max(len(run.rounds) for run in runs)):
            here = [round_figures(run.rounds[number]) for run in runs if number < len(run.rounds)]
            rows.append((label, number, *(_round_mean(here, name) for name in ROUND)))
    return Table(
        "rounds", "Rounds", columns, tuple(rows), "Validation prompts, means of the seeds; round 0 is the base."
    )


ROUND = ("judge", "held_out", "gold", "win_rate", "sqrt_kl", "tokens", "distinct_2", "pairs", "steps")
"""Figures of a round, in the order of the table's columns."""


def _round_mean(rounds: Sequence[Mapping[str, float]], name: str) -> float | None:
    known = [each[name] for each in rounds if name in each]
    return _whole(float(np.mean(known))) if known else None


def findings_table(layout: Layout) -> Table:
    """Return what the guard found in each arm's rounds."""
    columns = columns_of(
        ("Arm", "text"), ("Level", "text"), ("Check", "text"), ("Where", "text"), ("First seen", "text")
    )
    return Table("findings", "Findings of the rounds", columns, tuple(_findings(layout)))


def _findings(layout: Layout) -> Iterator[tuple[str, ...]]:
    for label, runs in layout.arms.items():
        found: dict[tuple[str, str], list[str]] = {}
        first: dict[tuple[str, str], str] = {}
        for seed, run in zip(layout.seeds, runs, strict=True):
            for each in run.rounds:
                for finding in each.findings:
                    key = (finding.level, finding.check)
                    found.setdefault(key, []).append(f"seed {seed} round {each.round}")
                    first.setdefault(key, finding.message)
        for (level, check), places in sorted(found.items()):
            yield label, level, check, ", ".join(dict.fromkeys(places)), first[level, check]


def cost_table(figures: Figures) -> Table:
    """Return what each arm's judging cost, the mean of its seeds."""
    columns = columns_of(
        ("Arm", "text"),
        ("Judge calls", "count"),
        ("Judge tokens", "count"),
        ("Judging", "usd"),
        ("Paid in all", "usd"),
        ("Time", "seconds"),
    )
    rows = tuple(
        (
            arm.label,
            *(_whole(_known_mean([getattr(each, name) for each in arm.costs])) for name in ("calls", "tokens")),
            *(_known_mean([getattr(each, name) for each in arm.costs]) for name in ("usd", "charged_usd", "seconds")),
        )
        for arm in figures.arms
    )
    note = (
        "Means of the seeds. Calls count replies from the request cache too, tokens and dollars only what was sent: an arm "
        "that ran later may have found replies there. Time: of the rounds, without the test split."
    )
    return Table("cost", "Cost", columns, rows, note)


def _known_mean(values: Sequence[float | None]) -> float | None:
    known = [each for each in values if each is not None]
    return float(np.mean(known)) if known and len(known) == len(values) else None


def _whole(value: float | None) -> float | None:
    """Return a number without a fraction as an int, so that a CSV shows it as one."""
    return int(value) if value is not None and float(value).is_integer() else value


def _value(each: Estimate | None) -> tuple[float | None, Interval | None]:
    return (None, None) if each is None else (each.value, each.interval)
