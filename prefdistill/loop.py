"""The rounds. If you open one file, open this one: `run_rounds` is the whole job, top to bottom.

Each round samples drafts from the current policy, has them judged, ranks and pairs them, trains on the pairs and
measures the new policy on validation prompts. The best round by the evaluation judge is kept (the base is round 0),
and the test split is touched once, by it.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from prefdistill import __version__, replay, warm_pairs
from prefdistill.accounts import round_result, round_zero
from prefdistill.answers import write_answers
from prefdistill.artefacts import set_aside_from
from prefdistill.assembly import Workshop, adopt_recipe, opened, train_prompts
from prefdistill.costs.watch import Watch
from prefdistill.drafting import Judged, Wanted, drafts_and_verdicts
from prefdistill.evaluation import Measured, evaluate, measure, measure_also
from prefdistill.guard import Decision, StoppedError, best_round, decide, stop_text
from prefdistill.log import Display, Logged, Silent
from prefdistill.protocols import learns_from
from prefdistill.recipe import Recipe
from prefdistill.records import Policy, Prompt, RoundResult, rounds_text
from prefdistill.remedies import applicable, condemn, finish_condemning
from prefdistill.result import Outcome, write_result
from prefdistill.round import (
    Paired,
    StarvedError,
    TrainingRow,
    mixed_past,
    policy_fingerprint,
    rank_and_pair,
    train_policy,
)
from prefdistill.run import RunDirectory, disk_errors, read_json, write_json
from prefdistill.soundness import Watched, data_findings
from prefdistill.sources import require_source

WHAT_IS_LEFT = (
    "every round's policy and drafts are kept; set loop.on_stop: keep_best to keep the best of them, or loop.stop: never "
    "to go on"
)
OF_EARLIER = "result.json, report.html and policy/ are those of an earlier ending of this run"


def run_recipe(
    recipe: Recipe,
    path: Path | None = None,
    display: Display | None = None,
    redo_from: str | None = None,
    texts: bool = True,
    redo_round: int | None = None,
    siblings: Sequence[RunDirectory] = (),
) -> Outcome:
    """Run a recipe in its run folder, going on where an earlier process stopped.

    Args:
        recipe: from `load_recipe`.
        path: the run folder; `runs/<recipe name>` by default.
        display: what shows the progress; nothing by default.
        redo_from: the stage from which stale artefacts are made again; what they replace is kept.
        texts: whether report.html shows prompts and drafts.
        redo_round: with `redo_from`: everything from that stage of this round on is made again, stale or not.
        siblings: runs of the same comparison, from which finished artefacts that were made from the same inputs are copied.

    Raises:
        PrefdistillError: with where, what was found, what was expected and what to do.
    """
    run, shown = RunDirectory(path or Path("runs") / recipe.name), display or Silent()
    require_source(recipe, run, redo_from, redo_round)
    watch = Watch(shown.progress, shown.note)
    with run.locked(), opened(recipe, run, watch.progress, redo_from if redo_round is None else None) as shop:
        shop.siblings = tuple(siblings)
        if redo_round is not None and redo_from is not None:
            shown.note(set_aside_from(shop, redo_round, redo_from))
        watch.begin(shop)
        log = Logged(shown, run.log, run.finished_rounds())
        log.write(
            f"started: prefdistill {__version__}, {recipe.loop.mode}, "
            f"{rounds_text(recipe.loop.rounds, recipe.warm_start is not None)}, seed {recipe.seed}"
        )
        outcome = run_rounds(shop, log)
        keep_policy(outcome)
        adopt_recipe(shop)
        for text in write_result(outcome, texts):
            log.note(text)
        log.write(f"ended: round {outcome.best_round} is kept")
        return outcome


def run_rounds(shop: Workshop, display: Display) -> Outcome:
    """Measure the base, run every round until a stop rule ends it, and measure the best policy on the test split."""
    recipe, outcome = shop.recipe, Outcome(shop, policies={0: shop.base})
    for text in shop.notes:
        display.note(text)
    state = State(measure_baselines(shop, "validation"), measure_also(shop, shop.base, shop.run.baselines, "base-"))
    outcome.rounds.append(round_zero(shop, state.baselines, state.also))
    display.round_done(outcome.rounds[0])
    for number, prompts in enumerate(train_prompts(recipe, shop.prompts), start=1):
        begin, previous = outcome.policies[recipe.begins_with(number)], outcome.policies[number - 1]
        sampled = begin if recipe.loop.mode == "offline" else previous
        finish_condemning(shop, number)
        if recipe.pairs_from(number) is not None:
            take = replay.replay if recipe.warm_start is None else warm_pairs.warm_pairs
            judged, paired = take(shop, number)
        elif learns_from(shop.trainer_of(number)) == "answers":
            judged, paired = write_answers(shop, number, prompts)
        else:
            judged = drafts_and_verdicts(shop, train_drafts(shop, number, prompts, sampled), {"verdicts": shop.judge})
            paired = rank_and_pair(shop, number, judged)
        state.pairs[number] = paired.rows
        try:
            result, decision = train_and_decide(outcome, state, number, judged, paired, display)
        except StarvedError as problem:
            starved = "; ".join([str(problem), *data_findings(shop, number, judged, paired.rows, paired.drops)])
            if number == 1:
                raise StarvedError(starved) from None
            outcome.stopped = f"stopped before round {number}: {starved}"
            display.note(outcome.stopped)
            break
        outcome.rounds.append(result)
        display.round_done(result)
        if decision.finding is not None:
            outcome.stopped = stop_text(result, decision.finding)
            display.note(outcome.stopped.split(": ")[0])  # its finding was shown with the round
            break
    if outcome.stopped and recipe.loop.on_stop == "raise":
        earlier = f"; {OF_EARLIER}" if shop.run.result.exists() else ""
        raise StoppedError(f"{shop.run.path}: {outcome.stopped}; {WHAT_IS_LEFT}{earlier}")
    chosen = chosen_before(shop, outcome.rounds)
    last = outcome.rounds[-1].round
    kept = best_round(outcome.rounds) if recipe.loop.keep == "best" else last
    outcome.best_round = kept if chosen is None else chosen
    measure_test(outcome)
    return outcome


@dataclass
class State:
    """What later rounds need of earlier ones."""

    baselines: dict[str, Measured]
    also: dict[str, Measured]
    """The base's drafts of the tasks of `evaluate.also`."""
    pairs: dict[int, Sequence[TrainingRow]] = field(default_factory=dict)
    """What was trained on, by round."""
    measured: dict[int, Measured] = field(default_factory=dict)
    """Each round's validation drafts; round 0 is the base."""

    def __post_init__(self) -> None:
        self.measured[0] = self.baselines["base"]


def train_and_decide(
    outcome: Outcome, state: State, number: int, judged: Judged, paired: Paired, display: Display
) -> tuple[RoundResult, Decision]:
    """Train and measure a round, once more with a remedy where the guard asks for it; return it and what follows."""
    shop, remedy = outcome.shop, outcome.shop.recipe.loop.remedy
    result = train_and_measure(outcome, state, number, judged, paired)
    decision = decide(result, remedy, applicable(shop, number))
    if decision.action != "retry" or decision.finding is None:
        return result, decision
    display.round_done(result)
    display.note(f"round {number} is trained once more: {condemn(shop, number, decision.finding)}")
    result = train_and_measure(outcome, state, number, judged, paired)
    return result, decide(result, remedy, ())


def train_and_measure(outcome: Outcome, state: State, number: int, judged: Judged, paired: Paired) -> RoundResult:
    """Train a round's policy on its pairs and on past ones, measure it, and return all that the round came to."""
    shop, previous = outcome.shop, outcome.policies[number - 1]
    first = shop.recipe.begins_with(number)
    before = outcome.policies.get(number - 2)
    mixed = mixed_past(shop, number, paired.rows, state.pairs)
    on = probes(shop, judged, state.measured[number - 1])
    trained = train_policy(shop, number, paired, mixed, previous, on, outcome.policies[first], before)
    outcome.policies[number] = trained.policy
    folder, base = shop.run.round(number), state.baselines["base"]
    state.measured[number] = measure(shop, trained.policy, "validation", folder, "6-", base)
    also = measure_also(shop, trained.policy, folder, "6-", state.also)
    return round_result(
        shop,
        number,
        judged,
        paired.rows,
        paired.drops,
        trained,
        state.measured[number],
        state.baselines,
        Watched(outcome.rounds, state.measured[first], also, state.also),
    )


def probes(shop: Workshop, judged: Judged, previous: Measured) -> Judged:
    """Return drafts written by the previous policy, on which the update's KL is estimated.

    The estimator needs samples of the policy that it measures from: the round's own drafts where that policy wrote
    them, else its validation drafts (at `evaluate.temperature`, so the estimate is then approximate).
    """
    students = [draft for draft in judged.drafts.values() if draft.source == "student"]
    wrote = (
        bool(students)
        and shop.recipe.sample.drafts_from is None
        and all(draft.policy == previous.drafts[0].policy for draft in students)
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
    found: dict[str, Measured] = {}
    for name in shop.recipe.evaluate.baselines:  # the base comes first
        who = shop.base if name == "base" else name
        found[name] = measure(shop, who, split, shop.run.baselines, f"{name}-{split}-", found.get("base"))
    return found


def measure_test(outcome: Outcome) -> None:
    """Measure the kept policy and the baselines on the test split."""
    shop, policy = outcome.shop, outcome.policy
    baselines = measure_baselines(shop, "test")
    folder, base = shop.run.test(policy.round), baselines["base"]
    outcome.warnings += _tested_before(folder)
    as_it_is = policy.adapter is None and shop.recipe.evaluate.best_of == 1
    ours = base if as_it_is else measure(shop, policy, "test", folder, "", base)
    outcome.test, outcome.test_comparisons = evaluate(shop, policy, "test", ours, baselines, folder, "")
    outcome.test_measured = {"policy": ours, **baselines}


def _tested_before(folder: Path) -> list[str]:
    """Return a warning where another round's policy was measured on the test split already, while it was kept."""
    others = [each.parent.name for each in sorted(folder.parent.glob("round-*/drafts.jsonl")) if each.parent != folder]
    if not others:
        return []
    rounds = f"round {' and '.join(str(int(name[6:])) for name in others)}"
    return [
        f"the test split was already measured for {rounds}; round {int(folder.name[6:])} is kept now, so whoever changed "
        "the recipe in between may have known its figures: they may be too good; confirm them on new prompts"
    ]


def chosen_before(shop: Workshop, rounds: Sequence[RoundResult]) -> int | None:
    """Return the round that was kept before a prompt was forgotten; its verdicts had a part in that choice."""
    if not shop.forgotten or not shop.run.result.exists():
        return None
    result = read_json(shop.run.result)
    return result["best_round"] if len(result["rounds"]) == len(rounds) else None


def keep_policy(outcome: Outcome) -> None:
    """Copy the best round's adapter to `policy/`; the base needs no adapter."""
    run, policy = outcome.shop.run, outcome.policy
    with disk_errors(run.policy):
        shutil.rmtree(run.policy, ignore_errors=True)
        run.policy.mkdir(parents=True)
        if policy.adapter is not None:
            shutil.copytree(run.path / policy.adapter, run.policy, dirs_exist_ok=True)
    write_json(run.policy / "policy.json", policy.model_dump(mode="json"))
