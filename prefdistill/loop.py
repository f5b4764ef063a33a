"""The rounds. If you open one file, open this one: `run_rounds` is the whole job, top to bottom.

Each round samples drafts from the current policy, has them judged, ranks and pairs them, trains on the pairs and
measures the new policy on validation prompts. The best round by the evaluation judge is kept (the base is round 0),
and the test split is touched once, by it.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from prefdistill.accounts import round_result, round_zero
from prefdistill.assembly import Workshop, adopt_recipe, opened
from prefdistill.costs.watch import Watch
from prefdistill.drafting import Judged, Wanted, drafts_and_verdicts
from prefdistill.evaluation import Measured, evaluate, measure
from prefdistill.recipe import Recipe
from prefdistill.records import Policy, PreferencePair, Prompt, RoundResult
from prefdistill.result import Outcome, write_result
from prefdistill.round import StarvedError, mixed_past, policy_fingerprint, rank_and_pair, train_policy
from prefdistill.run import RunDirectory, disk_errors, read_json, write_json
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
    watch = Watch(display.progress, display.note)
    with run.locked(), opened(recipe, run, watch.progress, redo_from) as shop:
        watch.begin(shop)
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
        paired = rank_and_pair(shop, number, judged)
        past[number] = paired.pairs
        try:
            mixed = mixed_past(shop, number, paired.pairs, past)
            on = probes(shop, judged, measured[number - 1])
            trained = train_policy(shop, number, paired, mixed, previous, on)
        except StarvedError as problem:
            if number == 1:
                raise
            outcome.warnings.append(f"stopped before round {number}: {problem}")
            display.note(outcome.warnings[-1])
            break
        outcome.policies[number] = trained.policy
        ours = measured[number] = measure(shop, trained.policy, "validation", shop.run.round(number), "6-")
        result = round_result(shop, number, judged, paired.pairs, paired.drops, trained, ours, baselines)
        outcome.rounds.append(result)
        display.round_done(result)
    chosen = chosen_before(shop, outcome.rounds)
    outcome.best_round = best_round(outcome.rounds) if chosen is None else chosen
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


def chosen_before(shop: Workshop, rounds: Sequence[RoundResult]) -> int | None:
    """Return the round that was kept before a prompt was forgotten; its verdicts had a part in that choice."""
    if not shop.forgotten or not shop.run.result.exists():
        return None
    result = read_json(shop.run.result)
    return result["best_round"] if len(result["rounds"]) == len(rounds) else None


def best_round(rounds: Sequence[RoundResult]) -> int:
    """Return the best round by validation, the earliest of equal ones."""
    return max(rounds, key=lambda result: (selection_score(result), -result.round)).round


def keep_policy(outcome: Outcome) -> None:
    """Copy the best round's adapter to `policy/`; the base needs no adapter."""
    run, policy = outcome.shop.run, outcome.policy
    with disk_errors(run.policy):
        shutil.rmtree(run.policy, ignore_errors=True)
        run.policy.mkdir(parents=True)
        if policy.adapter is not None:
            shutil.copytree(run.path / policy.adapter, run.policy, dirs_exist_ok=True)
    write_json(run.policy / "policy.json", policy.model_dump(mode="json"))
