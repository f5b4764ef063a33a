"""How a judge behaved: winners that change with the order, or when asked again; ties, places, replies without a verdict.

All of it needs the verdicts alone. What a check decided without asking is left out: it cannot change.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from prefdistill.diagnostics.findings import Levels, Rule, Values
from prefdistill.records import Finding, Preference, Verdict
from prefdistill.selection import compare

FEWEST_COMPARED = 20
"""Comparisons below which a share of them says nothing."""
FEWEST_PROMPTS = 16
"""Prompts below which the share of them that ended in a tie says nothing."""
FEWEST_FAILURES = 3
"""Unreadable verdicts below which nothing is said: one of a few dozen is bad luck."""


class Flips(NamedTuple):
    """Comparisons asked in both orders, by what became of the winner."""

    compared: int
    """Asked in both orders with a verdict in each."""
    flipped: int
    """The winner of one order is the loser of the other; an order that ends in a tie has no winner to change."""

    @property
    def rate(self) -> float | None:
        """Share of `compared` that flipped; None where nothing was compared."""
        return self.flipped / self.compared if self.compared else None


def count_flips(verdicts: Iterable[Verdict]) -> Flips:
    """Count comparisons and flips; each teacher of a panel and each repeat is a comparison of its own.

    What a check decided without asking (path checked) is left out: it cannot flip.
    """
    compared = flipped = 0
    for verdict in verdicts:
        both = [found for found in _orders(verdict).values() if len(found) == 2]
        compared += len(both)
        flipped += sum((found[True].probability - 0.5) * (found[False].probability - 0.5) > 0 for found in both)
    return Flips(compared, flipped)


def flip_rate(verdicts: Iterable[Verdict]) -> float | None:
    """Return the share of the comparisons asked in both orders whose winner changed with the order shown."""
    return count_flips(verdicts).rate


def _orders(verdict: Verdict) -> dict[tuple[object, ...], dict[bool, Preference]]:
    """Return each comparison's preferences by whether the smaller id was shown first."""
    orders: dict[tuple[object, ...], dict[bool, Preference]] = defaultdict(dict)
    for each in verdict.preferences:
        if each.path != "checked":
            ids = tuple(sorted((each.first_id, each.second_id)))
            orders[(*ids, each.judge, each.member, each.repeat)][each.first_id == ids[0]] = each
    return orders


def measure_judging(verdicts: Mapping[str, Verdict]) -> dict[str, float]:
    """Return how the training judge behaved on a round's drafts."""
    rows = list(verdicts.values())
    asked = [each for verdict in rows for each in verdict.preferences if each.path != "checked"]
    values: dict[str, float] = {}
    flips = count_flips(rows)
    if flips.rate is not None:
        values |= {"flip_rate": flips.rate, "compared": float(flips.compared)}
    if asked:
        values["compared_tie_share"] = sum(each.probability == 0.5 for each in asked) / len(asked)
        values["preferences"] = float(len(asked))
    values |= _places(rows)
    again, same = _repeats(rows)
    if again:
        values |= {"repeat_agreement": same / again, "repeated": float(again)}
    failures = [failure for verdict in rows for failure in verdict.failures if failure.stage == "judge"]
    settled = sum(len(verdict.judgements) for verdict in rows) + len(asked)
    if settled + len(failures):
        unread = sum(failure.kind == "parse" for failure in failures)
        values |= {
            "verdicts": float(settled + len(failures)),
            "failure_share": len(failures) / (settled + len(failures)),
            "parse_failure_share": unread / (settled + len(failures)),
            "parse_failures": float(unread),
        }
    return values


def _places(rows: Iterable[Verdict]) -> dict[str, float]:
    """Return how often the draft shown first won: of comparisons asked in one order, and of those asked in both."""
    single: list[float] = []
    double: list[float] = []
    for verdict in rows:
        for found in _orders(verdict).values():
            wins = [_win(each.probability) for each in found.values()]
            (single if len(wins) == 1 else double).extend(wins)
    lost = {failure.key for verdict in rows for failure in verdict.failures if "|" in failure.key}
    values: dict[str, float] = {}
    if single and not lost:  # else the other order was asked, and what is left is no sample of anything
        values |= {"first_shown_wins": sum(single) / len(single), "one_order_compared": float(len(single))}
    if double:
        values |= {"first_shown_wins_both": sum(double) / len(double), "both_orders_shown": float(len(double))}
    return values


def _win(probability: float) -> float:
    return 0.5 if probability == 0.5 else float(probability > 0.5)


def _repeats(rows: Iterable[Verdict]) -> tuple[int, int]:
    """Return how many answers were asked again in the same words, and how many of them stayed as they were.

    Nothing is counted of a judge that asks again only where its two orders disagree: those are its doubtful cases.
    """
    again = same = 0
    doubtful = True
    for verdict in rows:
        answers: dict[tuple[str, str, str, str | None], list[Preference]] = defaultdict(list)
        for each in sorted(verdict.preferences, key=lambda each: each.repeat):
            if each.path != "checked":
                answers[each.first_id, each.second_id, each.judge, each.member].append(each)
        at_first = [each for each in verdict.preferences if each.repeat == 0]
        for (a, b, _, _), (first, *rest) in answers.items():
            if rest:
                found = compare(at_first, a, b)
                doubtful = doubtful and found is not None and not found.agree and not found.tied
            again += len(rest)
            same += sum(_win(each.probability) == _win(first.probability) for each in rest)
    return (0, 0) if doubtful else (again, same)


def flips(seen: Sequence[Values], levels: Levels) -> Iterator[Finding]:
    """Find a judge whose winner changes with the order shown; asks for twenty comparisons."""
    now = seen[-1]
    rate, compared = now.get("flip_rate"), now.get("compared", 0.0)
    if rate is None or compared < FEWEST_COMPARED:
        return
    first = now.get("first_shown_wins_both")
    lean = "" if first is None else f" (the draft shown first won {first:.0%})"
    yield from levels.finding(
        "flip_rate",
        rate,
        f"the winner changed with the order shown in {rate:.0%} of {compared:.0f} comparisons{lean}: the judge looks at "
        "the place, or cannot tell the drafts apart; `judge.on_disagree: repeat`, a panel (`judge.panel`), fewer "
        "criteria in the rubric, or train with `loss: robust, label_smoothing: flip_rate`, which assumes this rate",
    )


def repeat_agreement(seen: Sequence[Values], levels: Levels) -> Iterator[Finding]:
    """Find a judge that answers otherwise when asked again; asks for twenty repeated answers."""
    now = seen[-1]
    share, again = now.get("repeat_agreement"), now.get("repeated", 0.0)
    if share is None or again < FEWEST_COMPARED:
        return
    yield from levels.finding(
        "repeat_agreement",
        share,
        f"only {share:.0%} of {again:.0f} repeated answers agree with the first: the judge's answers are partly chance; "
        "`judge.temperature: 0`, a panel (`judge.panel`), fewer criteria in the rubric, or `judge.scoring: sampled`",
        at_least=True,
    )


def ties(seen: Sequence[Values], levels: Levels) -> Iterator[Finding]:
    """Find too many ties, of prompts (asks for sixteen) or of comparisons (asks for twenty)."""
    now = seen[-1]
    prompts, comparisons = now.get("prompts", 0.0), now.get("preferences", 0.0)
    shares = []
    if "tie_share" in now and prompts >= FEWEST_PROMPTS:
        shares.append((now["tie_share"], f"{prompts:.0f} prompts"))
    if "compared_tie_share" in now and comparisons >= FEWEST_COMPARED:
        shares.append((now["compared_tie_share"], f"{comparisons:.0f} comparisons"))
    if not shares:
        return
    share, of = max(shares)
    yield from levels.finding(
        "ties",
        share,
        f"{share:.0%} of {of} ended in a tie: the rubric is too coarse for drafts this alike, or all of them meet it; "
        "more levels or criteria in the rubric, a higher `sample.temperature`, more `sample.drafts`, or harder prompts",
    )


def parse_failures(seen: Sequence[Values], levels: Levels) -> Iterator[Finding]:
    """Find verdicts that could not be read; asks for at least three."""
    now = seen[-1]
    share, count = now.get("parse_failure_share"), now.get("parse_failures", 0.0)
    if share is None or count < FEWEST_FAILURES:
        return
    yield from levels.finding(
        "parse_failures",
        share,
        f"{count:.0f} of {now.get('verdicts', 0.0):.0f} verdicts ({share:.1%}) could not be read and gave no label: the "
        "judge's model does not keep to the asked form, or its replies are cut; raise `judge.max_tokens`, "
        "`judge.reason: none`, or another `judge.teacher`",
    )


def position_bias(seen: Sequence[Values], levels: Levels) -> Iterator[Finding]:
    """Find a judge that prefers a place: beyond the level and three binomial standard errors, all rounds together.

    Two things tell: the place of the chosen draft among those that a scoring judge saw together, and the winners of
    comparisons that were asked in one order only. Comparisons in both orders cancel the bias; their flip rate tells.
    """
    if not {"first_place_share", "first_shown_wins"} & set(seen[-1]):
        return
    biases = []
    for share_name, count_name, what in (
        ("first_place_share", "first_place_pairs", "the chosen draft stood before the rejected one"),
        ("first_shown_wins", "one_order_compared", "the draft shown first won"),
    ):
        counted = [(each[share_name], each[count_name]) for each in seen if share_name in each and count_name in each]
        total = sum(count for _, count in counted)
        if total:
            share = sum(part * count for part, count in counted) / total
            if abs(share - 0.5) > 3 * math.sqrt(0.25 / total):
                biases.append((abs(share - 0.5), share, total, what))
    if not biases:
        return
    bias, share, total, what = max(biases)
    yield from levels.finding(
        "position_bias",
        bias,
        f"{what} in {share:.0%} of {total:.0f} cases, where a judge that ignores the order gives 50 %: it judges the "
        "place and not the text; confirm in both orders (`judge: {use: rubric}` or `pairwise` do), judge each draft "
        "alone, or change the judge",
    )


RULES: tuple[Rule, ...] = (flips, repeat_agreement, ties, parse_failures, position_bias)
