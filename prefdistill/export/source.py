"""What is exported: a finished policy of a run, and everything that its card says about it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prefdistill.errors import RecipeError, RunError
from prefdistill.protocols import learns_from
from prefdistill.recipe import Recipe
from prefdistill.records import Draft, Policy, Prompt, RoundResult, digest
from prefdistill.run import RunDirectory, read_json
from prefdistill.stored import WEIGHTS, run_there, stored_run


@dataclass(frozen=True)
class Source:
    """A policy of a run."""

    run: RunDirectory
    recipe: Recipe
    policy: Policy
    """`adapter` is relative to the run folder."""
    kept: bool
    """Whether it is the policy that the run kept."""
    manifest: dict[str, Any]
    round: RoundResult
    """The round that made it."""
    result: dict[str, Any] | None
    """result.json; None where the run is not finished."""
    prompts: dict[str, Prompt] = field(repr=False, default_factory=dict)
    """By id, forgotten ones left out."""

    @property
    def adapter(self) -> Path:
        """The adapter's folder."""
        assert self.policy.adapter is not None
        return self.run.path / self.policy.adapter

    @property
    def learned_from(self) -> set[str]:
        """What the rounds that led to the policy learned from: pairs, answers or both."""
        return {learns_from(each) for each in self.trainers}

    @property
    def trainers(self) -> tuple[Any, ...]:
        """Who trained in the rounds that led to the policy, in their order."""
        return tuple(self.recipe.section_of(each).trainer for each in range(1, self.policy.round + 1))

    @property
    def name(self) -> str:
        """The recipe's name."""
        return self.recipe.name

    def drafts(self, count: int) -> list[Draft]:
        """Return up to `count` validation drafts that the policy wrote in the run, always the same ones.

        Raises:
            RunError: there is none.
        """
        rows = self.run.rows(self.run.round(self.policy.round), "6-drafts.jsonl", Draft).read()
        found = [draft for draft in rows.values() if draft.prompt_id in self.prompts]
        if not found:
            raise RunError(
                f"{self.run.round(self.policy.round) / '6-drafts.jsonl'}: no validation drafts of round "
                f"{self.policy.round}; the export is checked on them: expected at least one, so run the recipe again"
            )
        return sorted(found, key=lambda draft: digest(draft.id))[:count]


def read_source(folder: Path, number: int | None = None) -> Source:
    """Read a run's kept policy, or the one that round `number` made.

    Raises:
        RunError: there is no run, it is not finished, or it has no such policy to export.
        RecipeError: the run's recipe names something that is no longer where it was.
    """
    run = run_there(folder)
    result = read_json(run.result) if run.result.is_file() else None
    policy = _kept(run) if number is None else _of_round(run, number)
    if policy.adapter is None:
        trained = any(run.path.glob("round-[0-9]*/round.json"))
        why = "no round was better on validation" if trained else "nothing was trained (loop.rounds is 0)"
        other = ", or export another round's policy with --round" if trained else ""
        raise RunError(
            f"{folder}: the kept policy is the base itself, because {why}; there is nothing to export: use {policy.model} "
            f"as it is{other}"
        )
    if not (run.path / policy.adapter / WEIGHTS).is_file():
        raise RunError(
            f"{run.path / policy.adapter}: no adapter there ({WEIGHTS}), where round {policy.round}'s "
            "policy should be; run the recipe again to make it, or export another round with --round"
        )
    try:
        _, recipe = stored_run(folder)
    except RecipeError as problem:
        raise RecipeError(
            f"{problem}; the run was made with what its recipe names: put it back there, or correct the place in "
            f"{run.recipe}"
        ) from None
    prompts = run.rows(run.path, "prompts.jsonl", Prompt).read()
    return Source(
        run=run,
        recipe=recipe,
        policy=policy,
        kept=result is not None and result["best_round"] == policy.round,
        manifest=read_json(run.manifest),
        round=RoundResult.model_validate(read_json(run.round(policy.round) / "round.json")),
        result=result,
        prompts={key: prompt for key, prompt in prompts.items() if "forgotten" not in prompt.tags},
    )


def _kept(run: RunDirectory) -> Policy:
    if not run.result.is_file() or not (run.policy / "policy.json").is_file():
        raise RunError(
            f"{run.path}: the run is not finished (no result.json): no policy is kept yet; run the recipe again on this "
            "folder to finish it, or export the policy of a finished round with --round"
        )
    policy = Policy.model_validate(read_json(run.policy / "policy.json"))
    return policy if policy.adapter is None else policy.model_copy(update={"adapter": run.policy.name})


def _of_round(run: RunDirectory, number: int) -> Policy:
    found = run.round(number) / "round.json"
    if number == 0 or not found.is_file():
        done = sorted(int(path.parent.name[6:]) for path in run.path.glob("round-[0-9]*/round.json"))
        finished = f"finished rounds: {', '.join(map(str, done))}" if done else "no round is finished"
        what = "round 0 is the base, which nothing was trained on" if number == 0 else f"no finished round {number}"
        raise RunError(f"{run.path}: --round: {what}; {finished}")
    trained = RoundResult.model_validate(read_json(found)).train
    if trained is None:
        raise RunError(f"{run.path}: round {number} trained nothing; export another round")
    return trained.policy
