"""What the numbers say, in one sentence a product owner understands, and the figures beside it."""

from __future__ import annotations

from dataclasses import dataclass

from prefdistill.records import EvaluationResult
from prefdistill.stages.report.data import ReportData, find_result, learned_from
from prefdistill.stages.report.formats import UNIT, number, percent, percent_interval, signed


@dataclass(frozen=True)
class Figure:
    """One number of the page's head."""

    name: str
    value: str
    note: str


def measured(report: ReportData) -> EvaluationResult | None:
    """Return the figure that counts: the kept policy against the base on test prompts, else on validation prompts."""
    found = find_result(report.test)
    if found is None:
        kept = next((each for each in report.rounds if each.round == report.best_round), None)
        found = find_result(kept.evaluation) if kept else None
    return found


def headline(report: ReportData) -> str:
    """Return the sentence at the top, from the numbers only."""
    if report.best_round == 0:
        return _base_kept(report) if report.best_of == 1 else f"{_base_kept(report)} {_choice(report)}"
    result = measured(report)
    kept = next(each.name.capitalize() for each in report.rounds if each.round == report.best_round)
    if result is None:
        return f"{kept} is kept; its drafts have not been compared with the base’s."
    judged = result.wins + result.losses + result.ties
    low, high = result.interval
    prompts = f"{judged} {result.split} prompts"
    drafts, theirs = "its drafts", "the base’s"
    if report.best_of > 1:
        drafts, theirs = f"the best of {report.best_of} of its drafts", "one of the base’s"
    if low > 0.5:
        return f"{kept} is kept: {drafts} beat {theirs}, with a win rate of {percent(result.win_rate)} on {prompts}."
    if high < 0.5:
        return (
            f"{kept} is kept, but {drafts} are worse than {theirs}: a win rate of "
            f"{percent(result.win_rate)} on {prompts}."
        )
    unclear = "from the base" if report.best_of == 1 else f"between {drafts} and {theirs}"
    return (
        f"{kept} is kept, but {prompts} show no clear difference {unclear}: a win rate of "
        f"{percent(result.win_rate)}, and 50{UNIT} is inside the interval."
    )


def _base_kept(report: ReportData) -> str:
    trained = len(report.rounds) - 1
    if not trained:
        return "Nothing was trained: this is the base as it is."
    if any(each.warm_start for each in report.rounds):
        rounds = "the warm start" if trained == 1 else "neither the warm start nor a round after it"
    else:
        rounds = "the one round" if trained == 1 else f"none of {trained} rounds"
    verb = "did not score" if trained == 1 else "scored"
    return f"The base is kept: {rounds} {verb} higher on the validation prompts."


def _choice(report: ReportData) -> str:
    """Return what choosing the best of the base's drafts gives."""
    result, several = measured(report), f"the best of {report.best_of} of its drafts"
    if result is None:
        return f"{several[0].upper()}{several[1:]} has not been compared with a single one."
    prompts = f"{result.wins + result.losses + result.ties} {result.split} prompts"
    rate = f"a win rate of {percent(result.win_rate)} on {prompts}"
    if result.interval[0] > 0.5:
        return f"{several[0].upper()}{several[1:]}, chosen by {report.judge}, beats a single one: {rate}."
    if result.interval[1] < 0.5:
        return f"{several[0].upper()}{several[1:]}, chosen by {report.judge}, is worse than a single one: {rate}."
    return f"{several[0].upper()}{several[1:]} shows no clear difference from a single one: {rate}."


def trust(report: ReportData) -> str:
    """Say who judged, and how far that can be believed."""
    if len(report.rounds) == 1:
        if report.best_of == 1:
            return f"Judged by {report.evaluation_judge}."
        if report.self_judged:
            return (
                f"Self-judged: {report.evaluation_judge}, which scored these drafts, also chose among them, so they had to "
                "score higher. A second judge would be evidence."
            )
        return f"Judged by {report.evaluation_judge}, which took no part in the choice."
    if learned_from(report) == ("answers",):
        return f"Judged by {report.evaluation_judge}; no judge chose between drafts to train on, the teacher’s answers were."
    if report.self_judged:
        return (
            f"Self-judged: {report.evaluation_judge}, which scored these drafts, also made the training pairs. "
            "A second judge would be stronger evidence."
        )
    return f"Judged by {report.evaluation_judge}, which took no part in training; {report.judge} made the pairs."


def figures(report: ReportData) -> list[Figure]:
    """Return the head's numbers, each with what bounds or explains it."""
    found = []
    result = measured(report)
    differs = report.best_round > 0 or report.best_of > 1
    if result is not None and not differs and len(report.rounds) == 1:
        name = "Rubric score" if report.self_judged else "Held-out score"
        found.append(Figure(name, number(result.score, 2), f"the base’s drafts on {result.split} prompts"))
    if result is not None and differs:
        counts = f"{result.wins} wins, {result.ties} ties, {result.losses} losses"
        unknown = f", {result.unknown} not judged" if result.unknown else ""
        found.append(
            Figure(
                f"Win rate, {result.split} prompts",
                percent(result.win_rate),
                f"95 % interval {percent_interval(result.interval)}; {counts}{unknown}",
            )
        )
        low, high = result.score_gain_interval
        found.append(
            Figure(
                "Rubric score" if report.self_judged else "Held-out score",
                f"{number(result.baseline_score, 2)} → {number(result.score, 2)}",
                f"{signed(result.score_gain)} by prompt ({signed(low)} to {signed(high)})",
            )
        )
    if {"policy", "base"} <= report.test_gold.keys():
        gold = report.test_gold
        oracle = f"; the teacher has {number(gold['teacher'], 2)}" if "teacher" in gold else ""
        if differs or len(report.rounds) > 1:
            change = f"{signed(gold['policy'] - gold['base'])}; never used to train or to select{oracle}"
            found.append(
                Figure("Gold, exact score", f"{number(gold['base'], 2)} → {number(gold['policy'], 2)}", change)
            )
        else:
            found.append(Figure("Gold, exact score", number(gold["base"], 2), f"of the base’s drafts{oracle}"))
    if report.pgr is not None and (differs or len(report.rounds) > 1):
        if report.pgr.value is not None and report.pgr.interval is not None:
            note = f"of the base’s distance to the teacher; {percent_interval(report.pgr.interval)}"
            found.append(Figure("Gap recovered", percent(report.pgr.value), note))
        else:
            found.append(Figure("Gap recovered", "not given", report.pgr.refused or ""))
    if result is not None and result.length_ratio is not None and differs:
        found.append(Figure("Length", f"× {result.length_ratio:.2f}", "words of its drafts over the base’s"))
    return found
