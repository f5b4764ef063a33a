"""From how many requests a month a student of one's own is cheaper than calling a model: pure arithmetic, no I/O.

    V* = (H + F / T) / (c_M − f · c_T − c_S − m · c_J)

H hosting a month, F paid once, T months that it is spread over; c_M what a request to the compared model costs, f the
share that falls back on the teacher at c_T, c_S what one more request costs the student, m the share that is judged at
c_J. Compared with the teacher itself, c_M = c_T, it is (H + F / T) / (c_T · (1 − f) − c_S − m · c_J).

Every input may be a range. The divisor is linear in each input and the dividend monotone, so the bounds lie at the
ends of the ranges: they are computed there, over all combinations, and not estimated.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import product

from prefdistill.plan.quantities import Range

HOSTING, ONE_OFF, MONTHS = "hosting", "one_off", "months"
FALLBACK, STUDENT, JUDGED, JUDGE = "fallback", "student", "judged", "judge"
TOKENS_IN, TOKENS_OUT = "tokens_in", "tokens_out"
TINY = 1e-9
"""Share of a request's price under which a saving is rounding of binary fractions, and none."""

Point = Mapping[str, float]


@dataclass(frozen=True)
class Tariff:
    """Which inputs say what one request to a model costs."""

    price_in: str
    """US dollars per million prompt tokens."""
    price_out: str
    tokens_in: str = TOKENS_IN
    tokens_out: str = TOKENS_OUT

    @property
    def names(self) -> tuple[str, ...]:
        """The inputs' names."""
        return (self.price_in, self.price_out, self.tokens_in, self.tokens_out)

    def usd(self, at: Point) -> float:
        """Return US dollars a request."""
        return (at[self.tokens_in] * at[self.price_in] + at[self.tokens_out] * at[self.price_out]) / 1e6


@dataclass(frozen=True)
class Case:
    """A student compared with calling one model for every request."""

    values: Mapping[str, Range]
    """Every input by its name."""
    compared: Tariff
    """Who would answer every request instead."""
    answering: Tariff
    """Who answers what falls back."""

    @property
    def centre(self) -> dict[str, float]:
        """The best guess of every input."""
        return {name: value.central for name, value in self.values.items()}

    def fixed(self, at: Point) -> float:
        """Return what the student costs a month whatever the traffic, US dollars."""
        return at[HOSTING] + (at[ONE_OFF] / at[MONTHS] if at[ONE_OFF] else 0.0)

    def student_usd(self, at: Point) -> float:
        """Return what one more request costs where the student answers first, US dollars."""
        return at[FALLBACK] * self.answering.usd(at) + at[STUDENT] + at[JUDGED] * at[JUDGE]

    def saving(self, at: Point) -> float:
        """Return what one request to the student saves, US dollars; not above 0 where it saves nothing."""
        found = self.compared.usd(at) - self.student_usd(at)
        return 0.0 if abs(found) <= TINY * self.compared.usd(at) else found

    def volume(self, at: Point) -> float | None:
        """Return the break-even, requests a month; None where no request saves anything."""
        saving = self.saving(at)
        return self.fixed(at) / saving if saving > 0 else None

    def without_one_off(self) -> Case:
        """Return the case with nothing paid once."""
        return replace(self, values={**self.values, ONE_OFF: Range.of(0.0)})


@dataclass(frozen=True)
class BreakEven:
    """From how many requests a month on it pays; None where there is no such number."""

    central: float | None
    low: float | None
    """With every input as favourable as its range allows."""
    high: float | None
    """With every input as unfavourable; None where it then never pays."""
    fixed: Range
    """H + F / T, US dollars a month."""
    saving: Range
    """What a request saves, US dollars."""

    @property
    def is_sure(self) -> bool:
        """Whether no input is a range."""
        return self.fixed.is_sure and self.saving.is_sure


@dataclass(frozen=True)
class Swing:
    """How one input alone moves the break-even, the others at their best guess."""

    name: str
    value: Range
    at_low: float | None
    """The break-even at the input's low end; None: none."""
    at_high: float | None

    @property
    def width(self) -> float:
        """How far it moves it; infinite where it decides whether there is one."""
        if self.at_low is None and self.at_high is None:
            return 0.0
        if self.at_low is None or self.at_high is None:
            return float("inf")
        return abs(self.at_high - self.at_low)


def break_even(case: Case) -> BreakEven:
    """Return the break-even of a case, at the best guess and at the ends of what is likely."""
    savings = [case.saving(at) for at in _corners(case, _saving_names(case))]
    fixed = [case.fixed(at) for at in _corners(case, (HOSTING, ONE_OFF, MONTHS))]
    centre = case.centre
    best, worst = max(savings), min(savings)
    return BreakEven(
        central=case.volume(centre),
        low=min(fixed) / best if best > 0 else None,
        high=max(fixed) / worst if worst > 0 else None,
        fixed=Range(low=min(fixed), central=case.fixed(centre), high=max(fixed)),
        saving=Range(low=worst, central=case.saving(centre), high=best),
    )


def swings(case: Case) -> tuple[Swing, ...]:
    """Return how each input that is a range moves the break-even, the one that moves it most first."""
    centre = case.centre
    used = (HOSTING, ONE_OFF, MONTHS, *_saving_names(case))
    found = [
        Swing(name, value, case.volume({**centre, name: value.low}), case.volume({**centre, name: value.high}))
        for name in dict.fromkeys(used)
        if not (value := case.values[name]).is_sure
    ]
    return tuple(sorted(found, key=lambda swing: -swing.width))


def gain_a_month(case: Case, requests: Range) -> Range:
    """Return what the student saves a month against the compared model, US dollars; negative where it costs more."""
    found = break_even(case)
    ends = [
        volume * saving for volume in (requests.low, requests.high) for saving in (found.saving.low, found.saving.high)
    ]
    return Range(
        low=min(ends) - found.fixed.high,
        central=requests.central * found.saving.central - found.fixed.central,
        high=max(ends) - found.fixed.low,
    )


def cost_a_request(case: Case, tariff: Tariff) -> Range:
    """Return what one request to a model costs, US dollars."""
    found = [tariff.usd(at) for at in _corners(case, tariff.names)]
    return Range(low=min(found), central=tariff.usd(case.centre), high=max(found))


def dearer_by(case: Case, first: Tariff, second: Tariff) -> Range:
    """Return by how much a request to one model is dearer than to another, US dollars; what both share is the same."""
    found = [first.usd(at) - second.usd(at) for at in _corners(case, (*first.names, *second.names))]
    centre = case.centre
    return Range(low=min(found), central=first.usd(centre) - second.usd(centre), high=max(found))


def cost_a_student_request(case: Case) -> Range:
    """Return what one more request costs where the student answers first, US dollars."""
    names = (FALLBACK, STUDENT, JUDGED, JUDGE, *case.answering.names)
    found = [case.student_usd(at) for at in _corners(case, names)]
    return Range(low=min(found), central=case.student_usd(case.centre), high=max(found))


def months_to_pay_back(case: Case, requests: float) -> float | None:
    """Return after how many months the one-off cost is earned at so many requests a month; None: never."""
    at = case.centre
    earned = requests * case.saving(at) - at[HOSTING]
    if not at[ONE_OFF]:
        return 0.0 if earned >= 0 else None
    return at[ONE_OFF] / earned if earned > 0 else None


def _saving_names(case: Case) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*case.compared.names, *case.answering.names, FALLBACK, STUDENT, JUDGED, JUDGE)))


def _corners(case: Case, names: tuple[str, ...]) -> Iterator[dict[str, float]]:
    """Yield the best guess with each of these inputs at either end, in every combination."""
    centre, names = case.centre, tuple(dict.fromkeys(names))
    for ends in product(*(case.values[name].ends for name in names)):
        yield {**centre, **dict(zip(names, ends, strict=True))}
