"""What a judge's comparisons say about the judge: both orders of a pair, cycles of three, answers that change.

All of it needs the judge alone and no person. What a check decided without asking is left out: it cannot change.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

from prefdistill.records import Preference, Verdict
from prefdistill.selection import Compared, compare

Pair = tuple[str, str]


class Orders(NamedTuple):
    """Pairs of drafts that were asked in both orders, by what the two verdicts say together."""

    same: int = 0
    """Both orders name the same winner."""
    tie: int = 0
    """Both orders are a tie."""
    one_tie: int = 0
    """One order is a tie, the other names a winner."""
    to_first: int = 0
    """Each order prefers the draft that it shows first."""
    to_second: int = 0
    """Each order prefers the draft that it shows second."""
    unread: int = 0
    """A verdict is missing in one order or both."""

    @property
    def asked(self) -> int:
        """All pairs."""
        return sum(self)

    @property
    def known(self) -> int:
        """Pairs with a verdict in both orders."""
        return self.asked - self.unread

    @property
    def flipped(self) -> int:
        """Pairs whose winner changes with the order."""
        return self.to_first + self.to_second

    def __add__(self, other: object) -> Orders:
        """Return the counts of both."""
        assert isinstance(other, Orders)
        return Orders(*(a + b for a, b in zip(self, other, strict=True)))


def asked_pairs(verdict: Verdict) -> list[Pair]:
    """Return the pairs of drafts that a teacher was asked to compare, each sorted, failed ones too."""
    told = [(each.first_id, each.second_id) for each in verdict.preferences if each.path != "checked"]
    told += [(first, second) for each in verdict.failures for first, bar, second in [each.key.partition("|")] if bar]
    return sorted({(a, b) if a < b else (b, a) for a, b in told})


def compared_pairs(verdict: Verdict) -> dict[Pair, Compared]:
    """Return the pairs that a teacher compared in both orders."""
    asked = [each for each in verdict.preferences if each.path != "checked"]
    found = {pair: compare(asked, *pair) for pair in asked_pairs(verdict)}
    return {pair: each for pair, each in found.items() if each is not None}


def count_orders(verdict: Verdict, pairs: Collection[Pair] | None = None) -> Orders:
    """Count one prompt's pairs by what their two orders say, repeats and members averaged.

    Args:
        pairs: sorted pairs of ids to count; None counts all that were asked.
    """
    known = compared_pairs(verdict)
    counts = Orders()
    for pair in asked_pairs(verdict):
        if pairs is None or pair in pairs:
            counts += Orders(**{_kind(known.get(pair)): 1})
    return counts


def _kind(compared: Compared | None) -> str:
    if compared is None:
        return "unread"
    first, second = compared.shown_first - 0.5, compared.shown_second - 0.5  # for draft a, where it was shown
    if compared.tied:
        return "tie"
    if first == 0 or second == 0:
        return "one_tie"
    if first * second > 0:
        return "same"
    return "to_first" if first > 0 else "to_second"


class Cycles(NamedTuple):
    """Three drafts of which each beats the next."""

    cycles: int = 0
    decided: int = 0
    """Threes of drafts of which every two have a winner."""

    @property
    def rate(self) -> float | None:
        """Share of the decided threes; None where there are none."""
        return self.cycles / self.decided if self.decided else None

    def __add__(self, other: object) -> Cycles:
        """Return the counts of both."""
        assert isinstance(other, Cycles)
        return Cycles(self.cycles + other.cycles, self.decided + other.decided)


def count_cycles(better: Mapping[Pair, float]) -> Cycles:
    """Count cycles among the drafts of one prompt.

    Args:
        better: sorted pair of ids to the probability that its first is better; one half is a tie and decides nothing.
    """
    drafts = sorted({each for pair in better for each in pair})
    cycles = decided = 0
    for a, b, c in combinations(drafts, 3):
        three = [better.get((a, b), 0.5), better.get((b, c), 0.5), 1 - better.get((a, c), 0.5)]
        if all(each != 0.5 for each in three):
            decided += 1
            cycles += len({each > 0.5 for each in three}) == 1
    return Cycles(cycles, decided)


def one_order(verdict: Verdict) -> dict[Pair, float]:
    """Return the pairs of drafts as one order alone has them: the one that shows the smaller id first."""
    shown: dict[Pair, list[float]] = defaultdict(list)
    for each in verdict.preferences:
        if each.path != "checked" and each.first_id < each.second_id:
            shown[each.first_id, each.second_id].append(each.probability)
    return {pair: sum(found) / len(found) for pair, found in shown.items()}


class Repeats(NamedTuple):
    """Answers to a question that was asked before in exactly the same words."""

    again: int = 0
    changed: int = 0
    """Answers that name another winner (a tie is none), or another level, than the first time."""

    @property
    def rate(self) -> float | None:
        """Share that changed; None where nothing was asked again."""
        return self.changed / self.again if self.again else None

    def __add__(self, other: object) -> Repeats:
        """Return the counts of both."""
        assert isinstance(other, Repeats)
        return Repeats(self.again + other.again, self.changed + other.changed)


def count_repeats(passes: Sequence[Verdict]) -> Repeats:
    """Count how often the answer changed between one prompt's verdicts, each made by asking everything again."""
    answers: dict[tuple[object, ...], list[object]] = defaultdict(list)
    for verdict in passes:
        for key, answer in _answers(verdict):
            answers[key].append(answer)
    return _changed(answers.values())


def repeats_within(verdict: Verdict) -> Repeats:
    """Count how often the answer changed between the repeats of a comparison in one verdict."""
    answers: dict[tuple[object, ...], list[object]] = defaultdict(list)
    for each in sorted(verdict.preferences, key=lambda each: each.repeat):
        if each.path != "checked":
            answers[each.first_id, each.second_id, each.judge, each.member].append(_sign(each))
    return _changed(answers.values())


def _changed(answers: Iterable[Sequence[object]]) -> Repeats:
    found = [each for each in answers if len(each) > 1]
    again = sum(len(each) - 1 for each in found)
    return Repeats(again, sum(each != first for first, *rest in found for each in rest))


def _answers(verdict: Verdict) -> Iterable[tuple[tuple[object, ...], object]]:
    """Yield each question of a verdict with its answer: winners of comparisons and levels of asked criteria."""
    for each in verdict.preferences:
        if each.path != "checked" and each.repeat == 0:
            yield (each.first_id, each.second_id, each.member), _sign(each)
    for judgement in verdict.judgements:
        for score in judgement.scores:
            if score.path != "checked" and score.applies:
                yield (judgement.draft_id, judgement.member, score.criterion), score.level or score.score


def _sign(preference: Preference) -> int:
    return (preference.probability > 0.5) - (preference.probability < 0.5)
