"""The new run's recipe: the old run's, with another student, a warm start from what is there, and online rounds."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefdistill.assembly import read_recipe_prompts
from prefdistill.errors import RecipeError, RunError
from prefdistill.finished import FinishedRun, read_finished
from prefdistill.folders import as_argument
from prefdistill.plugins import name_of
from prefdistill.recipe import Recipe
from prefdistill.records import Forgotten, Message, Prompt
from prefdistill.refresh.changes import Way, answer_rounds, recipe_changes
from prefdistill.run import RunDirectory, read_json
from prefdistill.stored import stored_run

SHOWN = 3


@dataclass(frozen=True)
class RefreshPlan:
    """What is refreshed, from what, and where."""

    old: FinishedRun
    recipe: Recipe
    """Of the new run."""
    run: RunDirectory
    way: Way
    notes: tuple[str, ...] = ()
    """What was changed beside the student, and why; what a user should know before it starts."""


def plan_refresh(
    old_folder: Path, student: str, folder: Path | None, overrides: Sequence[str], way: Way | None = None
) -> RefreshPlan:
    """Make the new run's recipe, and refuse what could not be compared in the end.

    Args:
        old_folder: a finished run.
        student: hub id, folder relative to the working directory, or `package:folder`.
        folder: the new run's; `runs/<old>-refreshed` by default.
        overrides: `key=value` changes to the new run's recipe.
        way: what warm-starts; the old run's pairs where it has any, else the teacher's answers.

    Raises:
        PrefdistillError: the old run is not finished or has nothing to start from, the new recipe is not valid, or the
            two students could not be compared.
    """
    old = read_finished(old_folder)
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", old.directory.path.resolve().name).strip("-._") or "run"
    target = folder or Path("runs") / f"{name}-refreshed"
    if target.resolve() == old.directory.path.resolve():
        raise RunError(f"{target}: this is the old run, which is never changed; name another folder with --run")
    chosen = way or default_way(old)
    _require(old, chosen)
    _refuse_reserved(overrides)
    if student.startswith((".", "/", "~")) and not Path(student).expanduser().is_dir():
        raise RecipeError(f"--student {student}: no such folder; expected a model folder or a hub id such as org/name")
    changes, notes = recipe_changes(old, chosen)
    own = [f"name={name}-refreshed", f"student.model={json.dumps(student)}", "student.revision="]
    _, recipe = stored_run(old.directory.path, [*own, *changes, *overrides])
    plan = RefreshPlan(old, recipe, RunDirectory(target), chosen, tuple(notes))
    _refuse_other_run(plan)
    _refuse_served(plan)
    _refuse_incomparable(plan)
    return RefreshPlan(old, recipe, plan.run, chosen, (*_student_notes(plan), *notes, *_prompt_notes(plan)))


def default_way(old: FinishedRun) -> Way:
    """Return what warm-starts by itself: answers where the old run began with them too, else its pairs where it has any.

    Measured on the sandbox, whose teacher writes well: from answers a new base came nearer to the teacher than from pairs.
    """
    answered = answer_rounds(old)
    if answered and (old.recipe.warm_start is not None or not _count_pairs(old)):
        return "answers"
    return "pairs"


def _count_pairs(old: FinishedRun) -> int:
    return sum(len(old.pairs(number)) for number in range(1, old.trained + 1))


def _require(old: FinishedRun, way: Way) -> None:
    """Check that the old run has what the way needs."""
    where = old.directory.path
    if way == "pairs" and old.recipe.pair.labels == "random":
        raise RunError(
            f"{where}: its labels were drawn by lot (pair.labels is random), so its pairs teach nothing; expected a run "
            "whose pairs were judged"
        )
    if way == "pairs" and not _count_pairs(old):
        more = "; it has answers of the teacher: add `--warm-start answers`" if answer_rounds(old) else ""
        raise RunError(f"{where}: no round of it has pairs; expected a run with at least one trained round{more}")
    if way == "answers" and not answer_rounds(old):
        raise RunError(
            f"{where}: the teacher wrote no answers in it (no round learned from answers); leave `--warm-start answers` "
            "out: its pairs start the new student"
        )


RESERVED = {
    "student.model": "--student names it",
    "warm_start.pairs_from": "it is the run that is refreshed",
    "loop.pairs_from": "the rounds after the warm start make their own pairs",
    "prompts.split_by": "both students are compared on the old run's test prompts",
    "prompts.split_column": "both students are compared on the old run's test prompts",
    "prompts.test_fraction": "both students are compared on the old run's test prompts",
    "prompts.test_limit": "both students are compared on the old run's test prompts",
}
"""Keys that a refresh sets itself, and why."""


def _refuse_reserved(overrides: Sequence[str]) -> None:
    for each in overrides:
        key = each.partition("=")[0].strip()
        if key in RESERVED:
            raise RecipeError(f"refresh: {key} cannot be set: {RESERVED[key]}; take it out")


def _refuse_other_run(plan: RefreshPlan) -> None:
    """Check that the new run's folder is empty, or holds this very refresh."""
    if not plan.run.manifest.is_file():
        return
    there = read_json(plan.run.manifest)["recipe"]
    found = str((there.get("warm_start") or {}).get("pairs_from") or "")
    asked = plan.recipe.resolved()
    wanted = str((asked.get("warm_start") or {}).get("pairs_from") or "")
    if there["student"]["model"] != asked["student"]["model"] or found != wanted:
        raise RunError(
            f"{plan.run.path}: holds another run (student {there['student']['model']}"
            f"{f', warm start from {found}' if found else ''}); give this refresh a folder of its own with --run NAME"
        )


def _refuse_served(plan: RefreshPlan) -> None:
    """Refuse a sampler that would go on asking for the old student by its name."""
    own, before = plan.recipe.sample.sampler, plan.old.recipe.sample.sampler
    same = name_of(own) == name_of(before) and getattr(own, "base_url", None) == getattr(before, "base_url", None)
    served = getattr(own, "model", None)
    if served is not None and same and served == getattr(before, "model", None) and not _is_same_student(plan):
        raise RecipeError(
            f"refresh: sample.use `{name_of(own)}` asks a server for the old student ({served}); serve the new one and "
            "add `sample.model=NAME` (and `sample.base_url=URL`), or `sample.use=transformers` to sample here"
        )


def _is_same_student(plan: RefreshPlan) -> bool:
    return plan.recipe.student.source == plan.old.recipe.student.source


def _student_notes(plan: RefreshPlan) -> list[str]:
    """Say where the new base is no other; a revision that the old run named is not taken over."""
    if not _is_same_student(plan):
        return []
    named, revision = plan.recipe.student.model, plan.old.recipe.student.revision
    at = f" (at revision {revision}; the new one: {plan.recipe.student.revision or 'the latest'})" if revision else ""
    return [
        f"student: {named} is the old run's base too{at}: no change of the base is measured, only another training of "
        "the same one"
    ]


FIXED = ("compare", "temperature", "top_p", "best_of")
"""Keys of `evaluate` on which the old student's stored drafts and scores depend."""


def _refuse_incomparable(plan: RefreshPlan) -> None:
    """Refuse changes after which the old student's stored drafts and scores say nothing about the new one's."""
    ours, theirs = plan.recipe, plan.old.recipe
    changed = [
        f"evaluate.{key}: {getattr(theirs.evaluate, key)} → {getattr(ours.evaluate, key)}"
        for key in FIXED
        if getattr(ours.evaluate, key) != getattr(theirs.evaluate, key)
    ]
    if ours.rubrics.fingerprint() != theirs.rubrics.fingerprint():
        changed.append("rubric: another one")
    if evaluation_identity(ours) != evaluation_identity(theirs):
        changed.append("the evaluation judge: another one (evaluate.judge, or judge where it is self-judged)")
    if changed:
        raise RecipeError(
            f"refresh: {'; '.join(changed)}; the old student's test drafts were written and scored by what it was before, "
            "and nothing is written again, so the two could not be compared; take the change out"
        )


def evaluation_identity(recipe: Recipe) -> Any:
    """Return what the evaluation judge's answers depend on, the teacher that it asks included."""
    judge: Any = recipe.held_out_judge or recipe.judge
    return {**judge.identity(), "asked": recipe.asked_identity(judge)}


def _prompt_notes(plan: RefreshPlan) -> list[str]:
    """Check that the old run's prompts are still what the recipe names, and say what is new among them.

    Raises:
        RecipeError: prompts are gone or have changed.
    """
    found = {prompt.id: prompt for prompt in read_recipe_prompts(plan.recipe).prompts}
    before = plan.old.prompts
    system = plan.old.recipe.student.system_text() == plan.recipe.student.system_text()
    wrong = [
        key
        for key, each in before.items()
        if key not in found or _content(found[key], system) != _content(each, system)
    ]
    if wrong:
        place = plan.recipe.prompts.path or plan.recipe.prompts.dataset
        raise RecipeError(
            f"refresh: {len(wrong)} of the old run's {len(before)} prompts are no longer in {place}, or have another text, "
            f"fields or split there (such as {', '.join(wrong[:SHOWN])}); expected the same prompts: put the file back as "
            "it was, or name a copy with prompts.path=FILE"
        )
    more = len(found.keys() - plan.old.loaded.keys())
    return [f"prompts: {more} that the old run did not have (too long for its student, or added since)"] if more else []


def _content(prompt: Prompt, system: bool) -> Any:
    messages: list[Message] = [each for each in prompt.messages if system or each.role != "system"]
    return messages, prompt.fields, prompt.split


def remember_forgotten(plan: RefreshPlan) -> list[str]:
    """Note in the new run what was forgotten in the old one; return what to do about what was forgotten since.

    A new run is told before its first prompt is loaded; a run that is there has to be asked to forget by itself.
    """
    theirs = plan.old.directory.rows(plan.old.directory.path, "forgotten.jsonl", Forgotten).read()
    ours = plan.run.rows(plan.run.path, "forgotten.jsonl", Forgotten)
    if not plan.run.manifest.exists():
        if theirs:
            bare = [each.model_copy(update={"pairs": (), "flip_rates": {}, "unwanted": ()}) for each in theirs.values()]
            ours.rewrite(bare)
        return []
    since = sorted(theirs.keys() - ours.read().keys())
    return [
        f"prompt {key} was forgotten in the old run since; here too: `prefdistill forget {key} --run "
        f"{as_argument(plan.run.path)}`"
        for key in since
    ]
