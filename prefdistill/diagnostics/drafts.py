"""What drafts look like: length, diversity and repetition, and the rules about them.

Diversity is only compared between like and like: the training drafts of a round with those of round 1, which the base
wrote at the same temperature; the validation drafts of a policy with the base's.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean
from typing import NamedTuple

from prefdistill.diagnostics.findings import Levels, Rule, Values
from prefdistill.diagnostics.texts import Mean, distinct_2, mean_of, repeated_share, words
from prefdistill.records import Draft, Finding

FEWEST_DRAFTS = 16
"""Drafts below which the share of identical ones says nothing."""
ALIKE = 0.05
"""Relative fall of distinct-2 from which drafts have become alike."""
LEAST_REPETITION = 0.03
"""A base that repeats less than this share of its 4-grams counts as repeating this much: a ratio to nothing is noise."""


def own_drafts(drafts: Sequence[Draft]) -> list[Draft]:
    """Return the drafts that a policy wrote; all of them where none did."""
    return [draft for draft in drafts if draft.policy is not None] or list(drafts)


def tokens_a_word(drafts: Sequence[Draft]) -> float:
    """Return how many student tokens a word takes, 1 where no draft has its tokens counted."""
    counted = [
        (draft.answer_tokens or 0, len(draft.completion.split())) for draft in drafts if draft.tokens is not None
    ]
    total = sum(count for _, count in counted)
    return sum(tokens for tokens, _ in counted) / total if total else 1.0


def length_of(draft: Draft, rate: float) -> float:
    """Return the student tokens of a draft's answer; where they were not counted, its words times `rate`."""
    tokens = draft.answer_tokens
    return float(tokens) if tokens is not None else len(draft.completion.split()) * rate


def measure_texts(drafts: Sequence[Draft], prefix: str = "") -> dict[str, float]:
    """Return distinct-2, repetition and entropy of one set of drafts, each with its standard error (`…_se`)."""
    ordered = sorted(drafts, key=lambda draft: (draft.index, draft.id))  # neighbours come from different prompts
    tokens = [words(draft.completion) for draft in ordered]
    repeated = [share for each in tokens if (share := repeated_share(each)) is not None]
    found = {
        "distinct_2": distinct_2(tokens),
        "repeated_4grams": mean_of(repeated),
        "entropy": _entropy(ordered),
    }
    values: dict[str, float] = {}
    for name, each in found.items():
        if each is not None:
            values |= {f"{prefix}{name}": each.value, f"{prefix}{name}_se": each.standard_error}
    return values


def _entropy(drafts: Sequence[Draft]) -> Mean | None:
    """Return minus the mean log-probability a token, in nats; the token entropy of drafts drawn at temperature 1."""
    known = [(-draft.log_prob, draft.tokens) for draft in drafts if draft.log_prob is not None and draft.tokens]
    total = sum(tokens for _, tokens in known)
    if len(known) < 2 or not all(math.isfinite(loss) for loss, _ in known):
        return None
    rate = sum(loss for loss, _ in known) / total
    return Mean(rate, math.sqrt(sum((loss - rate * tokens) ** 2 for loss, tokens in known)) / total)


def measure_training_drafts(drafts: Mapping[str, Draft]) -> dict[str, float]:
    """Return what a round's training drafts look like."""
    mine = own_drafts(list(drafts.values()))
    if not mine:
        return {}
    rate = tokens_a_word(mine)
    groups: dict[str, list[str]] = defaultdict(list)
    for draft in mine:
        groups[draft.prompt_id].append(draft.completion.strip())
    several = [group for group in groups.values() if len(group) > 1]
    known = [draft.finish_reason != "stop" for draft in mine if draft.finish_reason is not None]
    texts = measure_texts(mine)
    values = {
        "drafts": float(len(mine)),
        "draft_tokens": fmean(length_of(draft, rate) for draft in mine),
        **{name.replace("entropy", "draft_entropy"): value for name, value in texts.items()},
    }
    if several:
        values["all_distinct_share"] = fmean(len(set(group)) == len(group) for group in several)
        values["identical_share"] = 1 - sum(len(set(group)) for group in several) / sum(map(len, several))
        values["groups"] = float(len(several))
    if known:
        values["no_end_token_share"] = fmean(known)
    return values


def measure_validation_drafts(
    policy: Sequence[Draft], base: Sequence[Draft], teacher: Sequence[Draft]
) -> dict[str, float]:
    """Return what the validation drafts of the new policy, the base and the teacher look like."""
    rate = tokens_a_word(base or policy)
    values: dict[str, float] = {}
    for prefix, drafts in (("policy_", policy), ("base_", base), ("teacher_", teacher)):
        if not drafts:
            continue
        lengths = [length_of(draft, rate) for draft in drafts]
        spread = mean_of(lengths)
        values[f"{prefix}tokens"] = fmean(lengths)
        if spread is not None:
            values[f"{prefix}tokens_se"] = spread.standard_error
        values |= measure_texts(drafts, prefix)
    traced = [draft.tokens - (draft.answer_tokens or 0) for draft in policy if draft.tokens is not None]
    if any(draft.trace for draft in policy):
        values |= {
            "policy_trace_tokens": fmean(traced) if traced else 0.0,
            "policy_traced_share": fmean(bool(draft.trace) for draft in policy),
        }
    return values


class Fall(NamedTuple):
    """One measure of diversity, then and now."""

    share: float
    """Relative fall; 0 where it is within two standard errors."""
    label: str
    before: float
    now: float
    whose: str


def diversity(seen: Sequence[Values], levels: Levels) -> Iterator[Finding]:
    """Find the largest relative fall of diversity that is beyond two standard errors.

    Texts are held against the teacher's where those are less diverse than the base's: a student that comes to write in
    one house style has not collapsed. It grows certain of that style, so token entropy counts only where the texts have
    become alike too, and only that of training drafts: those of validation are drawn at another temperature, where
    certainty shows twice (healthy runs lost 28 % of the one and half of the other).
    """
    now = seen[-1]
    first = next((each for each in seen[1:-1] if "distinct_2" in each or "draft_entropy" in each), {})
    texts = _fall("distinct-2 of the drafts", "in round 1", first, "distinct_2", now, "distinct_2")
    entropy = _fall("token entropy of the drafts", "in round 1", first, "draft_entropy", now, "draft_entropy")
    falls = [
        texts,
        entropy if texts is not None and texts.share > ALIKE else None,
        _fall("prompts with all drafts distinct", "in round 1", first, "all_distinct_share", now, "all_distinct_share"),
        _fall("distinct-2 of the validation drafts", "of the base", now, "base_distinct_2", now, "policy_distinct_2"),
    ]
    worst = max((fall for fall in falls if fall is not None), default=None)
    if worst is None:
        return
    yield from levels.finding(
        "diversity",
        worst.share,
        f"{worst.label} fell by {worst.share:.0%}, to {worst.now:.3f} from {worst.before:.3f} {worst.whose}: the student "
        "writes more and more the same, because a round takes too many steps on pairs that favour one wording; fewer "
        "`train.epochs` or a lower `train.learning_rate`, `train.reference: base`, or a higher `sample.temperature`",
        remedy="halve_learning_rate",
    )


def _fall(label: str, whose: str, before: Values, then: str, now: Values, name: str) -> Fall | None:
    """Return how far a measure fell; None where it is not known for both."""
    if name not in now or before.get(then, 0.0) <= 0:
        return None
    start, error = before[then], math.hypot(_error(before, then), _error(now, name))
    teacher = now.get("teacher_distinct_2")
    if name.endswith("distinct_2") and teacher is not None and teacher < start:
        start, whose = teacher, "of the teacher"
        error = math.hypot(_error(now, "teacher_distinct_2"), _error(now, name))
    lost = start - now[name]
    return Fall(lost / start if lost > 2 * error else 0.0, label, start, now[name], whose)


def _error(values: Values, name: str) -> float:
    """Return a value's standard error; a share of prompts has the binomial one."""
    if name == "all_distinct_share":
        share, count = values[name], max(values.get("groups", 1.0), 1.0)
        return math.sqrt(share * (1 - share) / count + 0.25 / count**2)
    return values.get(f"{name}_se", 0.0)


def repetition(seen: Sequence[Values], levels: Levels) -> Iterator[Finding]:
    """Find validation drafts that repeat more of their own 4-grams than the base's do, beyond two standard errors."""
    now = seen[-1]
    mine, base = now.get("policy_repeated_4grams"), now.get("base_repeated_4grams")
    if mine is None or base is None:
        return
    error = math.hypot(now.get("policy_repeated_4grams_se", 0.0), now.get("base_repeated_4grams_se", 0.0))
    if mine - max(base, LEAST_REPETITION) <= 2 * error:
        return
    yield from levels.finding(
        "repetition",
        mine / max(base, LEAST_REPETITION),
        f"{mine:.1%} of the 4-grams in the new policy's drafts repeat earlier ones, {base:.1%} in the base's: the update "
        "went too far, or the judge rewards saying a thing twice; lower `train.learning_rate`, `train.reference: base`, "
        "or add the check `repetition` to the rubric",
        remedy="halve_learning_rate",
    )


def identical(seen: Sequence[Values], levels: Levels) -> Iterator[Finding]:
    """Find drafts that equal another one of their prompt; asks for at least sixteen drafts."""
    now = seen[-1]
    share = now.get("identical_share")
    if share is None or now.get("drafts", 0.0) < FEWEST_DRAFTS:
        return
    yield from levels.finding(
        "identical",
        share,
        f"{share:.0%} of the drafts equal another draft of their prompt, and equal texts make no pair: the sampling "
        "temperature is too low (0 makes all drafts of a prompt the same), or the student has collapsed; raise "
        "`sample.temperature`",
    )


RULES: tuple[Rule, ...] = (diversity, repetition, identical)
