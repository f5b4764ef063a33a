"""Tests of paired differences: by sign, by permutation, and Holm's correction where there are several."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

PERMUTATIONS = 9_999
_VALUES_AT_ONCE = 2_000_000


@dataclass(frozen=True)
class SignTest:
    """How many differences point up, and how likely so one-sided a count is where up and down are equally likely."""

    up: int
    down: int
    same: int
    """Differences of zero: they say nothing about the direction and do not count."""
    p: float
    """Two-sided, exact; 1 where none points anywhere."""


def sign_test(differences: Any) -> SignTest:
    """Return the sign test of differences (one a prompt, or one a seed); nan is unknown and left out."""
    from scipy.stats import binomtest

    found = np.asarray(differences, dtype=float).ravel()
    found = found[np.isfinite(found)]
    same = int((np.abs(found) <= 1e-9).sum())
    up = int((found > 1e-9).sum())
    down = len(found) - same - up
    p = float(binomtest(up, up + down, 0.5).pvalue) if up + down else 1.0
    return SignTest(up, down, same, p)


def permutation_test(differences: Any, seed: int, resamples: int = PERMUTATIONS) -> float:
    """Return the two-sided p of a mean difference of zero: how often chance signs give as large a mean.

    Args:
        differences: one a prompt; nan is unknown and left out. Several seeds: their mean by prompt, and p then holds
            for these seeds (`crossed_mean` asks about others too).
        seed: of the signs drawn; all sign patterns are counted where there are at most `resamples` of them.
        resamples: sign patterns drawn.

    Raises:
        ValueError: no difference is known, or they are not one a prompt.
    """
    from scipy.stats import permutation_test as permute

    found = np.asarray(differences, dtype=float)
    if found.ndim != 1 or not np.isfinite(found).any():
        raise ValueError(f"differences of shape {found.shape}; expected one a prompt and at least one that is known")
    found = found[np.isfinite(found)]
    if not np.abs(found).max() > 1e-9:
        return 1.0
    result = permute(
        (found,),
        np.mean,
        permutation_type="samples",
        vectorized=True,
        n_resamples=resamples,
        batch=max(1, _VALUES_AT_ONCE // len(found)),
        rng=np.random.default_rng(seed),
    )
    return float(result.pvalue)


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """Return the p values adjusted for their number (Holm 1979), in their order; 0.05 then holds for all together.

    Raises:
        ValueError: one of them is not between 0 and 1.
    """
    if wrong := [each for each in p_values if not 0 <= each <= 1]:
        raise ValueError(f"{wrong[0]} is no p value; expected 0 to 1")
    # statsmodels' multipletests gives the same numbers and collects garbage at every call, which takes 0.2 s.
    found = np.asarray(p_values, dtype=float)
    order = np.argsort(found)
    steps = np.minimum(1.0, np.maximum.accumulate(found[order] * np.arange(len(found), 0, -1)))
    return tuple(steps[np.argsort(order)].tolist())
