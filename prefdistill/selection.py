"""Which draft is better, and which two make a pair: pure rules that judges and stages share.

`stages/rank.py` and `stages/pair.py` apply them to whole rounds; the rubric judge applies the same ones to find the
two drafts that it should compare in both orders, so that what is confirmed is what is trained on.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from prefdistill.errors import RecipeError, RubricError
from prefdistill.injection import addresses_judge
from prefdistill.records import (
    CriterionScore,
    Draft,
    Failure,
    Judgement,
    Preference,
    Prompt,
    RankedDraft,
    Ranking,
    Scale,
    Verdict,
    seed_of,
)
from prefdistill.rubric import COMPLETE, NO_STRAY_TAGS, Rubric
from prefdistill.tournament import win_probabilities

EPSILON = 1e-9
"""Scores are sums of a few weighted fractions; a smaller gap is rounding."""
WORST_OF = 5
"""Above this many drafts, best against worst of all degrades (2502.16825): the rejected is the worst of this many."""

Strategy = Literal["best_worst", "best_random", "mean_minus_2sd", "all_above_margin"]
GateFailures = Literal["reject", "drop"]


class PairOptions(BaseModel):
    """How a prompt's ranked drafts become pairs: the recipe's `pair` section."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    strategy: Strategy = "best_worst"
    """best_worst; best_random (a random lower one); mean_minus_2sd (the one nearest to it); all_above_margin."""
    min_margin: float | None = Field(default=None, ge=0.0, allow_inf_nan=False)
    """Smallest margin that trains, in the judge's unit; None is 0.1, and an error where a judge has its own scale."""
    max_length_ratio: float | None = Field(default=None, gt=1.0)
    """Largest ratio of the two texts' words, longer over shorter; None is no limit."""
    near_duplicate: float | None = Field(default=0.95, gt=0.0, le=1.0)
    """Pairs of texts more similar than this (1 is identical, by edit distance) are dropped; None keeps them."""
    gate_failures: GateFailures = "reject"
    """reject: a draft that fails a gate may be the rejected one; drop: it makes no pair."""
    tie_margin: float = Field(default=0.0, ge=0.0, allow_inf_nan=False)
    """Scores no further apart than this are tied."""
    on_disagree: Literal["drop", "tie"] = "drop"
    """How two drafts are counted whose comparison names another winner in each order: neither makes a pair. The
    judge's own `on_disagree` goes before."""
    flagged: Literal["drop", "keep"] = "drop"
    """drop: a pair with a draft that speaks to the judge (instructions, forged verdicts, markers) is dropped."""
    labels: Literal["judged", "random"] = "judged"
    """random is a control: which of a pair's two drafts is chosen is drawn by lot. The pairs are the same ones; what
    they teach must not make the student better."""

    def margin_for(self, scale: Scale) -> float:
        """Return the smallest margin that trains on `scale`.

        Raises:
            RecipeError: the judge has a scale of its own and `min_margin` was not given.
        """
        if self.min_margin is not None:
            return self.min_margin
        if scale == "custom":
            raise RecipeError(
                "pair.min_margin: not set, and the judge's numbers are on a scale of their own; "
                "write the smallest gap between two of its numbers that should train a pair (0 for any gap)"
            )
        return 0.1


@dataclass(frozen=True)
class Compared:
    """Two drafts compared in both orders: the probability that `a` is better, where it was shown first and second."""

    shown_first: float
    shown_second: float
    members: frozenset[str | None] = frozenset()
    """The members of a panel that answered in both orders."""

    @property
    def probability(self) -> float:
        """Both orders averaged."""
        return (self.shown_first + self.shown_second) / 2

    @property
    def agree(self) -> bool:
        """Whether both orders name the same winner."""
        return (self.shown_first - 0.5) * (self.shown_second - 0.5) > 0

    @property
    def lean(self) -> float:
        """The probability, 0.5 where the orders name different winners: then it says more of the place than of `a`."""
        return 0.5 if (self.shown_first - 0.5) * (self.shown_second - 0.5) < 0 else self.probability

    @property
    def tied(self) -> bool:
        """Whether both orders are a tie."""
        return self.shown_first == self.shown_second == 0.5


def compare(preferences: Iterable[Preference], a: str, b: str) -> Compared | None:
    """Return how draft `a` compares with `b`, repeats and members averaged; None unless both orders are known."""
    return compare_texts(preferences, (a,), (b,))


def compare_texts(preferences: Iterable[Preference], a: tuple[str, ...], b: tuple[str, ...]) -> Compared | None:
    """Return how one text compares with another, each given by the ids of the drafts that have it."""
    first: dict[str | None, list[float]] = defaultdict(list)
    second: dict[str | None, list[float]] = defaultdict(list)
    for each in preferences:
        if each.first_id in a and each.second_id in b:
            first[each.member].append(each.probability)
        elif each.first_id in b and each.second_id in a:
            second[each.member].append(1 - each.probability)
    members = frozenset(first) & frozenset(second)  # one order alone says as much about the place as about the draft
    if not members:
        return None
    return Compared(
        fmean(fmean(first[member]) for member in members),
        fmean(fmean(second[member]) for member in members),
        members,
    )


def rank_drafts(prompt: Prompt, drafts: Sequence[Draft], verdict: Verdict, rubric: Rubric, round: int) -> Ranking:
    """Rank a prompt's drafts by its verdict; failed and incompletely judged drafts are left out.

    Drafts that fail a gate come after all that pass; equal scores share a rank, unless all of them were compared too.
    Without pointwise judgements the score is the mean probability of winning against every other draft, a comparison
    that lacks one of its orders being unknown. Where a panel judged, a draft that half of it could not judge is out, and
    so is one on whose gate it is split evenly.
    """
    judged: dict[str, list[Judgement]] = defaultdict(list)
    for judgement in verdict.judgements:
        judged[judgement.draft_id].append(judgement)
    failed = {
        draft.id
        for draft in drafts
        if outvoted(verdict.failures, (draft.id,), {each.member for each in judged[draft.id] if each.member})
    }
    won = _strengths(drafts, verdict.preferences)
    entries = []
    for draft in drafts:
        if draft.id in failed:
            continue
        built_in = failed_built_in(draft)
        pointwise = [each for each in judged[draft.id] if each.scale != "preference" or each.value is not None]
        if pointwise:
            entry = _scored(draft, built_in, pointwise, prompt, rubric)
        else:
            entry = _compared(draft, built_in, judged[draft.id], won, rubric)
        if entry is not None:
            entries.append(entry)
    ranked = {entry.draft_id for entry in entries}
    undecided = tuple(
        draft.id
        for draft in drafts
        if draft.id not in ranked and draft.id not in failed and split_gates(pool_scores(judged[draft.id]), rubric)
    )
    return Ranking(
        prompt_id=prompt.id,
        round=round,
        entries=_with_ranks(_with_strengths(entries, drafts, won)),
        undecided=undecided,
    )


def outvoted(failures: Iterable[Failure], keys: Collection[str], answered: Collection[str]) -> bool:
    """Whether what `keys` name is unknown: it failed, or half of a panel or more failed on it.

    Args:
        answered: the members of the panel that gave an answer.
    """
    lost = [failure for failure in failures if failure.key in keys]
    members = {failure.member for failure in lost if failure.member} - set(answered)
    if any(failure.member is None for failure in lost):
        return True
    return bool(members) and len(members) >= len(answered)


def _strengths(drafts: Sequence[Draft], preferences: Sequence[Preference]) -> dict[str, float]:
    """Return the (estimated) mean probability of winning of each draft that was compared in both orders.

    Comparisons that a gate decided (path `checked`) are wins for certain; the others may be a part of all that there
    could be, and what is missing is estimated among them.
    """
    known = {each.id for each in drafts}
    settled = {frozenset((each.first_id, each.second_id)) for each in preferences if each.path == "checked"}
    compared: dict[tuple[str, str], float] = {}
    wins: dict[str, list[float]] = defaultdict(list)
    for a, b in sorted({tuple(sorted((each.first_id, each.second_id))) for each in preferences}):
        found = compare(preferences, a, b) if a in known and b in known else None
        if found is None:
            continue
        if frozenset((a, b)) in settled:
            wins[a].append(found.probability)
            wins[b].append(1 - found.probability)
        else:
            compared[a, b] = found.lean
    met = sorted({draft_id for pair in compared for draft_id in pair})
    for draft_id, share in (win_probabilities(compared, met) if compared else {}).items():
        wins[draft_id] += [share] * (len(met) - 1)
    return {draft_id: fmean(shares) for draft_id, shares in wins.items()}


def _with_strengths(
    entries: Sequence[RankedDraft], drafts: Sequence[Draft], won: Mapping[str, float]
) -> list[RankedDraft]:
    """Add how scored drafts fared in comparisons, where every text that passes the gates was compared."""
    texts = {draft.id: draft.completion.strip() for draft in drafts}
    strength = {texts[draft_id]: share for draft_id, share in won.items()}
    passing = {texts[each.draft_id] for each in entries if not each.gates}
    if len(passing) < 3 or not passing <= set(strength) or all(each.scale == "preference" for each in entries):
        return list(entries)
    return [
        each if each.gates else each.model_copy(update={"strength": strength[texts[each.draft_id]]}) for each in entries
    ]


def _scored(
    draft: Draft, built_in: tuple[str, ...], judgements: Sequence[Judgement], prompt: Prompt, rubric: Rubric
) -> RankedDraft | None:
    """Score a draft by its pointwise judgements; None where they are incomplete or nothing applies."""
    scores = pool_scores(judgements)
    gates = (*built_in, *failed_gates(scores, rubric))
    values = [each.value for each in judgements if each.value is not None]
    if values:
        return _unranked(draft, fmean(values), judgements[0].scale, gates)
    by_name = {score.criterion: score for score in scores}
    if any(each.name not in by_name for each in rubric.all_criteria) or split_gates(scores, rubric):
        return None
    unasked = [each.name for each in rubric.asked if not by_name[each.name].applies and each.applies_to(prompt)]
    if unasked and not gates:
        return None  # it failed a gate when it was judged and passes now: the teacher has not been asked
    try:
        total, _ = rubric.total(scores)
    except RubricError:  # no criterion with a weight applies
        if not gates:
            return None
        total = 0.0
    return _unranked(draft, total, "rubric", gates)


def _compared(
    draft: Draft, built_in: tuple[str, ...], judgements: Sequence[Judgement], won: Mapping[str, float], rubric: Rubric
) -> RankedDraft | None:
    """Score a draft by its comparisons; None where none is known in both orders and no gate failed."""
    gates = (*built_in, *failed_gates(pool_scores(judgements), rubric))
    if draft.id not in won and not gates:
        return None
    return _unranked(draft, won.get(draft.id, 0.0), "preference", gates)


def _unranked(draft: Draft, score: float, scale: Scale, gates: tuple[str, ...]) -> RankedDraft:
    return RankedDraft(draft_id=draft.id, rank=1, score=score, scale=scale, gates=gates)


def _with_ranks(entries: Iterable[RankedDraft]) -> tuple[RankedDraft, ...]:
    """Order entries best first and number them 1, 1, 3, …"""
    ordered = sorted(entries, key=lambda each: (bool(each.gates), -each.score, -(each.strength or 0.0), each.draft_id))
    ranked: list[RankedDraft] = []
    for position, entry in enumerate(ordered, start=1):
        last = ranked[-1] if ranked else None
        shared = (
            last is not None
            and bool(last.gates) == bool(entry.gates)
            and abs(last.score - entry.score) <= EPSILON
            and abs((last.strength or 0.0) - (entry.strength or 0.0)) <= EPSILON
        )
        rank = last.rank if last is not None and shared else position
        ranked.append(entry.model_copy(update={"rank": rank}))
    return tuple(ranked)


def pool_scores(judgements: Sequence[Judgement]) -> tuple[CriterionScore, ...]:
    """Return one draft's scores, averaged per criterion over the members that gave one."""
    if len(judgements) <= 1:
        return judgements[0].scores if judgements else ()
    by_name: dict[str, list[CriterionScore]] = defaultdict(list)
    for judgement in judgements:
        for score in judgement.scores:
            by_name[score.criterion].append(score)
    pooled = []
    for scores in by_name.values():
        known = [each.score for each in scores if each.score is not None]
        update = {"applies": bool(known), "score": fmean(known) if known else None, "level": None}
        pooled.append(scores[0].model_copy(update=update))
    return tuple(pooled)


def failed_built_in(draft: Draft) -> tuple[str, ...]:
    """Return the names of the built-in gates that a draft fails, whatever rubric and judge it is judged by."""
    found = ((COMPLETE, draft.finish_reason == "length"), (NO_STRAY_TAGS, bool(draft.stray_tag)))
    return tuple(name for name, fails in found if fails)


def failed_gates(scores: Iterable[CriterionScore], rubric: Rubric) -> tuple[str, ...]:
    """Return the names of the rubric's gates that `scores` fail; a gate without a score is not failed."""
    by_name = {score.criterion: score.score for score in scores}
    return tuple(
        gate.name for gate in rubric.gates if (score := by_name.get(gate.name)) is not None and not gate.passes(score)
    )


def split_gates(scores: Iterable[CriterionScore], rubric: Rubric) -> tuple[str, ...]:
    """Return the names of asked gates on which a panel or samples are split evenly: neither passed nor failed."""
    asked = {gate.name for gate in rubric.gates if gate.asked}
    return tuple(
        score.criterion
        for score in scores
        if score.criterion in asked and score.score is not None and abs(score.score - 0.5) <= EPSILON
    )


@dataclass(frozen=True)
class Contender:
    """One distinct text that may stand in a pair."""

    draft_id: str
    """The first of `equal_ids`."""
    equal_ids: tuple[str, ...]
    """Every draft that has this text."""
    text: str
    score: float
    """Score before gates, averaged over them."""
    scale: Scale
    passes: bool
    """Whether it passes every gate; only then can it be chosen."""
    strength: float | None = None
    """Mean probability of winning its comparisons; None unless all contenders that pass were compared."""
    flag: str | None = None
    """What in it speaks to the judge; its pairs are dropped."""


def is_broken(text: str) -> bool:
    """Whether a text holds bytes that are no character: a tokenizer of bytes can write half a character."""
    return "\ufffd" in text


def contenders(
    ranking: Ranking, drafts: Iterable[Draft], gate_failures: GateFailures = "reject", prompt: Prompt | None = None
) -> tuple[Contender, ...]:
    """Return the drafts that may stand in a pair: ranked, not cut at the token limit, whole characters, each text once.

    A text with a character in pieces (see `is_broken`) is not what the student wrote: in training its tokens would be
    others than those that were sampled, and most unlikely ones.

    Their order depends on scores and texts alone, never on the order in which drafts were stored. With `prompt` they
    are looked through for words to the judge.
    """
    asked = "" if prompt is None else "\n".join(message.content for message in prompt.messages)
    texts = {draft.id: draft.completion for draft in drafts}
    same: dict[str, list[RankedDraft]] = defaultdict(list)
    for entry in ranking.entries:
        if COMPLETE not in entry.gates and entry.draft_id in texts and not is_broken(texts[entry.draft_id]):
            same[texts[entry.draft_id].strip()].append(entry)
    found = []
    for entries in same.values():
        ids = tuple(sorted(entry.draft_id for entry in entries))
        passes = not any(each.gates for each in entries)
        if passes or gate_failures == "reject":
            score = fmean(each.score for each in entries)
            flag = None if prompt is None else addresses_judge(texts[ids[0]], asked)
            strength = entries[0].strength
            found.append(Contender(ids[0], ids, texts[ids[0]], score, entries[0].scale, passes, strength, flag))
    return tuple(sorted(found, key=lambda each: (not each.passes, -each.score, each.text)))


def best_of(rivals: Sequence[Contender], tie_margin: float = 0.0) -> Contender | None:
    """Return the best contender that passes every gate; of several at the top the strongest, then the shortest."""
    passing = [each for each in rivals if each.passes]
    if not passing:
        return None
    top = max(each.score for each in passing) - tie_margin - EPSILON
    return min(
        (each for each in passing if each.score >= top),
        key=lambda each: (-(each.strength or 0.0), len(each.text), each.text),
    )


def worst_of(rivals: Sequence[Contender], chosen: Contender, tie_margin: float = 0.0) -> Contender | None:
    """Return the worst contender below `chosen`; of several at the bottom the weakest, then the closest in length.

    One that fails a gate is worse than any that passes. None where all are tied with `chosen`.
    """
    below = [each for each in rivals if is_below(each, chosen, tie_margin)]
    tier = [each for each in below if not each.passes] or below
    if not tier:
        return None
    bottom = min(each.score for each in tier) + tie_margin + EPSILON
    return min(
        (each for each in tier if each.score <= bottom),
        key=lambda each: (each.strength or 0.0, abs(len(each.text) - len(chosen.text)), each.text),
    )


def is_below(rival: Contender, chosen: Contender, tie_margin: float = 0.0) -> bool:
    """Whether `rival` is worse than `chosen` by more than a tie."""
    return chosen.passes and (not rival.passes or chosen.score - rival.score > tie_margin + EPSILON)


def choose_best_worst(
    prompt: Prompt,
    drafts: Sequence[Draft],
    ranking: Ranking,
    tie_margin: float = 0.0,
    gate_failures: GateFailures = "reject",
) -> tuple[Contender, Contender] | None:
    """Return the two drafts that best against worst selects; None where no draft is above another.

    Above five contenders the rejected one is the worst of a random five of the others, drawn by prompt, round and
    text, so that the judge's confirmation and the pair stage draw the same.
    """
    rivals = contenders(ranking, drafts, gate_failures, prompt)
    chosen = best_of(rivals, tie_margin)
    if chosen is None:
        return None
    others = [each for each in rivals if each is not chosen]
    if len(rivals) > WORST_OF:
        others = in_random_order(prompt, drafts, others)[:WORST_OF]
    rejected = worst_of(others, chosen, tie_margin)
    return None if rejected is None else (chosen, rejected)


def in_random_order(prompt: Prompt, drafts: Iterable[Draft], rivals: Iterable[Contender]) -> list[Contender]:
    """Shuffle contenders by prompt, round and text: the same on every re-run and for every stored order."""
    round = max((draft.round for draft in drafts), default=0)
    return sorted(rivals, key=lambda each: (seed_of(prompt.id, round, each.text), each.text))
