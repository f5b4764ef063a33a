"""Win rate, paired gain, gap recovered and gate pass rate, from rows to numbers.

A mean of nothing is an error here, never 0.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from prefdistill.metrics.crossed import crossed_mean
from prefdistill.metrics.intervals import Interval, bootstrap_interval, percentile_interval, resampled_means
from prefdistill.metrics.intervals import wilson_interval as wilson
from prefdistill.records import Outcome

SMALLEST_GAP = 0.10
"""Teacher minus start, under which the share of the gap that was closed means nothing (method.md, section 5)."""


@dataclass(frozen=True)
class WinRate:
    """How often the policy's draft was the better one."""

    value: float
    """(wins + ties / 2) / judged, 0..1."""
    interval: Interval
    """95 %: Wilson's where there are no ties, else percentile bootstrap over prompts."""
    wins: int
    losses: int
    ties: int
    unknown: int


@dataclass(frozen=True)
class Gain:
    """A paired difference of mean scores."""

    score: float
    baseline: float
    value: float
    """Mean of score minus baseline by prompt."""
    interval: Interval
    """95 %, percentile bootstrap over prompts."""
    prompts: int


@dataclass(frozen=True)
class GapRecovered:
    """Performance gap recovered: (after - before) / (teacher - before), or why it is refused."""

    value: float | None
    interval: Interval | None
    """95 %, percentile bootstrap over prompts, all arms resampled together."""
    gap: float | None
    """Teacher minus before; None where there were no prompts."""
    gap_interval: Interval | None
    refused: str | None
    """The reason where value is None."""


def outcome_of(score: float, baseline: float, tie_margin: float = 0.0) -> Outcome:
    """Return win, loss or tie; a difference of at most `tie_margin` (and a rounding error) is a tie."""
    if abs(score - baseline) <= tie_margin + 1e-9:
        return "tie"
    return "win" if score > baseline else "loss"


def win_rate(outcomes: Sequence[str], seed: int = 0) -> WinRate:
    """Return the win rate of outcomes (win, loss, tie, unknown); unknown ones are counted beside it.

    Raises:
        ValueError: nothing was judged.
    """
    wins, losses, ties = (outcomes.count(name) for name in ("win", "loss", "tie"))
    judged = wins + losses + ties
    if judged == 0:
        raise ValueError(f"0 of {len(outcomes)} comparisons were judged; a win rate needs at least one")
    interval = wilson(wins, judged)
    if ties:
        credit = [1.0] * wins + [0.5] * ties + [0.0] * losses
        interval = bootstrap_interval(credit, seed)
    return WinRate((wins + ties / 2) / judged, interval, wins, losses, ties, len(outcomes) - judged)


def paired_gain(scores: Sequence[float], baseline_scores: Sequence[float], seed: int = 0) -> Gain:
    """Return the mean paired difference of one score a prompt and its interval.

    Raises:
        ValueError: no prompts, or a different number of scores.
    """
    if not scores or len(scores) != len(baseline_scores):
        raise ValueError(f"{len(scores)} scores and {len(baseline_scores)} baseline scores; expected pairs")
    differences = (np.asarray(scores, dtype=float) - np.asarray(baseline_scores, dtype=float)).tolist()
    return Gain(
        score=float(np.mean(scores)),
        baseline=float(np.mean(baseline_scores)),
        value=float(np.mean(differences)),
        interval=bootstrap_interval(differences, seed),
        prompts=len(differences),
    )


def gap_recovered(
    before: Sequence[float], after: Sequence[float], teacher: Sequence[float], seed: int = 0
) -> GapRecovered:
    """Return the share of the gap between start and teacher that was closed, from one score a prompt and arm.

    Refused (value None, with the reason) where the gap is under 0.10 or its interval touches zero: a ratio with such a
    denominator says nothing.

    Raises:
        ValueError: the arms have different numbers of prompts.
    """
    if not len(before) == len(after) == len(teacher):
        raise ValueError(f"{len(before)}, {len(after)} and {len(teacher)} scores; expected one a prompt and arm")
    if not before:
        return GapRecovered(None, None, None, None, "no prompt was judged for base, policy and teacher")
    start, end, top = (float(np.mean(arm)) for arm in (before, after, teacher))
    means = resampled_means([before, after, teacher], seed)
    gaps = means[:, 2] - means[:, 0]
    gap, gap_interval = top - start, percentile_interval(gaps)
    if refused := _too_small(gap, gap_interval):
        return GapRecovered(None, None, gap, gap_interval, refused)
    with np.errstate(divide="ignore", invalid="ignore"):
        shares = (means[:, 1] - means[:, 0]) / gaps
    interval = percentile_interval(shares[np.isfinite(shares)])
    return GapRecovered((end - start) / gap, interval, gap, gap_interval, None)


def gap_recovered_over_seeds(before: Any, after: Any, teacher: Any, span: float = 1.0) -> GapRecovered:
    """Return the share of the gap that was closed over several seeds, refused as `gap_recovered` is.

    The interval is Fieller's (1954): every share s for which the mean of (after - before) - s (teacher - before) may be
    zero by the interval of `crossed_mean`, over prompts and seeds.

    Args:
        before: scores (seeds, prompts), nan unknown.
        after: the same prompts and seeds in the same order; so is `teacher`, where one row stands for every seed.
        teacher: see above.
        span: from the lowest to the highest score; a gap under a tenth of it is refused.

    Raises:
        ValueError: the arms have different prompts or seeds.
    """
    start, end, top = np.broadcast_arrays(*(np.atleast_2d(np.asarray(arm, float)) for arm in (before, after, teacher)))
    known = np.isfinite(start + end + top).all(axis=0)
    if not known.any():
        return GapRecovered(None, None, None, None, "no prompt was judged for base, policy and teacher in every seed")
    gaps, closed = (top - start)[:, known], (end - start)[:, known]
    gap = crossed_mean(gaps)
    if refused := _too_small(gap.value, gap.interval, SMALLEST_GAP * span):
        return GapRecovered(None, None, gap.value, gap.interval, refused)
    share = float(closed.mean()) / gap.value
    interval = tuple(sorted(_end_of_shares(closed, gaps, share, way) for way in (-1.0, 1.0)))
    return GapRecovered(share, (interval[0], interval[1]), gap.value, gap.interval, None)


def _end_of_shares(closed: Any, gaps: Any, share: float, way: float) -> float:
    """Return how far from `share` upwards (1) or downwards (-1) a share still fits."""
    from scipy.optimize import brentq

    def outside(step: float) -> float:
        found = crossed_mean(closed - (share + way * step) * gaps)
        assert found.interval is not None
        return abs(found.value) - (found.interval[1] - found.value)

    if outside(0.0) >= 0.0:
        return share
    far = 0.1
    while outside(far) <= 0.0:
        far *= 2
    return share + way * float(brentq(outside, 0.0, far))


def _too_small(gap: float, interval: Interval | None, smallest: float = SMALLEST_GAP) -> str | None:
    """Return why a gap cannot be divided by; None where it can."""
    if gap < smallest:
        reason = f"teacher minus base is {gap:+.3f}, under {smallest:.2f}"
    elif interval is None:
        reason = "one prompt was judged for base, policy and teacher"
    elif interval[0] <= 0.0:
        reason = f"the interval of teacher minus base ({interval[0]:+.3f} to {interval[1]:+.3f}) touches zero"
    else:
        return None
    return f"{reason}; the share of such a gap says nothing"


def gate_pass_rate(failed_gates: Iterable[Collection[str]]) -> float | None:
    """Return the share of drafts that failed no gate, from each draft's failed gates; None where there are none."""
    passed = [not names for names in failed_gates]
    return sum(passed) / len(passed) if passed else None
