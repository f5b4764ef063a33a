"""Groups of prompts by their n-grams: what share of training and of the log is in each.

The groups are made of both sides together, without knowing which prompt is whose: so a new topic has a group of its
own, and a random division of the prompts is a fair comparison, which groups made for the training prompts alone would
not be (they fit those better).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from prefdistill.drift.features import Feature, Shares
from prefdistill.scope import grams

MOST = 3_000
"""Prompts of each side that make the groups, drawn with a seed; all are counted where there are no more."""
BITS = 14
"""N-grams are folded into 2**14 columns here."""
DIMENSIONS = 24
PER_GROUP = 40
"""Training prompts, and prompts of the log, that there must be for each group."""
MOST_GROUPS = 10
_WORD = re.compile(r"[^\W\d_]{2,}")


def topic_features(training: Sequence[str], log: Sequence[str], seed: int = 0) -> Iterator[Feature]:
    """Yield how many prompts of each side are in each group; nothing where there are too few for two groups."""
    from sklearn.cluster import MiniBatchKMeans
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfTransformer
    from sklearn.preprocessing import normalize

    rng = np.random.default_rng(seed)
    sides = [_drawn(texts, rng) for texts in (training, log)]
    texts = [*sides[0], *sides[1]]
    groups = min(MOST_GROUPS, min(map(len, sides)) // PER_GROUP)
    if groups < 2:
        return
    weighted = TfidfTransformer(sublinear_tf=True).fit_transform(_matrix(texts))
    reduced = TruncatedSVD(min(DIMENSIONS, len(texts) - 1), random_state=seed).fit_transform(weighted)
    labels = MiniBatchKMeans(groups, random_state=seed, n_init=3, batch_size=1024).fit_predict(normalize(reduced))
    named = _names(texts, labels, groups)
    first = len(sides[0])
    counts = [np.bincount(part, minlength=groups) for part in (labels[:first], labels[first:])]
    order = np.argsort(-(counts[1] / counts[1].sum() - counts[0] / counts[0].sum()))
    yield Shares(
        "topics (n-gram clusters)",
        tuple(named[group] for group in order),
        tuple(int(counts[0][group]) for group in order),
        tuple(int(counts[1][group]) for group in order),
    )


def _drawn(texts: Sequence[str], rng: np.random.Generator) -> list[str]:
    if len(texts) <= MOST:
        return list(texts)
    return [texts[index] for index in np.sort(rng.choice(len(texts), MOST, replace=False))]


def _matrix(texts: Sequence[str]) -> Any:
    """Return the counts of n-grams as a sparse matrix, shape [texts, 2**BITS]."""
    from scipy.sparse import csr_matrix

    rows = [np.unique(grams(text) & (2**BITS - 1), return_counts=True) for text in texts]
    ends = np.cumsum([0, *(len(columns) for columns, _ in rows)])
    columns = np.concatenate([columns for columns, _ in rows])
    counts = np.concatenate([counts for _, counts in rows]).astype(np.float64)
    return csr_matrix((counts, columns, ends), shape=(len(texts), 2**BITS))


def words_of(text: str) -> set[str]:
    """Return the distinct words of a text, in lower case; numbers are none."""
    return set(_WORD.findall(text[:10_000].lower()))


def _names(texts: Sequence[str], labels: Sequence[int], groups: int) -> list[str]:
    """Name each group by the words that it has more often than the others do."""
    inside = [Counter[str]() for _ in range(groups)]
    sizes = Counter(int(label) for label in labels)
    for text, label in zip(texts, labels, strict=True):
        inside[int(label)].update(words_of(text))
    every = sum(inside, Counter[str]())
    found = []
    for group, counts in enumerate(inside):
        size, rest = sizes[group], len(texts) - sizes[group]

        def lead(word: str, counts: Counter[str] = counts, size: int = size, rest: int = rest) -> float:
            return counts[word] / max(1, size) - (every[word] - counts[word]) / max(1, rest)

        best = sorted(counts, key=lambda word: (-lead(word), word))[:4]
        found.append(", ".join(best) or f"group {group + 1}")
    return found
