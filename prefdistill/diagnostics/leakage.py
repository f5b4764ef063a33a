"""Leakage: validation and test prompts whose text the student has been trained on.

The usual test, a common run of 13 words, cries wolf on data made from templates and misses short prompts. Here a common
run must be telling: few prompts have it, and it is either most of a prompt or made of words that are rare together.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

from prefdistill.diagnostics.findings import Levels, Rule, Values
from prefdistill.diagnostics.texts import words
from prefdistill.records import Finding, Prompt

if TYPE_CHECKING:
    import numpy as np

FEWEST_QUOTES = 3
"""Held-out prompts that must quote train prompts before any quote counts; one or two may be chance. Copies always do."""
LONG = 13
"""Words of a run that two prompts have in common only if one of them, or a third text, is the source of both."""
SHORT = 3
"""Words of the pieces by which a run is recognised as a template with other words in its gaps."""
FEW = 3
"""Prompts, all splits together, that may have a rare piece, and a telling run where there are few prompts."""
MOST = 0.9
"""Share of a prompt's words that a common run covers where the prompt is a copy."""
SOME = 0.25
"""Share of a prompt's words that a common run of rare pieces covers where both quote the same text."""
RARE = 0.4
"""Share of a run's pieces that few prompts have where it is no template."""


@dataclass(frozen=True)
class Leaked:
    """Held-out prompts that a train prompt gives away."""

    held: int
    """Validation and test prompts looked at."""
    examples: tuple[tuple[str, str], ...] = ()
    """Ids of each leaked prompt and of a train prompt that holds it, the longest common text first."""

    @property
    def share(self) -> float:
        """Share of the held-out prompts that leaked; 0 where there are none."""
        return len(self.examples) / self.held if self.held else 0.0


def leaked(train: Sequence[Prompt], held: Sequence[Prompt]) -> Leaked:
    """Find held-out prompts that share telling text with a train prompt, by the words of their user messages.

    Case, punctuation and white space do not count. A prompt of fewer than 13 words must be in a train prompt whole.
    """
    everyone = [*train, *held]
    if not train or not held:
        return Leaked(len(held))
    texts = [_user_words(prompt) for prompt in everyone]
    found = _short_copies(texts, len(train))
    quotes: dict[int, tuple[int, int]] = {}
    for row, other, covered, copied in _common_runs(texts, len(train)):
        into = found if copied else quotes
        if covered > into.get(row, (0, 0))[0]:
            into[row] = (covered, other)
    if len(quotes) >= FEWEST_QUOTES:
        found = {**quotes, **found}
    order = sorted(found.items(), key=lambda each: (-each[1][0], everyone[each[0]].id))
    return Leaked(len(held), tuple((everyone[row].id, everyone[other].id) for row, (_, other) in order))


def _user_words(prompt: Prompt) -> list[list[str]]:
    """Return the words of each user message."""
    return [words(message.content) for message in prompt.messages if message.role == "user"]


def _short_copies(texts: Sequence[Sequence[Sequence[str]]], train: int) -> dict[int, tuple[int, int]]:
    """Return the held-out rows that are too short for a run and equal a train prompt: row to (words, train row)."""
    rows: dict[tuple[str, ...], list[int]] = {}
    for row, messages in enumerate(texts):
        if 0 < sum(map(len, messages)) < LONG:
            rows.setdefault(tuple(chain.from_iterable(messages)), []).append(row)
    found: dict[int, tuple[int, int]] = {}
    for whole, same in rows.items():
        if same[0] < train and len(same) <= _few(len(texts)):
            found |= {row: (len(whole), same[0]) for row in same if row >= train}
    return found


def _few(prompts: int) -> int:
    """Return how many prompts may have a run that still tells: one in a hundred, at least 3 and at most 10."""
    return min(10, max(FEW, prompts // 100))


def _common_runs(texts: Sequence[Sequence[Sequence[str]]], train: int) -> Iterator[tuple[int, int, int, bool]]:
    """Yield (held-out row, train row, words in common, whether it is a copy) where the common text tells."""
    import numpy as np

    flat = _Flat.of(texts)
    starts, marks = flat.runs(LONG)
    rows = flat.rows[starts]
    in_train = rows < train
    shared = np.unique(marks[in_train][_within(marks[in_train], np.sort(marks[~in_train]))])
    kept = _within(marks, shared)
    starts, marks, rows = starts[kept], marks[kept], rows[kept]
    telling = _prompts_with(marks, rows, shared) <= _few(len(texts))
    owners: dict[int, list[int]] = {}
    for mark, row in sorted(set(zip(marks[telling].tolist(), rows[telling].tolist(), strict=True))):
        if row < train:
            owners.setdefault(mark, []).append(row)
    common: dict[tuple[int, int], list[int]] = {}
    for start, mark, row in zip(starts[telling].tolist(), marks[telling].tolist(), rows[telling].tolist(), strict=True):
        for other in owners[mark] if row >= train else ():
            common.setdefault((row, other), []).append(start)
    rare = flat.rare(sorted({start for found in common.values() for start in found}))
    for (row, other), found in common.items():
        mine, theirs = (slice(*np.searchsorted(rows, [each, each + 1])) for each in (row, other))
        both = starts[mine][np.isin(marks[mine], marks[theirs])].tolist()  # boilerplate too: a copy has all of it
        shorter = min(flat.lengths[row], flat.lengths[other])
        covered, telling_words = _places(both), _places(found)
        pieces = [rare[place] for place in telling_words if place in rare]
        quoted = len(telling_words) >= SOME * shorter and sum(pieces) >= RARE * len(pieces)
        copied = len(covered) >= MOST * shorter
        if quoted or copied:
            yield row, other, len(covered), copied


def _places(starts: Sequence[int]) -> set[int]:
    """Return the words that the runs beginning at `starts` cover."""
    return {place for start in starts for place in range(start, start + LONG)}


@dataclass(frozen=True)
class _Flat:
    """All words of all prompts in one row, as numbers."""

    codes: np.ndarray[Any, np.dtype[np.uint64]]
    """A hash of each word."""
    rows: np.ndarray[Any, np.dtype[np.int64]]
    """Which prompt each word is in."""
    messages: np.ndarray[Any, np.dtype[np.int64]]
    """Which message each word is in; runs do not go beyond one."""
    lengths: list[int]
    """Words of each prompt."""

    @classmethod
    def of(cls, texts: Sequence[Sequence[Sequence[str]]]) -> _Flat:
        """Put the words of all messages in one row."""
        import numpy as np

        every_word = chain.from_iterable(message for text in texts for message in text)
        lengths = [sum(map(len, text)) for text in texts]
        sizes = [len(message) for text in texts for message in text]
        return cls(
            np.fromiter(map(hash, every_word), dtype=np.int64, count=sum(lengths)).view(np.uint64),
            np.repeat(np.arange(len(texts)), lengths),
            np.repeat(np.arange(len(sizes)), sizes),
            lengths,
        )

    def runs(self, length: int) -> tuple[Any, Any]:
        """Return where each run of `length` words starts, and its hash of 64 bits."""
        import numpy as np

        count = len(self.codes) - length + 1
        if count < 1:
            return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.uint64)
        marks = np.zeros(count, dtype=np.uint64)
        for place in range(length):
            marks = marks * np.uint64(0x9E3779B97F4A7C15) + self.codes[place : place + count]
        starts = np.flatnonzero(self.messages[:count] == self.messages[length - 1 :])
        return starts, marks[starts]

    def rare(self, starts: Sequence[int]) -> dict[int, bool]:
        """Return, for each piece within the runs that begin at `starts`, whether few prompts have it."""
        import numpy as np

        if not starts:
            return {}
        places, marks = self.runs(SHORT)
        inside = np.unique(np.add.outer(np.array(starts, dtype=np.int64), np.arange(LONG - SHORT + 1)).ravel())
        wanted = marks[np.searchsorted(places, inside)]
        known = np.unique(wanted)
        kept = _within(marks, known)
        of_known = np.unique(np.stack([marks[kept], self.rows[places[kept]].astype(np.uint64)], axis=1), axis=0)
        counts = np.bincount(np.searchsorted(known, of_known[:, 0]), minlength=len(known))
        return dict(zip(inside.tolist(), (counts[np.searchsorted(known, wanted)] <= FEW).tolist(), strict=True))


def _within(marks: Any, sorted_marks: Any) -> Any:
    """Return which of `marks` are among `sorted_marks`."""
    import numpy as np

    if not len(sorted_marks):
        return np.zeros(len(marks), dtype=bool)
    places = np.minimum(np.searchsorted(sorted_marks, marks), len(sorted_marks) - 1)
    return sorted_marks[places] == marks


def _prompts_with(marks: Any, rows: Any, known: Any) -> Any:
    """Return in how many prompts each of `marks` stands; all of them are among the sorted `known`."""
    import numpy as np

    pairs = np.unique(np.stack([np.searchsorted(known, marks), rows], axis=1), axis=0)
    return np.bincount(pairs[:, 0], minlength=len(known))[np.searchsorted(known, marks)] if len(marks) else marks


def leakage(seen: Sequence[Values], levels: Levels) -> Iterator[Finding]:
    """Say, where it was measured (on the base, before the first round), that held-out prompts are in the train split."""
    share = seen[-1].get("leaked_share")
    if share is None:
        return
    yield from levels.finding(
        "leakage",
        share,
        f"{share:.1%} of the validation and test prompts share a long stretch of text with a train prompt: their scores "
        "are too good to be true, and say little about new prompts; split by source (`prompts.split_by`: the column of "
        "the thread, document or template), or remove the copies",
    )


RULES: tuple[Rule, ...] = (leakage,)
