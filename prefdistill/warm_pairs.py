"""A warm start on another run's pairs: all of them at once, to bring another student near what was paid for already."""

from __future__ import annotations

from prefdistill.assembly import Workshop, train_prompts
from prefdistill.diagnostics.judging import flip_rate
from prefdistill.drafting import Judged
from prefdistill.errors import RunError
from prefdistill.recipe import Recipe
from prefdistill.records import Draft, PreferencePair, Ranking, Verdict, digest, seed_of
from prefdistill.round import Paired
from prefdistill.run import Fingerprints, RunDirectory
from prefdistill.taking import pairs_of, take


def warm_pairs(shop: Workshop, number: int) -> tuple[Judged, Paired]:
    """Return the pairs of `warm_start.pairs_from`, with the drafts and verdicts that they come from.

    Of a round that is trained they come from its own files: the other run may have changed, or be gone.

    Raises:
        RunError: the round's folder holds what was made otherwise.
    """
    recipe, source = shop.recipe, _source(shop.recipe)
    others = any(line.startswith(("warm_start.pairs_from:", "warm_start.prompts:")) for line in shop.changed)
    again = shop.redo_from in ("sample", "judge") or (others and source.manifest.is_file())
    if _is_trained(shop.run, number) and not again:
        return _its_own(shop, number)
    rounds = sorted(source.finished_rounds() - {0})
    wanted = {prompt.id for prompt in train_prompts(recipe, shop.prompts)[0]}
    chosen = [item for item in pairs_of(source, rounds) if item[1].prompt_id in wanted]
    chosen.sort(key=lambda item: seed_of(recipe.seed, "replay", item[0], item[1].id))
    return take(shop, number, source, rounds, chosen)


def require_source(recipe: Recipe, run: RunDirectory) -> None:
    """Check that the run whose pairs are taken is there, where the recipe names one and its pairs are still needed.

    Raises:
        RunError: it is not there, or has no pairs.
    """
    if recipe.warm_start is None or recipe.warm_start.pairs_from is None or _is_trained(run, 1):
        return
    source = _source(recipe)
    if not pairs_of(source, source.finished_rounds() - {0}):
        found = "no pairs in any finished round" if source.manifest.is_file() else "no run there"
        raise RunError(
            f"{source.path}: warm_start.pairs_from: {found}; expected a run with at least one finished round"
        )


def _source(recipe: Recipe) -> RunDirectory:
    warm = recipe.warm_start
    assert warm is not None and warm.pairs_from is not None
    return RunDirectory(warm.pairs_from)


def _is_trained(run: RunDirectory, number: int) -> bool:
    return Fingerprints(run.round(number)).entries.get("policy", {}).get("rows") is not None


def _its_own(shop: Workshop, number: int) -> tuple[Judged, Paired]:
    """Return what a round that is trained was made from, from its own files."""
    run, folder = shop.run, shop.run.round(number)
    pairs = run.rows(folder, "4-pairs.jsonl", PreferencePair).read()
    verdicts = run.rows(folder, "2-verdicts.jsonl", Verdict).read()
    rankings = run.rows(folder, "3-rankings.jsonl", Ranking).read()
    ids = {pair.prompt_id for pair in pairs.values()}
    judged = Judged(tuple(prompt for prompt in shop.prompts.prompts if prompt.id in ids))
    judged.drafts = run.rows(folder, "1-drafts.jsonl", Draft).read()
    judged.verdicts = {"verdicts": verdicts}
    judged.fingerprint = digest(["replay", sorted(pairs)])
    return judged, Paired(tuple(rankings.values()), tuple(pairs.values()), (), flip_rate(verdicts.values()))
