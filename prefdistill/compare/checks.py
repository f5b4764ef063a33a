"""What a comparison refuses, and what it says beside its numbers: whatever makes the arms less comparable than they look."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from prefdistill.assembly import limited_prompts
from prefdistill.compare.data import MOST_UNKNOWN, ArmFigures, Budget, Figures
from prefdistill.compare.grid import Grid, evaluation_judge, is_scored
from prefdistill.compare.layout import Layout
from prefdistill.errors import RunError
from prefdistill.finished import FinishedRun
from prefdistill.recipe import differing_keys
from prefdistill.records import Prompt
from prefdistill.stages.load import Loaded
from prefdistill.stages.report.comparison import Note

NEAR = "near duplicates"
"""How a run's note about prompts that nearly repeat each other across splits is known."""
SHOWN = 3
"""Examples named in one message."""


def comparable_prompts(layout: Layout) -> tuple[str, ...]:
    """Return the test prompts of all runs; those that one run has forgotten are left out.

    Raises:
        RunError: runs differ in test prompts, rubric or evaluation judge, so that no difference would mean anything.
    """
    (label, first), *others = layout.runs
    prompts, gone = test_prompts(first), _forgotten(first)
    for other_label, other in others:
        where = f"{label} ({first.directory.path}) and {other_label} ({other.directory.path})"
        theirs = test_prompts(other)
        gone |= _forgotten(other)
        _same_prompts(
            where, prompts, theirs, gone, first.recipe.student.system_text() == other.recipe.student.system_text()
        )
        _same_rubric(where, first, other)
        _same_judge(where, first, other)
    found = tuple(prompt_id for prompt_id in prompts if prompt_id not in gone)
    if not found:
        raise RunError(f"{label} ({first.directory.path}): no test prompt is left; expected at least one to compare on")
    return found


def test_prompts(run: FinishedRun) -> dict[str, Prompt]:
    """Return the test prompts that the run evaluates, with stand-ins for forgotten ones, by id."""
    loaded = Loaded(tuple(run.loaded.values()), 0, ())
    return {prompt.id: prompt for prompt in limited_prompts(run.recipe, loaded, "test")}


def _forgotten(run: FinishedRun) -> set[str]:
    return set(run.loaded) - set(run.prompts)


def _same_prompts(
    where: str, ours: Mapping[str, Prompt], theirs: Mapping[str, Prompt], gone: set[str], system: bool
) -> None:
    only = [prompt_id for prompt_id in ours if prompt_id not in theirs]
    other_only = [prompt_id for prompt_id in theirs if prompt_id not in ours]
    remedy = (
        "expected the same test prompts for every arm: run both on one prompts file with the same prompts.split_by, "
        "prompts.test_fraction and prompts.test_limit"
    )
    if only or other_only:
        named = ", ".join([*only, *other_only][:SHOWN])
        raise RunError(
            f"{where}: the test prompts differ: {len(only)} are only in the first, {len(other_only)} only in the second "
            f"(such as {named}); {remedy}"
        )
    changed = [
        prompt_id
        for prompt_id, prompt in ours.items()
        if prompt_id not in gone and _content(prompt, system) != _content(theirs[prompt_id], system)
    ]
    if changed:
        raise RunError(
            f"{where}: {len(changed)} test prompts have the same id and another text or other fields (such as "
            f"{', '.join(changed[:SHOWN])}); {remedy}"
        )


def _content(prompt: Prompt, system: bool) -> Any:
    """Return what student and judge are given; the system prompt where the recipes have the same one."""
    return [each for each in prompt.messages if system or each.role != "system"], prompt.fields


def _same_rubric(where: str, first: FinishedRun, other: FinishedRun) -> None:
    changed = differing_keys(_rubric(first), _rubric(other))
    if changed:
        more = f" and {len(changed) - SHOWN} more" if len(changed) > SHOWN else ""
        raise RunError(
            f"{where}: judged with different rubrics ({'; '.join(changed[:SHOWN])}{more}); scores by two rubrics cannot "
            "be compared: run both with one rubric, or score one again (an edited weight re-scores without a call)"
        )


def _rubric(run: FinishedRun) -> dict[str, Any]:
    """Return what the rubrics score by, criteria and gates by name."""
    found: dict[str, Any] = {"column": run.recipe.rubrics.column}
    for kind, rubric in run.recipe.rubrics.rubrics.items():
        data = rubric.model_dump(mode="json", exclude={"tests"})
        lines = {part: {each["name"]: each for each in data[part]} for part in ("gates", "criteria")}
        found[kind or "rubric"] = {**data, **lines}
    return found


def _same_judge(where: str, first: FinishedRun, other: FinishedRun) -> None:
    changed = differing_keys(_judge(first), _judge(other))
    if not changed and is_scored(first) == is_scored(other):
        return
    raise RunError(
        f"{where}: evaluated by different judges ({'; '.join(changed[:SHOWN])}); two judges' scores cannot be compared: "
        "give both recipes the same `evaluate.judge`; it may differ from `judge`, which makes the pairs"
    )


def _judge(run: FinishedRun) -> dict[str, Any]:
    """Return what the evaluation judge's answers depend on, the teacher that it asks included."""
    judge = evaluation_judge(run)
    return {**judge.identity(), "asked": run.recipe.asked_identity(judge), "compare": run.recipe.evaluate.compare}


def unequal(layout: Layout) -> list[Note]:
    """Return what is not equal between the arms beside what makes them different arms."""
    notes = []
    for name, of in EQUAL.items():
        found = {label: dict.fromkeys(str(of(run)) for run in runs) for label, runs in layout.arms.items()}
        if len({each for values in found.values() for each in values}) > 1:
            shown = "; ".join(f"{label} {', '.join(values)}" for label, values in found.items())
            notes.append(Note("warning", f"not equal: {name}: {shown}"))
    versions = dict.fromkeys(str(run.manifest.get("versions", {}).get("prefdistill")) for _, run in layout.runs)
    if len(versions) > 1:
        notes.append(Note("info", f"made by different versions of prefdistill: {', '.join(versions)}"))
    return notes


def _student(run: FinishedRun) -> str:
    student, policy = run.recipe.student, run.result["policy"]
    kwargs = f" {student.chat_template_kwargs}" if student.chat_template_kwargs else ""
    revision = f" at {policy['revision']}" if policy.get("revision") else ""
    return f"{policy['model']}{revision}, {student.quantization}, {student.dtype}{kwargs}"


def _system(run: FinishedRun) -> str:
    text = run.recipe.student.system_text()
    return "none" if text is None else f"one of {len(text.split())} words ({text[:40]!r}…)"


def _train_prompts(run: FinishedRun) -> str:
    found = sorted(each.id for each in run.loaded.values() if each.split == "train")
    return f"{len(found)} ({found[0]} to {found[-1]})" if found else "none"


EQUAL: dict[str, Callable[[FinishedRun], Any]] = {
    "evaluate.temperature": lambda run: run.recipe.evaluate.temperature,
    "evaluate.top_p": lambda run: run.recipe.evaluate.top_p,
    "evaluate.tie_margin": lambda run: run.recipe.evaluate.tie_margin,
    "sample.max_new_tokens": lambda run: run.recipe.sample.max_new_tokens,
    "student": _student,
    "student.system": _system,
    "train prompts": _train_prompts,
}
"""What should be the same for every arm, and how it is shown."""


def about_rounds(layout: Layout) -> list[Note]:
    """Return what the runs' own guards and checks found that bears on the comparison."""
    notes = []
    for (label, run), seed in zip(layout.runs, list(layout.seeds) * len(layout.arms), strict=True):
        stops = [(each.round, finding) for each in run.rounds for finding in each.findings if finding.level == "stop"]
        for number, finding in stops[:1]:
            more = f" (and {len(stops) - 1} more)" if len(stops) > 1 else ""
            text = f"{label}, seed {seed}, round {number}: {finding.check}: {finding.message}{more}"
            notes.append(Note("warning", text))
        if run.result.get("stopped"):
            text = f"{label}, seed {seed}, ended early, so its budget is smaller: {run.result['stopped']}"
            notes.append(Note("warning", text))
    forgotten = {
        prompt_id for _, run in layout.runs for prompt_id in _forgotten(run) if run.loaded[prompt_id].split == "test"
    }
    if forgotten:
        many = "1 test prompt was" if len(forgotten) == 1 else f"{len(forgotten)} test prompts were"
        text = f"{many} forgotten on request, and left out for every arm"
        notes.append(Note("info", text))
    return notes


def leaks(layout: Layout) -> list[str]:
    """Return, a sentence each, how test prompts may have been trained on."""
    shares = {label: max(_leaked_share(run) for run in runs) for label, runs in layout.arms.items()}
    found = []
    if any(shares.values()):
        most = max(shares.values())
        arms = "" if all(shares.values()) else f" (arms {', '.join(label for label, share in shares.items() if share)})"
        found.append(
            f"{most:.1%} of the validation and test prompts share telling text with train prompts{arms}: every trained "
            "arm's figures may be too good; split by source (`prompts.split_by`)"
        )
    near = dict.fromkeys(note for _, run in layout.runs for note in run.manifest.get("notes", ()) if NEAR in note)
    return found + [note.removeprefix("prompts: ") for note in near]


def _leaked_share(run: FinishedRun) -> float:
    return max((each.diagnostics.get("leaked_share", 0.0) for each in run.rounds), default=0.0)


def budget_notes(figures: Figures) -> Iterator[Note]:
    """Yield each budget that the trained arms do not share, of those that were meant to be equal."""
    trained = [arm for arm in figures.arms if arm.trained]
    kinds = {arm.label: arm.arm for arm in trained}
    for name, what in BUDGETS_BY[figures.equal].items():
        found = {arm.label: budget_of(arm, name) for arm in trained}
        if len(set(found.values())) > 1:
            shown = ", ".join(f"{label} {value:,.10g}" for label, value in found.items())
            alike = {
                value for label, value in found.items() if kinds[label] not in OTHERWISE and "+" not in kinds[label]
            }
            yield Note("warning" if len(alike) > 1 else "info", f"not equal: {what}: {shown}")


def untrained_answers(figures: Figures) -> Iterator[Note]:
    """Yield the arms of which more answers were written than their optimiser steps can have trained on."""
    for arm in figures.arms:
        written, trained = budget_of(arm, "answers"), budget_of(arm, "trained")
        if trained < written:
            text = (
                f"{arm.label}: {written:,.10g} answers were written and at most {trained:,.10g} trained on, because its "
                "steps are those of the other arms; raise `train.steps` for all of them to use what was written"
            )
            yield Note("warning", text)


OTHERWISE = ("outputs", "traces", "logits", "shuffled_online", "off_policy")
"""Arms that draft or judge otherwise by what they are; that they differ is no fault of the comparison."""
BUDGETS = {
    "prompts": "train prompts drafted",
    "judged": "drafts judged",
    "steps": "optimiser steps",
}
"""What an equal comparison gives every arm the same of. Pairs are reported and never forced."""
BUDGETS_BY = {"prompts": BUDGETS, "teacher": {"steps": BUDGETS["steps"]}}
"""The same by what was to be equal: with equal work of the teacher, arms differ in prompts on purpose."""
SAME_WORK = 0.02
"""Share by which the teacher's replies may differ and are still the same work: prompts come in whole numbers."""
SAME_PRICE = 0.1
"""Share by which what was paid may differ: sizes are set before the first reply, by what replies are expected to cost."""


def budget_of(arm: ArmFigures, name: str) -> float:
    """Return the mean of one budget over an arm's seeds."""
    return float(np.mean([getattr(each, name) for each in arm.budgets]))


def same_budget(one: ArmFigures, other: ArmFigures, equal: str = "prompts") -> bool:
    """Whether two arms were given the same, seed by seed, pairs aside."""

    def given(budget: Budget) -> tuple[int, ...]:
        return tuple(getattr(budget, name) for name in BUDGETS_BY[equal])

    steps = [given(each) for each in one.budgets] == [given(each) for each in other.budgets]
    if equal == "prompts":
        return steps
    paid = [sum(each.charged_usd or 0.0 for each in arm.costs) for arm in (one, other)]
    if all(paid):
        return steps and abs(paid[0] - paid[1]) <= SAME_PRICE * max(paid)
    work = [budget_of(arm, "replies") for arm in (one, other)]
    return steps and abs(work[0] - work[1]) <= SAME_WORK * max(work)


def unequal_base(layout: Layout, grid: Grid) -> Iterator[Note]:
    """Yield the seeds whose base drafts are not the same for all arms."""
    for row, seed in enumerate(layout.seeds):
        known = [columns.of("base/score") for columns in grid.arms.values()]
        rows = [each[row] for each in known if each is not None]
        if any(not np.array_equal(each, rows[0], equal_nan=True) for each in rows[1:]):
            yield Note(
                "info",
                f"with seed {seed} the base's drafts are not scored the same in every arm; each arm is compared with its "
                "own",
            )


def too_many_unknown(figures: Figures) -> list[str]:
    """Return a sentence for each arm with more comparisons without an outcome than a verdict can bear."""
    return [
        f"{arm.unknown:,} of {arm.comparisons:,} comparisons of {arm.label} with the base "
        f"({arm.unknown / arm.comparisons:.1%}) have no outcome, and at most {MOST_UNKNOWN:.0%} may: drafts or verdicts "
        "are missing, and not by chance; read the failures in its verdict files, and run it again"
        for arm in figures.arms
        if arm.comparisons and arm.unknown / arm.comparisons > MOST_UNKNOWN
    ]


def gaps_refused(figures: Figures) -> list[Note]:
    """Return why the share of the gap to the teacher is not given, once."""
    reasons = dict.fromkeys(arm.pgr.refused for arm in figures.arms if arm.pgr is not None and arm.pgr.refused)
    return [Note("refused", f"the share of the gap to the teacher is not given: {each}") for each in reasons]


def numbers_notes(figures: Figures, layout: Layout, grid: Grid) -> list[Note]:
    """Return what limits the numbers themselves."""
    notes = [
        *unequal(layout),
        *budget_notes(figures),
        *untrained_answers(figures),
        *unequal_base(layout, grid),
        *gaps_refused(figures),
    ]
    if len(layout.seeds) == 1:
        text = (
            f"one seed ({layout.seeds[0]}): the intervals are over prompts only, and another seed may come out "
            "otherwise by more than they say; three seeds or more show that"
        )
        notes.append(Note("warning", text))
    if len(layout.seeds) == 2:
        text = (
            "two seeds: how much seeds differ is hardly known, so one interval may be far wider than another; three seeds "
            "or more, better five, say so much more"
        )
        notes.append(Note("warning", text))
    if 0 < figures.known < figures.prompts:
        text = (
            f"{figures.prompts - figures.known} of {figures.prompts} test prompts could not be judged for every arm and "
            "seed, and count in none"
        )
        notes.append(Note("warning", text))
    if figures.scored and any(run.recipe.evaluate.compare == "both_orders" for _, run in layout.runs):
        text = (
            f"wins against base and teacher are what {figures.judge} prefers, shown in both orders; it was not asked to "
            "compare the arms with each other: wins between them are by scores"
        )
        notes.append(Note("info", text))
    if not figures.scored:
        text = (
            f"{figures.judge} gives no scores to single drafts, so arms are compared by their outcomes against the base: "
            "prompts on which both beat the base, or both lose to it, tell nothing"
        )
        notes.append(Note("info", text))
    return notes


def kept_bases(figures: Figures) -> Sequence[str]:
    """Return a sentence for each arm whose kept policy is the base in some seeds."""
    found = []
    for arm in figures.arms:
        seeds = [seed for seed, kept in zip(figures.seeds, arm.kept, strict=True) if kept == 0]
        if arm.trained and seeds:
            named = ", ".join(map(str, seeds))
            found.append(
                f"{arm.label} kept the base with seed{'s' if len(seeds) > 1 else ''} {named}: no round was better on "
                "the validation prompts, so there its drafts are the base's"
            )
    return found
