"""How often a judge's winner changes with the order in which two drafts are shown."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple

from prefdistill.records import Preference, Verdict


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
        orders: dict[tuple[object, ...], dict[bool, Preference]] = defaultdict(dict)
        for each in verdict.preferences:
            if each.path == "checked":
                continue
            ids = tuple(sorted((each.first_id, each.second_id)))
            orders[(*ids, each.judge, each.member, each.repeat)][each.first_id == ids[0]] = each
        both = [found for found in orders.values() if len(found) == 2]
        compared += len(both)
        flipped += sum((found[True].probability - 0.5) * (found[False].probability - 0.5) > 0 for found in both)
    return Flips(compared, flipped)


def flip_rate(verdicts: Iterable[Verdict]) -> float | None:
    """Return the share of the comparisons asked in both orders whose winner changed with the order shown."""
    return count_flips(verdicts).rate
