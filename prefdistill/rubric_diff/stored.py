"""A run's stored drafts and verdicts, read by the old rubric and by the new one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from prefdistill.errors import RunError
from prefdistill.judges.checks import checked_scores
from prefdistill.recipe import Recipe
from prefdistill.records import NOT_ASKED, CriterionScore, Draft, Drop, PreferencePair, Prompt, Verdict
from prefdistill.rubric import Criterion, Gate, Rubric
from prefdistill.run import RunDirectory
from prefdistill.selection import rank_drafts
from prefdistill.stages.pair import pair_prompt


@dataclass(frozen=True)
class Group:
    """One prompt's stored drafts of one round, and the verdict on them."""

    round: int
    prompt: Prompt
    drafts: tuple[Draft, ...]
    verdict: Verdict

    @property
    def key(self) -> tuple[int, str]:
        """Its round and prompt."""
        return self.round, self.prompt.id


@dataclass
class Side:
    """What one of the two rubrics makes of the stored drafts."""

    pairs: dict[tuple[int, str], tuple[PreferencePair, ...]] = field(default_factory=dict)
    """By round and prompt id."""
    drops: Counter[str] = field(default_factory=Counter)

    @property
    def count(self) -> int:
        """Pairs in all."""
        return sum(map(len, self.pairs.values()))


def of_kind(recipe: Recipe, old: Rubric) -> Callable[[Prompt], bool]:
    """Return which prompts the rubric is for, where the recipe has one per kind."""
    rubrics = recipe.rubrics
    if rubrics.column is None:
        return lambda prompt: True
    same = [
        k for k, r in rubrics.rubrics.items() if r.asked_fingerprint() == old.asked_fingerprint() or r.name == old.name
    ]
    if not same:
        raise RunError(
            f"the run has a rubric for each of {', '.join(rubrics.kinds)}, and none is called {old.name}; expected "
            "OLD to "
            "be one of them"
        )
    return lambda prompt: rubrics.kind(prompt) in same


def stored_groups(run: RunDirectory, wanted: Callable[[Prompt], bool]) -> list[Group]:
    """Return the judged groups of all rounds, of the wanted prompts."""
    prompts = run.rows(run.path, "prompts.jsonl", Prompt).read()
    groups = []
    for folder in sorted(run.path.glob("round-[0-9]*")):
        drafts: dict[str, list[Draft]] = {}
        for draft in run.rows(folder, "1-drafts.jsonl", Draft).read().values():
            drafts.setdefault(draft.prompt_id, []).append(draft)
        for verdict in run.rows(folder, "2-verdicts.jsonl", Verdict).read().values():
            prompt = prompts.get(verdict.prompt_id)
            if prompt is not None and wanted(prompt) and drafts.get(prompt.id):
                rows = tuple(sorted(drafts[prompt.id], key=lambda draft: draft.id))
                groups.append(Group(int(folder.name.removeprefix("round-")), prompt, rows, verdict))
    return groups


def _asked_half(criterion: Criterion) -> dict[str, Any]:
    return criterion.model_dump(mode="json", exclude={"weight"})


def is_stored(criterion: Criterion, old: Rubric, new: Rubric) -> bool:
    """Whether the stored answers to a criterion of the new rubric are answers to the same question."""
    before = next((each for each in old.asked if each.name == criterion.name), None)
    same = before is not None and _asked_half(before) == _asked_half(criterion)
    return same and isinstance(before, Gate) == isinstance(criterion, Gate) and old.purpose == new.purpose


def without(rubric: Rubric, names: Sequence[str]) -> Rubric | None:
    """Return the rubric without some of its criteria; None where nothing with a weight is left."""
    criteria = tuple(each for each in rubric.criteria if each.name not in names)
    if not any(each.weight > 0 for each in criteria):
        return None
    gates = tuple(each for each in rubric.gates if each.name not in names)
    return rubric.model_copy(update={"criteria": criteria, "gates": gates, "tests": ()})


def rescored(group: Group, old: Rubric, new: Rubric) -> Verdict:
    """Return the stored verdict as the new rubric reads it: levels as they were, checks applied anew."""
    drafts = {draft.id: draft for draft in group.drafts}
    judgements = []
    for judgement in group.verdict.judgements:
        draft = drafts.get(judgement.draft_id)
        if draft is None or judgement.value is not None or judgement.scale != "rubric":
            judgements.append(judgement)
            continue
        stored = {score.criterion: score for score in judgement.scores}
        checked = {score.criterion: score for score in checked_scores(group.prompt, draft, new)}
        scores = []
        for criterion in new.all_criteria:
            score = checked.get(criterion.name) or stored.get(criterion.name)
            if score is None:
                score = CriterionScore(
                    criterion=criterion.name, applies=False, reason=f"{NOT_ASKED}: new", path="checked"
                )
            scores.append(score)
        judgements.append(judgement.model_copy(update={"scores": tuple(scores)}))
    return group.verdict.model_copy(update={"judgements": tuple(judgements)})


def side_of(recipe: Recipe, rubric: Rubric, rows: Sequence[tuple[Group, Verdict]]) -> Side:
    """Rank and pair with one rubric."""
    side = Side()
    for group, verdict in rows:
        ranking = rank_drafts(group.prompt, group.drafts, verdict, rubric, group.round)
        found = pair_prompt(group.prompt, group.drafts, verdict, ranking, recipe.pairing, group.round)
        pairs = tuple(row for row in found if isinstance(row, PreferencePair))
        if pairs:
            side.pairs[group.round, group.prompt.id] = pairs
        side.drops.update(row.reason for row in found if isinstance(row, Drop))
    return side
