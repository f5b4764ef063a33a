"""Intervals: Wilson's for a proportion, the percentile bootstrap for everything else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

Interval = tuple[float, float]
"""Low and high end."""

RESAMPLES = 2_000
LEVEL = 0.95
_INDICES_AT_ONCE = 4_000_000


def wilson_interval(successes: float, trials: int, level: float = LEVEL) -> Interval:
    """Return Wilson's score interval of a proportion (Wilson 1927), inside 0..1.

    Raises:
        ValueError: there are no trials, or more successes than trials.
    """
    if trials < 1 or not 0 <= successes <= trials:
        raise ValueError(f"{successes} successes in {trials} trials; expected 0 <= successes <= trials and trials >= 1")
    from statsmodels.stats.proportion import proportion_confint

    low, high = proportion_confint(successes, trials, alpha=1 - level, method="wilson")
    return max(0.0, float(low)), min(1.0, float(high))


def resampled_means(columns: Sequence[Sequence[float]], seed: int, resamples: int = RESAMPLES) -> Any:
    """Return the column means of `resamples` bootstrap samples of the rows, as an array (resamples, columns).

    Rows are prompts and columns are arms, so that all arms are resampled together.

    Raises:
        ValueError: there are no rows, or columns of different lengths.
    """
    if not columns or len({len(column) for column in columns}) != 1 or not len(columns[0]):
        lengths = ", ".join(str(len(column)) for column in columns)
        raise ValueError(f"columns of {lengths or 'no'} rows; expected equal lengths and at least one row")
    rows = np.asarray(columns, dtype=float).T
    generator = np.random.default_rng(seed)
    size = len(rows)
    block = max(1, _INDICES_AT_ONCE // size)
    parts = [
        rows[generator.integers(0, size, (min(block, resamples - start), size))].mean(axis=1)
        for start in range(0, resamples, block)
    ]
    return np.concatenate(parts)


def percentile_interval(estimates: Any, level: float = LEVEL) -> Interval:
    """Return the central `level` of bootstrap estimates."""
    low, high = np.quantile(estimates, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def bootstrap_interval(values: Sequence[float], seed: int, resamples: int = RESAMPLES) -> Interval:
    """Return the percentile bootstrap interval of the mean of one value a prompt."""
    return percentile_interval(resampled_means([values], seed, resamples)[:, 0])
