"""The numbers of a comparison: from arrays of scores to means, differences, intervals and tests.

Place in the flow: after all arms have run, or on finished runs. Everything is paired by prompt and seed, and an interval
is over both. Nothing here is put into words (`verdict`), refused (`checks`) or laid out (`tables`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from itertools import combinations
from typing import Any

import numpy as np
from scipy.special import stdtrit

from prefdistill.compare.costs import budget, cost
from prefdistill.compare.data import (
    BASE,
    ArmFigures,
    Estimate,
    Figures,
    Means,
    Versus,
)
from prefdistill.compare.grid import Array, Columns, Grid, Writer, evaluation_judge, judge_name
from prefdistill.compare.layout import Layout
from prefdistill.finished import FinishedRun
from prefdistill.metrics.criteria import CriterionDifference, criterion_differences
from prefdistill.metrics.crossed import crossed_mean
from prefdistill.metrics.intervals import LEVEL
from prefdistill.metrics.length_control import is_extrapolated, length_controlled_interval, length_controlled_rate
from prefdistill.metrics.power import POWER, prompts_needed, smallest_effect
from prefdistill.metrics.rates import GapRecovered, gap_recovered_over_seeds
from prefdistill.metrics.significance import PERMUTATIONS, holm, permutation_test, sign_test
from prefdistill.records import seed_of
from prefdistill.stages.report.result import finite

SAME = 1e-9
"""Scores are sums of a few weighted fractions; a smaller difference is rounding."""
_REACH = smallest_effect(1, 1.0)
"""How many standard errors of a mean an effect has to be to show four times in five."""
DRAWN_AT_MOST = 10_000_000
"""Signs drawn for one permutation test: with thousands of prompts fewer permutations are enough."""


def measure(layout: Layout, grid: Grid) -> Figures:
    """Return every number of a comparison."""
    labels, runs = list(layout.arms), [run for _, run in layout.runs]
    unit = "" if set(grid.scales) <= {"rubric"} else "standard deviations of the base's scores"
    pairs = _corrected([_ordered(grid, a, b) for a, b in combinations(labels, 2)])
    against_base = dict(zip(labels, _corrected([versus(grid, label, BASE) for label in labels]), strict=True))
    first = grid.arms[labels[0]]
    return Figures(
        seeds=layout.seeds,
        prompts=len(grid.prompts),
        judge=judge_name(runs[0], evaluation_judge(runs[0])),
        training_judges={label: judge_name(runs[0], runs[0].recipe.judge) for label, runs in layout.arms.items()},
        self_judged=tuple(label for label, runs in layout.arms.items() if any(run.self_judged for run in runs)),
        scored=grid.scored,
        measure=_measure_name(grid, any(run.self_judged for run in runs)),
        excess_unit=unit,
        criteria_of=grid.criteria_of,
        base=means(first, "base"),
        teacher=means(first, "teacher") if first.of("teacher/score") is not None else None,
        arms=tuple(_arm(layout, grid, label, against_base[label]) for label in labels),
        pairs=tuple(pairs),
        teacher_criteria={
            name: value
            for name in first.criteria
            if (value := _mean(first.of(f"teacher/criterion/{name}"))) is not None
        },
    )


def _measure_name(grid: Grid, self_judged: bool) -> str:
    if not grid.scored:
        return "of the outcomes against the base"
    if grid.scales[1] == "rubric":
        return "in rubric score"
    return "in the judge's score" if self_judged else "in held-out score"


def _arm(layout: Layout, grid: Grid, label: str, base: Versus) -> ArmFigures:
    columns, runs = grid.arms[label], layout.arms[label]
    credit = columns.of("credit")
    gain = columns.gain("score")
    known = 0 if credit is None or gain is None else int(np.isfinite(credit + gain).sum())
    return ArmFigures(
        label=label,
        arm=layout.kinds[label],
        means=means(columns, "policy"),
        base=base,
        teacher_rate=_rate(columns.of("teacher/credit")),
        pgr=_gap(columns, grid.scales[1]),
        unknown=len(runs) * len(grid.prompts) - known,
        comparisons=len(runs) * len(grid.prompts),
        kept=tuple(run.kept for run in runs),
        budgets=tuple(map(budget, runs)),
        costs=tuple(map(cost, runs)),
        source=_source(layout, runs[0]),
    )


def _source(layout: Layout, run: FinishedRun) -> str:
    """Return the arm whose pairs a run was trained on, where it was another's."""
    path = run.recipe.loop.pairs_from
    if path is None:
        return ""
    places = {each.directory.path.resolve(): label for label, runs in layout.arms.items() for each in runs}
    return places.get(path.resolve(), "")


def means(columns: Columns, writer: Writer) -> Means:
    """Return what one writer's drafts are like on average."""
    known = [each for each in columns.distinct[writer] if each is not None]
    return Means(
        score=estimate(columns.of(f"{writer}/score")),
        judge=estimate(columns.of(f"{writer}/judge")),
        gold=estimate(columns.of(f"{writer}/gold")),
        passed=_mean(columns.of(f"{writer}/passed")),
        words=_mean(columns.of(f"{writer}/words")),
        distinct_2=float(np.mean(known)) if known else None,
    )


def estimate(values: Array | None) -> Estimate | None:
    """Return the mean of an array (seeds, prompts) with its interval; None where no prompt is known in every seed."""
    if values is None or not np.isfinite(values).all(axis=0).any():
        return None
    found = crossed_mean(values)
    return Estimate(found.value, found.interval, found.by_seed, found.prompts, found.p, found.df, found.seed_variance)


def _rate(credit: Array | None) -> Estimate | None:
    """Return a win rate with its interval inside 0..1, and the p of a rate of one half."""
    shifted = estimate(None if credit is None else credit - 0.5)
    if shifted is None:
        return None
    interval = shifted.interval
    if interval is not None:
        interval = (max(0.0, interval[0] + 0.5), min(1.0, interval[1] + 0.5))
    by_seed = tuple(None if each is None else each + 0.5 for each in shifted.by_seed)
    return replace(shifted, value=shifted.value + 0.5, interval=interval, by_seed=by_seed)


def _mean(values: Array | None) -> float | None:
    return None if values is None or np.isnan(values).all() else float(np.nanmean(values))


def _ordered(grid: Grid, one: str, other: str) -> Versus:
    """Compare two arms, the one with the higher mean first; in the order given where they are level."""
    found = versus(grid, one, other)
    return versus(grid, other, one) if found.difference is not None and found.difference.value < -SAME else found


def versus(grid: Grid, label: str, other: str) -> Versus:
    """Compare an arm with another, or with the base that its own runs were compared with."""
    columns = grid.arms[label]
    ours, theirs = _side(columns, "policy", "score"), _against(grid, label, other, "score")
    difference = _minus(ours, theirs)
    words, other_words = _side(columns, "policy", "words"), _against(grid, label, other, "words")
    longer = _minus(words, other_words)
    credit = columns.of("credit") if other == BASE else _credit(difference, grid.tie_margin)
    found = estimate(difference)
    judge = _minus(_side(columns, "policy", "judge"), _against(grid, label, other, "judge"))
    if difference is None or found is None:
        return Versus(label, other, None)
    by_prompt = _by_prompt(difference)
    signs, seeds = sign_test(by_prompt), np.array([each for each in found.by_seed if each is not None])
    small, needed = _power(found, by_prompt)
    if longer is not None and is_extrapolated(longer):
        longer = None  # no drafts of equal length, so nothing is said of them
    excess, share = _excess(grid, label, judge, difference)
    return Versus(
        arm=label,
        other=other,
        difference=found,
        identical=bool((np.abs(difference[np.isfinite(difference)]) <= SAME).all()) and _same(words, other_words),
        seeds_above=int((seeds > SAME).sum()),
        seeds_below=int((seeds < -SAME).sum()),
        sign_up=signs.up,
        sign_down=signs.down,
        sign_p=signs.p,
        permutation_p=_permuted(by_prompt, label, other),
        win_rate=_rate(credit),
        length_controlled=None if longer is None or credit is None else length_controlled_rate(credit, longer),
        length_controlled_interval=(
            None if longer is None or credit is None else length_controlled_interval(credit, longer)
        ),
        length_ratio=_ratio(words, other_words),
        judge=estimate(judge),
        gold=estimate(_minus(_side(columns, "policy", "gold"), _against(grid, label, other, "gold"))),
        excess=excess,
        excess_share=share,
        criteria=_criteria(grid, label, other),
        smallest=small,
        needed=needed,
    )


def _permuted(by_prompt: Array, label: str, other: str) -> float | None:
    """Return the p of the prompts' mean differences with their signs flipped; None with one prompt."""
    if len(by_prompt) < 2:
        return None
    resamples = min(PERMUTATIONS, DRAWN_AT_MOST // len(by_prompt))
    return permutation_test(by_prompt, seed_of("compare", label, other) % 2**32, resamples)


def _side(columns: Columns, writer: Writer, name: str) -> Array | None:
    return columns.of(f"{writer}/{name}")


def _against(grid: Grid, label: str, other: str, name: str) -> Array | None:
    return _side(grid.arms[label], "base", name) if other == BASE else _side(grid.arms[other], "policy", name)


def _minus(one: Array | None, other: Array | None) -> Array | None:
    return None if one is None or other is None else one - other


def _same(one: Array | None, other: Array | None) -> bool:
    return one is None or other is None or np.array_equal(one, other, equal_nan=True)


def _by_prompt(difference: Array) -> Array:
    """Return each prompt's mean difference over the seeds, of prompts that every seed knows."""
    return np.asarray(difference[:, np.isfinite(difference).all(axis=0)].mean(axis=0))


def _credit(difference: Array | None, tie_margin: float) -> Array | None:
    """Return 1 where the first is better, 0.5 for ties, 0 else; nan where unknown."""
    if difference is None:
        return None
    won = np.where(np.abs(difference) <= tie_margin + SAME, 0.5, (difference > 0).astype(float))
    return np.where(np.isnan(difference), np.nan, won)


def _ratio(words: Array | None, other: Array | None) -> float | None:
    """Return mean words over the other's, of prompts that both wrote for."""
    if words is None or other is None:
        return None
    known = np.isfinite(words) & np.isfinite(other)
    total = other[known].sum()
    return float(words[known].sum() / total) if total > 0 else None


def _power(found: Estimate, by_prompt: Array) -> tuple[float | None, float | None]:
    """Return the smallest difference that shows, and the prompts that would show this one; None where nothing varies.

    The smallest is what the interval's own t shows four times in five. What the seeds add to the variance of the mean
    stays however many prompts there are.
    """
    if found.interval is None or found.df is None or found.interval[0] == found.interval[1]:
        return None, None
    quantile = float(stdtrit(found.df, (1 + LEVEL) / 2))
    error = (found.interval[1] - found.interval[0]) / 2 / quantile
    small = (quantile + float(stdtrit(found.df, POWER))) * error
    bearable = (abs(found.value) / _REACH) ** 2
    left = bearable - found.seed_variance
    if left <= 0.0:
        return small, math.inf
    spread = float(by_prompt.std(ddof=1))
    return small, float(prompts_needed(abs(found.value) * math.sqrt(left / bearable), spread))


def _excess(grid: Grid, label: str, judge: Array | None, difference: Array) -> tuple[Estimate | None, float | None]:
    """Return by how much more the training judge's scores differ than the evaluation judge's, and as a share of them."""
    columns = grid.arms[label]
    if judge is None or not grid.scored or _same(columns.of("policy/judge"), columns.of("policy/score")):
        return None, None
    units: list[float | None] = [1.0, 1.0]
    if not set(grid.scales) <= {"rubric"}:
        units = [_spread(columns.of(f"base/{name}")) for name in ("judge", "score")]
    if units[0] is None or units[1] is None or min(units[0], units[1]) <= SAME:
        return None, None
    ours = judge / units[0]
    found, own = estimate(ours - difference / units[1]), estimate(ours)
    share = None if found is None or own is None or abs(own.value) <= SAME else found.value / own.value
    return found, share


def _spread(values: Array | None) -> float | None:
    known = None if values is None else values[np.isfinite(values)]
    return None if known is None or len(known) < 2 else float(known.std(ddof=1))


def _criteria(grid: Grid, label: str, other: str) -> tuple[CriterionDifference, ...]:
    """Return each criterion's mean difference over the prompts to which it applies, with Holm's correction."""
    names = grid.arms[label].criteria
    ours = {
        name: each for name in names if (each := _side(grid.arms[label], "policy", f"criterion/{name}")) is not None
    }
    theirs = {name: each for name in names if (each := _against(grid, label, other, f"criterion/{name}")) is not None}
    return criterion_differences(ours, theirs)


def _corrected(rows: Sequence[Versus]) -> list[Versus]:
    """Give each row the p value of its difference, corrected for the number of rows."""
    known = [row.difference.p for row in rows if row.difference is not None and row.difference.p is not None]
    adjusted = iter(holm(known))
    return [
        replace(row, holm=next(adjusted)) if row.difference is not None and row.difference.p is not None else row
        for row in rows
    ]


def _gap(columns: Columns, scale: str) -> GapRecovered | None:
    """Return how much of the base's distance to the teacher was closed, over prompts and seeds; None without a teacher.

    On a judge's own scale a large gap is one of a tenth of what its scores span.
    """
    base, policy, teacher = (columns.of(f"{writer}/score") for writer in ("base", "policy", "teacher"))
    if base is None or policy is None or teacher is None:
        return None
    known = np.concatenate([each[np.isfinite(each)] for each in (base, policy, teacher)])
    span = float(np.ptp(known)) if scale == "custom" and len(known) else 1.0
    return gap_recovered_over_seeds(base, policy, teacher, span)


def to_json(figures: Figures) -> Mapping[str, Any]:
    """Return the figures as JSON values; what is not a finite number is None."""
    found: Mapping[str, Any] = finite(asdict(figures))
    return found
