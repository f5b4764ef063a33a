"""Words of a text and what runs of them say: how much differs between texts, and how much one text repeats itself."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice, pairwise
from statistics import fmean, stdev
from typing import NamedTuple

_WORD = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]|\\w+(?:(?:['’]|(?<=\\d)[:.,](?=\\d))\\w+)*"
)
"""A run of letters and digits; one character where a script puts no space between words."""

CHUNK = 500
"""Word pairs a sample of distinct-2: large samples repeat more, so only samples of one size can be compared."""
FROM_EACH = 100
"""Most word pairs that one draft gives to a sample, so that at least five drafts stand in it."""


class Mean(NamedTuple):
    """A mean and its standard error."""

    value: float
    standard_error: float


_SENTENCE_END = re.compile(r"[.!?…]+(?=\s|$)|[;:](?=\s|$)|[。！？\n]")


def words(text: str) -> list[str]:
    """Return the words of a text, case-folded."""
    return _WORD.findall(text.casefold())


def sentences(text: str) -> list[list[str]]:
    """Return the words of each sentence or line."""
    return [found for part in _SENTENCE_END.split(text) if (found := words(part))]


def runs(tokens: Sequence[str], length: int) -> Iterator[tuple[str, ...]]:
    """Yield every run of `length` neighbouring words."""
    return zip(*(islice(tokens, start, None) for start in range(length)), strict=False)


def mean_of(values: Iterable[float]) -> Mean | None:
    """Return the mean and its standard error; None with fewer than two values."""
    found = list(values)
    return Mean(fmean(found), stdev(found) / math.sqrt(len(found))) if len(found) > 1 else None


def distinct_2(texts: Iterable[Sequence[str]]) -> Mean | None:
    """Return the share of different word pairs in samples of 500, as the mean over samples; None with fewer than two.

    Args:
        texts: the words of each draft, neighbours from different prompts.
    """
    shares: list[float] = []
    sample: list[tuple[str, str]] = []
    for tokens in texts:
        sample += islice(pairwise(tokens), FROM_EACH)
        while len(sample) >= CHUNK:
            shares.append(len(set(sample[:CHUNK])) / CHUNK)
            del sample[:CHUNK]
    return mean_of(shares)


def repeated_share(tokens: Sequence[str], length: int = 4) -> float | None:
    """Return the share of runs of words that stand earlier in the same text; None where it is too short for one."""
    total = len(tokens) - length + 1
    return None if total < 1 else 1 - len(set(runs(tokens, length))) / total
