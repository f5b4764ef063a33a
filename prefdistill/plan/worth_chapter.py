"""The chapter on costs: inputs, arithmetic by hand, bounds, what moves the break-even, and calling a cheaper model."""

from __future__ import annotations

from collections.abc import Iterator

from prefdistill.plan import break_even as be
from prefdistill.plan.blocks import Block, Bullets, Chapter, Heading, Paragraph, Picture, Steps
from prefdistill.plan.break_even import BreakEven, Case
from prefdistill.plan.by_hand import alternatives_by_hand, by_hand
from prefdistill.plan.costing import Costing, Input
from prefdistill.plan.document import Plan
from prefdistill.plan.figures import exact, money, of_unit, requests, rounded, share, spread
from prefdistill.plan.volume_chart import volume_chart
from prefdistill.plan.worth import STUDENT_WAY, ModelWorth, Worth
from prefdistill.stages.report.tables import Table, columns_of, without_empty

TITLE = "Costs and break-even"
FORMULA = "V* = (H + F / T) / (c_T × (1 − f) − c_S − m × c_J)"


def worth_chapter(plan: Plan, worth: Worth) -> Chapter:
    """Return the chapter; without the inputs that it needs it says which are missing."""
    costing = worth.costing
    left_open = (*costing.missing, *costing.open)
    if worth.teacher is None:
        said = Paragraph(
            "There is no break-even to show yet: it needs what is not decided below. Nothing is assumed in its place.",
            warns=True,
        )
        known: tuple[Block, ...] = (_inputs(costing.inputs),) if costing.inputs else ()
        return Chapter(
            "costs", TITLE, (said, Bullets(tuple(f"{each.what} ({each.key})" for each in left_open)), *known), left_open
        )
    return Chapter("costs", TITLE, tuple(_blocks(plan, worth, worth.teacher)), left_open)


def headline(worth: Worth) -> str:
    """Return the break-even against the teacher in a sentence."""
    if worth.teacher is None:
        return "The break-even is not known yet."
    found = worth.teacher.instead
    if found.central is None:
        why = _nothing_to_save(worth.costing.case(worth.teacher.model))
        more = "as much as" if found.saving.central == 0 else "more than"
        return f"No break-even against {worth.teacher.model.name}: {why or f'each request costs {more} it saves'}."
    if found.high == 0:
        return f"Pays from the first request against {worth.teacher.model.name}: nothing is fixed."
    said = f"Breaks even at {requests(found.central)} requests a month against {worth.teacher.model.name}"
    if found.is_sure:
        return f"{said}."
    return f"{said} (between {requests(found.low)} and {requests(found.high)})."


def why_none(case: Case) -> str:
    """Return why no number of requests pays: what a request costs with the student, and what it would cost without."""
    at = case.centre
    whole, own = case.compared.usd(at), case.student_usd(at)
    if _nothing_to_save(case):
        beside = own - at[be.FALLBACK] * case.answering.usd(at)
        added = f" adds {money(beside)} a request, and" if beside else ""
        return f"The student{added} earns nothing back of what it costs a month: more traffic does not help."
    parts = [
        (at[be.FALLBACK] * case.answering.usd(at), f"the {share(at[be.FALLBACK])} that falls back"),
        (at[be.STUDENT], "the student"),
        (at[be.JUDGED] * at[be.JUDGE], "judging"),
    ]
    named = ", ".join(f"{money(usd)} {what}" for usd, what in parts if usd)
    more = "as much as" if case.saving(at) == 0 else "more than"
    return (
        f"With the student a request costs {money(own)} ({named}), {more} the {money(whole)} of calling the model: no "
        "traffic earns the fixed cost, and more traffic does not help."
    )


def _nothing_to_save(case: Case) -> str:
    """Return why no student could save anything, whatever it costs; empty where one could."""
    at = case.centre
    if case.compared.usd(at) == 0:
        return "calling it costs nothing, so there is nothing to save"
    if at[be.FALLBACK] == 1 and case.compared == case.answering:
        return "every request falls back on it (fallback.share is 1), so none is saved"
    return ""


def _blocks(plan: Plan, worth: Worth, teacher: ModelWorth) -> Iterator[Block]:
    costing, case = worth.costing, worth.costing.case(teacher.model)
    yield from _verdict(plan, worth, teacher)
    chart = volume_chart(worth, plan.traffic.requests_a_month)
    yield Picture(chart, "At the central values; whiskers where an input is a range. Point at it for its numbers.")
    yield Heading("Or call a cheaper model")
    yield from _alternatives(plan, worth)
    yield from _bounds(worth, teacher)
    yield _inputs(_inputs_of(costing, case))
    yield Heading("By hand, at the central values")
    yield Paragraph(f"{FORMULA}, with c_T = (t_in × p_in + t_out × p_out) / 1,000,000.")
    yield Steps((*by_hand(costing, case, teacher), *alternatives_by_hand(worth)))


def _verdict(plan: Plan, worth: Worth, teacher: ModelWorth) -> Iterator[Block]:
    found, traffic = teacher.instead, plan.traffic.requests_a_month
    none = found.central is None
    why = f" {why_none(worth.costing.case(teacher.model))}" if none else ""
    yield Paragraph(f"{headline(worth)}{why}", warns=none)
    if not worth.costing.knows_one_off:
        yield Paragraph("What is paid once is not decided, and counts as nothing here.", warns=True)
    if found.central is not None and found.high is None:
        yield Paragraph(
            "At the unfavourable ends of the inputs there is no break-even at all: a request then saves nothing.",
            warns=True,
        )
    if traffic is None or worth.gain is None:
        return
    gain, many = worth.gain, spread(traffic, requests)
    saves = (
        f"saves {rounded(gain.central)} a month"
        if gain.central >= 0
        else f"costs {rounded(-gain.central)} a month more"
    )
    ends = "" if gain.is_sure else f" (between {rounded(gain.low)} and {rounded(gain.high)} saved)"
    back = f" What is paid once is earned after {_months(worth.pays_back)}." if worth.pays_back else ""
    yield Paragraph(
        f"At {many} requests a month the student {saves}, compared with the teacher{ends}.{back}", gain.central < 0
    )
    yield from _capacity(plan, found.central, traffic.high)


def _months(value: float) -> str:
    return f"{value:,.1f} months" if value >= 0.1 else "less than 0.1 months"


def _capacity(plan: Plan, central: float | None, most: float) -> Iterator[Block]:
    room = plan.costs.hosting_requests_a_month
    if room is None:
        return
    for what, volume in (("The break-even", central), ("The planned traffic", most)):
        if volume is not None and volume > room.central:
            yield Paragraph(
                f"{what} of {requests(volume)} requests a month is more than the {requests(room.central)} that this "
                "hosting can answer: more hosting is needed, which these figures do not hold.",
                warns=True,
            )


def _inputs_of(costing: Costing, case: Case) -> tuple[Input, ...]:
    """Return the inputs of the break-even against the teacher; the other models' are in the table of prices."""
    used = {be.HOSTING, be.ONE_OFF, be.MONTHS, be.FALLBACK, be.STUDENT, be.JUDGED, be.JUDGE, *case.compared.names}
    return tuple(each for each in costing.inputs if each.name in used)


def _inputs(inputs: tuple[Input, ...]) -> Table:
    rows = []
    for each in inputs:
        show = of_unit(each.unit)
        ends = (None, None) if each.value.is_sure else (show(each.value.low), show(each.value.high))
        rows.append((each.what, each.symbol, ends[0], show(each.value.central), ends[1], each.unit, each.source))
    columns = columns_of(
        ("Input", "text"),
        ("Symbol", "text"),
        ("Low", "text"),
        ("Central", "text"),
        ("High", "text"),
        ("Unit", "text"),
        ("Known from", "text"),
    )
    return without_empty(Table("inputs", "What it rests on", columns, tuple(rows)))


def _bounds(worth: Worth, teacher: ModelWorth) -> Iterator[Block]:
    """Yield the bounds of the break-even and what moves it; nothing where every input is one value."""
    found, names = teacher.instead, {each.name: each for each in worth.costing.inputs}
    if found.is_sure or not worth.swings:
        return
    yield Heading("Low, central and high")
    most = worth.swings[0]
    ends = [requests(end) for end in (found.low, found.central, found.high)]
    yield Paragraph(
        f"With every input at its favourable end, at its central value, and at its unfavourable end: {ends[0]}, "
        f"{ends[1]} and {ends[2]} requests a month. All ends at once are rarer than any one of them. What moves it most: "
        f"{names[most.name].what}."
    )
    rows = []
    for swing in worth.swings:
        each = names[swing.name]
        moved = "decides whether there is one" if swing.width == float("inf") else requests(swing.width)
        value = f"{of_unit(each.unit)(swing.value.low)} to {of_unit(each.unit)(swing.value.high)}"
        rows.append((each.what, value, requests(swing.at_low), requests(swing.at_high), moved))
    columns = columns_of(
        ("Input", "text"),
        ("From … to", "text"),
        ("V* at its low end", "count"),
        ("V* at its high end", "count"),
        ("Moved by", "count"),
    )
    yield Table(
        "sensitivity", "Which input moves the break-even, the others at their central values", columns, tuple(rows)
    )


def _alternatives(plan: Plan, worth: Worth) -> Iterator[Block]:
    if not plan.alternatives:
        yield Paragraph(
            "No cheaper model is named, so this plan does not show that distilling beats simply calling one. Name some "
            "under `alternatives`.",
            warns=True,
        )
    if worth.ways:
        yield from _cheapest(plan, worth)
        yield _ways(plan, worth)
    yield _prices_table(worth)


def _cheapest(plan: Plan, worth: Worth) -> Iterator[Block]:
    best, traffic, target = worth.cheapest, plan.traffic.requests_a_month, plan.goal.target_score
    assert best is not None and traffic is not None
    others = sorted((way for way in worth.ways if way is not best), key=lambda way: way.usd_a_month.central)
    month = f"{rounded(best.usd_a_month.central)} a month"
    said = f"At {requests(traffic.central)} requests a month the cheapest way is to {_doing(best.name)}: {month}"
    if others:
        said += f"; next, to {_doing(others[0].name)}: {rounded(others[0].usd_a_month.central)}"
    yield Paragraph(f"{said}.{_close(worth)}", warns=best.name != STUDENT_WAY and len(worth.models) > 1)
    good = worth.cheapest_from(target) if target is not None else None
    if good is not None and good is not best and best.score is not None:
        yield Paragraph(
            f"Of those that are known to reach the target score of {target:g} the cheapest is to {_doing(good.name)}: "
            f"{rounded(good.usd_a_month.central)} a month."
        )
    elif best.name != STUDENT_WAY and best.score is None:
        yield Paragraph(
            "How good it would be has not been measured here: judge its answers with the rubric before you decide."
        )


def _doing(name: str) -> str:
    return "run the distilled student" if name == STUDENT_WAY else name


def _close(worth: Worth) -> str:
    """Return that the order is not sure, where another way is cheaper at some end of the ranges."""
    rivals = [_doing(name) for name in worth.rivals]
    return f" Within the bounds given it may be cheaper to {' or to '.join(rivals)}." if rivals else ""


def _ways(plan: Plan, worth: Worth) -> Table:
    by_name = {each.model.name: each.instead for each in worth.models}
    rows = []
    for way, each in zip(worth.ways, (*worth.models, None), strict=True):
        found = None if each is None else by_name[each.model.name]
        ends = None if way.usd_a_month.is_sure else f"{rounded(way.usd_a_month.low)} to {rounded(way.usd_a_month.high)}"
        pays = None if found is None else requests(found.central)
        score = None if way.score is None else way.score
        rows.append(
            (
                way.name,
                money(way.usd_a_request.central),
                rounded(way.usd_a_month.central),
                ends,
                pays,
                score,
                way.quality or None,
            )
        )
    columns = columns_of(
        ("Way", "text"),
        ("A request", "count"),
        ("A month", "count"),
        ("Low to high", "text"),
        ("The student pays from", "count"),
        ("Score", "score"),
        ("Quality", "text"),
    )
    assert plan.traffic.requests_a_month is not None
    many = requests(plan.traffic.requests_a_month.central)
    note = (
        "“The student pays from”: requests a month from which distilling is cheaper than calling that model, while the "
        "teacher answers what falls back."
    )
    return without_empty(Table("ways", f"Every way at {many} requests a month", columns, tuple(rows), note))


def _prices_table(worth: Worth) -> Table:
    names = {each.name: each.value for each in worth.costing.inputs}
    rows = []
    for each in worth.models:
        tariff = each.model.tariff
        own_tokens = (tariff.tokens_in, tariff.tokens_out) != (be.TOKENS_IN, be.TOKENS_OUT)
        rows.append(
            (
                each.model.name,
                f"{spread(names[tariff.price_in], money)} / {spread(names[tariff.price_out], money)}",
                f"{spread(names[tariff.tokens_in], exact)} / {spread(names[tariff.tokens_out], exact)}"
                if own_tokens
                else None,
                money(each.usd_a_request.central),
                requests(each.as_teacher_running.central),
                requests(each.as_teacher.central) if worth.costing.knows_one_off else None,
                None if each.as_teacher.is_sure else _ends(each.as_teacher),
                each.model.source,
            )
        )
    columns = columns_of(
        ("Model", "text"),
        ("In / out per million", "text"),
        ("Own tokens in / out", "text"),
        ("A request", "count"),
        ("V*, hosting alone", "count"),
        ("V*, with what is paid once", "count"),
        ("Low to high", "text"),
        ("Price from", "text"),
    )
    note = "The break-even if that model were the teacher: it would answer every request, or else what falls back."
    return without_empty(Table("break_even", "The break-even against each price", columns, tuple(rows), note))


def _ends(found: BreakEven) -> str:
    return f"{requests(found.low)} to {requests(found.high)}"
