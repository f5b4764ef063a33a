"""`length_controlled_win_rate` as an `evaluate.Metric`; the number itself is made in `…metrics.length_control`."""

from __future__ import annotations

from typing import Any

import datasets
import evaluate
import numpy as np

from prefdistill.metrics import length_control, rates

CREDIT = {"win": 1.0, "tie": 0.5, "loss": 0.0}


class LengthControlledWinRate(evaluate.Metric):
    """Win rate over the baseline at equal length, with its interval."""

    def _info(self) -> evaluate.MetricInfo:
        number = datasets.Value("float64")
        return evaluate.MetricInfo(
            description=self.__doc__,
            citation="Dubois et al. 2024, Length-Controlled AlpacaEval (2404.04475): the idea, here with one term",
            inputs_description="predictions: scores by prompt; references: the baseline's; words and baseline_words: "
            "how long each draft is; tie_margin: the largest tie",
            features=datasets.Features(
                {"predictions": number, "references": number, "words": number, "baseline_words": number}
            ),
        )

    def _compute(
        self,
        predictions: list[float],
        references: list[float],
        words: list[float],
        baseline_words: list[float],
        tie_margin: float = 0.0,
    ) -> dict[str, Any]:
        pairs = zip(predictions, references, strict=True)
        credit = [CREDIT[rates.outcome_of(score, baseline, tie_margin)] for score, baseline in pairs]
        longer = np.subtract(words, baseline_words)
        return {
            "length_controlled_win_rate": length_control.length_controlled_rate(credit, longer),
            "interval": length_control.length_controlled_interval(credit, longer),
            "win_rate": float(np.mean(credit)),
        }
