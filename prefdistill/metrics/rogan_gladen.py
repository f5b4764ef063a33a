"""A judge's win rate, corrected by what people said about a slice of the same comparisons.

A judge that errs moves every rate towards its own habits. Where people labelled some comparisons, how often the judge
finds their wins (sensitivity) and their losses (specificity) is known, and the rate that people would give can be
estimated (Rogan and Gladen 1978).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from prefdistill.metrics.intervals import LEVEL, Interval

LEAST_INFORMED = 0.2
"""Sensitivity + specificity - 1 (0 a coin, 1 a perfect judge), under which a correction is guessing."""

Counted = tuple[float, int]
"""Successes and trials; a judge's tie is half a success."""


@dataclass(frozen=True)
class Corrected:
    """The rate that people would give, or why it is refused."""

    value: float | None
    """0..1; None where it is refused."""
    interval: Interval | None
    """95 %, with the uncertainty of the judged rate and of both shares of the labelled slice (Lang and Reiczigel 2014)."""
    judged: float
    """The judge's rate, as it came."""
    sensitivity: float | None
    """Share of people's wins that the judge calls wins; None where people saw none."""
    specificity: float | None
    """Share of people's losses that the judge calls losses; None where people saw none."""
    clipped: bool
    """Whether the correction left 0..1 and was cut there; refused where all of its interval did."""
    refused: str | None
    """The reason where value is None."""


def corrected_rate(p_judge: float, n: int, sensitivity: Counted, specificity: Counted) -> Corrected:
    """Return (p_judge + specificity - 1) / (sensitivity + specificity - 1) with its interval.

    The interval is in closed form: a pseudo-count keeps it honest where the judge made no mistake on a small slice.
    Ties that count half vary less than it assumes, so that it is too wide rather than too narrow with them. It takes
    the labelled slice for a sample of its own.

    Args:
        p_judge: the judge's win rate, 0..1.
        n: prompts it was judged on; several seeds over the same prompts count once.
        sensitivity: comparisons that people call a win: how many of them the judge does too, and how many there are.
        specificity: the same of losses.

    Raises:
        ValueError: the rate is not within 0..1, there are no prompts, or more successes than trials.
    """
    if not 0 <= p_judge <= 1 or n < 1:
        raise ValueError(f"a rate of {p_judge} over {n} prompts; expected 0 to 1 over at least one")
    for right, seen in (sensitivity, specificity):
        if not 0 <= right <= seen:
            raise ValueError(f"{right} of {seen} labelled comparisons; expected 0 <= right <= seen")
    found = [right / seen if seen else None for right, seen in (sensitivity, specificity)]
    sens, spec = found
    if sens is None or spec is None:
        what = "win" if sens is None else "loss"
        return Corrected(
            None, None, p_judge, sens, spec, False, f"people labelled no {what}, so how the judge does there is unknown"
        )
    informed = sens + spec - 1
    if informed < LEAST_INFORMED - 1e-9:
        reason = (
            f"sensitivity {sens:.2f} + specificity {spec:.2f} - 1 is {informed:.2f}, under {LEAST_INFORMED}: this judge "
            "hardly knows wins from losses, and no correction mends that"
        )
        return Corrected(None, None, p_judge, sens, spec, False, reason)
    value = (p_judge + spec - 1) / informed
    low, high = _lang_reiczigel(p_judge, n, sensitivity, specificity)
    if low > 1 or high < 0:
        reason = (
            f"a judge with sensitivity {sens:.2f} and specificity {spec:.2f} cannot give a rate of {p_judge:.2f}: the "
            "labelled comparisons are not like the others"
        )
        return Corrected(None, None, p_judge, sens, spec, False, reason)
    inside = min(1.0, max(0.0, value))
    interval = max(0.0, min(low, inside)), min(1.0, max(high, inside))
    return Corrected(inside, interval, p_judge, sens, spec, not 0 <= value <= 1, None)


def slice_counts(judge: Iterable[str], people: Iterable[str]) -> tuple[Counted, Counted]:
    """Return sensitivity and specificity counts from both sides' outcomes of the same comparisons, in one order.

    Only comparisons that people call a win or a loss count. A judge's tie there is half right: the rate that is
    corrected counts it half too. An outcome that is unknown to either side is left out.

    Raises:
        ValueError: different numbers of outcomes.
    """
    seen, right = {"win": 0, "loss": 0}, {"win": 0.0, "loss": 0.0}
    for ours, theirs in zip(judge, people, strict=True):
        if theirs in seen and ours in ("win", "loss", "tie"):
            seen[theirs] += 1
            right[theirs] += 1.0 if ours == theirs else 0.5 if ours == "tie" else 0.0
    return (right["win"], seen["win"]), (right["loss"], seen["loss"])


def _lang_reiczigel(p_judge: float, n: int, sensitivity: Counted, specificity: Counted) -> Interval:
    """Return the interval of Lang and Reiczigel (2014), equations 6, 7, 16 and 17, not cut at 0 and 1."""
    from scipy.special import ndtri

    z = float(ndtri((1 + LEVEL) / 2))
    size, sick, well = n + z * z, sensitivity[1] + 2, specificity[1] + 2
    judged = (n * p_judge + z * z / 2) / size
    sens, spec = (sensitivity[0] + 1) / sick, (specificity[0] + 1) / well
    informed = sens + spec - 1
    centre = (judged + spec - 1) / informed
    of_sens, of_spec = sens * (1 - sens) / sick, spec * (1 - spec) / well
    shift = 2 * z * z * (centre * of_sens - (1 - centre) * of_spec)
    spread = judged * (1 - judged) / size + centre**2 * of_sens + (1 - centre) ** 2 * of_spec
    half = z * spread**0.5 / informed
    return centre + shift - half, centre + shift + half
