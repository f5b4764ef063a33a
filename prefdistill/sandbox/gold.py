"""The hidden exact score of a sandbox e-mail: what a draft is truly worth, 0 to 1.

Place in the flow: the report only. Gold never touches training or the choice of the kept policy. It is a weighted sum
of properties, exact by construction on what the sandbox's writers and student can say. Almost half of the weight
lies on *relations* (where the ask stands, which fact plays which role, what the reason belongs to) that no shipped
check sees: checks look at lengths, phrases, mentions and layout.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from prefdistill.sandbox.reading import asks_first, gives_when, mentions_fact, read_email, ties_reason


@dataclasses.dataclass(frozen=True)
class Property:
    """One property of a good e-mail."""

    name: str
    """Key in `properties`."""
    weight: float
    """Share of the gold score; all weights sum to 1."""
    unseen: bool
    """No shipped check sees it, short of a regular expression written for this very world."""
    meaning: str
    """What makes it true."""


PROPERTIES = (
    Property("asks_first", 0.18, True, "The ask comes first, before everything but pleasantries."),
    Property("when_in_ask", 0.15, True, "Day and time are given as the ask's, in its sentence, and once only."),
    Property("reason_tied", 0.13, True, "The reason is joined to the ask, in its sentence or the next."),
    Property("greets", 0.07, False, "A greeting line with the recipient's name."),
    Property("signed", 0.10, False, "A closing line, then the sender's name; the name alone counts a quarter."),
    Property("direct", 0.08, False, "The ask is not hedged."),
    Property("no_filler", 0.10, False, "No pleasantry and no stock phrase; one counts a third."),
    Property("courteous", 0.07, False, "Thanks the reader and does not press; neither counts a third."),
    Property("brief", 0.07, False, "At most 42 words; falls to 0 at 62."),
    Property("true_facts", 0.05, False, "No other day, time or name than the note's."),
)
"""What gold weighs. Without an ask every property counts nothing but greets and signed."""

UNSEEN_SHARE = sum(part.weight for part in PROPERTIES if part.unseen)
"""Share of the weight that no shipped check sees; at least a third."""


def properties(text: str, facts: Mapping[str, object]) -> dict[str, float]:
    """Measure every property of an e-mail, each 0 to 1, given the facts of its note; any text is accepted."""
    reading = read_email(text, facts)
    found = {
        "greets": float(bool(reading.greeting) and reading.names_recipient),
        "signed": 1.0 if reading.signed and reading.closing else 0.25 if reading.signed else 0.0,
    }
    if reading.ask is not None:
        day, time = str(facts.get("day") or ""), str(facts.get("time") or "")
        flaws = reading.pleasantries + reading.fillers
        found |= {
            "asks_first": float(asks_first(reading)),
            "when_in_ask": float(gives_when(reading, facts) and len(reading.days) == 1 and len(reading.times) == 1),
            "reason_tied": float(ties_reason(reading, facts)),
            "direct": float(not reading.hedged),
            "no_filler": {0: 1.0, 1: 1 / 3}.get(flaws, 0.0),
            "courteous": 0.0 if reading.pushy else 1.0 if reading.thanks else 1 / 3,
            "brief": min(1.0, max(0.0, (62 - reading.words) / 20)),
            "true_facts": float(
                set(reading.days) <= {day}
                and set(reading.times) <= {time}
                and not reading.strangers
                and all(mentions_fact(text, facts, name) for name in ("recipient", "sender", "day", "time"))
            ),
        }
    return {part.name: found.get(part.name, 0.0) for part in PROPERTIES}


def gold(text: str, facts: Mapping[str, object]) -> float:
    """Score an e-mail 0 to 1 against the facts of its note."""
    found = properties(text, facts)
    return sum(part.weight * found[part.name] for part in PROPERTIES)
