"""Every number of a refresh: both students, before and after, and the teacher on the same test prompts.

Place in the flow: after the new run. Everything is read from the two run folders; nothing is written or judged again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from prefdistill.compare.checks import test_prompts
from prefdistill.compare.data import Estimate, Means, Versus
from prefdistill.compare.grid import Array, Grid, evaluation_judge, judge_name, read_grid
from prefdistill.compare.layout import Layout
from prefdistill.compare.measuring import estimate, means, versus
from prefdistill.errors import RunError
from prefdistill.finished import FinishedRun
from prefdistill.metrics.criteria import CriterionDifference, criterion_differences
from prefdistill.metrics.scores import draft_scores
from prefdistill.records import Draft, Prompt, Verdict
from prefdistill.refresh.sizes import Size, size_of
from prefdistill.rubric import BUILT_IN_GATES
from prefdistill.sections import AlsoTask

OLD, NEW = "old", "new"


@dataclass(frozen=True)
class Side:
    """One student."""

    model: str
    kept: int
    """The round that is kept; 0 is its base."""
    kept_name: str
    base: Means
    policy: Means
    gain: Estimate | None
    """The kept policy's score less its own base's."""
    kl: float | None
    """Of the kept policy to its own base, nats a draft."""
    size: Size
    judged: int
    """Training drafts that its run had judged."""
    pairs: int
    """Pairs that its rounds trained on, its warm start's among them."""
    rounds: int
    stopped: str = ""
    """Why its run ended early; empty if it did not."""


@dataclass(frozen=True)
class TaskFigures:
    """Another task: is it forgotten?"""

    task: str
    old_base: float | None
    old: float | None
    new_base: float | None
    new: float | None
    difference: Estimate | None
    """New less old, paired by prompt; None where the old run did not measure it."""
    forgotten: Estimate | None
    """The new student less its own base."""


@dataclass(frozen=True)
class RefreshFigures:
    """Everything that the verdict is made from."""

    prompts: int
    """Test prompts that both students wrote on."""
    left_out: int
    """Test prompts that only one of them could take."""
    forgotten: int
    """Test prompts that were forgotten on request."""
    judge: str
    """The evaluation judge."""
    training_judge: str
    self_judged: bool
    scored: bool
    """Whether the evaluation judge scores drafts; where it only compares, the two students have no common measure."""
    scale: str
    """Of its scores: rubric (0 to 1) or custom."""
    old: Side
    new: Side
    teacher: Means | None
    base_difference: Estimate | None
    """The new base's score less the old base's."""
    versus: Versus
    """The new student against the old one."""
    passed: Estimate | None
    """Difference of the share that passes all gates."""
    gates: tuple[CriterionDifference, ...]
    """Share that passes each gate."""
    criteria: tuple[CriterionDifference, ...]
    criteria_of: str
    teacher_criteria: Mapping[str, float] = field(default_factory=dict)
    also: tuple[TaskFigures, ...] = ()

    @property
    def known(self) -> int:
        """Prompts on which both have a score."""
        return 0 if self.versus.difference is None else self.versus.difference.prompts


def measure_refresh(old: FinishedRun, new: FinishedRun) -> RefreshFigures:
    """Return every number of both runs on the test prompts that both have.

    Raises:
        RunError: they have none in common.
    """
    prompts, left_out, forgotten = common_prompts(old, new)
    layout = layout_of(old, new)
    grid = read_grid(layout, [prompt.id for prompt in prompts])
    ours, theirs = grid.arms[NEW], grid.arms[OLD]
    compared = versus(grid, NEW, OLD)
    names = [gate.name for rubric in new.rubrics.rubrics.values() for gate in rubric.gates]
    with_teacher = next((each for each in (theirs, ours) if each.of("teacher/score") is not None), None)
    return RefreshFigures(
        prompts=len(prompts),
        left_out=left_out,
        forgotten=forgotten,
        judge=judge_name(new, evaluation_judge(new)),
        training_judge=judge_name(new, new.recipe.judge),
        self_judged=old.self_judged or new.self_judged,
        scored=grid.scored,
        scale=grid.scales[1],
        old=_side(old, grid, OLD, prompts),
        new=_side(new, grid, NEW, prompts),
        teacher=None if with_teacher is None else means(with_teacher, "teacher"),
        base_difference=_difference(ours.of("base/score"), theirs.of("base/score")),
        versus=compared,
        passed=_difference(ours.of("policy/passed"), theirs.of("policy/passed")),
        gates=_gates(old, new, [prompt.id for prompt in prompts], [*dict.fromkeys(names), *BUILT_IN_GATES]),
        criteria=tuple(each for each in compared.criteria if each.criterion not in names),
        criteria_of=grid.criteria_of,
        teacher_criteria={
            each.criterion: float(np.nanmean(column))
            for each in compared.criteria
            if with_teacher is not None
            and (column := with_teacher.of(f"teacher/criterion/{each.criterion}")) is not None
        },
        also=tuple(_tasks(old, new)),
    )


def layout_of(old: FinishedRun, new: FinishedRun) -> Layout:
    """Return both runs side by side, as a comparison has its arms."""
    return Layout(
        seeds=(new.recipe.seed,),
        arms={OLD: (old,), NEW: (new,)},
        kinds={OLD: old.recipe.loop.mode, NEW: new.recipe.loop.mode},
        overrides={OLD: (), NEW: ()},
        asked=1,
    )


def common_prompts(old: FinishedRun, new: FinishedRun) -> tuple[list[Prompt], int, int]:
    """Return the test prompts of both runs, how many only one has, and how many are forgotten in either.

    Raises:
        RunError: there are none in common.
    """
    theirs, ours = test_prompts(old), test_prompts(new)
    both = theirs.keys() & ours.keys()
    kept = both & old.prompts.keys() & new.prompts.keys()
    if not kept:
        raise RunError(
            f"{new.directory.path}: no test prompt is left that {old.directory.path} has too; expected at least one to "
            "compare the two students on"
        )
    return [new.prompts[key] for key in sorted(kept)], len(theirs.keys() ^ ours.keys()), len(both - kept)


def _difference(one: Array | None, other: Array | None) -> Estimate | None:
    return None if one is None or other is None else estimate(one - other)


def _side(run: FinishedRun, grid: Grid, label: str, prompts: list[Prompt]) -> Side:
    columns, rounds = grid.arms[label], run.rounds
    kept = rounds[run.kept]
    trained = [each for each in rounds[1:] if each.train is not None]
    return Side(
        model=run.recipe.student.model,
        kept=run.kept,
        kept_name=kept.name,
        base=means(columns, "base"),
        policy=means(columns, "policy"),
        gain=estimate(columns.gain("score")),
        kl=0.0 if run.kept == 0 else kept.diagnostics.get("kl_base"),
        size=size_of(run, prompts),
        judged=sum(each.judged for each in rounds[1:]),
        pairs=sum(each.pairs for each in trained),
        rounds=len(rounds) - 1,
        stopped=str(run.result.get("stopped") or ""),
    )


def _gates(
    old: FinishedRun, new: FinishedRun, prompts: Sequence[str], names: Sequence[str]
) -> tuple[CriterionDifference, ...]:
    """Return the difference of the share that passes each gate, by the judge that sees the rubric's gates."""
    sides = []
    for run in (new, old):
        written = run.test["policy"]
        scores = written.by("judge", run.self_judged) or written.by("evaluation", run.self_judged)
        known = [scores.get(key) for key in prompts]
        sides.append(
            {
                name: np.array([np.nan if each is None else float(name not in each.gates) for each in known])
                for name in names
            }
        )
    return criterion_differences(*sides)


def _tasks(old: FinishedRun, new: FinishedRun) -> list[TaskFigures]:
    """Return each task of `evaluate.also` of the new run."""
    found = []
    for task in new.recipe.evaluate.also:
        ours, base = (_task_scores(new, task.name, number) for number in (new.kept, 0))
        same = any(each.name == task.name and _same_task(old, each, new, task) for each in old.recipe.evaluate.also)
        theirs, old_base = (_task_scores(old, task.name, number) if same else {} for number in (old.kept, 0))
        found.append(
            TaskFigures(
                task.name,
                _mean(old_base),
                _mean(theirs),
                _mean(base),
                _mean(ours),
                _paired(ours, theirs),
                _paired(ours, base),
            )
        )
    return found


def _same_task(run: FinishedRun, one: AlsoTask, other_run: FinishedRun, other: AlsoTask) -> bool:
    """Whether two runs judge a task alike."""
    judges: list[Any] = [one.judge or run.recipe.judge, other.judge or other_run.recipe.judge]
    alike = one.rubrics.fingerprint() == other.rubrics.fingerprint()
    return alike and judges[0].identity() == judges[1].identity()


def _task_scores(run: FinishedRun, name: str, number: int) -> dict[str, float]:
    """Return a policy's score on each prompt of another task, by prompt id."""
    task = next(each for each in run.recipe.evaluate.also if each.name == name)
    folder, prefix = run.directory.round(number), f"{'6-' if number else 'base-'}also-{name}-"
    path = run.directory.prompts_also(name)
    prompts = run.directory.rows(path.parent, path.name, Prompt).read()
    drafts = run.directory.rows(folder, f"{prefix}drafts.jsonl", Draft).read()
    verdicts = run.directory.rows(folder, f"{prefix}verdicts.jsonl", Verdict).read()
    scores = draft_scores(verdicts.values(), drafts.values(), prompts.values(), task.rubrics)
    return {drafts[key].prompt_id: score.gated_score for key, score in scores.items()}


def _mean(scores: Mapping[str, float]) -> float | None:
    return float(np.mean(list(scores.values()))) if scores else None


def _paired(ours: Mapping[str, float], theirs: Mapping[str, float]) -> Estimate | None:
    both = sorted(ours.keys() & theirs.keys())
    return estimate(np.array([[ours[key] - theirs[key] for key in both]])) if both else None
