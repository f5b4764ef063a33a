"""When a diagnostic warns and when it stops a run: `loop.warn` and `loop.stop` of a recipe, one field a check.

The levels are this toolkit's own choice, no law: every one can be changed, and `null` switches a check off.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class Thresholds(BaseModel):
    """Levels by check; None switches a check off."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)


class WarnLevels(Thresholds):
    """Beyond which value each check warns."""

    adapter_moved: float | None = 0.5
    """Share of adapter entries that moved in a round, at least."""
    update_too_small: float | None = 0.01
    """KL of new to old policy after a full round, nats an answer, at least (two standard errors are added first)."""
    update_too_large: float | None = 20.0
    """KL of new to old policy, nats an answer, at most (two standard errors are taken off first)."""
    first_step: float | None = 0.001
    """Difference of the first step's loss, rewards and margin to an independent pass, at most (20 times that in 16 bit)."""
    sampler_gap: float | None = 0.01
    """Difference of sampler's and trainer's log-probabilities of the drafts, nats a token, at most."""
    sampler_staleness: float | None = 0.5
    """That difference as a share of the previous policy's, at most."""
    truncated: float | None = 0.01
    """Share of what is trained on with a completion cut at `train.max_length`, at most."""
    no_end_token: float | None = 0.05
    """Share of drafts, and of trained completions, without an end token, at most."""
    double_bos: float | None = 0.0
    """Share of prompts that begin with two begin-of-text tokens, at most."""
    small_difference: float | None = 0.1
    """Share of pairs that differ in fewer than eight tokens, at most."""
    displacement: float | None = 0.1
    """Fall of the chosen texts' log-probability, nats a token against the start, while the margin rises, at most."""
    margin_direction: float | None = 0.5
    """Share of the trained pairs whose own margin rose, at least."""
    label_signal: float | None = 0.0
    """Rise of the judge's own score on validation since the base, at least, once the update is large enough to show."""
    chosen_longer: float | None = 0.6
    """Share of pairs whose chosen text is the longer one, at most."""
    phrase: float | None = 0.25
    """Rise in the share of drafts with one phrase that the judge favours and the teacher does not use, at most."""
    length_growth: float | None = 1.2
    """Mean tokens of the student's drafts against the round before, at most."""
    judge_hacking: int | None = 1
    """Rounds in which the judge's score rose by `judge_gain` while the held-out score stayed flat."""
    held_out_drop: float | None = 0.02
    """Fall of the held-out score below its best round, significant at two standard errors, at most."""
    flip_rate: float | None = 0.15
    """Share of comparisons whose winner changed with the order shown, at most."""
    repeat_agreement: float | None = 0.85
    """Share of repeated judgements that agree with the first, at least."""
    ties: float | None = 0.5
    """Share of comparisons, or of prompts, that ended in a tie, at most."""
    parse_failures: float | None = 0.01
    """Share of verdicts that could not be read, at most."""
    position_bias: float | None = 0.15
    """How far the share of pairs won by the draft shown first may be from a half, beyond three standard errors."""
    diversity: float | None = 0.2
    """Relative fall of distinct-2, of prompts with all drafts distinct, or of token entropy against the base, at most."""
    repetition: float | None = 1.5
    """Repeated 4-grams against the base's, at most."""
    pair_yield: float | None = 0.5
    """Usable pairs (or answers, where those are trained on) a prompt, at least."""
    identical: float | None = 0.1
    """Share of drafts identical to another of their prompt, at most."""
    leakage: float | None = 0.0
    """Share of validation and test prompts that share a telling 13-gram with a train prompt, at most."""
    other_tasks: float | None = 0.02
    """Fall of an `evaluate.also` score below the base's, significant at two standard errors, at most."""
    self_judged: float | None = 0.0
    """1 where the judge that trains also chooses the best round, at most."""
    judge_gain: float = Field(default=0.05, gt=0.0)
    """Rise of the judge's score in a round that counts for `judge_hacking`."""


class StopLevels(Thresholds):
    """Beyond which value each check stops the run; checks that are not here only warn."""

    update_too_large: float | None = 200.0
    """KL of new to old policy, nats an answer, at most (two standard errors are taken off first)."""
    sampler_staleness: float | None = None
    """Difference of sampler's and trainer's log-probabilities as a share of the previous policy's, at most."""
    displacement: float | None = 0.5
    """Fall of the chosen texts' log-probability, nats a token against the start, while the margin rises, at most."""
    chosen_longer: float | None = 0.7
    """Share of pairs whose chosen text is the longer one, at most."""
    length_growth: float | None = None
    """Mean tokens of the student's drafts against the round before, at most."""
    other_tasks: float | None = None
    """Fall of an `evaluate.also` score below the base's, significant at two standard errors, at most."""
    judge_hacking: int | None = 2
    """Rounds in a row in which the judge's score rose by `judge_gain` while the held-out score stayed flat."""
    held_out_drop: float | None = 0.05
    """Fall of the held-out score below its best round, significant at two standard errors, at most."""
    flip_rate: float | None = 0.25
    """Share of comparisons whose winner changed with the order shown, at most."""
    diversity: float | None = 0.4
    """Relative fall of distinct-2, of prompts with all drafts distinct, or of token entropy against the base, at most."""
    repetition: float | None = 2.0
    """Repeated 4-grams against the base's, at most."""
    pair_yield: float | None = 0.25
    """Usable pairs (or answers, where those are trained on) a prompt, at least."""
