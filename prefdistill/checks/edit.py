"""The check `edit`: was as much of a text changed as should be, and was what must stay kept?"""

from __future__ import annotations

import re
from typing import Annotated, Self

from pydantic import AfterValidator, Field, model_validator

from prefdistill.checks.facts import find_facts, same
from prefdistill.checks.ranges import ShareRange, range_score, render_range
from prefdistill.checks.templates import fill_all, require_text
from prefdistill.checks.text import fold, has_phrase, plain, tokens
from prefdistill.plugins import Plugin
from prefdistill.records import CheckScore, Prompt

_QUOTED = re.compile(r'"([^"\n]{2,500})"')
_SHOWN = 5


class Edit(Plugin):
    """Scores how far the changed share lies in its range, times the share of protected spans that were kept.

    The changed share is the smallest number of words to insert, delete or replace, divided by the length of the longer
    text; a changed comma or capital changes its word. An unchanged text scores 0 where the range asks for a change.
    Where the source is a column of the prompts, say so: `{check: edit, source: "{source}", changed: [0.05, 0.4]}`;
    otherwise the whole last user message counts as the source.
    """

    changed: ShareRange | None = None
    """Share of words changed, [low, high] from 0 to 1; not looked at unless given."""
    soft: float = Field(default=0.0, ge=0.0, le=1.0)
    """Width of the soft edge outside `changed`, as a share."""
    source: str | None = None
    """The text before the edit, as a `{field}` template; the last user message unless given."""
    keep: Annotated[tuple[str, ...], AfterValidator(require_text)] = ()
    """Spans that must stay, literal or as `{field}`; only those that the source has are asked for."""
    keep_numbers: bool = False
    """Whether the source's figures, amounts, dates and times must stay (in any notation)."""
    keep_quotes: bool = False
    """Whether text in double quotation marks must stay word for word."""

    @model_validator(mode="after")
    def _asks_something(self) -> Self:
        if self.changed is None and not (self.keep or self.keep_numbers or self.keep_quotes):
            raise ValueError("nothing is asked for; give `changed`, `keep`, `keep_numbers` or `keep_quotes`")
        return self

    def check(self, prompt: Prompt, completion: str) -> CheckScore | None:
        """Compare the text with its source."""
        sources = [prompt.text] if self.source is None else fill_all([self.source], prompt)
        spans = fill_all(self.keep, prompt)
        if sources is None or spans is None:
            return None
        source = "\n\n".join(sources)
        reasons = []
        score = 1.0
        if self.changed is not None:
            share = changed_share(source, completion)
            score = range_score(share, self.changed, self.soft)
            if not completion.strip() or (share == 0 and (self.changed[0] or 0) > 0):
                score = 0.0
            reasons.append(
                f"{100 * share:.3g} % of the words changed, wanted {render_range(self.changed, percent=True)}"
            )
        kept, lost = self._kept(source, spans, completion)
        if lost:
            shown = ", ".join(lost[:_SHOWN]) + (f" and {len(lost) - _SHOWN} more" if len(lost) > _SHOWN else "")
            reasons.append(f"not kept: {shown}")
            score *= kept / (kept + len(lost))
        return CheckScore(score=score, reason="; ".join(reasons))

    def _kept(self, source: str, spans: list[str], completion: str) -> tuple[int, list[str]]:
        """Return how many protected spans were kept, and those that were not."""
        before, after = fold(source), fold(completion)
        wanted = {fold(span): span for span in spans if has_phrase(before, fold(span))}
        if self.keep_quotes:
            wanted |= {fold(quote): f'"{quote}"' for quote in _QUOTED.findall(plain(source)) if fold(quote)}
        lost = [shown for span, shown in wanted.items() if not _has_quote(after, span)]
        kept = len(wanted) - len(lost)
        if self.keep_numbers:
            kinds = ("numbers", "amounts", "dates", "times")
            stated = find_facts(completion, generous=True)
            facts = {fact.value: fact for fact in find_facts(source) if fact.kind in kinds}
            for fact in facts.values():
                if any(same(fact, other) or same(other, fact) for other in stated):
                    kept += 1
                else:
                    lost.append(fact.text)
        return kept, lost


def _has_quote(text: str, span: str) -> bool:
    """Tell whether a span is kept; the comma or full stop at its end may have moved."""
    return has_phrase(text, span) or has_phrase(text, span.rstrip(" .,;:"))


def changed_share(before: str, after: str) -> float:
    """Return the word edits between two texts divided by the words of the longer one, 0 to 1."""
    from rapidfuzz.distance import Levenshtein

    first, second = tokens(before), tokens(after)
    if not first and not second:
        return 0.0 if fold(before) == fold(after) else 1.0
    return float(Levenshtein.normalized_distance(first, second))
