"""Rounds made of another run's pairs: a control that tells fresh drafts from good pairs.

Place in the flow: instead of sampling and judging. The pairs of an online run are shuffled over the rounds and trained
on: what online still has over this arm, it owes to drafts of the updated student at the right time, and not to what the
pairs say.
"""

from __future__ import annotations

from prefdistill.assembly import Workshop
from prefdistill.drafting import Judged
from prefdistill.errors import RunError
from prefdistill.recipe import Recipe
from prefdistill.records import seed_of
from prefdistill.round import Paired
from prefdistill.run import RunDirectory
from prefdistill.taking import pairs_of, take


def replay(shop: Workshop, number: int) -> tuple[Judged, Paired]:
    """Return a round's share of the pairs of `loop.pairs_from`, with the drafts and verdicts that they come from.

    Raises:
        RunError: the round's folder holds what was made otherwise.
    """
    recipe, rounds = shop.recipe, range(1, shop.recipe.loop.rounds + 1)
    assert recipe.loop.pairs_from is not None
    source = RunDirectory(recipe.loop.pairs_from)
    order = sorted(pairs_of(source, rounds), key=lambda item: seed_of(recipe.seed, "replay", item[0], item[1].id))
    start, end = ((number + step) * len(order) // len(rounds) for step in (-1, 0))
    return take(shop, number, source, rounds, order[start:end])


def require_source(recipe: Recipe) -> None:
    """Check that the run whose pairs are replayed is there, where the recipe names one.

    Raises:
        RunError: it is not there, or has not finished as many rounds.
    """
    path, rounds = recipe.loop.pairs_from, recipe.loop.rounds
    if path is None:
        return
    source = RunDirectory(path)
    done = source.finished_rounds() - {0}
    if not done >= set(range(1, rounds + 1)):
        found = f"{len(done)} finished rounds" if source.manifest.is_file() else "no run there"
        raise RunError(
            f"{path}: loop.pairs_from: {found}, and loop.rounds is {rounds}; expected a run with as many finished rounds: "
            "finish it, or lower loop.rounds"
        )
