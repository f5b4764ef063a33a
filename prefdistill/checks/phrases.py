"""The check `phrases`: are phrases there that must not be, or none of those that should?"""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import AfterValidator, model_validator

from prefdistill.checks.templates import fill_all, require_text
from prefdistill.checks.text import fold, has_phrase
from prefdistill.plugins import Plugin
from prefdistill.records import CheckScore, Prompt

Phrase = Annotated[tuple[str, ...], AfterValidator(require_text)]


class Phrases(Plugin):
    """Scores 0 where a phrase of `none_of` is found, and where none of `any_of` is; else 1.

    Whole phrases only, whatever their case, line breaks, spaces and kind of apostrophe: `don't worry` finds
    "Don’t  worry", `sure` does not find "measure". `{field}` in a phrase is filled from the prompt; where that field
    is missing the criterion does not apply.
    """

    none_of: Phrase = ()
    """Phrases that must not occur, such as "hope this email finds you"."""
    any_of: Phrase = ()
    """Phrases of which at least one must occur."""
    graded: bool = False
    """Whether `none_of` takes off only the share of its phrases that are found, instead of everything at the first."""

    @model_validator(mode="after")
    def _asks_something(self) -> Self:
        if not self.none_of and not self.any_of:
            raise ValueError("neither `none_of` nor `any_of` is given; list the phrases to look for")
        return self

    def check(self, prompt: Prompt, completion: str) -> CheckScore | None:
        """Search for the phrases."""
        none_of, any_of = fill_all(self.none_of, prompt), fill_all(self.any_of, prompt)
        if none_of is None or any_of is None:
            return None
        text = fold(completion)
        found = [phrase for phrase in none_of if has_phrase(text, fold(phrase))]
        is_any = not any_of or any(has_phrase(text, fold(phrase)) for phrase in any_of)
        reasons = []
        if found:
            reasons.append(f"found: {', '.join(found)}")
        if not is_any:
            reasons.append(f"found none of: {', '.join(any_of)}")
        clean = 1.0 if not found else 1 - len(found) / len(none_of) if self.graded else 0.0
        return CheckScore(score=clean if is_any else 0.0, reason="; ".join(reasons))
