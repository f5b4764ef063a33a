"""Labels as what a judge can be given: groups of drafts of one prompt, and what each person said about them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import combinations

from prefdistill.labels import CriterionLabel, Label, LabelError, Labels, PairLabel, RankingLabel
from prefdistill.records import Draft, Prompt

Pair = tuple[str, str]
"""The ids of two drafts, sorted."""


@dataclass(frozen=True)
class Vote:
    """What one person said about two drafts."""

    by: str
    prompt_id: str
    pair: Pair
    says: int
    """1 the first of the pair is better, -1 the second, 0 a tie."""


@dataclass(frozen=True)
class Placing:
    """How one person ranked a group of drafts."""

    by: str
    prompt_id: str
    ranks: Mapping[str, int]
    """Draft id to rank, from 1."""


@dataclass(frozen=True)
class LevelVote:
    """Which level one person gave one draft on one criterion."""

    by: str
    prompt_id: str
    draft_id: str
    criterion: str
    level: str


@dataclass(frozen=True)
class Case:
    """Drafts of one prompt that are judged together."""

    prompt: Prompt
    drafts: tuple[Draft, ...]

    @property
    def ids(self) -> frozenset[str]:
        """The drafts' ids."""
        return frozenset(draft.id for draft in self.drafts)


@dataclass(frozen=True)
class Labelled:
    """All labels, taken apart."""

    cases: tuple[Case, ...]
    votes: tuple[Vote, ...]
    """Of pairs, and of every two drafts of a ranking."""
    placings: tuple[Placing, ...]
    levels: tuple[LevelVote, ...]
    people: tuple[str, ...]
    drafts: Mapping[str, Draft]


@dataclass
class _Prompt:
    """One prompt while its labels are gathered."""

    prompt: Prompt
    drafts: dict[str, Draft] = field(default_factory=dict)
    by_text: dict[str, str] = field(default_factory=dict)
    groups: list[frozenset[str]] = field(default_factory=list)
    alone: set[str] = field(default_factory=set)
    """Drafts of which only criteria were labelled."""


def take_apart(
    labels: Labels, prompts: Mapping[str, Prompt] | None = None, drafts: Mapping[str, Draft] | None = None
) -> Labelled:
    """Return the labels as groups of drafts to judge and votes.

    Drafts are known by the ids that labels give, else by their texts. A labelled pair is judged by itself unless it is
    part of a ranking.

    Args:
        prompts: a run's prompts by id, used instead of what the labels say.
        drafts: a run's drafts by id.

    Raises:
        LabelError: one prompt id stands for two prompts, or one draft id for two texts.
    """
    where = ", ".join(map(str, labels.paths)) or "labels"
    told = _Gathering(where, prompts or {}, drafts or {})
    for label in labels.all:  # ids first, so that a label that has only texts finds the prompt and the drafts
        told.name(label)
    for label in labels.all:
        told.register(label)
    votes: list[Vote] = []
    placings: list[Placing] = []
    levels: list[LevelVote] = []
    for label in labels.all:
        key = told.key_of(label)
        if isinstance(label, PairLabel):
            votes += _pair_vote(label, told)
        elif isinstance(label, RankingLabel):
            ids = [told.id_of(label, text, given) for text, given in _texts(label)]
            ranks = dict(zip(ids, label.ranks, strict=True))
            told.of(label).groups.append(frozenset(ranks))
            placings.append(Placing(label.by, key, ranks))
            votes += [Vote(label.by, key, two, _better(ranks, *two)) for two in combinations(sorted(ranks), 2)]
        elif isinstance(label, CriterionLabel):
            draft_id = told.id_of(label, label.draft, label.draft_id)
            told.of(label).alone.add(draft_id)
            levels.append(LevelVote(label.by, key, draft_id, label.criterion, label.level))
    cases = [case for each in told.prompts.values() for case in _cases(each)]
    every = {draft_id: draft for each in told.prompts.values() for draft_id, draft in each.drafts.items()}
    return Labelled(tuple(cases), tuple(votes), tuple(placings), tuple(levels), labels.people, every)


class _Gathering:
    """Prompts and drafts as labels speak of them."""

    def __init__(self, where: str, prompts: Mapping[str, Prompt], drafts: Mapping[str, Draft]) -> None:
        self.where = where
        self.known_prompts = prompts
        self.known_drafts = drafts
        self.prompts: dict[str, _Prompt] = {}
        self._ids: dict[str, set[str]] = defaultdict(set)
        """A prompt's text to the ids that it has."""
        for prompt in prompts.values():
            self._ids[prompt.text.strip()].add(prompt.id)

    def key_of(self, label: Label) -> str:
        """Return the prompt's id; one that is given nowhere on the label is found by the text, if it has only one."""
        if label.prompt_id is None:
            known = self._ids.get(label.messages[-1].content.strip(), set())
            if len(known) == 1:
                return next(iter(known))
        return label.prompt_key

    def of(self, label: Label) -> _Prompt:
        return self.prompts[self.key_of(label)]

    def name(self, label: Label) -> None:
        """Note which id a prompt has."""
        if label.prompt_id is not None:
            self._ids[label.messages[-1].content.strip()].add(label.prompt_id)

    def register(self, label: Label) -> None:
        key = self.key_of(label)
        prompt = self.known_prompts.get(key) or label.to_prompt().model_copy(update={"id": key})
        found = self.prompts.setdefault(key, _Prompt(prompt))
        if key not in self.known_prompts and found.prompt.messages != prompt.messages:
            raise LabelError(
                f"{self.where}: prompt_id `{key}` stands for two different prompts; expected one text an id"
            )
        for text, given in _texts(label):
            if given is not None:
                self._add(found, given, text)

    def _add(self, found: _Prompt, draft_id: str, text: str) -> None:
        before = found.drafts.get(draft_id)
        if before is not None and before.completion.strip() != text.strip():
            raise LabelError(
                f"{self.where}: draft id `{draft_id}` stands for two different texts; expected one text an id "
                f"({before.completion[:40]!r} and {text[:40]!r})"
            )
        if before is None:
            known = self.known_drafts.get(draft_id)
            if known is not None and known.completion.strip() == text.strip():
                found.drafts[draft_id] = known
            else:
                found.drafts[draft_id] = Draft(
                    id=draft_id,
                    prompt_id=found.prompt.id,
                    source="file:label",
                    policy=None,
                    round=0,
                    purpose="test",
                    index=len(found.drafts),
                    completion=text,
                )
            found.by_text.setdefault(text.strip(), draft_id)

    def id_of(self, label: Label, text: str, given: str | None) -> str:
        """Return the id of a draft, made from the prompt's where nobody gave one."""
        found = self.of(label)
        if given is not None:
            return given
        if text.strip() not in found.by_text:
            self._add(found, f"{found.prompt.id}/label/{len(found.drafts):03d}", text)
        return found.by_text[text.strip()]


def _texts(label: Label) -> list[tuple[str, str | None]]:
    """Return the texts that a label speaks of, with the ids that it gives."""
    if isinstance(label, PairLabel):
        return [(label.first, label.first_id), (label.second, label.second_id)]
    if isinstance(label, RankingLabel):
        return list(zip(label.drafts, label.draft_ids or [None] * len(label.drafts), strict=True))
    assert isinstance(label, CriterionLabel)
    return [(label.draft, label.draft_id)]


def _pair_vote(label: PairLabel, told: _Gathering) -> list[Vote]:
    """Return the vote; two drafts that are the same text and have no ids of their own are nothing to vote on."""
    first, second = (told.id_of(label, text, given) for text, given in _texts(label))
    if first == second:
        return []
    told.of(label).groups.append(frozenset((first, second)))
    says = {"first": 1, "second": -1, "tie": 0}[label.winner]
    pair, sign = ((first, second), says) if first < second else ((second, first), -says)
    return [Vote(label.by, told.key_of(label), pair, sign)]


def _better(ranks: Mapping[str, int], a: str, b: str) -> int:
    return (ranks[a] < ranks[b]) - (ranks[a] > ranks[b])


def _cases(found: _Prompt) -> Iterable[Case]:
    """Yield the groups to judge: those that are part of no other, and all drafts that stand in none together."""
    groups = sorted({each for each in found.groups if len(each) > 1}, key=lambda each: (-len(each), sorted(each)))
    kept: list[frozenset[str]] = []
    by_draft: dict[str, list[frozenset[str]]] = defaultdict(list)
    for group in groups:
        if not any(group <= other for other in by_draft[min(group)]):
            kept.append(group)
            for each in group:
                by_draft[each].append(group)
    alone = frozenset(each for each in found.alone if not by_draft[each])
    for group in [*sorted(kept, key=sorted), *([alone] if alone else [])]:
        yield Case(found.prompt, tuple(found.drafts[each] for each in sorted(group)))
