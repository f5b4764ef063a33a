"""Evaluate: a policy's drafts against a baseline's, prompt by prompt, as counts, means and intervals.

Place in the flow: after train, on validation prompts each round, and once on test prompts. Everything here is pure;
the drafts are sampled and judged by the stages before. A draft that fails a gate counts 0; a draft without a
readable judgement makes its comparison unknown, which is counted and never becomes a loss.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any

from prefdistill.errors import JudgeError
from prefdistill.metrics.rates import GapRecovered, gap_recovered, gate_pass_rate, outcome_of, paired_gain, win_rate
from prefdistill.metrics.scores import DraftScore
from prefdistill.metrics.scores import draft_scores as draft_scores
from prefdistill.metrics.texts import length_ratio
from prefdistill.records import (
    Comparison,
    Draft,
    EvaluationResult,
    Outcome,
    Policy,
    Preference,
    Prompt,
    Split,
    seed_of,
)
from prefdistill.rubric import RubricSet
from prefdistill.selection import compare

Scores = Mapping[str, DraftScore]
"""By draft id; a draft that could not be judged is absent."""
DraftsByPrompt = dict[str, list[Draft]]


def best_drafts(drafts: Iterable[Draft], scores: Scores) -> dict[str, Draft]:
    """Return each prompt's best draft by gated score, the first of equal ones; the first of all where none was judged.

    A draft that could not be judged is never better than one that was.
    """

    def worth(draft: Draft) -> tuple[bool, float]:
        known = scores.get(draft.id)
        return (False, 0.0) if known is None else (True, known.gated_score)

    return {prompt_id: max(several, key=worth) for prompt_id, several in _by_prompt(drafts).items()}


def compare_scores(
    prompts: Sequence[Prompt],
    drafts: Iterable[Draft],
    baseline_drafts: Iterable[Draft],
    scores: Scores,
    baseline_scores: Scores,
    baseline: str,
    tie_margin: float = 0.0,
) -> list[Comparison]:
    """Compare the mean gated scores of a prompt's drafts; a difference of at most `tie_margin` is a tie.

    One comparison for each prompt that has drafts on both sides; unknown where one side has no scored draft.
    """
    comparisons = []
    for prompt_id, ours, theirs in _sides(prompts, drafts, baseline_drafts):
        score, baseline_score = _mean_gated(ours, scores), _mean_gated(theirs, baseline_scores)
        outcome: Outcome = "unknown"
        if score is not None and baseline_score is not None:
            outcome = outcome_of(score, baseline_score, tie_margin)
        comparisons.append(_comparison(prompt_id, ours, theirs, baseline, score, baseline_score, outcome))
    return comparisons


def compare_preferences(
    prompts: Sequence[Prompt],
    drafts: Iterable[Draft],
    baseline_drafts: Iterable[Draft],
    preferences: Iterable[Preference],
    baseline: str,
    tie_margin: float = 0.0,
    scores: Scores | None = None,
    baseline_scores: Scores | None = None,
) -> list[Comparison]:
    """Compare by what a judge prefers, the two orders averaged; unknown where an order is missing.

    Equal texts are a tie. With p the probability that the policy's draft is better, the outcome is a tie where
    |2p - 1| <= `tie_margin`.
    Given scores, a draft that fails a gate loses to one that passes, and the comparison carries the gated scores; else
    it carries p and 1 - p.
    """
    shown: dict[frozenset[str], list[Preference]] = {}
    for preference in preferences:
        shown.setdefault(frozenset((preference.first_id, preference.second_id)), []).append(preference)
    comparisons = []
    for prompt_id, ours, theirs in _sides(prompts, drafts, baseline_drafts):
        found = [
            0.5
            if one.completion.strip() == other.completion.strip()
            else _probability(one.id, other.id, shown, scores or {}, baseline_scores or {})
            for one in ours
            for other in theirs
        ]
        known = [probability for probability in found if probability is not None]
        outcome: Outcome = "unknown"
        score, baseline_score = None, None
        if known:
            score, baseline_score = fmean(known), 1.0 - fmean(known)
            outcome = outcome_of(score, baseline_score, tie_margin)
        if scores is not None and baseline_scores is not None:
            score, baseline_score = _mean_gated(ours, scores), _mean_gated(theirs, baseline_scores)
        comparisons.append(_comparison(prompt_id, ours, theirs, baseline, score, baseline_score, outcome))
    return comparisons


def evaluate_policy(
    *,
    policy: Policy,
    baseline: str,
    split: Split,
    judge_name: str,
    self_judged: bool,
    prompts: Sequence[Prompt],
    drafts: Sequence[Draft],
    baseline_drafts: Sequence[Draft],
    scores: Scores,
    baseline_scores: Scores,
    comparisons: Sequence[Comparison],
    rubrics: RubricSet,
    seed: int,
    rubric_scores: Scores | None = None,
    baseline_rubric_scores: Scores | None = None,
) -> tuple[EvaluationResult, ...]:
    """Return the result over all prompts, then one for each kind that has a judged comparison.

    `rubric_scores` and `baseline_rubric_scores` are the training judge's, for the gate pass rate and the means by
    criterion; without them these come from `scores`. Win rate, means and gain always come from `comparisons`.

    Raises:
        JudgeError: no comparison was judged at all.
    """
    judged = {row.prompt_id for row in comparisons if row.outcome != "unknown"}
    if not judged:
        raise JudgeError(
            f"evaluate: 0 of {len(comparisons)} {split} comparisons with {baseline} were judged by {judge_name}; "
            "an evaluation needs at least one: read the failures in the verdicts file and run again"
        )
    kind_of = {prompt.id: rubrics.kind(prompt) for prompt in prompts}
    results = []
    for kind in (None, *rubrics.kinds):
        ids = {prompt_id for prompt_id, each in kind_of.items() if kind is None or each == kind}
        if not ids & judged:
            continue
        label = {"policy": policy, "baseline": baseline, "split": split, "judge": judge_name, "kind": kind}
        measured = _measure(
            [row for row in comparisons if row.prompt_id in ids],
            [draft for draft in drafts if draft.prompt_id in ids],
            [draft for draft in baseline_drafts if draft.prompt_id in ids],
            scores if rubric_scores is None else rubric_scores,
            baseline_scores if baseline_rubric_scores is None else baseline_rubric_scores,
            seed_of(seed, "evaluate", split, baseline, kind),
        )
        results.append(EvaluationResult.model_validate({**label, "self_judged": self_judged, **measured}))
    return tuple(results)


def performance_gap(
    against_base: Iterable[Comparison], against_teacher: Iterable[Comparison], seed: int
) -> GapRecovered:
    """Return how much of the base's distance to the teacher the policy closed, on prompts scored for all three."""
    teacher = {row.prompt_id: row.baseline_score for row in against_teacher}
    rows = [
        (row.baseline_score, row.score, top)
        for row in sorted(against_base, key=lambda row: row.prompt_id)
        if row.score is not None and row.baseline_score is not None and (top := teacher.get(row.prompt_id)) is not None
    ]
    before, after, best = ([row[arm] for row in rows] for arm in range(3))
    return gap_recovered(before, after, best, seed_of(seed, "performance_gap"))


def criterion_means(drafts: Iterable[Draft], scores: Scores) -> dict[str, float]:
    """Return the mean score of each criterion and gate over the drafts to which it applies."""
    found: dict[str, list[float]] = {}
    for draft in drafts:
        for each in scores[draft.id].criteria if draft.id in scores else ():
            if each.score is not None:
                found.setdefault(each.criterion, []).append(each.score)
    return {name: fmean(values) for name, values in found.items()}


def _measure(
    comparisons: Sequence[Comparison],
    drafts: Sequence[Draft],
    baseline_drafts: Sequence[Draft],
    scores: Scores,
    baseline_scores: Scores,
    seed: int,
) -> dict[str, Any]:
    """Return the numbers of an EvaluationResult."""
    ordered = sorted(comparisons, key=lambda row: row.prompt_id)
    rate = win_rate([row.outcome for row in ordered], seed)
    pairs = [
        (row.score, row.baseline_score) for row in ordered if row.score is not None and row.baseline_score is not None
    ]
    if not pairs:
        raise JudgeError("evaluate: drafts were compared but none was scored; expected scores beside the preferences")
    gain = paired_gain([score for score, _ in pairs], [score for _, score in pairs], seed)
    compared = {row.prompt_id for row in ordered}
    return {
        "wins": rate.wins,
        "losses": rate.losses,
        "ties": rate.ties,
        "unknown": rate.unknown,
        "win_rate": rate.value,
        "interval": rate.interval,
        "score": gain.score,
        "baseline_score": gain.baseline,
        "score_gain": gain.value,
        "score_gain_interval": gain.interval,
        "gate_pass_rate": gate_pass_rate(scores[draft.id].gates for draft in drafts if draft.id in scores),
        "length_ratio": length_ratio(
            [draft.completion for draft in drafts if draft.prompt_id in compared],
            [draft.completion for draft in baseline_drafts if draft.prompt_id in compared],
        ),
        "criteria": criterion_means(drafts, scores),
        "baseline_criteria": criterion_means(baseline_drafts, baseline_scores),
    }


def _sides(
    prompts: Sequence[Prompt], drafts: Iterable[Draft], baseline_drafts: Iterable[Draft]
) -> Iterable[tuple[str, list[Draft], list[Draft]]]:
    ours, theirs = _by_prompt(drafts), _by_prompt(baseline_drafts)
    for prompt in prompts:
        if prompt.id in ours and prompt.id in theirs:
            yield prompt.id, ours[prompt.id], theirs[prompt.id]


def _by_prompt(drafts: Iterable[Draft]) -> DraftsByPrompt:
    grouped: DraftsByPrompt = {}
    for draft in sorted(drafts, key=lambda draft: draft.index):
        grouped.setdefault(draft.prompt_id, []).append(draft)
    return grouped


def _mean_gated(drafts: Iterable[Draft], scores: Scores) -> float | None:
    known = [scores[draft.id].gated_score for draft in drafts if draft.id in scores]
    return fmean(known) if known else None


def _probability(
    draft_id: str,
    baseline_id: str,
    shown: Mapping[frozenset[str], Sequence[Preference]],
    scores: Scores,
    baseline_scores: Scores,
) -> float | None:
    """Return the probability that the draft is better; gates decide before preferences do."""
    fails = draft_id in scores and bool(scores[draft_id].gates)
    baseline_fails = baseline_id in baseline_scores and bool(baseline_scores[baseline_id].gates)
    if fails or baseline_fails:
        return (1.0 + baseline_fails - fails) / 2
    found = compare(shown.get(frozenset((draft_id, baseline_id)), ()), draft_id, baseline_id)
    return None if found is None else found.probability


def _comparison(
    prompt_id: str,
    drafts: Sequence[Draft],
    baseline_drafts: Sequence[Draft],
    baseline: str,
    score: float | None,
    baseline_score: float | None,
    outcome: Outcome,
) -> Comparison:
    return Comparison(
        prompt_id=prompt_id,
        draft_id=drafts[0].id,
        baseline=baseline,
        baseline_draft_id=baseline_drafts[0].id,
        score=score,
        baseline_score=baseline_score,
        outcome=outcome,
    )
