"""The rounds. If you open one file, open this one: `run_rounds` is the whole job, top to bottom.

Each round samples drafts from the current policy, has them judged, ranks and pairs them, trains on the pairs and
measures the new policy on validation prompts. The best round by the evaluation judge is kept (the base is round 0),
and the test split is touched once, by it.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Protocol

from prefdistill.assembly import Workshop, adopt_recipe, opened
from prefdistill.evaluation import Measured, evaluate, mean_score, measure
from prefdistill.recipe import Recipe
from prefdistill.records import (
    Drop,
    EvaluationResult,
    Failure,
    Policy,
    PreferencePair,
    Prompt,
    RoundResult,
    TrainResult,
    Usage,
    Verdict,
)
from prefdistill.result import Outcome, write_result
from prefdistill.round import (
    Judged,
    StarvedError,
    Wanted,
    drafts_and_verdicts,
    mixed_past,
    policy_fingerprint,
    rank_and_pair,
    train_policy,
)
from prefdistill.rubric import COMPLETE
from prefdistill.run import Fingerprints, RunDirectory, write_json
from prefdistill.stages.load import round_slices


class Display(Protocol):
    """What a run tells the person who watches it."""

    def progress(self, stage: str, done: int, total: int, note: str) -> None:
        """Move the progress of a stage."""

    def note(self, text: str) -> None:
        """Show a line about the run."""

    def round_done(self, result: RoundResult) -> None:
        """Show a finished round; round 0 is the base."""


class Silent:
    """A display that shows nothing."""

    def progress(self, stage: str, done: int, total: int, note: str) -> None:
        """Show nothing."""

    def note(self, text: str) -> None:
        """Show nothing."""

    def round_done(self, result: RoundResult) -> None:
        """Show nothing."""


def run_recipe(
    recipe: Recipe,
    path: Path | None = None,
    display: Display | None = None,
    redo_from: str | None = None,
    texts: bool = True,
) -> Outcome:
    """Run a recipe in its run folder, going on where an earlier process stopped.

    Args:
        recipe: from `load_recipe`.
        path: the run folder; `runs/<recipe name>` by default.
        display: what shows the progress; nothing by default.
        redo_from: the stage from which stale artefacts are made again; what they replace is kept.
        texts: whether report.html shows prompts and drafts.

    Raises:
        PrefdistillError: with where, what was found, what was expected and what to do.
    """
    run, display = RunDirectory(path or Path("runs") / recipe.name), display or Silent()
    with run.locked(), opened(recipe, run, display.progress, redo_from) as shop:
        outcome = run_rounds(shop, display)
        keep_policy(outcome)
        adopt_recipe(shop)
        write_result(outcome, texts)
        return outcome


def run_rounds(shop: Workshop, display: Display) -> Outcome:
    """Measure the base, run every round, and measure the best policy on the test split."""
    recipe, outcome = shop.recipe, Outcome(shop, policies={0: shop.base})
    for text in shop.notes:
        display.note(text)
    slices = round_slices(shop.prompts.of("train"), recipe.loop.rounds, recipe.loop.prompts_per_round, recipe.seed)
    baselines = measure_baselines(shop, "validation")
    outcome.rounds.append(round_zero(shop, baselines))
    display.round_done(outcome.rounds[0])
    past: dict[int, Sequence[PreferencePair]] = {}
    measured = {0: baselines["base"]}
    for number, prompts in enumerate(slices, start=1):
        previous = outcome.policies[number - 1]
        sampled = shop.base if recipe.loop.mode == "offline" else previous
        judged = drafts_and_verdicts(shop, train_drafts(shop, number, prompts, sampled), {"verdicts": shop.judge})
        _, pairs, drops = rank_and_pair(shop, number, judged)
        past[number] = pairs
        try:
            training_pairs = (*pairs, *mixed_past(shop, number, pairs, past))
            trained = train_policy(shop, number, training_pairs, previous, probes(shop, judged, measured[number - 1]))
        except StarvedError as problem:
            if number == 1:
                raise
            outcome.warnings.append(f"stopped before round {number}: {problem}")
            display.note(outcome.warnings[-1])
            break
        outcome.policies[number] = trained.policy
        ours = measured[number] = measure(shop, trained.policy, "validation", shop.run.round(number), "6-")
        result = round_result(shop, number, judged, pairs, drops, trained, ours, baselines)
        outcome.rounds.append(result)
        display.round_done(result)
    outcome.best_round = best_round(outcome.rounds)
    measure_test(outcome)
    return outcome


def probes(shop: Workshop, judged: Judged, previous: Measured) -> Judged:
    """Return drafts written by the previous policy, on which the update's KL is estimated.

    The estimator needs samples of the policy that it measures from: the round's own drafts where that policy wrote
    them, else its validation drafts (at `evaluate.temperature`, so the estimate is then approximate).
    """
    wrote = shop.recipe.sample.drafts_from is None and all(
        draft.policy == previous.drafts[0].policy for draft in judged.drafts.values() if draft.source == "student"
    )
    return judged if wrote and previous.drafts else previous.judged


def train_drafts(shop: Workshop, number: int, prompts: tuple[Prompt, ...], policy: Policy) -> Wanted:
    """Return what a round's training drafts should be."""
    recipe = shop.recipe
    return Wanted(
        folder=shop.run.round(number),
        prefix="",
        prompts=prompts,
        policy=policy,
        source="student",
        round=number,
        purpose="train",
        drafts=recipe.sample.drafts,
        temperature=recipe.sample.temperature,
        top_p=recipe.sample.top_p,
        policy_fingerprint=policy_fingerprint(shop, policy),
        stage="sample",
    )


def measure_baselines(shop: Workshop, split: str) -> dict[str, Measured]:
    """Measure base and teacher on a split, once a run."""
    return {
        name: measure(shop, shop.base if name == "base" else name, split, shop.run.baselines, f"{name}-{split}-")
        for name in shop.recipe.evaluate.baselines
    }


def measure_test(outcome: Outcome) -> None:
    """Measure the kept policy and the baselines on the test split."""
    shop, policy = outcome.shop, outcome.policy
    baselines = measure_baselines(shop, "test")
    folder = shop.run.test(policy.round)
    ours = baselines["base"] if policy.adapter is None else measure(shop, policy, "test", folder, "")
    outcome.test, outcome.test_comparisons = evaluate(shop, policy, "test", ours, baselines, folder, "")
    outcome.test_measured = {"policy": ours, **baselines}


def selection_score(result: RoundResult) -> float:
    """Return what the best round is chosen by: the evaluation judge's mean score on validation, else the win rate."""
    if result.held_out_score is not None:
        return result.held_out_score
    if result.rubric_score is not None:
        return result.rubric_score
    return next((each.win_rate for each in result.evaluation if each.baseline == "base" and each.kind is None), 0.5)


def best_round(rounds: Sequence[RoundResult]) -> int:
    """Return the best round by validation, the earliest of equal ones."""
    return max(rounds, key=lambda result: (selection_score(result), -result.round)).round


def round_zero(shop: Workshop, baselines: Mapping[str, Measured]) -> RoundResult:
    """Return the base's own result."""
    base, others = baselines["base"], {name: each for name, each in baselines.items() if name != "base"}
    evaluation: tuple[EvaluationResult, ...] = ()
    if others:
        evaluation, _ = evaluate(shop, shop.base, "validation", base, others, shop.run.baselines, "base-validation-")
    marks = Fingerprints(shop.run.baselines)
    result = RoundResult(
        round=0,
        drafts=0,
        judged=0,
        failed=len(base.judged.failures),
        pairs=0,
        evaluation=evaluation,
        **_measured_scores(base, baselines),
        evaluation_usage=sum((each.usage for each in baselines.values()), Usage()),
        seconds={"evaluate": sum(marks.seconds(name) for name in marks.entries if "-validation-" in name)},
        warnings=_failure_warnings(base.judged, base.judged.verdicts),
    )
    write_json(shop.run.baselines / "round.json", result.model_dump(mode="json"))
    return result


def round_result(
    shop: Workshop,
    number: int,
    judged: Judged,
    pairs: Sequence[PreferencePair],
    drops: Sequence[Drop],
    trained: TrainResult,
    ours: Measured,
    baselines: Mapping[str, Measured],
) -> RoundResult:
    """Evaluate the round's policy, put everything about the round into one record, and write it last."""
    folder, marks = shop.run.round(number), Fingerprints(shop.run.round(number))
    evaluation, _ = evaluate(shop, trained.policy, "validation", ours, baselines, folder, "6-")
    verdicts = judged.verdicts["verdicts"]
    failures = [*judged.failures, *(failure for verdict in verdicts.values() for failure in verdict.failures)]
    result = RoundResult(
        round=number,
        drafts=len(judged.drafts),
        judged=len(_judged_ids(verdicts)),
        failed=len(failures),
        failures=dict(Counter(f"{failure.stage}.{failure.kind}" for failure in failures)),
        pairs=len(pairs),
        drops=dict(Counter(drop.reason for drop in drops)),
        counts=_counts(judged, pairs),
        kinds=_kinds(shop, judged, verdicts, pairs, drops, ours),
        train=trained,
        evaluation=evaluation,
        **_measured_scores(ours, baselines),
        usage=sum((verdict.usage for verdict in verdicts.values()), Usage()),
        evaluation_usage=ours.usage,
        seconds={
            "sample": marks.seconds("drafts"),
            "judge": marks.seconds("verdicts"),
            "train": marks.seconds("policy"),
            "evaluate": sum(marks.seconds(name) for name in marks.entries if name.startswith("6-")),
        },
        warnings=(
            *_failure_warnings(judged, {"verdicts": verdicts}),
            *_failure_warnings(ours.judged, ours.judged.verdicts),
            *trained.warnings,
        ),
    )
    write_json(folder / "round.json", result.model_dump(mode="json"))
    return result


def _measured_scores(ours: Measured, baselines: Mapping[str, Measured]) -> dict[str, float | None]:
    tokens = [draft.tokens for draft in ours.drafts if draft.tokens is not None]
    teacher = baselines.get("teacher")
    return {
        "rubric_score": mean_score(ours.rubric),
        "held_out_score": mean_score(ours.held_out),
        "gold": mean_score(ours.gold),
        "baseline_rubric_score": mean_score(baselines["base"].rubric),
        "teacher_rubric_score": mean_score(teacher.rubric) if teacher else None,
        "mean_tokens": fmean(tokens) if tokens else None,
    }


def _judged_ids(verdicts: Mapping[str, Verdict]) -> set[str]:
    """Return the drafts that have a judgement or stand in a comparison."""
    found = {judgement.draft_id for verdict in verdicts.values() for judgement in verdict.judgements}
    preferences = [preference for verdict in verdicts.values() for preference in verdict.preferences]
    return found | {key for preference in preferences for key in (preference.first_id, preference.second_id)}


def _counts(judged: Judged, pairs: Sequence[PreferencePair]) -> dict[str, float]:
    """Return shares that tell at a glance whether a round's data is sound."""
    drafts, groups = list(judged.drafts.values()), [group for group in judged.groups().values() if len(group) > 1]
    tokens = [draft.tokens for draft in drafts if draft.tokens is not None]
    counts: dict[str, float] = {
        "prompts": len(judged.prompts),
        "truncated_share": fmean(draft.finish_reason == "length" for draft in drafts) if drafts else 0.0,
    }
    if tokens:
        counts["mean_tokens"] = fmean(tokens)
    if groups:
        distinct = [len({draft.completion.strip() for draft in group}) for group in groups]
        counts["identical_share"] = 1.0 - sum(distinct) / sum(map(len, groups))
    if pairs:
        counts["mean_margin"] = fmean(pair.margin for pair in pairs)
        counts["chosen_longer_share"] = fmean(len(pair.chosen.split()) > len(pair.rejected.split()) for pair in pairs)
    return counts


def _kinds(
    shop: Workshop,
    judged: Judged,
    verdicts: Mapping[str, Verdict],
    pairs: Sequence[PreferencePair],
    drops: Sequence[Drop],
    ours: Measured,
) -> dict[str, dict[str, float]]:
    """Return every count and score per kind of prompt, where the recipe has several rubrics."""
    table: dict[str, dict[str, float]] = {}
    for kind in shop.rubrics.kinds:
        ids = {prompt.id for prompt in judged.prompts if shop.rubrics.kind(prompt) == kind}
        measured = {prompt.id for prompt in ours.judged.prompts if shop.rubrics.kind(prompt) == kind}
        mine = {prompt_id: verdict for prompt_id, verdict in verdicts.items() if prompt_id in ids}
        row: dict[str, float] = {
            "prompts": len(ids),
            "drafts": sum(draft.prompt_id in ids for draft in judged.drafts.values()),
            "judged": len(_judged_ids(mine)),
            "failed": sum(len(verdict.failures) for verdict in mine.values()),
            "pairs": sum(pair.prompt_id in ids for pair in pairs),
        }
        row |= {f"drop_{r}": n for r, n in Counter(d.reason for d in drops if d.prompt_id in ids).items()}
        for name, scores in (("rubric_score", ours.rubric), ("held_out_score", ours.held_out), ("gold", ours.gold)):
            of_kind = {key: score for key, score in (scores or {}).items() if key.split("/")[0] in measured}
            mean = mean_score(of_kind)
            if mean is not None:
                row[name] = mean
        table[kind] = row
    return table


def _failure_warnings(judged: Judged, verdicts: Mapping[str, Mapping[str, Verdict]]) -> tuple[str, ...]:
    """Return a line for each kind of failure, and one for drafts cut at the token limit."""
    lines = []
    failures: list[Failure] = [
        *judged.failures,
        *(failure for each in verdicts.values() for verdict in each.values() for failure in verdict.failures),
    ]
    for (stage, kind), count in sorted(Counter((failure.stage, failure.kind) for failure in failures).items()):
        first = next(failure.message for failure in failures if (failure.stage, failure.kind) == (stage, kind))
        lines.append(f"{count} {stage} failures ({kind}), left out of every label and score; the first: {first[:200]}")
    cut = sum(draft.finish_reason == "length" for draft in judged.drafts.values())
    if judged.drafts and cut > 0.01 * len(judged.drafts):
        lines.append(
            f"{cut} of {len(judged.drafts)} drafts were cut at sample.max_new_tokens (gate `{COMPLETE}`): neither chosen "
            "nor rejected, and 0 in every mean; raise it"
        )
    return tuple(lines)


def keep_policy(outcome: Outcome) -> None:
    """Copy the best round's adapter to `policy/`; the base needs no adapter."""
    run, policy = outcome.shop.run, outcome.policy
    shutil.rmtree(run.policy, ignore_errors=True)
    run.policy.mkdir(parents=True)
    if policy.adapter is not None:
        shutil.copytree(run.path / policy.adapter, run.policy, dirs_exist_ok=True)
    write_json(run.policy / "policy.json", policy.model_dump(mode="json"))
