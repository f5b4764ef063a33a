"""A finished or unfinished run's own recipe and policies, read from its folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prefdistill.documents import load_document
from prefdistill.errors import RecipeError, RunError
from prefdistill.folders import as_argument, no_run
from prefdistill.recipe import Recipe, load_recipe
from prefdistill.records import Policy
from prefdistill.run import RunDirectory, read_json

WEIGHTS = "adapter_model.safetensors"
TRACE_KEY = "student.trace"
NO_TRACE = f"{TRACE_KEY}=off"
"""The change to a recipe that switches the student's reasoning off."""


def run_there(folder: Path) -> RunDirectory:
    """Return a run folder.

    Raises:
        RunError: there is no run.
    """
    run = RunDirectory(folder)
    if not run.manifest.is_file() or not run.recipe.is_file():
        raise no_run(folder, "it holds no run (no manifest.json and recipe.yaml)")
    return run


def stored_run(folder: Path, overrides: Sequence[str] = ()) -> tuple[RunDirectory, Recipe]:
    """Return a run folder and its recipe, changed by `key=value` items; its prompts and given drafts may be gone by now.

    Raises:
        RunError: there is no run.
        RecipeError: the recipe names something else that is no longer where it was.
    """
    run = run_there(folder)
    data = load_document(run.recipe, RecipeError).data
    gone = []
    for section, key, instead in (("prompts", "path", str(run.prompts.resolve())), ("sample", "drafts_from", "")):
        named = (data.get(section) or {}).get(key)
        if named is not None and not (run.path / named).exists():
            gone.append(f"{section}.{key}={instead}")
    return run, load_recipe(run.recipe, [*gone, *overrides])


def stored_run_traced(folder: Path, no_trace: bool, overrides: Sequence[str] = ()) -> tuple[RunDirectory, Recipe]:
    """Return a run folder and its changed recipe, the student's reasoning switched off where `no_trace` says so.

    Raises:
        RunError: there is no run, or its student was not trained to reason.
        RecipeError: the recipe names something else that is no longer where it was.
    """
    run, recipe = stored_run(folder, overrides)
    if not no_trace:
        return run, recipe
    if recipe.student.trace is None:
        raise RunError(
            f"{folder}: --no-trace: this run's student was not trained to reason (its recipe has no student.trace), so "
            "there is nothing to switch off"
        )
    return stored_run(folder, [*overrides, NO_TRACE])


def choices_of(run: RunDirectory) -> dict[str, Any]:
    """Return a copy of the choices that the run made once."""
    return dict(read_json(run.manifest).get("choices", {}))


def stored_policy(run: RunDirectory, recipe: Recipe, number: int | None = None) -> Policy:
    """Return the kept policy, or the one of round `number`; 0 is the base.

    Raises:
        RunError: it is not there, with the rounds that are.
    """
    base = Policy(model=recipe.student.model, revision=recipe.student.revision)
    if number is None:
        number = _kept(run)
    if number == 0:
        return base
    folder = run.round(number) / "5-policy"
    if (folder / WEIGHTS).is_file() and (folder / "train.json").is_file():
        return base.model_copy(update={"adapter": folder.relative_to(run.path).as_posix(), "round": number})
    raise RunError(f"{folder}: no policy of round {number}; {_trained(run)}")


def _kept(run: RunDirectory) -> int:
    path = run.policy / "policy.json"
    if path.is_file() and run.result.is_file():
        return int(read_json(path)["round"])
    raise RunError(
        f"{run.path}: the run is not finished, so no policy is kept yet; {_trained(run)}; name one with --round, or "
        f"finish the run (`prefdistill status {as_argument(run.path)}` says how)"
    )


def _trained(run: RunDirectory) -> str:
    found = sorted(int(path.parent.parent.name[6:]) for path in run.path.glob(f"round-[0-9]*/5-policy/{WEIGHTS}"))
    return (
        f"trained are rounds {', '.join(map(str, found))}, and 0 is the base" if found else "there is only the base, 0"
    )
