"""Rounds made of another run's pairs: a control that tells fresh drafts from good pairs.

Place in the flow: instead of sampling and judging. The pairs of an online run are shuffled over the rounds and trained
on: what online still has over this arm, it owes to drafts of the updated student at the right time, and not to what the
pairs say.
"""

from __future__ import annotations

from prefdistill.assembly import Workshop
from prefdistill.drafting import Judged
from prefdistill.records import seed_of
from prefdistill.round import Paired
from prefdistill.run import RunDirectory, read_json
from prefdistill.sources import is_trained, pairs_of
from prefdistill.taking import its_own, take


def replay(shop: Workshop, number: int) -> tuple[Judged, Paired]:
    """Return a round's share of the pairs of `loop.pairs_from`, with the drafts and verdicts that they come from.

    Where all rounds are trained they come from the round's own files: the other run may have changed, or be gone.

    Raises:
        RunError: the round's folder holds what was made otherwise.
    """
    recipe, rounds = shop.recipe, range(1, shop.recipe.loop.rounds + 1)
    assert recipe.loop.pairs_from is not None
    source = RunDirectory(recipe.loop.pairs_from)
    shared = read_json(shop.run.manifest)["recipe"]["loop"]["rounds"]  # over so many rounds, when the run was made
    others = shared != len(rounds) or any(line.startswith("loop.pairs_from:") for line in shop.changed)
    again = shop.redo_from in ("sample", "judge") or (others and source.manifest.is_file())
    if not again and all(is_trained(shop.run, each) for each in rounds):
        return its_own(shop, number)
    order = sorted(pairs_of(source, rounds), key=lambda item: seed_of(recipe.seed, "replay", item[0], item[1].id))
    start, end = ((number + step) * len(order) // len(rounds) for step in (-1, 0))
    return take(shop, number, source, rounds, order[start:end])
