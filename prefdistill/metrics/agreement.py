"""How far raters agree beyond chance: agreement, Cohen's kappa, Krippendorff's alpha, and majorities.

Kappa compares two raters on the same items; alpha takes any number of raters who each saw some of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from prefdistill.metrics.intervals import Interval, percentile_interval, resampled_means

RELIABLE = 0.80
"""Alpha from which labels are reliable (Krippendorff 2004, page 241)."""
FLOOR = 0.667
"""Alpha under which nothing should be concluded from them."""
CHANCE = 0.1
"""Alpha or tau under which people agree hardly better than by chance."""


def confusion(one: Sequence[Hashable], other: Sequence[Hashable], classes: Sequence[Hashable]) -> Any:
    """Return the counts of two raters' answers as an array (classes, classes).

    Raises:
        ValueError: they rated different numbers of items, or an answer is none of the classes.
    """
    if len(one) != len(other):
        raise ValueError(f"{len(one)} and {len(other)} ratings; expected one each an item")
    place = {each: number for number, each in enumerate(classes)}
    if unknown := [each for each in (*one, *other) if each not in place]:
        raise ValueError(f"the rating {unknown[0]!r} is none of {', '.join(map(str, classes))}")
    counts = np.zeros((len(place), len(place)))
    for a, b in zip(one, other, strict=True):
        counts[place[a], place[b]] += 1
    return counts


def cohen_kappa(counts: Any) -> float | None:
    """Return Cohen's kappa of a confusion matrix (Cohen 1960); None where chance alone would agree always."""
    found = float(cohen_kappas(counts))
    return None if np.isnan(found) else found


def cohen_kappas(counts: Any) -> Any:
    """Return the kappas of an array of confusion matrices (…, classes, classes); nan where there is none."""
    table = np.asarray(counts, dtype=float)
    total = table.sum(axis=(-2, -1))
    with np.errstate(divide="ignore", invalid="ignore"):
        observed = np.trace(table, axis1=-2, axis2=-1) / total
        expected = (table.sum(axis=-1) * table.sum(axis=-2)).sum(axis=-1) / total**2
        return np.where(expected < 1, (observed - expected) / (1 - expected), np.nan)


def clustered_interval(parts: Mapping[Hashable, Any], statistic: Any, seed: int = 0) -> Interval | None:
    """Return the 95 % bootstrap interval of a statistic of summed counts, whole clusters (prompts) resampled.

    Args:
        parts: per cluster its counts, arrays of one shape.
        statistic: from an array (resamples, *shape) of mean counts to an array of numbers; nan ones are left out.

    Returns:
        None where there are fewer than two clusters, or no resample has the statistic.
    """
    arrays = [np.asarray(part, dtype=float) for _, part in sorted(parts.items(), key=lambda each: str(each[0]))]
    if len(arrays) < 2:
        return None
    shape = arrays[0].shape
    columns = np.stack([each.ravel() for each in arrays]).T
    means = resampled_means(columns.tolist(), seed).reshape(-1, *shape)
    with np.errstate(divide="ignore", invalid="ignore"):
        estimates = np.asarray(statistic(means), dtype=float)
    estimates = estimates[np.isfinite(estimates)]
    return percentile_interval(estimates) if len(estimates) else None


def krippendorff_alpha(
    items: Iterable[Sequence[Hashable]], levels: Sequence[Hashable], scale: Literal["nominal", "ordinal"] = "nominal"
) -> float | None:
    """Return Krippendorff's alpha of items that several raters rated (Krippendorff 2011).

    Args:
        items: the ratings of each item, missing ones left out; items with fewer than two say nothing.
        levels: every possible rating, in order where the scale is ordinal.

    Returns:
        1 where all agree, 0 where they agree as by chance; None where no item has two ratings or all ratings are equal.

    Raises:
        ValueError: a rating is none of the levels.
    """
    table = np.zeros((len(levels), len(levels)))
    for ratings in items:
        table += coincidences(ratings, levels)
    return alpha_of(table, scale)


def coincidences(ratings: Sequence[Hashable], levels: Sequence[Hashable]) -> Any:
    """Return which two ratings meet in one item, as an array (levels, levels) that sums to the number of ratings.

    Raises:
        ValueError: a rating is none of the levels.
    """
    place = {each: number for number, each in enumerate(levels)}
    if unknown := [each for each in ratings if each not in place]:
        raise ValueError(f"the rating {unknown[0]!r} is none of {', '.join(map(str, levels))}")
    counts = np.zeros(len(place))
    for each in ratings:
        counts[place[each]] += 1
    if len(ratings) < 2:
        return np.zeros((len(place), len(place)))
    return (np.outer(counts, counts) - np.diag(counts)) / (len(ratings) - 1)


def alpha_of(table: Any, scale: Literal["nominal", "ordinal"] = "nominal") -> float | None:
    """Return Krippendorff's alpha of summed coincidences; None where they leave nothing to disagree on."""
    totals = table.sum(axis=0)
    apart = _distances(totals, scale)
    expected = ((np.outer(totals, totals) - np.diag(totals)) * apart).sum()
    if totals.sum() < 2 or expected == 0:
        return None
    return float(1 - (totals.sum() - 1) * (table * apart).sum() / expected)


def _distances(totals: Any, scale: Literal["nominal", "ordinal"]) -> Any:
    """Return the squared differences between levels; ordinal ones count the ratings that lie between."""
    size = len(totals)
    if scale == "nominal":
        return 1.0 - np.eye(size)
    upto = np.concatenate([[0.0], np.cumsum(totals)])
    apart = np.zeros((size, size))
    for low in range(size):
        for high in range(low + 1, size):
            between = upto[high + 1] - upto[low] - (totals[low] + totals[high]) / 2
            apart[low, high] = apart[high, low] = between**2
    return apart


def majority(votes: Iterable[int]) -> int | None:
    """Return what most of the votes (1 the first, -1 the second, 0 a tie) say; 0 where the top two are even.

    None where there are no votes.
    """
    top = most_common(votes)
    return None if not top else top[0] if len(top) == 1 else 0


def most_common(votes: Iterable[int]) -> list[int]:
    """Return the answers that have the most votes, sorted; several where they are even."""
    counts = Counter(votes)
    most = max(counts.values(), default=0)
    return sorted(vote for vote, count in counts.items() if count == most)
