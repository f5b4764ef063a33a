"""`rubric_score` as an `evaluate.Metric`; the number itself is made in `prefdistill.metrics.rates`."""

from __future__ import annotations

from typing import Any

import datasets
import evaluate

from prefdistill.metrics import rates


class RubricScore(evaluate.Metric):
    """Mean score, and its mean paired difference from the baseline with a bootstrap interval."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=self.__doc__,
            citation="",
            inputs_description="predictions: one score a prompt; references: the baseline's score",
            features=datasets.Features(
                {"predictions": datasets.Value("float64"), "references": datasets.Value("float64")}
            ),
        )

    def _compute(self, predictions: list[float], references: list[float], seed: int = 0) -> dict[str, Any]:
        found = rates.paired_gain(predictions, references, seed)
        return {
            "rubric_score": found.score,
            "baseline_rubric_score": found.baseline,
            "gain": found.value,
            "interval": found.interval,
        }
