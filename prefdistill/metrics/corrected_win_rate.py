"""`corrected_win_rate` as an `evaluate.Metric`; the number itself is made in `prefdistill.metrics.rogan_gladen`."""

from __future__ import annotations

from typing import Any

import datasets
import evaluate

from prefdistill.metrics import rates, rogan_gladen


class CorrectedWinRate(evaluate.Metric):
    """Win rate that people would give, from a judge's outcomes and people's on a slice of them."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=self.__doc__,
            citation="Rogan and Gladen 1978; Lang and Reiczigel 2014",
            inputs_description="predictions: the judge's outcomes (win, loss, tie, unknown) by prompt; references: "
            "people's, `unknown` where nobody was asked",
            features=datasets.Features(
                {"predictions": datasets.Value("string"), "references": datasets.Value("string")}
            ),
        )

    def _compute(self, predictions: list[str], references: list[str]) -> dict[str, Any]:
        judged = rates.win_rate(predictions)
        counts = judged.wins + judged.losses + judged.ties
        found = rogan_gladen.corrected_rate(judged.value, counts, *rogan_gladen.slice_counts(predictions, references))
        return {
            "corrected_win_rate": found.value,
            "interval": found.interval,
            "win_rate": found.judged,
            "sensitivity": found.sensitivity,
            "specificity": found.specificity,
            "refused": found.refused,
        }
