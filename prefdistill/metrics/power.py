"""What a sample can see: prompts for an effect, the smallest effect for a number of prompts, what a poor judge costs.

Two-sided, by the normal approximation. One run an arm: what training would do with another seed comes on top, and only
more seeds show it.
"""

from __future__ import annotations

from math import ceil

POWER = 0.80
"""How likely a true effect of that size shows."""
ALPHA = 0.05
"""How likely an effect shows where there is none."""


def prompts_needed(effect: float, sd: float, power: float = POWER, alpha: float = ALPHA) -> int:
    """Return how many prompts show a mean paired difference of `effect` where differences by prompt vary by `sd`.

    Raises:
        ValueError: the effect is zero, or the deviation is not positive.
    """
    if not effect or not sd > 0:
        raise ValueError(f"an effect of {effect} with a deviation of {sd}; expected another effect than 0 and sd > 0")
    return _prompts(abs(effect), sd, sd, power, alpha)


def smallest_effect(prompts: int, sd: float, power: float = POWER, alpha: float = ALPHA) -> float:
    """Return the smallest mean paired difference that `prompts` show where differences by prompt vary by `sd`.

    Raises:
        ValueError: there are no prompts, or the deviation is not positive.
    """
    if prompts < 1 or not sd > 0:
        raise ValueError(f"{prompts} prompts with a deviation of {sd}; expected at least one and sd > 0")
    from scipy.special import ndtri

    return float(ndtri(1 - alpha / 2) + ndtri(power)) * sd / prompts**0.5


def prompts_for_win_rate(rate: float, ties: float = 0.0, power: float = POWER, alpha: float = ALPHA) -> int:
    """Return how many prompts show that a true win rate of `rate` is not 50 %.

    Args:
        rate: 0..1, ties counting half.
        ties: share of ties, 0..1; a tie varies less than a win or a loss.
        power: how likely it shows.
        alpha: two-sided.

    Raises:
        ValueError: the rate is 50 %, or more than these ties leave room for.
    """
    room = (1 - ties) / 2
    if not 0 <= ties < 1 or rate == 0.5 or abs(rate - 0.5) > room + 1e-12:
        raise ValueError(
            f"a win rate of {rate} with a share of ties of {ties}; expected another rate than 0.5 within "
            f"{max(0.0, 0.5 - room):g} to {min(1.0, 0.5 + room):g}"
        )
    return _prompts(abs(rate - 0.5), *_deviations(rate, ties), power, alpha)


def smallest_win_rate(prompts: int, ties: float = 0.0, power: float = POWER, alpha: float = ALPHA) -> float | None:
    """Return the smallest win rate over 50 % that `prompts` show, ties counting half; None where they show none.

    Raises:
        ValueError: the share of ties is not within 0 and 1.
    """
    if not 0 <= ties < 1:
        raise ValueError(f"a share of ties of {ties}; expected 0 to 1, without 1")
    from scipy.optimize import brentq
    from scipy.special import ndtri

    critical, reach = float(ndtri(1 - alpha / 2)), float(ndtri(power))

    def missing(rate: float) -> float:
        flat, there = _deviations(rate, ties)
        return critical * flat + reach * there - (rate - 0.5) * prompts**0.5

    top = 0.5 + (1 - ties) / 2
    if prompts < 1 or missing(top) > 0:
        return None
    return float(brentq(missing, 0.5, top))


def judged_effect(effect: float, accuracy: float) -> float:
    """Return what is left of an effect on the win rate when a judge decides that is right in `accuracy` of the cases.

    A judge that errs as often on wins as on losses shrinks every effect by 2 accuracy - 1: at 0.8 a gain of 5 points
    shows as 3 and needs 2.8 times as many prompts.

    Raises:
        ValueError: the accuracy is under a coin's, or over 1.
    """
    if not 0.5 <= accuracy <= 1:
        raise ValueError(f"a judge's accuracy of {accuracy}; expected 0.5 (a coin) to 1")
    return effect * (2 * accuracy - 1)


def _deviations(rate: float, ties: float) -> tuple[float, float]:
    """Return the standard deviation of one comparison's credit at 50 % and at `rate`."""
    flat = (1 - ties) / 4
    return flat**0.5, max(0.0, flat - (rate - 0.5) ** 2) ** 0.5


def _prompts(difference: float, sd_null: float, sd_there: float, power: float, alpha: float) -> int:
    from statsmodels.stats.power import normal_sample_size_one_tail

    return ceil(normal_sample_size_one_tail(difference, power, alpha / 2, sd_null, sd_there) - 1e-9)
