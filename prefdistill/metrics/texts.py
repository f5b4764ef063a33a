"""Numbers read off the drafts' words: length and diversity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True)
class Distinct:
    """How much drafts differ from each other; compare only samples of the same size."""

    distinct_2: float | None
    """Different word pairs over all word pairs; None where no draft has two words."""
    distinct_drafts: float
    """Different drafts of the same prompt over all drafts."""


def count_words(text: str) -> int:
    """Return the number of words, split at white space."""
    return len(text.split())


def length_ratio(texts: Sequence[str], baseline_texts: Sequence[str]) -> float | None:
    """Return mean words of `texts` over mean words of `baseline_texts`; None where either is missing or has no word."""
    words = sum(map(count_words, texts))
    baseline_words = sum(map(count_words, baseline_texts))
    if not texts or not baseline_words:
        return None
    return (words / len(texts)) / (baseline_words / len(baseline_texts))


def distinct(groups: Sequence[Sequence[str]]) -> Distinct:
    """Return the diversity of drafts given as one group a prompt; surrounding white space and case do not count.

    Raises:
        ValueError: there is no draft.
    """
    drafts = [[" ".join(text.lower().split()) for text in group] for group in groups]
    total = sum(map(len, drafts))
    if total == 0:
        raise ValueError("no draft; diversity needs at least one")
    pairs = [pair for group in drafts for text in group for pair in pairwise(text.split())]
    return Distinct(
        distinct_2=len(set(pairs)) / len(pairs) if pairs else None,
        distinct_drafts=sum(len(set(group)) for group in drafts) / total,
    )
