"""Verdicts to one score a draft, by the rules that rank drafts (`prefdistill.selection`), gates applied."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from prefdistill.records import CriterionScore, Draft, Failure, Judgement, Preference, Prompt, Scale, Verdict
from prefdistill.rubric import BUILT_IN_GATES, RubricSet
from prefdistill.selection import pool_scores, rank_drafts


@dataclass(frozen=True)
class DraftScore:
    """What a judge made of one draft."""

    score: float
    """Before gates, in the unit of `scale`."""
    gated_score: float
    """0 where a gate failed, else `score`. A custom judge's own scale has no 0: there a draft that was cut counts as the
    lowest score known of the base's drafts, and the rubric's gates do not count."""
    gates: tuple[str, ...]
    """Names of the gates it failed."""
    criteria: tuple[CriterionScore, ...]
    """Panel members averaged; empty where the judge gave one number."""
    scale: Scale


def draft_scores(
    verdicts: Iterable[Verdict],
    drafts: Iterable[Draft],
    prompts: Iterable[Prompt],
    rubrics: RubricSet,
    lowest: float | None = None,
) -> dict[str, DraftScore]:
    """Return the score of every draft that was judged completely, by draft id; the others are absent.

    A prompt's verdicts may come from several files (baselines, rounds): they are taken together. `lowest` is what a cut
    draft counts on a custom judge's own scale; None leaves it what the judge said.
    """
    drafts_of: dict[str, list[Draft]] = defaultdict(list)
    for draft in drafts:
        drafts_of[draft.prompt_id].append(draft)
    verdicts_of: dict[str, list[Verdict]] = defaultdict(list)
    for verdict in verdicts:
        verdicts_of[verdict.prompt_id].append(verdict)
    found: dict[str, DraftScore] = {}
    for prompt in prompts:
        if prompt.id not in drafts_of or prompt.id not in verdicts_of:
            continue
        verdict = _together(prompt.id, verdicts_of[prompt.id])
        judged: dict[str, list[Judgement]] = defaultdict(list)
        for judgement in verdict.judgements:
            judged[judgement.draft_id].append(judgement)
        ranking = rank_drafts(prompt, drafts_of[prompt.id], verdict, rubrics.of(prompt), round=0)
        for entry in ranking.entries:
            gated = 0.0 if entry.gates else entry.score
            if entry.scale == "custom":
                fails = any(name in BUILT_IN_GATES for name in entry.gates)
                gated = min(lowest, entry.score) if fails and lowest is not None else entry.score
            found[entry.draft_id] = DraftScore(
                score=entry.score,
                gated_score=gated,
                gates=entry.gates,
                criteria=pool_scores(judged[entry.draft_id]),
                scale=entry.scale,
            )
    return found


def _together(prompt_id: str, verdicts: Iterable[Verdict]) -> Verdict:
    judgements: list[Judgement] = []
    preferences: list[Preference] = []
    failures: list[Failure] = []
    for verdict in verdicts:
        judgements.extend(verdict.judgements)
        preferences.extend(verdict.preferences)
        failures.extend(verdict.failures)
    return Verdict(
        prompt_id=prompt_id, judgements=tuple(judgements), preferences=tuple(preferences), failures=tuple(failures)
    )
