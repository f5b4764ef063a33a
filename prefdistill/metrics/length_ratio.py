"""`length_ratio` as an `evaluate.Metric`; the number itself is made in `prefdistill.metrics.texts`."""

from __future__ import annotations

from typing import Any

import datasets
import evaluate

from prefdistill.metrics import texts


class LengthRatio(evaluate.Metric):
    """Mean words of the drafts over mean words of the baseline's."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=self.__doc__,
            citation="",
            inputs_description="predictions: drafts; references: the baseline's drafts",
            features=datasets.Features(
                {"predictions": datasets.Value("string"), "references": datasets.Value("string")}
            ),
        )

    def _compute(self, predictions: list[str], references: list[str]) -> dict[str, Any]:
        return {"length_ratio": texts.length_ratio(predictions, references)}
