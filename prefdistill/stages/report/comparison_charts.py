"""The charts of a comparison: one line an arm, the mean over its seeds, with the single seeds thin behind it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from prefdistill.stages.report.charts import Chart, Point, Reference, Series, show_ends
from prefdistill.stages.report.comparison import ArmInfo, ComparisonReport, CurvePoint
from prefdistill.stages.report.formats import count, number, percent, plain, tenths, time_unit, usd, whole_percent

Show = Callable[[float], str]
X = Literal["round", "sqrt_kl", "judged_drafts"]
X_NAMES: dict[X, str] = {"round": "round", "sqrt_kl": "√KL to the base", "judged_drafts": "judged drafts"}
SCORES = {"judge": "Training judge’s score", "held_out": "Held-out judge’s score", "gold": "Gold, exact score"}


@dataclass(frozen=True)
class _Quantity:
    """What a chart shows on its y axis."""

    key: str
    title: str
    show: Show
    show_tick: Show
    include: tuple[float, ...] = ()
    limits: tuple[float, float] | None = None


def comparison_charts(report: ComparisonReport) -> list[Chart]:
    """Return the charts of a comparison; one that would show nothing is left out."""
    found = [*_scores(report, "sqrt_kl"), *_scores(report, "judged_drafts"), _win_rate(report)]
    length = _Quantity("tokens", "Mean length of validation drafts, tokens", tenths, plain, (0.0,))
    found.append(_chart(report, length, "round", _base(report, "tokens")))
    diversity = _Quantity("distinct_2", "Diversity of validation drafts (distinct-2)", number, plain)
    found.append(_chart(report, diversity, "round", _base(report, "distinct_2")))
    found += [_chart(each, quantity, "round", ()) for each, quantity in _costs(report)]
    return [each for each in found if each is not None]


def _scores(report: ComparisonReport, x: X) -> list[Chart | None]:
    """Return a chart a judge; those on one scale have one axis, so that their rises can be compared."""
    known = {key: values for key in SCORES if (values := list(_values(report, key)))}
    shared = [key for key, values in known.items() if all(0.0 <= value <= 1.0 for value in values)]
    ends = [end for key in shared for end in (min(known[key]), max(known[key]))]
    found = []
    for key in known:
        title = f"{SCORES[key]} against {X_NAMES[x]}"
        unit = key in shared
        quantity = _Quantity(key, title, number, plain, tuple(ends) if unit else (), (0.0, 1.0) if unit else None)
        found.append(_chart(report, quantity, x, _base(report, key)))
    return found


def _win_rate(report: ComparisonReport) -> Chart | None:
    quantity = _Quantity("win_rate", "Win rate over the base, validation", percent, whole_percent, limits=(0.0, 1.0))
    return _chart(report, quantity, "round", (Reference("as good as the base", 0.5),))


def _costs(report: ComparisonReport) -> list[tuple[ComparisonReport, _Quantity]]:
    """Return what judging came to in the best unit there is, and the time in one that people would take."""
    found = []
    if any(_values(report, "usd")):
        found.append((report, _Quantity("usd", "Judging of training drafts so far, US dollars", usd, usd, (0.0,))))
    elif any(_values(report, "judge_tokens")):
        found.append(
            (report, _Quantity("judge_tokens", "Judging of training drafts so far, tokens", count, plain, (0.0,)))
        )
    longest = max(_values(report, "seconds"), default=0.0)
    if longest > 0:
        name, size = time_unit(longest)
        found.append((_in_unit(report, size), _Quantity("seconds", f"Time so far, {name}", plain, plain, (0.0,))))
    return found


def _in_unit(report: ComparisonReport, size: float) -> ComparisonReport:
    """Return the report with its times in a unit of so many seconds."""

    def scaled(values: Mapping[str, float]) -> dict[str, float]:
        return {key: round(value / size, 2) if key == "seconds" else value for key, value in values.items()}

    curves = tuple(
        replace(curve, points=tuple(replace(point, values=scaled(point.values)) for point in curve.points))
        for curve in report.curves
    )
    return replace(report, curves=curves)


def _values(report: ComparisonReport, key: str) -> Iterable[float]:
    return (point.values[key] for curve in report.curves for point in curve.points if key in point.values)


def _base(report: ComparisonReport, key: str) -> tuple[Reference, ...]:
    """Return the base's level, the mean over the seeds; every arm of a seed begins at the same base."""
    by_seed = {
        curve.seed: point.values[key]
        for curve in report.curves
        for point in curve.points
        if point.round == 0 and key in point.values
    }
    return (Reference("base", sum(by_seed.values()) / len(by_seed)),) if by_seed else ()


def _chart(report: ComparisonReport, what: _Quantity, x: X, references: tuple[Reference, ...]) -> Chart | None:
    heads = _heads(report, x)
    lines = tuple(line for arm in report.arms if (line := _line(report, arm, what, x, not heads)) is not None)
    if not lines or (x != "round" and len({point.x for line in lines for point in line.points}) < 2):
        return None
    show_x: Show | None = {"sqrt_kl": plain, "judged_drafts": count}.get(x)
    return Chart(
        what.title,
        lines,
        what.show,
        what.show_tick,
        X_NAMES[x],
        references,
        limits=what.limits,
        include=what.include,
        show_x=show_x,
        heads=heads,
    )


def _heads(report: ComparisonReport, x: X) -> dict[float, str]:
    """Return the round of each x where every run has the same x in a round; nothing where they have not."""
    if x == "round":
        return {}
    rounds: dict[int, set[float]] = {}
    for curve in report.curves:
        for each in curve.points:
            rounds.setdefault(each.round, set()).add(_place(each, x) or 0.0)
    equal = all(len(places) == 1 for places in rounds.values())
    return {place: f"round {each}" for each, places in rounds.items() for place in places} if equal else {}


def _line(report: ComparisonReport, arm: ArmInfo, what: _Quantity, x: X, name_round: bool) -> Series | None:
    """Return an arm's line: by round, the mean of its seeds in both directions."""
    curves = [curve for curve in report.curves if curve.arm == arm.label]
    runs = [
        {each.round: point for each in curve.points if (point := _point(each, what.key, x)) is not None}
        for curve in curves
    ]
    rounds = sorted({each for run in runs for each in run})
    if not any(rounds):
        return None
    points = []
    for each in rounds:
        named = f"round {each}, " if name_round and x != "round" else ""
        points.append(_mean([run[each] for run in runs if each in run], named, what.show))
    single = tuple(tuple(run[each] for each in sorted(run)) for run in runs if run) if len(runs) > 1 else ()
    return Series(arm.label, tuple(points), arm.look, single)


def _place(each: CurvePoint, x: X) -> float | None:
    return float(each.round) if x == "round" else each.values.get(x, 0.0 if each.round == 0 else None)


def _point(each: CurvePoint, key: str, x: X) -> Point | None:
    values, place = each.values, _place(each, x)
    if key not in values or place is None:
        return None
    ends = (values.get("win_low"), values.get("win_high")) if key == "win_rate" else (None, None)
    return Point(place, values[key], *ends)


def _mean(points: list[Point], named: str, show: Show) -> Point:
    """Return the mean of one round's seeds; its interval is the mean of theirs, which hold the choice of prompts."""
    many = len(points)
    heights = [each.y for each in points]
    lows, highs = [each.low for each in points], [each.high for each in points]
    seeds = f"{many} seeds {show_ends(show, min(heights), max(heights))}" if many > 1 else "1 seed"
    return Point(
        round(sum(each.x for each in points) / many, 4),
        sum(heights) / many,
        _known_mean(lows),
        _known_mean(highs),
        f"{named}{seeds}",
    )


def _known_mean(values: list[float | None]) -> float | None:
    known = [each for each in values if each is not None]
    return sum(known) / len(known) if len(known) == len(values) else None
