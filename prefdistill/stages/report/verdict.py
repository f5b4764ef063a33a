"""What the numbers say, in one sentence a product owner understands, and the figures beside it."""

from __future__ import annotations

from dataclasses import dataclass

from prefdistill.records import EvaluationResult
from prefdistill.stages.report.data import ReportData, find_result

UNIT = "\u00a0%"
"""With the space that does not break."""


@dataclass(frozen=True)
class Figure:
    """One number of the page's head."""

    name: str
    value: str
    note: str


def percent(share: float | None) -> str:
    """Return a share as a percentage."""
    return "–" if share is None else f"{100 * share:.1f}{UNIT}"


def percent_interval(interval: tuple[float, float]) -> str:
    """Return an interval of shares as percentages."""
    return f"{100 * interval[0]:.1f} to {100 * interval[1]:.1f}{UNIT}"


def number(value: float | None, digits: int = 3) -> str:
    """Return a score, with a real minus sign."""
    return "–" if value is None else f"{value:.{digits}f}".replace("-", "−")


def signed(value: float, digits: int = 3) -> str:
    """Return a difference with its sign."""
    return f"{value:+.{digits}f}".replace("-", "−")


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
        trained = len(report.rounds) - 1
        rounds = "the one round" if trained == 1 else f"none of {trained} rounds"
        verb = "did not score" if trained == 1 else "scored"
        return f"The base is kept: {rounds} {verb} higher on the validation prompts."
    result = measured(report)
    if result is None:
        return f"Round {report.best_round} is kept; its drafts have not been compared with the base’s."
    judged = result.wins + result.losses + result.ties
    low, high = result.interval
    prompts = f"{judged} {result.split} prompts"
    if low > 0.5:
        return (
            f"Round {report.best_round} is kept: its drafts beat the base’s, with a win rate of "
            f"{percent(result.win_rate)} on {prompts}."
        )
    if high < 0.5:
        return (
            f"Round {report.best_round} is kept, but its drafts are worse than the base’s: a win rate of "
            f"{percent(result.win_rate)} on {prompts}."
        )
    return (
        f"Round {report.best_round} is kept, but {prompts} show no clear difference from the base: a win rate of "
        f"{percent(result.win_rate)}, and 50{UNIT} is inside the interval."
    )


def trust(report: ReportData) -> str:
    """Say who judged, and how far that can be believed."""
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
    if result is not None and report.best_round > 0:
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
        found.append(
            Figure(
                "Gold, exact score",
                f"{number(gold['base'], 2)} → {number(gold['policy'], 2)}",
                f"{signed(gold['policy'] - gold['base'])}; never used to train or to select{oracle}",
            )
        )
    if report.pgr is not None:
        if report.pgr.value is not None and report.pgr.interval is not None:
            note = f"of the base’s distance to the teacher; {percent_interval(report.pgr.interval)}"
            found.append(Figure("Gap recovered", percent(report.pgr.value), note))
        else:
            found.append(Figure("Gap recovered", "not given", report.pgr.refused or ""))
    if result is not None and result.length_ratio is not None and report.best_round > 0:
        found.append(Figure("Length", f"× {result.length_ratio:.2f}", "words of its drafts over the base’s"))
    return found
