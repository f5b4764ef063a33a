"""What the sample of a comparison can see: the smallest win rate and score gain that its test prompts show.

Place in the flow: before the first draft. How much differences vary by prompt is taken from finished runs where there
are any, of this comparison or of the recipe; until then three usual values are given.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev

from prefdistill.assembly import limited_prompts
from prefdistill.compare.plan import Plan, Planned
from prefdistill.errors import PrefdistillError
from prefdistill.finished import FinishedRun, read_finished
from prefdistill.metrics.power import (
    prompts_for_win_rate,
    prompts_needed,
    smallest_effect,
    smallest_win_rate,
)
from prefdistill.recipe import Recipe
from prefdistill.records import Comparison
from prefdistill.stages.load import Loaded

USUAL = (0.2, 0.3, 0.4)
"""Standard deviations by prompt of a paired difference of scores, before anything is measured."""
WIN_RATE, GAIN = 0.55, 0.05
"""The effects for which the number of prompts is said."""
FEWEST = 20
"""Prompts below which a deviation is not taken from finished runs."""


@dataclass(frozen=True)
class Spread:
    """How much a difference of scores varies by prompt, measured."""

    sd: float
    ties: float
    """Share of prompts without a winner."""
    source: str
    """Which runs showed it."""


@dataclass(frozen=True)
class Sight:
    """What a sample can see, two-sided at 5 %, with 80 % power."""

    prompts: int
    """Test prompts that are measured."""
    there: int
    """Test prompts in the data."""
    seeds: int
    spread: Spread | None = None
    """None until a run is finished."""

    @property
    def win_rate(self) -> float | None:
        """The smallest win rate over 50 % that shows; None where there are too few prompts for any."""
        return smallest_win_rate(self.prompts, 0.0 if self.spread is None else self.spread.ties)

    @property
    def gains(self) -> dict[float, float]:
        """Standard deviation by prompt to the smallest difference of scores that shows."""
        deviations = USUAL if self.spread is None else (self.spread.sd,)
        return {sd: smallest_effect(self.prompts, sd) for sd in deviations if self.prompts}


def sight_of(plan: Plan, prompts: Loaded) -> Sight:
    """Return what a comparison's test prompts can see."""
    measured = len(limited_prompts(plan.base_recipe, prompts, "test"))
    return Sight(measured, len(prompts.of("test")), len(plan.seeds), spread_before(plan))


def spread_before(plan: Plan) -> Spread | None:
    """Return how differences have varied by prompt: between two finished arms, else of one against the base.

    A run of the recipe under ./runs will do where the comparison has none.
    """
    for first in plan.arms:
        for second in plan.arms[plan.arms.index(first) + 1 :]:
            found = _between(plan, first.label, second.label)
            if found is not None:
                return found
    for arm in plan.arms:
        runs = [run for each in plan.runs if each.arm == arm and (run := _read(each.folder)) is not None]
        found = _over_base(runs, f"{arm.label} against the base")
        if found is not None:
            return found
    alone = _read(Path("runs") / plan.name)
    same = alone is not None and _measured_alike(alone, plan)
    return _over_base([alone], f"runs/{plan.name} against the base") if alone is not None and same else None


def _measured_alike(run: FinishedRun, plan: Plan) -> bool:
    """Whether a run's scores are those that the comparison will have: the same rubric, prompts and evaluation."""
    mine, theirs = plan.base_recipe.resolved(), run.recipe.resolved()
    evaluation = ("judge", "compare", "temperature", "tie_margin")
    return (
        _without_tests(plan.base_recipe) == _without_tests(run.recipe)
        and mine["judge"] == theirs["judge"]
        and all(mine["evaluate"].get(name) == theirs["evaluate"].get(name) for name in evaluation)
    )


def _without_tests(recipe: Recipe) -> list[object]:
    rubrics = recipe.rubrics
    return [rubrics.column, {kind: each.model_dump(exclude={"tests"}) for kind, each in rubrics.rubrics.items()}]


def _between(plan: Plan, first: str, second: str) -> Spread | None:
    """Return the spread of the score differences of two arms, each prompt's averaged over the seeds that have both."""
    by_seed: dict[int, dict[str, Planned]] = {}
    for each in plan.runs:
        by_seed.setdefault(each.seed, {})[each.arm.label] = each
    differences: dict[str, list[float]] = {}
    for runs in by_seed.values():
        one, other = _read(runs[first].folder), _read(runs[second].folder)
        if one is None or other is None:
            continue
        mine, theirs = _scores(one), _scores(other)
        for prompt_id in mine.keys() & theirs.keys():
            differences.setdefault(prompt_id, []).append(mine[prompt_id] - theirs[prompt_id])
    return _spread(differences, f"{first} against {second}")


def _over_base(runs: Iterable[FinishedRun], source: str) -> Spread | None:
    differences: dict[str, list[float]] = {}
    for run in runs:
        if run.kept == 0 and run.recipe.evaluate.best_of == 1:
            continue  # the base against itself
        for row in run.comparisons.get("base", {}).values():
            if row.score is not None and row.baseline_score is not None:
                differences.setdefault(row.prompt_id, []).append(row.score - row.baseline_score)
    return _spread(differences, source)


def _spread(differences: Mapping[str, list[float]], source: str) -> Spread | None:
    means = [fmean(each) for each in differences.values()]
    if len(means) < FEWEST or not math.isfinite(sd := stdev(means)) or sd <= 0:
        return None
    single = [each for several in differences.values() for each in several]
    return Spread(sd, min(0.99, sum(each == 0 for each in single) / len(single)), f"{source}, {len(means)} prompts")


def _scores(run: FinishedRun) -> dict[str, float]:
    rows: Mapping[str, Comparison] = run.comparisons.get("base", {})
    return {key: row.score for key, row in rows.items() if row.score is not None}


def _read(folder: Path) -> FinishedRun | None:
    """Return a finished run, None where there is none that can be read."""
    if not (folder / "result.json").is_file():
        return None
    try:
        return read_finished(folder)
    except PrefdistillError:
        return None


def sight_lines(sight: Sight) -> list[str]:
    """Return in words what the sample can see, and what would see more."""
    if not sight.prompts:
        return ["there are no test prompts, so no effect can be seen"]
    rate, spread = sight.win_rate, sight.spread
    seen = "no win rate at all" if rate is None else f"a win rate of {math.ceil(100 * rate - 1e-6)} % or more"
    gains = _listed(f"{gain:.2g}" for gain in sight.gains.values())
    varies = _listed(f"{sd:.2g}" for sd in sight.gains)
    by = f" (measured: {spread.source})" if spread is not None else ""
    lines = [
        f"{sight.prompts:,} test prompts can show (two-sided 5 %, power 80 %): {seen}, or {gains} in score where "
        f"differences vary by {varies} from prompt to prompt{by}",
        f"you would need {_needed(sight)}",
    ]
    if sight.there > sight.prompts:
        lines.append(f"prompts.test_limit leaves out {sight.there - sight.prompts:,} of {sight.there:,} test prompts")
    if sight.seeds == 1:
        lines.append("1 seed: what another training would have done is not seen at all; --seeds 3 shows it")
    else:
        few = "; 3 or more tell it from chance" if sight.seeds == 2 else ""
        lines.append(f"how much {sight.seeds} seeds differ comes on top, and is known only afterwards{few}")
    return lines


def _needed(sight: Sight) -> str:
    """Return how many test prompts show a small win rate and a small gain."""
    ties = 0.0 if sight.spread is None else sight.spread.ties
    for_gain = f"{_listed(f'{prompts_needed(GAIN, sd):,}' for sd in sight.gains)} for {GAIN:g} in score"
    if 1 - ties / 2 < WIN_RATE:
        return for_gain  # so many ties leave no room for it
    return f"{prompts_for_win_rate(WIN_RATE, ties):,} for a win rate of {100 * WIN_RATE:.0f} %, and {for_gain}"


def _listed(values: Iterable[str]) -> str:
    return " / ".join(values)
