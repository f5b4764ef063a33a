"""The chart of a plan: what every way costs a month, over the number of requests."""

from __future__ import annotations

from dataclasses import dataclass

from prefdistill.plan.figures import money, requests, rounded
from prefdistill.plan.quantities import Range
from prefdistill.plan.worth import STUDENT_WAY, Worth
from prefdistill.stages.report.charts import Chart, Point, Series, Upright

STUDENT_LOOK, TEACHER_LOOK, FIRST_LOOK = 1, 2, 3
MOST_LINES = 8
"""Looks that can be told apart; alternatives beyond are in the tables alone."""
AGAINST = " against the teacher"
COLUMNS = 8
"""Points of a line between the left and the right edge."""
BEYOND = 1.6
"""How far the chart goes past the break-even or the traffic, whichever is farther."""
FARTHEST = 10.0
"""A break-even at more than so many times the traffic is not in the chart: the traffic would be lost at its edge."""
MOST_SHOWN = 100_000.0
"""Requests where neither a break-even nor a traffic says how far the chart goes."""


@dataclass(frozen=True)
class _Line:
    name: str
    look: int
    fixed: Range
    each: Range

    def at(self, volume: float) -> Point:
        middle = self.fixed.central + volume * self.each.central
        if self.fixed.is_sure and self.each.is_sure:
            return Point(volume, middle)
        ends = (self.fixed.low + volume * self.each.low, self.fixed.high + volume * self.each.high)
        return Point(volume, middle, *ends)


def volume_chart(worth: Worth, traffic: Range | None) -> Chart:
    """Return the chart of a plan whose costs are known; the teacher is its first model."""
    teacher = worth.models[0]
    pays = teacher.instead.central
    marks = _marks(pays, traffic)
    edge = BEYOND * max((mark.x for mark in marks), default=MOST_SHOWN)
    volumes = _volumes(edge, [mark.x for mark in marks])
    nothing = Range.of(0.0)
    student = _Line(STUDENT_WAY, STUDENT_LOOK, teacher.instead.fixed, _student(worth))
    lines = [student, _Line(f"call {teacher.model.name}", TEACHER_LOOK, nothing, teacher.usd_a_request)]
    for number, each in enumerate(worth.models[1 : MOST_LINES - 1]):
        lines.append(_Line(f"call {each.model.name}", FIRST_LOOK + number, nothing, each.usd_a_request))
    return Chart(
        "What a month costs over the traffic, US dollars",
        tuple(Series(each.name, tuple(each.at(volume) for volume in volumes), each.look) for each in lines),
        show=rounded,
        show_tick=_short_money,
        x_name="requests a month",
        uprights=tuple(marks),
        include=(0.0,),
        show_x=_short,
        heads={mark.x: mark.name.removesuffix(AGAINST) for mark in marks},
    )


def _student(worth: Worth) -> Range:
    assert worth.student_usd_a_request is not None
    return worth.student_usd_a_request


def _marks(pays: float | None, traffic: Range | None) -> list[Upright]:
    """Return the break-even and the traffic, where each is known and both have room in one chart."""
    marks = [] if traffic is None else [Upright("planned traffic", traffic.central)]
    if pays and (traffic is None or pays <= FARTHEST * traffic.central):
        marks.append(Upright(f"break-even{AGAINST}", pays, STUDENT_LOOK))
    return marks


def _volumes(edge: float, marked: list[float]) -> list[float]:
    """Return the volumes that have points: the marked ones, the break-even before the traffic where they are close, and
    even steps from 0 between them. No two are so close that they could not be pointed at."""
    step = edge / COLUMNS
    found: list[float] = []
    for volume in (*reversed(marked), *(number * step for number in range(COLUMNS + 1))):
        if all(abs(volume - other) > step / 2 for other in found):
            found.append(volume)
    return sorted(found)


def _short(value: float) -> str:
    """Return a number of requests for the axis."""
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:,.4g}\u00a0{letter}"
    return requests(value)


def _short_money(value: float) -> str:
    return f"${_short(value)}" if value >= 10_000 else money(value)
