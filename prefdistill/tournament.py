"""Who meets whom, and what it says about the others: schedules of comparisons and the strengths estimated from them.

Pure and deterministic: a schedule depends on the ids and on what the comparisons gave, never on the order in which
drafts were stored. Judges run a schedule; ranking turns its outcome, complete or not, into one number a draft.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from itertools import combinations
from statistics import fmean
from typing import Literal

from prefdistill.records import digest

Scheme = Literal["round_robin", "anchor", "swiss"]
"""round_robin: every draft meets every other; anchor: every draft meets the first; swiss: equals meet, in rounds."""
Pair = tuple[str, str]
Compare = Callable[[Sequence[Pair]], Mapping[Pair, float | None]]
"""Pairs that may be asked at the same time to the probability that the first of each is better; None is unknown."""

AVERAGE_DRAWS = 1.0
"""In the fit each draft has also drawn so many comparisons with an average one, so that no strength is infinite."""


def run_scheme(scheme: Scheme, ids: Iterable[str], compare: Compare, rounds: int = 3) -> dict[Pair, float]:
    """Ask for the comparisons of a scheme, in as few batches as it allows, and return those that are known.

    A comparison that comes back unknown is not asked again. A Swiss tournament ends early when nobody is left to meet.

    Args:
        ids: two or more drafts; fewer have nothing to compare. The anchor is the smallest id.
        compare: called once per batch of pairs, each pair in its sorted order.
        rounds: how often each draft is compared in a Swiss tournament (one less after a bye).
    """
    ordered = sorted(set(ids))
    if len(ordered) < 2:
        return {}
    if scheme == "swiss":
        return _run_swiss(ordered, compare, rounds)
    pairs = [(ordered[0], each) for each in ordered[1:]] if scheme == "anchor" else list(combinations(ordered, 2))
    return _known(compare(pairs), pairs)


def _run_swiss(ids: Sequence[str], compare: Compare, rounds: int) -> dict[Pair, float]:
    """Pair neighbours in the standing, round after round; nobody meets twice, and nobody sits out twice."""
    drawn = sorted(ids, key=lambda each: (digest(each), each))
    compared: dict[Pair, float] = {}
    met: set[Pair] = set()
    rested: list[str] = []
    for _ in range(rounds):
        share = win_probabilities(compared, ids)
        standing = sorted(drawn, key=lambda each: -round(share.get(each, 0.5), 9))
        pairs = _next_round(standing, met, rested)
        if pairs is None:
            break
        met.update(pairs)
        playing = {each for pair in pairs for each in pair}
        rested += [each for each in standing if each not in playing]
        compared |= _known(compare(pairs), pairs)
    return compared


def _next_round(standing: Sequence[str], met: Collection[Pair], rested: Collection[str]) -> list[Pair] | None:
    """Return who meets whom; of an odd number the lowest that has not rested yet sits out."""
    if len(standing) % 2 == 0:
        return _matched(standing, met)
    for rests in reversed(standing):
        if rests not in rested:
            pairs = _matched([each for each in standing if each != rests], met)
            if pairs is not None:
                return pairs
    return None


def _matched(standing: Sequence[str], met: Collection[Pair]) -> list[Pair] | None:
    """Pair each with one close by that it has not met (minimum-weight matching); None where not everyone can be."""
    from networkx import Graph, max_weight_matching

    graph = Graph()  # of places, not of ids, whose hashes differ from process to process
    for one, other in combinations(range(len(standing)), 2):
        if _sorted_pair(standing[one], standing[other]) not in met:
            graph.add_edge(one, other, weight=-((other - one) ** 2))
    found = sorted(sorted(edge) for edge in max_weight_matching(graph, maxcardinality=True))
    if 2 * len(found) < len(standing):
        return None
    return [_sorted_pair(standing[one], standing[other]) for one, other in found]


def _sorted_pair(a: str, b: str) -> Pair:
    return (a, b) if a < b else (b, a)


def _known(found: Mapping[Pair, float | None], pairs: Iterable[Pair]) -> dict[Pair, float]:
    return {pair: probability for pair in pairs if (probability := found.get(pair)) is not None}


def win_probabilities(compared: Mapping[Pair, float], ids: Iterable[str]) -> dict[str, float]:
    """Return the mean probability with which each draft wins against all the others.

    Comparisons that are known count as they are; those that are missing are filled in from a Bradley-Terry fit of the
    known ones (Bradley and Terry 1952), in which each draft has also drawn once with an average one. After a full
    round robin the numbers are exact means.

    Args:
        compared: probability that the first of two drafts is better, both orders averaged; each two drafts once, or
            in both directions, which are then averaged. Drafts that are not in `ids` are left out.
        ids: the drafts.

    Returns:
        A number 0..1 for each draft with at least one known comparison; the others are unknown and absent.
    """
    wanted = set(ids)
    shares: dict[Pair, list[float]] = {}
    for (a, b), probability in compared.items():
        if a != b and a in wanted and b in wanted:
            share = probability if a < b else 1 - probability
            shares.setdefault(_sorted_pair(a, b), []).append(share)
    known = {pair: fmean(shares[pair]) for pair in sorted(shares)}
    drafts = sorted({each for pair in known for each in pair})
    all_pairs = list(combinations(drafts, 2))
    filled = known if len(known) == len(all_pairs) else {**_fitted(known, drafts, all_pairs), **known}
    won: dict[str, list[float]] = {each: [] for each in drafts}
    for a, b in all_pairs:
        won[a].append(filled[a, b])
        won[b].append(1 - filled[a, b])
    return {each: fmean(won[each]) for each in drafts}


def _fitted(known: Mapping[Pair, float], drafts: Sequence[str], pairs: Iterable[Pair]) -> dict[Pair, float]:
    """Return the probability that the first of each pair wins, from strengths fitted by Newton's method."""
    import numpy as np

    place = {each: number for number, each in enumerate(drafts)}
    one = np.array([place[a] for a, _ in known])
    other = np.array([place[b] for _, b in known])
    share = np.array(list(known.values()))
    strength = np.zeros(len(drafts))
    for _ in range(100):
        expected = 1 / (1 + np.exp(strength[other] - strength[one]))
        against_average = 1 / (1 + np.exp(-strength))
        slope = AVERAGE_DRAWS * (0.5 - against_average)
        np.add.at(slope, one, share - expected)
        np.add.at(slope, other, expected - share)
        bend = np.diag(AVERAGE_DRAWS * against_average * (1 - against_average))
        weight = expected * (1 - expected)
        for row, column, sign in ((one, one, 1), (other, other, 1), (one, other, -1), (other, one, -1)):
            np.add.at(bend, (row, column), sign * weight)
        step = np.linalg.solve(bend, slope)
        strength += step / max(1.0, float(np.abs(step).max()))  # a whole step may jump over the optimum
        if float(np.abs(step).max()) < 1e-12:
            break
    return {(a, b): float(1 / (1 + np.exp(strength[place[b]] - strength[place[a]]))) for a, b in pairs}
