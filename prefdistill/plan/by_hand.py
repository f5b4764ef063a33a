"""The break-even's arithmetic, one step a line with every number written out, so that a person can check it."""

from __future__ import annotations

from collections.abc import Iterator

from prefdistill.plan import break_even as be
from prefdistill.plan.break_even import BreakEven, Case, Tariff
from prefdistill.plan.costing import Costing
from prefdistill.plan.figures import exact, requests
from prefdistill.plan.worth import ModelWorth, Worth
from prefdistill.stages.report.formats import MINUS


def by_hand(costing: Costing, case: Case, teacher: ModelWorth) -> Iterator[str]:
    """Yield the steps from the inputs to the break-even, with every number written out."""
    at = case.centre
    yield _request_step("c_T", case.compared, case)
    saving, fallback = case.saving(at), at[be.FALLBACK]
    yield (
        f"saved a request = {exact(case.compared.usd(at))} × (1 − {exact(fallback)}) − {exact(at[be.STUDENT])} − "
        f"{exact(at[be.JUDGED])} × {exact(at[be.JUDGE])} = {_signed_money(saving)}"
    )
    yield from _volume_steps(costing, case, teacher.as_teacher_running, teacher.as_teacher)


def _signed_money(value: float) -> str:
    return f"{MINUS if value < 0 else ''}${exact(abs(value))}"


def _request_step(symbol: str, tariff: Tariff, case: Case) -> str:
    at = case.centre
    parts = [at[tariff.tokens_in] * at[tariff.price_in] / 1e6, at[tariff.tokens_out] * at[tariff.price_out] / 1e6]
    return (
        f"{symbol} = {exact(at[tariff.tokens_in])} × ${exact(at[tariff.price_in])} / 1,000,000 + "
        f"{exact(at[tariff.tokens_out])} × ${exact(at[tariff.price_out])} / 1,000,000 = "
        f"${exact(parts[0])} + ${exact(parts[1])} = ${exact(sum(parts))} a request"
    )


def _volume_steps(costing: Costing, case: Case, running: BreakEven, full: BreakEven) -> Iterator[str]:
    at = case.centre
    saving = case.saving(at)
    if saving <= 0:
        yield "nothing is saved: no number of requests earns the fixed cost, there is no break-even"
        return
    once = at[be.ONE_OFF] if costing.knows_one_off else 0.0
    yield (
        f"without the one-off cost: V* = ${exact(at[be.HOSTING])} / ${exact(saving)} = {requests(running.central)} "
        "requests a month"
    )
    if once:
        months = at[be.MONTHS]
        yield (
            f"fixed a month = ${exact(at[be.HOSTING])} + ${exact(once)} / {exact(months)} = ${exact(case.fixed(at))}"
        )
        yield f"V* = ${exact(case.fixed(at))} / ${exact(saving)} = {requests(full.central)} requests a month"


def alternatives_by_hand(worth: Worth) -> Iterator[str]:
    """Yield the arithmetic of each alternative: as if it were the teacher, and with the teacher taking the fallbacks."""
    costing = worth.costing
    teacher = worth.models[0]
    for each in worth.models[1:]:
        own, instead = costing.case(each.model, each.model), costing.case(each.model)
        at = own.centre
        yield from ("", each.model.name)
        yield "  " + _request_step("c", own.compared, own)
        saved = f"{exact(own.compared.usd(at))} × (1 − {exact(at[be.FALLBACK])}){_other_costs(own)}"
        yield f"  if it takes the fallbacks: saved a request = {saved} = {_signed_money(own.saving(at))}"
        yield from (f"    {line}" for line in _volume_steps(costing, own, each.as_teacher_running, each.as_teacher))
        at = instead.centre
        fallback = f"{exact(at[be.FALLBACK])} × {exact(teacher.usd_a_request.central)}"
        saved = f"{exact(instead.compared.usd(at))} − {fallback}{_other_costs(instead)}"
        yield f"  if the teacher takes them: saved a request = {saved} = {_signed_money(instead.saving(at))}"
        if each.instead.central is None:
            yield "    nothing is saved: there is no break-even"
        else:
            volume = requests(each.instead.central)
            yield f"    V* = ${exact(instead.fixed(at))} / ${exact(instead.saving(at))} = {volume} requests a month"


def _other_costs(case: Case) -> str:
    at = case.centre
    said = f" − {exact(at[be.STUDENT])}" if at[be.STUDENT] else ""
    return said + (f" − {exact(at[be.JUDGED])} × {exact(at[be.JUDGE])}" if at[be.JUDGED] else "")
