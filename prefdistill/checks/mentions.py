"""The check `mentions`: does the text say what it must, such as the day and the time of the note?"""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, Field

from prefdistill.checks.facts import Fact, Quantity, find_facts, same, with_figures
from prefdistill.checks.lexicon import CONNECTING
from prefdistill.checks.templates import fill_all, require_text
from prefdistill.checks.text import fold, has_phrase, plain
from prefdistill.plugins import Plugin
from prefdistill.records import CheckScore, Prompt

_WHEN = frozenset({"dates", "times", "weekdays", "months"})


class Mentions(Plugin):
    """Scores the share of items that the text mentions; as a gate (`at_least: 1.0`) all of them must be there.

    Forgiving where the meaning is the same: case, quotation marks and spaces; `3 pm`, `3:00 PM` and `15:00`; `5 March`
    and `March 5th`; `1,000` and `1000`; `two` and `2`. Strict where it is not: `10` is not mentioned by `100`. The
    criterion does not apply to a prompt in which a `{field}` is missing.
    """

    all_of: Annotated[tuple[str, ...], AfterValidator(require_text), Field(min_length=1)]
    """What must be mentioned: `{field}` templates or plain words; a field that is a list stands for its entries."""

    def check(self, prompt: Prompt, completion: str) -> CheckScore | None:
        """Look for every item."""
        items = fill_all(self.all_of, prompt)
        if items is None:
            return None
        missing = [item for item in items if not is_mentioned(item, completion)]
        reason = f"does not mention: {', '.join(missing)}" if missing else ""
        return CheckScore(score=1 - len(missing) / len(items), reason=reason)


def is_mentioned(item: str, text: str) -> bool:
    """Tell whether `text` says `item`, in these words or in another notation of its dates, times and numbers."""
    folded = fold(text)
    if has_phrase(folded, fold(item)) or has_phrase(with_figures(folded), with_figures(item)):
        return True
    wanted = find_facts(item, generous=True)
    stated = find_facts(text)
    item = plain(item)
    if len(wanted) == 1 and wanted[0].text.strip(" .") == item.strip(" ."):
        return any(same(wanted[0], fact) for fact in (*stated, *_bare_hours(wanted[0], text)))
    when = [fact for fact in wanted if fact.kind in _WHEN]
    if not when:
        return False
    if not all(any(same(fact, other) for other in stated) for fact in when):
        return False
    rest, end = [], 0
    for fact in when:
        rest.append(item[end : max(end, fact.start)])
        end = max(end, fact.end)
    return all(_is_said(piece, folded) for piece in [*rest, item[end:]])


def _bare_hours(wanted: Fact, text: str) -> tuple[Fact, ...]:
    """Return the numbers that a text spells only in words that the strict reading passes over, such as `one`."""
    if not isinstance(wanted.value, Quantity):
        return ()
    return tuple(fact for fact in find_facts(text, generous=True) if isinstance(fact.value, Quantity))


def _is_said(piece: str, folded: str) -> bool:
    """Tell whether what stands between two dates or times is said too, small words at its ends aside."""
    words = re.sub(r"[,;:()\-]", " ", fold(piece)).split()
    while words and words[0] in CONNECTING:
        words = words[1:]
    while words and words[-1] in CONNECTING:
        words = words[:-1]
    phrase = " ".join(words)
    return not any(map(str.isalnum, phrase)) or has_phrase(re.sub(r"[,;:()\-]\s*", " ", folded), phrase)
