"""Has a judge judge what people labelled: the recipe's own, live, or one whose verdicts are on record."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefdistill.agreement.cases import JudgedCase, judged_case
from prefdistill.agreement.labelled import Case, Labelled, take_apart
from prefdistill.assembly import opened_judge
from prefdistill.errors import JudgeError, RecipeError
from prefdistill.judges.recorded import RecordedJudge
from prefdistill.judges.recordings import load_run_drafts
from prefdistill.labels import LabelError, Labels
from prefdistill.plugins import name_of
from prefdistill.protocols import Judge, Progress, RunContext, no_progress
from prefdistill.recipe import Recipe, load_recipe
from prefdistill.records import Prompt, Usage, Verdict
from prefdistill.rubric import Rubric, RubricSet, load_rubric
from prefdistill.run import RowFile, RunDirectory
from prefdistill.selection import PairOptions
from prefdistill.stages.judge import judge_prompts


@dataclass(frozen=True)
class Answered:
    """The labels, and what a judge says about the drafts in them."""

    judge: str
    """What the judge is, for the reader."""
    labelled: Labelled
    judged: tuple[JudgedCase, ...]
    options: PairOptions
    """By which a pair would train."""
    notes: tuple[str, ...] = ()
    usage: Usage | None = None
    """What the verdicts cost when they were asked, where that was not now."""


def ask_judge(
    labels: Labels, recipe: Recipe, repeat: int = 1, cached_only: bool = False, progress: Progress = no_progress
) -> Answered:
    """Have a recipe's judge judge all labelled drafts, `repeat` times in all.

    Raises:
        PrefdistillError: of any kind, such as a teacher that cannot be reached.
    """
    labelled = take_apart(labels)
    with ExitStack() as stack:
        judge, layer = stack.enter_context(opened_judge(recipe, cached_only))
        if not getattr(judge, "scores_alone", True) and all(len(case.drafts) < 2 for case in labelled.cases):
            raise JudgeError(
                "the judge only compares drafts, and no label compares two; expected labelled pairs or rankings, or a "
                "judge that scores drafts one by one (`use: rubric`)"
            )
        passes = [_verdicts(judge, labelled.cases, recipe.rubrics, progress)]
        for number in range(1, repeat):
            repeated: Any = getattr(judge, "repeated", None)
            again = judge if repeated is None else repeated(number)
            passes.append(_verdicts(again, labelled.cases, recipe.rubrics, progress))
        notes = tuple(layer.notes)
    name = name_of(recipe.judge)
    members = getattr(recipe.judge, "members", ())
    asked = ", ".join(str(getattr(each.teacher, "model", None) or each.teacher._use) for each in members)
    return Answered(
        judge=f"{name} of recipe {recipe.name}" + (f", asking {asked}" if asked else ""),
        labelled=labelled,
        judged=_judged(labelled.cases, passes, recipe.rubrics),
        options=recipe.pair,
        notes=notes,
    )


def look_up_verdicts(
    labels: Labels,
    path: Path,
    rubric: Path | None = None,
    only_judge: str | None = None,
    progress: Progress = no_progress,
) -> Answered:
    """Look up what a run or a file of recorded verdicts says about all labelled drafts.

    Args:
        rubric: the rubric by which recorded levels are scored; a run has its own.

    Raises:
        PrefdistillError: the verdicts cannot be read.
    """
    if not path.exists():
        raise JudgeError(f"{path} does not exist; expected a JSONL file of recorded verdicts, or a run folder")
    judge = RecordedJudge.model_validate({"path": path, "only_judge": only_judge}, context={"directory": Path.cwd()})
    judge.open(RunContext(directory=Path.cwd(), seed=0))
    rubrics, options = (
        (_one(load_rubric(rubric)), PairOptions(min_margin=0.0)) if rubric is not None else _rules_of(path)
    )
    prompts, drafts = (
        (RowFile(path / "prompts.jsonl", Prompt).read(), load_run_drafts(path)) if path.is_dir() else ({}, {})
    )
    labelled = take_apart(labels, prompts, drafts)
    passes = [_verdicts(judge, labelled.cases, rubrics, progress)]
    of = f" of {only_judge}" if only_judge else ""
    return Answered(
        judge=f"verdicts{of} on record in {path}",
        labelled=labelled,
        judged=_judged(labelled.cases, passes, rubrics),
        options=options,
        usage=judge.recordings.usage if path.is_dir() else None,
    )


def _rules_of(path: Path) -> tuple[RubricSet, PairOptions]:
    """Return the rubrics and the pair options of a run; a file of comparisons needs none of its own."""
    run = RunDirectory(path)
    if path.is_dir() and run.recipe.exists():
        try:
            recipe = load_recipe(run.recipe)
        except RecipeError:
            rubric = path / "rubric.yaml"
            if not rubric.exists():
                raise
            return _one(load_rubric(rubric)), PairOptions(min_margin=0.0)
        return recipe.rubrics, recipe.pair
    unasked = {"name": "better", "question": "Which is better?", "levels": ["worse", "better"]}
    return _one(Rubric.model_validate({"name": "none", "criteria": [unasked]})), PairOptions(min_margin=0.0)


def _one(rubric: Rubric) -> RubricSet:
    return RubricSet(rubrics={"": rubric})


def _verdicts(
    judge: Judge, cases: Sequence[Case], rubrics: RubricSet, progress: Progress
) -> dict[frozenset[str], Verdict]:
    """Judge every case through the judge stage; return the verdicts by the ids of their drafts."""
    if not cases:
        raise LabelError("labels: no label says anything about a draft; expected pairs of different texts")
    for rubric in {id(each): each for each in (rubrics.of(case.prompt) for case in cases)}.values():
        require: Any = getattr(judge, "require", None)
        if require is not None:
            require(rubric)
    found: dict[frozenset[str], Verdict] = {}
    for verdict in judge_prompts(judge, ((case.prompt, case.drafts) for case in cases), rubrics):
        found[_named(verdict)] = verdict
        progress("judge", len(found), len(cases), "")
    return found


def _named(verdict: Verdict) -> frozenset[str]:
    """Return the drafts that a verdict speaks of, which by the judge's contract are all that it was given."""
    named = {each.draft_id for each in verdict.judgements}
    named |= {draft_id for each in verdict.preferences for draft_id in (each.first_id, each.second_id)}
    return frozenset(named | {draft_id for each in verdict.failures for draft_id in each.key.split("|")})


def _judged(
    cases: Sequence[Case], passes: Sequence[dict[frozenset[str], Verdict]], rubrics: RubricSet
) -> tuple[JudgedCase, ...]:
    return tuple(judged_case(case, rubrics.of(case.prompt), [found[case.ids] for found in passes]) for case in cases)
