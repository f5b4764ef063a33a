"""The win rate that is left when both drafts are equally long.

A judge that likes length makes a student that writes more look better. The raw rate says what the judge said; this one
says what it would say at equal length, as far as a logistic fit on the length difference can tell (the idea of
AlpacaEval 2's length-controlled rate, 2404.04475, with one term for length).

What it cannot tell: where longer drafts are longer because they are better, that part is taken out too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from prefdistill.metrics.crossed import crossed_mean
from prefdistill.metrics.intervals import Interval

FEWEST = 20
"""Comparisons below which the fit says nothing."""
PRIOR_SD = 5.0
"""Standard deviation, on the logit scale, of the normal prior on both coefficients: it keeps a perfect separation finite
and weighs nothing beside real samples. 5 is a win rate of 99.3 %."""
LEAST_BESIDE = 0.05
"""Share of the comparisons that should lie on either side of equal length; see `is_extrapolated`."""
LEAST_INFORMATION = 1.0
"""Fisher information (a comparison at even odds gives 1/4), under which the fit gets no interval."""


@dataclass(frozen=True)
class _Fit:
    weights: Any
    """Of the intercept, which is the logit at equal length, and of the length difference."""
    information: float
    """Smallest eigenvalue of the Fisher information; near 0 where all win, or length alone decides."""
    influence: Any
    """Array (seeds, known prompts): how much each comparison moved the intercept, times their number."""


def length_controlled_rate(outcomes: Any, differences: Any) -> float | None:
    """Return the win rate at equal length, 0..1.

    Args:
        outcomes: a comparison each: 1 win, 0.5 tie, 0 loss, nan unknown; (prompts,) or (seeds, prompts). A prompt that
            is unknown in one seed is left out of all, as in `crossed_mean`.
        differences: words of the policy's draft minus words of the baseline's, of the same shape.

    Returns:
        None with fewer than 20 known comparisons, or where all drafts differ by the same number of words other than
        zero: then nothing tells length from quality.

    Raises:
        ValueError: outcomes and differences are of different shapes.
    """
    fit = _fit(outcomes, differences)
    return None if fit is None else _rate(fit.weights[0])


def is_extrapolated(differences: Any) -> bool:
    """Whether nearly all drafts are longer, or nearly all are shorter: the rate at equal length then rests on the fit alone.

    Args:
        differences: words of the policy's draft minus words of the baseline's; nan unknown.
    """
    lengths = np.asarray(differences, dtype=float)
    known = lengths[np.isfinite(lengths)]
    return not len(known) or min((known <= 0).mean(), (known >= 0).mean()) < LEAST_BESIDE


def length_controlled_interval(outcomes: Any, differences: Any) -> Interval | None:
    """Return the 95 % interval of `length_controlled_rate`, over prompts and, where there are several, seeds.

    The fit's intercept is, to first order, a mean of one number a comparison (its influence, as in the sandwich
    variance of Huber 1967); that mean gets its interval from `crossed_mean`, on the logit scale.

    Returns:
        None where there is no rate, only one prompt is known in every seed, or the outcomes hardly ever change at a
        given length (all wins, or the longer draft always wins): then they cannot say how far the rate may be off.
    """
    fit = _fit(outcomes, differences)
    if fit is None or fit.information < LEAST_INFORMATION:
        return None
    found = crossed_mean(fit.weights[0] + fit.influence - fit.influence.mean()).interval
    return None if found is None else (_rate(found[0]), _rate(found[1]))


def _rate(logit: float) -> float:
    from scipy.special import expit

    return float(expit(logit))


def _fit(outcomes: Any, differences: Any) -> _Fit | None:
    """Return the logistic fit of wins on an intercept and the standardised length difference."""
    from scipy.optimize import minimize
    from scipy.special import expit, log_expit

    table, longer = (np.atleast_2d(np.asarray(each, dtype=float)) for each in (outcomes, differences))
    if table.shape != longer.shape or table.ndim != 2:
        raise ValueError(
            f"outcomes of shape {table.shape} and lengths of shape {longer.shape}; expected the same prompts"
        )
    known = np.isfinite(table + longer).all(axis=0)
    wins, lengths = table[:, known].ravel(), longer[:, known].ravel()
    if len(wins) < FEWEST or (not np.ptp(lengths) and lengths[0]):
        return None
    spread = lengths.std() or 1.0
    columns = np.stack([np.ones_like(lengths), lengths / spread])
    prior = 1.0 / (len(wins) * PRIOR_SD**2)

    def cost(weights: np.ndarray) -> tuple[float, np.ndarray]:
        logit = weights @ columns
        loss = -(wins * log_expit(logit) + (1 - wins) * log_expit(-logit)).mean() + prior / 2 * (weights**2).sum()
        return float(loss), columns @ (expit(logit) - wins) / len(wins) + prior * weights

    weights = minimize(cost, np.zeros(2), jac=True, method="BFGS", options={"gtol": 1e-8}).x
    chance = expit(weights @ columns)
    curvature = (columns * (chance * (1 - chance))) @ columns.T / len(wins)
    influence = np.linalg.solve(curvature + prior * np.eye(2), columns * (wins - chance))[0]
    used = curvature if lengths.any() else curvature[:1, :1]
    return _Fit(weights, float(np.linalg.eigvalsh(used)[0]) * len(wins), influence.reshape(len(table), -1))
