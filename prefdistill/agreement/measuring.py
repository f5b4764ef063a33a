"""Every figure of the judge meter, from judged cases and people's votes. Pure: no file, no call, no chance."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import combinations

from prefdistill.agreement.cases import JudgedCase, LabelledPair, labelled_pairs
from prefdistill.agreement.figures import ANSWERS, Figure, alpha, consistency, kappa, kendall_tau, mean, rate, share
from prefdistill.agreement.labelled import Labelled, Pair, Placing
from prefdistill.metrics.agreement import most_common
from prefdistill.metrics.orders import (
    Cycles,
    Orders,
    Repeats,
    compared_pairs,
    count_cycles,
    count_orders,
    count_repeats,
    one_order,
    repeats_within,
)
from prefdistill.records import Usage, Verdict
from prefdistill.selection import PairOptions


@dataclass(frozen=True)
class Measured:
    """All figures."""

    figures: dict[str, Figure]
    orders: Orders
    drops: dict[str, int]
    """Why labelled pairs would not train, by reason."""
    failures: dict[str, int]
    """What the judge could not answer, by kind."""
    usage: Usage
    pairs: int
    prompts: int
    people: tuple[str, ...] = ()
    by_person: dict[str, Figure] = field(default_factory=dict)
    """How far the judge says what each person says."""


def measure(labelled: Labelled, judged: Sequence[JudgedCase], options: PairOptions) -> Measured:
    """Return every figure that the labels and the verdicts allow."""
    pairs = labelled_pairs(labelled, judged, options)
    figures = {
        **_people(labelled, pairs),
        **_against_people(labelled, pairs, judged),
        **_lengths(pairs),
        **_judge_alone(judged),
    }
    drops: dict[str, int] = defaultdict(int)
    for each in pairs:
        if isinstance(each.trains, str):
            drops[each.trains] += 1
    failures: dict[str, int] = defaultdict(int)
    for case in judged:
        for failure in case.verdict.failures:
            failures[failure.kind] += 1
    return Measured(
        figures=figures,
        orders=sum((count_orders(each.verdict) for each in judged), Orders()),
        drops=dict(sorted(drops.items(), key=lambda each: -each[1])),
        failures=dict(failures),
        usage=sum((verdict.usage for each in judged for verdict in each.passes), Usage()),
        pairs=len(pairs),
        prompts=len({each.case.prompt.id for each in judged}),
        people=labelled.people,
        by_person=_by_person(labelled, pairs),
    )


def _credit(judge: int, people: int) -> float:
    """Return 1 where the judge names the people's winner, one half where it names none."""
    return 0.5 if judge == 0 else float(judge == people)


def _people(labelled: Labelled, pairs: Sequence[LabelledPair]) -> dict[str, Figure]:
    """Return how far people agree with one another: what a judge can reach at most."""
    alone: list[tuple[str, float]] = []
    decided: list[tuple[str, float]] = []
    two_by_two: list[tuple[str, float]] = []
    for each in pairs:
        for vote in each.votes:
            rest = most_common(other.says for other in each.votes if other.by != vote.by)
            if rest:
                same = (vote.says in rest) / len(rest)  # others who are even are taken at random
                alone.append((each.prompt_id, same))
                if vote.says and 0 not in rest:
                    decided.append((each.prompt_id, same))
        two_by_two += [(each.prompt_id, float(a.says == b.says)) for a, b in combinations(each.votes, 2)]
    ratings = {(each.prompt_id, each.pair): [vote.says for vote in each.votes] for each in pairs}
    placed = _placings(labelled.placings)
    taus = [
        (prompt_id, tau)
        for (prompt_id, _), group in placed.items()
        for a, b in combinations(group, 2)
        if (tau := kendall_tau(a.ranks, b.ranks)) is not None
    ]
    return {
        "people_agreement": share(alone),
        "people_decided": share(decided),
        "people_pairwise": share(two_by_two),
        "people_alpha": alpha(ratings),
        "people_tau": mean(taus),
    }


def _placings(placings: Iterable[Placing]) -> dict[tuple[str, frozenset[str]], list[Placing]]:
    found: dict[tuple[str, frozenset[str]], list[Placing]] = defaultdict(list)
    for each in placings:
        found[each.prompt_id, frozenset(each.ranks)].append(each)
    return found


def _against_people(
    labelled: Labelled, pairs: Sequence[LabelledPair], judged: Sequence[JudgedCase]
) -> dict[str, Figure]:
    """Return how far the judge says what people say."""
    known = [(each, each.judge) for each in pairs if each.judge is not None]
    won = [(each, says) for each, says in known if each.people]
    decided = [(each, says) for each, says in won if says]
    both = [(each, each.agreed) for each in pairs if each.agreed is not None and each.people]
    trained = [(each, each.trained) for each in pairs if each.trained is not None and each.people]
    taus, best = _rankings(labelled, judged)
    return {
        "judged": share((each.prompt_id, float(each.judge is not None)) for each in pairs),
        "agreement": share((each.prompt_id, float(says == each.people)) for each, says in known),
        "kappa": kappa([(each.prompt_id, says, each.people) for each, says in known], ANSWERS, mirrored=True),
        "accuracy": share((each.prompt_id, _credit(says, each.people)) for each, says in won),
        "decided": share((each.prompt_id, float(says == each.people)) for each, says in decided),
        "kappa_decided": kappa([(each.prompt_id, says, each.people) for each, says in decided], (1, -1), mirrored=True),
        "one_person": share((each.prompt_id, float(says == vote.says)) for each, says in known for vote in each.votes),
        "longest_wins": share((each.prompt_id, _credit(each.longer, each.people)) for each, _ in won),
        "both_orders": share((each.prompt_id, float(says == each.people)) for each, says in both),
        "trained": share((each.prompt_id, float(each.trained is not None)) for each in pairs),
        "trained_accuracy": share((each.prompt_id, float(says == each.people)) for each, says in trained),
        "tau": taus,
        "best": best,
    }


def _rankings(labelled: Labelled, judged: Sequence[JudgedCase]) -> tuple[Figure, Figure]:
    """Return Kendall's tau-b of the judge with each person, and how often its best is a person's best."""
    taus: list[tuple[str, float]] = []
    best: list[tuple[str, float]] = []
    for each in labelled.placings:
        holder = next(
            case for case in judged if case.case.prompt.id == each.prompt_id and set(each.ranks) <= case.case.ids
        )
        ranks = {draft_id: rank for draft_id, rank in holder.ranks.items() if draft_id in each.ranks}
        if len(ranks) < 2:
            continue
        theirs = {draft_id: each.ranks[draft_id] for draft_id in ranks}
        if (tau := kendall_tau(ranks, theirs)) is not None:
            taus.append((each.prompt_id, tau))
        top = [draft_id for draft_id, rank in ranks.items() if rank == min(ranks.values())]
        liked = {draft_id for draft_id, rank in theirs.items() if rank == min(theirs.values())}
        best.append((each.prompt_id, len(liked & set(top)) / len(top)))
    return mean(taus), share(best)


def _by_person(labelled: Labelled, pairs: Sequence[LabelledPair]) -> dict[str, Figure]:
    """Return how far the judge says what each person says, the same answer of three."""
    return {
        person: share(
            (each.prompt_id, float(each.judge == vote.says))
            for each in pairs
            for vote in each.votes
            if vote.by == person and each.judge is not None
        )
        for person in labelled.people
    }


def _lengths(pairs: Sequence[LabelledPair]) -> dict[str, Figure]:
    """Return how often the judge and people prefer the longer draft, where both name a winner and lengths differ."""
    rows = [(each, says) for each in pairs if (says := each.judge) and each.people and each.longer]
    judge = [(each.prompt_id, float(says == each.longer)) for each, says in rows]
    people = [(each.prompt_id, float(each.people == each.longer)) for each, _ in rows]
    gap = [(prompt_id, a - b) for (prompt_id, a), (_, b) in zip(judge, people, strict=True)]
    return {"longer": share(judge), "people_longer": share(people), "longer_gap": mean(gap)}


def _judge_alone(judged: Sequence[JudgedCase]) -> dict[str, Figure]:
    """Return what the verdicts say about the judge without any person."""
    orders = [(each.case.prompt.id, count_orders(each.verdict)) for each in judged]
    whole = sum((found for _, found in orders), Orders())
    asked = [each for case in judged for each in case.verdict.preferences if each.path != "checked"]
    failed = sum(len(case.verdict.failures) for case in judged)
    answered = len(asked) + sum(
        any(score.path != "checked" for score in each.scores) or each.value is not None
        for case in judged
        for each in case.verdict.judgements
        if each.scale != "preference"
    )
    one = sum((count_cycles(one_order(each.verdict)) for each in judged), Cycles())
    both = sum((count_cycles(_averaged(each.verdict)) for each in judged), Cycles())
    again = sum((_repeats(each.passes) for each in judged), Repeats())
    return {
        "consistent": consistency(orders),
        "flipped": rate(whole.flipped, whole.known),
        "first_pick": rate(whole.to_first, whole.flipped),
        "ties": rate(sum(each.probability == 0.5 for each in asked), len(asked)),
        "abstained": rate(failed, failed + answered),
        "repeat_flips": rate(again.changed, again.again),
        "cycles_one_order": rate(one.cycles, one.decided),
        "cycles": rate(both.cycles, both.decided),
    }


def _averaged(verdict: Verdict) -> dict[Pair, float]:
    return {pair: each.probability for pair, each in compared_pairs(verdict).items()}


def _repeats(passes: Sequence[Verdict]) -> Repeats:
    """Count changed answers between passes, or, where everything was asked once, between repeats on record."""
    return count_repeats(passes) if len(passes) > 1 else repeats_within(passes[0])
