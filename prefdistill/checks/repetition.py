"""The check `repetition`: does the text say the same thing again and again?"""

from __future__ import annotations

from collections import Counter

from pydantic import Field

from prefdistill.checks.text import sentences, words
from prefdistill.plugins import Plugin
from prefdistill.records import CheckScore, Prompt

_SENTENCE_WORDS = 3
"""Shorter sentences ("Thank you.") may recur."""


class Repetition(Plugin):
    """Scores 1 while little is repeated, falling linearly to 0 over the soft edge.

    What is measured is the larger of two shares: of runs of `n` words that stand in the text before, and of sentences
    that do. A text that turns in circles reaches 0.5 and more of either; ordinary e-mails stay under 0.05.
    """

    n: int = Field(default=4, ge=1, le=50)
    """Length of the runs of words, in words."""
    max_share: float = Field(default=0.1, ge=0.0, le=1.0)
    """Largest share of repeated runs, or sentences, that still scores 1."""
    soft: float = Field(default=0.2, ge=0.0, le=1.0)
    """How far above `max_share` the score reaches 0; 0 makes the limit hard."""

    def check(self, prompt: Prompt, completion: str) -> CheckScore | None:
        """Count what is repeated."""
        text_words = words(completion)
        runs = [tuple(text_words[start : start + self.n]) for start in range(len(text_words) - self.n + 1)]
        lines = [tuple(words(sentence)) for sentence in sentences(completion)]
        lines = [line for line in lines if len(line) >= _SENTENCE_WORDS]
        worst, seen = max((repeated_share(part), part) for part in (runs, lines))
        excess = worst - self.max_share
        score = 1.0 if excess <= 0 else max(0.0, 1 - excess / self.soft) if self.soft > 0 else 0.0
        if score == 1.0:
            return CheckScore(score=1.0)
        often = " ".join(Counter(seen).most_common(1)[0][0])
        return CheckScore(score=score, reason=f"{100 * worst:.3g} % repeated, such as: {often[:80]}")


def repeated_share(parts: list[tuple[str, ...]]) -> float:
    """Return the share of `parts` that stand earlier in the list too; 0 for an empty list."""
    return 1 - len(set(parts)) / len(parts) if parts else 0.0
