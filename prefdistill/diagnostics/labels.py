"""What preference labels look like: how many, how long the texts, how they lie in the judge's own verdicts."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean

from prefdistill.diagnostics.drafts import length_of, own_drafts, tokens_a_word
from prefdistill.diagnostics.findings import Levels, Rule, Values
from prefdistill.records import Answer, Draft, Drop, Finding, PreferencePair, Prompt, Verdict

FEWEST_PROMPTS = 16
"""Prompts below which the share of them that gave a pair, or a tie, says nothing."""
FEWEST_PAIRS = 16
"""Pairs below which a share of them says nothing."""
CONSISTENT = 0.65
"""Least share of pairs that lie as the judge's own verdicts do; a rubric's weights may turn a few of them round."""


def measure_labels(
    prompts: Sequence[Prompt],
    drafts: Mapping[str, Draft],
    verdicts: Mapping[str, Verdict],
    pairs: Sequence[PreferencePair],
    drops: Sequence[Drop],
) -> dict[str, float]:
    """Return what a round's pairs look like."""
    values = {"prompts": float(len(prompts)), "pairs": float(len(pairs))}
    if prompts:
        reasons = Counter(drop.reason for drop in drops)
        values["pair_yield"] = len({pair.prompt_id for pair in pairs}) / len(prompts)
        values["tie_share"] = reasons["tie"] / len(prompts)
        values |= {f"drop/{reason}": count / len(prompts) for reason, count in sorted(reasons.items())}
    if not pairs:
        return values
    rate = tokens_a_word(own_drafts(list(drafts.values())))
    lengths = [_lengths(pair, drafts, rate) for pair in pairs]
    values |= {
        "mean_margin": fmean(pair.margin for pair in pairs),
        "chosen_tokens_mean": fmean(chosen for chosen, _ in lengths),
        "rejected_tokens_mean": fmean(rejected for _, rejected in lengths),
        "chosen_longer_share": fmean(_half(chosen - rejected) for chosen, rejected in lengths),
    }
    places = [before for pair in pairs if (before := _shown_before(pair, drafts, verdicts)) is not None]
    if places:
        values |= {"first_place_share": fmean(places), "first_place_pairs": float(len(places))}
    consistent = [same for pair in pairs if (same := _as_judged(pair, drafts, verdicts)) is not None]
    if consistent:
        values |= {"label_agreement": fmean(consistent), "label_agreement_pairs": float(len(consistent))}
    return values


def measure_answers(prompts: Sequence[Prompt], answers: Sequence[Answer], drops: Sequence[Drop]) -> dict[str, float]:
    """Return what a round has to learn from where it learns from the teacher's answers."""
    values = {"prompts": float(len(prompts)), "answers": float(len(answers))}
    if prompts:
        reasons = Counter(drop.reason for drop in drops)
        values["answer_yield"] = len({answer.prompt_id for answer in answers}) / len(prompts)
        values |= {f"drop/{reason}": count / len(prompts) for reason, count in sorted(reasons.items())}
    return values


def _half(difference: float) -> float:
    """Return 1 for a positive difference, 0 for a negative one, a half for none."""
    return 0.5 if difference == 0 else float(difference > 0)


def _lengths(pair: PreferencePair, drafts: Mapping[str, Draft], rate: float) -> tuple[float, float]:
    """Return the tokens of chosen and rejected; words times `rate` where either's tokens are not known."""
    chosen, rejected = drafts.get(pair.chosen_id), drafts.get(pair.rejected_id)
    if chosen is not None and rejected is not None and chosen.tokens is not None and rejected.tokens is not None:
        return length_of(chosen, rate), length_of(rejected, rate)
    return len(pair.chosen.split()) * rate, len(pair.rejected.split()) * rate


def _shown_before(pair: PreferencePair, drafts: Mapping[str, Draft], verdicts: Mapping[str, Verdict]) -> float | None:
    """Whether the chosen draft stood before the rejected one where a judge scored the drafts in the order of their ids.

    None where the pair comes from comparisons, or from drafts of two sources, whose order says who wrote them.
    """
    chosen, rejected, verdict = drafts.get(pair.chosen_id), drafts.get(pair.rejected_id), verdicts.get(pair.prompt_id)
    if chosen is None or rejected is None or verdict is None or chosen.source != rejected.source:
        return None
    if pair.scale == "preference" or not verdict.judgements:
        return None
    return float(chosen.id < rejected.id)


def _as_judged(pair: PreferencePair, drafts: Mapping[str, Draft], verdicts: Mapping[str, Verdict]) -> float | None:
    """Whether the text that is trained as chosen did better in the verdict than the other: 1, 0, or a half for a tie.

    The texts count, not the ids beside them. None where the verdict does not tell.
    """
    verdict = verdicts.get(pair.prompt_id)
    if verdict is None:
        return None
    marks = _marks(verdict)
    of_text: dict[str, list[float]] = defaultdict(list)
    for draft_id, mark in marks.items():
        if draft_id in drafts:
            of_text[drafts[draft_id].completion.strip()].append(mark)
    chosen, rejected = of_text.get(pair.chosen.strip()), of_text.get(pair.rejected.strip())
    return _half(fmean(chosen) - fmean(rejected)) if chosen and rejected else None


def _marks(verdict: Verdict) -> dict[str, float]:
    """Return how each draft did in a verdict: its value, the mean of its criteria, or its mean chance of winning."""
    found: dict[str, list[float]] = defaultdict(list)
    for judgement in verdict.judgements:
        if judgement.scale == "preference":
            continue
        scores = [score.score for score in judgement.scores if score.score is not None]
        if judgement.value is not None:
            found[judgement.draft_id].append(judgement.value)
        elif scores:
            found[judgement.draft_id].append(fmean(scores))
    if not found:
        for each in verdict.preferences:
            found[each.first_id].append(each.probability)
            found[each.second_id].append(1 - each.probability)
    return {key: fmean(values) for key, values in found.items()}


def chosen_longer(seen: Sequence[Values], levels: Levels) -> Iterator[Finding]:
    """Find pairs whose chosen text is mostly the longer one, beyond two standard errors of an even share.

    Silent with fewer than sixteen pairs, and while the chosen texts are no longer than the teacher's own: growing
    towards the teacher is what the student is to learn.
    """
    now = seen[-1]
    share, pairs, chosen = now.get("chosen_longer_share"), now.get("pairs", 0.0), now.get("chosen_tokens_mean", 0.0)
    if share is None or pairs < FEWEST_PAIRS or share - 0.5 <= 2 * math.sqrt(0.25 / pairs):
        return
    teacher = now.get("teacher_tokens")
    if teacher is not None and chosen <= teacher:
        return
    beside = "" if teacher is None else f", the teacher's own {teacher:.0f}"
    yield from levels.finding(
        "chosen_longer",
        share,
        f"the chosen text is the longer one in {share:.0%} of {pairs:.0f} pairs (mean {chosen:.0f} tokens against "
        f"{now.get('rejected_tokens_mean', 0.0):.0f}{beside}): the judge favours length, and the student will write ever "
        "longer; `pair.max_length_ratio: 1.2` for pairs of like length, `train.loss: sigmoid_norm`, `train.extra: "
        "{ld_alpha: 0.5}`, or a length criterion in the rubric",
        remedy="length_normalise",
    )


ALIKE = frozenset({"tie", "below_margin", "identical", "near_duplicate"})
"""Reasons for which a prompt gives no pair because its drafts are too alike."""
MEND = {
    "incomplete": "drafts are cut at the token limit; raise `sample.max_new_tokens`, or lower `train.learning_rate` where "
    "the student has forgotten to stop",
    "broken_text": "drafts have characters in pieces; lower `sample.temperature` or `sample.top_p`",
    "all_failed_gates": "no draft passes the gates; loosen the rubric's gates, raise `sample.drafts`, or mix in the "
    "teacher's drafts (`sample.teacher_drafts`)",
    "judge_failed": "the judge failed on them; see the failures in 2-verdicts.jsonl and mend the judge",
    "not_judged": "they were not judged; see the failures in 2-verdicts.jsonl and mend the judge",
    "confirmation_failed": "the judge's comparisons failed; see the failures in 2-verdicts.jsonl and mend the judge",
    "orders_disagree": "the judge's winner changes with the order shown; `judge.on_disagree: repeat`, or a panel "
    "(`judge.panel`)",
    "comparison_contradicts": "the judge's scores and comparisons contradict each other; fewer criteria in the rubric, or "
    "a panel (`judge.panel`)",
    "length_ratio": "their texts differ too much in length for `pair.max_length_ratio`; raise it",
    "addresses_judge": "drafts speak to the judge; read 4-drops.jsonl",
}
"""What to do where a reason other than drafts that are too alike comes first."""


UNANSWERED = {
    "not_written": "the teacher failed on the others, or refused them; see the warnings",
    "unreadable": "where the teacher's reasoning ends and its answer begins cannot be told in the others; read "
    "4-drops.jsonl, raise `max_trace_tokens`, or take a teacher that keeps to the tags",
    "too_long": "with their reasoning the others are longer than the student may write; raise `sample.max_new_tokens`, or "
    "ask for less (`trace_words`, `trace: summary`)",
    "incomplete": "the teacher's answers are cut at the token limit; raise `sample.max_new_tokens`",
    "failed_gates": "the teacher's answers fail the rubric's gates; loosen them, or tell the teacher of them "
    "(`teacher.system`)",
    "judge_failed": "the judge failed on them; see the failures in 2-verdicts.jsonl and mend the judge",
}
"""What to do where a reason for having no answer comes first."""


def pair_yield(seen: Sequence[Values], levels: Levels) -> Iterator[Finding]:
    """Find a round in which too few prompts gave a pair; asks for at least sixteen prompts.

    It only warns where drafts are alike and the judge's own score is far above the base's and as good as in the best
    round: then pairs are few because nearly every draft is good, and there is nothing to save by a stop.
    """
    now = seen[-1]
    share, prompts = now.get("pair_yield"), now.get("prompts", 0.0)
    if share is None or prompts < FEWEST_PROMPTS:
        return
    reasons = {name.removeprefix("drop/"): now[name] for name in now if name.startswith("drop/")}
    order = sorted(reasons, key=lambda reason: (-reasons[reason], reason))
    alike = sum(part for reason, part in reasons.items() if reason in ALIKE) >= 0.5 * sum(reasons.values())
    learned = alike and _has_learned(seen)
    if learned:
        cause = (
            "the student has learned what this judge can tell apart; fewer `loop.rounds`, harder prompts, finer levels"
        )
    elif alike or order[0] not in MEND:
        cause = (
            "the drafts are too alike for the judge; harder prompts, more `sample.drafts`, a higher `sample.temperature`, "
            "or a lower `pair.min_margin`"
        )
    else:
        cause = MEND[order[0]]
    shown = ", ".join(f"{reason} {reasons[reason]:.0%}" for reason in order[:3])
    yield from (Levels(levels.warn, None) if learned else levels).finding(
        "pair_yield",
        share,
        f"only {share:.0%} of {prompts:.0f} prompts gave a pair{f' ({shown})' if shown else ''}: {cause}",
        at_least=True,
    )


def answer_yield(seen: Sequence[Values], levels: Levels) -> Iterator[Finding]:
    """Find a round in which too few prompts gave an answer to train on; asks for at least sixteen prompts."""
    now = seen[-1]
    share, prompts = now.get("answer_yield"), now.get("prompts", 0.0)
    if share is None or prompts < FEWEST_PROMPTS:
        return
    reasons = {name.removeprefix("drop/"): now[name] for name in now if name.startswith("drop/")}
    order = sorted(reasons, key=lambda reason: (-reasons[reason], reason))
    shown = ", ".join(f"{reason} {reasons[reason]:.0%}" for reason in order[:3])
    yield from levels.finding(
        "pair_yield",
        share,
        f"only {share:.0%} of {prompts:.0f} prompts gave an answer to train on{f' ({shown})' if shown else ''}: "
        + UNANSWERED.get(order[0] if order else "", "read 4-drops.jsonl"),
        at_least=True,
    )


def _has_learned(seen: Sequence[Values]) -> bool:
    """Whether the judge's score is a spread of the base's scores above the base, and within chance of the best round."""
    now, scores = seen[-1], [each["rubric_score"] for each in seen if "rubric_score" in each]
    error, spread = now.get("score_gain_se"), now.get("base_score_sd")
    if error is None or spread is None or "rubric_score" not in now or "rubric_score" not in seen[0]:
        return False
    return now["rubric_score"] - scores[0] > max(spread, 2 * error) and max(scores) - now["rubric_score"] <= 2 * error


def label_agreement(seen: Sequence[Values], levels: Levels) -> Iterator[Finding]:
    """Find pairs that do not lie as the judge's own verdicts do; asks for at least sixteen pairs.

    The share is of the texts that are trained as chosen and did better in the verdict. It is near 1 in a sound round,
    a half where labels are random, and near 0 where chosen and rejected have changed places.
    """
    now = seen[-1]
    share, pairs = now.get("label_agreement"), now.get("label_agreement_pairs", 0.0)
    if share is None or pairs < FEWEST_PAIRS or levels.warn.label_signal is None or share >= CONSISTENT:
        return
    what = "chosen and rejected have changed places" if share < 0.25 else "the labels have come loose from the verdicts"
    yield Finding(
        check="label_signal",
        level="warn",
        value=share,
        limit=CONSISTENT,
        message=(
            f"only {share:.0%} of {pairs:.0f} pairs lie as the judge's own verdicts do: {what}, so the student learns "
            "something else than the judge said; look at 2-verdicts.jsonl and 4-pairs.jsonl of the round, then "
            "`--redo-from judge`"
        ),
    )


RULES: tuple[Rule, ...] = (chosen_longer, pair_yield, answer_yield, label_agreement)
