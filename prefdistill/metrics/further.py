"""Further metrics by `evaluate` id or path, and the rows they are fed.

A metric named in `evaluate.metrics` gets predictions = completions and references = the prompt's `reference` field,
else the teacher's draft. Prompts with neither are left out and counted.
"""

from __future__ import annotations

import importlib
import math
import numbers
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefdistill.errors import RecipeError
from prefdistill.records import Draft, Prompt

if TYPE_CHECKING:
    import evaluate

OF_TEXTS = ("distinct", "length_ratio")
"""Those of prefdistill's metrics that are computed from drafts and reference texts."""
BUILT_IN = (
    "cohen_kappa",
    "corrected_win_rate",
    "distinct",
    "gate_pass_rate",
    "krippendorff_alpha",
    "length_controlled_win_rate",
    "length_ratio",
    "pgr",
    "rubric_score",
    "win_rate",
)


@dataclass(frozen=True)
class Rows:
    """What a reference metric is fed, row by row."""

    predictions: tuple[str, ...]
    references: tuple[str, ...]
    without_reference: int
    """Drafts left out because there was nothing to compare them with."""


def load_metric(name: str, directory: Path | None = None) -> evaluate.EvaluationModule:
    """Return one of prefdistill's metrics by name, else what `evaluate.load` finds under an id or a path.

    A path is looked up below `directory`, the recipe's folder. Only a hub id needs the network.

    Raises:
        RecipeError: nothing is found, it holds no metric, or a package that it needs is missing.
    """
    import evaluate

    if name in BUILT_IN:
        module = importlib.import_module(f"prefdistill.metrics.{name}")
        found = [each for each in vars(module).values() if isinstance(each, type) and issubclass(each, evaluate.Metric)]
        return found[0](keep_in_memory=True)
    path = Path(name) if directory is None else directory / name
    is_path = name.endswith(".py") or path.exists()
    if is_path and not path.exists():
        raise RecipeError(f"evaluate.metrics: {path} does not exist; expected a Python file with an `evaluate.Metric`")
    try:
        return evaluate.load(str(path) if is_path else name, keep_in_memory=True)
    except (OSError, ImportError, TypeError, ValueError) as problem:
        reason = str(problem).strip().splitlines()[0] if str(problem).strip() else type(problem).__name__
        raise RecipeError(
            f"evaluate.metrics: `{name}` cannot be loaded ({reason}); expected an `evaluate` id, the path of a Python "
            f"file with an `evaluate.Metric`, or one of {', '.join(BUILT_IN)}"
        ) from problem


def load_text_metric(name: str, directory: Path | None = None) -> evaluate.EvaluationModule:
    """Return a metric as `load_metric` does, if it can be fed drafts and reference texts.

    Raises:
        RecipeError: it is one of prefdistill's that are made from scores or ratings, or cannot be loaded.
    """
    if name in BUILT_IN and name not in OF_TEXTS:
        raise RecipeError(
            f"evaluate.metrics: `{name}` cannot be computed from drafts and reference texts: it is made from scores or "
            f"ratings; expected {', '.join(OF_TEXTS)}, an `evaluate` id, or the path of a Python file with an "
            "`evaluate.Metric` of texts; take it out (win rate, scores, gate pass rate and PGR are in every result)"
        )
    return load_metric(name, directory)


def reference_rows(prompts: Iterable[Prompt], drafts: Iterable[Draft], teacher_drafts: Iterable[Draft]) -> Rows:
    """Pair each draft with its prompt's `reference` field, else with the teacher's first draft."""
    by_id = {prompt.id: prompt for prompt in prompts}
    teacher: dict[str, str] = {}
    for draft in sorted(teacher_drafts, key=lambda draft: draft.index):
        teacher.setdefault(draft.prompt_id, draft.completion)
    predictions, references, missing = [], [], 0
    for draft in sorted(drafts, key=lambda draft: draft.id):
        written = by_id[draft.prompt_id].fields.get("reference") if draft.prompt_id in by_id else None
        reference = written or teacher.get(draft.prompt_id)
        if reference is None:
            missing += 1
            continue
        predictions.append(draft.completion)
        references.append(str(reference))
    return Rows(tuple(predictions), tuple(references), missing)


def measure(names: Sequence[str], rows: Rows, directory: Path | None = None) -> dict[str, float]:
    """Return `{metric.result: number}` of the named metrics; a list of numbers is averaged, anything else left out.

    Raises:
        RecipeError: a metric cannot be loaded or fed, or no draft has a reference.
    """
    if names and not rows.predictions:
        raise RecipeError(
            f"evaluate.metrics: none of {rows.without_reference} test drafts has a reference; give the prompts a "
            "`reference` column or add `teacher` to evaluate.baselines"
        )
    found: dict[str, float] = {}
    for name in names:
        metric = load_text_metric(name, directory)
        try:
            result = metric.compute(predictions=list(rows.predictions), references=list(rows.references))
        except (ValueError, TypeError, KeyError) as problem:
            raise RecipeError(
                f"evaluate.metrics: `{name}` cannot be computed from drafts and reference texts ({problem}); "
                "name a metric that compares texts"
            ) from problem
        found |= {f"{Path(name).stem}.{key}": number for key, number in _numbers(result or {}).items()}
    return found


def _numbers(result: Mapping[str, Any]) -> dict[str, float]:
    numbers_by_key = {}
    for key, value in result.items():
        values = list(value) if isinstance(value, (list, tuple)) else [value]
        if values and all(isinstance(each, numbers.Real) for each in values):
            mean = sum(map(float, values)) / len(values)
            if math.isfinite(mean):
                numbers_by_key[key] = mean
    return numbers_by_key
