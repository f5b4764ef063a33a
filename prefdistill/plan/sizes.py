"""How many prompts and trainings a plan needs to see the effects that it must, and what its splits can see."""

from __future__ import annotations

from collections.abc import Iterator

from prefdistill.metrics.power import (
    judged_effect,
    prompts_for_win_rate,
    prompts_needed,
    smallest_effect,
    smallest_win_rate,
)
from prefdistill.plan.advice import LITTLE, gap
from prefdistill.plan.blocks import Block, Chapter, Entries, Entry, OpenPoint, Paragraph
from prefdistill.plan.document import Plan
from prefdistill.plan.figures import requests, share
from prefdistill.stages.report.tables import Table, columns_of, without_empty

FEWEST_SEEDS = 3
"""Under so many trainings a difference may be one seed's luck."""


def sizes_chapter(plan: Plan) -> Chapter:
    """Return the chapter: prompts needed for each effect, and whether the test split has them."""
    left_open = tuple(OpenPoint(f"sizes.{key}", what) for key, what in plan.sizes.open_keys())
    return Chapter("sizes", "How many prompts", tuple(_blocks(plan)), left_open)


def shown_rate(plan: Plan) -> float:
    """Return the win rate that is left of the wanted one once the judge's errors have shrunk it."""
    sizes = plan.sizes
    if sizes.judge_accuracy is None:
        return sizes.win_rate
    return 0.5 + judged_effect(sizes.win_rate - 0.5, sizes.judge_accuracy)


def needed_for_rate(plan: Plan) -> int | None:
    """Return how many prompts show the wanted win rate; None where the ties leave no room for it."""
    sizes = plan.sizes
    try:
        return prompts_for_win_rate(shown_rate(plan), sizes.ties, sizes.power, sizes.alpha)
    except ValueError:  # the ties leave less than that to win
        return None


def needed_for_gain(plan: Plan) -> int | None:
    """Return how many prompts show the wanted gain of the mean score; None where the deviation is not known."""
    sizes = plan.sizes
    if sizes.score_sd is None:
        return None
    return prompts_needed(sizes.score_gain, sizes.score_sd, sizes.power, sizes.alpha)


def _blocks(plan: Plan) -> Iterator[Block]:
    sizes = plan.sizes
    yield Paragraph(
        f"Two-sided at {share(sizes.alpha)}, with {share(sizes.power)} power, one policy against the base on the same "
        "prompts."
    )
    yield _needs(plan)
    judge = None if sizes.judge_accuracy is None else share(sizes.judge_accuracy)
    note = "the judge is taken to be always right" if judge is None else "an effect on the win rate shrinks to match"
    deviation = None if sizes.score_sd is None else f"{sizes.score_sd:g}"
    yield Entries(
        (
            Entry("the judge decides as people do in", judge or "not measured", note),
            Entry("deviation of score differences", deviation, plan.where_known("sizes.score_sd")),
            Entry("trainings, one a seed", str(sizes.seeds), plan.where_known("sizes.seeds")),
        )
    )
    yield from _warnings(plan)


def _needs(plan: Plan) -> Table:
    sizes, data = plan.sizes, plan.data
    rate = f"a win rate of {share(sizes.win_rate)} over the base"
    if shown_rate(plan) != sizes.win_rate:
        rate += f", which this judge shows as {share(shown_rate(plan))}"
    rows = [
        (
            rate,
            needed_for_rate(plan) or "ties leave no room",
            _seen_rate(plan, data.validation),
            _seen_rate(plan, data.test),
        ),
        (
            f"a gain of {sizes.score_gain:g} in the mean score",
            needed_for_gain(plan) or "not known",
            _seen_gain(plan, data.validation),
            _seen_gain(plan, data.test),
        ),
    ]
    columns = columns_of(
        ("To show", "text"),
        ("Prompts needed", "count"),
        (f"Validation shows ({_many(data.validation)})", "text"),
        (f"Test shows ({_many(data.test)})", "text"),
    )
    return without_empty(Table("sizes", "Prompts for the effects that must show", columns, tuple(rows)))


def _many(prompts: int | None) -> str:
    return f"{requests(prompts)} prompts" if prompts else "size open"


def _seen_rate(plan: Plan, prompts: int | None) -> str | None:
    """Return the smallest true win rate that so many prompts show, the judge's errors taken into account."""
    if prompts is None:
        return None
    sizes = plan.sizes
    seen = smallest_win_rate(prompts, sizes.ties, sizes.power, sizes.alpha)
    kept = 1.0 if sizes.judge_accuracy is None else judged_effect(1.0, sizes.judge_accuracy)
    true = None if seen is None else 0.5 + (seen - 0.5) / kept
    return "none" if true is None or true > 1 - sizes.ties / 2 else f"{share(true)} or more"


def _seen_gain(plan: Plan, prompts: int | None) -> str | None:
    sizes = plan.sizes
    if prompts is None or sizes.score_sd is None:
        return None
    return f"{smallest_effect(prompts, sizes.score_sd, sizes.power, sizes.alpha):.3f} or more"


def _warnings(plan: Plan) -> Iterator[Block]:
    test, ahead, target = plan.data.test, gap(plan), plan.goal.target_score
    for what, needed in (("win rate", needed_for_rate(plan)), ("gain of the score", needed_for_gain(plan))):
        if test is not None and needed is not None and test < needed:
            yield Paragraph(
                f"The test split has {requests(test)} prompts, and the {what} that must show needs {requests(needed)}: a "
                "student that is better by just that much may not be seen to be.",
                warns=True,
            )
    if plan.sizes.seeds < FEWEST_SEEDS:
        yield Paragraph(
            f"With {plan.sizes.seeds} training{'' if plan.sizes.seeds == 1 else 's'} a difference may be one seed’s luck; "
            f"take {FEWEST_SEEDS} or more.",
            warns=True,
        )
    if ahead is not None and ahead < LITTLE:
        by = f"only {100 * ahead:.0f} points" if ahead > 0 else "not"
        yield Paragraph(f"The teacher is {by} ahead of the student: no share of a gap can be measured.", warns=True)
    if target is not None and plan.goal.teacher_score is not None and target > plan.goal.teacher_score:
        yield Paragraph(
            f"The target of {target:g} is above the teacher’s own {plan.goal.teacher_score:g}: students seldom pass their "
            "teacher on its own judgement.",
            warns=True,
        )
