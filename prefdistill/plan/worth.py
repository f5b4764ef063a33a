"""Is it worth it: the break-even of a plan, what every way costs at its traffic, and which is cheapest."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from prefdistill.plan.break_even import (
    BreakEven,
    Swing,
    break_even,
    cost_a_request,
    cost_a_student_request,
    dearer_by,
    gain_a_month,
    months_to_pay_back,
    swings,
)
from prefdistill.plan.costing import Costing, PricedModel, cost_plan
from prefdistill.plan.document import Plan
from prefdistill.plan.quantities import Range

STUDENT_WAY = "the distilled student"


@dataclass(frozen=True)
class ModelWorth:
    """A model that could be called for every request, and the student against it."""

    model: PricedModel
    usd_a_request: Range
    instead: BreakEven
    """The student against calling it, while the teacher takes the fallbacks; the one-off cost included."""
    as_teacher: BreakEven
    """The student against it where it takes the fallbacks too; the one-off cost included."""
    as_teacher_running: BreakEven
    """The same without the one-off cost."""


@dataclass(frozen=True)
class Way:
    """One way to answer every request."""

    name: str
    usd_a_request: Range
    usd_a_month: Range
    """At the plan's traffic."""
    score: float | None = None
    quality: str = ""


@dataclass(frozen=True)
class Worth:
    """Everything that follows from a plan's costs; empty where they are not known."""

    costing: Costing
    models: tuple[ModelWorth, ...] = ()
    """The teacher first."""
    student_usd_a_request: Range | None = None
    ways: tuple[Way, ...] = ()
    """Teacher, alternatives and student; empty without a traffic."""
    gain: Range | None = None
    """What the student saves a month against the teacher at the plan's traffic, US dollars."""
    pays_back: float | None = None
    """Months after which the one-off cost is earned, at the best guess; None: never, or not known."""
    swings: tuple[Swing, ...] = ()
    rivals: tuple[str, ...] = ()
    """Ways that may be cheaper than the cheapest somewhere within the bounds, at the same traffic and inputs for both."""

    @property
    def teacher(self) -> ModelWorth | None:
        """The student against the teacher."""
        return self.models[0] if self.models else None

    @property
    def cheapest(self) -> Way | None:
        """The way that costs least at the plan's traffic, at the best guess."""
        return min(self.ways, key=lambda way: way.usd_a_month.central, default=None)

    def cheapest_from(self, target: float) -> Way | None:
        """Return the cheapest way that is known to reach a score; the student is planned to."""
        good = [way for way in self.ways if way.name == STUDENT_WAY or (way.score or 0.0) >= target]
        return min(good, key=lambda way: way.usd_a_month.central, default=None)


def weigh(plan: Plan) -> Worth:
    """Return what follows from a plan's costs.

    Raises:
        PriceError: a price table is broken.
    """
    costing = cost_plan(plan)
    if not costing.is_complete:
        return Worth(costing)
    against_teacher = costing.case(costing.teacher)
    traffic = plan.traffic.requests_a_month
    models = tuple(_model_worth(costing, model) for model in costing.models)
    found = Worth(costing, models, cost_a_student_request(against_teacher), swings=swings(against_teacher))
    if traffic is None:
        return found
    back = months_to_pay_back(against_teacher, traffic.central) if costing.knows_one_off else None
    ways = (*(_way(each, traffic) for each in models), _student_way(found, traffic, plan.goal.target_score))
    found = replace(found, ways=ways, gain=gain_a_month(against_teacher, traffic), pays_back=back)
    return replace(found, rivals=tuple(_rivals(found, traffic)))


def _rivals(found: Worth, traffic: Range) -> Iterator[str]:
    """Yield the ways that are cheaper than the cheapest at some end of the ranges."""
    best, costing = found.cheapest, found.costing
    called = {way.name: each.model for way, each in zip(found.ways, found.models, strict=False)}
    for way in found.ways:
        if best is None or way is best:
            continue
        if best.name == STUDENT_WAY:
            may_be = gain_a_month(costing.case(called[way.name]), traffic).low < 0
        elif way.name == STUDENT_WAY:
            may_be = gain_a_month(costing.case(called[best.name]), traffic).high > 0
        else:
            first, second = called[best.name].tariff, called[way.name].tariff
            may_be = dearer_by(costing.case(called[best.name]), first, second).high > 0
        if may_be:
            yield way.name


def _model_worth(costing: Costing, model: PricedModel) -> ModelWorth:
    own = costing.case(model, model)
    return ModelWorth(
        model,
        cost_a_request(own, model.tariff),
        break_even(costing.case(model)),
        break_even(own),
        break_even(own.without_one_off()),
    )


def _way(each: ModelWorth, traffic: Range) -> Way:
    model = each.model
    name = f"call {model.name}" + (" (the teacher)" if model.is_teacher else "")
    return Way(name, each.usd_a_request, _times(each.usd_a_request, traffic), model.score, model.quality)


def _student_way(found: Worth, traffic: Range, target: float | None) -> Way:
    assert found.teacher is not None and found.student_usd_a_request is not None
    running = _times(found.student_usd_a_request, traffic)
    planned = "" if target is None else "what it must reach"
    return Way(STUDENT_WAY, found.student_usd_a_request, running + found.teacher.instead.fixed, target, planned)


def _times(one: Range, many: Range) -> Range:
    return Range(low=one.low * many.low, central=one.central * many.central, high=one.high * many.high)
