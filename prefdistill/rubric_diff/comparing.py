"""The comparison: what both rubrics make of the stored drafts, with the judge asked where that is wanted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from prefdistill.assembly import opened_judge
from prefdistill.errors import RunError
from prefdistill.folders import no_run
from prefdistill.recipe import Recipe, load_recipe
from prefdistill.records import Usage, Verdict
from prefdistill.rubric import Rubric, RubricSet
from prefdistill.rubric_diff.owed import Owed, count_owed, owing_groups, says_what_it_asks, shows_other_checks
from prefdistill.rubric_diff.stored import Group, Side, is_stored, of_kind, rescored, side_of, stored_groups, without
from prefdistill.run import RunDirectory
from prefdistill.stages.judge import judge_prompts


@dataclass
class Diff:
    """The whole comparison."""

    old: Rubric
    new: Rubric
    run: Path
    groups: list[Group]
    before: Side
    after: Side
    unknown: tuple[str, ...]
    """Asked criteria of the new rubric that stored verdicts do not answer; `after` is without them."""
    owed: Owed
    judged: Usage | None = None
    """What asking the judge cost; None where it was not asked."""
    failures: int = 0
    notes: list[str] = field(default_factory=list)


def diff_rubrics(
    old: Rubric,
    new: Rubric,
    run: Path,
    ask: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Diff:
    """Compare what two rubrics make of a run's stored training drafts.

    Raises:
        RunError: the folder is no run, or holds no judged drafts for this kind of prompt.
    """
    directory = RunDirectory(run)
    if not directory.recipe.exists() or not directory.prompts.exists():
        raise no_run(run, "it holds no run (no recipe.yaml and prompts.jsonl)")
    recipe = load_recipe(directory.recipe)
    groups = stored_groups(directory, of_kind(recipe, old))
    if not groups:
        raise RunError(
            f"{run}: no judged drafts for rubric {old.name}; expected at least one round with 2-verdicts.jsonl"
        )
    notes = _same_as_run(recipe, old)
    known = [each.name for each in new.asked if is_stored(each, old, new)]
    unknown = tuple(each.name for each in new.asked if each.name not in known)
    before = side_of(recipe, old, [(each, rescored(each, old, old)) for each in groups])
    diff = Diff(old, new, run, groups, before, Side(), unknown, Owed(), notes=notes)
    partial = without(new, unknown)
    read = [(each, each.verdict if partial is None else rescored(each, old, partial)) for each in groups]
    owing = owing_groups(recipe, new, partial, read, shows_other_checks(old, new))
    if ask:
        verdicts, diff.judged = _ask(recipe, new, owing if says_what_it_asks(recipe) else groups, progress)
        diff.failures = sum(len(verdict.failures) for verdict in verdicts.values())
        diff.unknown = ()
        diff.after = side_of(recipe, new, [(each, verdicts.get(each.key, verdict)) for each, verdict in read])
        return diff
    if partial is None:
        notes.append("every criterion of the new rubric has to be asked: nothing can be known without calls")
    else:
        diff.after = side_of(recipe, partial, read)
    if unknown and not says_what_it_asks(recipe):
        notes.append(f"judge {recipe.judge._use} does not say what it asks: its calls are not counted")  # type: ignore[attr-defined]
    diff.owed = count_owed(recipe, new, owing)
    if diff.owed.note:
        notes.append(diff.owed.note)
    return diff


def _same_as_run(recipe: Recipe, old: Rubric) -> list[str]:
    stored = {rubric.asked_fingerprint() for rubric in recipe.rubrics.rubrics.values()}
    if old.asked_fingerprint() in stored:
        return []
    return ["OLD asks other things than the rubric that the run was judged by; its verdicts are read by criterion name"]


def _ask(
    recipe: Recipe, rubric: Rubric, groups: Sequence[Group], progress: Callable[[int, int], None]
) -> tuple[dict[tuple[int, str], Verdict], Usage]:
    """Have the run's judge judge groups by the new rubric; replies that were paid for come from the cache."""
    found: dict[tuple[int, str], Verdict] = {}
    if not groups:
        return found, Usage()
    with opened_judge(recipe) as (judge, layer):
        require = getattr(judge, "require", None)
        if require is not None:
            require(rubric)
        for number in sorted({group.round for group in groups}):
            mine = [(group.prompt, group.drafts) for group in groups if group.round == number]
            for verdict in judge_prompts(judge, mine, _everywhere(rubric)):
                found[number, verdict.prompt_id] = verdict
                progress(len(found), len(groups))
        return found, layer.usage


def _everywhere(rubric: Rubric) -> RubricSet:
    return RubricSet(rubrics={"": rubric})
