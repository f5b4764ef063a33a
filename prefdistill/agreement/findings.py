"""What the figures mean, in plain words: named warnings about a judge, and whether there is anything to measure it by."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from prefdistill.agreement.criteria import CriterionFigures
from prefdistill.agreement.figures import Figure
from prefdistill.agreement.measuring import Measured
from prefdistill.metrics.agreement import CHANCE, FLOOR, RELIABLE

ENOUGH = 5
"""Fewer items than this say nothing about a judge."""
OFTEN = 0.1
"""A share of flips, abstentions or changed answers from which a person should know."""


def people_agree(figures: Mapping[str, Figure]) -> bool | None:
    """Return whether people agree better than by chance; None where no two people labelled the same enough times."""
    known = [figures[name] for name in ("people_alpha", "people_tau") if _enough(figures[name])]
    if not known:
        return None
    return max(each.value or 0.0 for each in known) >= CHANCE


def find_warnings(measured: Measured, criteria: Sequence[CriterionFigures]) -> list[str]:
    """Return what is wrong with the judge, or with the labels, the gravest first."""
    return [
        *_about_people(measured.figures),
        *_about_positions(measured),
        *_about_length(measured.figures),
        *(_about_accuracy(measured.figures) if people_agree(measured.figures) is not False else ()),
        *_about_noise(measured),
        *_about_criteria(criteria),
    ]


def _enough(figure: Figure) -> bool:
    return figure.value is not None and figure.n >= ENOUGH


def _about_people(figures: Mapping[str, Figure]) -> Iterator[str]:
    alpha = figures["people_alpha"]
    if people_agree(figures) is False:
        found = ", ".join(
            f"{word} {figures[name].value:.2f}"
            for name, word in (("people_alpha", "Krippendorff's alpha"), ("people_tau", "Kendall's tau"))
            if figures[name].value is not None
        )
        yield (
            f"people do not agree with one another ({found}; 0 is chance): there is nothing here to grade a judge by. "
            "Sharpen the question or the rubric and label again"
        )
    elif _enough(alpha) and (alpha.value or 0.0) < FLOOR:
        yield (
            f"people agree weakly (Krippendorff's alpha {alpha.value:.2f}; {RELIABLE:.2f} is reliable, {FLOOR} the floor): "
            "read every figure against them beside the human ceiling"
        )


def _about_positions(measured: Measured) -> Iterator[str]:
    figures, orders = measured.figures, measured.orders
    flipped, first = figures["flipped"], figures["first_pick"]
    if orders.flipped and _enough(first) and first.interval is not None and (flipped.value or 0.0) >= OFTEN / 2:
        place, count = ("first", orders.to_first) if (first.value or 0.0) > 0.5 else ("second", orders.to_second)
        if not first.interval[0] <= 0.5 <= first.interval[1]:
            yield (
                f"position-biased: in {count} of the {orders.flipped} pairs whose winner changes with the order, the judge "
                f"picks the draft shown {place} ({flipped.value:.0%} of {orders.known} pairs change). Compare in both "
                "orders and drop what disagrees"
            )


def _about_length(figures: Mapping[str, Figure]) -> Iterator[str]:
    judge, people, gap = figures["longer"], figures["people_longer"], figures["longer_gap"]
    if _enough(gap) and gap.interval is not None and gap.interval[0] > 0 and (gap.value or 0.0) >= OFTEN / 2:
        yield (
            f"prefers the longer draft more than people do: it picks the longer one in {judge.value:.0%} of {judge.n} "
            f"pairs, people in {people.value:.0%}"
        )


def _about_accuracy(figures: Mapping[str, Figure]) -> Iterator[str]:
    accuracy, longest, both = figures["accuracy"], figures["longest_wins"], figures["both_orders"]
    if _enough(accuracy) and (accuracy.value or 0.0) <= (longest.value or 0.0):
        yield (
            f"no better than picking the longer draft: accuracy {accuracy.value:.2f}, `longest wins` {longest.value:.2f}"
        )
    if _enough(both) and both.interval is not None and both.interval[1] < 0.5:
        yield (
            f"wrong where it is sure: of {both.n} pairs on which both orders agree it names the people's winner in "
            f"{both.value:.0%}. Agreeing orders do not make a verdict right"
        )


def _about_noise(measured: Measured) -> Iterator[str]:
    figures = measured.figures
    again, lost, cycles = figures["repeat_flips"], figures["abstained"], figures["cycles"]
    if _enough(again) and (again.value or 0.0) >= OFTEN:
        yield f"changes its mind: {again.value:.0%} of {again.n} answers differ when the same question is asked again"
    kinds = ", ".join(f"{count} {kind}" for kind, count in measured.failures.items())
    if measured.pairs and figures["judged"].value == 0.0:
        yield (
            f"none of the labelled pairs could be judged ({kinds}). Verdicts on record are found by the ids of prompts "
            "and drafts, or by their texts: do the labels have the same?"
        )
    elif (lost.value or 0.0) >= OFTEN / 2:
        yield f"abstains often: {lost.value:.0%} of {lost.n} answers could not be obtained or read ({kinds})"
    if _enough(cycles) and (cycles.value or 0.0) >= OFTEN / 2:
        yield (
            f"contradicts itself: {cycles.value:.0%} of {cycles.n} threes of drafts form a cycle, each beating the next"
        )


def _about_criteria(criteria: Sequence[CriterionFigures]) -> Iterator[str]:
    for each in criteria:
        if each.constant is not None:
            yield (
                f"never varies: {each.name} is `{each.constant}` for all {each.drafts} drafts, so it decides nothing"
            )
        if each.people_agree is False:
            yield (
                f"people do not agree on {each.name} (Krippendorff's alpha {each.people_alpha:.2f}): the judge is not "
                "graded on it"
            )
