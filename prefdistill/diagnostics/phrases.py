"""The phrase that spreads: what the new policy says more often than the base, and the judge rewards."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import NamedTuple

from prefdistill.diagnostics.findings import Levels, Rule, Values
from prefdistill.diagnostics.texts import runs, sentences
from prefdistill.records import Draft, Finding, PreferencePair

LENGTHS = (3, 4, 5, 6)
"""Words of a phrase; it stands within a sentence."""
MOST_CHARACTERS = 4000
"""How much of a text is looked through."""
SELDOM = 0.1
"""Share of the teacher's drafts up to which a phrase is not one of its own."""
FEWEST = 3
"""Drafts that must have a phrase, and pairs that must favour it, before it is named."""


Phrase = tuple[str, ...]


class Spread(NamedTuple):
    """A phrase and where it stands."""

    phrase: str
    share: float
    """Share of the policy's validation drafts that have it."""
    base_share: float
    """Share of the base's."""
    teacher_share: float | None
    """Share of the teacher's; None without any."""


def spreading_phrase(
    policy: Sequence[Draft], base: Sequence[Draft], pairs: Sequence[PreferencePair], teacher: Sequence[Draft] = ()
) -> Spread | None:
    """Return the run of three to six words that spread most among those that chosen texts have more than rejected ones.

    None where there is none: it must have gained beyond two standard errors, and so must its part in chosen texts.
    """
    if not policy or not base or not pairs:
        return None
    now, before = _counts(each.completion for each in policy), _counts(each.completion for each in base)
    wins, losses = _favoured(pairs, {phrase for phrase, count in now.items() if count >= FEWEST})
    gains = {
        phrase: now[phrase] / len(policy) - before[phrase] / len(base)
        for phrase, count in wins.items()
        if count - losses[phrase] >= max(FEWEST, 2 * math.sqrt(count + losses[phrase]))
    }
    gains = {
        phrase: gain for phrase, gain in gains.items() if gain > 2 * math.sqrt(0.25 / len(policy) + 0.25 / len(base))
    }
    if not gains:
        return None
    enough = 0.9 * max(gains.values())  # of phrases that spread alike, one that holds the others says most
    phrase = max(
        (each for each, gain in gains.items() if gain >= enough), key=lambda each: (len(each), gains[each], each)
    )
    return Spread(
        " ".join(phrase),
        now[phrase] / len(policy),
        before[phrase] / len(base),
        _counts(each.completion for each in teacher)[phrase] / len(teacher) if teacher else None,
    )


def phrase(seen: Sequence[Values], levels: Levels) -> Iterator[Finding]:
    """Find a phrase that spreads, that chosen texts have more than rejected ones, and that the teacher does not use.

    A student that gets better also takes over phrases: those of the teacher. Without a teacher's drafts nothing is said.
    """
    now = seen[-1]
    share, before, teacher = (now.get(f"{whose}phrase_share") for whose in ("", "base_", "teacher_"))
    if share is None or before is None or teacher is None or teacher > SELDOM or share < before + teacher:
        return
    yield from levels.finding(
        "phrase",
        share - before,
        f"a phrase spread to {share:.0%} of the validation drafts from {before:.0%} of the base's; chosen texts have it "
        f"more often than rejected ones, and {teacher:.0%} of the teacher's drafts do: the judge may reward the phrase "
        "itself; read drafts with it, forbid it in the rubric (check `phrases`, `none_of`), or judge with a second judge "
        "too (`judge.panel`)",
    )


RULES: tuple[Rule, ...] = (phrase,)


def _favoured(pairs: Iterable[PreferencePair], wanted: Collection[Phrase]) -> tuple[Counter[Phrase], Counter[Phrase]]:
    """Return in how many pairs the chosen text has each phrase more often than the rejected one, and less often."""
    wins: Counter[Phrase] = Counter()
    losses: Counter[Phrase] = Counter()
    for pair in pairs:
        chosen, rejected = (
            Counter(each for each in _phrases(text) if each in wanted) for text in (pair.chosen, pair.rejected)
        )
        wins.update((chosen - rejected).keys())
        losses.update((rejected - chosen).keys())
    return wins, losses


def _phrases(text: str) -> Iterator[Phrase]:
    for part in sentences(text[:MOST_CHARACTERS]):
        for length in LENGTHS:
            yield from runs(part, length)


def _counts(texts: Iterable[str]) -> Counter[Phrase]:
    """Return in how many texts each phrase stands."""
    counts: Counter[Phrase] = Counter()
    for text in texts:
        counts.update(set(_phrases(text)))
    return counts
