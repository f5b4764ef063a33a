"""`gate_pass_rate` as an `evaluate.Metric`; the number itself is made in `prefdistill.metrics.rates`."""

from __future__ import annotations

from typing import Any

import datasets
import evaluate

from prefdistill.metrics import rates


class GatePassRate(evaluate.Metric):
    """Share of drafts that failed no gate."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=self.__doc__,
            citation="",
            inputs_description="predictions: how many gates each draft failed",
            features=datasets.Features({"predictions": datasets.Value("int64")}),
        )

    def _compute(self, predictions: list[int]) -> dict[str, Any]:
        return {"gate_pass_rate": rates.gate_pass_rate(["failed"] * count for count in predictions)}
