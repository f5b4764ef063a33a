"""Which distillation fits what a plan says: advice with its reasons, which the owner may overrule with one.

Rules of thumb, no law: `prefdistill compare` measures on the task itself which way is better.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

from prefdistill.plan.blocks import Block, Chapter, Entries, Entry, OpenPoint, Paragraph, Steps
from prefdistill.plan.document import Plan
from prefdistill.plan.sections import Way
from prefdistill.stages.report.tables import Table, columns_of

Fit = Literal["first", "then", "possible", "not needed", "not known", "not possible"]
FAR = 0.2
"""Gap of scores to the teacher from which the student is far from it: its own drafts are then seldom worth preferring."""
LITTLE = 0.1
"""Gap under which there is little to gain, and no share of it can be measured."""
ARMS: dict[Way, str] = {"outputs": "outputs", "traces": "traces", "preferences": "online", "logits": "logits"}
"""What `prefdistill compare` calls each way."""


@dataclass(frozen=True)
class Advice:
    """What one way is for this plan."""

    way: Way
    fit: Fit
    because: str


def advise(plan: Plan) -> tuple[Advice, ...]:
    """Return what each of the four ways is for this plan, in the order outputs, traces, preferences, logits."""
    by_way = {"outputs": _outputs, "traces": _traces, "preferences": _preferences, "logits": _logits}
    return tuple(Advice(way, *by_way[way](plan)) for way in get_args(Way))


def advised(plan: Plan) -> tuple[Way, ...]:
    """Return the ways that the advice puts first and then; empty where too little is known."""
    found = advise(plan)
    return tuple(each.way for fit in ("first", "then") for each in found if each.fit == fit)


def gap(plan: Plan) -> float | None:
    """Return how far the teacher's score is ahead of the student's; None where one is not known."""
    goal = plan.goal
    if goal.student_score is None or goal.teacher_score is None:
        return None
    return goal.teacher_score - goal.student_score


def method_chapter(plan: Plan) -> Chapter:
    """Return the chapter: the advice, what is decided, and whether it overrules the advice with a reason."""
    method = plan.method
    left_open = tuple(OpenPoint(f"method.{key}", what) for key, what in method.open_keys())
    return Chapter("method", "Which distillation, and why", tuple(_blocks(plan)), left_open)


def _blocks(plan: Plan) -> Iterator[Block]:
    method = plan.method
    chosen = ", then ".join(method.ways) or None
    entries = [Entry("decided", chosen, plan.where_known("method.ways")), Entry("because", method.because)]
    entries += [Entry("how", method.how, plan.where_known("method.how"))] if method.how else []
    yield Entries(tuple(entries))
    yield from _overruled(plan)
    found = advise(plan)
    rows = tuple((each.way, each.fit, each.because) for each in found)
    yield Table("ways_to_learn", "Advice", columns_of(("Way", "text"), ("Fits", "text"), ("Because", "text")), rows)
    yield Paragraph(
        "This is advice from what the plan says; you may overrule it with a reason. Which way is better on this task is "
        "measured, not argued, at equal spend:"
    )
    ways = method.ways or advised(plan) or ("outputs", "preferences")
    yield Steps(
        (f"prefdistill compare RECIPE --arms {','.join(_arms(ways))} --equal teacher --seeds {plan.sizes.seeds}",)
    )


def _overruled(plan: Plan) -> Iterator[Block]:
    chosen, wanted = plan.method.ways, advised(plan)
    fits = {each.way: each for each in advise(plan)}
    for way in chosen:
        if fits[way].fit == "not possible":
            yield Paragraph(f"{way} is decided, and cannot be done: {fits[way].because}.", warns=True)
    if chosen and wanted and chosen != wanted:
        said = f"The advice would be: {', then '.join(wanted)}."
        reason = "The reason above overrules it." if plan.method.because else "Overruling it needs a reason."
        yield Paragraph(f"{said} {reason}", warns=not plan.method.because)


def _arms(ways: tuple[Way, ...]) -> list[str]:
    """Return the arms that show whether a chain is better than its parts."""
    names = [ARMS[way] for way in ways]
    return (
        [*names, "+".join(names)] if len(names) > 1 else [*names, *(["online"] if names != ["online"] else ["offline"])]
    )


def _outputs(plan: Plan) -> tuple[Fit, str]:
    ahead = gap(plan)
    if ahead is None:
        return "not known", (
            "the scores of student and teacher are not known: where the student is far from the teacher, its answers "
            "come first"
        )
    if ahead <= 0:
        return (
            "not needed",
            "the student scores as high as the teacher already: there is nothing to learn from its answers",
        )
    said = f"the teacher is {_points(ahead)} ahead"
    if ahead < LITTLE:
        return "not needed", f"{said}: there is little to gain, and no share of the gap can be measured"
    if ahead < FAR:
        return "possible", f"{said}: near enough that the student’s own drafts already differ usefully"
    if plan.teacher.reasons:
        return "possible", f"{said}, but its reasoning can be trained on too"
    return "first", f"{said}: the student’s own drafts are seldom good yet, so it first sees good ones"


def _traces(plan: Plan) -> tuple[Fit, str]:
    if plan.teacher.reasons is None:
        return "not known", "whether the teacher reasons before it answers is not decided"
    if not plan.teacher.reasons:
        return "not possible", "the teacher shows no reasoning"
    ahead = gap(plan)
    if ahead is None:
        return "possible", "the teacher reasons; how far it is ahead is not known"
    if ahead < FAR:
        return "possible", "the teacher reasons, but the student is near it already; traces make replies longer"
    return "first", (
        f"the teacher reasons and is {_points(ahead)} ahead; traces make training and replies longer: weigh that "
        "against the limits on time"
    )


def _preferences(plan: Plan) -> tuple[Fit, str]:
    ahead, taste = gap(plan), plan.method.taste
    near = ahead is not None and ahead < FAR
    if taste:
        said = "what is better is a matter of taste: many answers are good, and comparing says more than copying one"
        return ("first" if near else "then" if ahead is not None else "possible"), said
    if near:
        return "first", "the student is near the teacher: choosing among its own drafts improves what it really writes"
    if taste is None:
        return "not known", "whether better is a matter of taste is not decided"
    return "possible", "after the first way, where its gain stalls: what is better is no matter of taste here"


def _logits(plan: Plan) -> tuple[Fit, str]:
    teacher = plan.teacher
    if teacher.local is False:
        return "not possible", "the teacher runs elsewhere: its token distribution cannot be read"
    if teacher.same_tokenizer is False:
        return "not possible", "teacher and student have different tokenizers: their distributions cannot be compared"
    if teacher.local is None or teacher.same_tokenizer is None:
        return "not known", "it needs a teacher that runs here, with the student’s tokenizer: not decided"
    return (
        "possible",
        "the teacher runs here with the student’s tokenizer: soft labels say more a text than its answers",
    )


def _points(share: float) -> str:
    return f"{100 * share:.0f} points"
