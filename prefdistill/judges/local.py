"""Judge `local`: the rubric judge with a causal language model on this machine, scored by its probabilities.

Place in the flow: drafts → **verdict**, without a server, a key or a price. One question a criterion and draft,
answered by the probabilities of the levels in one forward pass; what decides a pair is compared in both orders in the
same way. `judge: {use: rubric, teacher: {use: local, …}}` is the same model with all of the rubric judge's dials.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from prefdistill.judges.asking import AskingJudge
from prefdistill.judges.rubric import RubricJudge
from prefdistill.protocols import RunContext
from prefdistill.teachers.local import LocalTeacher
from prefdistill.weights import LocalWeights


class LocalJudge(LocalWeights, RubricJudge):
    """Scores each draft by the probabilities that a language model on this machine gives the rubric's levels."""

    brings_teacher: ClassVar[bool] = True
    operational: ClassVar[frozenset[str]] = LocalWeights.operational | AskingJudge.operational

    min_covered: float = Field(default=0.9, ge=0.0, le=1.0)
    """Smallest share of the probability that must fall on the levels; a question with less fails."""
    teacher: None = None
    """The model is the judge's own."""
    panel: tuple[()] = ()
    calls: Literal["per_criterion"] = "per_criterion"
    """One question a criterion: each has one place to read its level at."""
    reason: Literal["none"] = "none"
    """A reason would have to be written first; `use: rubric` with `teacher: {use: local, …}` does that."""
    scoring: Literal["logprob"] = "logprob"
    """A score is the mean of the level distribution."""
    on_disagree: Literal["drop", "tie"] = "drop"
    """When the two orders of a comparison name different winners: drop the pair, or count it as a tie. Asking again
    would give the same probabilities."""

    def teachers_for(self, context: RunContext) -> list[tuple[Any, bool]]:
        """Return the judge's own model."""
        options = {name: getattr(self, name) for name in (*LocalWeights.model_fields, "min_covered")}
        teacher = LocalTeacher.model_validate({**options, "model": self.section.source})
        teacher._use = self._use
        return [(teacher, True)]
