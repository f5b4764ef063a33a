"""The honest but imperfect second opinion on sandbox e-mails.

Place in the flow: the base score of the sandbox's held-out judge (validation, choice of the kept policy) and, with
flaws added, of its flawed judge. It looks at a reader's concerns, graded and coarser than gold, and at other things
than the rubric's checks do; noise is added by the judges.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Literal

from prefdistill.sandbox.reading import gives_when, mentions_fact, read_email, ties_reason

CriterionName = Literal["ask_early", "when_clear", "direct", "kind", "reasoned", "to_the_point"]

CRITERIA: dict[CriterionName, float] = {
    "ask_early": 0.26,
    "when_clear": 0.20,
    "direct": 0.16,
    "kind": 0.14,
    "reasoned": 0.12,
    "to_the_point": 0.12,
}
"""Weights of what the second opinion looks at; they sum to 1."""


def criteria(text: str, facts: Mapping[str, object]) -> dict[CriterionName, float]:
    """Score each criterion of an e-mail, 0 to 1; any text is accepted, and one without an ask scores 0 everywhere."""
    reading = read_email(text, facts)
    if reading.ask is None:
        return dict.fromkeys(CRITERIA, 0.0)
    when = gives_when(reading, facts)
    return {
        "ask_early": max(0.0, 1.0 - reading.ask / 3),
        "when_clear": 1.0 if when else 0.3 * all(mentions_fact(text, facts, name) for name in ("day", "time")),
        "direct": 0.0 if reading.hedged else 1.0,
        "kind": 0.0 if reading.pushy else 0.6 + 0.4 * reading.thanks,
        "reasoned": 1.0 if ties_reason(reading, facts) else 0.4 * mentions_fact(text, facts, "reason"),
        "to_the_point": max(0.0, 1.0 - max(0, len(reading.sentences) - 3) / 4),
    }


def held_out_score(text: str, facts: Mapping[str, object], dropped: CriterionName | None = None) -> float:
    """Score an e-mail 0 to 1 without noise; `dropped` leaves one criterion out."""
    found = criteria(text, facts)
    weights = {name: weight for name, weight in CRITERIA.items() if name != dropped}
    return sum(weight * found[name] for name, weight in weights.items()) / sum(weights.values())


def noise(deviation: float, *parts: object) -> float:
    """Return normal noise of this standard deviation that depends on `parts` alone."""
    return random.Random("|".join(map(str, parts))).gauss(0.0, deviation) if deviation else 0.0
