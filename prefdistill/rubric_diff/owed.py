"""The calls that would tell the rest, counted and priced without making one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from prefdistill.prices import Price, price_of
from prefdistill.recipe import Recipe
from prefdistill.records import Draft, Judgement, Verdict
from prefdistill.rubric import Rubric
from prefdistill.rubric_diff.stored import Group
from prefdistill.selection import choose_best_worst, rank_drafts

CHARACTERS_A_TOKEN = 4
REPLY_TOKENS = 40
"""Expected completion tokens of one answer with its brief reason."""


@dataclass
class Owed:
    """What would have to be asked to know all about the new rubric."""

    drafts: int = 0
    """Texts that would be scored."""
    confirmations: int = 0
    """Pairs that would be compared in both orders and have not been."""
    calls: int = 0
    prompt_tokens: float = 0.0
    completion_tokens: float = 0.0
    usd: float | None = 0.0
    unpriced: set[str] = field(default_factory=set)


def count_owed(
    recipe: Recipe,
    new: Rubric,
    partial: Rubric | None,
    rows: Sequence[tuple[Group, Verdict]],
    all_again: bool,
    other_checks: bool,
) -> Owed:
    """Count and price the calls that would tell the rest.

    A comparison shows the scores of the checks: where these changed it is asked again.
    """
    owed, judge = Owed(), _bound(recipe)
    if judge is None or not new.asked:
        return owed
    for group, verdict in rows:
        drafts = group.drafts if all_again else _never_asked(group, verdict, new)
        requests = judge.expected_requests(group.prompt, drafts, new) if drafts else []
        owed.drafts += len({draft.completion.strip() for draft in drafts})
        if not all_again and partial is not None and getattr(judge, "confirm", "none") == "best_worst":
            two = _unconfirmed(recipe, group, verdict, partial, other_checks)
            if two and not drafts:
                owed.confirmations += 1
                requests = judge.expected_comparisons(group.prompt, two, new, 1)
        _add(owed, requests)
    return owed


def _bound(recipe: Recipe) -> Any:
    """Return the recipe's judge where it asks models, bound to its teachers without opening anything."""
    judge: Any = recipe.judge
    if not hasattr(judge, "expected_requests"):
        return None
    from prefdistill.protocols import RunContext

    judge = judge.model_copy()
    context = RunContext(directory=recipe.directory, seed=recipe.seed, teacher=recipe.teacher)
    judge.ask_these([teacher for teacher, _ in judge.teachers_for(context)])
    return judge


def _never_asked(group: Group, verdict: Verdict, new: Rubric) -> tuple[Draft, ...]:
    """Return drafts that failed a checked gate when they were judged, and pass now."""
    from prefdistill.selection import failed_gates

    by_id: dict[str, Judgement] = {each.draft_id: each for each in verdict.judgements}
    found = []
    for draft in group.drafts:
        judgement = by_id.get(draft.id)
        if judgement is None or draft.finish_reason == "length" or failed_gates(judgement.scores, new):
            continue
        scores = {score.criterion: score for score in judgement.scores}
        asked = [each for each in new.asked if each.applies_to(group.prompt)]
        if any(not scores[each.name].applies for each in asked if each.name in scores):
            found.append(draft)
    return tuple(found)


def shows_other_checks(old: Rubric, new: Rubric) -> bool:
    """Whether the checks differ, whose scores stand in the prompt of a comparison."""
    before, after = ([(each.name, each.check, each.options, each.applies_if) for each in r.checked] for r in (old, new))
    return before != after


def _unconfirmed(recipe: Recipe, group: Group, verdict: Verdict, rubric: Rubric, anew: bool) -> list[Draft]:
    """Return the two drafts that would become a pair and were not compared so; empty where they were, or need not be."""
    options = recipe.pairing
    ranking = rank_drafts(group.prompt, group.drafts, verdict, rubric, group.round)
    selected = choose_best_worst(group.prompt, group.drafts, ranking, options.tie_margin, options.gate_failures)
    if selected is None or not selected[1].passes:
        return []
    chosen, rejected = ({*each.equal_ids} for each in selected)
    for each in () if anew else verdict.preferences:
        if (each.first_id in chosen and each.second_id in rejected) or (
            each.first_id in rejected and each.second_id in chosen
        ):
            return []
    by_id = {draft.id: draft for draft in group.drafts}
    return [by_id[each.draft_id] for each in selected]


def _add(owed: Owed, requests: Sequence[tuple[Any, Any]]) -> None:
    for teacher, request in requests:
        prompt_tokens = sum(len(each.content) for each in request.messages) / CHARACTERS_A_TOKEN
        answers = max(
            1, len((request.schema or {}).get("properties", {})) if "winner" not in str(request.schema) else 1
        )
        completion_tokens = min(request.max_tokens, REPLY_TOKENS * answers)
        owed.calls += 1
        owed.prompt_tokens += prompt_tokens
        owed.completion_tokens += completion_tokens
        price = _price(teacher)
        if price is None:
            owed.usd = None
            owed.unpriced.add(str(getattr(teacher, "model", None) or type(teacher).__name__))
        elif owed.usd is not None:
            owed.usd += price.usd(prompt_tokens, completion_tokens)


def _price(teacher: Any) -> Price | None:
    given = getattr(teacher, "usd_per_million", None)
    if given and {"input", "output"} <= set(given):
        return Price(input=given["input"], output=given["output"])
    return price_of(str(getattr(teacher, "model", "")))
