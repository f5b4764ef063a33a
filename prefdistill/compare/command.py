"""The command `compare`: plan the arms, run them, work out what came of it, and write it down."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from prefdistill.compare.analysis import analyse
from prefdistill.compare.data import ArmRun
from prefdistill.compare.equal import Equal, equal_words
from prefdistill.compare.plan import Plan, check_arms, claim_folder, make_plan
from prefdistill.compare.reading import read_runs
from prefdistill.compare.running import cores, default_jobs, default_threads, run_plan
from prefdistill.compare.showing import ComparisonDisplay, show_comparison
from prefdistill.compare.writing import write_comparison
from prefdistill.errors import RecipeError, RunError
from prefdistill.folders import COMPARISON
from prefdistill.result import manifest_facts
from prefdistill.run import RunDirectory, read_json
from prefdistill.stages.report.comparison import ComparisonReport, Note


def compare_recipe(
    recipe: Path,
    overrides: Sequence[str],
    arms: Sequence[str],
    seeds: str,
    folder: Path | None,
    jobs: int | None,
    texts: bool,
    console: Console,
    equal: Equal = "prompts",
) -> ComparisonReport:
    """Run the arms of a recipe with each seed, going on where an earlier process stopped, and compare them.

    Args:
        jobs: seeds that run at once; None chooses.
        texts: whether the reports show prompts and drafts.
        equal: what the arms are given the same of: prompts, or the teacher's work.

    Raises:
        PrefdistillError: with where, what was found, what was expected and what to do.
    """
    plan = make_plan(recipe, overrides, arms, seeds, folder, equal)
    check_arms(plan)
    if plan.base_recipe.budget is not None and (jobs or 1) > 1:
        raise RecipeError(
            f"--jobs {jobs}: the recipe has a budget, which one process at a time keeps; leave --jobs out, or the budget"
        )
    with RunDirectory(plan.folder).locked():
        at_once = jobs or default_jobs(plan, cores())
        noted = claim_folder(plan, default_threads(at_once))
        console.print(_begun(plan, at_once), markup=False, soft_wrap=True)
        with ComparisonDisplay(plan, console) as display:
            arm_runs = run_plan(plan, at_once, int(noted["threads"]), display.tell, texts)
        return _finish(arm_runs, plan.folder, plan.name, _recipe_text(plan), texts, console, plan)


def compare_runs(names: Sequence[str], folder: Path | None, texts: bool, console: Console) -> ComparisonReport:
    """Compare finished runs: folders, names under ./runs, or `LABEL=RUN,RUN` for several seeds of one arm."""
    arm_runs = read_runs(names)
    labels = list(dict.fromkeys(each.label for each in arm_runs))
    target = folder or Path("runs") / f"{'-against-'.join(labels)[:80]}-compare"
    noted = target / COMPARISON
    if target.exists() and any(each.name != ".lock" for each in target.iterdir()) and not noted.is_file():
        raise RunError(f"{target}: the folder is not empty and holds no comparison; choose another with --run")
    if noted.is_file() and "recipe" in read_json(noted):
        raise RunError(
            f"{target}: holds the comparison of a recipe with runs of its own, which would be overwritten; choose another "
            "folder with --run"
        )
    recipe = next(each.run.directory.recipe.read_text(encoding="utf-8") for each in arm_runs if each.run is not None)
    with RunDirectory(target).locked():
        return _finish(arm_runs, target, " against ".join(labels), recipe, texts, console)


def _finish(
    arm_runs: Sequence[ArmRun],
    folder: Path,
    name: str,
    recipe: str,
    texts: bool,
    console: Console,
    plan: Plan | None = None,
) -> ComparisonReport:
    notes = [Note("info", equal_words(plan.unit, plan.sizes.answers))] if plan is not None and plan.unit else []
    equal: Equal = plan.equal if plan is not None else "prompts"
    report, numbers = analyse(arm_runs, name, recipe, _facts(arm_runs), notes=notes, equal=equal)
    places = write_comparison(report, numbers, arm_runs, folder, texts)
    show_comparison(report, console, places)
    return report


def _recipe_text(plan: Plan) -> str:
    """Return the recipe that the arms share, and what changed it for all of them."""
    changes = "".join(f"# {override}\n" for override in plan.overrides)
    return (f"# with, from the command line:\n{changes}" if changes else "") + plan.recipe.read_text(encoding="utf-8")


def _facts(arm_runs: Sequence[ArmRun]) -> dict[str, str]:
    """Return what was run and where, a line each."""
    run = next((each.run for each in arm_runs if each.run is not None), None)
    if run is None:
        return {}
    student, prompts = run.recipe.student, run.manifest["prompts"]
    return {
        "Student": f"{student.model} ({student.quantization})",
        "Prompts": ", ".join(f"{count:,} {split}" for split, count in prompts.items()),
        **manifest_facts(run.manifest),
    }


def _begun(plan: Plan, jobs: int) -> str:
    arms = ", ".join(arm.label for arm in plan.arms)
    many = f"{len(plan.seeds)} seeds" if len(plan.seeds) > 1 else "1 seed"
    at_once = f", {jobs} at a time" if jobs > 1 else ""
    pace = plan.pacesetter
    steps = f"; each round has the optimiser steps of {pace.label}'s" if pace is not None and len(plan.arms) > 1 else ""
    work = f"; {equal_words(plan.unit, plan.sizes.answers)}" if plan.unit else ""
    return f"{plan.name}: {arms}; {many}{at_once}; in {plan.folder}{steps}{work}"
