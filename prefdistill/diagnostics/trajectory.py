"""How scores and lengths go from round to round, and the rules about their curves: the judge's own, and another's.

Only the held-out score, by a judge that the student is not trained to please, tells whether the student got better.
Gains are paired by prompt, so their standard errors are small; every rule asks for two of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from prefdistill.diagnostics.findings import Levels, Rule, Values
from prefdistill.records import Finding

TYPICAL_SPREAD = 0.2
"""Standard deviation of scores between 0 and 1, for which `loop.warn.judge_gain` is meant."""
WINDOW = 3
"""Rounds over which a slow rise of the judge's score adds up."""
FEWEST_TO_WARN, FEWEST_TO_STOP = 12, 30
"""Validation prompts from which the curve of a judge's mean score warns, and from which it ends a run."""
HONEST_SHARE = 0.25
"""Part of the judge's rise that the held-out score shows at least where the judge is honest."""
CIRCLES = 0.3
"""Share of repeated 4-grams above the base's from which drafts are long because they turn in circles."""
UPDATE_SEEN = 0.02
"""KL, nats an answer, under which an update is too small to have learned anything."""
UPDATE_LARGE = 0.3
"""KL to the base, nats an answer, from which a fall of the judge's own score says that labels are turned round."""
UPDATE_VERY_LARGE = 2.0
"""KL to the base, nats an answer, from which a judge's score that has not risen says that labels carry no signal."""
HEALTHY_RISE = 0.5
"""Spreads of the base drafts' scores by which a judge's score has risen after such an update in a healthy run, or more."""
FEWEST_FRESH = 30
"""Fresh pairs, all rounds together, from which their accuracy says something."""


def length_growth(seen: Sequence[Values], levels: Levels) -> Iterator[Finding]:
    """Find validation drafts that grew since the round before, beyond two standard errors.

    Silent while they are no longer than the teacher's own: growing towards the teacher is what the student is to learn.
    """
    now = seen[-1]
    if len(seen) < 2 or "policy_tokens" not in now:
        return
    before = seen[-2].get("policy_tokens") or (now.get("base_tokens") if len(seen) == 2 else None)
    if not before:
        return
    tokens, teacher = now["policy_tokens"], now.get("teacher_tokens")
    error = math.hypot(
        now.get("policy_tokens_se", 0.0), seen[-2].get("policy_tokens_se", now.get("base_tokens_se", 0.0))
    )
    if tokens - before <= 2 * error or (teacher is not None and tokens <= teacher):
        return
    beside = "" if teacher is None else f", the teacher's are {teacher:.0f}"
    circles = now.get("policy_repeated_4grams", 0.0) - now.get("base_repeated_4grams", 0.0) > CIRCLES
    cause = (
        "the student turns in circles and cannot stop, the update went too far; a lower `train.learning_rate`, fewer "
        "`train.epochs`, or `train.reference: base`"
        if circles
        else "the student has found that longer texts win; `pair.max_length_ratio: 1.2` for pairs of like length, "
        "`train.loss: sigmoid_norm`, `train.extra: {ld_alpha: 0.5}`, or a length criterion in the rubric"
    )
    yield from levels.finding(
        "length_growth",
        tokens / before,
        f"the validation drafts grew to {tokens:.0f} tokens from {before:.0f} in the round before{beside}: {cause}",
        remedy="halve_learning_rate" if circles else "length_normalise",
    )


class Rise(NamedTuple):
    """What the judge's score and the held-out score did over some rounds."""

    rounds: int
    judge: float
    held_out: float


def hacked(seen: Sequence[Values], judge_gain: float) -> Rise | None:
    """Return the rise that shows that the judge's score no longer measures quality in the last round, None if none does.

    Over the last one to three rounds the judge's score rose by at least `judge_gain`, beyond two standard errors, and
    the held-out score by so little that, two standard errors added, it is under a quarter of that. Scores on a scale of
    their own are measured in spreads of the base drafts' scores, 0.2 of such a scale being taken as one spread.
    """
    unit = _unit(seen)
    for rounds in range(1, min(WINDOW, len(seen) - 1) + 1):
        now, before = seen[-1], seen[-1 - rounds]
        judge, held_out = _change(now, before, "rubric_score"), _change(now, before, "held_out_score")
        if judge is None or held_out is None or unit is None:
            continue
        error, held_out_error = _error(now, before, "score_gain_se"), _error(now, before, "held_out_gain_se")
        if error is None or held_out_error is None:
            continue
        rose = judge / unit >= judge_gain and judge > 2 * error
        if rose and (held_out + 2 * held_out_error) / _held_out_unit(seen) < HONEST_SHARE * judge / unit:
            return Rise(rounds, judge, held_out)
    return None


def _unit(seen: Sequence[Values]) -> float | None:
    """Return what counts as 1 on the judge's scale: 1 between 0 and 1, else five spreads of the base drafts' scores."""
    scores = [each["rubric_score"] for each in seen if "rubric_score" in each]
    if all(0.0 <= score <= 1.0 for score in scores):
        return 1.0
    spread = next((each["base_score_sd"] for each in seen if "base_score_sd" in each), None)
    return spread / TYPICAL_SPREAD if spread else None


def _held_out_unit(seen: Sequence[Values]) -> float:
    """Return what counts as 1 on the held-out judge's scale, likewise; a tiny spread between 0 and 1 is another scale."""
    scores = [each["held_out_score"] for each in seen if "held_out_score" in each]
    spread = next((each["base_held_out_sd"] for each in seen if "base_held_out_sd" in each), None)
    if not spread or (all(0.0 <= score <= 1.0 for score in scores) and spread >= TYPICAL_SPREAD / 4):
        return 1.0
    return spread / TYPICAL_SPREAD


def _few(seen: Sequence[Values]) -> bool:
    """Whether there are so few validation prompts that a curve of their means says nothing."""
    return seen[-1].get("validation_prompts", math.inf) < FEWEST_TO_WARN


def _stop_needs_more(found: Iterator[Finding], seen: Sequence[Values]) -> Iterator[Finding]:
    """Yield findings, a stop as a warning where the validation prompts are too few to end a run by them."""
    few = seen[-1].get("validation_prompts", math.inf) < FEWEST_TO_STOP
    for each in found:
        yield each.model_copy(update={"level": "warn"}) if few else each


def _change(now: Values, before: Values, name: str) -> float | None:
    return now[name] - before[name] if name in now and name in before else None


def _error(now: Values, before: Values, name: str) -> float | None:
    """Return the standard error of a change between two rounds: that of the gain over the base is about as large."""
    known = [each[name] for each in (now, before) if name in each]
    return max(known) if known else None


def judge_hacking(seen: Sequence[Values], levels: Levels) -> Iterator[Finding]:
    """Find rounds in a row in which the judge's score rose and the held-out score did not."""
    if levels.warn.judge_hacking is None and (levels.stop is None or levels.stop.judge_hacking is None):
        return
    if _few(seen):
        return
    rise = hacked(seen, levels.warn.judge_gain)
    if rise is None:
        return
    rounds = 1
    while rounds < len(seen) and hacked(seen[:-rounds], levels.warn.judge_gain):
        rounds += 1
    enough = seen[-1].get("validation_prompts", math.inf) >= FEWEST_TO_STOP
    stop = None if levels.stop is None or not enough else levels.stop.judge_hacking
    stops = stop is not None and rounds >= stop
    limit = stop if stops else levels.warn.judge_hacking
    if limit is None or rounds < limit:
        return
    over = "in this round" if rise.rounds == 1 else f"over {rise.rounds} rounds"
    yield Finding(
        check="judge_hacking",
        level="stop" if stops else "warn",
        value=float(rounds),
        limit=float(limit),
        message=(
            f"the judge's score rose by {rise.judge:.3f} {over}, the held-out score by {rise.held_out:+.3f} (round "
            f"{rounds} in a row): the student pleases a flaw of the judge; stop, keep the best round by the "
            "held-out score, close the loophole in the rubric (read the newest drafts), or judge with a second judge too "
            "(`judge.panel`)"
        ),
    )


def held_out_drop(seen: Sequence[Values], levels: Levels) -> Iterator[Finding]:
    """Find a held-out score below its best round, beyond two standard errors, in two rounds in a row.

    One round may wobble and come back; a fall of twice the stop level, beyond three standard errors, counts at once.
    """
    falls = [fall for number in range(len(seen), 1, -1) if (fall := _fall(seen[:number])) is not None][:2]
    if not falls or "held_out_score" not in seen[-1] or _few(seen):
        return
    now, best, error = falls[0]
    unit = _held_out_unit(seen)
    stop = None if levels.stop is None else levels.stop.held_out_drop
    at_once = now > max(3 * error, 2 * (stop if stop is not None else levels.warn.held_out_drop or math.inf))
    lasting = [fall for fall, _, its_error in falls if fall > 2 * its_error]
    if not at_once and len(lasting) < 2:
        return
    fell = now if at_once else min(lasting)
    judge = _change(seen[-1], seen[best], "rubric_score")
    damaged = judge is not None and judge < 0
    cause = (
        "the judge's own score fell too: the update damages the student; a lower `train.learning_rate`, fewer "
        "`train.epochs`, or `train.reference: base`"
        if damaged
        else "the judge's own score did not fall: the student pleases the judge and nobody else; repair the rubric, or "
        "judge with a second judge too (`judge.panel`)"
    )
    found = levels.finding(
        "held_out_drop",
        fell,
        f"the held-out score is {seen[-1]['held_out_score']:.3f}, {now * unit:.3f} below round {best} (standard error "
        f"{error * unit:.3f}): {cause}",
        remedy="halve_learning_rate" if damaged else None,
    )
    yield from _stop_needs_more(found, seen)


def _fall(seen: Sequence[Values]) -> tuple[float, int, float] | None:
    """Return how far the last held-out score is below the best one, whose round that is, and the standard error.

    Both are in units of the held-out judge's scale.
    """
    scored = [(each["held_out_score"], -number) for number, each in enumerate(seen) if "held_out_score" in each]
    if "held_out_score" not in seen[-1] or len(scored) < 2:
        return None
    top, number = max(scored)
    error = _error(seen[-1], seen[-number], "held_out_gain_se")
    unit = _held_out_unit(seen)
    return None if error is None else ((top - seen[-1]["held_out_score"]) / unit, -number, error / unit)


def label_signal(seen: Sequence[Values], levels: Levels) -> Iterator[Finding]:
    """Find labels that carry no signal, or the opposite one: the judge's own score never followed them.

    A slow start looks like no signal at first, and an update that damages the student later on looks like the opposite
    one; so the score must not have risen in any round before. Then one of three things is asked for. Fresh pairs (30 at
    least, all rounds together) are predicted by the start policy no better than by a coin: what a healthy run has
    learned shows on new prompts long before its score does. Or the score fell beyond two standard errors, at a KL to the
    base of 0.3 nats an answer. Or, where nothing is known of fresh pairs, it did not rise at a KL of 2, with standard
    errors too small for half a spread of the base drafts' scores to be possible.
    """
    now, limit = seen[-1], levels.warn.label_signal
    gain, error, update = _change(now, seen[0], "rubric_score"), now.get("score_gain_se"), _update(now)
    if len(seen) < 2 or gain is None or error is None or limit is None or _rose(seen, limit):
        return
    if "answers" in now:  # the teacher's answers are learned from: there are no labels
        return
    fresh, spread = _fresh(seen), now.get("base_score_sd", TYPICAL_SPREAD)
    if gain - limit < -2 * error and update >= UPDATE_LARGE:
        cause = (
            "the labels are turned round (chosen and rejected have changed places), or the update damages the student"
        )
    elif fresh is not None:
        if fresh.share > fresh.chance or max(update, now.get("kl", 0.0)) < UPDATE_SEEN:
            return
        cause = (
            f"the policies so far predict the judge's new labels in {fresh.share:.0%} of {fresh.pairs:.0f} pairs only, "
            "as a coin does: the labels are chance, or the judge does not answer the same way twice"
        )
    elif update >= UPDATE_VERY_LARGE and gain - limit + 2 * error < HEALTHY_RISE * spread:
        cause = "the labels are chance, or about something that the student cannot change"
    else:
        return
    yield Finding(
        check="label_signal",
        level="warn",
        value=gain,
        limit=limit,
        message=(
            f"after an update of {update:.2f} nats an answer the training judge's own score on validation went "
            f"{gain:+.3f} (standard error {error:.3f}) against the base: {cause}; read 4-pairs.jsonl, judge the same "
            "drafts twice (`judge.temperature: 0`), and run the rubric's own tests (`prefdistill rubric check`)"
        ),
    )


def _update(now: Values) -> float:
    """Return how far the policy is from the base at least, nats an answer: an estimate less its standard error.

    The estimator has a long tail: one answer can make it hundreds of nats.
    """
    for name in ("kl_base", "kl"):
        if name in now:
            return now[name] - now.get(f"{name}_standard_error", 0.0)
    return 0.0


def _rose(seen: Sequence[Values], limit: float) -> bool:
    """Whether the judge's own score was significantly above the base's in any round so far."""
    gains = [(_change(each, seen[0], "rubric_score"), each.get("score_gain_se")) for each in seen[1:]]
    return any(gain is not None and error is not None and gain - limit > 2 * error for gain, error in gains)


class Fresh(NamedTuple):
    """How often the start policies of several rounds predicted the labels of new pairs."""

    share: float
    pairs: float

    @property
    def chance(self) -> float:
        """The largest share that a healthy run does not reach by bad luck: 0.7 less two standard errors, at most 0.58."""
        return min(0.58, 0.7 - 2 * math.sqrt(0.21 / self.pairs))


def _fresh(seen: Sequence[Values]) -> Fresh | None:
    """Return what fresh pairs say, all rounds together; None with too few of them."""
    counted = [
        (each["fresh_accuracy"], each.get("sampled_pairs", each.get("pairs", 0.0)))
        for each in seen
        if "fresh_accuracy" in each
    ]
    total = sum(count for _, count in counted)
    if total < FEWEST_FRESH:
        return None
    return Fresh(sum(share * count for share, count in counted) / total, total)


def self_judged(seen: Sequence[Values], levels: Levels) -> Iterator[Finding]:
    """Say once, on the base, what nobody can see where the judge that trains also chooses the best round."""
    if len(seen) > 1 or "self_judged" not in seen[-1]:
        return
    yield from levels.finding(
        "self_judged",
        seen[-1]["self_judged"],
        "self-judged: the judge that labels the pairs also scores the rounds and chooses the best one, so a student that "
        "learns to please a flaw of it looks like one that gets better; nothing here can tell the two apart. Name a "
        "second judge in `evaluate.judge` (another model, or other criteria), and compare drafts by eye",
    )


def other_tasks(seen: Sequence[Values], levels: Levels) -> Iterator[Finding]:
    """Find tasks of `evaluate.also` whose score fell below the base's, beyond two standard errors."""
    now = seen[-1]
    for name in sorted(now):
        if not (name.startswith("also/") and name.endswith("/gain")):
            continue
        task, fell = name.removeprefix("also/").removesuffix("/gain"), -now[name]
        error = now.get(f"also/{task}/gain_se")
        if error is None or fell <= 2 * error:
            continue
        beta = "" if "answers" in now else " a larger `train.beta`,"
        yield from levels.finding(
            "other_tasks",
            fell,
            f"the score on the untouched task {task} fell by {fell:.3f} below the base's (standard error {error:.3f}), "
            f"to {now.get(f'also/{task}', math.nan):.3f}: the student forgets what it is not trained on; a lower "
            f"`train.learning_rate`,{beta} fewer rounds, or some of that task's prompts in `prompts`",
            remedy="halve_learning_rate",
        )


RULES: tuple[Rule, ...] = (
    length_growth,
    judge_hacking,
    held_out_drop,
    label_signal,
    self_judged,
    other_tasks,
)
