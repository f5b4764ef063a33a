"""The check `grounded`: does the text state only facts that the prompt gives?"""

from __future__ import annotations

from pydantic import Field

from prefdistill.checks.facts import KINDS, Fact, Kind, find_facts, known
from prefdistill.checks.templates import all_text, fill_all
from prefdistill.checks.text import fold, has_phrase
from prefdistill.plugins import Plugin
from prefdistill.records import CheckScore, Prompt

_SHOWN = 8


class Grounded(Plugin):
    """Scores the share of the text's facts that occur in the prompt: its messages and its fields; 1 where it has none.

    Facts are figures, amounts, dates, days, months, times, addresses and capitalised names. Notation does not matter
    (`3pm` and `3 p.m.`, `1,000` and `1000`, `2` and `two`), nor does a name's first part alone. Ordinary words at the
    start of a sentence, greetings, sign-offs and list numbers are no facts. As a gate with `at_least: 1.0` it catches
    what a student invents without asking a teacher. Names are told by their capitals: leave `names` out of `kinds` for
    German, where every noun has one.
    """

    kinds: tuple[Kind, ...] = Field(default=KINDS, min_length=1)
    """Which kinds of facts are checked."""
    ignore: tuple[str, ...] = ()
    """Words and figures that need no ground, such as the sender's company; `{field}` is filled from the prompt."""

    def check(self, prompt: Prompt, completion: str) -> CheckScore | None:
        """Compare the text's facts with the prompt's."""
        ignored = fill_all(self.ignore, prompt)
        if ignored is None:
            return None
        given = known(all_text(prompt))
        allowed = " | ".join(fold(each) for each in ignored)
        facts: dict[tuple[str, object], Fact] = {}
        for fact in find_facts(completion):
            if fact.kind in self.kinds and not has_phrase(allowed, fold(fact.text)):
                facts.setdefault((fact.kind, fact.value), fact)
        loose = [fact.text for fact in facts.values() if not given.states(fact)]
        if not facts:
            return CheckScore(score=1.0, reason="states no facts")
        shown = ", ".join(loose[:_SHOWN]) + (f" and {len(loose) - _SHOWN} more" if len(loose) > _SHOWN else "")
        return CheckScore(score=1 - len(loose) / len(facts), reason=f"not in the prompt: {shown}" if loose else "")
