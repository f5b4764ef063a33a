"""Runs whose pairs a recipe takes: are they there, and are they still needed.

Place in the flow: before the run folder. `validate` and `--dry-run` ask the same.
"""

from __future__ import annotations

from collections.abc import Iterable

from prefdistill.errors import RunError
from prefdistill.recipe import Recipe
from prefdistill.records import PreferencePair
from prefdistill.run import Fingerprints, RunDirectory, read_json


def is_trained(run: RunDirectory, number: int) -> bool:
    """Whether a round's policy is trained: what it was made from is then in the round's own files."""
    return Fingerprints(run.round(number)).entries.get("policy", {}).get("rows") is not None


def pairs_of(source: RunDirectory, rounds: Iterable[int]) -> list[tuple[int, PreferencePair]]:
    """Return the pairs of some rounds of a run, each with its round's number."""
    return [
        (number, pair)
        for number in rounds
        for pair in source.rows(source.round(number), "4-pairs.jsonl", PreferencePair).read().values()
    ]


def require_source(
    recipe: Recipe, run: RunDirectory | None = None, redo_from: str | None = None, redo_round: int | None = None
) -> None:
    """Check that the run whose pairs are taken is there, where the recipe names one and its pairs are still needed.

    Args:
        recipe: from `load_recipe`.
        run: the run folder; rounds that are trained there have what they need.
        redo_from: the stage from which they are made again.
        redo_round: the round at which that begins; every round where it is None.

    Raises:
        RunError: it is not there, or has not what is taken from it.
    """

    def settled(number: int) -> bool:
        if run is None or not is_trained(run, number) or _made_its_own(recipe, run):
            return False
        if redo_round is None:
            return redo_from not in ("sample", "judge")
        return number < redo_round or (number == redo_round and redo_from == "evaluate")

    rounds = set(range(1, recipe.last_round + 1)) if recipe.warm_start is None else {1}
    path = recipe.pairs_from(1)
    if path is None or all(settled(number) for number in rounds):
        return
    source = RunDirectory(path)
    done = source.finished_rounds() - {0}
    if recipe.warm_start is not None:
        if not pairs_of(source, done):
            found = "no pairs in any finished round" if source.manifest.is_file() else "no run there"
            raise RunError(f"{path}: warm_start.pairs_from: {found}; expected a run with at least one finished round")
    elif not done >= rounds:
        found = f"{len(done)} finished rounds" if source.manifest.is_file() else "no run there"
        raise RunError(
            f"{path}: loop.pairs_from: {found}, and loop.rounds is {recipe.loop.rounds}; expected a run with as many "
            "finished rounds: finish it, or lower loop.rounds"
        )


def _made_its_own(recipe: Recipe, run: RunDirectory) -> bool:
    """Whether the rounds of a run were made without another's pairs, before the recipe named one."""
    if recipe.warm_start is not None or not run.manifest.is_file():
        return False
    return read_json(run.manifest)["recipe"]["loop"].get("pairs_from") is None
