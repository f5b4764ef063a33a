"""`prefdistill compare RECIPE --dry-run`: what all runs of a comparison will ask and pay for, and what they can show.

Nothing is opened, sent or written. Every run is estimated as `run --dry-run` does, and what several runs ask alike is
counted once, for the first that needs it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from prefdistill.assembly import load_recipe_prompts
from prefdistill.compare.equal import Equal, equal_words
from prefdistill.compare.plan import Plan, Planned, check_arms, make_plan
from prefdistill.compare.sharing import Origins
from prefdistill.compare.sight import Sight, sight_lines, sight_of
from prefdistill.costs.estimate import (
    Estimate,
    assumptions_of,
    closing_lines,
    done_ids,
    figures,
    short_count,
    time_text,
)
from prefdistill.costs.measured import measured_before, spent_before
from prefdistill.costs.questions import Asker, Line
from prefdistill.costs.steps import Step, steps_of
from prefdistill.recipe import Recipe
from prefdistill.records import Usage
from prefdistill.stages.load import Loaded


@dataclass(frozen=True)
class ArmPrice:
    """What one arm's runs ask, of all seeds together."""

    label: str
    runs: int
    whole: Estimate
    """If it were alone in its folder, with nothing done."""
    owed: Estimate
    """What is left to pay: not what is in the folder, nor what an earlier arm or seed asks alike."""
    shared_calls: float = 0.0
    """Calls that an earlier step makes already, mostly another run's."""


@dataclass(frozen=True)
class Pricing:
    """What a comparison asks and pays for."""

    plan: Plan
    arms: tuple[ArmPrice, ...]
    total: Estimate
    done_calls: float = 0.0
    """Calls whose replies are in the comparison's folder already."""
    notes: tuple[str, ...] = ()
    """What a user should know about the prompts, and what was not checked."""
    sight: Sight | None = None
    """What its sample can see."""

    @property
    def shared_calls(self) -> float:
        """Calls that are saved because runs share what they ask."""
        return sum(arm.shared_calls for arm in self.arms)


class _RunPrice(NamedTuple):
    """What one run asks."""

    whole: list[Line]
    owed: list[Line]
    shared: float
    """Calls that other runs make for it."""


@dataclass
class _Counted:
    """What has been counted so far, for whichever run."""

    present: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    """By step's key: prompts whose replies are in the folder."""
    asked: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    """By step's key: prompts that an earlier run asks about."""
    done_calls: float = 0.0
    notes: list[str] = field(default_factory=list)


def price_plan(plan: Plan) -> Pricing:
    """Estimate every paid call that a comparison still has to make.

    Raises:
        PrefdistillError: a recipe or its prompts cannot be read.
    """
    loaded: dict[str, tuple[Loaded, list[str]]] = {}
    unchecked = check_arms(plan, fetch=False)
    planned = [(each, plan.recipe_of(each)) for each in plan.runs]
    steps: dict[Planned, list[tuple[Step, str, bool]]] = {}
    counted = _Counted()
    for each, recipe in planned:
        prompts, _ = _prompts_of(recipe, loaded)
        origins = Origins(recipe, each.run)
        steps[each] = [(step, origins.key(step), origins.by_base(step)) for step in steps_of(recipe, prompts, each.run)]
        for step, key, _ in steps[each]:
            counted.present[key] |= done_ids(step)
    askers = {each.arm.label: _asker(recipe, loaded, each) for each, recipe in reversed(planned)}
    rows: dict[str, list[_RunPrice]] = defaultdict(list)
    for each, recipe in planned:
        rows[each.arm.label].append(_price_run(steps[each], askers[each.arm.label], recipe, counted))
    arms = tuple(_arm_price(arm.label, rows[arm.label], askers[arm.label]) for arm in plan.arms)
    first = _prompts_of(plan.base_recipe, loaded)
    return Pricing(
        plan=plan,
        arms=arms,
        total=_together([arm.owed for arm in arms]),
        done_calls=counted.done_calls,
        notes=tuple(dict.fromkeys((*first[1], *unchecked))),
        sight=sight_of(plan, first[0]),
    )


def _prompts_of(recipe: Recipe, loaded: dict[str, tuple[Loaded, list[str]]]) -> tuple[Loaded, list[str]]:
    """Return a recipe's prompts and what is to be said of them, read once for all recipes that read the same."""
    key = repr((recipe.prompts, recipe.student.system, recipe.rubric))
    if key not in loaded:
        loaded[key] = load_recipe_prompts(recipe)
    return loaded[key]


def _asker(recipe: Recipe, loaded: dict[str, tuple[Loaded, list[str]]], planned: Planned) -> Asker:
    """Return what asks a recipe's judges what they would ask: by what replies have shown, here or in ./runs."""
    measured = measured_before(recipe, planned.run)
    return Asker(recipe, _prompts_of(recipe, loaded)[0], measured if measured.source else measured_before(recipe, None))


def _price_run(steps: Sequence[tuple[Step, str, bool]], asker: Asker, recipe: Recipe, counted: _Counted) -> _RunPrice:
    """Return the lines of a run alone, those that are owed, and the calls that other runs make for it."""
    whole: list[Line] = []
    owed: list[Line] = []
    shared = 0.0
    for step, key, by_base in steps:
        ids = {prompt.id for prompt in step.prompts}
        elsewhere = ids & counted.asked[key]
        present = ids & counted.present[key] - elsewhere
        left = ids - elsewhere - present
        counted.asked[key] |= ids
        first_is_there = by_base and step.apart and recipe.cache != "off"  # the baseline's draft, judged already
        for line in asker.lines(step):
            share = (step.drafts - 1) / step.drafts if first_is_there else 1.0
            a_prompt = line.scaled(share / max(1, len(ids)))
            whole.append(a_prompt.scaled(len(ids)))
            owed.append(a_prompt.scaled(len(left)))
            shared += a_prompt.calls * len(elsewhere)
            counted.done_calls += a_prompt.calls * len(present)
    return _RunPrice(whole, owed, shared)


def _arm_price(label: str, rows: Sequence[_RunPrice], asker: Asker) -> ArmPrice:
    def estimate(lines: Iterable[Line]) -> Estimate:
        return Estimate(
            lines=tuple(line for line in lines if line.calls),
            notes=tuple(dict.fromkeys(asker.notes)),
            assumptions=assumptions_of(asker, rows[0].whole),
            measured=asker.measured,
        )

    whole, owed = (
        estimate(chain.from_iterable(lines)) for lines in zip(*((row.whole, row.owed) for row in rows), strict=True)
    )
    return ArmPrice(label, len(rows), whole, owed, sum(row.shared for row in rows))


def _together(estimates: Sequence[Estimate]) -> Estimate:
    """Return the estimates of all arms as one; they rest on what the first says."""
    asking = [each for each in estimates if each.lines] or list(estimates)
    return Estimate(
        lines=tuple(line for each in estimates for line in each.lines),
        notes=tuple(dict.fromkeys(note for each in estimates for note in each.notes)),
        assumptions=asking[0].assumptions,
        measured=asking[0].measured,
    )


def spent_by(plan: Plan) -> Usage:
    """Return what the comparison's runs have paid so far, by their ledgers."""
    return sum((spent_before(each.folder / "spending.jsonl") for each in plan.runs), Usage())


def price_comparison(
    recipe: Path,
    overrides: Sequence[str],
    arms: Sequence[str],
    seeds: str,
    folder: Path | None,
    console: Console,
    equal: Equal = "prompts",
) -> Pricing:
    """Print what a comparison still has to ask of paid models, and what its sample can see.

    Args:
        recipe: the recipe's file.
        overrides: `key=value` for every arm.
        arms: as `parse_arms` reads them.
        seeds: as `parse_seeds` reads them.
        folder: the comparison's, read only; `runs/<recipe>-compare` by default.
        console: where it is printed.
        equal: what the arms are given the same of.

    Raises:
        PrefdistillError: with where, what was found, what was expected and what to do.
    """
    plan = make_plan(recipe, overrides, arms, seeds, folder, equal)
    priced = price_plan(plan)
    for text in _opening(priced):
        _show(console, text)
    if priced.total.calls:
        console.print(price_table(priced))
    for text in _closing(priced):
        _show(console, text)
    for text in sight_lines(priced.sight) if priced.sight else ():
        _show(console, text)
    return priced


def _show(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def _opening(priced: Pricing) -> list[str]:
    plan = priced.plan
    seeds = f"{len(plan.seeds)} seeds" if len(plan.seeds) > 1 else "1 seed"
    names = ", ".join(arm.label for arm in plan.arms)
    lines = [f"{plan.name}: {names}; {seeds}, {len(plan.runs)} runs, in {plan.folder}", *priced.notes]
    if plan.unit:
        lines.append(equal_words(plan.unit, plan.sizes.answers))
    if priced.done_calls:
        lines.append(f"in {plan.folder} already: replies to {priced.done_calls:,.0f} calls; this is what is left")
    return lines


def _closing(priced: Pricing) -> list[str]:
    total, lines = priced.total, []
    if total.calls:
        if priced.shared_calls:
            lines.append(
                f"shared: {priced.shared_calls:,.0f} calls that several runs need are made once, by the first that does"
            )
        lines += [f"expected: {figures(total)}, one run after the other", f"assumed: {total.assumptions}"]
    elif priced.done_calls:
        lines.append("nothing is left to ask of a paid model")
    elif not total.notes:
        lines.append("no paid calls: no judge, teacher or sampler of these arms asks a model that costs money")
    return lines + closing_lines(total, priced.plan.base_recipe.budget, spent_by(priced.plan))


def price_table(priced: Pricing) -> Table:
    """Return a row an arm: what it asks alone, what other runs ask for it, and what is left to pay."""
    table = Table(box=None, pad_edge=False, header_style="bold", show_footer=True)
    table.add_column("arm", footer="total", overflow="fold")
    names = ("alone", "shared", "calls", "prompt", "reply", "USD", "at most", "time")
    footer = [
        f"{sum(arm.whole.calls for arm in priced.arms):,.0f}",
        f"{priced.shared_calls:,.0f}",
        *_cells(priced.total),
    ]
    for name, each in zip(names, footer, strict=True):
        table.add_column(name, footer=each, justify="right", no_wrap=True)
    for arm in priced.arms:
        alone = (f"{arm.whole.calls:,.0f}", f"{arm.shared_calls:,.0f}")
        table.add_row(arm.label, *alone, *_cells(arm.owed))
    return table


def _cells(estimate: Estimate) -> list[str]:
    def money(value: float | None) -> str:
        return "?" if value is None else f"{value:,.2f}" if value >= 0.1 or value == 0 else f"{value:.2g}"

    tokens = (short_count(estimate.prompt_tokens), short_count(estimate.completion_tokens))
    time = time_text(estimate.seconds) if estimate.calls else "–"
    return [f"{estimate.calls:,.0f}", *tokens, money(estimate.usd), money(estimate.most_usd), time]


def to_json(priced: Pricing) -> Mapping[str, object]:
    """Return the price by arm and in all as JSON values."""
    rows = {arm.label: arm.owed for arm in priced.arms} | {"total": priced.total}
    names = ("calls", "prompt_tokens", "completion_tokens", "usd", "most_usd", "seconds")
    return {label: {name: getattr(each, name) for name in names} for label, each in rows.items()}
