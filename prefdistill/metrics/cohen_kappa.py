"""`cohen_kappa` as an `evaluate.Metric`; the number itself is made in `prefdistill.metrics.agreement`."""

from __future__ import annotations

from typing import Any

import datasets
import evaluate

from prefdistill.metrics import agreement


class CohenKappa(evaluate.Metric):
    """Agreement of two raters beyond chance, on the same items."""

    def _info(self) -> evaluate.MetricInfo:
        kinds = (datasets.Value("string"), datasets.Value("int64"))
        return evaluate.MetricInfo(
            description=self.__doc__,
            citation="Cohen 1960, A coefficient of agreement for nominal scales",
            inputs_description="predictions: one rater's answers, names or whole numbers; references: the other's",
            features=[datasets.Features({"predictions": kind, "references": kind}) for kind in kinds],
        )

    def _compute(self, predictions: list[Any], references: list[Any]) -> dict[str, Any]:
        classes = sorted({*predictions, *references})
        counts = agreement.confusion(predictions, references, classes)
        return {"cohen_kappa": agreement.cohen_kappa(counts), "agreement": float(counts.trace() / counts.sum())}
