"""What a training did, in numbers; `diagnostics.training` says which silent failures they show."""

from __future__ import annotations

import math
import operator
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from prefdistill.protocols import TrainingData
from prefdistill.records import Answer, Policy, PreferencePair, TrainResult
from prefdistill.scoring import kl_estimate, mean_gap
from prefdistill.student import adapter_moved, end_token_ids
from prefdistill.trainers.independent import Before, Item, Scores
from prefdistill.trainers.pairs import Tokenized

if TYPE_CHECKING:
    import torch

REPORTED = (
    *("rewards/chosen", "rewards/rejected", "logps/chosen", "logps/rejected", "entropy", "grad_norm"),
    *("mean_token_accuracy", "hard_loss", "soft_loss", "completions/mean_length", "completions/clipped_ratio"),
)
"""TRL's numbers that go into the diagnostics."""
FIRST_STEP = {
    "loss": "loss",
    "margin": "rewards/margins",
    "chosen": "rewards/chosen",
    "rejected": "rewards/rejected",
}
"""What of the first step is compared with the independent pass, by TRL's names."""
FEW_TOKENS = 8
"""Pairs that differ in fewer tokens hardly teach a difference."""


@dataclass(frozen=True)
class Job:
    """One training, as asked for."""

    data: TrainingData
    rows: Tokenized[Any]
    steps: list[list[Any]]
    """Every step's rows."""
    start: Policy
    reference: Policy
    directory: Path
    seed: int
    tokenizer: Any
    began: float
    """Clock at its beginning, seconds."""

    @property
    def trained(self) -> dict[str, Any]:
        """The rows that are trained on, by id."""
        return {row.id: row for step in self.steps for row in step}

    @property
    def records(self) -> tuple[PreferencePair | Answer, ...]:
        """The pairs, or the answers, that were given."""
        return (*self.data.pairs, *self.data.answers)


@dataclass(frozen=True)
class Measured:
    """What was seen before and after."""

    history: list[dict[str, Any]]
    """TRL's log, one entry a step."""
    before: Mapping[str, torch.Tensor]
    after: Mapping[str, torch.Tensor]
    """The adapter's weights by name."""
    start: Before
    """What was measured before the first step."""
    new: Scores
    """The tracked texts under the policy that was made."""


def to_result(job: Job, seen: Measured, policy: Policy, loss: str, smoothing: float = 0.0) -> TrainResult:
    """Return the training's record.

    `smoothing` is the share of flipped labels that the loss assumed.

    Loss, margin and accuracy are means over the last quarter of the steps. The KL is `scoring.kl_estimate` on the
    probes: fixed drafts, so that rounds compare; exact for the first round, whose start policy wrote them.
    """
    end = seen.history[-max(1, len(seen.history) // 4) :]

    def mean(key: str) -> float:
        return fmean(float(entry.get(key, 0.0)) for entry in end)

    rewards = "rewards/margins" in end[-1]
    trained, moved = job.trained, adapter_moved(seen.before, seen.after)
    diagnostics = {
        **{key.replace("/", "_"): mean(key) for key in REPORTED if key in end[-1]},
        **_of_rows(job),
        **(_of_answers(job) if job.data.answers else _of_pairs(job)),
        **seen.start.diagnostics,
        **_of_first_step(seen),
        **_of_change(seen),
        "adapter_moved": moved,
        "steps": float(len(seen.history)),
        "loss": mean("loss"),
    }
    if rewards:
        diagnostics |= {"reward_margin": mean("rewards/margins"), "reward_accuracy": mean("rewards/accuracies")}
    norms = [float(entry["grad_norm"]) for entry in seen.history if "grad_norm" in entry]
    if norms:
        diagnostics |= {"grad_norm": fmean(norms), "grad_norm_max": max(norms)}
    if smoothing or loss == "robust":
        diagnostics["label_smoothing"] = smoothing
    if job.data.flip_rate is not None:
        diagnostics["flip_rate"] = job.data.flip_rate
    return TrainResult(
        start=job.start,
        reference=job.reference,
        policy=policy,
        pairs=len(trained),
        pairs_dropped=len(job.records) - len(trained),
        steps=len(seen.history),
        loss=mean("loss"),
        first_loss=float(seen.history[0]["loss"]),
        reward_margin=diagnostics.get("reward_margin"),
        reward_accuracy=diagnostics.get("reward_accuracy"),
        adapter_moved=moved,
        kl=diagnostics.get("kl"),
        kl_standard_error=diagnostics.get("kl_standard_error"),
        truncated=len(trained.keys() & job.rows.cut),
        diagnostics=diagnostics,
        facts=seen.start.facts,
        warnings=tuple(flip_warnings(diagnostics.get("flip_rate"), diagnostics.get("label_smoothing"), loss)),
        seconds=time.perf_counter() - job.began,
    )


def _of_rows(job: Job) -> dict[str, float]:
    """Return what the trained tokens are like: cut, dropped, without an end, with two beginnings."""
    rows, count = list(job.trained.values()), len(job.trained)
    ends = end_token_ids(job.tokenizer, None) | set(job.tokenizer.all_special_ids)
    bos = job.tokenizer.bos_token_id
    return {
        "max_length": float(job.rows.max_length),
        "truncated_share": len(job.trained.keys() & job.rows.cut) / count,
        "dropped_share": 1.0 - count / len(job.records),
        "unended_share": fmean(ids[-1:] == [] or ids[-1] not in ends for row in rows for ids in row.completions),
        "double_bos_share": fmean(bos is not None and row.prompt_ids[:2] == [bos, bos] for row in rows),
    }


def _of_answers(job: Job) -> dict[str, float]:
    """Return how long the trained answers are."""
    return {"answer_tokens": fmean(len(row.completion_ids) for row in job.trained.values())}


def _of_pairs(job: Job) -> dict[str, float]:
    """Return how chosen and rejected tokens differ."""
    from rapidfuzz.distance import Levenshtein

    rows, count = list(job.trained.values()), len(job.trained)
    chosen, rejected = [len(row.chosen_ids) for row in rows], [len(row.rejected_ids) for row in rows]
    near = [
        Levenshtein.distance(row.chosen_ids, row.rejected_ids, score_cutoff=FEW_TOKENS - 1) < FEW_TOKENS for row in rows
    ]
    return {
        "chosen_tokens": fmean(chosen),
        "rejected_tokens": fmean(rejected),
        "chosen_longer": sum(map(operator.gt, chosen, rejected)) / count,
        "small_difference_share": fmean(near),
    }


def _of_first_step(seen: Measured) -> dict[str, float]:
    """Return the trainer's own first step beside the independent pass over the same batch."""
    expected, logged = seen.start.diagnostics, seen.history[0]
    found = {"first_loss": float(logged["loss"])}
    for name, key in FIRST_STEP.items():
        if f"independent_{name}" in expected and key in logged:
            found[f"first_{name}"] = float(logged[key])
            found[f"first_{name}_gap"] = abs(float(logged[key]) - expected[f"independent_{name}"])
    return found


def _of_change(seen: Measured) -> dict[str, float]:
    """Return how far the policy moved: its weights, the probes, and the round's own pairs."""
    texts, old, new = seen.start.texts, seen.start.start, seen.new
    norm = math.sqrt(sum(float((value.double() ** 2).sum()) for value in seen.before.values()))
    change = math.sqrt(
        sum(float(((seen.after[name].double() - value.double()) ** 2).sum()) for name, value in seen.before.items())
    )
    found = {"change_norm": change / norm if norm else 0.0}
    if texts.faithful:
        scores = [new[item] for item in texts.faithful], [old[item] for item in texts.faithful]
        found["kl"], found["kl_standard_error"] = kl_estimate(*scores)
        found["update_per_token"] = mean_gap(*scores)
    if not texts.own:
        return found
    if len(texts.own[0]) == 1:
        return {**found, **_of_own_answers([item for (item,) in texts.own], old, new)}
    chosen, rejected = ([new[pair[at]][0] - old[pair[at]][0] for pair in texts.own] for at in (0, 1))
    margins = [a - b for a, b in zip(chosen, rejected, strict=True)]
    return {
        **found,
        "sampled_pairs": float(len(texts.own)),
        "chosen_log_ratio": fmean(each / max(1, old[pair[0]][1]) for each, pair in zip(chosen, texts.own, strict=True)),
        "rejected_log_ratio": fmean(
            each / max(1, old[pair[1]][1]) for each, pair in zip(rejected, texts.own, strict=True)
        ),
        "chosen_below_start": fmean(each < 0 for each in chosen),
        "pair_margin_up_share": fmean(each > 0 for each in margins),
        "pair_margin_change": fmean(margins),
    }


def _of_own_answers(items: Sequence[Item], old: Scores, new: Scores) -> dict[str, float]:
    """Return how much likelier the round's own answers became, nats a token, and the share that did."""
    changes = [new[item][0] - old[item][0] for item in items]
    tokens = [max(1, old[item][1]) for item in items]
    return {
        "sampled_answers": float(len(items)),
        "answer_log_ratio": fmean(change / count for change, count in zip(changes, tokens, strict=True)),
        "answer_up_share": fmean(change > 0 for change in changes),
    }


def flip_warnings(rate: float | None, smoothing: float | None, loss: str) -> Iterator[str]:
    """Yield what the round's flip rate means for a loss that models it."""
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
