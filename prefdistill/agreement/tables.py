"""The figures as tables of plain text and numbers, which the terminal, the page and a run's report show alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from prefdistill.agreement.criteria import CriterionFigures
from prefdistill.agreement.figures import Figure
from prefdistill.agreement.findings import find_warnings, people_agree
from prefdistill.agreement.measuring import Measured
from prefdistill.metrics.agreement import FLOOR, RELIABLE
from prefdistill.records import Usage

Cell = str | int | float | None
Table = dict[str, Any]
"""title, columns, rows of cells, note."""

PEOPLE = (
    ("people_agreement", "a person says what most of the others say"),
    ("people_decided", "the same, where both name a winner"),
    ("people_pairwise", "two people say the same"),
    ("people_alpha", "Krippendorff's alpha"),
    ("people_tau", "Kendall's tau-b between two people's rankings"),
)
AGAINST = (
    ("accuracy", "accuracy: the judge names the people's winner, a tie counts half"),
    ("longest_wins", "  `longest wins` on the same pairs"),
    ("agreement", "same answer, ties in (first, tie, second)"),
    ("kappa", "  Cohen's kappa"),
    ("decided", "same answer, ties out (both name a winner)"),
    ("kappa_decided", "  Cohen's kappa"),
    ("one_person", "same answer as one person, ties in"),
    ("both_orders", "accuracy where both orders agree"),
    ("trained", "labelled pairs that would train"),
    ("trained_accuracy", "  accuracy of those"),
    ("tau", "Kendall's tau-b with each person's ranking"),
    ("best", "finds a person's best draft"),
    ("judged", "labelled pairs that the judge could judge"),
)
ALONE = (
    ("consistent", "both orders name the same winner"),
    ("flipped", "the winner changes with the order shown"),
    ("first_pick", "  of those, picks the draft shown first"),
    ("longer", "picks the longer draft"),
    ("people_longer", "  people on the same pairs"),
    ("ties", "comparisons that end in a tie"),
    ("abstained", "answers that could not be obtained or read"),
    ("repeat_flips", "answers that change when asked again"),
    ("cycles_one_order", "cycles of three drafts, one order"),
    ("cycles", "cycles of three drafts, both orders averaged"),
)
SIGNED = frozenset({"people_alpha", "people_tau", "kappa", "kappa_decided", "tau"})
"""Figures that are no shares."""


def build_tables(
    measured: Measured, criteria: Sequence[CriterionFigures], usage: Usage | None, repeats: int
) -> list[Table]:
    """Return all tables that have something to say."""
    figures = measured.figures
    tables = []
    if any(figures[name].value is not None for name, _ in PEOPLE):
        note = (
            "The human ceiling: no judge can be told to agree with people better than they agree with one another. "
            f"Alpha: {RELIABLE:.2f} is reliable, {FLOOR} the floor, 0 chance."
        )
        tables.append(_figure_table("People with one another", PEOPLE, figures, note))
    if people_agree(figures) is False:
        tables.append(_table("The judge against people", ("",), [["not graded: people do not agree"]], ""))
    elif any(figures[name].value is not None for name, _ in AGAINST):
        note = (
            "Of several people most decide, an even vote is a tie. A winner that changes with the order is the judge's "
            "tie. What the judge could not judge is left out, and counted in the last line. Kappa counts each pair from "
            "both sides, so that it does not matter which draft the file calls the first."
        )
        shown = [each for each in AGAINST if len(measured.people) > 1 or each[0] != "one_person"]
        tables.append(_figure_table("The judge against people", shown, figures, note))
        if len(measured.by_person) > 1:
            rows = [[who, *_cells(each)] for who, each in measured.by_person.items()]
            tables.append(_table("Same answer, ties in, person by person", ("person", *COLUMNS), rows, ""))
    tables.append(_figure_table("The judge alone", ALONE, figures, ""))
    if measured.orders.asked:
        tables.append(_orders_table(measured))
    if measured.drops:
        rows = [[reason, count] for reason, count in measured.drops.items()]
        tables.append(_table("Why labelled pairs would not train", ("reason", "pairs"), rows, ""))
    if criteria:
        tables += [_criteria_table(criteria), *_histograms(criteria)]
    if usage is not None or measured.usage != Usage():
        tables.append(_cost_table(measured, usage, repeats))
    return tables


COLUMNS = ("value", "95 % from", "to", "items")


def _table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Cell]], note: str) -> Table:
    return {"title": title, "columns": list(columns), "rows": [list(row) for row in rows], "note": note}


def _cells(figure: Figure) -> list[Cell]:
    low, high = figure.interval or (None, None)
    return [_rounded(figure.value), _rounded(low), _rounded(high), figure.n]


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def _figure_table(title: str, names: Sequence[tuple[str, str]], figures: Mapping[str, Figure], note: str) -> Table:
    rows = [[words, *_cells(figures[name])] for name, words in names if figures[name].value is not None]
    return _table(title, ("", *COLUMNS), rows, note)


def _orders_table(measured: Measured) -> Table:
    orders = measured.orders
    words = {
        "same": "the same winner",
        "tie": "a tie in both",
        "one_tie": "a tie in one of them",
        "to_first": "each prefers the draft shown first",
        "to_second": "each prefers the draft shown second",
        "unread": "a verdict is missing",
    }
    rows = [
        [text, getattr(orders, name), _rounded(getattr(orders, name) / orders.asked)] for name, text in words.items()
    ]
    return _table("What the two orders of a pair say", ("", "pairs", "share"), rows, f"{orders.asked} pairs compared.")


def _criteria_table(criteria: Sequence[CriterionFigures]) -> Table:
    several = len({each.rubric for each in criteria}) > 1
    rows = [
        [
            f"{each.rubric}: {each.name}" if several else each.name,
            each.drafts,
            *(_rounded(found) if each.people_agree is not False else None for found in _graded(each)),
            each.agreement.n,
            _rounded(each.people_alpha),
            _remark(each),
        ]
        for each in criteria
    ]
    columns = ("criterion", "drafts", "same level", "kappa", "judge − people", "labels", "people's alpha", "")
    return _table(
        "Criteria", columns, rows, "judge − people: difference of mean scores (0 to 1); below 0 the judge is stricter."
    )


def _graded(each: CriterionFigures) -> tuple[float | None, ...]:
    return each.agreement.value, each.kappa.value, each.bias


def _remark(each: CriterionFigures) -> str:
    if each.people_agree is False:
        return "not graded: people do not agree"
    return f"always `{each.constant}`" if each.constant is not None else ""


def _histograms(criteria: Sequence[CriterionFigures]) -> list[Table]:
    several = len({each.rubric for each in criteria}) > 1
    return [
        _table(
            f"Levels of {each.rubric}: {each.name}" if several else f"Levels of {each.name}",
            ("level", "drafts by the judge", "labels by people"),
            [[level, each.counts[level], each.people_counts[level]] for level in each.levels],
            "",
        )
        for each in criteria
    ]


def _cost_table(measured: Measured, usage: Usage | None, repeats: int) -> Table:
    spent = measured.usage if usage is None else usage
    rows: list[list[Cell]] = [
        ["calls", spent.calls],
        ["replies from the request cache", spent.cached],
        ["prompt tokens", spent.prompt_tokens],
        ["completion tokens", spent.completion_tokens],
        ["USD", round(spent.usd, 6)],
    ]
    if measured.pairs and usage is None:
        rows.append(["USD a labelled pair", round(spent.usd / measured.pairs, 6)])
    asked = f", each question asked {repeats} times" if repeats > 1 else ""
    note = f"Labelled pairs: {measured.pairs}, prompts: {measured.prompts}{asked}."
    if usage is not None:
        note = "What all of the run's judging cost; nothing was asked now."
    return _table("Cost", ("", "count"), rows, note)


def summary(
    judge: str,
    labels: Sequence[str],
    measured: Measured,
    criteria: Sequence[CriterionFigures],
    notes: Sequence[str],
    usage: Usage | None = None,
    repeats: int = 1,
) -> dict[str, Any]:
    """Return everything as plain data: what agreement.json holds."""
    graded = people_agree(measured.figures) is not False
    hidden = () if graded else {name for name, _ in AGAINST}
    return {
        "schema": 1,
        "judge": judge,
        "labels": list(labels),
        "people": list(measured.people),
        "pairs": measured.pairs,
        "prompts": measured.prompts,
        "people_agree": people_agree(measured.figures),
        "warnings": find_warnings(measured, criteria),
        "notes": list(notes),
        "figures": {
            name: {"value": each.value, "interval": each.interval, "n": each.n}
            for name, each in measured.figures.items()
            if name not in hidden
        },
        "orders": measured.orders._asdict(),
        "drops": measured.drops,
        "failures": measured.failures,
        "criteria": {f"{each.rubric}.{each.name}": _criterion(each) for each in criteria},
        "usage": (measured.usage if usage is None else usage).model_dump(),
        "tables": build_tables(measured, criteria, usage, repeats),
    }


def _criterion(each: CriterionFigures) -> dict[str, Any]:
    agreement, kappa, bias = _graded(each) if each.people_agree is not False else (None, None, None)
    return {
        "counts": each.counts,
        "people_counts": each.people_counts,
        "agreement": agreement,
        "kappa": kappa,
        "labels": each.agreement.n,
        "bias": bias,
        "people_alpha": each.people_alpha,
        "constant": each.constant,
    }
