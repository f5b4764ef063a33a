"""Rules about a round's training: did it start where it should, on the right text, and did the update land.

The numbers come from the trainer, which measures itself: `trainers/independent.py` before the first step, and
`trainers/outcome.py` after the last one.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence

from prefdistill.diagnostics.findings import Levels, Rule, Values
from prefdistill.records import Finding, StartCheck

FULL_ROUND = 8
"""Steps of a round from which an update should show."""
SIXTEEN_BIT = 20.0
"""How much coarser the first step is compared in 16 bit, where another batch rounds differently."""
NOISE = {32: 1e-3, 16: 0.01}
"""Smallest gap, nats a token, that tells policies apart, by the bits of the computation."""
FIRST_STEP = {
    "first_loss_gap": "loss",
    "first_margin_gap": "reward margin",
    "first_chosen_gap": "chosen reward",
    "first_rejected_gap": "rejected reward",
}


def share_rule(name: str, check: str, message: str, at_least: bool = False) -> Rule:
    """Return the rule that finds the share `name` beyond the levels of `check`.

    `message` may use `{share}` and any other value of the round.
    """

    def rule(seen: Sequence[Values], levels: Levels) -> Iterator[Finding]:
        share = seen[-1].get(name)
        if share is not None:
            values = defaultdict(lambda: math.nan, seen[-1])
            yield from levels.finding(check, share, message.format_map(values | {"share": share}), at_least)

    return rule


adapter_moved = share_rule(
    "adapter_moved",
    "adapter_moved",
    "only {share:.0%} of the adapter's entries moved: the update hardly landed; raise train.learning_rate, and check that "
    "the adapter is float32",
    at_least=True,
)
truncated = share_rule(
    "truncated_share",
    "truncated",
    "{share:.1%} of what is trained on has a completion cut at {max_length:.0f} tokens, which teaches the student not to "
    "stop; raise train.max_length, or lower sample.max_new_tokens",
)
no_end_token = share_rule(
    "unended_share",
    "no_end_token",
    "{share:.0%} of the trained completions do not end in an end token, so the student unlearns to stop: the chat template "
    "does not end the assistant's turn, or train.max_length cuts it; mend the student's chat template or raise "
    "train.max_length",
)
double_bos = share_rule(
    "double_bos_share",
    "double_bos",
    "{share:.0%} of the prompts begin with two begin-of-text tokens: the chat template writes one and the tokenizer adds "
    "another; take bos_token out of the student's chat template or set add_bos_token: false",
)
small_difference = share_rule(
    "small_difference_share",
    "small_difference",
    "{share:.0%} of the pairs differ in fewer than 8 tokens: their common text is pushed down with the rejected one; raise "
    "sample.temperature or sample.drafts, or drop more of them with pair.near_duplicate: 0.9",
)


def adapter_type(seen: Sequence[Values], levels: Levels) -> Iterator[Finding]:
    """Find adapter weights that are not float32, or not those of the start policy's file."""
    values = seen[-1]
    exact, equal = values.get("adapter_float32"), values.get("adapter_equal")
    if exact is not None and exact < 1.0 and levels.warn.adapter_moved is not None:
        message = (
            f"{1 - exact:.0%} of the adapter's weights are not float32: small steps round away and a continued adapter "
            "stops learning; please report this, and raise train.learning_rate until it is mended"
        )
        yield Finding(check="adapter_moved", level="warn", value=exact, limit=1.0, message=message)
    if equal is not None and equal < 1.0 and levels.warn.first_step is not None:
        message = (
            f"{1 - equal:.0%} of the adapter's weights differ from the start policy's file before the first step: the "
            "round starts from another policy than the one that was saved; please report this"
        )
        yield Finding(check="first_step", level="warn", value=equal, limit=1.0, message=message)


def update_size(seen: Sequence[Values], levels: Levels) -> Iterator[Finding]:
    """Find a policy that hardly differs from the one before, and one that ran away from it."""
    values = seen[-1]
    kl, error, steps = (values.get(name) for name in ("kl", "kl_standard_error", "steps"))
    if kl is None or error is None:
        return
    shown = f"after {steps or 0:.0f} steps the policy differs from the one before by a KL of {kl:.4f} ± {error:.4f}"
    if steps is not None and steps >= FULL_ROUND:
        shares = (
            "share of moved entries"
            if "answers" in values
            else "shares of moved entries and of pairs whose margin rose"
        )
        message = (
            f"{shown} nats an answer: hardly anything was learned; raise train.learning_rate or train.epochs, and "
            f"look at the {shares}"
        )
        yield from levels.finding("update_too_small", kl + 2 * error, message, at_least=True)
    away, beta = "the policy that wrote the drafts", ", or raise train.beta"
    if "answers" in values:  # the teacher wrote them, and their training has no beta
        away, beta = "the policy that it started from", ""
    message = (
        f"{shown} nats an answer: it ran away from {away}, and its texts may fall apart; lower train.learning_rate or "
        f"train.epochs{beta}"
    )
    # One answer can make the estimate hundreds of nats: only what is left beyond two standard errors counts.
    yield from levels.finding("update_too_large", kl - 2 * error, message, remedy="halve_learning_rate")


def first_step(seen: Sequence[Values], levels: Levels) -> Iterator[Finding]:
    """Find a first step that is not the one of the named start policy, reference and pairs."""
    values = seen[-1]
    gaps = {name: values[name] for name in FIRST_STEP if name in values}
    if gaps:
        worst = max(gaps, key=lambda name: gaps[name])
        coarse = SIXTEEN_BIT if values.get("compute_bits") == 16 else 1.0
        seen_by = [
            f"{name} {values[f'first_{name}']:.4f} instead of {values[f'independent_{name}']:.4f}"
            for name in ("loss", "margin")
            if f"first_{name}" in values and f"independent_{name}" in values
        ]
        message = (
            f"the first step's {FIRST_STEP[worst]} is {gaps[worst]:.4f} away from an independent pass over the same "
            f"batch ({', '.join(seen_by)}): the start policy, the reference or the trained texts are not the ones that "
            "are named; check train.reference and loop.start_from, and please report this"
        )
        yield from levels.finding("first_step", gaps[worst] / coarse, message)
    differing = values.get("first_tokens_differing")
    if differing and levels.warn.first_step is not None:
        message = (
            f"{differing:.0%} of the first step's completions are not the tokens of their pair's chosen and rejected "
            "text: labels were inverted, or texts changed, on their way into the trainer; please report this"
        )
        yield Finding(check="first_step", level="warn", value=differing, limit=0.0, message=message)


def sampler(seen: Sequence[Values], levels: Levels) -> Iterator[Finding]:
    """Find drafts that another policy than the one in training wrote."""
    values = seen[-1]
    gap, before = values.get("sampler_gap"), values.get("previous_gap")
    if gap is None:
        return
    told = f"sampler and trainer differ by {gap:.4f} nats a token on the drafts just sampled"
    remedy = (
        "the drafts are not the student's own: a sampler with stale weights, or another template or precision; set "
        "sample.weights: adapter, or serve the round's policy"
    )
    yield from levels.finding("sampler_gap", gap, f"{told}, so {remedy}")
    noise = NOISE[16 if values.get("compute_bits") == 16 else 32]
    if before is not None and before > noise and gap > noise / 2:
        message = f"{told}, and the policy before this one by {before:.4f}, so {remedy}"
        yield from levels.finding("sampler_staleness", gap / before, message)


def displacement(seen: Sequence[Values], levels: Levels) -> Iterator[Finding]:
    """Find chosen texts that became unlikelier while the margin rose."""
    change, margin = seen[-1].get("chosen_log_ratio"), seen[-1].get("pair_margin_change")
    if change is not None and margin is not None and margin > 0:
        share = seen[-1].get("chosen_below_start", math.nan)
        message = (
            f"the chosen texts lost {-change:.3f} nats a token against the start ({share:.0%} of them fell) while the "
            "margin rose: both texts sink and something else rises; set train.loss: sigmoid+sft, raise train.beta, drop "
            "near-duplicate pairs (pair.near_duplicate), or train online"
        )
        yield from levels.finding("displacement", -change, message, remedy="add_sft")


def margin_direction(seen: Sequence[Values], levels: Levels) -> Iterator[Finding]:
    """Find a training that moved its own pairs the wrong way."""
    values = seen[-1]
    share, pairs = values.get("pair_margin_up_share"), values.get("sampled_pairs")
    if share is not None and pairs:
        upper = share + math.sqrt(1.0 / pairs)  # two standard errors of a fair coin
        message = (
            f"the margin of chosen over rejected rose for only {share:.0%} of {pairs:.0f} pairs that were trained on: "
            "chosen and rejected were swapped on the way into the trainer, gradients are wrong, or "
            "train.learning_rate is far too high; lower it, and please report this where that changes nothing"
        )
        yield from levels.finding("margin_direction", upper, message, at_least=True)


RULES: tuple[Rule, ...] = (
    first_step,
    adapter_type,
    sampler,
    no_end_token,
    double_bos,
    truncated,
    small_difference,
    adapter_moved,
    update_size,
    displacement,
    margin_direction,
)


def start_lines(
    values: Mapping[str, float], facts: Mapping[str, str], findings: Sequence[Finding]
) -> tuple[StartCheck, ...]:
    """Return a line for each thing that was checked before a round trained.

    Args:
        values: the round's flat diagnostics.
        facts: the trainer's facts: `start`, `reference`, `adapter_dtype`, and `off/NAME` for why a check is off.
        findings: what the rules found in the values; they give a line's state.
    """
    named = "start" in facts
    whole = all(values.get(each, 1.0) == 1.0 for each in ("adapter_float32", "adapter_equal"))
    found = {each.check: each.level for each in sorted(findings, key=lambda each: each.level == "stop")}

    def line(name: str, measured: str, text: Callable[[], str], *checks: str) -> StartCheck:
        if measured not in values:
            return StartCheck(name=name, state="off", text=facts.get(f"off/{name}", "the trainer does not measure it"))
        levels = {found[check] for check in checks if check in found}
        return StartCheck(name=name, state="stop" if "stop" in levels else "warn" if levels else "ok", text=text())

    def share(name: str, what: str) -> Callable[[], str]:
        return lambda: f"{values[name]:.1%} of {what}"

    adapter = line("adapter", "adapter_float32", lambda: _adapter(values, facts))
    return (
        StartCheck(
            name="policies",
            state="ok" if named else "off",
            text=f"start {facts['start']}, reference {facts['reference']}" if named else "the trainer names none",
        ),
        line("first_step", _compared(values), lambda: _first_step(values, facts), "first_step"),
        adapter if whole or adapter.state == "off" else adapter.model_copy(update={"state": "warn"}),
        line("gradients", "gradient_ratio", lambda: f"{values['gradient_ratio']:.3f} of what the layers' outputs do"),
        line("sampler", "sampler_gap", lambda: _sampler(values, facts), "sampler_gap", "sampler_staleness"),
        line("end_token", "unended_share", share("unended_share", "trained completions without one"), "no_end_token"),
        line("truncated", "truncated_share", lambda: _lost(values), "truncated"),
        line(
            "small_difference",
            "small_difference_share",
            share("small_difference_share", "pairs differ in fewer than 8 tokens"),
            "small_difference",
        ),
        line("double_bos", "double_bos_share", share("double_bos_share", "prompts begin with two"), "double_bos"),
    )


def _compared(values: Values) -> str:
    """Return what tells that the first step was compared: a training on answers has a loss alone."""
    return "first_loss_gap" if "answers" in values else "first_margin_gap"


def _first_step(values: Values, facts: Mapping[str, str]) -> str:
    seen = [name for name in ("loss", "margin") if f"first_{name}_gap" in values]
    each = [f"{name} {values[f'first_{name}']:.5f} (off by {values[f'first_{name}_gap']:.1e})" for name in seen]
    note = facts.get("off/first_loss")
    rewards = [values[name] for name in ("first_chosen_gap", "first_rejected_gap") if name in values]
    if rewards:
        each.append(f"rewards off by {max(rewards):.1e}")
    return ", ".join(each) + (f"; loss not compared: {note}" if note else "")


def _adapter(values: Values, facts: Mapping[str, str]) -> str:
    equal = values.get("adapter_equal", 1.0)
    same = "equal to the start policy's file" if equal == 1.0 else f"{equal:.1%} equal to the start policy's file"
    return f"{facts.get('adapter_dtype', 'float32')}, {same}"


def _sampler(values: Values, facts: Mapping[str, str]) -> str:
    before = values.get("previous_gap")
    other = f"the previous policy {before:.5f}" if before is not None else facts.get("off/previous_gap", "")
    gap = f"{values['sampler_gap']:.5f} nats a token from the trainer on {values.get('sampler_drafts', 0):.0f} drafts"
    return f"{gap}; {other}" if other else gap


def _lost(values: Values) -> str:
    what = "answers" if "answers" in values else "pairs"
    return f"{values['truncated_share']:.1%} of {what} cut, {values.get('dropped_share', 0.0):.1%} not trained on"
