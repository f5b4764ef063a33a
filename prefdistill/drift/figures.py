"""The statistics of drift: how far two samples are apart, and whether chance at their sizes explains it.

The population stability index (PSI) of two samples is sum (q - p) ln(q / p) over cells. Of two samples from one
distribution it is not 0 but about (cells - 1)(1/n + 1/m), which passes 0.2 easily where one is small; hence the test.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from prefdistill.records import seed_of

Counts = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

LEVEL = 0.01
"""At most this share of logs of the training distribution raises an alarm, over all tests of one log together."""
WARN_PSI = 0.2
MATERIAL = 0.02
"""A share must have changed by this much, 2 points, to matter."""
POWER = 0.8
FEWEST = 5
"""Cells with fewer prompts on both sides together are counted as one."""
_SCREEN = 0.05
_DRAWS = (2_000, 50_000)
_MOST_PERMUTED, _PERMUTATIONS = 2_000, 20_000


@dataclass(frozen=True)
class Measured:
    """How far the cells of a log are from those of the training prompts."""

    psi: float
    expected: float
    """The PSI that chance gives on average at these sizes."""
    p: float
    """How often chance gives as much."""


def psi(training: Counts, log: Counts) -> Floats:
    """Return the population stability index of counts by cell, half a prompt added to each cell.

    Args:
        training: shape [cells] or [draws, cells].
        log: the same shape.
    """
    cells = training.shape[-1]
    p = (training + 0.5) / (training.sum(-1, keepdims=True) + 0.5 * cells)
    q = (log + 0.5) / (log.sum(-1, keepdims=True) + 0.5 * cells)
    return np.asarray(((q - p) * np.log(q / p)).sum(-1))


def measure_shift(training: Sequence[int], log: Sequence[int], name: str) -> Measured | None:
    """Test whether the cells of both samples have the same shares; None where there is only one cell.

    The chi-square test screens; what it finds unlikely is counted again by permuting which prompt is whose.
    """
    both = merge_rare(np.array([training, log], dtype=np.int64))
    if both.shape[1] < 2 or not both.sum(1).all():
        return None
    found = float(psi(both[0], both[1]))
    n, m = both.sum(1)
    p = float(stats.chi2_contingency(both, correction=False).pvalue)
    if p < _SCREEN:
        p = _permuted(both, found, np.random.default_rng(seed_of("drift", name)))
    return Measured(found, (both.shape[1] - 1) * (1 / n + 1 / m), p)


def merge_rare(both: Counts) -> Counts:
    """Return counts, shape [2, cells], with the rare cells as one last cell, and without empty ones."""
    total = both.sum(0)
    rare = total < FEWEST
    if not rare.any():
        return both
    rest = both[:, rare].sum(1, keepdims=True)
    return np.concatenate([both[:, ~rare], rest], axis=1) if rest.sum() else both[:, ~rare]


def _permuted(both: Counts, found: float, rng: np.random.Generator) -> float:
    """Return how often a random division of all prompts gives a PSI as large; exact in the number of draws."""
    pooled, m = both.sum(0), int(both[1].sum())
    reached = drawn = 0
    for draws in _DRAWS:
        log = rng.multivariate_hypergeometric(pooled, m, size=draws, method="marginals")
        reached += int((psi(pooled - log, log) >= found - 1e-12).sum())
        drawn += draws
        if reached > 20:
            break
    return (reached + 1) / (drawn + 1)


def excess_p(training: int, of_training: int, log: int, of_log: int) -> float:
    """Return how likely a log has so many prompts of a kind by chance (Fisher's exact test, one-sided)."""
    if not log or not of_log or not of_training:
        return 1.0
    return float(stats.hypergeom.sf(log - 1, of_training + of_log, training + log, of_log))


def sees_psi(n: int, m: int, cells: int, tests: int) -> bool:
    """Whether samples of these sizes show a PSI of 0.2 four times in five, at the level that is left for one test."""
    return _power(n, m, cells, tests) >= POWER


def prompts_needed(n: int, cells: int, tests: int) -> int | None:
    """Return about how many distinct prompts a log needs to show a PSI of 0.2; None where n training prompts never do.

    n m / (n + m) times the PSI is about chi-square with cells - 1 degrees of freedom, non-central where there is drift.
    """
    if _power(n, 10**9, cells, tests) < POWER:
        return None
    low, high = 1, 10**9
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if sees_psi(n, middle, cells, tests) else (middle + 1, high)
    digits = max(1, 10 ** (len(str(low)) - 2))
    return math.ceil(low / digits) * digits


def _power(n: int, m: int, cells: int, tests: int) -> float:
    freedom = max(1, cells - 1)
    limit = stats.chi2.isf(LEVEL / max(1, tests), freedom)
    return float(stats.ncx2.sf(limit, freedom, WARN_PSI * n * m / (n + m)))


TAIL = float(stats.norm.sf(3))
"""Probability beyond one of the 3-sigma limits, 0.00135."""


def share_limits(center: float, size: int) -> tuple[float, float]:
    """Return the exact binomial limits of a p-chart: shares of `size` beyond which 3 sigma's tail lies on each side."""
    if not size:
        return 0.0, 1.0
    low, high = stats.binom.ppf([TAIL, 1 - TAIL], size, center)
    return float(low) / size, float(high) / size


def share_p(hits: int, size: int, center: float, of: int | None) -> float:
    """Return the two-sided p-value of a share against `center`, itself counted on `of` cases (None: known)."""
    if of is None:
        return float(stats.binomtest(hits, size, center).pvalue) if size else 1.0
    return shares_p(hits, size, round(center * of), of)


def shares_p(hits: int, size: int, others: int, of: int) -> float:
    """Return the two-sided p-value of two counted shares (Fisher's exact test)."""
    return float(stats.fisher_exact([[hits, size - hits], [others, of - others]]).pvalue)


def lower_rank_p(values: Sequence[float], rest: Sequence[float]) -> float:
    """Return how likely chance puts `values` so far below others of the same log (Mann–Whitney's test, one-sided)."""
    if not len(values) or not len(rest):
        return 1.0
    return float(stats.mannwhitneyu(values, rest, alternative="less").pvalue)


def lower_mean_p(values: Sequence[float], before: Sequence[float]) -> float:
    """Return how likely chance puts the mean of `values` so far below that of `before`.

    Counted by permutation; of more than 2,000 scores together by Welch's test, which is as exact there.
    """
    if len(values) + len(before) > _MOST_PERMUTED:
        return float(stats.ttest_ind(values, before, equal_var=False, alternative="less").pvalue)
    both = np.concatenate([values, before])
    rng = np.random.default_rng(seed_of("drift", "scores"))
    sums = np.array([rng.permutation(both)[: len(values)].sum() for _ in range(_PERMUTATIONS)])
    return float(((sums <= np.sum(values) + 1e-9).sum() + 1) / (_PERMUTATIONS + 1))


def worst_of(overall: float, batches: Sequence[float], splits: Sequence[float]) -> float:
    """Return one p-value for a chart, a third of the level for each of three questions.

    Args:
        overall: of the whole log against what was expected.
        batches: of each batch against all others.
        splits: of what comes after each batch but the last against what came until then.
    """
    worst = [len(each) * min(each, default=1.0) for each in (batches, splits)]
    return min(1.0, 3 * overall, *(3 * each for each in worst if each))
