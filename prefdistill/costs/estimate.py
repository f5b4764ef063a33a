"""What a run will ask and pay for, before it does: calls, tokens, US dollars and time, step by step.

Place in the flow: before the first draft. Nothing is opened, sent or written: judges say what they would ask about
drafts of the longest allowed length, and four characters count as a token. Where replies that were paid for have shown
better, in this run folder or in another with the same judge, that is used and said.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import Any

from prefdistill.costs.measured import Measured, done_prompts, drafts_present, measured_before
from prefdistill.costs.questions import CHARACTERS_A_TOKEN, REASON_TOKENS, SECONDS_A_REPLY, TOKENS_A_SECOND, Asker, Line
from prefdistill.costs.steps import Step, steps_of
from prefdistill.recipe import STAGES, Recipe
from prefdistill.records import Usage
from prefdistill.requests.prices import own_table
from prefdistill.run import RunDirectory
from prefdistill.stages.load import Loaded


@dataclass(frozen=True)
class Estimate:
    """What is left to ask of a run, in the order in which it is asked."""

    lines: tuple[Line, ...]
    notes: tuple[str, ...] = ()
    """What could not be estimated, and why."""
    assumptions: str = ""
    measured: Measured = field(default_factory=Measured)
    done_calls: float = 0.0
    """Calls whose replies are in the run folder already."""

    @property
    def calls(self) -> float:
        """Calls of every step."""
        return sum(line.calls for line in self.lines)

    @property
    def prompt_tokens(self) -> float:
        """Prompt tokens of every step."""
        return sum(line.prompt_tokens for line in self.lines)

    @property
    def completion_tokens(self) -> float:
        """Completion tokens of every step."""
        return sum(line.completion_tokens for line in self.lines)

    @property
    def most_completion_tokens(self) -> float:
        """Completion tokens if every reply filled its token limit."""
        return sum(line.most_completion_tokens for line in self.lines)

    @property
    def seconds(self) -> float:
        """Time spent waiting for replies, one step after the other."""
        return sum(line.seconds for line in self.lines)

    @property
    def usd(self) -> float | None:
        """Expected US dollars; None where a model that is asked has no price."""
        return _sum(line.usd for line in self.lines if line.calls)

    @property
    def most_usd(self) -> float | None:
        """US dollars if every reply filled its token limit."""
        return _sum(line.most_usd for line in self.lines if line.calls)

    @property
    def models(self) -> tuple[str, ...]:
        """The models that are asked."""
        return tuple(dict.fromkeys(line.model for line in self.lines if line.calls))

    @property
    def unpriced(self) -> tuple[str, ...]:
        """Those of them that have no price."""
        return tuple(dict.fromkeys(line.model for line in self.lines if line.calls and line.price is None))

    def grouped(self) -> list[Line]:
        """Return one line for each step of all rounds and model, in the order in which they are first asked."""
        groups: dict[tuple[str, str, str], Line] = {}
        for line in self.lines:
            key = (line.stage, line.what, line.model)
            groups[key] = groups[key] + line if key in groups else line
        return [line for line in groups.values() if line.calls]

    def corrected(self, replies: int, prompt_tokens: int, completion_tokens: int) -> Estimate:
        """Return the estimate with its tokens in the proportion that the run's first `replies` calls have shown."""
        prompt, completion = self._expected_of_first(replies)
        by_prompt = prompt_tokens / prompt if prompt and prompt_tokens else 1.0
        by_completion = completion_tokens / completion if completion and completion_tokens else 1.0
        return replace(self, lines=tuple(line.scaled(1.0, by_prompt, by_completion) for line in self.lines))

    def _expected_of_first(self, calls: float) -> tuple[float, float]:
        prompt = completion = 0.0
        for line in self.lines:
            share = min(1.0, calls / line.calls) if line.calls else 0.0
            prompt += share * line.prompt_tokens
            completion += share * line.completion_tokens
            calls -= share * line.calls
        return prompt, completion


def estimate_run(
    recipe: Recipe,
    prompts: Loaded,
    run: RunDirectory | None = None,
    redo_from: str | None = None,
    redo_round: int | None = None,
) -> Estimate:
    """Estimate every paid call that a run still has to make.

    Args:
        recipe: from `load_recipe`; its plug-ins need not be open.
        prompts: from `load_recipe_prompts`.
        run: the run folder, read only; what stands in it is not counted again.
        redo_from: as for the run; then nothing counts as done.
        redo_round: as for the run; then what was made before that stage of that round counts as done.
    """
    measured = measured_before(recipe, run)
    asker = Asker(recipe, prompts, measured)
    lines: list[Line] = []
    done_calls = 0.0
    for step in steps_of(recipe, prompts, run or RunDirectory(Path("runs") / recipe.name)):
        again = redo_from is not None and (redo_round is None or _is_redone(step, redo_from, redo_round))
        present = 0 if run is None or again else len(done_ids(step))
        for line in asker.lines(step):
            line = line.scaled(1 / max(1, len(step.prompts)))
            lines.append(line.scaled(len(step.prompts) - present))
            done_calls += line.calls * present
    return Estimate(
        lines=tuple(line for line in lines if line.calls),
        notes=tuple(dict.fromkeys(asker.notes)),
        assumptions=assumptions_of(asker, lines),
        measured=measured,
        done_calls=done_calls,
    )


def _is_redone(step: Step, stage: str, number: int) -> bool:
    """Whether a step belongs to what is made again from a stage of a round on; the kept policy's test does."""
    if step.split == "test":
        return step.file.parent.parent.name == "test"
    return (step.round, STAGES.index(step.stage)) >= (number, STAGES.index(stage))


def done_ids(step: Step) -> set[str]:
    """Return which of a step's prompts need no call, because what it makes is in its file."""
    ids = {prompt.id for prompt in step.prompts}
    if step.judge is not None:
        return ids & done_prompts(step.file)
    counts = drafts_present(step.file, step.source)
    return {key for key in ids if counts.get(key, 0) >= step.drafts}


def opening_lines(estimate: Estimate, budget: Any = None, spent: Usage | None = None) -> list[str]:
    """Return what a run says before its first paid call; nothing where there is none."""
    if not estimate.calls:
        return []
    lines = [f"expected: {figures(estimate)}", f"assumed: {estimate.assumptions}"]
    return lines + closing_lines(estimate, budget, spent)


def closing_lines(estimate: Estimate, budget: Any = None, spent: Usage | None = None) -> list[str]:
    """Return what is missing or not enough: prices, the budget, judges that do not say what they ask."""
    lines = list(estimate.notes)
    if estimate.unpriced:
        models = ", ".join(f"`{model}`" for model in estimate.unpriced)
        lines.append(
            f"no price for {models}: add a row `{estimate.unpriced[0]}: {{input: …, output: …}}` to {own_table()} "
            "(US dollars per million tokens), or `usd_per_million` to the teacher in the recipe"
        )
    return lines + budget_lines(estimate, budget, spent or Usage())


def budget_lines(estimate: Estimate, budget: Any, spent: Usage) -> list[str]:
    """Return whether the recipe's budget (usd, calls, tokens) is enough for what is spent already and expected."""
    so_far = {"usd": spent.usd, "calls": spent.calls, "tokens": spent.prompt_tokens + spent.completion_tokens}
    tokens = estimate.prompt_tokens + estimate.completion_tokens
    most_tokens = estimate.prompt_tokens + estimate.most_completion_tokens
    expected = {
        "usd": (estimate.usd, estimate.most_usd),
        "calls": (estimate.calls, estimate.calls),
        "tokens": (tokens, most_tokens),
    }
    lines = []
    for name, (left, most) in expected.items():
        limit = getattr(budget, name, None)
        if limit is None:
            continue
        shown = f"budget.{name}: {_amount(name, limit)}"
        already = f", {_amount(name, so_far[name])} of it spent" if so_far[name] else ""
        if left is None or most is None:
            lines.append(f"{shown}{already}; whether that is enough is unknown without a price")
        elif so_far[name] + left > limit:
            share = max(0.0, limit - so_far[name]) / left
            lines.append(
                f"{shown}{already} will not be enough: {_amount(name, left)} more is expected; the run would stop after "
                f"about {share:.0%} of it (exit 3) and go on with a larger budget"
            )
        elif so_far[name] + most > limit:
            lines.append(f"{shown}{already} is enough for what is expected, not for {_amount(name, most)} at most")
        else:
            lines.append(f"{shown}{already} is enough")
    return lines


def figures(estimate: Estimate) -> str:
    """Return calls, tokens, price and time in one line."""
    if estimate.usd is None or estimate.most_usd is None:
        price = "US dollars unknown"
    else:
        price = f"{usd_text(estimate.usd)} (at most {usd_text(estimate.most_usd)}, every reply at its token limit)"
    return (
        f"{estimate.calls:,.0f} calls to {', '.join(estimate.models)}, {short_count(estimate.prompt_tokens)} prompt and "
        f"{short_count(estimate.completion_tokens)} completion tokens, {price}, about {time_text(estimate.seconds)} of "
        "waiting for replies"
    )


def usd_text(value: float) -> str:
    """Return an amount of US dollars: cents where they matter, more digits for less."""
    return f"{value:,.2f} USD" if value >= 0.1 or value == 0 else f"{value:.2g} USD"


def short_count(value: float) -> str:
    """Return a count in thousands or millions."""
    if value >= 999_500:
        return f"{value / 1e6:,.2f} M"
    return f"{value / 1e3:,.0f} k" if value >= 9_950 else f"{value:,.0f}"


def time_text(seconds: float) -> str:
    """Return a duration that a person can plan with."""
    if seconds >= 5400:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 60:.0f} min" if seconds >= 100 else f"{max(1.0, seconds):.0f} s"


def _amount(name: str, value: float) -> str:
    return usd_text(value) if name == "usd" else f"{short_count(value)} {name}"


def assumptions_of(asker: Asker, lines: Iterable[Line]) -> str:
    """Return what the figures rest on."""
    measured, parts = asker.measured, []
    if measured.source is not None:
        parts.append(f"tokens a call as {measured.calls:,} calls in {measured.source} showed")
    else:
        reason = REASON_TOKENS.get(getattr(asker.recipe.judge, "reason", "brief"), 0)
        parts.append(
            f"drafts of {asker.draft_tokens:,.0f} tokens (sample.max_new_tokens), {CHARACTERS_A_TOKEN} characters a "
            f"token, a reason of {reason} tokens, no hidden reasoning"
        )
    priced = [line.price for line in lines if line.price is not None and line.price.as_of is not None]
    if priced:
        oldest = min(priced, key=lambda price: price.as_of or date.max)
        parts.append(f"prices as of {oldest.as_of}")
    parts.append(f"a reply starts in {SECONDS_A_REPLY} s and gains {TOKENS_A_SECOND:.0f} tokens a second")
    if any(
        getattr(each, "batch", False) for each in (asker.recipe.teacher, getattr(asker.recipe.judge, "teacher", None))
    ):
        parts.append("a batch may take up to 24 h instead")
    if getattr(asker.recipe.judge, "on_disagree", "") == "repeat":
        parts.append("every two orders agree (those that do not are asked again)")
    return "; ".join([*parts, "identical drafts, failed gates and the request cache lower it, retries raise it"])


def _sum(values: Iterable[float | None]) -> float | None:
    """Return a sum, None where a part is unknown."""
    known = list(values)
    return None if any(each is None for each in known) else sum(each for each in known if each is not None)
