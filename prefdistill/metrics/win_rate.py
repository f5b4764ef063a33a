"""`win_rate` as an `evaluate.Metric`; the number itself is made in `prefdistill.metrics.rates`."""

from __future__ import annotations

from typing import Any

import datasets
import evaluate

from prefdistill.metrics import rates


class WinRate(evaluate.Metric):
    """Share of prompts on which the draft scores above the baseline's, a tie counting half."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=self.__doc__,
            citation="",
            inputs_description="predictions: scores by prompt; references: the baseline's; tie_margin: the largest tie",
            features=datasets.Features(
                {"predictions": datasets.Value("float64"), "references": datasets.Value("float64")}
            ),
        )

    def _compute(
        self, predictions: list[float], references: list[float], tie_margin: float = 0.0, seed: int = 0
    ) -> dict[str, Any]:
        pairs = zip(predictions, references, strict=True)
        found = rates.win_rate([rates.outcome_of(score, baseline, tie_margin) for score, baseline in pairs], seed)
        return {
            "win_rate": found.value,
            "interval": found.interval,
            "wins": found.wins,
            "losses": found.losses,
            "ties": found.ties,
        }
