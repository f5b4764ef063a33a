"""What a training did, in numbers, and the silent failures that the numbers show."""

from __future__ import annotations

import math
import operator
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefdistill.protocols import TrainingData
from prefdistill.records import Policy, TrainResult
from prefdistill.scoring import kl_estimate, mean_gap
from prefdistill.student import adapter_moved
from prefdistill.trainers.pairs import TokenPair, TokenPairs

if TYPE_CHECKING:
    import torch

FEWEST_MOVED, SMALLEST_KL, FULL_ROUND, LN2_TOLERANCE, MOST_TRUNCATED, MOST_FLIPPED = 0.5, 0.01, 8, 0.02, 0.01, 0.15
"""Thresholds of warnings: share of entries moved, nats an answer, steps, nats, share of pairs, of comparisons."""
REPORTED = ("rewards/chosen", "rewards/rejected", "logps/chosen", "logps/rejected", "entropy", "grad_norm")
"""TRL's numbers that go into the diagnostics."""


@dataclass(frozen=True)
class Job:
    """One training, as asked for."""

    data: TrainingData
    rows: TokenPairs
    steps: list[list[TokenPair]]
    """Every step's pairs."""
    start: Policy
    reference: Policy
    directory: Path
    seed: int
    tokenizer: Any
    began: float
    """Clock at its beginning, seconds."""

    @property
    def trained(self) -> dict[str, TokenPair]:
        """The pairs that are trained on, by id."""
        return {row.pair.id: row for step in self.steps for row in step}


@dataclass(frozen=True)
class Measured:
    """What was seen before and after."""

    history: list[dict[str, Any]]
    """TRL's log, one entry a step."""
    before: Mapping[str, torch.Tensor]
    after: Mapping[str, torch.Tensor]
    """The adapter's weights by name."""
    old: Sequence[tuple[float, int]]
    new: Sequence[tuple[float, int]]
    """The probes' scores (nats, tokens) under the start policy and the one made; empty where there are no probes."""


def to_result(job: Job, seen: Measured, policy: Policy, loss: str, smoothing: float = 0.0) -> TrainResult:
    """Return the training's record, with a warning for each silent failure that its numbers show.

    `smoothing` is the share of flipped labels that the loss assumed.

    Loss, margin and accuracy are means over the last quarter of the steps. The KL is `scoring.kl_estimate` on the
    probes: fixed drafts, so that rounds compare; exact for the first round, whose start policy wrote them.
    """
    end = seen.history[-max(1, len(seen.history) // 4) :]

    def mean(key: str) -> float:
        return sum(float(entry.get(key, 0.0)) for entry in end) / len(end)

    kl, kl_error = kl_estimate(seen.new, seen.old) if seen.old else (None, None)
    trained = job.trained
    chosen = [len(row.chosen_ids) for row in trained.values()]
    rejected = [len(row.rejected_ids) for row in trained.values()]
    diagnostics = {
        **{key.replace("/", "_"): mean(key) for key in REPORTED if key in end[-1]},
        "chosen_tokens": sum(chosen) / len(chosen),
        "rejected_tokens": sum(rejected) / len(rejected),
        "chosen_longer": sum(map(operator.gt, chosen, rejected)) / len(chosen),
        "max_length": float(job.rows.max_length),
    }
    if smoothing or loss == "robust":
        diagnostics["label_smoothing"] = smoothing
    if job.data.flip_rate is not None:
        diagnostics["flip_rate"] = job.data.flip_rate
    if seen.old:
        diagnostics["update_per_token"] = mean_gap(seen.new, seen.old)
    result = TrainResult(
        start=job.start,
        reference=job.reference,
        policy=policy,
        pairs=len(trained),
        pairs_dropped=len(job.data.pairs) - len(trained),
        steps=len(seen.history),
        loss=mean("loss"),
        first_loss=float(seen.history[0]["loss"]),
        reward_margin=mean("rewards/margins"),
        reward_accuracy=mean("rewards/accuracies"),
        adapter_moved=adapter_moved(seen.before, seen.after),
        kl=kl,
        kl_standard_error=kl_error,
        truncated=len(trained.keys() & job.rows.cut),
        diagnostics=diagnostics,
        seconds=time.perf_counter() - job.began,
    )
    return result.model_copy(update={"warnings": tuple(warnings_of(result, loss))})


def warnings_of(result: TrainResult, loss: str) -> Iterator[str]:
    """Yield what a user should know about a training, each with what to do."""
    if result.adapter_moved < FEWEST_MOVED:
        yield (
            f"only {result.adapter_moved:.0%} of the adapter's entries moved: the update hardly landed; raise "
            "train.learning_rate, and check that the adapter is float32"
        )
    kl, error = result.kl, result.kl_standard_error
    if kl is not None and error is not None and result.steps >= FULL_ROUND and kl + 2 * error < SMALLEST_KL:
        yield (
            f"after {result.steps} steps the policy differs from the one before by a KL of {kl:.4f} ± {error:.4f} "
            "nats an answer: hardly anything was learned; raise train.learning_rate or train.epochs"
        )
    same = result.start == result.reference
    if same and loss == "sigmoid" and abs(result.first_loss - math.log(2)) > LN2_TOLERANCE:
        yield (
            f"the first loss is {result.first_loss:.4f}, not ln 2 = 0.6931, although the start policy is the "
            "reference: one of them is not the policy it should be; please report this"
        )
    if result.truncated > MOST_TRUNCATED * result.pairs:
        yield (
            f"{result.truncated} of {result.pairs} pairs have a completion cut at "
            f"{result.diagnostics['max_length']:.0f} tokens, which teaches the student not to stop; raise "
            "train.max_length"
        )
    yield from _flip_warnings(result.diagnostics.get("flip_rate"), result.diagnostics.get("label_smoothing"), loss)


def _flip_warnings(rate: float | None, smoothing: float | None, loss: str) -> Iterator[str]:
    """Yield what the round's flip rate means for its labels."""
    if rate is not None and rate > MOST_FLIPPED and loss == "sigmoid":
        yield (
            f"the judge's winner changed with the order shown in {rate:.0%} of the comparisons: pairs whose orders "
            "disagreed are dropped, but the labels that are left are noisier than the loss assumes; mend the rubric, ask "
            "a panel, or train with `loss: robust, label_smoothing: flip_rate`"
        )
    if loss != "robust" or smoothing is None:
        return
    if rate is None and not smoothing:
        yield (
            "no comparison was asked in both orders, so no flip rate was measured and `robust` trained as sigmoid; set "
            "judge.confirm, or give train.label_smoothing a number"
        )
    if rate is not None and rate > smoothing:
        yield (
            f"the judge's winner changed with the order shown in {rate:.0%} of the comparisons, more than the "
            f"{smoothing:.0%} of flipped labels that the loss assumed; mend the judge, or raise train.label_smoothing"
        )
