"""What makes arms equal that learn from different things: prompts for prompts, or the same work of the teacher.

Judging a prompt's drafts and answering it do not cost the same. Where the teacher's work is to be equal, an arm that
learns from answers is given as many prompts as the money for the judged drafts pays for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from prefdistill.assembly import load_recipe_prompts
from prefdistill.compare.arms import FIRST, KINDS, Arm, Sizes
from prefdistill.costs.measured import measured_before
from prefdistill.costs.questions import Asker
from prefdistill.costs.steps import steps_of
from prefdistill.errors import RecipeError
from prefdistill.recipe import Recipe, load_recipe
from prefdistill.run import RunDirectory
from prefdistill.stages.load import Loaded

Equal = Literal["prompts", "teacher"]
"""What arms are given the same of."""
UNITS = ("USD", "tokens", "replies")
"""In what the teacher's work is counted: the first that is known for every arm."""


def sizes_of(
    path: Path, recipe: Recipe, overrides: Sequence[str], arms: Sequence[Arm], equal: Equal, noted: Mapping[str, Any]
) -> tuple[Sizes, str]:
    """Return how large the arms' stages are made, and in what the teacher's work was counted; "" where it was not.

    Args:
        path: the recipe's file.
        recipe: it with the overrides.
        noted: what the comparison counted when it began, by kind of arm: an exchange rate stays what it was.

    Raises:
        RecipeError: the teacher's work is to be equal, and an arm makes none.
    """
    kinds = sorted({kind for arm in arms for kind in (arm.warm_start, arm.kind) if kind in FIRST})
    chained = any(arm.warm_start for arm in arms)
    if not kinds or (equal == "prompts" and not chained):
        return Sizes(), ""
    if equal == "teacher" and not recipe.loop.rounds:
        raise RecipeError("--equal teacher: loop.rounds is 0, so no arm asks the teacher for anything to train on")
    prompts, _ = load_recipe_prompts(recipe)
    count = len(prompts.of("train"))
    if equal == "prompts":
        return Sizes(train_prompts=count), ""
    unit = str(noted.get("unit", ""))
    if unit and all(kind in noted for kind in kinds):
        return Sizes({kind: float(noted[kind]) for kind in kinds}, count), unit
    alone = {kind: [*overrides, *KINDS[kind].overrides(recipe), *_own_keys(kind, arms)] for kind in ("online", *kinds)}
    work = {}
    for kind, keys in alone.items():
        try:
            work[kind] = work_a_prompt(load_recipe(path, keys), prompts)
        except RecipeError as problem:
            label = next((arm.label for arm in arms if kind in (arm.kind, arm.warm_start)), kind)
            raise RecipeError(f"compare: arm {label}: {problem}") from None
    _all_work(work)
    unit = unit or next(each for each in UNITS if all(of.get(each) for of in work.values()))
    lost = next((kind for kind, of in work.items() if not of.get(unit)), None)
    if lost is not None:
        raise RecipeError(
            f"--equal teacher: the comparison counts the teacher's work in {unit}, and that of {lost} is not known in it; "
            "give its model a price (`usd_per_million`), or start a new comparison with --run NAME"
        )
    rates = {kind: work["online"][unit] / work[kind][unit] for kind in kinds}
    return Sizes({**rates, **{kind: float(noted[kind]) for kind in kinds if kind in noted}}, count), unit


def _own_keys(kind: str, arms: Sequence[Arm]) -> list[str]:
    """Return the keys with which an arm on answers, or the warm start of a chain, can be a recipe by itself."""
    for arm in arms:
        if arm.kind == kind and arm.on_answers:
            return list(arm.overrides)
        if arm.warm_start == kind:
            head = "warm_start."
            return [f"train.{each.removeprefix(head)}" for each in arm.overrides if each.startswith(head)]
    return []


def work_a_prompt(recipe: Recipe, prompts: Loaded) -> dict[str, float]:
    """Return what one train prompt asks of paid models, in every unit in which it is known.

    Replies count one for each answer and each draft that is judged, whoever gives them and whether or not they cost.
    """
    run = RunDirectory(Path("runs") / recipe.name)
    asker = Asker(recipe, prompts, measured_before(recipe, None))
    found = {"USD": 0.0, "tokens": 0.0, "replies": 0.0}
    unpriced, asked = False, 0
    for step in steps_of(recipe, prompts, run):
        if step.split != "train" or step.round != recipe.first_round:
            continue
        asked = max(asked, len(step.prompts))
        if step.judge is not None or step.source == "teacher":
            found["replies"] += step.drafts * len(step.prompts)
        for line in asker.lines(step):
            unpriced = unpriced or (bool(line.calls) and line.usd is None)
            found["USD"] += line.usd or 0.0
            found["tokens"] += line.prompt_tokens + line.completion_tokens
    values = {unit: value / max(1, asked) for unit, value in found.items()}
    return {unit: value for unit, value in values.items() if unit != "USD" or not unpriced}


def _all_work(work: Mapping[str, Mapping[str, float]]) -> None:
    """Refuse arms of which some ask paid models for training and others do not."""
    paying = [kind for kind, of in work.items() if of.get("tokens")]
    free = [kind for kind, of in work.items() if not of.get("tokens")]
    if paying and free:
        raise RecipeError(
            f"--equal teacher: {' and '.join(paying)} ask a paid model for what they train on, and {' and '.join(free)} do "
            "not, so no size makes their cost the same; use `--equal prompts`, or a judge and a rubric that ask the teacher"
        )


def equal_words(unit: str, rates: Mapping[str, float]) -> str:
    """Return how the teacher's work was made equal, in a sentence."""
    shown = ", ".join(f"{kind} {rate:.3g}" for kind, rate in rates.items())
    return (
        f"arms were sized for equal work of the teacher, counted in {unit}: for each prompt whose drafts are judged, so "
        f"many are answered: {shown}"
    )
