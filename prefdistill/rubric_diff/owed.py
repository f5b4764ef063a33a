"""The calls that would tell the rest, counted and priced without making one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from prefdistill.assembly import opened_judge
from prefdistill.errors import PluginError
from prefdistill.protocols import Reply, RunContext, TeacherRequest
from prefdistill.recipe import Recipe
from prefdistill.records import Draft, Failure, Judgement, Verdict
from prefdistill.requests.layer import NOT_IN_CACHE
from prefdistill.requests.prices import Price, price_of
from prefdistill.rubric import Rubric
from prefdistill.rubric_diff.stored import Group
from prefdistill.selection import choose_best_worst, failed_built_in, failed_gates, rank_drafts
from prefdistill.stages.judge import judge_group

CHARACTERS_A_TOKEN = 4
REPLY_TOKENS = 40
"""Expected completion tokens of one answer with its brief reason."""


@dataclass
class Owed:
    """What would have to be asked to know all about the new rubric."""

    groups: list[Group] = field(default_factory=list)
    """Those about which the stored verdicts do not tell all."""
    drafts: int = 0
    """Texts that would be scored."""
    confirmations: int = 0
    """Pairs that would be compared in both orders and have not been."""
    calls: int = 0
    """That are made for certain: their replies are not in the request cache."""
    further: int = 0
    """At most so many more: comparisons that depend on what the judge answers to those."""
    prompt_tokens: float = 0.0
    completion_tokens: float = 0.0
    usd: float | None = 0.0
    """Of the certain calls."""
    unpriced: set[str] = field(default_factory=set)
    note: str = ""
    """Why the request cache could not be asked."""


class _Overheard:
    """A teacher whose replies all come from the request cache, and who notes which are not there."""

    def __init__(self, teacher: Any, cached: bool) -> None:
        self._teacher, self._cached = teacher, cached
        self.missing: list[tuple[Any, TeacherRequest]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._teacher, name)

    def replies(self, requests: Sequence[TeacherRequest]) -> Iterator[Reply | Failure]:
        by_key = {each.key: each for each in requests}
        for reply in self._teacher.replies(requests) if self._cached else ():
            if isinstance(reply, Failure) and reply.message == NOT_IN_CACHE:
                continue
            del by_key[reply.key]
            yield reply
        self.missing += [(self._teacher, each) for each in by_key.values()]
        for key in by_key:
            yield Failure(stage="teacher", key=key, kind="provider", message=NOT_IN_CACHE)


def says_what_it_asks(recipe: Recipe) -> bool:
    """Whether the recipe's judge asks teachers, so that its calls can be counted before they are made."""
    return hasattr(recipe.judge, "expected_requests") and hasattr(recipe.judge, "teachers_for")


def owing_groups(
    recipe: Recipe, new: Rubric, partial: Rubric | None, rows: Sequence[tuple[Group, Verdict]], other_checks: bool
) -> list[Group]:
    """Return the groups about which stored verdicts do not tell all; `partial` is the new rubric as far as they do.

    A comparison shows the scores of the checks: where these changed it is asked again.
    """
    judge: Any = recipe.judge
    if not says_what_it_asks(recipe) or not new.asked:
        return []
    if partial is None or partial.asked != new.asked:
        return [group for group, _ in rows]
    confirm = getattr(judge, "confirm", "none")
    found = []
    for group, verdict in rows:
        again = other_checks and confirm not in ("none", "best_worst") and bool(verdict.preferences)
        changed = confirm == "best_worst" and bool(_unconfirmed(recipe, group, verdict, partial, other_checks))
        if again or changed or _never_asked(group, verdict, new):
            found.append(group)
    return found


def count_owed(recipe: Recipe, new: Rubric, groups: Sequence[Group]) -> Owed:
    """Have the judge judge these groups with nothing sent, and count and price what it would ask."""
    owed = Owed(list(groups))
    if not groups:
        return owed
    try:
        with opened_judge(recipe, cached_only=True) as (judge, _):
            _count(owed, judge, new, cached=True)
    except PluginError as problem:  # such as a key that is not set here
        owed = Owed(
            list(groups), note=f"the judge cannot be opened, so what is in the request cache counts ({problem})"
        )
        _count(owed, _bound(recipe), new, cached=False)
    return owed


def _count(owed: Owed, judge: Any, new: Rubric, cached: bool) -> None:
    overheard = [_Overheard(member.teacher, cached) for member in judge.members]
    judge = judge.model_copy()
    judge._own = []
    judge.ask_these(overheard)
    counted: set[Any] = set()
    for group in owed.groups:
        judge_group(judge, group.prompt, group.drafts, new)
        missing = [each for teacher in overheard for each in teacher.missing if _question(each) not in counted]
        counted.update(map(_question, missing))
        for teacher in overheard:
            teacher.missing = []
        scores = [each for each in missing if "|" not in each[1].key]
        comparisons = [each for each in missing if "|" in each[1].key]
        owed.drafts += len({request.key.split("#")[0] for _, request in scores})
        sure = scores or comparisons
        if not scores:
            owed.confirmations += len({frozenset(request.key.split("#")[0].split("|")) for _, request in comparisons})
        _add(owed, sure)
        if missing:
            most = sum("|" in request.key for _, request in judge.expected_requests(group.prompt, group.drafts, new))
            most *= 1 + (judge.repeats if judge.on_disagree == "repeat" else 0)
            owed.further += max(0, most - (0 if scores else len(comparisons)))


def _question(asked: tuple[Any, TeacherRequest]) -> Any:
    """Return what a request is known by: drafts with one text have one question."""
    return id(asked[0]), asked[1].messages, asked[1].repeat


def _bound(recipe: Recipe) -> Any:
    """Return the recipe's judge, bound to its teachers without opening anything."""
    judge: Any = recipe.judge.model_copy()  # type: ignore[attr-defined]
    context = RunContext(directory=recipe.directory, seed=recipe.seed, teacher=recipe.teacher)
    judge.ask_these([teacher for teacher, _ in judge.teachers_for(context)])
    return judge


def _never_asked(group: Group, verdict: Verdict, new: Rubric) -> tuple[Draft, ...]:
    """Return drafts that failed a checked gate when they were judged, and pass now."""
    by_id: dict[str, Judgement] = {each.draft_id: each for each in verdict.judgements}
    found = []
    for draft in group.drafts:
        judgement = by_id.get(draft.id)
        if judgement is None or failed_built_in(draft) or failed_gates(judgement.scores, new):
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
