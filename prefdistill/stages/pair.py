"""Stage 5, pair: rankings become preference pairs. Pure: no file, no call, no chance but a seed's (`pair.labels`).

Every prompt gives at least one pair or exactly one `Drop` with one of the reasons below. A draft cut at the token
limit is neither chosen nor rejected; one that fails a gate is never chosen; a margin is always positive.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from statistics import fmean, pstdev
from typing import Literal, get_args

from prefdistill.records import Draft, Drop, PreferencePair, Prompt, Ranking, Verdict, digest, seed_of
from prefdistill.rubric import COMPLETE
from prefdistill.selection import (
    EPSILON,
    Contender,
    PairOptions,
    best_of,
    choose_best_worst,
    compare_texts,
    contenders,
    in_random_order,
    is_below,
    is_broken,
    outvoted,
)

Reason = Literal[
    "fewer_than_two_drafts",
    "not_judged",
    "judge_failed",
    "gate_undecided",
    "no_criterion_applies",
    "identical",
    "incomplete",
    "broken_text",
    "all_failed_gates",
    "gate_failures_dropped",
    "tie",
    "below_margin",
    "confirmation_failed",
    "not_compared",
    "orders_disagree",
    "comparison_contradicts",
    "addresses_judge",
    "near_duplicate",
    "length_ratio",
]
"""Why a prompt gave no pair.

fewer_than_two_drafts: fewer were written. not_judged: no verdict. judge_failed: failures left fewer than two drafts.
gate_undecided: a panel split evenly on gates left fewer than two. no_criterion_applies: no criterion with a weight
applies to the prompt. identical: all texts are the same. incomplete: drafts cut at the token limit left fewer than
two. broken_text: drafts with a character in pieces did. all_failed_gates: none may be chosen. gate_failures_dropped:
`gate_failures: drop` left fewer than two. tie: none
is better than another. below_margin: better by less than `min_margin`. confirmation_failed: a comparison of the two
has no readable verdict in one of its orders. not_compared: scored drafts of the prompt were compared, these two were
not. orders_disagree: the winner changed with the order shown. comparison_contradicts: both orders prefer the draft
that scored lower. addresses_judge: one of the two speaks to the judge. near_duplicate, length_ratio: the filters of
`PairOptions`.
"""
REASONS: tuple[str, ...] = get_args(Reason)


def pair_prompts(
    prompts: Iterable[Prompt],
    drafts: Iterable[Draft],
    verdicts: Iterable[Verdict],
    rankings: Iterable[Ranking],
    options: PairOptions,
    round: int,
) -> Iterator[PreferencePair | Drop]:
    """Yield each prompt's pairs, or the one reason why it has none, in the order of `prompts`.

    Raises:
        RecipeError: the judge has a scale of its own and `min_margin` was not given.
    """
    drafts_of: dict[str, list[Draft]] = defaultdict(list)
    for draft in drafts:
        drafts_of[draft.prompt_id].append(draft)
    verdict_of = {verdict.prompt_id: verdict for verdict in verdicts}
    ranking_of = {ranking.prompt_id: ranking for ranking in rankings}
    for prompt in prompts:
        ranking = ranking_of.get(prompt.id) or Ranking(prompt_id=prompt.id, round=round)
        yield from pair_prompt(prompt, drafts_of[prompt.id], verdict_of.get(prompt.id), ranking, options, round)


def pair_prompt(
    prompt: Prompt,
    drafts: Sequence[Draft],
    verdict: Verdict | None,
    ranking: Ranking,
    options: PairOptions,
    round: int,
) -> tuple[PreferencePair, ...] | tuple[Drop]:
    """Return one prompt's pairs, or its single `Drop`."""
    reason = _too_few(drafts, verdict, ranking, options)
    if reason is not None:
        return (Drop(prompt_id=prompt.id, round=round, reason=reason),)
    verdict = verdict or Verdict(prompt_id=prompt.id)
    pairs: list[PreferencePair] = []
    drop: Drop | None = None
    traces = {draft.id: draft.trace for draft in drafts}
    for chosen, rejected in _candidates(prompt, drafts, ranking, options):
        margin, refused, detail = _margin(chosen, rejected, verdict, options)
        flag = chosen.flag or rejected.flag
        if flag is not None and options.flagged == "drop":
            refused, detail = "addresses_judge", flag
        if refused is None:
            refused, detail = _filtered(chosen, rejected, options)
        if refused is None:
            pairs.append(_to_pair(prompt, round, chosen, rejected, margin, traces))
        elif drop is None:
            drop = Drop(prompt_id=prompt.id, round=round, reason=refused, detail=detail)
    if pairs:
        return tuple(pairs)
    return (drop or Drop(prompt_id=prompt.id, round=round, reason="tie"),)


def with_drawn_labels(pair: PreferencePair, seed: int) -> PreferencePair:
    """Return the pair with its chosen draft drawn by lot, from the seed, the prompt and the two texts alone.

    Texts, ids and scores go together; the margin stays the gap between the two scores, so it says no longer which one
    the judge prefers.
    """
    first = min(pair.chosen, pair.rejected)
    lot = seed_of(seed, "labels", pair.prompt_id, *sorted((pair.chosen, pair.rejected))) % 2
    if (pair.chosen == first) == (lot == 0):
        return pair
    return pair.model_copy(
        update={
            "id": _pair_id(pair.prompt_id, pair.round, pair.rejected, pair.chosen),
            "chosen": pair.rejected,
            "rejected": pair.chosen,
            "chosen_id": pair.rejected_id,
            "rejected_id": pair.chosen_id,
            "chosen_score": pair.rejected_score,
            "rejected_score": pair.chosen_score,
            "chosen_trace": pair.rejected_trace,
            "rejected_trace": pair.chosen_trace,
        }
    )


def _pair_id(prompt_id: str, round: int, chosen: str, rejected: str) -> str:
    """Return the id; it depends on the texts, not on the order in which drafts were stored."""
    return f"{prompt_id}/round-{round:02d}/{digest([chosen, rejected], 8)}"


def _too_few(drafts: Sequence[Draft], verdict: Verdict | None, ranking: Ranking, options: PairOptions) -> Reason | None:
    """Return why no two drafts can stand against each other, None where two can."""
    if len(drafts) < 2:
        return "fewer_than_two_drafts"
    if len({draft.completion.strip() for draft in drafts}) < 2:
        return "identical"
    if verdict is None:
        return "not_judged"
    if len(ranking.entries) < 2:
        if ranking.undecided:
            return "gate_undecided"
        return "judge_failed" if verdict.failures else "no_criterion_applies"
    everyone = contenders(ranking, drafts)
    if len(everyone) < 2:
        if any(COMPLETE in entry.gates for entry in ranking.entries):
            return "incomplete"
        return "broken_text" if any(is_broken(draft.completion) for draft in drafts) else "identical"
    passing = sum(each.passes for each in everyone)
    if passing == 0:
        return "all_failed_gates"
    return "gate_failures_dropped" if options.gate_failures == "drop" and passing < 2 else None


def _candidates(
    prompt: Prompt, drafts: Sequence[Draft], ranking: Ranking, options: PairOptions
) -> list[tuple[Contender, Contender]]:
    """Return the (chosen, rejected) that the strategy selects, widest first; empty where all are tied."""
    tie = options.tie_margin
    if options.strategy == "best_worst":
        selected = choose_best_worst(prompt, drafts, ranking, tie, options.gate_failures)
        return [] if selected is None else [selected]
    rivals = contenders(ranking, drafts, options.gate_failures, prompt)
    if options.strategy == "all_above_margin":
        both = [(a, b) for a in rivals for b in reversed(rivals) if is_below(b, a, tie)]
        return sorted(both, key=lambda two: (two[1].passes, two[1].score - two[0].score))
    chosen = best_of(rivals, tie)
    below = [] if chosen is None else [each for each in rivals if is_below(each, chosen, tie)]
    if chosen is None or not below:
        return []
    if options.strategy == "best_random":
        return [(chosen, in_random_order(prompt, drafts, below)[0])]
    scores = [_counted(each) for each in rivals]
    target = fmean(scores) - 2 * pstdev(scores)
    nearest = min(
        below, key=lambda each: (abs(_counted(each) - target), abs(len(each.text) - len(chosen.text)), each.text)
    )
    return [(chosen, nearest)]


def _counted(contender: Contender) -> float:
    """Return the score with a gate failure counted 0; a custom scale has no such zero."""
    return contender.score if contender.passes or contender.scale == "custom" else 0.0


def _margin(
    chosen: Contender, rejected: Contender, verdict: Verdict, options: PairOptions
) -> tuple[float, Reason | None, str]:
    """Return the margin in the scale's unit, and why it cannot train, if so."""
    margin = chosen.score - _counted(rejected)
    two = {frozenset((a, b)) for a in chosen.equal_ids for b in rejected.equal_ids}
    shown = [each for each in verdict.preferences if {each.first_id, each.second_id} in two]
    keys = {f"{a}|{b}" for pair in two for a in pair for b in pair if a != b}
    compared = compare_texts(shown, chosen.equal_ids, rejected.equal_ids)
    answered = {member for member in compared.members if member} if compared is not None else set()
    failed = outvoted(verdict.failures, keys, answered)
    if rejected.passes and (shown or failed):
        if compared is None or failed:
            return margin, "confirmation_failed", "a comparison has no readable verdict in one of its orders"
        orders = f"probabilities {compared.shown_first:.2f} and {compared.shown_second:.2f} in the two orders"
        lead = 2 * compared.probability - 1
        if compared.tied or (compared.agree and abs(lead) <= options.tie_margin):
            return margin, "tie", orders
        if not compared.agree:
            return margin, "tie" if options.on_disagree == "tie" else "orders_disagree", orders
        if lead < 0:
            return margin, "comparison_contradicts", orders
        if chosen.scale == "preference":
            margin = lead
    scored = chosen.scale != "preference"  # else the score itself is an estimate from all comparisons
    if scored and rejected.passes and not shown and any(each.path != "checked" for each in verdict.preferences):
        return margin, "not_compared", "the judge compared other drafts of the prompt, and not these two"
    least = options.margin_for(chosen.scale)
    if margin <= 0 or margin + EPSILON < least:
        return margin, "below_margin", f"{margin:.3f} is below {least:g}"
    return margin, None, ""


def _filtered(chosen: Contender, rejected: Contender, options: PairOptions) -> tuple[Reason | None, str]:
    """Return the filter that refuses two texts, if any."""
    if options.near_duplicate is not None:
        from rapidfuzz.fuzz import ratio

        similarity = ratio(chosen.text, rejected.text) / 100
        if similarity > options.near_duplicate:
            return "near_duplicate", f"similarity {similarity:.3f} is above {options.near_duplicate:g}"
    if options.max_length_ratio is not None:
        words = sorted(max(1, len(each.text.split())) for each in (chosen, rejected))
        if words[1] > options.max_length_ratio * words[0]:
            return "length_ratio", f"{words[1]} words against {words[0]}, limit {options.max_length_ratio:g} times"
    return None, ""


def _to_pair(
    prompt: Prompt, round: int, chosen: Contender, rejected: Contender, margin: float, traces: Mapping[str, str]
) -> PreferencePair:
    """Return the record."""
    return PreferencePair(
        id=_pair_id(prompt.id, round, chosen.text, rejected.text),
        prompt_id=prompt.id,
        round=round,
        prompt=prompt.messages,
        chosen=chosen.text,
        rejected=rejected.text,
        chosen_id=chosen.draft_id,
        rejected_id=rejected.draft_id,
        chosen_score=chosen.score,
        rejected_score=_counted(rejected),
        margin=margin,
        scale=chosen.scale,
        chosen_trace=traces[chosen.draft_id],
        rejected_trace=traces[rejected.draft_id],
    )
