"""The check `length`: is the text as long as it should be, in words, sentences or characters?"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from prefdistill.checks.letter import read_letter
from prefdistill.checks.ranges import Range, range_score, render_range
from prefdistill.checks.text import plain, sentences, tokens
from prefdistill.plugins import Plugin
from prefdistill.records import CheckScore, Prompt


class Length(Plugin):
    """Scores 1 inside the range, and falls linearly to 0 over the soft edge outside it.

    `{name: length, check: length, unit: words, between: [15, 60], soft: 20}` gives an e-mail of 50 words 1, one of 70
    words 0.5 and one of 80 words 0. Sentences are those of the body: a greeting and a sign-off on lines of their own
    are none.
    """

    unit: Literal["words", "sentences", "characters"] = "words"
    """What is counted. Words are as a word processor counts them; characters include spaces inside the text."""
    between: Range
    """[low, high], both included; `null` leaves an end open: `[null, 60]` is at most 60."""
    soft: float = Field(default=0.0, ge=0.0, allow_inf_nan=False)
    """Width of the soft edge outside the range, in the same unit; 0 makes the range hard."""

    def check(self, prompt: Prompt, completion: str) -> CheckScore | None:
        """Count and compare."""
        count = self._count(completion)
        shown = f"{count} {self.unit if count != 1 else self.unit[:-1]}, wanted {render_range(self.between)}"
        return CheckScore(score=range_score(count, self.between, self.soft), reason=shown)

    def _count(self, completion: str) -> int:
        if self.unit == "words":
            return len(tokens(completion))
        if self.unit == "sentences":
            return len(sentences(read_letter(completion).body))
        return len(plain(completion).strip())
