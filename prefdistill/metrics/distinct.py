"""`distinct` as an `evaluate.Metric`; the number itself is made in `prefdistill.metrics.texts`."""

from __future__ import annotations

from typing import Any

import datasets
import evaluate

from prefdistill.metrics import texts


class Distinct(evaluate.Metric):
    """Share of different word pairs (distinct-2), and of different drafts within a prompt."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=self.__doc__,
            citation="",
            inputs_description="predictions: drafts; references: the prompt ids they belong to",
            features=datasets.Features(
                {"predictions": datasets.Value("string"), "references": datasets.Value("string")}
            ),
        )

    def _compute(self, predictions: list[str], references: list[str]) -> dict[str, Any]:
        groups: dict[str, list[str]] = {}
        for text, prompt_id in zip(predictions, references, strict=True):
            groups.setdefault(prompt_id, []).append(text)
        found = texts.distinct(list(groups.values()))
        return {"distinct_2": found.distinct_2, "distinct_drafts": found.distinct_drafts}
