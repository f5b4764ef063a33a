"""Judge `checks`: the rubric's checks alone, no model and no call.

`checked_scores` is also the first half of every other judge that keeps to a rubric.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import ClassVar

from prefdistill.errors import JudgeError, PrefdistillError, RubricError
from prefdistill.plugins import Plugin, build_checks
from prefdistill.protocols import Check
from prefdistill.records import CheckScore, CriterionScore, Draft, Judgement, Prompt, Verdict
from prefdistill.rubric import Criterion, Rubric


class ChecksJudge(Plugin):
    """Scores drafts with the rubric's checks; every criterion and gate of the rubric must be a checked one."""

    max_concurrency: ClassVar[int | None] = 1  # pure Python: threads would only take turns

    def require(self, rubric: Rubric) -> None:
        """Refuse a rubric that this judge cannot apply.

        Raises:
            RubricError: a criterion must be asked.
        """
        if rubric.asked:
            name = rubric.asked[0].name
            raise RubricError(
                f"{rubric.where(name, 'question')}: judge.use `checks` asks no teacher, and {len(rubric.asked)} of "
                f"{len(rubric.all_criteria)} criteria must be asked ({', '.join(each.name for each in rubric.asked)}); "
                "use `judge.use: rubric`, or make them checked criteria"
            )

    def judge(self, prompt: Prompt, drafts: Sequence[Draft], rubric: Rubric) -> Verdict:
        """Score every draft; identical texts are scored once."""
        self.require(rubric)
        scores: dict[str, tuple[CriterionScore, ...]] = {}
        for draft in drafts:
            if draft.completion not in scores:
                scores[draft.completion] = checked_scores(prompt, draft, rubric)
        return Verdict(
            prompt_id=prompt.id,
            judgements=tuple(
                Judgement(draft_id=draft.id, judge="checks", scores=scores[draft.completion], scale="rubric")
                for draft in drafts
            ),
        )


def checked_scores(
    prompt: Prompt, draft: Draft, rubric: Rubric, only: Iterable[Criterion] | None = None
) -> tuple[CriterionScore, ...]:
    """Score one draft by the rubric's checked criteria (or those in `only`), in the rubric's order.

    Raises:
        JudgeError: a check raises, with the criterion's name.
    """
    checks = build_checks(rubric)
    wanted = rubric.checked if only is None else tuple(only)
    return tuple(_apply(each, checks[each.name], prompt, draft) for each in wanted)


def _apply(criterion: Criterion, check: Check, prompt: Prompt, draft: Draft) -> CriterionScore:
    """Apply one check; one that does not apply gives no score."""
    if not criterion.applies_to(prompt):
        return CriterionScore(criterion=criterion.name, applies=False, path="checked")
    try:
        found = check.check(prompt, draft.completion)
        if found is not None and not isinstance(found, CheckScore):
            found = CheckScore(score=found)
    except PrefdistillError as problem:
        raise JudgeError(f"check {criterion.name} ({criterion.check}): {problem}") from problem
    except Exception as problem:
        raise JudgeError(
            f"check {criterion.name} ({criterion.check}) on draft {draft.id}: {type(problem).__name__}: {problem}"
        ) from problem
    if found is None:
        return CriterionScore(criterion=criterion.name, applies=False, path="checked")
    return CriterionScore(criterion=criterion.name, score=found.score, reason=found.reason, path="checked")
