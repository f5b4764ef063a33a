"""`krippendorff_alpha` as an `evaluate.Metric`; the number itself is made in `prefdistill.metrics.agreement`."""

from __future__ import annotations

from typing import Any, Literal

import datasets
import evaluate

from prefdistill.metrics import agreement


class KrippendorffAlpha(evaluate.Metric):
    """Agreement beyond chance of any number of raters, each of whom rated some of the items."""

    def _info(self) -> evaluate.MetricInfo:
        kinds = (datasets.Value("string"), datasets.Value("int64"))
        return evaluate.MetricInfo(
            description=self.__doc__,
            citation="Krippendorff 2011, Computing Krippendorff's Alpha-Reliability",
            inputs_description="predictions: each item's ratings, names or whole numbers, missing ones left out; levels: "
            "every rating, in order; scale: nominal or ordinal (then levels must be given)",
            features=[datasets.Features({"predictions": datasets.Sequence(kind)}) for kind in kinds],
        )

    def _compute(
        self,
        predictions: list[list[Any]],
        levels: list[Any] | None = None,
        scale: Literal["nominal", "ordinal"] = "nominal",
    ) -> dict[str, Any]:
        if levels is None and scale == "ordinal":
            raise ValueError("an ordinal alpha needs `levels`: every rating, worst to best")
        known = sorted({rating for ratings in predictions for rating in ratings}) if levels is None else levels
        return {"krippendorff_alpha": agreement.krippendorff_alpha(predictions, known, scale)}
