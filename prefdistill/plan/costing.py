"""A plan's costs as inputs of the break-even: every number with its symbol, its unit and where it is known from."""

from __future__ import annotations

from dataclasses import dataclass

from prefdistill.plan import break_even as be
from prefdistill.plan.blocks import OpenPoint
from prefdistill.plan.break_even import Case, Tariff
from prefdistill.plan.document import Plan
from prefdistill.plan.live_sections import Alternative
from prefdistill.plan.quantities import Range
from prefdistill.plan.sections import Prices
from prefdistill.requests.prices import price_of

NOTHING = Range.of(0.0)
PLAN = "this plan"


@dataclass(frozen=True)
class Input:
    """One number that the break-even rests on."""

    name: str
    symbol: str
    what: str
    unit: str
    value: Range
    source: str
    """Where it is known from."""


@dataclass(frozen=True)
class PricedModel:
    """A model that could be called for every request."""

    name: str
    tariff: Tariff
    source: str
    """Where its price is from."""
    score: float | None = None
    quality: str = ""
    is_teacher: bool = False


@dataclass(frozen=True)
class Costing:
    """What of a plan's costs is known."""

    inputs: tuple[Input, ...]
    models: tuple[PricedModel, ...]
    """The teacher first, then the alternatives whose price is known."""
    missing: tuple[OpenPoint, ...]
    """What must be decided before there is a break-even."""
    open: tuple[OpenPoint, ...] = ()
    """What is left out, or taken as nothing, until it is decided."""

    @property
    def is_complete(self) -> bool:
        """Whether there is enough for a break-even without the one-off cost."""
        return not self.missing

    @property
    def knows_one_off(self) -> bool:
        """Whether what is paid once, and over how long, is decided."""
        return any(each.name == be.ONE_OFF for each in self.inputs)

    @property
    def teacher(self) -> PricedModel:
        """The teacher; only where nothing is missing."""
        return self.models[0]

    def case(self, compared: PricedModel, answering: PricedModel | None = None) -> Case:
        """Return the student against calling `compared` for every request; `answering` takes the fallbacks.

        The teacher takes them where nobody is named. What is not known of the one-off cost counts as nothing.
        """
        values = {be.ONE_OFF: NOTHING, be.MONTHS: Range.of(1.0), **{each.name: each.value for each in self.inputs}}
        return Case(values, compared.tariff, (answering or self.teacher).tariff)

    def input(self, name: str) -> Input:
        """Return an input by its name."""
        return next(each for each in self.inputs if each.name == name)


def cost_plan(plan: Plan) -> Costing:
    """Return what a plan says of costs, and what it leaves open; prices it does not say come from the price tables.

    Raises:
        PriceError: a price table is broken.
    """
    inputs: list[Input] = []
    missing: list[OpenPoint] = []

    def take(name: str, symbol: str, what: str, unit: str, key: str, value: Range | None) -> None:
        if value is None:
            missing.append(OpenPoint(key, what))
        else:
            inputs.append(Input(name, symbol, what, unit, value, plan.where_known(key) or PLAN))

    costs, traffic = plan.costs, plan.traffic
    take(be.TOKENS_IN, "t_in", "prompt tokens a request", "tokens", "traffic.tokens_in", traffic.tokens_in)
    take(be.TOKENS_OUT, "t_out", "completion tokens a request", "tokens", "traffic.tokens_out", traffic.tokens_out)
    hosting = costs.hosting_usd_a_month
    take(be.HOSTING, "H", "hosting the student", "$ a month", "costs.hosting_usd_a_month", hosting)
    take(be.FALLBACK, "f", "share that the teacher answers", "share", "fallback.share", plan.fallback.share)
    marginal = costs.student_usd_a_request or NOTHING
    take(be.STUDENT, "c_S", "one more request to the student", "$ a request", "costs.student_usd_a_request", marginal)
    judged = costs.judged_share or NOTHING
    take(be.JUDGED, "m", "share judged in the background", "share", "costs.judged_share", judged)
    judge = costs.judged_usd_a_request or (None if judged.high else NOTHING)
    take(be.JUDGE, "c_J", "judging one request", "$ a request", "costs.judged_usd_a_request", judge)
    left_open = _one_off(plan, inputs)
    teacher = _teacher(plan, inputs, missing)
    others = [_alternative(plan, index, each, inputs, left_open) for index, each in enumerate(plan.alternatives)]
    models = [each for each in (teacher, *others) if each is not None]
    return Costing(tuple(inputs), tuple(models), tuple(missing), tuple(left_open))


def one_off_usd(plan: Plan) -> Range | None:
    """Return the sum of what is paid once; None where that is not decided."""
    return None if plan.costs.one_off is None else sum((item.usd for item in plan.costs.one_off), NOTHING)


def _one_off(plan: Plan, inputs: list[Input]) -> list[OpenPoint]:
    """Add what is paid once and its months, where both are decided; return what is not."""
    once, months = one_off_usd(plan), plan.costs.months
    if once is None:
        return [OpenPoint("costs.one_off", "what is paid once")]
    if months is None and once.high > 0:
        return [OpenPoint("costs.months", "over how many months the one-off cost is spread")]
    source = plan.where_known("costs.one_off") or PLAN
    inputs.append(Input(be.ONE_OFF, "F", "paid once", "$", once, source))
    if months is not None:
        source = plan.where_known("costs.months") or PLAN
        inputs.append(Input(be.MONTHS, "T", "months it is spread over", "months", months, source))
    return []


def _teacher(plan: Plan, inputs: list[Input], missing: list[OpenPoint]) -> PricedModel | None:
    model = plan.teacher.model
    found = _prices(plan.teacher.usd_per_million, model, plan.where_known("teacher.usd_per_million"))
    if found is None:
        missing.append(OpenPoint("teacher.usd_per_million", f"what {model or 'the teacher'}’s tokens cost"))
        return None
    prices, source = found
    name = model or "the teacher"
    tariff = Tariff(*_price_inputs("teacher", name, "p_in", "p_out", prices, source, inputs))
    return PricedModel(name, tariff, source, plan.goal.teacher_score, is_teacher=True)


def _alternative(
    plan: Plan, index: int, each: Alternative, inputs: list[Input], left_open: list[OpenPoint]
) -> PricedModel | None:
    found = _prices(each.usd_per_million, each.model or each.name, "")
    if found is None:
        left_open.append(OpenPoint(f"alternatives.{index}.usd_per_million", f"what {each.name}’s tokens cost"))
        return None
    prices, source = found
    own, mark = f"alternative{index}", f"{index + 1}"
    price_in, price_out = _price_inputs(own, each.name, f"p_in{mark}", f"p_out{mark}", prices, source, inputs)
    names = [be.TOKENS_IN, be.TOKENS_OUT]
    for place, (value, symbol, what) in enumerate(
        ((each.tokens_in, "t_in", "prompt tokens"), (each.tokens_out, "t_out", "completion tokens"))
    ):
        if value is not None:
            names[place] = f"{own}.{symbol}"
            said = f"{what} a request to {each.name}"
            inputs.append(Input(names[place], f"{symbol}{mark}", said, "tokens", value, PLAN))
    return PricedModel(each.name, Tariff(price_in, price_out, *names), source, each.score, each.quality or "")


def _prices(own: Prices | None, model: str | None, source: str) -> tuple[Prices, str] | None:
    """Return a model's prices and where they are from: the plan's own, else the price tables'."""
    if own is not None:
        parts = [own.source, f"as of {own.as_of}" if own.as_of else ""]
        said = ", ".join(part for part in parts if part)
        return own, said or source or PLAN
    listed = price_of(model) if model else None
    if listed is None:
        return None
    prices = Prices(input=Range.of(listed.input), output=Range.of(listed.output))
    return prices, f"prefdistill prices{f', as of {listed.as_of}' if listed.as_of else ''}"


def _price_inputs(
    own: str, name: str, symbol_in: str, symbol_out: str, prices: Prices, source: str, inputs: list[Input]
) -> tuple[str, str]:
    """Add a model's two prices and return their names."""
    names = f"{own}.input", f"{own}.output"
    unit = "$ per million"
    inputs.append(Input(names[0], symbol_in, f"{name}’s prompt tokens", unit, prices.input, source))
    inputs.append(Input(names[1], symbol_out, f"{name}’s completion tokens", unit, prices.output, source))
    return names
