"""What a comparison will run: one ordinary run for each arm and seed, in the order in which they need one another."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prefdistill.assembly import read_recipe_prompts
from prefdistill.compare.arms import (
    ONE_TO_ONE,
    Arm,
    Sizes,
    in_order,
    parse_arms,
    rounds_of_warm_start,
    source_of,
)
from prefdistill.compare.equal import Equal, sizes_of
from prefdistill.errors import RecipeError, RunError, TrainError
from prefdistill.folders import COMPARISON
from prefdistill.readiness import require_trainable
from prefdistill.recipe import Recipe, load_recipe
from prefdistill.records import TrainResult
from prefdistill.run import RunDirectory, read_json, write_json
from prefdistill.stages.load import Loaded

ALWAYS = ("loop.stop=never",)
"""What every arm sets: each has all its rounds, and what the guard finds is reported."""


@dataclass(frozen=True)
class Planned:
    """One run of a comparison."""

    arm: Arm
    seed: int
    folder: Path

    @property
    def run(self) -> RunDirectory:
        """Its folder."""
        return RunDirectory(self.folder)


@dataclass(frozen=True)
class Plan:
    """A comparison as asked for."""

    recipe: Path
    base_recipe: Recipe = field(repr=False)
    """It with the overrides, before any arm."""
    overrides: tuple[str, ...]
    """`key=value` for every arm."""
    arms: tuple[Arm, ...]
    """In the order in which they run; those that only another arm needs are among them."""
    seeds: tuple[int, ...]
    folder: Path
    sizes: Sizes = ONE_TO_ONE
    """How large each arm's stages are made."""
    equal: Equal = "prompts"
    """What the arms are given the same of."""
    unit: str = ""
    """In what the teacher's work was counted to make it equal."""
    noted_pace: str = ""
    """The arm that has set the steps of a comparison that began before; empty for a new one."""

    @property
    def name(self) -> str:
        """The recipe's name."""
        return self.base_recipe.name

    def of_seed(self, seed: int) -> list[Planned]:
        """Return the runs of one seed, in their order."""
        pace = self.pacesetter
        arms = self.arms if pace is None else (pace, *(arm for arm in self.arms if arm is not pace))
        return [Planned(arm, seed, self.folder / arm.label / f"seed-{seed}") for arm in arms]

    @property
    def runs(self) -> list[Planned]:
        """All runs, seed by seed."""
        return [each for seed in self.seeds for each in self.of_seed(seed)]

    @property
    def pacesetter(self) -> Arm | None:
        """The arm whose optimiser steps a round the others repeat; None where none of these sets them.

        It is the first that trains on pairs in every round, else the first on answers. The recipe may set them, no arm may
        train in every round, or an arm that was left out since has set them.
        """
        if self.base_recipe.train.steps is not None:
            return None
        trained = [arm for arm in self.arms if not arm.rests]
        if self.noted_pace:
            return next((arm for arm in trained if arm.label == self.noted_pace), None)
        whole = [arm for arm in trained if not arm.warm_start]
        return next(iter([*(arm for arm in whole if not arm.on_answers), *whole]), None)

    def steps_before(self, seed: int) -> list[int]:
        """Return the steps by round of an arm that has set them and is left out now; empty where there is none."""
        if not self.noted_pace or self.base_recipe.train.steps is not None or self.pacesetter is not None:
            return []
        return steps_of(RunDirectory(self.folder / self.noted_pace / f"seed-{seed}"), self.base_recipe)

    def recipe_of(self, planned: Planned, steps: Sequence[int] = ()) -> Recipe:
        """Return the recipe of one run; `steps` are the pacesetter's, by round.

        Raises:
            RecipeError: an arm's keys do not fit the recipe.
        """
        arm, base = planned.arm, self.base_recipe
        own = arm.to_overrides(base, self.sizes)
        source = source_of(arm, self.arms)
        if source is not None:
            folder = self.folder / source.label / f"seed-{planned.seed}"
            own.insert(0, f"loop.pairs_from={json.dumps(str(folder.resolve()))}")
        wanted = base.train.steps or list(steps)
        given = {each.split("=")[0] for each in arm.overrides}
        if not isinstance(wanted, int) and wanted and arm.warm_start:
            first = rounds_of_warm_start(base.loop.rounds)
            if "warm_start.steps" not in given:
                own.append(f"warm_start.steps={sum(wanted[:first])}")
            wanted = wanted[first:]
        if wanted and not arm.rests and "train.steps" not in given:
            own.append(f"train.steps={json.dumps(wanted)}")
        name = f"{self.name}-{arm.label}-seed-{planned.seed}"
        try:
            return load_recipe(
                self.recipe, [*self.overrides, *ALWAYS, *own, f"seed={planned.seed}", f"name={json.dumps(name)}"]
            )
        except RecipeError as problem:
            raise RecipeError(f"compare: arm {arm.label}: {problem}") from None


def make_plan(
    recipe: Path,
    overrides: Sequence[str],
    arms: Sequence[str],
    seeds: str,
    folder: Path | None = None,
    equal: Equal = "prompts",
) -> Plan:
    """Read what a comparison is asked to compare, and check that every arm's recipe is valid.

    Args:
        recipe: the recipe's file.
        overrides: `key=value` for every arm.
        arms: as `parse_arms` reads them.
        seeds: how many, counted up from the recipe's own, or the seeds themselves: `3`, or `1,2,5`.
        folder: where everything goes; `runs/<recipe>-compare` by default.
        equal: what the arms are given the same of: prompts, or the teacher's work.

    Raises:
        RecipeError: with what was found and what was expected.
    """
    base, found = load_recipe(recipe, overrides), in_order(parse_arms(arms))
    for arm in found:
        arm.require_teacher(base)
    place = folder or Path("runs") / f"{base.name}-compare"
    before = read_json(place / COMPARISON) if (place / COMPARISON).is_file() else {}
    sizes, unit = sizes_of(recipe, base, overrides, found, equal, before.get("exchange") or {})
    return Plan(
        recipe=recipe,
        base_recipe=base,
        overrides=tuple(overrides),
        arms=found,
        seeds=parse_seeds(seeds, base.seed),
        folder=place,
        sizes=sizes,
        equal=equal,
        unit=unit,
        noted_pace=before.get("pacesetter") or "",
    )


def check_arms(plan: Plan, fetch: bool = True) -> tuple[str, ...]:
    """Check every arm's recipe once, so that a mistake in the last arm is found before the first one is paid for.

    Args:
        plan: from `make_plan`; arms that are finished are not checked.
        fetch: whether files of a model may come from the hub.

    Returns:
        What was not checked, a line each.

    Raises:
        RecipeError: an arm's keys do not fit the recipe, or it could never fill a batch.
        TrainError: an arm's trainer cannot train this student.
    """
    read: dict[str, Loaded] = {}
    unchecked: list[str] = []
    for planned in plan.of_seed(plan.seeds[0]):
        recipe = plan.recipe_of(planned)
        if planned.run.result.exists():
            continue
        key = repr((recipe.prompts, recipe.student.system))
        read[key] = read.get(key) or read_recipe_prompts(recipe)
        try:
            left = require_trainable(recipe, read[key], planned.run, fetch)
        except (RecipeError, TrainError) as problem:
            raise type(problem)(f"compare: arm {planned.arm.label}: {problem}") from None
        unchecked += [f"arm {planned.arm.label}: {line}" for line in left]
    return tuple(unchecked)


def parse_seeds(text: str, first: int) -> tuple[int, ...]:
    """Return the seeds: as many as a single number says, counted up from `first`, or those that commas separate.

    Raises:
        RecipeError: neither.
    """
    try:
        numbers = [int(part) for part in text.split(",") if part.strip()]
    except ValueError:
        numbers = []
    if len(numbers) == 1 and "," not in text and numbers[0] >= 1:
        return tuple(range(first, first + numbers[0]))
    if len(numbers) < 1 or len(set(numbers)) != len(numbers) or min(numbers) < 0 or "," not in text:
        raise RecipeError(f"--seeds: found `{text}`; expected how many (3), or the seeds themselves (1,2,5), each once")
    return tuple(numbers)


def steps_of(run: RunDirectory, recipe: Recipe) -> list[int]:
    """Return a finished run's optimiser steps by round, the warm start left out."""
    found = []
    for number in range(recipe.first_round, recipe.last_round + 1):
        path = run.round(number) / "5-policy" / "train.json"
        if not path.is_file():
            break
        found.append(TrainResult.model_validate(read_json(path)).steps)
    return found


def claim_folder(plan: Plan, threads: int) -> dict[str, Any]:
    """Note in the comparison's folder what it is made from, and return what was noted when it began.

    Arms and seeds may be added later; the recipe's path may not change, and the arm that set the steps stays that arm.

    Raises:
        RunError: the folder holds something else.
    """
    path = plan.folder / COMPARISON
    exchange: dict[str, Any] = {"unit": plan.unit, **plan.sizes.answers} if plan.unit else {}
    asked = {
        "schema": 1,
        "recipe": str(plan.recipe.resolve()),
        "name": plan.name,
        "overrides": list(plan.overrides),
        "arms": [arm.written for arm in plan.arms],
        "labels": [arm.label for arm in plan.arms],
        "seeds": list(plan.seeds),
        "pacesetter": plan.noted_pace or (plan.pacesetter.label if plan.pacesetter is not None else None),
        "equal": plan.equal,
        "exchange": exchange,
    }
    if path.exists():
        before = read_json(path)
        before.setdefault("equal", "prompts")
        differing = [key for key in ("recipe", "overrides", "equal") if before.get(key) != asked[key]]
        if differing:
            shown = "; ".join(f"{key}: {before.get(key)!r} → {asked[key]!r}" for key in differing)
            raise RunError(
                f"{plan.folder}: holds another comparison ({shown}); give it a folder of its own with --run NAME, or "
                "undo the change"
            )
        asked["exchange"] = {**(before.get("exchange") or {}), **exchange}
        noted = {**before, **asked}
    else:
        others = [each.name for each in plan.folder.glob("*") if each.name != ".lock"] if plan.folder.exists() else []
        if others:
            raise RunError(
                f"{plan.folder}: the folder is not empty and holds no comparison (no comparison.json); choose another "
                "with --run"
            )
        noted = {**asked, "threads": threads, "cores": os.cpu_count()}
    write_json(path, noted)
    return noted
