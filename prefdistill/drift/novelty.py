"""What is new in a log, to look at: the prompts farthest from training, and the words that became more frequent."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from prefdistill.drift.figures import LEVEL, excess_p
from prefdistill.drift.measuring import Measurement
from prefdistill.drift.reading import Request
from prefdistill.drift.topics import words_of
from prefdistill.metrics.significance import holm
from prefdistill.stages.report.examples import visible

MOST_EXAMPLES = 8
SHOWN = 240
"""Characters of an example."""
ALIKE = 0.5
"""Share of common words above which two examples show the same."""
MOST_WORDS = 15


@dataclass(frozen=True)
class Example:
    """A prompt of the log that is far from all training prompts."""

    id: str
    distance: float
    batch: str
    text: str
    """On one line, cut, with invisible characters spelled out."""


@dataclass(frozen=True)
class Word:
    """A word that more prompts of the log have than chance explains."""

    word: str
    training: float
    """Share of the training prompts."""
    log: float


def farthest(requests: Sequence[Request], measured: Measurement) -> tuple[Example, ...]:
    """Return the farthest prompts that are unlike anything trained on, no two of them alike."""
    batches = {request.id: batch.name for batch in measured.batches for request in batch.requests}
    far = [each for each in requests if each.text is not None and measured.distances[each.id] >= measured.far]
    found: list[tuple[set[str], Example]] = []
    for each in sorted(far, key=lambda each: (-measured.distances[each.id], each.id)):
        text = " ".join((each.text or "").split())
        words = words_of(text)
        if any(len(words & other) > ALIKE * len(words | other) for other, _ in found):
            continue
        where = batches.get(each.id, "")
        found.append((words, Example(visible(each.id, 60), measured.distances[each.id], where, visible(text, SHOWN))))
        if len(found) == MOST_EXAMPLES:
            break
    return tuple(example for _, example in found)


def grown_words(training: Sequence[Request], requests: Sequence[Request]) -> tuple[Word, ...]:
    """Return the words that became more frequent beyond chance, the largest gain in share first."""
    sides = [[words_of(each.text) for each in side if each.text is not None] for side in (training, requests)]
    if not all(sides):
        return ()
    known, found = (Counter(word for words in side for word in words) for side in sides)
    n, m = map(len, sides)
    more = sorted(word for word in found if found[word] / m > known[word] / n)
    adjusted = holm([excess_p(known[word], n, found[word], m) for word in more])
    certain = [word for word, p in zip(more, adjusted, strict=True) if p < LEVEL]
    certain.sort(key=lambda word: (known[word] / n - found[word] / m, word))
    return tuple(Word(visible(word, 40), known[word] / n, found[word] / m) for word in certain[:MOST_WORDS])
