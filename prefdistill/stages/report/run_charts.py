"""The charts of a run's report: what rounds brought, and what they cost in drift from the base, drafts and money."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import accumulate

from prefdistill.records import RoundResult
from prefdistill.stages.report.charts import Chart, Point, Reference, Series
from prefdistill.stages.report.data import ReportData, find_result, judging
from prefdistill.stages.report.formats import count, number, percent, plain, tenths, time_unit, usd, whole_percent

JUDGE, HELD_OUT, GOLD, WIN_RATE = 1, 2, 3, 1
"""Looks of the charts' lines: one quantity, one colour and marker."""
SQRT_KL = "√KL to the base"
JUDGED = "judged drafts"


def run_charts(report: ReportData) -> list[Chart]:
    """Return the run's charts: scores by round, √KL and judged drafts, win rate, length, diversity, cost."""
    kept = float(report.best_round)
    rounds = {each.round: float(each.round) for each in report.rounds}
    found = _score_charts(report, rounds, "round")
    rates = tuple(
        Point(each.round, result.win_rate, *result.interval)
        for each in report.rounds
        if (result := find_result(each.evaluation)) is not None and each.round > 0
    )
    if rates:
        even = Reference("as good as the base", 0.5)
        line = Series("win rate", rates, WIN_RATE)
        title = "Win rate over the base, validation"
        found.append(Chart(title, (line,), percent, whole_percent, "round", (even,), kept, (0.0, 1.0)))
    for xs, name in ((_sqrt_kl(report), SQRT_KL), (_judged(report), JUDGED)):
        if len(set(xs.values())) > 1:
            found += _score_charts(report, xs, name)
    length = _series(report, "tokens a draft", JUDGE, rounds, lambda r: r.mean_tokens)
    if length.points:
        found.append(Chart("Mean length of validation drafts", (length,), tenths, plain, kept=kept, include=(0.0,)))
    return [*found, *_diversity(report), *_cost(report)]


def _score_charts(report: ReportData, xs: dict[int, float], x_name: str) -> list[Chart]:
    """Return the scores against an x by round; a judge with a scale of its own has a chart of its own."""
    judge = "judge" + (" (self-judged)" if report.self_judged else "")
    scores = [
        _series(report, judge, JUDGE, xs, lambda r: r.rubric_score),
        _series(report, "held-out judge", HELD_OUT, xs, lambda r: r.held_out_score),
        _series(report, "gold", GOLD, xs, lambda r: r.gold),
    ]
    teacher = next((r.teacher_rubric_score for r in report.rounds if r.teacher_rubric_score is not None), None)
    measured = x_name != "round"
    found = []
    for in_unit, title in ((True, "Score on validation drafts"), (False, "Score on the judge’s own scale")):
        lines = tuple(each for each in scores if each.points and _in_unit(each) == in_unit)
        references: tuple[Reference, ...] = ()
        if teacher is not None and any(each.look == JUDGE for each in lines):
            references = (Reference("teacher, by the judge", teacher, JUDGE),)
        if lines:
            found.append(
                Chart(
                    title if not measured else f"{title.replace(' on validation drafts', '')} against {x_name}",
                    lines,
                    number,
                    plain,
                    x_name,
                    references,
                    xs.get(report.best_round),
                    (0.0, 1.0) if in_unit else None,
                    show_x={SQRT_KL: plain, JUDGED: count}.get(x_name),
                    heads=_heads(report, xs, measured),
                )
            )
    return found


def _heads(report: ReportData, xs: dict[int, float], measured: bool) -> dict[float, str]:
    """Return what is said of an x before its value: its round on a measured axis, of a round the warm start alone."""
    if measured:
        return {xs[each.round]: each.name if each.round else "round 0" for each in report.rounds if each.round in xs}
    return {xs[each.round]: "warm start" for each in report.rounds if each.warm_start}


def _series(
    report: ReportData, name: str, look: int, xs: dict[int, float], read: Callable[[RoundResult], float | None]
) -> Series:
    points = ((xs[each.round], read(each)) for each in report.rounds if each.round in xs)
    return Series(name, tuple(Point(x, y) for x, y in points if y is not None), look)


def _in_unit(series: Series) -> bool:
    return all(0.0 <= point.y <= 1.0 for point in series.points)


def _sqrt_kl(report: ReportData) -> dict[int, float]:
    """Return how far each round's policy is from the base, 0 for the base itself; a round without a KL is left out."""
    measured = {each.round: each.diagnostics.get("kl_base") for each in report.rounds}
    return {
        number: 0.0 if number == 0 else round(math.sqrt(max(0.0, value or 0.0)), 4)
        for number, value in measured.items()
        if number == 0 or value is not None
    }


def _judged(report: ReportData) -> dict[int, float]:
    """Return how many training drafts were judged up to and with each round."""
    totals = accumulate(each.judged for each in report.rounds)
    return {each.round: float(total) for each, total in zip(report.rounds, totals, strict=True)}


def _diversity(report: ReportData) -> list[Chart]:
    """Return how varied each round's validation drafts are, the base's and the teacher's beside them."""
    own = {each.round: each.diagnostics.get("policy_distinct_2") for each in report.rounds}
    base = next((r.diagnostics["base_distinct_2"] for r in report.rounds if "base_distinct_2" in r.diagnostics), None)
    teacher = next(
        (r.diagnostics["teacher_distinct_2"] for r in report.rounds if "teacher_distinct_2" in r.diagnostics), None
    )
    if base is not None:
        own[0] = base
    points = tuple(Point(float(number), value) for number, value in sorted(own.items()) if value is not None)
    if len(points) < 2:
        return []
    levels = tuple(
        Reference(name, value, look)
        for name, value, look in (("base", base, 0), ("teacher", teacher, JUDGE))
        if value is not None
    )
    line = Series("different word pairs, share", points, JUDGE)
    kept = float(report.best_round)
    return [Chart("Diversity of validation drafts (distinct-2)", (line,), number, plain, "round", levels, kept)]


def _cost(report: ReportData) -> list[Chart]:
    """Return what the rounds came to, summed up: US dollars of judging where all is priced, else tokens; and time."""
    spent = [judging(each) for each in report.rounds]
    kept = float(report.best_round)
    dollars = [each.usd for each in spent]
    tokens = [float(each.prompt_tokens + each.completion_tokens) for each in spent]
    found: list[tuple[str, str, list[float], Callable[[float], str]]] = []
    if any(dollars) and not report.unpriced:
        found.append(("Judging so far, US dollars", "US dollars", dollars, usd))
    elif any(tokens):
        found.append(("Judging so far, tokens", "tokens", tokens, count))
    times = [sum(each.seconds.values()) for each in report.rounds]
    unit, size = time_unit(sum(times))
    found.append((f"Time so far, {unit}", "time", [each / size for each in times], tenths))
    return [
        Chart(title, (_running(report, name, values),), show, plain, kept=kept, include=(0.0,))
        for title, name, values, show in found
        if sum(value > 0 for value in values) > 1
    ]


def _running(report: ReportData, name: str, values: list[float]) -> Series:
    totals = zip(report.rounds, accumulate(values), strict=True)
    return Series(name, tuple(Point(float(each.round), total) for each, total in totals), JUDGE)
