"""How good a policy is: its drafts on validation or test prompts, judged and compared with the baselines'."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from prefdistill.artefacts import adopt, claim
from prefdistill.assembly import Workshop
from prefdistill.drafting import Judged, Wanted, drafts_and_verdicts, judged_also
from prefdistill.errors import JudgeError, RecipeError
from prefdistill.metrics.scores import DraftScore, draft_scores
from prefdistill.passes import judge_in_passes
from prefdistill.plugins import name_of
from prefdistill.records import Comparison, Draft, EvaluationResult, Policy, Prompt, Split, Usage, Verdict, digest
from prefdistill.round import policy_fingerprint
from prefdistill.run import Fingerprints
from prefdistill.stages.evaluate import best_drafts, compare_preferences, compare_scores, evaluate_policy


@dataclass
class Measured:
    """A policy's (or the teacher's) drafts on one split, scored by each judge that can score a draft alone."""

    judged: Judged
    rubric: dict[str, DraftScore] = field(default_factory=dict)
    """By draft id, by the training judge."""
    held_out: dict[str, DraftScore] | None = None
    """By the evaluation judge; None when self-judged."""
    gold: dict[str, DraftScore] | None = None
    lowest: dict[str, float] = field(default_factory=dict)
    """What a cut draft counts on a custom judge's own scale, by kind of verdict: the base's lowest score."""
    chosen: frozenset[str] | None = None
    """Ids of the drafts that count, one a prompt, where several were written to choose from; None: all count."""

    @property
    def scores(self) -> dict[str, DraftScore]:
        """The scores that compare and select: by the evaluation judge."""
        return self.rubric if self.held_out is None else self.held_out

    @property
    def drafts(self) -> list[Draft]:
        """The drafts that count, by id."""
        found = [draft for _, draft in sorted(self.judged.drafts.items())]
        return found if self.chosen is None else [draft for draft in found if draft.id in self.chosen]

    @property
    def unchosen(self) -> list[Draft]:
        """A prompt's first draft each, as the policy writes when nobody chooses."""
        return [draft for _, draft in sorted(self.judged.drafts.items()) if draft.index == 0]

    def groups(self) -> dict[str, list[Draft]]:
        """Return each prompt's drafts that count; none where the judge could not choose."""
        drafts, choice = self.drafts, self.chosen is not None
        grouped: dict[str, list[Draft]] = {prompt.id: [] for prompt in self.judged.prompts}
        for draft in drafts:
            if not choice or draft.id in self.rubric:
                grouped[draft.prompt_id].append(draft)
        return grouped

    @property
    def usage(self) -> Usage:
        """What judging them cost."""
        rows = [verdict.usage for verdicts in self.judged.verdicts.values() for verdict in verdicts.values()]
        return sum(rows, Usage())


def mean_score(scores: Mapping[str, DraftScore] | None) -> float | None:
    """Return the mean score, a gate failure counting 0; None where nothing was scored."""
    return fmean(score.gated_score for score in scores.values()) if scores else None


def measure(
    shop: Workshop, who: Policy | str, split: str, folder: Path, prefix: str, base: Measured | None = None
) -> Measured:
    """Write and judge a split's drafts: by a policy, or by "teacher"; `base` is None for the base as a baseline.

    Baselines write one draft a prompt; a policy writes `evaluate.best_of`, of which the training judge's best counts.
    """
    recipe = shop.recipe
    judges = scoring_judges(shop)
    lowest = None if base is None else base.lowest
    choices = 1 if base is None or isinstance(who, str) else recipe.evaluate.best_of
    given = tuple(base.drafts) if base is not None and isinstance(who, Policy) and who.adapter is None else ()
    kind: Split = "validation" if split == "validation" else "test"
    return _measure(shop, who, kind, folder, prefix, judges, lowest, choices, given)


def scoring_judges(shop: Workshop) -> dict[str, Any]:
    """Return who scores a policy's drafts, by kind of verdict: those that can tell of one draft alone."""
    recipe = shop.recipe
    judges: dict[str, Any] = {}
    if getattr(shop.judge, "scores_alone", True):
        judges["verdicts"] = shop.judge
    if recipe.held_out_judge is not None and getattr(recipe.held_out_judge, "scores_alone", True):
        judges["held-out"] = recipe.held_out_judge
    if recipe.evaluate.gold is not None:
        judges["gold"] = recipe.evaluate.gold
    return judges


def measure_also(
    shop: Workshop, policy: Policy, folder: Path, prefix: str, base: Mapping[str, Measured] | None = None
) -> dict[str, Measured]:
    """Write and judge a policy's drafts of every task of `evaluate.also`, by task name."""
    found = {}
    for name, task in shop.also.items():
        judges = {"verdicts": task.own_judge or shop.judge}
        lowest = None if base is None else base[name].lowest
        found[name] = _measure(task, policy, "validation", folder, f"{prefix}also-{name}-", judges, lowest)
    return found


def _measure(
    shop: Workshop,
    who: Policy | str,
    split: Split,
    folder: Path,
    prefix: str,
    judges: Mapping[str, Any],
    lowest: Mapping[str, float] | None,
    choices: int = 1,
    given: tuple[Draft, ...] = (),
) -> Measured:
    prompts = shop.limited(split)
    wanted = wanted_drafts(shop, who, split, folder, prefix, choices, given)
    if choices > 1:
        return _measure_best(shop, wanted, judges, lowest or {})
    judged = drafts_and_verdicts(shop, wanted, judges)
    found, own = {}, {}
    for kind, verdicts in judged.verdicts.items():
        drafts = judged.drafts.values()
        known = None if lowest is None or kind == "gold" else lowest.get(kind)
        found[kind] = draft_scores(verdicts.values(), drafts, prompts, shop.rubrics, known)
        if lowest is None and kind != "gold" and found[kind]:
            own[kind] = min(score.score for score in found[kind].values())
            found[kind] = draft_scores(verdicts.values(), drafts, prompts, shop.rubrics, own[kind])
    return Measured(judged, found.get("verdicts", {}), found.get("held-out"), found.get("gold"), own)


def wanted_drafts(
    shop: Workshop,
    who: Policy | str,
    split: Split,
    folder: Path,
    prefix: str,
    choices: int = 1,
    given: tuple[Draft, ...] = (),
) -> Wanted:
    """Return what drafts a policy, or "teacher", is to write on a split."""
    policy = None if isinstance(who, str) else who
    return Wanted(
        folder=folder,
        prefix=prefix,
        prompts=shop.limited(split),
        policy=policy,
        source="teacher" if policy is None else "base" if policy.adapter is None else "student",
        round=0 if policy is None else policy.round,
        purpose=split,
        drafts=choices,
        temperature=shop.recipe.evaluate.temperature,
        top_p=shop.recipe.evaluate.top_p,
        policy_fingerprint="" if policy is None else policy_fingerprint(shop, policy),
        given=given,
    )


def _measure_best(shop: Workshop, wanted: Wanted, judges: Mapping[str, Any], lowest: Mapping[str, float]) -> Measured:
    """Have the training judge choose one of a prompt's drafts, and the other judges score the chosen one alone."""
    judged = drafts_and_verdicts(shop, wanted, {"verdicts": judges["verdicts"]})
    scores = _scores(shop, wanted, judged, "verdicts", judged.drafts.values(), lowest)
    best = {draft.id: draft for draft in best_drafts(judged.drafts.values(), scores).values()}
    known = {key: draft for key, draft in best.items() if key in scores}
    found = {"verdicts": {key: scores[key] for key in known}}
    of_best = Judged(wanted.prompts, known, fingerprint=judged.fingerprint)
    for kind, judge in judges.items():
        if kind != "verdicts":
            judged.verdicts[kind] = judged_also(shop, wanted, of_best, kind, judge)
            found[kind] = _scores(shop, wanted, judged, kind, known.values(), lowest)
    return Measured(judged, found["verdicts"], found.get("held-out"), found.get("gold"), chosen=frozenset(best))


def _scores(
    shop: Workshop, wanted: Wanted, judged: Judged, kind: str, drafts: Iterable[Draft], lowest: Mapping[str, float]
) -> dict[str, DraftScore]:
    verdicts = judged.verdicts[kind].values()
    return draft_scores(verdicts, drafts, wanted.prompts, shop.rubrics, None if kind == "gold" else lowest.get(kind))


def compare(
    shop: Workshop, ours: Measured, theirs: Measured, baseline: str, folder: Path, prefix: str
) -> list[Comparison]:
    """Compare two sets of drafts prompt by prompt, by scores or by asking for both orders.

    Raises:
        RecipeError: the evaluation judge cannot do what `evaluate.compare` asks for.
    """
    prompts, margin = ours.judged.prompts, shop.recipe.evaluate.tie_margin
    if ours is theirs:  # the base is the kept policy: the same drafts, so there is nothing to ask
        return [
            Comparison(
                prompt_id=draft.prompt_id,
                draft_id=draft.id,
                baseline=baseline,
                baseline_draft_id=draft.id,
                score=(known := ours.scores.get(draft.id)) and known.gated_score,
                baseline_score=known and known.gated_score,
                outcome="tie",
            )
            for draft in ours.drafts
        ]
    if shop.recipe.evaluate.compare == "scores":
        if not ours.scores:
            raise RecipeError(
                "evaluate.compare is scores, but the evaluation judge gives no scores to single drafts; "
                "set evaluate.compare: both_orders, or name an evaluate.judge that scores"
            )
        return compare_scores(prompts, ours.drafts, theirs.drafts, ours.scores, theirs.scores, baseline, margin)
    preferences = _both_orders(shop, ours, theirs, baseline, folder, prefix)
    scored = bool(ours.scores and theirs.scores)
    rows = compare_preferences(
        prompts,
        ours.drafts,
        theirs.drafts,
        [preference for verdict in preferences.values() for preference in verdict.preferences],
        baseline,
        margin,
        ours.scores if scored else None,
        theirs.scores if scored else None,
    )
    unknown = {"score": None, "baseline_score": None, "outcome": "unknown"}
    groups = ours.groups()
    return [row if groups[row.prompt_id] else row.model_copy(update=unknown) for row in rows]


def _both_orders(
    shop: Workshop, ours: Measured, theirs: Measured, baseline: str, folder: Path, prefix: str
) -> dict[str, Verdict]:
    """Have the evaluation judge compare the two drafts of each prompt in both orders; resumable by prompt."""
    judge: Any = shop.recipe.held_out_judge or shop.judge
    judge = judge.comparer() if hasattr(judge, "comparer") else judge
    file = shop.run.rows(folder, f"{prefix}preferences-{baseline}.jsonl", Verdict)
    fingerprint = digest([ours.judged.fingerprint, theirs.judged.fingerprint, shop.judge_fingerprint(judge)])
    name = f"{prefix}preferences-{baseline}"
    adopt(shop, folder, name, fingerprint, [file.path])
    claim(shop, folder, name, "evaluate", fingerprint, [file.path])
    done = file.read()
    mine, other = ours.groups(), theirs.groups()
    owed: list[tuple[Prompt, Sequence[Draft]]] = [
        (prompt, [*mine[prompt.id], *other[prompt.id]])
        for prompt in ours.judged.prompts
        if mine[prompt.id]
        and other.get(prompt.id)
        and mine[prompt.id][0].id != other[prompt.id][0].id
        and _is_owed(done.get(prompt.id), [*mine[prompt.id], *other[prompt.id]])
    ]
    try:
        for verdict in judge_in_passes(shop, judge, owed):
            file.append(verdict)
    finally:
        file.close()
    verdicts = file.finish()
    rows = None if any(verdict.owed for verdict in verdicts.values()) else len(verdicts)
    Fingerprints(folder).note(name, fingerprint, rows)
    return verdicts


def _is_owed(verdict: Verdict | None, drafts: Sequence[Draft]) -> bool:
    """Whether two drafts must be compared: never done, failed in a way that may pass, or others were compared."""
    if verdict is None or verdict.owed:
        return True
    named = {key for each in verdict.preferences for key in (each.first_id, each.second_id)}
    named |= {key for failure in verdict.failures for key in failure.key.split("|")}
    return not named <= {draft.id for draft in drafts}


def evaluate(
    shop: Workshop,
    policy: Policy,
    split: str,
    ours: Measured,
    baselines: Mapping[str, Measured],
    folder: Path,
    prefix: str,
) -> tuple[tuple[EvaluationResult, ...], dict[str, list[Comparison]]]:
    """Return the results against each baseline, for all prompts and per kind, and the comparisons behind them.

    Raises:
        JudgeError: not one comparison with a baseline was judged.
    """
    results: list[EvaluationResult] = []
    compared: dict[str, list[Comparison]] = {}
    judge: Any = shop.recipe.held_out_judge or shop.judge
    for name, theirs in baselines.items():
        rows = compare(shop, ours, theirs, name, folder, prefix)
        compared[name] = rows
        if not any(row.outcome != "unknown" for row in rows):
            raise JudgeError(
                f"{folder}: none of the {len(rows)} comparisons with the {name} could be judged; expected at least one: "
                f"see the failures in {prefix}verdicts.jsonl and mend the judge"
            )
        results += evaluate_policy(
            policy=policy,
            baseline=name,
            split="validation" if split == "validation" else "test",
            judge_name=name_of(judge),
            self_judged=shop.recipe.held_out_judge is None,
            prompts=ours.judged.prompts,
            drafts=ours.drafts,
            baseline_drafts=theirs.drafts,
            scores=ours.scores,
            baseline_scores=theirs.scores,
            comparisons=rows,
            rubrics=shop.rubrics,
            seed=shop.recipe.seed,
            rubric_scores=ours.rubric or None,
            baseline_rubric_scores=theirs.rubric or None,
        )
    shop.run.rows(folder, f"{prefix}comparisons.jsonl", Comparison).rewrite(
        row for rows in compared.values() for row in rows
    )
    return tuple(results), compared
