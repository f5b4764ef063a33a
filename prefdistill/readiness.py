"""What is certain to fail before anything is written, sampled or paid for: trainings that could never take place.

Place in the flow: after the prompts, before the run folder. `validate` and `--dry-run` ask the same, and fetch nothing.
"""

from __future__ import annotations

from math import comb

from prefdistill.errors import RecipeError
from prefdistill.protocols import learns_from
from prefdistill.recipe import Recipe
from prefdistill.run import RunDirectory
from prefdistill.stages.load import Loaded


def require_trainable(
    recipe: Recipe, prompts: Loaded, run: RunDirectory | None = None, fetch: bool = True
) -> tuple[str, ...]:
    """Refuse a recipe whose trainings cannot take place, as far as that is known before the first draft.

    Args:
        recipe: from `load_recipe`; its plug-ins need not be open.
        prompts: from `load_recipe_prompts`.
        run: the run folder; rounds that are finished there want nothing.
        fetch: whether files of a model may come from the hub; without them what needs them is not checked.

    Returns:
        What was not checked, a line each; empty where everything was.

    Raises:
        RecipeError: a round has too few prompts to fill a batch, whatever becomes of them.
        TrainError: a trainer cannot train this student.
    """
    done = set() if run is None else run.finished_rounds()
    for number in sorted({1, recipe.first_round}):  # later rounds have as many prompts, and past pairs
        if number <= recipe.last_round and number not in done:
            _require_batch(recipe, number, len(prompts.of("train")))
    unchecked = []
    for key, section in (("warm_start", recipe.warm_start), ("train", recipe.train)):
        check = getattr(section.trainer, "check_student", None) if section else None
        left = check(recipe.student, fetch) if check else None
        unchecked += [f"{key}: {left}"] if left else []
    return tuple(unchecked)


def _require_batch(recipe: Recipe, number: int, there: int) -> None:
    """Refuse a round whose prompts cannot give one batch; `there` train prompts are all that there are."""
    warm = recipe.warm_start if number < recipe.first_round else None
    section, name = (recipe.train, "train") if warm is None else (warm, "warm_start")
    key, wanted = "loop.prompts_per_round", recipe.loop.prompts_per_round
    if warm is not None:
        key, wanted = "warm_start.prompts", warm.prompts
    what, batch = learns_from(section.trainer), getattr(section.trainer, "batch_size", 1)
    each = recipe.answers_of(number) if what == "answers" else _most_pairs(recipe)
    used = min(wanted, there)
    if recipe.pairs_from(number) is not None or each is None or used * each >= batch:
        return
    several = f" with {each} answers each" if what == "answers" and each > 1 else ""
    gives = f"{used} train prompt{'' if used == 1 else 's'}{several} {'gives' if used == 1 else 'give'}"
    more = f"raise {key}" if wanted <= there else f"add train prompts (there are {there})"
    if warm is not None and what == "answers":
        more += " or warm_start.answers" if wanted <= there else ", raise warm_start.answers"
    raise RecipeError(
        f"{key}: {gives} at most {used * each} {what}, fewer than one batch ({name}.batch_size is {batch}), so there "
        f"would be nothing to train on once they are made; {more}, or lower {name}.batch_size"
    )


def _most_pairs(recipe: Recipe) -> int | None:
    """Return how many pairs a prompt can give; None where that is not known."""
    if recipe.pair.strategy != "all_above_margin":
        return 1
    if recipe.sample.drafts_from is not None:
        return None
    return comb(recipe.sample.drafts + recipe.sample.teacher_drafts, 2)
