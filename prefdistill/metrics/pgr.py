"""`pgr` as an `evaluate.Metric`; the number itself is made in `prefdistill.metrics.rates`."""

from __future__ import annotations

from typing import Any

import datasets
import evaluate

from prefdistill.metrics import rates


class GapRecovered(evaluate.Metric):
    """Performance gap recovered, (after - before) / (teacher - before), refused where the gap is too small."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=self.__doc__,
            citation="",
            inputs_description="predictions: one score a prompt after; references: before; teacher: the teacher's",
            features=datasets.Features(
                {
                    "predictions": datasets.Value("float64"),
                    "references": datasets.Value("float64"),
                    "teacher": datasets.Value("float64"),
                }
            ),
        )

    def _compute(
        self, predictions: list[float], references: list[float], teacher: list[float], seed: int = 0
    ) -> dict[str, Any]:
        found = rates.gap_recovered(references, predictions, teacher, seed)
        return {"pgr": found.value, "interval": found.interval, "gap": found.gap, "refused": found.refused}
