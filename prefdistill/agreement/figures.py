"""A number with its interval and what it stands on; the ways in which the meter makes one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np

from prefdistill.metrics.agreement import (
    alpha_of,
    clustered_interval,
    cohen_kappa,
    cohen_kappas,
    coincidences,
    confusion,
)
from prefdistill.metrics.intervals import Interval, wilson_interval
from prefdistill.metrics.orders import Orders

ANSWERS = (1, 0, -1)
"""What can be said about two drafts: the first is better, neither, the second."""


@dataclass(frozen=True)
class Figure:
    """One number with what it was made from."""

    value: float | None
    """None where there was nothing to make it from."""
    n: int = 0
    """How many items it stands on."""
    interval: Interval | None = None
    """95 %."""


def share(rows: Iterable[tuple[str, float]]) -> Figure:
    """Return a mean of values 0..1 with its interval: Wilson's for yes and no on one row a prompt, else bootstrap.

    Rows are (prompt id, value); rows of one prompt are resampled together.
    """
    values: dict[str, list[float]] = defaultdict(list)
    for prompt_id, value in rows:
        values[prompt_id].append(value)
    every = [value for each in values.values() for value in each]
    if not every:
        return Figure(None)
    value = fmean(every)
    if len(values) == len(every) and set(every) <= {0.0, 1.0}:
        return Figure(value, len(every), wilson_interval(sum(every), len(every)))
    if value in (0.0, 1.0):  # nothing to resample; count prompts, not rows, as what was seen
        return Figure(value, len(every), wilson_interval(value * len(values), len(values)))
    parts: dict[Hashable, Any] = {prompt_id: [sum(each), len(each)] for prompt_id, each in values.items()}
    interval = clustered_interval(parts, _ratios)
    return Figure(value, len(every), interval)


def rate(part: int, whole: int) -> Figure:
    """Return a share of counts that stand for themselves."""
    return Figure(part / whole, whole, wilson_interval(part, whole)) if whole else Figure(None)


def kappa(
    rows: Sequence[tuple[str, Hashable, Hashable]], classes: Sequence[Hashable], mirrored: bool = False
) -> Figure:
    """Return Cohen's kappa of rows (prompt id, one answer, the other), prompts resampled for its interval.

    With `mirrored` the classes are answers about two drafts, and each row counts from both sides: which draft a file
    calls the first must not change what chance would give.
    """
    if not rows:
        return Figure(None)
    answers: dict[Hashable, tuple[list[Hashable], list[Hashable]]] = defaultdict(lambda: ([], []))
    for prompt_id, one, other in rows:
        answers[prompt_id][0].append(one)
        answers[prompt_id][1].append(other)
    parts = {key: confusion(one, other, classes) for key, (one, other) in answers.items()}
    if mirrored:
        parts = {key: _from_both_sides(each) for key, each in parts.items()}
    return Figure(cohen_kappa(sum(parts.values())), len(rows), clustered_interval(parts, cohen_kappas))


def _from_both_sides(table: Any) -> Any:
    return (table + table[::-1, ::-1]) / 2


def mean(rows: Sequence[tuple[str, float]]) -> Figure:
    """Return a mean of any numbers with its interval, prompts resampled."""
    if not rows:
        return Figure(None)
    parts: dict[Hashable, Any] = defaultdict(lambda: np.zeros(2))
    for prompt_id, value in rows:
        parts[prompt_id] += (value, 1)
    interval = clustered_interval(parts, _ratios)
    return Figure(fmean(value for _, value in rows), len(rows), interval)


def alpha(ratings: Mapping[tuple[str, tuple[str, str]], Sequence[int]]) -> Figure:
    """Return Krippendorff's alpha (nominal) of votes on pairs, prompts resampled for its interval.

    Each vote counts from both sides (see `kappa`).
    """
    parts: dict[Hashable, Any] = defaultdict(lambda: np.zeros((len(ANSWERS), len(ANSWERS))))
    rated = 0
    for (prompt_id, _), votes in ratings.items():
        if len(votes) > 1:
            rated += 1
            parts[prompt_id] += _from_both_sides(coincidences(votes, ANSWERS))
    if not rated:
        return Figure(None)

    def statistic(means: Any) -> Any:
        table = means * len(parts)
        totals = table.sum(axis=-1)
        whole = totals.sum(axis=-1)
        apart = whole - np.trace(table, axis1=-2, axis2=-1)
        return 1 - (whole - 1) * apart / (whole**2 - (totals**2).sum(axis=-1))

    return Figure(alpha_of(sum(parts.values())), rated, clustered_interval(parts, statistic))


def kendall_tau(one: Mapping[str, float], other: Mapping[str, float]) -> float | None:
    """Return Kendall's tau-b of two rankings of the same drafts; None where one of them ties everything."""
    from scipy.stats import kendalltau

    ids = sorted(one)
    tau = float(kendalltau([one[each] for each in ids], [other[each] for each in ids]).statistic)
    return None if tau != tau else tau


def consistency(orders: Sequence[tuple[str, Orders]]) -> Figure:
    """Return the share of pairs known in both orders whose winner is the same, prompts resampled for its interval."""
    same, known = (sum(each) for each in zip(*((found.same, found.known) for _, found in orders), strict=True))
    if not known:
        return Figure(None)
    if all(found.known <= 1 for _, found in orders):
        return Figure(same / known, known, wilson_interval(same, known))
    parts: dict[Hashable, Any] = defaultdict(lambda: np.zeros(2))
    for prompt_id, found in orders:
        parts[prompt_id] += (found.same, found.known)
    return Figure(same / known, known, clustered_interval(parts, _ratios))


def _ratios(means: Any) -> Any:
    return means[:, 0] / means[:, 1]
