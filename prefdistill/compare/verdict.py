"""The verdict of a comparison in words, from its numbers only.

Nothing is claimed where an interval holds 0, where a correction for several comparisons takes the claim back, or where
the comparison is refused. "Beat" is said of clear differences; everything else is "no clear difference".
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from prefdistill.compare.checks import BUDGETS, budget_of, kept_bases, same_budget
from prefdistill.compare.data import CONTROLS, FEWEST_PROMPTS, ArmFigures, Estimate, Figures, Versus
from prefdistill.stages.report.formats import MINUS, UNIT, whole_percent

LONGER = 0.05
"""A difference in length that is worth a word."""
FLATTERED = 0.5
"""Share of the training judge's gain that the held-out judge does not see, from which a word is said where the two have
other scales: their spreads are compared then, and a noisy judge's is larger."""
MANY = 100_000
"""Prompts beyond which a number of them says nothing but "no"."""


@dataclass(frozen=True)
class Words:
    """What is said of a comparison."""

    headline: str
    sentences: tuple[str, ...]


def verdict(figures: Figures, refused: Sequence[str], leaks: Sequence[str]) -> Words:
    """Return the headline and the sentences under it, the most important first.

    Args:
        figures: the numbers.
        refused: why nothing may be claimed, a sentence each; empty where there is no such reason.
        leaks: how test prompts may have been trained on, a sentence each.
    """
    few = figures.known < FEWEST_PROMPTS
    if refused:
        return Words(f"No verdict: {refused[0]}", (*refused[1:], *leaks, _judged_by(figures)))
    if few or all(arm.base.difference is None for arm in figures.arms):
        text = (
            f"No claim: {figures.known:,} test prompt{'s' if figures.known != 1 else ''} "
            f"{'are' if figures.known != 1 else 'is'} too few; expected {FEWEST_PROMPTS} or more, better hundreds."
        )
        return Words(text, (*leaks, _judged_by(figures)))
    sentences = [
        *leaks,
        *_beside_the_leader(figures),
        *_against_base(figures),
        *_by_gold(figures),
        *_flattered(figures),
        *_lengths(figures),
        *_controls(figures),
        *kept_bases(figures),
        *_gaps(figures),
        _judged_by(figures),
        *_seeds(figures),
        *_visible(figures),
    ]
    return Words(_headline(figures), tuple(sentences))


def candidates(figures: Figures) -> tuple[ArmFigures, ...]:
    """Return the arms that someone would choose, the one that is ahead first; controls are left out."""
    arms = [arm for arm in figures.arms if arm.arm not in CONTROLS and arm.base.difference is not None]
    arms = arms or [arm for arm in figures.arms if arm.base.difference is not None]
    return tuple(sorted(arms, key=lambda arm: -_value(arm.means.score)))


def _value(each: Estimate | None) -> float:
    return -math.inf if each is None else each.value


def _pair(figures: Figures, one: str, other: str) -> Versus | None:
    return next((pair for pair in figures.pairs if {pair.arm, pair.other} == {one, other} and pair.difference), None)


def _headline(figures: Figures) -> str:
    arms = candidates(figures)
    who = "self-judged" if figures.self_judged else f"by the held-out judge {figures.judge}"
    if len(arms) < 2:
        return f"{_alone(figures, arms[0].base)}, {who}."
    pair = _pair(figures, arms[0].label, arms[1].label)
    if pair is None:
        return f"No verdict: {arms[0].label} and {arms[1].label} have no test prompt with a score in common."
    base = f"; {_base_clause(arms)}"
    if pair.identical:
        return f"{pair.arm} and {pair.other} are the same on every test prompt: no difference, {who}{base}."
    if pair.clear:
        assert pair.difference is not None
        budget = _budget_clause(figures, pair)
        lead = f"{pair.arm} beat {pair.other} by {_amount(pair.difference)} {figures.measure}{budget}, {who}"
        if len(arms) > 2:
            lead = f"{pair.arm} leads: it {lead.removeprefix(f'{pair.arm} ')}"
        return f"{lead}{base}."
    shown = f"({_inside(pair.difference)}{_needed(pair)}), {who}{base}."
    if len(arms) > 2:
        level = [arms[0].label, *(arm.label for arm in arms[1:] if not _clearly(figures, arms[0].label, arm.label))]
        inside = f"(the first two: {shown[1:]}" if len(level) > 2 else shown
        return f"No clear leader: {_sample(figures)} show no clear difference between {_and(level)} {inside}"
    return f"No clear difference between {pair.arm} and {pair.other} that {_sample(figures)} could show {shown}"


def _clearly(figures: Figures, one: str, other: str) -> bool:
    pair = _pair(figures, one, other)
    return pair is not None and pair.clear


def _alone(figures: Figures, base: Versus) -> str:
    assert base.difference is not None
    if base.identical:
        return f"{base.arm} is the same as the base on every test prompt"
    if base.clear:
        verb = "beat" if base.difference.value > 0 else "fell below"
        return f"{base.arm} {verb} the base by {_amount(base.difference, absolute=True)} {figures.measure}"
    shown = f"({_inside(base.difference)}{_needed(base)})"
    return f"No clear difference between {base.arm} and the base that {_sample(figures)} could show {shown}"


def _sample(figures: Figures) -> str:
    seeds = f" and {len(figures.seeds)} seeds" if len(figures.seeds) > 1 else ""
    return f"{figures.known:,} prompts{seeds}"


def _needed(pair: Versus) -> str:
    """Return what it would take to show the difference that was seen."""
    if pair.needed is None or pair.difference is None or abs(pair.difference.value) < 1e-9:
        return ""
    if math.isinf(pair.needed):
        return "; to show so much you would need more seeds, not more prompts"
    if pair.needed > MANY:
        return f"; you would need over {MANY:,}" if pair.difference.seed_variance == 0 else ""
    if pair.needed <= pair.difference.prompts:
        return ""
    digits = 10 ** max(0, len(str(round(pair.needed))) - 2)
    return f"; you would need about {round(pair.needed / digits) * digits:,} prompts"


def _budget_clause(figures: Figures, pair: Versus) -> str:
    one, other = figures.find(pair.arm), figures.find(pair.other)
    if not (one.trained and other.trained):
        return ""
    what = "work of the teacher" if figures.equal == "teacher" else "cost"
    return f" at equal {what}" if same_budget(one, other, figures.equal) else f", at unequal {what}"


def _base_clause(arms: Sequence[ArmFigures]) -> str:
    """Say which arms beat the base."""
    beat = [arm.label for arm in arms if arm.base.clear and _value(arm.base.difference) > 0]
    below = [arm.label for arm in arms if arm.base.clear and _value(arm.base.difference) < 0]
    if len(beat) == len(arms):
        return "both beat the base" if len(arms) == 2 else "all beat the base"
    if len(below) == len(arms):
        return "both fell below the base" if len(arms) == 2 else "all fell below the base"
    parts = [f"{_and(beat)} beat the base"] if beat else []
    parts += [f"{_and(below)} fell below the base"] if below else []
    rest = [arm.label for arm in arms if arm.label not in (*beat, *below)]
    if not parts:
        return (
            "neither is clearly different from the base"
            if len(arms) == 2
            else "none is clearly different from the base"
        )
    if rest:
        parts.append(f"{_and(rest)} {'is' if len(rest) == 1 else 'are'} not clearly different from it")
    return ", ".join(parts)


def _beside_the_leader(figures: Figures) -> Iterator[str]:
    """Say how the leader compares with each other arm that the headline does not name, and how the first pair came out."""
    arms = candidates(figures)
    for number, arm in enumerate(arms[1:]):
        pair = _pair(figures, arms[0].label, arm.label)
        if pair is None or pair.difference is None:
            continue
        if number and pair.clear:
            by = f"{_amount(pair.difference)} {figures.measure}{_budget_clause(figures, pair)}"
            yield f"{pair.arm} beat {pair.other} by {by}."
        elif number and not pair.identical:
            shown = f"({_inside(pair.difference)}{_needed(pair)}){_taken_back(figures, pair)}"
            yield f"No clear difference between {pair.arm} and {pair.other} {shown}."
        if pair.win_rate is not None and not pair.identical:
            yield _wins(figures, pair)


def _taken_back(figures: Figures, pair: Versus) -> str:
    """Say why an interval that leaves out 0 is no claim."""
    if pair.difference is None or not pair.difference.clear:
        return ""
    return f": its interval leaves out 0, but among {len(figures.pairs)} pairs of arms one such may be chance"


def _wins(figures: Figures, pair: Versus) -> str:
    assert pair.win_rate is not None and pair.difference is not None
    low_high = "" if pair.win_rate.interval is None else f" ({_shares(pair.win_rate.interval)})"
    rate = f"{whole_percent(pair.win_rate.value)} of prompts{low_high}, ties half"
    text = f"{pair.arm}'s draft wins against {pair.other}'s on {rate}"
    text += _at_equal_length(pair)
    seeds = len(pair.difference.by_seed)
    if seeds > 1:
        text += f"; it is ahead in {pair.seeds_above} of {seeds} seeds"
    return f"{text}."


def _against_base(figures: Figures) -> Iterator[str]:
    for arm in candidates(figures):
        found = arm.base.difference
        if found is None or arm.base.identical:
            continue
        clear = "" if arm.base.clear else ", which is no clear difference"
        rate = "" if arm.base.win_rate is None else f", win rate {whole_percent(arm.base.win_rate.value)}"
        yield f"{arm.label} against the base: {_amount(found, signed=True)}{rate}{_at_equal_length(arm.base)}{clear}."


def _at_equal_length(pair: Versus) -> str:
    """Return the win rate that is left at equal length where it is another than the raw one, with its interval."""
    rate, controlled = pair.win_rate, pair.length_controlled
    if rate is None or controlled is None or abs(controlled - rate.value) < 0.02:
        return ""
    interval = pair.length_controlled_interval
    low_high = "" if interval is None else f" ({_shares(interval)})"
    return f", {whole_percent(controlled)} at equal length{low_high}"


def _by_gold(figures: Figures) -> Iterator[str]:
    """Say what the exact score of the sandbox says, and where it says something else than the judge."""
    arms = candidates(figures)
    if len(arms) < 2:
        found = arms[0].base.gold if arms else None
        if found is not None:
            yield f"By gold, the sandbox's truth: {arms[0].label} {_than(found, 'the base')}{_at_odds(arms[0].base)}."
        return
    pair = _pair(figures, arms[0].label, arms[1].label)
    if pair is None or pair.gold is None or pair.identical:
        return
    gains = [f"{arm.label} {_amount(arm.base.gold, signed=True)}" for arm in arms if arm.base.gold is not None]
    yield (
        f"By gold, the sandbox's truth: {pair.arm} {_than(pair.gold, pair.other)}{_at_odds(pair)}; "
        f"against the base {', '.join(gains)}."
    )


def _than(found: Estimate, other: str) -> str:
    if not found.clear:
        return f"is not clearly different from {other} ({_inside(found)})"
    verb = "beat" if found.value > 0 else "fell below"
    return f"{verb} {other} by {_amount(found, absolute=True)}"


def _at_odds(pair: Versus) -> str:
    """Say that the judge is wrong, where its clear difference and gold's point to different sides."""
    if pair.gold is None or pair.difference is None or not (pair.clear and pair.gold.clear):
        return ""
    return ", so the judge is wrong here" if pair.gold.value * pair.difference.value < 0 else ""


def _flattered(figures: Figures) -> Iterator[str]:
    """Warn where the training judge's gain is larger than that of a judge that did not train."""
    if figures.self_judged:
        return
    unit, least = (f" {figures.excess_unit}", FLATTERED) if figures.excess_unit else ("", 0.0)
    found = []
    for arm in figures.arms:
        excess, share = arm.base.excess, arm.base.excess_share or 0.0
        if excess is not None and excess.clear and excess.value > 0 and share >= least:
            found.append((arm.label, excess))
    if len(found) == 1:
        [(label, excess)] = found
        yield (
            f"The training judge's gain for {label} is {_amount(excess)}{unit} larger than the held-out judge's: "
            f"read ten of {label}'s drafts before you believe it."
        )
    elif found:
        shown = ", ".join(f"{label}'s by {_amount(excess)}" for label, excess in found)
        yield (
            f"The training judge's gains are larger than the held-out judge's, {shown}{unit}: read ten drafts of each "
            "before you believe them."
        )


def _lengths(figures: Figures) -> Iterator[str]:
    """Say whose drafts are longer or shorter than another's."""
    arms = candidates(figures)
    pair = _pair(figures, arms[0].label, arms[1].label) if len(arms) > 1 else None
    if pair is not None and pair.length_ratio is not None and abs(pair.length_ratio - 1) >= LONGER:
        yield f"{pair.arm}'s drafts are {_longer(pair.length_ratio)} than {pair.other}'s."
    changed = [arm for arm in arms if arm.base.length_ratio is not None and abs(arm.base.length_ratio - 1) >= LONGER]
    if changed:
        shown = ", ".join(f"{arm.label}'s are {_longer(arm.base.length_ratio or 1.0)}" for arm in changed)
        yield f"Against the base's drafts, {shown}."


def _longer(ratio: float) -> str:
    return f"{whole_percent(abs(ratio - 1))} {'longer' if ratio > 1 else 'shorter'}"


def _controls(figures: Figures) -> Iterator[str]:
    """Say what the controls say: whether labels matter, and whether freshness does."""
    for arm in figures.arms:
        found = arm.base.difference
        if arm.arm == "random_labels" and found is not None:
            if arm.base.clear and found.value > 0:
                yield (
                    f"Control failed: {arm.label} rose above the base by {_amount(found)}, though its labels are drawn by "
                    "lot: part of the other arms' gain is not the judge's doing."
                )
            else:
                fell = " and fell below it" if arm.base.clear else ""
                yield f"Control: {arm.label} did not rise above the base{fell} ({_inside(found)}), as it should."
        if arm.arm == "shuffled_online":
            yield from _freshness(figures, arm)


def _freshness(figures: Figures, arm: ArmFigures) -> Iterator[str]:
    known = [each for each in figures.arms if (each.label == arm.source if arm.source else each.arm == "online")]
    online = known[0] if len(known) == 1 else None
    pair = None if online is None else _pair(figures, online.label, arm.label)
    if online is None or pair is None or pair.difference is None:
        return
    by = _amount(pair.difference)
    if pair.clear and pair.arm == online.label:
        meaning = f"{online.label} owes that to fresh drafts, and not to what its pairs say alone"
        yield f"Control: {online.label} beat {arm.label}, the same pairs shuffled, by {by}: {meaning}."
    elif pair.clear:
        meaning = f"their order does not help {online.label}"
        yield f"Control: {arm.label}, the same pairs shuffled, beat {online.label} by {by}: {meaning}."
    else:
        meaning = f"what {online.label} has over other arms may lie in what its pairs say, not in their freshness"
        shown = f"({_inside(pair.difference)})"
        yield (
            f"Control: no clear difference between {online.label} and {arm.label}, the same pairs shuffled {shown}: "
            f"{meaning}."
        )


def _gaps(figures: Figures) -> Iterator[str]:
    known = [
        (arm.label, arm.pgr.value) for arm in candidates(figures) if arm.pgr is not None and arm.pgr.value is not None
    ]
    if known:
        shown = ", ".join(f"{label} {whole_percent(value).replace('-', MINUS)}" for label, value in known)
        yield f"Of the base's distance to the teacher, closed: {shown}."


def _judged_by(figures: Figures) -> str:
    trained = ", ".join(dict.fromkeys(figures.training_judges.values()))
    if not figures.self_judged:
        return (
            f"Scored by the held-out judge {figures.judge}, which took no part in training; {trained} made the pairs."
        )
    which = "" if len(figures.self_judged) == len(figures.arms) else f" ({_and(figures.self_judged)})"
    return (
        f"Self-judged{which}: {figures.judge}, which scored these drafts, also made the training pairs, so a student that "
        "learns to please a flaw of it looks better; a second judge in `evaluate.judge` would be stronger evidence."
    )


def _seeds(figures: Figures) -> Iterator[str]:
    if len(figures.seeds) == 1:
        yield "One seed only: how much another seed would change is not in the intervals."


def _visible(figures: Figures) -> Iterator[str]:
    arms = candidates(figures)
    pair = _pair(figures, arms[0].label, arms[1].label) if len(arms) > 1 else arms[0].base
    if pair is not None and pair.smallest is not None and not pair.clear and not pair.identical:
        small = _written(pair.smallest, _digits((pair.smallest, pair.smallest)))
        yield f"The smallest difference that {_sample(figures)} show four times in five is {small}."
    trained = [arm for arm in figures.arms if arm.trained]
    if figures.equal == "prompts" and len(trained) > 1 and all(same_budget(arm, trained[0]) for arm in trained):
        given = ", ".join(f"{budget_of(trained[0], name):,.10g} {what}" for name, what in BUDGETS.items())
        yield f"Every trained arm had the same: {given} (a seed)."


def _amount(found: Estimate | None, signed: bool = False, absolute: bool = False) -> str:
    """Return a difference with its interval, in as many digits as tell the interval's ends from 0."""
    if found is None:
        return "unknown"
    value, interval = found.value, found.interval
    if absolute and value < 0:
        value, interval = -value, None if interval is None else (-interval[1], -interval[0])
    if interval is None:
        return f"{value:{'+' if signed else ''}.2f}".replace("-", MINUS)
    digits = _digits(interval)
    shown, low, high = (_written(each, digits, signed) for each in (value, *interval))
    return f"{shown} ({low} to {high})"


def _inside(found: Estimate | None) -> str:
    """Return a difference with its interval, to stand in brackets."""
    return _amount(found, signed=True).replace(" (", ", interval ").removesuffix(")")


def _digits(interval: tuple[float, float]) -> int:
    """Return how many decimals tell the ends of an interval from each other, and an end near 0 from 0; 2 to 5."""
    low, high = sorted(abs(each) for each in interval)
    smallest = low if interval[0] * interval[1] > 0 else high
    digits = 2 if smallest <= 0 else min(5, max(2, -math.floor(math.log10(smallest))))
    same = low < high and round(low, digits) == round(high, digits)
    return max(3, digits) if same else digits


def _written(value: float, digits: int, signed: bool = False) -> str:
    """Write a number, a zero without a sign."""
    text = f"{value:{'+' if signed else ''}.{digits}f}"
    return (f"{0:.{digits}f}" if float(text) == 0 else text).replace("-", MINUS)


def _shares(interval: tuple[float, float]) -> str:
    return f"{100 * interval[0]:.0f} to {100 * interval[1]:.0f}{UNIT}"


def _and(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
