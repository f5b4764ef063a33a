"""A warm start on another run's pairs: all of them at once, to bring another student near what was paid for already."""

from __future__ import annotations

from prefdistill.assembly import Workshop, train_prompts
from prefdistill.drafting import Judged
from prefdistill.recipe import Recipe
from prefdistill.records import seed_of
from prefdistill.round import Paired
from prefdistill.run import RunDirectory
from prefdistill.sources import is_trained, pairs_of
from prefdistill.taking import its_own, take


def warm_pairs(shop: Workshop, number: int) -> tuple[Judged, Paired]:
    """Return the pairs of `warm_start.pairs_from`, with the drafts and verdicts that they come from.

    Of a round that is trained they come from its own files: the other run may have changed, or be gone.

    Raises:
        RunError: the round's folder holds what was made otherwise.
    """
    recipe, source = shop.recipe, _source(shop.recipe)
    others = any(line.startswith(("warm_start.pairs_from:", "warm_start.prompts:")) for line in shop.changed)
    again = shop.redo_from in ("sample", "judge") or (others and source.manifest.is_file())
    if is_trained(shop.run, number) and not again:
        return its_own(shop, number)
    rounds = sorted(source.finished_rounds() - {0})
    wanted = {prompt.id for prompt in train_prompts(recipe, shop.prompts)[0]}
    chosen = [item for item in pairs_of(source, rounds) if item[1].prompt_id in wanted]
    chosen.sort(key=lambda item: seed_of(recipe.seed, "replay", item[0], item[1].id))
    return take(shop, number, source, rounds, chosen)


def _source(recipe: Recipe) -> RunDirectory:
    warm = recipe.warm_start
    assert warm is not None and warm.pairs_from is not None
    return RunDirectory(warm.pairs_from)
