"""The verdict: switch to the new student, stay with the old one, or not clear; from numbers only.

The new student may be a little worse where it saves something: "not worse" means that the interval of the difference
lies above minus the margin (non-inferiority). A gate that the new student clearly fails more often stands in the way of
a switch, whatever the mean says: what must hold is not made up for by what is nice.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from scipy.special import stdtrit

from prefdistill.compare.data import FEWEST_PROMPTS, MOST_UNKNOWN, Estimate
from prefdistill.metrics.criteria import CriterionDifference
from prefdistill.metrics.intervals import LEVEL
from prefdistill.metrics.power import prompts_needed
from prefdistill.refresh.figures import RefreshFigures, TaskFigures
from prefdistill.refresh.sizes import Size
from prefdistill.stages.report.formats import number, plain_count, signed, whole_percent
from prefdistill.stages.report.tables import cell_text

Word = Literal["switch", "stay", "not clear"]
MARGIN = 0.02
"""How much lower the new student's score may be and still count as no worse."""
LARGER = 0.05
"""Share by which parameters must differ to be called more or fewer."""
SLOWER = 0.3
"""Share by which seconds a draft must differ: a machine's other work alone moves them by some."""
TIMED = "timed once, whatever else the machine did then"
CLEAR = 0.05
"""Corrected p value up to which a criterion or gate has clearly changed."""
MANY = 100_000
"""Prompts beyond which a number of them says nothing but "no"."""


@dataclass(frozen=True)
class Answer:
    """What is said of a refresh."""

    word: Word
    headline: str
    reasons: tuple[str, ...]
    """Sentences, the most important first."""


@dataclass(frozen=True)
class Burden:
    """What the new student costs or saves beside the old one."""

    saves: tuple[str, ...]
    costs: tuple[str, ...]
    unknown: tuple[str, ...]


def give_verdict(figures: RefreshFigures, margin: float) -> Answer:
    """Return whether to switch, with reasons."""
    refused = next(iter(_refusals(figures)), None)
    if refused is not None:
        return Answer("not clear", f"Not clear: {refused}", (*_of_criteria(figures), *_of_tasks(figures)))
    found = figures.versus.difference
    assert found is not None and found.interval is not None
    worse_gates, burden = _clearly(figures.gates, worse=True), burden_of(figures.old.size, figures.new.size)
    word, because = _decide(found, found.interval, margin, worse_gates, burden)
    return Answer(
        word,
        f"{word.capitalize()}: {because}",
        (
            _difference(figures, found),
            *_of_gates(worse_gates),
            *_of_criteria(figures),
            *_of_tasks(figures),
            *_by_others(figures, found),
            *_of_bases(figures),
            *_of_burden(burden),
            *_wanted(figures, found, margin),
        ),
    )


def _refusals(figures: RefreshFigures) -> Iterator[str]:
    """Yield why nothing can be said."""
    if not figures.scored:
        yield (
            f"the evaluation judge {figures.judge} only compares two drafts, and each student was compared with its own "
            "base: there is no common measure; an `evaluate.judge` that scores drafts gives one."
        )
    known = figures.known
    if known < FEWEST_PROMPTS:
        yield (
            f"{known:,} test prompt{'s have' if known != 1 else ' has'} a score of both students, which is too few; "
            f"expected {FEWEST_PROMPTS} or more, better hundreds."
        )
    unknown = figures.prompts - known
    if unknown > MOST_UNKNOWN * figures.prompts:
        yield (
            f"{unknown:,} of {figures.prompts:,} test prompts have no score of one of the students, and at most "
            f"{MOST_UNKNOWN:.0%} may: verdicts are missing, and not by chance."
        )


def _decide(
    found: Estimate,
    interval: tuple[float, float],
    margin: float,
    worse_gates: Sequence[CriterionDifference],
    burden: Burden,
) -> tuple[Word, str]:
    low, high = interval
    if high < -margin:
        return "stay", f"the new student is worse by more than the margin of {margin:g}."
    if high < 0.0 and not burden.saves:
        return "stay", "the new student is worse, and saves nothing."
    if low <= -margin:
        return "not clear", (
            f"the new student may be worse by more than the margin of {margin:g}; {found.prompts:,} prompts cannot tell."
        )
    if worse_gates:
        names = ", ".join(each.criterion for each in worse_gates)
        return "not clear", f"by its mean the new student is not worse, but it fails a gate more often ({names})."
    if low > 0.0:
        price = f", and {_and(burden.costs)}" if burden.costs else ""
        return "switch", f"the new student is better{price}."
    level = "a little worse, within the margin" if high < 0.0 else "no worse"
    if burden.saves and burden.costs:
        return "not clear", f"the new student is {level}; it {_and(burden.saves)}, but {_and(burden.costs)}."
    if burden.saves:
        return "switch", f"the new student is {level}, and {_and(burden.saves)}."
    if burden.costs:
        return "stay", f"the new student is {level}, but not clearly better, and {_and(burden.costs)}."
    if burden.unknown:
        return "not clear", f"the new student is {level}, and what it costs is not known ({_and(burden.unknown)})."
    return "stay", f"the new student is {level}, but not clearly better, and saves nothing."


def burden_of(old: Size, new: Size) -> Burden:
    """Return what the new student costs or saves: parameters, and seconds a draft where one machine wrote both."""
    saves: list[str] = []
    costs: list[str] = []
    unknown: list[str] = []
    if old.parameters and new.parameters:
        ratio = new.parameters / old.parameters
        if ratio < 1 - LARGER:
            saves.append(f"has {whole_percent(1 - ratio)} fewer parameters")
        elif ratio > 1 + LARGER:
            costs.append(f"has {_times(ratio)} the parameters")
    else:
        unknown.append("parameters")
    if old.seconds_a_draft and new.seconds_a_draft and old.machine == new.machine:
        ratio = new.seconds_a_draft / old.seconds_a_draft
        if ratio < 1 - SLOWER:
            saves.append(f"wrote a draft in {whole_percent(ratio)} of the time ({TIMED})")
        elif ratio > 1 + SLOWER:
            costs.append(f"took {_times(ratio)} the time a draft ({TIMED})")
    else:
        unknown.append("seconds a draft")
    return Burden(tuple(saves), tuple(costs), tuple(unknown))


def _times(ratio: float) -> str:
    return f"{number(ratio, 2)} times"


def _clearly(rows: Sequence[CriterionDifference], worse: bool) -> list[CriterionDifference]:
    """Return the rows that have clearly fallen, or risen, after the correction for their number."""
    return [
        each
        for each in rows
        if each.p_holm is not None and each.p_holm <= CLEAR and (each.difference < 0) == worse and each.difference
    ]


def _difference(figures: RefreshFigures, found: Estimate) -> str:
    who = "self-judged" if figures.self_judged else f"by the held-out judge {figures.judge}"
    old, new = figures.old.policy.score, figures.new.policy.score
    means = "" if old is None or new is None else f": {number(old.value)} → {number(new.value)}"
    wins = figures.versus.win_rate
    rate = ""
    if wins is not None:
        between = "" if wins.interval is None else f" ({_shares(wins.interval)})"
        rate = f"; the new student's draft is the better one on {whole_percent(wins.value)} of them{between}, ties half"
    return f"New against old on {found.prompts:,} test prompts, {who}{means}, {amount(found)}{rate}."


def _of_gates(worse: Sequence[CriterionDifference]) -> Iterator[str]:
    for each in worse:
        yield (
            f"Gate {each.criterion}: {whole_percent(each.theirs)} of the old student's drafts pass it, "
            f"{whole_percent(each.ours)} of the new one's."
        )


def _of_criteria(figures: RefreshFigures) -> Iterator[str]:
    """Name every criterion that clearly fell, even where the mean rose, and those that clearly rose."""
    for each in _clearly(figures.criteria, worse=True):
        yield (
            f"Criterion {each.criterion} got clearly worse: {number(each.theirs)} → {number(each.ours)} "
            f"(p after correction: {cell_text(each.p_holm, 'score')})."
        )
    risen = [f"{each.criterion} {signed(each.difference)}" for each in _clearly(figures.criteria, worse=False)]
    if risen:
        yield f"Clearly better: {', '.join(risen)}."


def _of_tasks(figures: RefreshFigures) -> Iterator[str]:
    for task in figures.also:
        yield from _of_task(task)


def _of_task(task: TaskFigures) -> Iterator[str]:
    found, own = task.difference, task.forgotten
    if found is not None and found.clear:
        word = "better" if found.value > 0 else "worse"
        yield f"Other task {task.task}: the new student is clearly {word} than the old one, {amount(found)}."
    if own is not None and own.clear and own.value < 0:
        yield f"Other task {task.task}: the new student lost some of what its own base could, {amount(own)}."


def _by_others(figures: RefreshFigures, found: Estimate) -> Iterator[str]:
    """Say where the training judge, or gold, points the other way, and what gold says."""
    gold, judge = figures.versus.gold, figures.versus.judge
    if gold is not None:
        against = found.clear and gold.clear and gold.value * found.value < 0
        odds = ": the judge is wrong here" if against else ""
        yield f"By gold, the sandbox's truth: {amount(gold)}{odds}."
    if judge is not None and not figures.self_judged and judge.clear:
        word = "better" if judge.value > 0 else "worse"
        at_odds = judge.value * found.value < 0 or not found.clear
        advice = ": read drafts of both before you decide" if at_odds else ""
        yield f"By the training judge the new student is clearly {word}, {amount(judge)}{advice}."


def _of_bases(figures: RefreshFigures) -> Iterator[str]:
    found = figures.base_difference
    if found is not None and found.clear:
        word = "better" if found.value > 0 else "worse"
        yield f"Before any training the new base is {word} than the old one, {amount(found)}."


def _of_burden(burden: Burden) -> Iterator[str]:
    parts = [*burden.saves, *burden.costs]
    if parts:
        yield f"The new student {_and(parts)}."


def _wanted(figures: RefreshFigures, found: Estimate, margin: float) -> Iterator[str]:
    """Say how many prompts would settle a difference like this one, where these do not."""
    assert found.interval is not None
    low, high = found.interval
    room = found.value + margin
    if low > -margin or high < -margin or room <= 0.0 or found.df is None:
        return
    spread = (high - low) / 2 / float(stdtrit(found.df, (1 + LEVEL) / 2)) * found.prompts**0.5
    needed = prompts_needed(room, spread)
    if needed > MANY:
        yield f"A difference this close to the margin would need over {plain_count(MANY)} test prompts."
    elif needed > found.prompts:
        digits = 10 ** max(0, len(str(needed)) - 2)
        yield f"About {round(needed / digits) * digits:,} test prompts would settle a difference like this one."


def amount(found: Estimate) -> str:
    """Return a difference with its interval."""
    if found.interval is None:
        return signed(found.value)
    return f"{signed(found.value)} ({signed(found.interval[0])} to {signed(found.interval[1])})"


def _shares(interval: tuple[float, float]) -> str:
    return f"{whole_percent(interval[0])} to {whole_percent(interval[1])}"


def _and(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
