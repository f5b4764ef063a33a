"""The win rate that is left when both drafts are equally long.

A judge that likes length makes a student that writes more look better. The raw rate says what the judge said; this one
says what it would say at equal length, as far as a logistic fit on the length difference can tell (the idea of
AlpacaEval 2's length-controlled rate, 2404.04475, with one term for length).
"""

from __future__ import annotations

from collections.abc import Sequence

FEWEST = 20
"""Comparisons below which the fit says nothing."""
RIDGE = 0.001
"""Weight of the squared coefficients, a comparison: keeps a perfect separation finite."""


def length_controlled_rate(outcomes: Sequence[float], differences: Sequence[float]) -> float | None:
    """Return the win rate at equal length, 0..1; None with too few comparisons.

    Args:
        outcomes: a comparison each: 1 win, 0.5 tie, 0 loss.
        differences: words of the policy's draft minus words of the baseline's, in the same order.
    """
    if len(outcomes) < FEWEST:
        return None
    import numpy as np
    from scipy.optimize import minimize
    from scipy.special import expit, log_expit

    wins, lengths = np.asarray(outcomes, dtype=float), np.asarray(differences, dtype=float)
    spread = lengths.std()
    scaled = lengths / spread if spread else np.zeros_like(lengths)

    def cost(weights: np.ndarray) -> tuple[float, np.ndarray]:
        logit = weights[0] + weights[1] * scaled
        loss = -(wins * log_expit(logit) + (1 - wins) * log_expit(-logit)).mean() + RIDGE * (weights**2).sum()
        error = expit(logit) - wins
        return float(loss), np.array([error.mean(), (error * scaled).mean()]) + 2 * RIDGE * weights

    return float(expit(minimize(cost, np.zeros(2), jac=True, method="BFGS").x[0]))
