"""Which criteria changed: one paired difference a criterion, corrected for how many criteria were looked at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from prefdistill.metrics.crossed import Crossed, crossed_mean
from prefdistill.metrics.intervals import Interval
from prefdistill.metrics.significance import holm


@dataclass(frozen=True)
class CriterionDifference:
    """One criterion's mean score on both sides, over the prompts that both sides have a score of."""

    criterion: str
    ours: float
    theirs: float
    difference: float
    interval: Interval | None
    """95 % of the difference, over prompts and seeds, not corrected; None with one prompt."""
    p: float | None
    """Two-sided p of no difference, by the interval's own t."""
    p_holm: float | None
    """The same, corrected for the number of criteria that have a p (Holm 1979)."""
    prompts: int
    """Prompts on which it applies and is known, on both sides and in every seed."""


def criterion_differences(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> tuple[CriterionDifference, ...]:
    """Return the difference of every criterion that both sides have, in the order of `ours`.

    Args:
        ours: by criterion, scores (seeds, prompts) or (prompts,); nan where it does not apply or is not known.
        theirs: the same prompts and seeds in the same order; one row of prompts stands for every seed.

    Raises:
        ValueError: the two sides of a criterion have different prompts.
    """
    rows = []
    for criterion, scores in ours.items():
        if criterion not in theirs:
            continue
        both = _paired(criterion, scores, theirs[criterion])
        if both is not None:
            rows.append((criterion, *both))
    tested = [found.p for _, _, _, found in rows if found.p is not None]
    corrected = iter(holm(tested))
    return tuple(
        CriterionDifference(
            criterion,
            mine,
            other,
            found.value,
            found.interval,
            found.p,
            None if found.p is None else next(corrected),
            found.prompts,
        )
        for criterion, mine, other, found in rows
    )


def _paired(criterion: str, ours: Any, theirs: Any) -> tuple[float, float, Crossed] | None:
    """Return both means and the difference; None where no prompt is known on both sides in every seed."""
    mine, other = (np.atleast_2d(np.asarray(each, dtype=float)) for each in (ours, theirs))
    if mine.shape != other.shape and (other.shape[0] != 1 or mine.shape[1] != other.shape[1]):
        raise ValueError(f"{criterion}: scores of shape {mine.shape} and {other.shape}; expected the same prompts")
    differences = mine - other
    known = np.isfinite(differences).all(axis=0)
    if not known.any():
        return None
    return float(mine[:, known].mean()), float(other[:, known].mean()), crossed_mean(differences)
